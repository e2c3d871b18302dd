//! Groups: deliveries with acknowledgement, one group and many; a filter that lets little through;
//! handing slots over.

mod common;

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater::projections::{
    ConsumerGroup, GroupOptions, Member, Received, ShareGroup, ShareOptions,
};
use headwater::{
    Durability, EventLog, EventType, GroupLog, GroupName, Position, Query, Start, Store, Visibility,
};
use tokio::runtime::Runtime;

use common::{batch, event, open, stream};

const EVENTS: u64 = 100_000;
/// Members take so many events at a time, and commit then.
const TAKE: usize = 256;
/// One event of so many has the rare type.
const RARE: u64 = 10_000;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn filled() -> (tempfile::TempDir, Store) {
    let (dir, store) = open(Durability::Os);
    for n in 0..EVENTS / 1_000 {
        let mut append = batch(n, 1_000);
        if (n * 1_000).is_multiple_of(RARE) {
            let mut rare = event(stream(n));
            rare.event_type = EventType::new("something.rare").expect("a name");
            append.events[0] = rare;
        }
        store.append_blocking(append).expect("an append");
    }
    (dir, store)
}

fn options(name: &str) -> GroupOptions {
    GroupOptions {
        in_flight_max: 8 * TAKE,
        ..GroupOptions::new(GroupName::new(name).expect("a name"))
    }
}

fn log(store: &Store) -> Arc<dyn GroupLog> {
    Arc::new(store.clone())
}

/// Acknowledges everything up to the head, and makes it durable as the store does.
async fn drain(group: &ConsumerGroup, member: &mut Member, head: Position) -> usize {
    let mut handled = 0;
    while group.floor() < head {
        let deliveries = member.try_next(TAKE).expect("deliveries");
        if deliveries.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        handled += deliveries.len();
        for delivery in deliveries {
            delivery.ack();
        }
        member.commit().await.expect("a commit");
    }
    handled
}

/// Lets groups go through the log from its beginning, all at once.
async fn all_at_once(groups: &mut [(ConsumerGroup, Member)], head: Position) {
    for (group, _) in groups.iter() {
        group.seek(Start::Beginning).await.expect("a seek");
    }
    let work = groups.iter_mut().map(|(group, member)| drain(group, member, head));
    for handled in futures_join(work).await {
        assert_eq!(handled as u64, EVENTS);
    }
}

/// Runs futures side by side in one task each and waits for all.
async fn futures_join<T>(work: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut work: Vec<_> = work.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = work.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (future, done) in work.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            return std::task::Poll::Ready(done.iter_mut().filter_map(Option::take).collect());
        }
        std::task::Poll::Pending
    })
    .await
}

fn deliveries(c: &mut Criterion) {
    let runtime = runtime();
    let (_dir, store) = filled();
    let head = runtime.block_on(store.head(Visibility::Committed)).expect("a head");
    let mut group = c.benchmark_group("groups");
    group.sample_size(10);
    for count in [1_u64, 4, 16] {
        let mut groups = Vec::new();
        for n in 0..count {
            let opened = runtime.block_on(async {
                let options = options(&format!("g{count}-{n}"));
                let group = ConsumerGroup::open(log(&store), options).await.expect("a group");
                let member = group.join("m").await.expect("a member");
                (group, member)
            });
            groups.push(opened);
        }
        group.throughput(Throughput::Elements(EVENTS * count));
        group.bench_function(format!("{count} over one log, acked and committed"), |b| {
            b.iter(|| runtime.block_on(all_at_once(&mut groups, head)));
        });
    }
    group.finish();
}

fn work_queue(c: &mut Criterion) {
    let runtime = runtime();
    let (_dir, store) = filled();
    let head = runtime.block_on(store.head(Visibility::Committed)).expect("a head");
    let options = ShareOptions::new(GroupName::new("queue").expect("a name"));
    let queue = runtime.block_on(ShareGroup::open(log(&store), options)).expect("a group");
    let mut group = c.benchmark_group("groups");
    group.sample_size(10).throughput(Throughput::Elements(EVENTS));
    group.bench_function("share group, received and acked by receipt", |b| {
        b.iter(|| {
            runtime.block_on(async {
                queue.group().seek(Start::Beginning).await.expect("a seek");
                while queue.group().floor() < head {
                    let wait = std::time::Duration::from_millis(1);
                    let received = queue.receive(TAKE, wait).await.expect("events");
                    let receipts: Vec<_> =
                        received.into_iter().map(Received::into_receipt).collect();
                    queue.ack(&receipts).await.expect("acks");
                }
            });
        });
    });
    group.finish();
}

fn filtered(c: &mut Criterion) {
    let runtime = runtime();
    let (_dir, store) = filled();
    let head = runtime.block_on(store.head(Visibility::Committed)).expect("a head");
    let mut group = c.benchmark_group("groups");
    group.sample_size(10).throughput(Throughput::Elements(EVENTS));
    let rare = EventType::new("something.rare").expect("a name");
    let by_type = GroupOptions { selection: Query::types([rare]), ..options("by-type") };
    let pattern = r#"{"type": [{"suffix": ".rare"}]}"#.parse().expect("a pattern");
    let by_pattern = GroupOptions { pattern: Some(pattern), ..options("by-pattern") };
    for (name, options) in [("type, by the index", by_type), ("pattern, by looking", by_pattern)] {
        let (consumers, mut member) = runtime.block_on(async {
            let group = ConsumerGroup::open(log(&store), options).await.expect("a group");
            let member = group.join("m").await.expect("a member");
            (group, member)
        });
        group.bench_function(format!("one event in 10,000 by its {name}"), |b| {
            b.iter(|| {
                runtime.block_on(async {
                    consumers.seek(Start::Beginning).await.expect("a seek");
                    let handled = drain(&consumers, &mut member, head).await;
                    assert_eq!(handled as u64, EVENTS / RARE);
                });
            });
        });
    }
    group.finish();
}

fn hand_over(c: &mut Criterion) {
    let runtime = runtime();
    let (_dir, store) = open(Durability::Os);
    store.append_blocking(batch(0, 1_000)).expect("an append");
    let mut group = c.benchmark_group("groups");
    group.bench_function("half of the slots to a second member and back", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let name = options("moving");
                let group = ConsumerGroup::open(log(&store), name).await.expect("a group");
                let first = group.join("first").await.expect("a member");
                owns(&group, &[1_024]).await;
                let second = group.join("second").await.expect("a member");
                owns(&group, &[512, 512]).await;
                second.leave().await.expect("leaving");
                owns(&group, &[1_024]).await;
                drop(first);
            });
        });
    });
    group.finish();
}

/// Waits until the members own so many slots.
async fn owns(group: &ConsumerGroup, slots: &[usize]) {
    loop {
        let status = group.status().await.expect("a status");
        let now: Vec<usize> = status.members.iter().map(|member| member.slots).collect();
        if now == slots {
            return;
        }
        tokio::task::yield_now().await;
    }
}

criterion_group!(benches, deliveries, work_queue, filtered, hand_over);
criterion_main!(benches);
