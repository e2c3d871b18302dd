use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Waker};

use headwater_core::{EventLog, GroupError, Query, Read};

use super::*;
use crate::group::testing::{
    WatchedLog, append, deliveries, io_error, open, open_with, options, renewals, written,
};
use crate::group::{FailurePolicy, GroupOptions, Hopeless};

const SECOND: Duration = Duration::from_secs(1);

/// What the reactors of a test did: positions and keys in order.
type Seen = Arc<Mutex<Vec<(u64, IdempotencyKey)>>>;

#[derive(Clone, Default)]
struct Recorder {
    seen: Seen,
    fails_at: u64,
    failures: Arc<AtomicU32>,
    panics_at: u64,
    takes: Duration,
    blocks: Duration,
}

#[async_trait]
impl Reactor for Recorder {
    async fn react(
        &mut self,
        event: &RecordedEvent,
        key: &IdempotencyKey,
    ) -> Result<(), ReactError> {
        let position = event.position.get();
        if !self.takes.is_zero() {
            tokio::time::sleep(self.takes).await;
        }
        if !self.blocks.is_zero() {
            // The clock moves with the first poll, and no other task gets a turn.
            let advance = pin!(tokio::time::advance(self.blocks));
            let _ = advance.poll(&mut Context::from_waker(Waker::noop()));
        }
        assert_ne!(position, self.panics_at, "made up");
        if position == self.fails_at && self.failures.load(Ordering::SeqCst) > 0 {
            self.failures.fetch_sub(1, Ordering::SeqCst);
            return Err(ReactError::message("made up"));
        }
        self.seen.lock().unwrap().push((position, key.clone()));
        Ok(())
    }
}

async fn start(group: &ConsumerGroup, recorder: &Recorder, members: usize) -> ReactorHandle {
    let options = ReactorOptions::default();
    start_with(group, recorder, members, options).await
}

async fn start_with(
    group: &ConsumerGroup,
    recorder: &Recorder,
    members: usize,
    options: ReactorOptions,
) -> ReactorHandle {
    let make = |_| recorder.clone();
    ReactorRunner::start(group, "r", make, members, options).await.unwrap()
}

fn positions(seen: &Seen) -> Vec<u64> {
    seen.lock().unwrap().iter().map(|(position, _)| *position).collect()
}

#[tokio::test(start_paused = true)]
async fn every_event_is_reacted_to_once_and_committed() {
    let log = WatchedLog::new();
    let last = append_keys(&log, 50).await;
    let (group, recorder) = (open(&log).await, Recorder::default());
    let reactor = start(&group, &recorder, 3).await;
    reactor.wait_for(last, SECOND).await.unwrap();
    assert_eq!(group.status().await.unwrap().members.len(), 3);
    reactor.shutdown().await.unwrap();
    assert_eq!(log.state().await.floor(), last);
    let mut seen = positions(&recorder.seen);
    seen.sort_unstable();
    assert_eq!(seen, (1..=50).collect::<Vec<u64>>());
    assert!(group.status().await.unwrap().members.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_reaction_comes_again_before_the_later_events_of_its_key() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-1", "a-2"]).await;
    let recorder =
        Recorder { fails_at: 1, failures: Arc::new(AtomicU32::new(3)), ..Recorder::default() };
    let group = open(&log).await;
    let reactor = start(&group, &recorder, 1).await;
    reactor.wait_for(last, 60 * SECOND).await.unwrap();
    assert_eq!(positions(&recorder.seen), [3, 1, 2]);
    let status = reactor.status();
    assert_eq!((status.reacted, status.failed), (3, 3));
    let failure = status.last_failure.unwrap();
    assert_eq!((failure.position, failure.attempt), (Position::FIRST, 3));
    let first = Read::forward(Query::all(), Position::START).limit(1);
    let event = log.read(first).await.unwrap().events.remove(0);
    let key = recorder.seen.lock().unwrap()[1].1.clone();
    assert_eq!(key, IdempotencyKey::new(log.state().await.definition.id, event.id));
}

#[tokio::test(start_paused = true)]
async fn a_reaction_longer_than_the_lease_keeps_what_is_in_hand() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2", "a-3"]).await;
    let recorder = Recorder { takes: 100 * SECOND, ..Recorder::default() };
    let group = open(&log).await;
    let reactor = start(&group, &recorder, 1).await;
    tokio::time::sleep(80 * SECOND).await;
    assert_eq!(group.status().await.unwrap().in_flight, 3, "the whole batch is still in hand");
    reactor.wait_for(last, 1_000 * SECOND).await.unwrap();
    assert_eq!(positions(&recorder.seen), [1, 2, 3]);
}

/// Appends events of so many keys, one each, and returns the last position.
async fn append_keys(log: &WatchedLog, keys: usize) -> Position {
    let streams: Vec<String> = (0..keys).map(|n| format!("a-{n}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    append(log, &streams).await
}

#[tokio::test(start_paused = true)]
async fn short_reactions_renew_no_lease_but_their_own() {
    let log = WatchedLog::new();
    let last = append_keys(&log, 32).await;
    let recorder = Recorder { takes: SECOND / 10, ..Recorder::default() };
    let group = open(&log).await;
    let reactor = start(&group, &recorder, 1).await;
    reactor.wait_for(last, 60 * SECOND).await.unwrap();
    assert_eq!(renewals(&group), 32);
}

#[tokio::test(start_paused = true)]
async fn waiting_events_are_kept_while_others_take_less_than_a_heartbeat_each() {
    // Together they take far longer than a lease, which is 30 s, and each less than a third of it.
    let takes = Recorder { takes: 9 * SECOND, ..Recorder::default() };
    let blocks = Recorder { blocks: 9 * SECOND, ..Recorder::default() };
    for recorder in [takes, blocks] {
        let log = WatchedLog::new();
        let last = append_keys(&log, 12).await;
        let group = open(&log).await;
        let reactor = start(&group, &recorder, 1).await;
        reactor.wait_for(last, 1_000 * SECOND).await.unwrap();
        assert_eq!(deliveries(&group), 12, "an event was lost and came again");
        // One of its own for each event, and at most one heartbeat for the rest with each.
        let renewals = renewals(&group);
        assert!(renewals <= 12 + (0..=12).sum::<usize>(), "{renewals} renewals");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_stops_the_reactor_and_the_event_is_not_lost() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let recorder = Recorder { panics_at: 2, ..Recorder::default() };
    let group = open(&log).await;
    let reactor = start(&group, &recorder, 2).await;
    let error = reactor.wait_for(last, SECOND).await.unwrap_err();
    let WaitError::Stopped { cause, .. } = error else {
        panic!("{error}");
    };
    let text = cause.to_string();
    assert!(text.contains("position 2") && text.contains("made up"), "{text}");
    let error = reactor.shutdown().await.unwrap_err();
    assert!(matches!(*error, ReactorStop::Panicked { .. }), "{error}");

    let again = Recorder::default();
    let reactor = start(&group, &again, 1).await;
    reactor.wait_for(last, SECOND).await.unwrap();
    assert!(positions(&again.seen).contains(&2));
}

#[tokio::test(start_paused = true)]
async fn a_reactor_stops_after_its_last_attempt_and_skips_nothing() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-1"]).await;
    let recorder = Recorder {
        fails_at: 1,
        failures: Arc::new(AtomicU32::new(u32::MAX)),
        ..Recorder::default()
    };
    let failure =
        FailurePolicy { attempts_max: Some(4), then: Hopeless::Stop, ..FailurePolicy::default() };
    let group = open_with(&log, GroupOptions { failure, ..options() }).await;
    let reactor = start(&group, &recorder, 2).await;
    let error = reactor.wait_for(last, 60 * SECOND).await.unwrap_err();
    assert!(matches!(error, WaitError::Stopped { .. }), "{error}");
    let error = reactor.shutdown().await.unwrap_err();
    let hopeless = matches!(
        &*error,
        ReactorStop::Group(ConsumerError::Hopeless { attempts: 4, position: Position::FIRST, .. })
    );
    assert!(hopeless, "{error}");
    assert_eq!(positions(&recorder.seen), [0_u64; 0]);
    assert_eq!(log.state().await.floor(), Position::START);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_finishes_one_event_and_gives_the_others_back() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2", "a-3"]).await;
    let recorder = Recorder { takes: SECOND, ..Recorder::default() };
    let group = open(&log).await;
    let reactor = start(&group, &recorder, 1).await;
    tokio::time::sleep(SECOND / 2).await;
    reactor.shutdown().await.unwrap();
    assert_eq!(positions(&recorder.seen), [1]);
    assert_eq!(log.state().await.floor(), Position::FIRST);

    let reactor = start(&group, &recorder, 1).await;
    reactor.wait_for(last, 10 * SECOND).await.unwrap();
    assert_eq!(positions(&recorder.seen), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_ends_during_a_batch_sees_no_further_reaction_and_counts_none() {
    let log = WatchedLog::new();
    append_keys(&log, 3).await;
    let recorder = Recorder { takes: SECOND, ..Recorder::default() };
    let group = open(&log).await;
    let reactor = start(&group, &recorder, 1).await;
    tokio::time::sleep(SECOND / 2).await;
    group.close().await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(positions(&recorder.seen), [1], "only the one that was under way");
    assert_eq!(reactor.status().reacted, 0, "its event comes again");
    reactor.shutdown().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_failed_is_tried_again_without_a_further_event() {
    let log = WatchedLog::new();
    let last = append_keys(&log, 3).await;
    let errors = (0..5).map(|_| GroupError::StorageFull(io_error()));
    log.commit_errors.lock().unwrap().extend(errors);
    let (group, recorder) = (open(&log).await, Recorder::default());
    let reactor = start(&group, &recorder, 1).await;
    reactor.wait_for(last, SECOND).await.unwrap();
    assert!(log.state().await.floor() < last, "nothing is committed yet");
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(log.state().await.floor(), last);
    assert_eq!(positions(&recorder.seen), [1, 2, 3]);
    reactor.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closed_group_stops_the_reactor() {
    let log = WatchedLog::new();
    let (group, recorder) = (open(&log).await, Recorder::default());
    let reactor = start(&group, &recorder, 1).await;
    group.close().await.unwrap();
    let error = reactor.shutdown().await.unwrap_err();
    assert!(matches!(*error, ReactorStop::Group(_)), "{error}");
}

struct Saying;

#[async_trait]
impl Reactor for Saying {
    async fn react(&mut self, _: &RecordedEvent, _: &IdempotencyKey) -> Result<(), ReactError> {
        tracing::info!("reacting");
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_reaction_runs_in_a_span_that_names_the_event_and_its_trace() {
    let (written, subscriber) = written();
    let _guard = tracing::subscriber::set_default(subscriber);
    let log = WatchedLog::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut traced = crate::group::testing::event("a-1", "t").traced(&parent.parse().unwrap());
    traced.correlation_id = Some(traced.id.into());
    let correlation = traced.id.to_string();
    log.append(headwater_core::Append::new([traced])).await.unwrap();

    let group = open(&log).await;
    let options = ReactorOptions::default();
    let handle = ReactorRunner::start(&group, "r", |_| Saying, 1, options).await.unwrap();
    handle.wait_for(Position::FIRST, SECOND).await.unwrap();
    let text = written.text();
    let line = text.lines().find(|line| line.ends_with("reacting")).unwrap();
    for field in
        ["headwater.delivery{", "group=g ", "position=1 ", "attempt=1 ", parent, &correlation]
    {
        assert!(line.contains(field), "{field} in {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_told_that_a_position_is_reached_finds_it_counted() {
    let log = WatchedLog::new();
    let group = open(&log).await;
    let recorder =
        Recorder { fails_at: 1_000, failures: Arc::new(AtomicU32::new(1)), ..Recorder::default() };
    let reactor = start(&group, &recorder, 1).await;
    for number in 1..=2_000 {
        let last = append(&*log, &["a-1"]).await;
        reactor.wait_for(last, 60 * SECOND).await.unwrap();
        let status = reactor.status();
        assert_eq!((status.reacted, status.failed), (number, u64::from(number >= 1_000)));
    }
}
