use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use headwater_core::{Category, RecordedEvent};
use proptest::prelude::*;

use super::*;
use crate::checkpoint::{Checkpoint, CheckpointMismatch};
use crate::group::testing::{WatchedLog, append, io_error};
use crate::projection::ApplyError;
use crate::runner::{ProjectionRunner, RunnerOptions};
use crate::sink::{MemorySink, MemoryTx, Sink};

const SECOND: Duration = Duration::from_secs(1);

/// Notes the positions of what it selects; refuses one of them so often, or panics there.
#[derive(Clone)]
struct Seen {
    name: &'static str,
    version: u32,
    selection: Query,
    fails_at: u64,
    failures: Arc<AtomicU32>,
    panics_at: u64,
}

fn seen(name: &'static str) -> Seen {
    let failures = Arc::default();
    Seen { name, version: 1, selection: Query::all(), fails_at: 0, failures, panics_at: 0 }
}

fn of_category(name: &'static str) -> Seen {
    let category = Category::new(name).unwrap();
    Seen { selection: Query::category(category), ..seen(name) }
}

impl Projection for Seen {
    type Sink = MemorySink<Vec<u64>>;

    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn selection(&self) -> Query {
        self.selection.clone()
    }

    fn reset(&mut self, tx: &mut MemoryTx<'_, Vec<u64>>) -> Result<(), ApplyError> {
        tx.clear();
        Ok(())
    }

    fn apply(
        &mut self,
        tx: &mut MemoryTx<'_, Vec<u64>>,
        event: &RecordedEvent,
    ) -> Result<(), ApplyError> {
        let position = event.position.get();
        tx.push(position);
        if position == self.fails_at && self.failures.load(Ordering::SeqCst) > 0 {
            self.failures.fetch_sub(1, Ordering::SeqCst);
            return Err(ApplyError::message("made up"));
        }
        assert_ne!(position, self.panics_at, "made up");
        Ok(())
    }
}

fn options(batch_events: usize) -> ReplayOptions {
    ReplayOptions { batch_events, ..ReplayOptions::default() }
}

fn over(log: &Arc<WatchedLog>, options: ReplayOptions) -> Replay {
    Replay::over(log.clone(), options)
}

/// Returns what a projection has, and its checkpoint.
fn model(part: Replayed<Seen>) -> (Vec<u64>, u64) {
    let (_, sink) = part.into_inner().expect("the replay is over");
    let (model, checkpoint) = sink.view().get_with_checkpoint();
    (model.to_vec(), checkpoint.map_or(0, |checkpoint| checkpoint.position.get()))
}

fn all(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[tokio::test(start_paused = true)]
async fn each_projection_gets_what_it_selects_and_the_log_is_read_once() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "b-1", "a-2", "c-1", "b-2", "a-1"]).await;
    let mut replay = over(&log, options(2));
    let parts = [of_category("a"), of_category("b"), of_category("none"), seen("all")]
        .map(|projection| replay.add(projection, MemorySink::new()));
    let mut told = Vec::new();
    replay.run(|progress| told.push((progress.position.get(), progress.applied))).await.unwrap();
    let [a, b, none, all_of_it] = parts.map(model);
    assert_eq!(a, (vec![1, 3, 6], 6));
    assert_eq!(b, (vec![2, 5], 6));
    assert_eq!(none, (vec![], 6));
    assert_eq!(all_of_it, (all(6), 6));
    assert_eq!(told, [(2, 4), (4, 7), (6, 11)]);
    // Three pages, and the event at the checkpoint of those that had nothing at the end.
    let reads = log.reads.load(Ordering::Relaxed);
    assert!(reads <= 3 + 2, "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn a_projection_that_fails_holds_up_no_other_and_goes_on_where_it_was() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"; 10]).await;
    let broken = Seen { fails_at: 6, failures: Arc::new(AtomicU32::new(100)), ..seen("broken") };
    let panics = Seen { panics_at: 4, ..seen("panics") };
    let mut replay = over(&log, options(2));
    let healthy = replay.add(seen("healthy"), MemorySink::new());
    let broken = replay.add(broken, MemorySink::new());
    let panics = replay.add(panics, MemorySink::new());
    let error = replay.run(|_| {}).await.unwrap_err().to_string();
    assert!(error.contains("2 of the projections failed"), "{error}");
    assert!(error.contains("broken failed 6 times") && error.contains("at position 6"), "{error}");
    assert!(error.contains("panics panicked at position 4"), "{error}");
    assert_eq!(model(healthy), (all(10), 10));
    assert_eq!(model(panics), (all(2), 2));

    let (mended, sink) = broken.into_inner().unwrap();
    assert_eq!(*sink.view().get(), all(4));
    mended.failures.store(0, Ordering::SeqCst);
    let mut replay = over(&log, options(3));
    let mended = replay.add(mended, sink);
    let fresh = replay.add(seen("fresh"), MemorySink::new());
    replay.run(|_| {}).await.unwrap();
    assert_eq!((model(mended), model(fresh)), ((all(10), 10), (all(10), 10)));
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_a_while_is_tried_again() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"; 10]).await;
    let flaky = Seen { fails_at: 6, failures: Arc::new(AtomicU32::new(5)), ..seen("flaky") };
    log.read_errors.lock().unwrap().extend((0..5).map(|_| ReadError::Io(io_error())));
    let mut replay = over(&log, options(2));
    let flaky = replay.add(flaky, MemorySink::new());
    replay.run(|_| {}).await.unwrap();
    assert_eq!(model(flaky), (all(10), 10));

    log.read_errors.lock().unwrap().extend((0..6).map(|_| ReadError::Io(io_error())));
    let mut replay = over(&log, options(2));
    let never = replay.add(seen("never"), MemorySink::new());
    let error = replay.run(|_| {}).await.unwrap_err();
    assert!(matches!(error, ReplayError::Log { after: Position::START, .. }), "{error}");
    assert_eq!(model(never), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_is_cut_off_goes_on_and_one_with_an_end_stops_there() {
    let dir = tempfile::tempdir().unwrap();
    let sink = || MemorySink::with_snapshot(dir.path().join("seen"));
    let log = WatchedLog::new();
    append(&*log, &["a-1"; 100]).await;
    let limit = NonZeroU64::new(10);
    let mut replay = over(&log, ReplayOptions { events_per_second_max: limit, ..options(20) });
    let cut = replay.add(seen("seen"), sink());
    tokio::time::timeout(SECOND * 405 / 100, replay.run(|_| {})).await.unwrap_err();
    let (projection, sink_of_cut) = cut.into_inner().expect("it was cut off between batches");
    let before = sink_of_cut.view().get().len();
    assert!((40..=42).contains(&before), "{before}");

    let through = Some(Position::new(77));
    let mut replay = over(&log, ReplayOptions { through, ..options(20) });
    let part = replay.add(projection, sink_of_cut);
    let mut applied = 0;
    replay.run(|progress| applied = progress.applied).await.unwrap();
    assert_eq!((model(part), before + usize::try_from(applied).unwrap()), ((all(77), 77), 77));
    // The sink was not flushed by the first one, so that one goes on from nothing.
    let (projection, kept) = (seen("seen"), sink());
    let mut replay = over(&log, options(20));
    let part = replay.add(projection, kept);
    replay.run(|_| {}).await.unwrap();
    assert_eq!(model(part), (all(100), 100));
    let mut again = sink();
    let id = crate::checkpoint::ProjectionId::of(&seen("seen"), &*log);
    let stored: Option<Checkpoint> = again.load(&id, Position::MAX).unwrap();
    assert_eq!(stored.unwrap().position, Position::new(100));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused_before_anything_is_applied() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"; 4]).await;
    let mut replay = over(&log, options(2));
    let old = replay.add(seen("old"), MemorySink::new());
    replay.run(|_| {}).await.unwrap();
    let (_, sink) = old.into_inner().unwrap();
    let newer = Seen { version: 2, ..seen("old") };

    let mut replay = over(&log, options(2));
    let other = replay.add(seen("other"), MemorySink::new());
    let old = replay.add(newer, sink);
    let error = replay.run(|_| panic!("nothing is applied")).await.unwrap_err();
    let ReplayError::Start { projection, source: StartError::Mismatch(mismatch) } = error else {
        panic!("{error}");
    };
    assert_eq!(&*projection, "old");
    assert!(matches!(mismatch, CheckpointMismatch::Version { .. }), "{mismatch}");
    assert_eq!(model(other), (vec![], 0));

    // Asked for, it begins anew.
    let (newer, sink) = old.into_inner().unwrap();
    let mut replay = over(&log, ReplayOptions { begin: Begin::Rebuild, ..options(3) });
    let newer = replay.add(newer, sink);
    replay.run(|_| {}).await.unwrap();
    assert_eq!(model(newer), (all(4), 4));

    let error = over(&log, options(0)).run(|_| {}).await.unwrap_err();
    assert!(matches!(error, ReplayError::EmptyBatches), "{error}");
    over(&log, options(1)).run(|_| panic!("there are none")).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_pass_gives_what_each_projection_gives_alone(
        streams in prop::collection::vec(prop::sample::select(vec!["a-1", "b-1", "c-1"]), 0..60),
        batch in 1..20_usize,
        // How far each of them was before.
        before in prop::collection::vec(0..60_u64, 4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let log = WatchedLog::new();
            let last = append_all(&log, &streams).await;
            let projections = || [of_category("a"), of_category("b"), of_category("c"), seen("all")];
            let mut replay = over(&log, options(batch));
            let mut parts = Vec::new();
            for (projection, &through) in projections().into_iter().zip(&before) {
                let through = Some(Position::new(through));
                let mut first = over(&log, ReplayOptions { through, ..options(7) });
                let part = first.add(projection, MemorySink::new());
                first.run(|_| {}).await.unwrap();
                let (projection, sink) = part.into_inner().unwrap();
                parts.push(replay.add(projection, sink));
            }
            replay.run(|_| {}).await.unwrap();
            for (projection, part) in projections().into_iter().zip(parts) {
                let sink = MemorySink::new();
                let view = sink.view();
                let (log, options) = (log.clone(), RunnerOptions::default());
                let alone = ProjectionRunner::start(log, projection, sink, options).await.unwrap();
                alone.wait_for(last, SECOND).await.unwrap();
                assert_eq!(model(part), (view.get().to_vec(), last.get()));
            }
        });
    }
}

async fn append_all(log: &Arc<WatchedLog>, streams: &[&str]) -> Position {
    if streams.is_empty() {
        return Position::START;
    }
    append(&**log, streams).await
}
