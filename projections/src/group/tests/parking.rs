//! Failing, parking, delivering again, pausing, global order, delay.

use headwater_core::{
    Append, EventLog, EventType, Key, NewEvent, NewGroup, Order, ParkedState, StreamId, Timestamp,
};

use super::super::testing::{WatchedLog, append, event, open_with, options};
use super::{SECOND, ack_all, positions, soon};
use crate::group::{
    ConsumerError, ConsumerGroup, FailurePolicy, GroupOptions, GroupPhase, Hopeless, Member,
    Settlement,
};
use crate::retry::Backoff;
use headwater_core::{GroupError, GroupLog, GroupName, Position, Slot, Start};
use std::sync::Arc;
use std::time::Duration;

const P: fn(u64) -> Position = Position::new;

fn failing(attempts_max: u32, then: Hopeless) -> GroupOptions {
    let backoff = Backoff { first: SECOND / 10, max: SECOND / 5 };
    let attempts_max = Some(attempts_max);
    let failure = FailurePolicy { attempts_max, backoff, then, ..FailurePolicy::default() };
    GroupOptions { failure, ..options() }
}

async fn fail_all(member: &mut Member, cause: &str) {
    for delivery in soon(member).await {
        assert_eq!(delivery.fail(cause), Settlement::Counted);
    }
}

async fn opened(
    log: &Arc<WatchedLog>,
    options: GroupOptions,
    streams: &[&str],
) -> (ConsumerGroup, Member) {
    append(&**log, streams).await;
    let group = open_with(log, options).await;
    let member = group.join("m").await.unwrap();
    (group, member)
}

#[tokio::test(start_paused = true)]
async fn a_hopeless_event_is_parked_with_the_later_events_of_its_key_and_others_go_on() {
    let log = WatchedLog::new();
    let (group, mut member) =
        opened(&log, failing(2, Hopeless::Park), &["a-1", "b-1", "a-1"]).await;
    for delivery in soon(&mut member).await {
        if delivery.event().ordering_key() == "a-1" {
            delivery.fail("no such card");
        } else {
            delivery.ack();
        }
    }
    fail_all(&mut member, "no such card").await;
    let late = append(&*log, &["a-1", "b-1"]).await;
    assert_eq!(late, P(5));
    let rest = soon(&mut member).await;
    assert_eq!(positions(&rest), [5]);
    ack_all(rest);
    let [parked] = group.parked().await.unwrap().try_into().unwrap();
    assert_eq!((parked.first, parked.next, parked.through), (P(1), P(1), P(4)));
    assert_eq!((parked.attempts, parked.cause.as_str()), (2, "no such card"));
    assert_eq!(parked.key, Some(Key::new("a-1").unwrap()));
    let events = group.parked_events(P(1)).await.unwrap();
    assert_eq!(events.iter().map(|e| e.position.get()).collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(group.floor(), P(5), "what is parked does not hold up the floor");
    let status = group.status().await.unwrap();
    assert!(matches!(status.phase, GroupPhase::Parked), "{status:?}");
    assert_eq!(status.parked, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_survives_and_comes_again_in_order_before_newer_events_of_its_key() {
    let log = WatchedLog::new();
    let (group, mut member) = opened(&log, failing(1, Hopeless::Park), &["a-1", "a-1"]).await;
    fail_all(&mut member, "down").await;
    member.commit().await.unwrap();
    drop((member, group));

    let group = open_with(&log, failing(3, Hopeless::Park)).await;
    let mut member = group.join("m").await.unwrap();
    append(&*log, &["a-1"]).await;
    assert_eq!(positions(&soon(&mut member).await), [0_u64; 0]);
    assert_eq!(group.redrive_all().await.unwrap(), 1);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let next = soon(&mut member).await;
        seen.extend(positions(&next));
        assert_eq!(next[0].attempt(), 1, "attempts begin anew");
        ack_all(next);
    }
    assert_eq!(seen, [1, 2, 3]);
    append(&*log, &["a-1"]).await;
    let next = soon(&mut member).await;
    assert_eq!(positions(&next), [4], "the key is free again");
    ack_all(next);
    member.commit().await.unwrap();
    let state = log.state().await;
    assert_eq!(state.parked().len(), 0);
    assert_eq!(state.slot(Slot::of_key("a-1")).floor, P(4));
}

#[tokio::test(start_paused = true)]
async fn what_fails_again_is_parked_again_from_there_on() {
    let log = WatchedLog::new();
    let (group, mut member) =
        opened(&log, failing(1, Hopeless::Park), &["a-1", "a-1", "a-1"]).await;
    fail_all(&mut member, "first").await;
    group.redrive(P(1)).await.unwrap();
    ack_all(soon(&mut member).await);
    fail_all(&mut member, "second").await;
    let [parked] = group.parked().await.unwrap().try_into().unwrap();
    assert_eq!((parked.first, parked.next, parked.through), (P(1), P(2), P(3)));
    assert_eq!((parked.cause.as_str(), parked.state), ("second", ParkedState::Waiting));
    assert_eq!(soon(&mut member).await.len(), 0);
    group.discard(P(1)).await.unwrap();
    append(&*log, &["a-1"]).await;
    assert_eq!(positions(&soon(&mut member).await), [4]);
    let error = group.redrive(P(1)).await.unwrap_err();
    let not_parked = matches!(
        error,
        ConsumerError::Log { source: GroupError::NotParked { position: Position::FIRST, .. }, .. }
    );
    assert!(not_parked, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_group_without_members_can_be_told_what_becomes_of_its_parked_events() {
    let log = WatchedLog::new();
    let (group, mut member) = opened(&log, failing(1, Hopeless::Park), &["a-1", "b-1"]).await;
    fail_all(&mut member, "down").await;
    member.commit().await.unwrap();
    drop((member, group));
    let group = open_with(&log, failing(1, Hopeless::Park)).await;
    assert_eq!(group.parked().await.unwrap().len(), 2);
    group.discard(P(1)).await.unwrap();
    group.redrive(P(2)).await.unwrap();
    let mut member = group.join("m").await.unwrap();
    assert_eq!(positions(&soon(&mut member).await), [2]);
}

#[tokio::test(start_paused = true)]
async fn attempts_outlive_the_process_once_they_are_committed() {
    let log = WatchedLog::new();
    let (group, mut member) = opened(&log, failing(3, Hopeless::Park), &["a-1"]).await;
    fail_all(&mut member, "down").await;
    member.commit().await.unwrap();
    drop((member, group));
    let group = open_with(&log, failing(3, Hopeless::Park)).await;
    let mut member = group.join("m").await.unwrap();
    let again = soon(&mut member).await;
    assert_eq!(again[0].attempt(), 2);
    assert_eq!(again.into_iter().next().unwrap().release(), Settlement::Counted);
    assert_eq!(soon(&mut member).await[0].attempt(), 2, "what was released does not count");
}

#[tokio::test(start_paused = true)]
async fn a_hopeless_event_is_dropped_or_stops_the_group_where_the_policy_says_so() {
    let log = WatchedLog::new();
    let (group, mut member) = opened(&log, failing(1, Hopeless::Drop), &["a-1", "a-1"]).await;
    fail_all(&mut member, "down").await;
    assert_eq!(group.floor(), P(1));
    ack_all(soon(&mut member).await);
    assert_eq!((group.floor(), group.parked().await.unwrap().len()), (P(2), 0));

    let log = WatchedLog::new();
    let (group, mut member) = opened(&log, failing(1, Hopeless::Stop), &["a-1"]).await;
    fail_all(&mut member, "down").await;
    let error = member.next(1).await.unwrap_err();
    let stopped = matches!(
        &error,
        ConsumerError::Hopeless { position: Position::FIRST, attempts: 1, cause, .. }
            if cause == "down"
    );
    assert!(stopped, "{error}");
    assert_eq!(group.floor(), Position::START);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_old_is_not_delivered() {
    let log = WatchedLog::new();
    // Commit times are real, and this is less than the time since the append.
    let failure =
        FailurePolicy { age_max: Some(Duration::from_nanos(1)), ..FailurePolicy::default() };
    let (group, mut member) = opened(&log, GroupOptions { failure, ..options() }, &["a-1"]).await;
    assert_eq!(soon(&mut member).await.len(), 0);
    let [parked] = group.parked().await.unwrap().try_into().unwrap();
    assert_eq!((parked.first, parked.attempts), (P(1), 0));
}

#[tokio::test(start_paused = true)]
async fn a_paused_group_delivers_nothing_even_after_a_restart_until_it_is_resumed() {
    let log = WatchedLog::new();
    let (group, mut member) = opened(&log, options(), &["a-1", "b-1"]).await;
    let held = member.next(1).await.unwrap().remove(0);
    group.pause().await.unwrap();
    assert_eq!(soon(&mut member).await.len(), 0);
    assert_eq!(held.ack(), Settlement::Counted, "what is out can be settled");
    assert!(matches!(group.status().await.unwrap().phase, GroupPhase::Paused));
    group.close().await.unwrap();
    let group = open_with(&log, options()).await;
    let mut member = group.join("m").await.unwrap();
    assert_eq!(soon(&mut member).await.len(), 0);
    group.resume().await.unwrap();
    assert_eq!(positions(&soon(&mut member).await), [2]);
}

#[tokio::test(start_paused = true)]
async fn in_global_order_one_event_is_out_at_a_time_and_one_member_has_all() {
    let log = WatchedLog::new();
    let global =
        || GroupOptions { order: Order::Global, failure: FailurePolicy::never(), ..options() };
    let (group, mut first) = opened(&log, global(), &["a-1", "b-1", "c-1"]).await;
    let mut second = group.join("standby").await.unwrap();
    let out = soon(&mut first).await;
    assert_eq!(positions(&out), [1]);
    assert_eq!(soon(&mut second).await.len(), 0);
    ack_all(out);
    first.commit().await.unwrap();
    first.leave().await.unwrap();
    let out = soon(&mut second).await;
    assert_eq!(positions(&out), [2]);
    ack_all(out);
    second.commit().await.unwrap();
    assert_eq!(log.state().await.floor(), P(2));
    assert_eq!(log.state().await.runs().count(), 1);
    drop((second, group));
    let group = open_with(&log, global()).await;
    let mut member = group.join("m").await.unwrap();
    assert_eq!(positions(&soon(&mut member).await), [3]);
}

#[tokio::test(start_paused = true)]
async fn parking_by_itself_is_refused_in_global_order() {
    let log: Arc<dyn GroupLog> = WatchedLog::new();
    let options = GroupOptions { order: Order::Global, ..options() };
    let error = ConsumerGroup::open(log, options).await.unwrap_err();
    assert!(matches!(error, ConsumerError::InvalidOption { option: "then", .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_event_is_not_delivered_before_the_time_it_asks_for_or_the_groups_delay() {
    let log = WatchedLog::new();
    let in_an_hour = Timestamp::now().saturating_add(3_600 * SECOND);
    let later = event("a-1", "t").deliver_after(in_an_hour);
    let events: [NewEvent; 3] = [later, event("b-1", "t"), event("a-1", "t")];
    log.append(Append::new(events)).await.unwrap();
    let group = open_with(&log, GroupOptions { delay: 60 * SECOND, ..options() }).await;
    let mut member = group.join("m").await.unwrap();
    let begin = tokio::time::Instant::now();
    let first = member.next(10).await.unwrap();
    assert_eq!(positions(&first), [2]);
    assert!((59..=60).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    ack_all(first);
    let second = member.next(10).await.unwrap();
    assert_eq!(positions(&second), [1], "the key waits for its first event");
    assert!((3_590..=3_600).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    ack_all(second);
    assert_eq!(positions(&soon(&mut member).await), [3]);
}

#[tokio::test(start_paused = true)]
async fn bytes_in_flight_are_bounded_too() {
    let log = WatchedLog::new();
    let large =
        |n: u64| NewEvent { payload: vec![0; 1_000].into(), ..event(&format!("a-{n}"), "t") };
    log.append(Append::new((0..40).map(large))).await.unwrap();
    let options = GroupOptions { in_flight_bytes_max: 3_000, in_flight_max: 10, ..options() };
    let group = open_with(&log, options).await;
    let mut member = group.join("m").await.unwrap();
    let mut most = 0;
    let mut seen = 0;
    while seen < 40 {
        let out = soon(&mut member).await;
        // The first page may pass the bound: nothing is known of sizes yet.
        if seen >= 10 {
            most = most.max(group.status().await.unwrap().buffered);
        }
        seen += out.len();
        ack_all(out);
    }
    assert!((1..=3).contains(&most), "{most} events of 1,000 bytes");
}

#[tokio::test(start_paused = true)]
async fn a_group_can_be_moved_to_a_time() {
    let log = WatchedLog::new();
    let (group, mut member) = opened(&log, options(), &["a-1"]).await;
    ack_all(soon(&mut member).await);
    let time = Timestamp::now();
    append(&*log, &["a-1"]).await;
    ack_all(soon(&mut member).await);
    group.seek(Start::Time(time)).await.unwrap();
    assert_eq!(positions(&soon(&mut member).await), [2]);
    group.seek(Start::Beginning).await.unwrap();
    assert_eq!(positions(&soon(&mut member).await), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_another_one_is_not_opened_and_the_difference_is_named() {
    let log = WatchedLog::new();
    log.open_group(NewGroup::share(GroupName::new("g").unwrap())).await.unwrap();
    let log: Arc<dyn GroupLog> = log;
    let error = ConsumerGroup::open(log, options()).await.unwrap_err();
    let ConsumerError::Log { source: GroupError::Differs { differences, .. }, .. } = &error else {
        panic!("{error}")
    };
    assert!(differences.contains(r#"kind "share", not "consumer""#), "{differences}");
}

#[tokio::test(start_paused = true)]
async fn a_pattern_selects_by_payload_and_the_group_advances_by_what_it_scanned() {
    let log = WatchedLog::new();
    let order = |n: u64, total: u64| {
        let payload = serde_json::json!({"total": total});
        NewEvent::json(
            StreamId::new(format!("order-{n}")).unwrap(),
            EventType::new("order.placed").unwrap(),
            &payload,
        )
        .unwrap()
    };
    log.append(Append::new([order(1, 5), order(2, 500), order(3, 7)])).await.unwrap();
    let pattern = r#"{"type": ["order.placed"], "data": {"total": [{"numeric": [">=", 100]}]}}"#;
    let options = || GroupOptions { pattern: Some(pattern.parse().unwrap()), ..options() };
    let group = open_with(&log, options()).await;
    let mut member = group.join("m").await.unwrap();
    let out = soon(&mut member).await;
    assert_eq!(positions(&out), [2]);
    for delivery in out {
        delivery.park("by hand");
    }
    assert_eq!(group.parked_events(P(2)).await.unwrap().len(), 1);
    group.redrive(P(2)).await.unwrap();
    ack_all(soon(&mut member).await);
    assert_eq!(group.floor(), P(3));
    group.close().await.unwrap();
    let log: Arc<dyn GroupLog> = log;
    let error = ConsumerGroup::open(log, super::options()).await.unwrap_err();
    let ConsumerError::Log { source: GroupError::Differs { differences, .. }, .. } = &error else {
        panic!("{error}")
    };
    assert!(differences.starts_with("the pattern {"), "{differences}");
}
