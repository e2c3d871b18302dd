use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_core::{Query, RecordedEvent};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::time::advance;

use crate::bridge::{Bridge, BridgeOptions, Message, SendError, Target};
use crate::group::testing::{WatchedLog, append, open_with, options};
use crate::group::{FailurePolicy, GroupOptions, Hopeless, IdempotencyKey};
use crate::projection::{ApplyError, Projection};
use crate::reactor::{ReactError, Reactor, ReactorOptions, ReactorRunner};
use crate::runner::{ProjectionRunner, RunnerOptions};
use crate::sink::{MemorySink, MemoryTx};

const SECOND: Duration = Duration::from_secs(1);

/// Runs something by a clock that stands, and returns what was measured: by name, without what is zero.
fn measured<F: Future<Output = ()>>(work: impl FnOnce() -> F) -> BTreeMap<String, f64> {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(work());
    });
    let all = snapshotter.snapshot().into_vec().into_iter();
    let values = all.map(|(key, _, help, value)| {
        let name = key.key().name().to_owned();
        assert!(help.is_some(), "{name} is not described");
        assert_eq!(key.key().labels().count(), 1, "{name}");
        let value = match value {
            #[expect(clippy::cast_precision_loss, reason = "tests count to ten")]
            DebugValue::Counter(value) => value as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(values) => panic!("{name} is a histogram of {values:?}"),
        };
        (name, value)
    });
    values.filter(|(_, value)| *value != 0.0).collect()
}

fn expected(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
    values.iter().map(|&(name, value)| (format!("headwater_{name}"), value)).collect()
}

#[test]
fn what_becomes_of_each_delivery_is_counted() {
    let values = measured(|| async {
        let log = WatchedLog::new();
        append(&*log, &["a-1", "b-1", "c-1", "d-1", "e-1"]).await;
        let failure = FailurePolicy { attempts_max: Some(2), ..FailurePolicy::default() };
        let group = open_with(&log, GroupOptions { failure, lease: SECOND, ..options() }).await;
        let mut member = group.join("m").await.unwrap();
        let mut out = member.next(5).await.unwrap().into_iter();
        out.next().unwrap().ack();
        out.next().unwrap().release();
        out.next().unwrap().retry_after(Duration::ZERO);
        let [expires, parks] = [out.next().unwrap(), out.next().unwrap()];
        parks.park("made up");
        advance(2 * SECOND).await;
        drop(expires);
        // Three come again: one was released, one failed, one expired. The second attempt is the last.
        let again = member.next(5).await.unwrap();
        assert_eq!(again.len(), 3);
        for delivery in again {
            match delivery.attempt() {
                1 => delivery.ack(),
                _ => delivery.retry_after(Duration::ZERO),
            };
        }
        member.commit().await.unwrap();
        append(&*log, &["f-1"]).await;
        // The gauges are set when idle floors are stored.
        tokio::time::sleep(6 * SECOND).await;
        std::mem::forget((group, member));
    });
    let lag = values.get("headwater_group_lag_bytes").copied();
    let mut values = values;
    values.retain(|name, _| !name.ends_with("lag_bytes") && !name.ends_with("lag_seconds"));
    assert_eq!(
        values,
        expected(&[
            ("group_deliveries_total", 8.0),
            ("group_redeliveries_total", 2.0),
            ("group_acked_total", 2.0),
            ("group_failed_total", 4.0),
            ("group_leases_expired_total", 1.0),
            ("group_released_total", 1.0),
            ("group_parked_total", 3.0),
            ("group_parked_sequences", 3.0),
            // The member's, and that of idle floors.
            ("group_commits_total", 2.0),
            ("group_members", 1.0),
            ("group_slots", 1_024.0),
            ("group_buffered", 1.0),
            ("group_lag_events", 1.0),
        ])
    );
    assert!(lag.is_none_or(|bytes| bytes > 0.0));
}

#[test]
fn what_is_dropped_and_not_committed_is_counted() {
    let values = measured(|| async {
        let log = WatchedLog::new();
        append(&*log, &["a-1"]).await;
        let failure = FailurePolicy {
            attempts_max: Some(1),
            then: Hopeless::Drop,
            ..FailurePolicy::default()
        };
        let group = open_with(&log, GroupOptions { failure, ..options() }).await;
        let mut member = group.join("m").await.unwrap();
        member.next(1).await.unwrap().pop().unwrap().fail("made up");
        let full = headwater_core::GroupError::StorageFull(crate::group::testing::io_error());
        log.commit_errors.lock().unwrap().push_back(full);
        member.commit().await.unwrap_err();
        member.commit().await.unwrap();
        // Another one takes the group over.
        let other = open_with(&log, options()).await;
        let mut newer = other.join("n").await.unwrap();
        append(&*log, &["b-1"]).await;
        newer.next(1).await.unwrap().pop().unwrap().ack();
        std::mem::forget((group, member, other, newer));
    });
    let counts: Vec<_> = values.into_iter().filter(|(name, _)| name.ends_with("_total")).collect();
    assert_eq!(
        counts.into_iter().collect::<BTreeMap<_, _>>(),
        expected(&[
            ("group_deliveries_total", 2.0),
            ("group_acked_total", 1.0),
            ("group_failed_total", 1.0),
            ("group_dropped_total", 1.0),
            ("group_commits_total", 1.0),
            ("group_commits_failed_total", 1.0),
        ])
    );
}

#[test]
fn a_commit_that_is_fenced_is_counted_as_such() {
    let values = measured(|| async {
        let log = WatchedLog::new();
        append(&*log, &["a-1", "a-2"]).await;
        let old = open_with(&log, options()).await;
        let mut loser = old.join("loser").await.unwrap();
        loser.next(1).await.unwrap().pop().unwrap().ack();
        let new = open_with(&log, options()).await;
        let mut winner = new.join("winner").await.unwrap();
        assert_eq!(winner.next(2).await.unwrap().len(), 2);
        loser.commit().await.unwrap_err();
        std::mem::forget((old, loser, new, winner));
    });
    let values: BTreeMap<_, _> =
        values.into_iter().filter(|(name, _)| name.contains("_commits_")).collect();
    assert_eq!(values, expected(&[("group_commits_fenced_total", 1.0)]));
}

/// Counts events, and refuses one of them once.
struct Count(bool);

impl Projection for Count {
    type Sink = MemorySink<u64>;

    fn name(&self) -> &'static str {
        "count"
    }

    fn version(&self) -> u32 {
        1
    }

    fn selection(&self) -> Query {
        Query::all()
    }

    fn reset(&mut self, tx: &mut MemoryTx<'_, u64>) -> Result<(), ApplyError> {
        **tx = 0;
        Ok(())
    }

    fn apply(
        &mut self,
        tx: &mut MemoryTx<'_, u64>,
        event: &RecordedEvent,
    ) -> Result<(), ApplyError> {
        if event.position.get() == 5 && !std::mem::replace(&mut self.0, true) {
            return Err(ApplyError::message("made up"));
        }
        **tx += 1;
        Ok(())
    }
}

#[test]
fn what_a_projection_applies_and_how_far_it_is_behind_is_measured() {
    let values = measured(|| async {
        let log = WatchedLog::new();
        let last = append(&*log, &["a-1"; 7]).await;
        let options = RunnerOptions { batch_events: 3, ..RunnerOptions::default() };
        let running =
            ProjectionRunner::start(log.clone(), Count(false), MemorySink::new(), options).await;
        let running = running.unwrap();
        running.wait_for(last, SECOND).await.unwrap();
        running.rebuild().await.unwrap();
        running.wait_for(last, SECOND).await.unwrap();
        running.pause().await.unwrap();
        append(&*log, &["a-1"; 2]).await;
        tokio::time::sleep(6 * SECOND).await;
        running.shutdown().await.unwrap();
    });
    let mut values = values;
    values.retain(|name, _| !name.ends_with("lag_bytes") && !name.ends_with("lag_seconds"));
    assert_eq!(
        values,
        expected(&[
            ("projection_events_applied_total", 14.0),
            ("projection_batches_total", 6.0),
            ("projection_retries_total", 1.0),
            ("projection_rebuilds_total", 1.0),
            ("projection_position", 7.0),
            ("projection_lag_events", 2.0),
        ])
    );
}

/// Fails at one event.
struct Fails;

#[async_trait::async_trait]
impl Reactor for Fails {
    async fn react(&mut self, event: &RecordedEvent, _: &IdempotencyKey) -> Result<(), ReactError> {
        match event.position.get() {
            2 => Err(ReactError::message("made up")),
            _ => Ok(()),
        }
    }
}

#[test]
fn what_a_reactor_does_is_counted() {
    let values = measured(|| async {
        let log = WatchedLog::new();
        let last = append(&*log, &["a-1", "b-1", "c-1"]).await;
        let failure = FailurePolicy { attempts_max: Some(1), ..FailurePolicy::default() };
        let group = open_with(&log, GroupOptions { failure, ..options() }).await;
        let options = ReactorOptions::default();
        let running = ReactorRunner::start(&group, "r", |_| Fails, 1, options).await.unwrap();
        running.wait_for(last, SECOND).await.unwrap();
        running.shutdown().await.unwrap();
    });
    let values: BTreeMap<_, _> =
        values.into_iter().filter(|(name, _)| name.starts_with("headwater_reactor")).collect();
    assert_eq!(values, expected(&[("reactor_events_total", 2.0), ("reactor_failures_total", 1.0)]));
}

/// Refuses the second event; fails at the third and is away at the fourth, once each.
struct Moody(AtomicU64);

#[async_trait::async_trait]
impl Target for Moody {
    async fn send(&self, message: &Message<'_>) -> Result<(), SendError> {
        let position = message.event.position.get();
        let first = self.0.fetch_or(1 << position, Ordering::SeqCst) & (1 << position) == 0;
        match position {
            2 => Err(SendError::refused("made up")),
            3 if first => Err(SendError::failed("made up")),
            4 if first => Err(SendError::unavailable("made up")),
            _ => Ok(()),
        }
    }
}

#[test]
fn what_a_bridge_does_is_counted() {
    let values = measured(|| async {
        let log = WatchedLog::new();
        let last = append(&*log, &["a-1", "b-1", "c-1", "d-1", "e-1"]).await;
        let group = open_with(&log, options()).await;
        let target = Moody(AtomicU64::new(0));
        let bridge = Bridge::start(&group, "b", target, BridgeOptions::default()).await.unwrap();
        bridge.wait_for(last, 600 * SECOND).await.unwrap();
        bridge.shutdown().await.unwrap();
    });
    let values: BTreeMap<_, _> =
        values.into_iter().filter(|(name, _)| name.starts_with("headwater_bridge")).collect();
    assert_eq!(
        values,
        expected(&[
            ("bridge_forwarded_total", 4.0),
            ("bridge_failures_total", 1.0),
            ("bridge_refused_total", 1.0),
            ("bridge_unavailable_total", 1.0),
        ])
    );
}
