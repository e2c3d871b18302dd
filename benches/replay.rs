//! Replay: what read models cost over reading the log. One projection in memory and in SQLite, four in
//! one pass and one after the other, and a read of the same events that applies nothing.
//!
//! All of them read owned events, as projections get them. `HEADWATER_REPLAY_EVENTS` sets how many.

mod common;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater::projections::{
    ApplyError, MemorySink, MemoryTx, Projection, Replay, ReplayOptions, SqliteSink, SqliteTx,
};
use headwater::{Durability, EventLog, Position, Query, Read, RecordedEvent, Store};
use tokio::runtime::Runtime;

use common::{batch, open};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn events() -> u64 {
    let given = std::env::var("HEADWATER_REPLAY_EVENTS").ok();
    given.map_or(200_000, |given| given.parse().expect("HEADWATER_REPLAY_EVENTS is a number"))
}

fn filled(events: u64) -> (tempfile::TempDir, Store) {
    let (dir, store) = open(Durability::Os);
    for n in 0..events / 1_000 {
        store.append_blocking(batch(n, 1_000)).expect("an append");
    }
    (dir, store)
}

/// Counts events and bytes by stream, of which there are ten thousand.
struct Totals(&'static str);

type Model = BTreeMap<String, (u64, u64)>;

impl Projection for Totals {
    type Sink = MemorySink<Model>;

    fn name(&self) -> &str {
        self.0
    }

    fn version(&self) -> u32 {
        1
    }

    fn selection(&self) -> Query {
        Query::all()
    }

    fn reset(&mut self, tx: &mut MemoryTx<'_, Model>) -> Result<(), ApplyError> {
        tx.clear();
        Ok(())
    }

    fn apply(
        &mut self,
        tx: &mut MemoryTx<'_, Model>,
        event: &RecordedEvent,
    ) -> Result<(), ApplyError> {
        match tx.get_mut(event.stream.as_str()) {
            Some((events, bytes)) => {
                *events += 1;
                *bytes += event.payload.len() as u64;
            }
            None => {
                tx.insert(event.stream.to_string(), (1, event.payload.len() as u64));
            }
        }
        Ok(())
    }
}

/// The same in a table.
struct Rows;

impl Projection for Rows {
    type Sink = SqliteSink;

    fn name(&self) -> &'static str {
        "rows"
    }

    fn version(&self) -> u32 {
        1
    }

    fn selection(&self) -> Query {
        Query::all()
    }

    fn init(&mut self, tx: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
        Ok(tx.execute_batch(
            "CREATE TABLE totals (stream TEXT PRIMARY KEY, events INTEGER, bytes INTEGER) WITHOUT ROWID",
        )?)
    }

    fn reset(&mut self, tx: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
        Ok(tx.execute_batch("DROP TABLE IF EXISTS totals")?)
    }

    fn apply(&mut self, tx: &mut SqliteTx<'_>, event: &RecordedEvent) -> Result<(), ApplyError> {
        let upsert = "INSERT INTO totals VALUES (?1, 1, ?2)
                      ON CONFLICT DO UPDATE SET events = events + 1, bytes = bytes + ?2";
        tx.prepare_cached(upsert)?.execute((event.stream.as_str(), event.payload.len() as u64))?;
        Ok(())
    }
}

fn over(store: &Store) -> Replay {
    let log: Arc<dyn EventLog> = Arc::new(store.clone());
    Replay::over(log, ReplayOptions::default())
}

async fn read_only(store: &Store) -> u64 {
    let (mut after, mut bytes) = (Position::START, 0);
    loop {
        let read = Read::forward(Query::all(), after).limit(ReplayOptions::default().batch_events);
        let page = store.read(read).await.expect("a page");
        bytes += page.events.iter().map(|event| event.payload.len() as u64).sum::<u64>();
        if page.done {
            return bytes;
        }
        after = page.scanned;
    }
}

async fn in_memory(store: &Store, names: &[&'static str]) {
    let mut replay = over(store);
    for name in names {
        replay.add(Totals(name), MemorySink::new());
    }
    replay.run(|_| {}).await.expect("a replay");
}

async fn in_sqlite(store: &Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut replay = over(store);
    replay.add(Rows, SqliteSink::open(dir.path().join("rows.sqlite")).expect("a sink"));
    replay.run(|_| {}).await.expect("a replay");
}

fn replay(c: &mut Criterion) {
    let events = events();
    let (_dir, store) = filled(events);
    let runtime = runtime();
    let mut group = c.benchmark_group("replay");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(events));
    group.bench_function("read", |b| {
        b.iter(|| runtime.block_on(async { black_box(read_only(&store).await) }));
    });
    group.bench_function("memory", |b| {
        b.iter(|| runtime.block_on(in_memory(&store, &["a"])));
    });
    group.bench_function("sqlite", |b| b.iter(|| runtime.block_on(in_sqlite(&store))));
    let names = ["a", "b", "c", "d"];
    group.bench_function("four_in_one_pass", |b| {
        b.iter(|| runtime.block_on(in_memory(&store, &names)));
    });
    group.bench_function("four_one_after_the_other", |b| {
        b.iter(|| {
            for name in names {
                runtime.block_on(in_memory(&store, &[name]));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, replay);
criterion_main!(benches);
