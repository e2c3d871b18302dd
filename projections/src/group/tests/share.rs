//! Work queues.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::{GroupLog, GroupName, Order, Position};

use super::super::testing::{WatchedLog, append};
use super::SECOND;
use crate::group::{Receipt, ReceiptError, Received, Settlement, ShareGroup, ShareOptions};

async fn queue(log: &Arc<WatchedLog>, options: ShareOptions) -> ShareGroup {
    let log: Arc<dyn GroupLog> = log.clone();
    ShareGroup::open(log, options).await.unwrap()
}

fn options() -> ShareOptions {
    ShareOptions::new(GroupName::new("g").unwrap())
}

fn positions(received: &[Received]) -> Vec<u64> {
    received.iter().map(|r| r.event().position.get()).collect()
}

#[tokio::test(start_paused = true)]
async fn events_of_one_key_are_out_beside_each_other_and_acknowledged_in_any_order() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-1", "a-1"]).await;
    let group = queue(&log, options()).await;
    let mut received = group.receive(10, SECOND).await.unwrap();
    assert_eq!(positions(&received), [1, 2, 3]);
    let receipts = [received.remove(2).into_receipt(), received.remove(1).into_receipt()];
    assert_eq!(group.ack(&receipts).await.unwrap(), [Ok(()), Ok(())]);
    drop((received, group));
    let group = queue(&log, options()).await;
    assert_eq!(positions(&group.receive(10, SECOND).await.unwrap()), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_waits_as_long_as_it_says_and_no_longer_than_until_there_is_something() {
    let log = WatchedLog::new();
    let group = queue(&log, options()).await;
    let begin = tokio::time::Instant::now();
    assert_eq!(group.receive(1, 20 * SECOND).await.unwrap().len(), 0);
    assert_eq!(begin.elapsed(), 20 * SECOND);
    let waiting = [0, 1].map(|_| {
        let group = group.clone();
        tokio::spawn(async move { group.receive(1, 20 * SECOND).await.unwrap() })
    });
    tokio::task::yield_now().await;
    append(&*log, &["a-1", "a-2"]).await;
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for receiver in waiting {
        let received = receiver.await.unwrap();
        seen.extend(positions(&received));
        kept.push(received);
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2], "one ring of the bell is heard by both");
    assert!(begin.elapsed() < 21 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_settles_once_and_expires_with_its_time() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-2"]).await;
    let group = queue(&log, options()).await;
    let receipts = group.receive(2, SECOND).await.unwrap().into_iter().map(Received::into_receipt);
    let [first, second]: [Receipt; 2] = receipts.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(first.to_string().parse(), Ok(first));
    assert_eq!(group.ack(&[first]).await.unwrap(), [Ok(())]);
    assert_eq!(
        group.ack(&[first, second]).await.unwrap(),
        [Err(ReceiptError::Settled { receipt: first }), Ok(())],
        "one that is refused does not keep the others"
    );

    append(&*log, &["a-3"]).await;
    let third = group.receive(1, SECOND).await.unwrap().remove(0).into_receipt();
    group.extend(third, 100 * SECOND).unwrap();
    tokio::time::sleep(99 * SECOND).await;
    assert_eq!(group.receive(1, Duration::ZERO).await.unwrap().len(), 0);
    tokio::time::sleep(2 * SECOND).await;
    let again = group.receive(1, SECOND).await.unwrap().remove(0);
    assert_eq!(again.receive_count(), 2);
    assert_eq!(group.extend(third, SECOND), Err(ReceiptError::Expired { receipt: third }));
    assert_ne!(again.receipt(), third);
    assert_eq!(again.ack(), Settlement::Counted);
}

#[tokio::test(start_paused = true)]
async fn receipts_of_another_group_or_an_earlier_life_are_refused() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let group = queue(&log, options()).await;
    let old = group.receive(1, SECOND).await.unwrap().remove(0).into_receipt();
    drop(group);
    let group = queue(&log, options()).await;
    let now = group.receive(1, SECOND).await.unwrap().remove(0);
    assert_eq!(now.receipt().position(), old.position());
    assert_eq!(group.ack(&[old]).await.unwrap(), [Err(ReceiptError::Expired { receipt: old })]);
    let other = queue(&log, ShareOptions::new(GroupName::new("other").unwrap())).await;
    let refused = other.ack(&[now.receipt()]).await.unwrap();
    assert!(matches!(refused[..], [Err(ReceiptError::OtherGroup { .. })]), "{refused:?}");
    for text in ["", "1-2-3-4", "1-2-3-4-5-6", "1-2-1024-4-5", "1-2-x-4-5", "1--2-3-4"] {
        let parsed: Result<Receipt, _> = text.parse();
        assert!(matches!(parsed, Err(ReceiptError::Malformed(_))), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_received_too_often_or_is_rejected_is_a_dead_letter_and_can_be_restored() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-1", "a-1"]).await;
    let group = queue(&log, ShareOptions { receive_count_max: Some(2), ..options() }).await;
    let mut received = group.receive(10, SECOND).await.unwrap();
    assert_eq!(received.remove(2).reject("not for us"), Settlement::Counted);
    assert_eq!(received.remove(1).release(SECOND), Settlement::Counted);
    let lost = received.remove(0).into_receipt();
    tokio::time::sleep(31 * SECOND).await;
    let again = group.receive(10, SECOND).await.unwrap();
    assert_eq!(again.iter().map(Received::receive_count).collect::<Vec<_>>(), [2, 2]);
    let receipts: Vec<Receipt> = again.into_iter().map(Received::into_receipt).collect();
    tokio::time::sleep(31 * SECOND).await;
    assert_eq!(group.receive(10, SECOND).await.unwrap().len(), 0);
    assert!(group.extend(lost, SECOND).is_err() && group.extend(receipts[0], SECOND).is_err());
    let dead = group.dead_letters().await.unwrap();
    let dead: Vec<_> = dead.iter().map(|d| (d.first.get(), d.cause.as_str())).collect();
    let ended = "its lease ended before it was settled";
    assert_eq!(dead, [(1, ended), (2, ended), (3, "not for us")]);
    group.commit().await.unwrap();
    assert_eq!(log.state().await.floor(), Position::new(3));

    group.restore(Position::new(2)).await.unwrap();
    let restored = group.receive(10, SECOND).await.unwrap();
    assert_eq!((positions(&restored), restored[0].receive_count()), (vec![2], 1));
    let receipts: Vec<Receipt> = restored.into_iter().map(Received::into_receipt).collect();
    assert_eq!(group.ack(&receipts).await.unwrap(), [Ok(())]);
    assert_eq!(log.state().await.parked().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn with_an_order_by_key_the_next_event_follows_the_acknowledgement() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-1", "b-1"]).await;
    let group = queue(&log, ShareOptions { order: Order::Key, ..options() }).await;
    let first = group.receive(10, SECOND).await.unwrap();
    assert_eq!(positions(&first), [1, 3]);
    assert_eq!(group.receive(10, SECOND).await.unwrap().len(), 0);
    let receipts: Vec<Receipt> = first.into_iter().map(Received::into_receipt).collect();
    group.ack(&receipts).await.unwrap();
    assert_eq!(positions(&group.receive(10, SECOND).await.unwrap()), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_busy_key_does_not_hold_up_the_others() {
    let log = WatchedLog::new();
    let mut streams = vec!["busy-1"; 50];
    streams.extend(["calm-1", "calm-2"]);
    append(&*log, &streams).await;
    let group = queue(&log, options()).await;
    let received = group.receive(4, SECOND).await.unwrap();
    assert_eq!(positions(&received), [1, 51, 52, 2]);
    let group = {
        drop((received, group));
        let unfair = ShareOptions { fair: false, ..options() };
        queue(&log, unfair).await
    };
    assert_eq!(positions(&group.receive(4, SECOND).await.unwrap()), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_is_cut_short_ends_then() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let group = queue(&log, options()).await;
    let receipt = group.receive(1, SECOND).await.unwrap().remove(0).into_receipt();
    tokio::time::sleep(SECOND).await;
    let begin = tokio::time::Instant::now();
    group.extend(receipt, SECOND).unwrap();
    assert_eq!(group.receive(1, 20 * SECOND).await.unwrap().len(), 1);
    assert_eq!(begin.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn more_dead_letters_than_are_in_flight_come_back_without_new_events() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"; 7]).await;
    let group = queue(&log, ShareOptions { in_flight_max: 2, ..options() }).await;
    for _ in 0..7 {
        let received = group.receive(1, SECOND).await.unwrap().remove(0);
        received.reject("later");
    }
    group.commit().await.unwrap();
    assert_eq!(group.group().redrive_all().await.unwrap(), 7);
    let mut seen = Vec::new();
    while seen.len() < 7 {
        let received = group.receive(1, 5 * SECOND).await.unwrap().remove(0);
        seen.extend(positions(std::slice::from_ref(&received)));
        received.ack();
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test(start_paused = true)]
async fn thousands_of_dead_letters_fit_into_commits_and_survive() {
    let log = WatchedLog::new();
    append(&*log, &vec!["a-1"; 3_000]).await;
    let group = queue(&log, options()).await;
    for _ in 0..3 {
        for received in group.receive(1_000, SECOND).await.unwrap() {
            received.reject("x".repeat(2_000));
        }
    }
    group.commit().await.unwrap();
    assert_eq!(log.state().await.parked().len(), 3_000);
    let most = log.parked_at_once.load(std::sync::atomic::Ordering::Relaxed);
    assert!(most <= 1_024, "{most} in one commit");
    drop(group);
    let group = queue(&log, options()).await;
    assert_eq!(group.receive(1, SECOND).await.unwrap().len(), 0);
    assert_eq!(group.dead_letters().await.unwrap().len(), 3_000);
}
