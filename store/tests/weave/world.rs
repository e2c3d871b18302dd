//! Where a story happens, and how its schedules are tried.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headwater_core::{
    Append, AppendError, CodecId, EventType, NewEvent, Position, Query, Read, RecordedEvent,
    StreamId,
};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

use crate::fs::Fs;
use crate::fs::sim::{SimFs, Survival};
use crate::handle::Store;
use crate::options::{Options, Preallocation};

/// How deep the bugs are that the second half of the schedules looks for: how many choices of the
/// scheduler it takes to meet one.
const DEPTH: usize = 3;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not {text:?}")))
}

/// Tells a story in many schedules: half of them drawn evenly, half by priorities with few changes
/// (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees", 2010).
pub(crate) fn explore(name: &str, schedules: usize, story: fn()) {
    let seed = number("HEADWATER_WEAVE_SEED").unwrap_or(1);
    let limit = number("HEADWATER_WEAVE_SECONDS").map(|seconds| Duration::from_secs(seconds) / 2);
    let half = if limit.is_some() { usize::MAX } else { schedules / 2 };
    let begun = Instant::now();
    let told = Arc::new(AtomicUsize::new(0));
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        config.stack_size = 512 * 1024;
        config.max_steps = MaxSteps::FailAfter(100_000);
        config.max_time = limit;
        config.silence_warnings = true;
        let told = Arc::clone(&told);
        Runner::new(scheduler, config).run(move || {
            told.fetch_add(1, Ordering::Relaxed);
            story();
        });
    };
    run(Box::new(RandomScheduler::new_from_seed(seed, half)));
    run(Box::new(PctScheduler::new_from_seed(seed, DEPTH, half)));
    let (told, took) = (told.load(Ordering::Relaxed), begun.elapsed());
    println!("{name}: {told} schedules from seed {seed} in {took:.1?}");
}

/// A store on a disk of its own.
#[derive(Clone)]
pub(crate) struct World {
    disk: SimFs,
}

impl World {
    pub(crate) fn new() -> Self {
        let disk = SimFs::new(Path::new("/"));
        disk.let_threads_overlap();
        Self { disk }
    }

    /// Nothing of what was not synced stays.
    pub(crate) fn lose_power(&self) {
        self.disk.lose_power(Survival::Nothing);
    }

    pub(crate) fn open(&self, options: Options) -> Store {
        let fs: Arc<dyn Fs> = Arc::new(self.disk.clone());
        Store::open_on(&fs, Path::new("/store"), options).unwrap()
    }
}

/// The smallest store.
pub(crate) fn small() -> Options {
    Options { segment_bytes: 64 * 1024, preallocation: Preallocation::Sparse, ..Options::default() }
}

pub(crate) fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

/// An append of one event.
pub(crate) fn one(name: &str, payload: &str) -> Append {
    let event_type = EventType::new("t").unwrap();
    Append::new([NewEvent::new(stream(name), event_type, CodecId::RAW, payload.to_owned())])
}

/// An append of which four fill the smallest segment.
pub(crate) fn large(name: &str, tag: &str) -> Append {
    one(name, &format!("{tag}{}", ".".repeat(14 * 1024)))
}

/// Reads everything after a position.
pub(crate) fn all_after(store: &Store, after: Position) -> Vec<RecordedEvent> {
    let read = Read::forward(Query::all(), after).limit(1000);
    let page = store.read_blocking(&read).unwrap();
    assert!(page.done);
    // What was passed over would be gone for whoever goes on from there.
    assert_eq!(page.scanned, after.advanced_by(page.events.len() as u64));
    page.events
}

/// Checks that events are dense from the position after `after`, and dense in each stream.
pub(crate) fn assert_dense(after: Position, events: &[RecordedEvent]) {
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event.position, after.advanced_by(at as u64 + 1));
    }
}
