//! Appending to the embedded log and reading it back.
//!
//! Events have 256 bytes of payload, a stream name of 16 bytes and a type of 14. The file system
//! of the system's temporary directory decides what a sync costs: on tmpfs it is free, so set
//! `TMPDIR` to a real disk before trusting the `sync` rows.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use headwater::{
    Append, CodecId, Durability, EventType, ExpectedRevision, NewEvent, Options, Position, Query,
    Read, Revision, Store, StreamId,
};
use tempfile::TempDir;

const PAYLOAD_BYTES: usize = 256;
const STREAMS: u64 = 10_000;

fn open(durability: Durability) -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = Options { durability, ..Options::default() };
    let store = Store::open(dir.path().join("store"), options).expect("a new store");
    (dir, store)
}

fn stream(n: u64) -> StreamId {
    StreamId::new(format!("stream-{:09}", n % STREAMS)).expect("a name")
}

fn event(n: u64) -> NewEvent {
    let event_type = EventType::new("something.done").expect("a name");
    NewEvent::new(stream(n), event_type, CodecId::RAW, vec![0xA5; PAYLOAD_BYTES])
}

fn batch(n: u64, size: u64) -> Append {
    Append::new((n * size..(n + 1) * size).map(event))
}

/// One caller, one append at a time.
fn appends(c: &mut Criterion) {
    for (name, durability) in [("sync", Durability::Sync), ("os", Durability::Os)] {
        let mut group = c.benchmark_group(format!("append/{name}"));
        for size in [1, 100, 1_000] {
            let (_dir, store) = open(durability);
            let mut n = 0;
            group.throughput(Throughput::Elements(size));
            group.bench_function(format!("{size} events"), |b| {
                let next = || {
                    n += 1;
                    batch(n, size)
                };
                let append = |append| store.append_blocking(append).expect("an append");
                b.iter_batched(next, append, BatchSize::SmallInput);
            });
        }
        group.finish();
    }
}

/// The same with and without an expected revision.
fn conditions(c: &mut Criterion) {
    let mut group = c.benchmark_group("condition/os");
    let (_dir, store) = open(Durability::Os);
    let hot = StreamId::new("hot-stream").expect("a name");
    let one = || {
        let mut event = event(0);
        event.stream = hot.clone();
        Append::new([event])
    };
    group.bench_function("any", |b| {
        let append = |append| store.append_blocking(append).expect("an append");
        b.iter_batched(one, append, BatchSize::SmallInput);
    });
    let head = Query::stream(hot.clone());
    let page = store.read_blocking(&Read::backward(head, Position::MAX).limit(1)).expect("a page");
    let mut revision = page.events.first().map_or(Revision::NONE, |event| event.revision);
    group.bench_function("exact revision", |b| {
        b.iter_batched(
            one,
            |append| {
                let append = append.expecting(hot.clone(), ExpectedRevision::Exact(revision));
                revision = revision.next();
                store.append_blocking(append).expect("nobody else writes")
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// A log of 200,000 events in 10,000 streams.
fn reads(c: &mut Criterion) {
    const EVENTS: u64 = 200_000;
    let (_dir, store) = open(Durability::Os);
    for n in 0..EVENTS / 1_000 {
        store.append_blocking(batch(n, 1_000)).expect("an append");
    }
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("scan, every checksum and payload byte", |b| {
        b.iter(|| {
            let mut scan = store.scan(Position::START).expect("a walk");
            let mut sum = 0_u64;
            while let Some(event) = scan.next() {
                let payload = event.expect("an event").payload();
                sum += payload.iter().map(|&byte| u64::from(byte)).sum::<u64>();
            }
            black_box(sum)
        });
    });
    group.throughput(Throughput::Elements(EVENTS / STREAMS));
    group.bench_function("a stream of 20 scattered events", |b| {
        let mut n = 0;
        b.iter(|| {
            n += 7;
            let read = Read::forward(Query::stream(stream(n)), Position::START);
            let page = store.read_blocking(&read).expect("a page");
            assert_eq!(page.events.len(), 20);
            black_box(page)
        });
    });
    group.finish();
}

criterion_group!(benches, appends, conditions, reads);
criterion_main!(benches);
