//! Appending: one event and batches, durable and not, with conditions and refused.
//!
//! The temporary directory's file system decides what a sync costs; set `TMPDIR` to a real disk.

mod common;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use headwater::{
    Append, Condition, Durability, ExpectedRevision, Position, Query, Read, Revision, Store,
};

use common::{batch, event, open, stream};

/// One caller, one append at a time. The events are built before the clock starts.
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

fn to_hot_stream() -> Append {
    Append::new([event(stream(0))])
}

/// Without sync, so that what a condition costs can be seen.
fn conditions(c: &mut Criterion) {
    let mut group = c.benchmark_group("condition/os");
    let (_dir, store) = open(Durability::Os);
    for n in 0..100 {
        store.append_blocking(batch(n, 1_000)).expect("an append");
    }
    let accept = |append| store.append_blocking(append).expect("nobody else writes");
    group.bench_function("none", |b| {
        b.iter_batched(to_hot_stream, accept, BatchSize::SmallInput);
    });
    let mut revision = revision_of(&store);
    group.bench_function("exact revision", |b| {
        let expecting = || {
            let expected = ExpectedRevision::Exact(revision);
            revision = revision.next();
            to_hot_stream().expecting(stream(0), expected)
        };
        b.iter_batched(expecting, accept, BatchSize::PerIteration);
    });
    let nowhere = Query::tags([common::tag(0)]);
    group.bench_function("no event with a tag", |b| {
        let guarded = || {
            let condition = Condition::no_events(nowhere.clone(), Position::START);
            to_hot_stream().under(condition)
        };
        b.iter_batched(guarded, accept, BatchSize::SmallInput);
    });
    group.bench_function("refused", |b| {
        let stale = || to_hot_stream().expecting(stream(0), ExpectedRevision::NoStream);
        let refuse = |append| store.append_blocking(append).expect_err("the stream exists");
        b.iter_batched(stale, |append| black_box(refuse(append)), BatchSize::SmallInput);
    });
    group.finish();
    let (_dir, store) = open(Durability::Sync);
    store.append_blocking(to_hot_stream()).expect("an append");
    c.bench_function("condition/sync/refused", |b| {
        let stale = || to_hot_stream().expecting(stream(0), ExpectedRevision::NoStream);
        let refuse = |append| store.append_blocking(append).expect_err("the stream exists");
        b.iter_batched(stale, |append| black_box(refuse(append)), BatchSize::SmallInput);
    });
}

fn revision_of(store: &Store) -> Revision {
    let read = Read::backward(Query::stream(stream(0)), Position::MAX).limit(1);
    let page = store.read_blocking(&read).expect("a page");
    page.events.first().map_or(Revision::NONE, |event| event.revision)
}

criterion_group!(benches, appends, conditions);
criterion_main!(benches);
