//! Reading a log of 200,000 events in 10,000 streams, from the page cache.

mod common;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater::{Append, Category, Durability, EventLog, EventType, Position, Query, Read, Store};
use tempfile::TempDir;

use common::{STREAMS, event, open, stream, tag};

const EVENTS: u64 = 200_000;
/// How many tags they go around.
const TAGS: u64 = 1_000;
/// Every so many events one has the rare type.
const RARE: u64 = 1_000;
/// How many streams of 10 events, and of 100.
const SHORT: u64 = STREAMS;
const LONG: u64 = 1_000;

/// Half of the events lie in streams of 10, half in streams of 100; each has one of 1,000 tags.
fn filled() -> (TempDir, Store) {
    let (dir, store) = open(Durability::Os);
    for n in (0..EVENTS).step_by(1_000) {
        let events = (n..n + 1_000).map(|n| {
            let half = n / 2;
            let at = if n % 2 == 0 { half % SHORT } else { SHORT + half % LONG };
            let mut event = event(stream(at));
            event.tags.push(tag(n % TAGS));
            if n % RARE == 0 {
                event.event_type = EventType::new("something.rare").expect("a name");
            }
            event
        });
        store.append_blocking(Append::new(events)).expect("an append");
    }
    (dir, store)
}

/// Reads all pages of a query and returns how many events they had.
fn drain(store: &Store, query: &Query) -> usize {
    let (mut after, mut events) = (Position::START, 0);
    loop {
        let read = Read::forward(query.clone(), after);
        let page = black_box(store.read_blocking(&read).expect("a page"));
        events += page.events.len();
        if page.done {
            return events;
        }
        after = page.scanned;
    }
}

fn walk(c: &mut Criterion) {
    let (_dir, store) = filled();
    let mut group = c.benchmark_group("scan");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("every checksum and payload byte", |b| {
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
    group.finish();
}

fn queries(c: &mut Criterion) {
    let (_dir, store) = filled();
    let mut group = c.benchmark_group("read");
    let mut each = |name: &str, expected: usize, query: &mut dyn FnMut(u64) -> Query| {
        let mut n = 0;
        group.throughput(Throughput::Elements(expected as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                n += 7;
                assert_eq!(drain(&store, &query(n)), expected);
            });
        });
    };
    each("a stream of 10", 10, &mut |n| Query::stream(stream(n % SHORT)));
    each("a stream of 100", 100, &mut |n| Query::stream(stream(SHORT + n % LONG)));
    each("200 by tag", 200, &mut |n| Query::tags([tag(n % TAGS)]));
    let rare = EventType::new("something.rare").expect("a name");
    each("200 by type", 200, &mut |_| Query::types([rare.clone()]));
    group.finish();
    c.bench_function("read/a category of 200,000", |b| {
        let category = Category::new("stream").expect("a name");
        b.iter(|| drain(&store, &Query::category(category.clone())));
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    c.bench_function("read/the event types of 200,000", |b| {
        b.iter(|| {
            let types = runtime.block_on(store.event_types()).expect("an answer");
            assert_eq!(types.len(), 2);
        });
    });
    c.bench_function("read/a stream's last revision", |b| {
        let mut n = 0;
        b.iter(|| {
            n += 7;
            let stream = stream(n % SHORT);
            black_box(runtime.block_on(store.stream_revision(&stream)).expect("a revision"))
        });
    });
}

criterion_group!(benches, walk, queries);
criterion_main!(benches);
