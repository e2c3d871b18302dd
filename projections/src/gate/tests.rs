use std::sync::atomic::AtomicUsize;

use headwater_core::{Append, EventLog, MemoryLog, NewGroup, Query, Read};

use super::*;
use crate::group::ConsumerGroup;
use crate::group::testing::{event, options};

const SECOND: Duration = Duration::from_secs(1);

fn name() -> GroupName {
    GroupName::new("g").unwrap()
}

fn gated(high: Level, overflow: Overflow) -> GatedLog {
    GatedLog::new(Arc::new(MemoryLog::new()), [HighWater::new(name(), high, overflow)])
}

async fn append(log: &GatedLog, count: usize) -> Result<(), AppendError> {
    for number in 0..count {
        log.append(Append::new([event(&format!("a-{number}"), "t")])).await?;
    }
    Ok(())
}

async fn open(log: &GatedLog) -> ConsumerGroup {
    let group = ConsumerGroup::open(log.beneath(), options()).await.unwrap();
    log.follow(&group);
    group
}

/// Waits until this many events are there to be had.
async fn take(group: &ConsumerGroup, count: usize) {
    let mut member = group.join("m").await.unwrap();
    let mut left = count;
    while left > 0 {
        let deliveries = member.next(left).await.unwrap();
        left -= deliveries.len();
        for delivery in deliveries {
            delivery.ack();
        }
    }
    member.commit().await.unwrap();
    member.leave().await.unwrap();
}

fn overrun(result: Result<(), AppendError>) -> Overrun {
    match result {
        Err(AppendError::Overrun(overrun)) => overrun,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn producers_are_refused_above_the_high_mark_until_the_low_one_is_reached() {
    let log = gated(Level::events(10), Overflow::Refuse);
    let group = open(&log).await;
    append(&log, 11).await.unwrap();
    let refused = overrun(append(&log, 1).await);
    assert_eq!((refused.lag, refused.mark, refused.measure), (11, 10, "events"));
    assert_eq!(refused.group, name());
    // Below the high mark and above the low one.
    take(&group, 4).await;
    assert_eq!(overrun(append(&log, 1).await).mark, 5);
    take(&group, 2).await;
    append(&log, 5).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn blocked_producers_go_on_at_the_low_mark_without_being_woken_before() {
    let log = gated(Level::events(10), Overflow::Block(60 * SECOND));
    let group = open(&log).await;
    append(&log, 11).await.unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let producers: Vec<_> = (0..3)
        .map(|_| {
            let (log, done) = (log.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                append(&log, 1).await.unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            })
        })
        .collect();
    let began = Instant::now();
    tokio::task::yield_now().await;
    take(&group, 5).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(done.load(Ordering::SeqCst), 0, "the lag is 6, and the low mark 5");
    take(&group, 1).await;
    for producer in producers {
        producer.await.unwrap();
    }
    assert!(began.elapsed() < LOOK_AGAIN, "nobody had to look");
}

#[tokio::test(start_paused = true)]
async fn a_blocked_producer_gives_up_and_has_written_nothing() {
    let log = gated(Level::bytes(3), Overflow::Block(SECOND));
    let _group = open(&log).await;
    append(&log, 4).await.unwrap();
    let refused = overrun(append(&log, 1).await);
    assert_eq!((refused.measure, refused.lag, refused.waited), ("bytes", 4, SECOND));
    assert_eq!(log.head(Visibility::Committed).await.unwrap(), Position::new(4));
}

#[tokio::test(start_paused = true)]
async fn progress_in_another_process_is_noticed_by_looking() {
    let log = gated(Level::events(2), Overflow::Block(60 * SECOND));
    let elsewhere = ConsumerGroup::open(log.beneath(), options()).await.unwrap();
    append(&log, 3).await.unwrap();
    let waits = tokio::spawn({
        let log = log.clone();
        async move { append(&log, 1).await }
    });
    take(&elsewhere, 3).await;
    waits.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_paused_or_idle_counts_and_one_that_is_deleted_does_not() {
    let log = gated(Level::events(2), Overflow::Refuse);
    append(&log, 9).await.unwrap();
    let beneath = log.beneath();
    beneath.open_group(NewGroup::consumer(name())).await.unwrap();
    overrun(append(&log, 1).await);
    beneath.change_group(&name(), headwater_core::GroupChange::Pause(true)).await.unwrap();
    overrun(append(&log, 1).await);
    beneath.delete_group(&name()).await.unwrap();
    append(&log, 9).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_group_that_only_warns_holds_nobody_up() {
    let log = gated(Level::events(2), Overflow::Warn);
    let _group = open(&log).await;
    append(&log, 9).await.unwrap();
    assert!(log.inner.gates[0].is_shut.load(Ordering::SeqCst));
    let page = log.read(Read::forward(Query::all(), Position::START)).await.unwrap();
    assert_eq!(page.events.len(), 9);
}

#[test]
fn each_measure_has_its_mark() {
    let lag = Lag { events: 5, bytes: Some(50), time: SECOND, exact: true };
    let passed = |level: Level| level.passed_by(&lag, &name()).map(|overrun| overrun.measure);
    assert_eq!(passed(Level::events(5)), None);
    assert_eq!(passed(Level::events(4)), Some("events"));
    assert_eq!(passed(Level::bytes(50)), None);
    assert_eq!(passed(Level::bytes(49)), Some("bytes"));
    assert_eq!(passed(Level::age(SECOND)), None);
    assert_eq!(passed(Level::age(SECOND / 2)), Some("ms"));
    assert_eq!(passed(Level::default()), None);
}
