//! Load, decide, append: with and without snapshots, on streams of 10, 100 and 10,000 events.
//!
//! A command is refused or adds one event of about 40 bytes of JSON, not synced; the state is a balance
//! and the last ten entries, about 100 bytes. Streams grow by what is measured, so each is left for a
//! fresh one once it has grown by a tenth (by ten events at least).

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use headwater::projections::SqliteSnapshots;
use headwater::shape::{Shape, TypeShape};
use headwater::{
    Append, Bincode, Decider, Durability, Event, EventLog, ExecuteOptions, MemorySnapshots,
    SnapshotPolicy, Snapshots, Snapshotted, Store, StreamId, encode_event, execute,
};
use pollster::block_on;
use serde::{Deserialize, Serialize};

#[path = "common/mod.rs"]
mod common;

#[derive(Event, Serialize, Deserialize)]
enum Entry {
    #[event(name = "account.credited")]
    Credited { cents: u64, text: String },
}

#[derive(Default, Serialize, Deserialize, Shape)]
struct Balance {
    cents: u64,
    last: Vec<u64>,
}

struct Account;

impl Decider for Account {
    type Command = u64;
    type Event = Entry;
    type State = Balance;
    type Error = std::convert::Infallible;

    fn decide(&self, _: &Balance, cents: u64) -> Result<Vec<Entry>, Self::Error> {
        Ok(vec![Entry::Credited { cents, text: "interest".to_owned() }])
    }

    fn evolve(&self, mut balance: Balance, entry: &Entry) -> Balance {
        let Entry::Credited { cents, .. } = entry;
        balance.cents += cents;
        if balance.last.len() == 10 {
            balance.last.remove(0);
        }
        balance.last.push(*cents);
        balance
    }
}

impl Snapshotted for Account {
    type Codec = Bincode;
    const NAME: &'static str = "account";
    const VERSION: u32 = 1;
    const SHAPE: Option<TypeShape> = Some(Balance::SHAPE);
}

/// Streams of one length, one after the other.
struct Streams<'a> {
    store: &'a Store,
    kind: &'static str,
    events: u64,
    /// Which stream, and how many commands it had.
    at: (u32, u64),
}

impl Streams<'_> {
    /// Returns the stream of the next command, and whether it is new.
    fn next(&mut self) -> (StreamId, bool) {
        let (stream, commands) = &mut self.at;
        let is_new = *commands == 0 || *commands >= (self.events / 10).max(10);
        if is_new {
            (*stream, *commands) = (*stream + 1, 0);
        }
        *commands += 1;
        let name = format!("{}-{}-{}", self.kind, self.events, *stream);
        (StreamId::new(name).expect("a name"), is_new)
    }

    fn fill(&self, stream: &StreamId) {
        for from in (0..self.events).step_by(1_000) {
            let entry = |cents| Entry::Credited { cents, text: "interest".to_owned() };
            let events = (from..self.events.min(from + 1_000))
                .map(|n| encode_event(stream.clone(), &entry(n)).expect("a form"));
            block_on(self.store.append(Append::new(events))).expect("room");
        }
    }
}

/// Runs so many commands, and returns how long they took.
fn commands(streams: &mut Streams<'_>, snapshots: Option<&Snapshots>, count: u64) -> Duration {
    let options = ExecuteOptions::default();
    let mut took = Duration::ZERO;
    for n in 0..count {
        let (stream, is_new) = streams.next();
        if is_new {
            streams.fill(&stream);
            if let Some(snapshots) = snapshots {
                // It has been used before.
                block_on(snapshots.load(streams.store, &Account, &stream)).expect("a stream");
            }
        }
        let begun = std::time::Instant::now();
        match snapshots {
            None => block_on(execute(streams.store, &Account, &stream, n, &options)),
            Some(with) => block_on(with.execute(streams.store, &Account, &stream, n, &options)),
        }
        .expect("nobody else is here");
        took += begun.elapsed();
    }
    took
}

fn load_decide_append(c: &mut Criterion) {
    let (dir, store) = common::open(Durability::Os);
    let mut group = c.benchmark_group("load_decide_append");
    group.throughput(Throughput::Elements(1));
    // Also of streams that are too short for one by default.
    let policy = SnapshotPolicy { every_events: 10, ..SnapshotPolicy::default() };
    let file = SqliteSnapshots::open(dir.path().join("snapshots.sqlite"), 64 << 20);
    let file = Snapshots::with_policy(Arc::new(file.expect("a file")), policy);
    let memory = Snapshots::with_policy(Arc::new(MemorySnapshots::default()), policy);
    for events in [10, 100, 10_000] {
        for (kind, snapshots) in [("none", None), ("memory", Some(&memory)), ("file", Some(&file))]
        {
            let mut streams = Streams { store: &store, kind, events, at: (0, 0) };
            group.bench_function(BenchmarkId::new(kind, events), |b| {
                b.iter_custom(|count| commands(&mut streams, snapshots, count));
            });
        }
    }
}

criterion_group!(benches, load_decide_append);
criterion_main!(benches);
