//! Opening a store of 500,000 events: one that was closed, and a copy of one that was still open.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use headwater::Durability;

use common::{batch, open_at};

const EVENTS: u64 = 500_000;

fn opening(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (live, killed) = (dir.path().join("live"), dir.path().join("killed"));
    let store = open_at(&live, Durability::Os);
    for n in 0..EVENTS / 1_000 {
        store.append_blocking(batch(n, 1_000)).expect("an append");
    }
    copy(&live, &killed);
    drop(store);
    let mut group = c.benchmark_group("open");
    group.sample_size(10);
    group.bench_function("closed", |b| {
        b.iter_custom(|times| (0..times).map(|_| timed_open(&live)).sum());
    });
    group.bench_function("killed", |b| {
        b.iter_custom(|times| {
            let opened = |_| {
                // Recovery leaves a store that needs none.
                let path = dir.path().join("again");
                copy(&killed, &path);
                let time = timed_open(&path);
                std::fs::remove_dir_all(&path).expect("our own directory");
                time
            };
            (0..times).map(opened).sum()
        });
    });
    group.finish();
}

fn timed_open(path: &Path) -> Duration {
    let begun = Instant::now();
    let store = open_at(path, Durability::Os);
    let time = begun.elapsed();
    store.close().expect("closing");
    time
}

/// Copies a store as a kill of its process leaves it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

criterion_group!(benches, opening);
criterion_main!(benches);
