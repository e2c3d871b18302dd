mod parking;
mod share;
mod workers;

use std::sync::atomic::Ordering;

use headwater_core::Category;

use super::testing::{WatchedLog, append, event, io_error, open, open_with, options};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn positions(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|d| d.event().position.get()).collect()
}

/// Returns what comes within a second of a clock that only moves when nothing else does.
async fn soon(member: &mut Member) -> Vec<Delivery> {
    tokio::time::timeout(SECOND, member.next(100)).await.map_or(Vec::new(), Result::unwrap)
}

fn ack_all(deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        assert_eq!(delivery.ack(), Settlement::Counted);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_never_comes_again_and_what_was_not_does() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-2", "a-3"]).await;
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    let mut deliveries = member.next(10).await.unwrap();
    assert_eq!(positions(&deliveries), [1, 2, 3]);
    deliveries.remove(1).ack();
    member.commit().await.unwrap();
    deliveries.remove(0).ack();
    // The process dies: nothing more is committed.
    drop((member, group, deliveries));

    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    assert_eq!(positions(&soon(&mut member).await), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_delivery_comes_again_at_once_and_counts_its_attempts() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    let first = member.next(1).await.unwrap().remove(0);
    let key = first.idempotency_key();
    assert_eq!(first.attempt(), 1);
    assert_eq!(key.as_str(), format!("g{}/{}", log.state().await.definition.id, first.event().id));
    drop(first);
    let second = member.next(1).await.unwrap().remove(0);
    assert_eq!((second.attempt(), second.idempotency_key()), (2, key));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_outlives_its_lease_returns_and_its_ack_is_too_late() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    let slow = member.next(1).await.unwrap().remove(0);
    let start = tokio::time::Instant::now();
    let again = member.next(1).await.unwrap().remove(0);
    assert_eq!(start.elapsed().as_secs(), 30);
    assert_eq!(again.attempt(), 2);
    assert_eq!(slow.ack(), Settlement::TooLate);
    assert_eq!(group.floor(), Position::START);
    assert_eq!(again.ack(), Settlement::Counted);
    assert_eq!(group.floor(), Position::FIRST);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lease_runs_anew() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    let delivery = member.next(1).await.unwrap().remove(0);
    for _ in 0..5 {
        tokio::time::sleep(20 * SECOND).await;
        assert_eq!(delivery.renew(), Settlement::Counted);
    }
    assert_eq!(delivery.ack(), Settlement::Counted);
}

#[tokio::test(start_paused = true)]
async fn no_lease_is_renewed_after_the_group_has_ended() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-2"]).await;
    let old = open(&log).await;
    let mut loser = old.join("loser").await.unwrap();
    let mut deliveries = loser.next(2).await.unwrap();
    let fenced = deliveries.remove(0);
    ack_all(deliveries);
    let new = open(&log).await;
    let mut winner = new.join("winner").await.unwrap();
    let closed = winner.next(1).await.unwrap().remove(0);
    assert!(matches!(loser.commit().await, Err(ConsumerError::Fenced { .. })));
    assert_eq!(fenced.renew(), Settlement::TooLate);
    assert_eq!(closed.renew(), Settlement::Counted);
    new.close().await.unwrap();
    assert_eq!(closed.renew(), Settlement::TooLate);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_event_holds_back_its_key_and_no_other() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-1", "a-2"]).await;
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    let mut deliveries = member.next(10).await.unwrap();
    assert_eq!(positions(&deliveries), [1, 3]);
    let start = tokio::time::Instant::now();
    assert_eq!(deliveries.remove(0).retry_after(60 * SECOND), Settlement::Counted);
    ack_all(deliveries);
    let again = member.next(10).await.unwrap();
    assert_eq!((start.elapsed().as_secs(), positions(&again)), (60, vec![1]));
    ack_all(again);
    assert_eq!(positions(&soon(&mut member).await), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_slot_moves_only_when_nothing_of_it_is_out_and_under_a_new_generation() {
    let log = WatchedLog::new();
    let streams: Vec<String> = (0..64).map(|n| format!("a-{n}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    append(&*log, &streams).await;
    let group = open(&log).await;
    let mut first = group.join("first").await.unwrap();
    let held = first.next(100).await.unwrap();
    assert_eq!(held.len(), 64);
    append(&*log, &streams).await;

    let mut second = group.join("second").await.unwrap();
    assert!(soon(&mut second).await.is_empty(), "every key is out, so nothing can move to it");
    let old = held[0].generation();
    ack_all(held);
    let taken = soon(&mut second).await;
    assert!(!taken.is_empty());
    let mut all = positions(&taken);
    for delivery in &taken {
        let state = log.state().await;
        assert!(delivery.generation() > old);
        assert_eq!(state.slot(delivery.slot()).generation, delivery.generation());
    }
    let kept = soon(&mut first).await;
    assert!(kept.iter().all(|delivery| delivery.generation() == old), "what stays is not claimed");
    all.extend(positions(&kept));
    all.sort_unstable();
    assert_eq!(all, (65..=128).collect::<Vec<u64>>());
    let status = group.status().await.unwrap();
    let slots: Vec<usize> = status.members.iter().map(|member| member.slots).collect();
    assert_eq!(slots, [512, 512]);
}

#[tokio::test(start_paused = true)]
async fn acks_of_the_last_owner_are_durable_before_the_slot_moves() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let group = open(&log).await;
    let mut first = group.join("first").await.unwrap();
    ack_all(first.next(10).await.unwrap());
    let _second = group.join("second").await.unwrap();
    // Leaving without a commit: the slots all go to the second member.
    drop(first);
    group.wait_for(Position::FIRST, SECOND).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert!(log.state().await.slot(event("a-1", "t").slot()).is_settled(Position::FIRST));
}

#[tokio::test(start_paused = true)]
async fn a_member_dropped_with_deliveries_hands_over_after_they_return() {
    let log = WatchedLog::new();
    let streams: Vec<String> = (0..16).map(|n| format!("a-{n}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    append(&*log, &streams).await;
    let group = open(&log).await;
    let mut first = group.join("first").await.unwrap();
    let held = first.next(100).await.unwrap();
    drop(first);
    let mut second = group.join("second").await.unwrap();
    assert!(soon(&mut second).await.is_empty());
    drop(held);
    let deliveries = soon(&mut second).await;
    assert_eq!(positions(&deliveries), (1..=16).collect::<Vec<u64>>());
    assert!(deliveries.iter().all(|delivery| delivery.attempt() == 2));
}

#[tokio::test(start_paused = true)]
async fn leaving_commits_and_lets_the_others_have_everything() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-2"]).await;
    let group = open(&log).await;
    let mut first = group.join("first").await.unwrap();
    ack_all(first.next(1).await.unwrap());
    first.leave().await.unwrap();
    assert!(log.state().await.slot(event("a-1", "t").slot()).is_settled(Position::FIRST));
    let mut second = group.join("second").await.unwrap();
    assert_eq!(positions(&soon(&mut second).await), [2]);
}

#[tokio::test(start_paused = true)]
async fn who_opens_a_group_elsewhere_takes_it_over_and_the_first_is_fenced() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-2"]).await;
    let old = open(&log).await;
    let mut loser = old.join("loser").await.unwrap();
    ack_all(loser.next(1).await.unwrap());

    let new = open(&log).await;
    let mut winner = new.join("winner").await.unwrap();
    let deliveries = winner.next(10).await.unwrap();
    assert_eq!(positions(&deliveries), [1, 2]);
    let error = loser.commit().await.unwrap_err();
    assert!(matches!(error, ConsumerError::Fenced { .. }), "{error}");
    assert_eq!(log.state().await.floor(), Position::START);
    assert!(matches!(loser.next(1).await, Err(ConsumerError::Fenced { .. })));
    assert!(matches!(old.status().await.unwrap().phase, GroupPhase::Stopped { .. }));
    ack_all(deliveries);
    winner.commit().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_notices_that_the_group_was_taken_over() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let old = open(&log).await;
    let mut loser = old.join("loser").await.unwrap();
    drop(loser.next(1).await.unwrap());
    let new = open(&log).await;
    let mut winner = new.join("winner").await.unwrap();
    let deliveries = winner.next(1).await.unwrap();
    // The old group would now hand slots over, and must not take them from the new one.
    let _another = old.join("another").await.unwrap();
    assert!(matches!(loser.next(1).await, Ok(_) | Err(ConsumerError::Fenced { .. })));
    tokio::time::sleep(SECOND).await;
    assert!(matches!(loser.next(1).await, Err(ConsumerError::Fenced { .. })));
    ack_all(deliveries);
    winner.commit().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn seeking_back_delivers_again_and_forgets_what_was_out() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-2", "a-3"]).await;
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    let mut deliveries = member.next(10).await.unwrap();
    let held = deliveries.remove(2);
    ack_all(deliveries);
    member.commit().await.unwrap();

    group.seek(Position::FIRST).await.unwrap();
    assert_eq!(held.ack(), Settlement::TooLate);
    let deliveries = soon(&mut member).await;
    assert_eq!(positions(&deliveries), [2, 3]);
    ack_all(deliveries);
    member.commit().await.unwrap();
    assert_eq!(group.floor(), Position::new(3));

    group.seek(Position::START).await.unwrap();
    assert_eq!(positions(&soon(&mut member).await), [1, 2, 3]);
    let error = group.seek(Position::new(4)).await.unwrap_err();
    let outside = matches!(error, ConsumerError::Log { source: GroupError::OutsideLog { .. }, .. });
    assert!(outside, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_filtered_group_advances_by_what_it_scanned() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "b-1", "a-2"]).await;
    let mut options = options();
    options.selection = Query::category(Category::new("c").unwrap());
    let group = open_with(&log, options).await;
    let mut member = group.join("m").await.unwrap();
    assert!(soon(&mut member).await.is_empty());
    assert_eq!(group.floor(), Position::new(3));
    let lag = group.lag().await.unwrap();
    assert_eq!((lag.events, lag.exact), (0, false));
    // Idle floors become durable by themselves, in one write for all slots.
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(log.state().await.floor(), Position::new(3));
    let commits = log.commits.lock().unwrap();
    assert_eq!(commits.len(), 1);
    assert_eq!(commits[0].len(), 1);
}

#[tokio::test(start_paused = true)]
async fn acks_that_nobody_committed_stay_so_while_idle_floors_move() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    ack_all(member.next(10).await.unwrap());
    tokio::time::sleep(20 * SECOND).await;
    let state = log.state().await;
    assert_eq!(state.floor(), Position::START);
    assert_eq!(state.runs().filter(|(_, progress)| progress.floor == Position::FIRST).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_commit_writes_only_the_slots_that_changed() {
    let log = WatchedLog::new();
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    append(&*log, &["a-1", "a-2", "a-3"]).await;
    ack_all(member.next(2).await.unwrap());
    member.commit().await.unwrap();
    member.commit().await.unwrap();
    ack_all(member.next(2).await.unwrap());
    member.commit().await.unwrap();
    let commits: Vec<usize> = log.commits.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(commits, [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn closing_commits_everything_so_that_a_restart_scans_nothing_again() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2", "b-1"]).await;
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    ack_all(member.next(10).await.unwrap());
    group.close().await.unwrap();
    group.close().await.unwrap();
    assert_eq!(log.state().await.floor(), last);
    assert!(matches!(member.next(1).await, Err(ConsumerError::Closed { .. })));
    assert!(matches!(group.join("n").await, Err(ConsumerError::Closed { .. })));
    let stopped = group.wait_for(last.next(), SECOND).await.unwrap_err();
    assert!(matches!(stopped, WaitError::Stopped { .. }), "{stopped}");
}

#[tokio::test(start_paused = true)]
async fn reading_ahead_is_bounded_and_goes_on_as_events_are_settled() {
    let log = WatchedLog::new();
    let streams: Vec<String> = (0..100).map(|n| format!("a-{n}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    append(&*log, &streams).await;
    let mut options = options();
    options.in_flight_max = 10;
    let group = open_with(&log, options).await;
    let mut member = group.join("m").await.unwrap();
    let mut seen = 0;
    while seen < 100 {
        let deliveries = member.next(100).await.unwrap();
        assert!(deliveries.len() <= 10);
        assert!(group.status().await.unwrap().buffered <= 10);
        seen += deliveries.len();
        ack_all(deliveries);
    }
    assert_eq!(group.floor(), Position::new(100));
}

#[tokio::test(start_paused = true)]
async fn the_log_is_read_once_for_all_members() {
    let log = WatchedLog::new();
    let streams: Vec<String> = (0..100).map(|n| format!("a-{n}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    append(&*log, &streams).await;
    let group = open(&log).await;
    let mut members = Vec::new();
    for n in 0..8 {
        members.push(group.join(&n.to_string()).await.unwrap());
    }
    let mut seen = 0;
    for member in &mut members {
        let deliveries = soon(member).await;
        seen += deliveries.len();
        ack_all(deliveries);
    }
    assert_eq!(seen, 100);
    assert_eq!(log.reads.load(Ordering::Relaxed), 1);
    assert_eq!(log.claims.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_refused_and_changed_nothing_goes_with_the_next() {
    let too_large = GroupError::TooLarge { group: options().name, bytes: 2, max: 1 };
    for refusal in
        [GroupError::StorageFull(io_error()), GroupError::NoSegment(io_error()), too_large]
    {
        let log = WatchedLog::new();
        append(&*log, &["a-1"]).await;
        let group = open(&log).await;
        let mut member = group.join("m").await.unwrap();
        ack_all(member.next(1).await.unwrap());
        log.commit_errors.lock().unwrap().push_back(refusal);
        let error = member.commit().await.unwrap_err();
        assert!(matches!(error, ConsumerError::Log { .. }), "{error}");
        member.commit().await.unwrap();
        assert!(log.state().await.slot(event("a-1", "t").slot()).is_settled(Position::FIRST));
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_ends_while_a_commit_begins_does_not_pass_for_committed() {
    // The ends come from other threads; here, at the worst moment: with the turn in hand, just
    // before the plan is drawn up.
    let ends: [fn(&mut coordinator::Coordinator); 2] = [coordinator::Coordinator::close, |group| {
        let group_name = GroupName::new("g").unwrap();
        group.stop(ConsumerError::Fenced { group: group_name, source: None });
    }];
    for end in ends {
        let log = WatchedLog::new();
        append(&*log, &["a-1"]).await;
        let group = open(&log).await;
        assert!(group.shared().plan(|group| group.plan_commit(None)).unwrap().is_empty());
        let mut member = group.join("m").await.unwrap();
        ack_all(member.next(1).await.unwrap());
        group.shared().with(end);
        let planned = group.shared().plan(|group| group.plan_commit(None));
        assert!(planned.is_err(), "{planned:?} would be stored, and the ack lost in silence");
        member.commit().await.unwrap_err();
        member.leave().await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_fails_for_a_while_stalls_the_group_and_no_more() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let errors = (0..3).map(|_| headwater_core::ReadError::Io(io_error()));
    log.read_errors.lock().unwrap().extend(errors);
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(matches!(group.status().await.unwrap().phase, GroupPhase::Stalled { .. }));
    ack_all(member.next(1).await.unwrap());
    assert!(matches!(group.status().await.unwrap().phase, GroupPhase::Running));
}

#[tokio::test(start_paused = true)]
async fn a_group_stays_stalled_until_both_reading_and_handing_over_succeed() {
    let log = WatchedLog::new();
    let (group, _members) = with_a_hand_over_that_fails(&log).await;
    log.read_errors.lock().unwrap().push_back(headwater_core::ReadError::Io(io_error()));
    append(&*log, &["b-1"]).await;
    tokio::time::sleep(SECOND).await;
    assert!(log.read_errors.lock().unwrap().is_empty());
    assert_eq!(group.status().await.unwrap().scanned, Position::new(33), "reading has recovered");
    let phase = group.status().await.unwrap().phase;
    let GroupPhase::Stalled { cause: ConsumerError::Log { .. } } = phase else {
        panic!("{phase:?}");
    };
    log.commit_errors.lock().unwrap().clear();
    tokio::time::sleep(10 * SECOND).await;
    assert!(matches!(group.status().await.unwrap().phase, GroupPhase::Running));
}

/// Lets a group fail to hand slots over until `log` has no more commit errors. The first member
/// keeps half of them; the second gets none so long.
async fn with_a_hand_over_that_fails(log: &Arc<WatchedLog>) -> (ConsumerGroup, [Member; 2]) {
    let streams: Vec<String> = (0..16).map(|n| format!("a-{n}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    append(&**log, &streams).await;
    let group = open(log).await;
    let mut first = group.join("first").await.unwrap();
    ack_all(first.next(100).await.unwrap());
    let errors = (0..1_000).map(|_| GroupError::StorageFull(io_error()));
    log.commit_errors.lock().unwrap().extend(errors);
    let second = group.join("second").await.unwrap();
    // The attempts double their distance: at 0, 0.1, 0.3, 0.7, 1.5, 3.1 and 6.3 seconds.
    tokio::time::sleep(4 * SECOND).await;
    append(&**log, &streams).await;
    (group, [first, second])
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_fails_holds_up_no_timer() {
    let log = WatchedLog::new();
    let (_group, [mut first, _second]) = with_a_hand_over_that_fails(&log).await;
    let mut deliveries = first.next(100).await.unwrap();
    let start = tokio::time::Instant::now();
    let delayed = deliveries.remove(0);
    let position = delayed.event().position.get();
    delayed.retry_after(SECOND / 10);
    let again = first.next(100).await.unwrap();
    assert_eq!(positions(&again), [position]);
    assert!(start.elapsed() < SECOND / 5, "it came after {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_fails_is_tried_again_ever_less_often() {
    let log = WatchedLog::new();
    let _held = with_a_hand_over_that_fails(&log).await;
    tokio::time::sleep(60 * SECOND).await;
    let attempts = 1_000 - log.commit_errors.lock().unwrap().len();
    assert!((10..=15).contains(&attempts), "{attempts} attempts in a minute");
}

#[tokio::test(start_paused = true)]
async fn damage_stops_the_group_and_every_waiter_learns_why() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    log.read_errors.lock().unwrap().push_back(headwater_core::ReadError::Closed);
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    let error = member.next(1).await.unwrap_err();
    assert!(matches!(error, ConsumerError::Read { .. }), "{error}");
    let error = group.wait_for(Position::FIRST, SECOND).await.unwrap_err();
    assert!(matches!(error, WaitError::Stopped { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn lag_is_measured_against_the_head_whether_anybody_works_or_not() {
    let log = WatchedLog::new();
    let group = open(&log).await;
    assert_eq!(group.lag().await.unwrap().events, 0);
    append(&*log, &["a-1", "a-2"]).await;
    let lag = group.lag().await.unwrap();
    assert_eq!((lag.events, lag.exact, lag.bytes), (2, true, Some(2)));
    assert!(matches!(group.status().await.unwrap().phase, GroupPhase::Idle));
    let mut member = group.join("m").await.unwrap();
    let mut deliveries = member.next(10).await.unwrap();
    let first = deliveries.remove(0);
    ack_all(deliveries);
    assert_eq!(group.lag().await.unwrap().events, 2, "an open event holds the floor");
    first.ack();
    assert_eq!(group.lag().await.unwrap(), Lag { exact: true, bytes: Some(0), ..Lag::default() });
}

#[tokio::test(start_paused = true)]
async fn waiting_names_where_the_group_is() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-2"]).await;
    let group = open(&log).await;
    let mut member = group.join("m").await.unwrap();
    ack_all(member.next(1).await.unwrap());
    let error = group.wait_for(Position::new(2), SECOND).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("position 2") && text.contains("is at 1"), "{text}");
    ack_all(member.next(1).await.unwrap());
    group.wait_for(Position::new(2), SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn times_beyond_the_clock_are_as_good_as_never() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let mut options = options();
    (options.lease, options.floor_interval) = (Duration::MAX, Duration::MAX);
    let group = open_with(&log, options).await;
    let mut member = group.join("m").await.unwrap();
    let delivery = member.next(1).await.unwrap().remove(0);
    assert_eq!(delivery.renew(), Settlement::Counted);
    assert_eq!(delivery.retry_after(Duration::MAX), Settlement::Counted);
    assert!(soon(&mut member).await.is_empty());
}

#[tokio::test]
async fn options_out_of_bounds_are_refused_with_the_remedy() {
    let log: Arc<dyn GroupLog> = WatchedLog::new();
    let mut options = options();
    options.in_flight_max = 0;
    let error = ConsumerGroup::open(log, options).await.unwrap_err();
    assert!(error.to_string().contains("in_flight_max is 0"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_in_parallel_lose_nothing_and_keep_the_order_of_keys() {
    let log = WatchedLog::new();
    let mut last = Position::START;
    for _ in 0..40 {
        let streams: Vec<String> = (0..16).map(|n| format!("a-{n}")).collect();
        let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
        last = append(&*log, &streams).await;
    }
    let group = open(&log).await;
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for n in 0..4 {
        let mut member = group.join(&n.to_string()).await.unwrap();
        let seen = Arc::clone(&seen);
        tasks.push(tokio::spawn(async move {
            while let Ok(deliveries) = member.next(3).await {
                for (n, delivery) in deliveries.into_iter().enumerate() {
                    let event = delivery.event().clone();
                    if n == 2 && delivery.attempt() == 1 {
                        continue;
                    }
                    seen.lock().unwrap().push((event.stream, event.revision));
                    assert_eq!(delivery.ack(), Settlement::Counted);
                    tokio::task::yield_now().await;
                }
                if member.commit().await.is_err() {
                    break;
                }
            }
        }));
    }
    group.wait_for(last, 60 * SECOND).await.unwrap();
    group.close().await.unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(log.state().await.floor(), last);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 640);
    let mut next = std::collections::HashMap::new();
    for (stream, revision) in &*seen {
        let next = next.entry(stream.clone()).or_insert(1);
        assert_eq!(revision.get(), *next);
        *next += 1;
    }
}
