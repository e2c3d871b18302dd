use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use headwater_core::GroupError;
use tokio::time::Instant;

use super::*;
use crate::group::testing::{WatchedLog, append, io_error, open, open_with, options};
use crate::group::{FailurePolicy, GroupOptions, Hopeless};

const SECOND: Duration = Duration::from_secs(1);

type Answer = Result<(), SendError>;

/// A target that does what a test says, and remembers what it was asked and what it took.
#[derive(Clone)]
struct Script(Arc<Inner>);

struct Inner {
    /// What to answer to the event at a position, at its n-th time from 1.
    answer: Box<dyn Fn(u64, u32) -> Answer + Send + Sync>,
    takes: Duration,
    under_way: AtomicUsize,
    under_way_most: AtomicUsize,
    /// Positions and when.
    asked: Mutex<Vec<(u64, Instant)>>,
    /// Positions, streams and keys in order.
    taken: Mutex<Vec<(u64, String, IdempotencyKey)>>,
}

impl Script {
    fn new(answer: impl Fn(u64, u32) -> Answer + Send + Sync + 'static) -> Self {
        Self::slow(Duration::ZERO, answer)
    }

    fn slow(takes: Duration, answer: impl Fn(u64, u32) -> Answer + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            answer: Box::new(answer),
            takes,
            under_way: AtomicUsize::new(0),
            under_way_most: AtomicUsize::new(0),
            asked: Mutex::default(),
            taken: Mutex::default(),
        }))
    }

    fn asked(&self) -> Vec<u64> {
        self.0.asked.lock().unwrap().iter().map(|(position, _)| *position).collect()
    }

    fn taken(&self) -> Vec<u64> {
        self.0.taken.lock().unwrap().iter().map(|(position, ..)| *position).collect()
    }
}

#[async_trait]
impl Target for Script {
    async fn send(&self, message: &Message<'_>) -> Answer {
        let position = message.event.position.get();
        let time = {
            let mut asked = self.0.asked.lock().unwrap();
            asked.push((position, Instant::now()));
            asked.iter().filter(|(at, _)| *at == position).count()
        };
        let now = self.0.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.under_way_most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.0.takes).await;
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
        (self.0.answer)(position, u32::try_from(time).unwrap())?;
        let stream = message.event.stream.to_string();
        self.0.taken.lock().unwrap().push((position, stream, message.key.clone()));
        Ok(())
    }
}

async fn start(group: &ConsumerGroup, target: &Script) -> BridgeHandle {
    Bridge::start(group, "b", target.clone(), BridgeOptions::default()).await.unwrap()
}

fn attempts(max: u32) -> GroupOptions {
    let failure = FailurePolicy { attempts_max: Some(max), ..FailurePolicy::default() };
    GroupOptions { failure, ..options() }
}

/// Appends so many events of so many keys in turn, and returns the last position.
async fn append_many(log: &WatchedLog, events: usize, keys: usize) -> Position {
    let streams: Vec<String> = (0..events).map(|n| format!("a-{}", n % keys)).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    append(log, &streams).await
}

#[tokio::test(start_paused = true)]
async fn every_event_is_forwarded_beside_others_each_key_in_order_and_committed() {
    let log = WatchedLog::new();
    let last = append_many(&log, 60, 6).await;
    let target = Script::slow(SECOND, |_, _| Ok(()));
    let group = open(&log).await;
    let bridge = start(&group, &target).await;
    bridge.wait_for(last, 20 * SECOND).await.unwrap();
    assert_eq!(target.0.under_way_most.load(Ordering::SeqCst), 6);
    let mut by_stream: HashMap<String, Vec<u64>> = HashMap::new();
    for (position, stream, _) in target.0.taken.lock().unwrap().iter() {
        by_stream.entry(stream.clone()).or_default().push(*position);
    }
    assert!(by_stream.values().all(|of_one| of_one.is_sorted() && of_one.len() == 10));
    assert_eq!(bridge.status().forwarded, 60);
    bridge.shutdown().await.unwrap();
    assert_eq!(log.state().await.floor(), last);
    assert!(group.status().await.unwrap().members.is_empty());
}

#[tokio::test(start_paused = true)]
async fn no_more_events_are_under_way_than_the_options_say() {
    let log = WatchedLog::new();
    let last = append_many(&log, 30, 30).await;
    let target = Script::slow(SECOND, |_, _| Ok(()));
    let options = BridgeOptions { concurrency: 4, ..BridgeOptions::default() };
    let bridge = Bridge::start(&open(&log).await, "b", target.clone(), options).await.unwrap();
    bridge.wait_for(last, 20 * SECOND).await.unwrap();
    assert_eq!(target.0.under_way_most.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_target_is_waited_for_and_no_event_loses_an_attempt() {
    let log = WatchedLog::new();
    let last = append_many(&log, 40, 40).await;
    let down = Instant::now() + 600 * SECOND;
    let target = Script::new(move |_, _| {
        if Instant::now() < down { Err(SendError::unavailable("no route")) } else { Ok(()) }
    });
    let group = open_with(&log, attempts(1)).await;
    let bridge = start(&group, &target).await;
    let mut status = bridge.watch();
    let waits = status.wait_for(|now| matches!(now.phase, BridgePhase::Waiting { .. }));
    let BridgePhase::Waiting { cause, .. } = waits.await.unwrap().phase.clone() else {
        unreachable!("that was waited for");
    };
    assert!(cause.chain().contains("no route"), "{}", cause.chain());
    bridge.wait_for(last, 700 * SECOND).await.unwrap();
    assert!(matches!(bridge.status().phase, BridgePhase::Running));
    assert_eq!(group.parked().await.unwrap(), []);
    assert_eq!(bridge.status().failed, 0);
    let mut taken = target.taken();
    taken.sort_unstable();
    assert_eq!(taken, (1..=40).collect::<Vec<u64>>());
    // One window, then one event at a time: 0.1 s, 0.2 s, ... 30 s, half of each by chance.
    let in_vain = target.asked().len() - 40;
    assert!((32 + 20..32 + 60).contains(&in_vain), "asked {in_vain} times in vain");
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_is_parked_at_once_and_comes_again_when_it_is_redriven() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-1", "a-2"]).await;
    let target = Script::new(|position, time| match (position, time) {
        (1, 1) => Err(SendError::refused("no such customer")),
        _ => Ok(()),
    });
    let group = open(&log).await;
    let bridge = start(&group, &target).await;
    bridge.wait_for(last, SECOND).await.unwrap();
    assert_eq!(target.asked(), [1, 3], "the later event of the key waits behind it");
    let parked = group.parked().await.unwrap();
    assert_eq!(parked.len(), 1);
    assert!(parked[0].cause.contains("no such customer"), "{}", parked[0].cause);
    assert_eq!(bridge.status().refused, 1);
    group.redrive_all().await.unwrap();
    while !group.parked().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(target.taken(), [3, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_stops_the_group_where_its_policy_says_so() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-1"]).await;
    let target = Script::new(|_, _| Err(SendError::refused("no such customer")));
    let failure = FailurePolicy { then: Hopeless::Stop, ..FailurePolicy::default() };
    let group = open_with(&log, GroupOptions { failure, ..options() }).await;
    let bridge = start(&group, &target).await;
    let error = bridge.wait_for(last, SECOND).await.unwrap_err();
    assert!(matches!(error, WaitError::Stopped { .. }), "{error}");
    let error = bridge.shutdown().await.unwrap_err();
    let hopeless = matches!(
        &*error,
        BridgeStop::Group(ConsumerError::Hopeless { attempts: 1, position: Position::FIRST, .. })
    );
    assert!(hopeless, "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_fails_comes_again_with_the_same_key_and_does_not_hold_up_others() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-1", "a-2", "a-3", "a-4", "a-5"]).await;
    let target = Script::new(|position, time| match (position, time) {
        (1, 1..=7) => Err(SendError::failed("made up")),
        _ => Ok(()),
    });
    let group = open(&log).await;
    let bridge = start(&group, &target).await;
    bridge.wait_for(last, 60 * SECOND).await.unwrap();
    assert_eq!(target.taken(), [3, 4, 5, 6, 1, 2]);
    let status = bridge.status();
    assert_eq!((status.forwarded, status.failed, status.unavailable), (6, 7, 0));
    let failure = status.last_failure.unwrap();
    assert_eq!((failure.position, failure.attempt), (Position::FIRST, 7));
    let key = target.0.taken.lock().unwrap()[4].2.clone();
    assert!(key.as_str().starts_with(&format!("g{}/", log.state().await.definition.id)));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_fails_to_its_last_attempt_is_parked_with_what_was_wrong() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let target = Script::new(|position, _| match position {
        1 => Err(SendError::failed("made up")),
        _ => Ok(()),
    });
    let group = open_with(&log, attempts(3)).await;
    let bridge = start(&group, &target).await;
    bridge.wait_for(last, 60 * SECOND).await.unwrap();
    assert_eq!(target.asked(), [1, 2, 1, 1]);
    let parked = group.parked().await.unwrap();
    assert_eq!(parked[0].cause, "the target did not take the event: made up");
}

#[tokio::test(start_paused = true)]
async fn many_events_that_fail_in_a_row_put_the_target_under_suspicion() {
    let log = WatchedLog::new();
    let last = append_many(&log, 200, 200).await;
    let down = Instant::now() + 60 * SECOND;
    let target =
        Script::new(
            move |_, _| {
                if Instant::now() < down { Err(SendError::failed("502")) } else { Ok(()) }
            },
        );
    // Without the circuit a second failure would park each of them within a second.
    let group = open_with(&log, attempts(2)).await;
    let options = BridgeOptions { concurrency: 8, ..BridgeOptions::default() };
    let bridge = Bridge::start(&group, "b", target.clone(), options).await.unwrap();
    bridge.wait_for(last, 600 * SECOND).await.unwrap();
    let in_vain = target.0.asked.lock().unwrap().iter().filter(|(_, when)| *when < down).count();
    assert!(in_vain < 8 + 25, "asked {in_vain} times in vain");
    let parked = group.parked().await.unwrap().len();
    assert!(parked <= in_vain / 2, "{parked} parked");
    assert_eq!(target.taken().len() + parked, 200);
}

#[tokio::test(start_paused = true)]
async fn many_events_that_always_fail_do_not_keep_the_target_from_the_others() {
    let log = WatchedLog::new();
    append_many(&log, 200, 200).await;
    let target = Script::new(move |position, _| match position {
        ..=100 => Err(SendError::failed("poison")),
        _ => Ok(()),
    });
    let failure = FailurePolicy::never();
    let group = open_with(&log, GroupOptions { failure, ..options() }).await;
    let bridge = start(&group, &target).await;
    let mut status = bridge.watch();
    let others = status.wait_for(|now| now.forwarded == 100);
    tokio::time::timeout(60 * SECOND, others).await.expect("they were held up").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_target_and_an_event_that_ask_for_time_get_it() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1"]).await;
    let target = Script::new(|_, time| match time {
        1 => Err(SendError::unavailable("busy").retry_after(100 * SECOND)),
        2 => Err(SendError::failed("not yet").retry_after(50 * SECOND)),
        _ => Ok(()),
    });
    let group = open(&log).await;
    let bridge = start(&group, &target).await;
    bridge.wait_for(last, 600 * SECOND).await.unwrap();
    let asked = target.0.asked.lock().unwrap();
    let waits: Vec<u64> = asked.windows(2).map(|pair| (pair[1].1 - pair[0].1).as_secs()).collect();
    assert_eq!(waits, [100, 50]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_while_the_target_takes_longer() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let target = Script::slow(200 * SECOND, |_, _| Ok(()));
    let group = open(&log).await;
    let bridge = start(&group, &target).await;
    bridge.wait_for(last, 500 * SECOND).await.unwrap();
    assert_eq!(target.asked(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_panics_stops_the_bridge_and_loses_nothing() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let target = Script::new(|position, time| {
        assert_ne!((position, time), (2, 1), "made up");
        Ok(())
    });
    let group = open(&log).await;
    let bridge = start(&group, &target).await;
    let error = bridge.wait_for(last, SECOND).await.unwrap_err();
    let WaitError::Stopped { cause, .. } = error else { panic!("{error}") };
    let text = cause.to_string();
    assert!(text.contains("position 2") && text.contains("made up"), "{text}");
    let stopped = bridge.shutdown().await.unwrap_err();
    assert!(matches!(*stopped, BridgeStop::Panicked { .. }), "{stopped}");
    let bridge = start(&group, &target).await;
    bridge.wait_for(last, SECOND).await.unwrap();
    assert_eq!(target.taken(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_waits_for_what_is_under_way_and_takes_no_more() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2", "a-2"]).await;
    let target = Script::slow(10 * SECOND, |_, _| Ok(()));
    let group = open(&log).await;
    let bridge = start(&group, &target).await;
    tokio::time::sleep(SECOND).await;
    bridge.shutdown().await.unwrap();
    assert_eq!(target.taken(), [1, 2]);
    assert_eq!(log.state().await.floor(), Position::new(2));
    let bridge = start(&group, &target).await;
    bridge.wait_for(last, 60 * SECOND).await.unwrap();
    assert_eq!(target.taken(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_does_not_wait_for_a_target_that_is_left_alone() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let busy = || SendError::unavailable("busy").retry_after(3_600 * SECOND);
    let target = Script::new(move |_, _| Err(busy()));
    let group = open(&log).await;
    let bridge = start(&group, &target).await;
    tokio::time::sleep(SECOND).await;
    let begin = Instant::now();
    bridge.shutdown().await.unwrap();
    assert!(begin.elapsed() < SECOND);
    assert_eq!(target.asked(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_the_log_refuses_for_a_while_goes_with_a_later_one() {
    let log = WatchedLog::new();
    let last = append_many(&log, 3, 3).await;
    let errors = (0..5).map(|_| GroupError::StorageFull(io_error()));
    log.commit_errors.lock().unwrap().extend(errors);
    let (group, target) = (open(&log).await, Script::new(|_, _| Ok(())));
    let bridge = start(&group, &target).await;
    bridge.wait_for(last, SECOND).await.unwrap();
    assert!(log.state().await.floor() < last, "nothing is committed yet");
    tokio::time::sleep(30 * SECOND).await;
    assert_eq!(log.state().await.floor(), last);
    assert_eq!(target.taken(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_bridge_whose_group_was_closed_says_so() {
    let log = WatchedLog::new();
    let (group, target) = (open(&log).await, Script::new(|_, _| Ok(())));
    let bridge = start(&group, &target).await;
    group.close().await.unwrap();
    let error = bridge.shutdown().await.unwrap_err();
    assert!(matches!(*error, BridgeStop::Group(ConsumerError::Closed { .. })), "{error}");
}
