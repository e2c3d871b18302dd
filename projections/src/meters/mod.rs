//! Metrics through the facade of the crate `metrics` (feature `metrics`), which costs nothing where
//! no recorder is installed. Handles are registered once, when something is opened or started.
//!
//! Labels are names that people give: of groups, projections, reactors and bridges. Nothing that
//! grows with the data is one.

#[cfg(not(feature = "metrics"))]
mod nothing;
mod table;

#[cfg(feature = "metrics")]
use metrics::{Counter, Gauge};

#[cfg(not(feature = "metrics"))]
use self::nothing::{Counter, Gauge};
use self::table::{counter, gauge};
use crate::group::GroupCounts;
use crate::lag::Lag;

/// Whether anything is measured.
pub(crate) const ON: bool = cfg!(feature = "metrics");

/// The metrics of a group, by this process.
pub(crate) struct GroupMeters {
    delivered: Counter,
    redelivered: Counter,
    acked: Counter,
    failed: Counter,
    expired: Counter,
    released: Counter,
    parked: Counter,
    dropped: Counter,
    commits: Counter,
    commits_refused: Counter,
    commits_failed: Counter,
    pub(crate) members: Gauge,
    pub(crate) slots: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) buffered: Gauge,
    pub(crate) parked_sequences: Gauge,
    lag: LagMeters,
}

impl GroupMeters {
    pub(crate) fn new(group: &str) -> Self {
        let counter = |name| counter(name, "group", group);
        let gauge = |name| gauge(name, "group", group);
        Self {
            delivered: counter("headwater_group_deliveries_total"),
            redelivered: counter("headwater_group_redeliveries_total"),
            acked: counter("headwater_group_acked_total"),
            failed: counter("headwater_group_failed_total"),
            expired: counter("headwater_group_leases_expired_total"),
            released: counter("headwater_group_released_total"),
            parked: counter("headwater_group_parked_total"),
            dropped: counter("headwater_group_dropped_total"),
            commits: counter("headwater_group_commits_total"),
            commits_refused: counter("headwater_group_commits_fenced_total"),
            commits_failed: counter("headwater_group_commits_failed_total"),
            members: gauge("headwater_group_members"),
            slots: gauge("headwater_group_slots"),
            in_flight: gauge("headwater_group_in_flight"),
            buffered: gauge("headwater_group_buffered"),
            parked_sequences: gauge("headwater_group_parked_sequences"),
            lag: LagMeters {
                events: gauge("headwater_group_lag_events"),
                bytes: gauge("headwater_group_lag_bytes"),
                seconds: gauge("headwater_group_lag_seconds"),
            },
        }
    }

    /// Adds what has happened between two moments.
    pub(crate) fn add(&self, before: &GroupCounts, now: &GroupCounts) {
        let add = |counter: &Counter, of: fn(&GroupCounts) -> u64| {
            let more = of(now) - of(before);
            if more > 0 {
                counter.increment(more);
            }
        };
        add(&self.delivered, |counts| counts.delivered);
        add(&self.redelivered, |counts| counts.redelivered);
        add(&self.acked, |counts| counts.acked);
        add(&self.failed, |counts| counts.failed);
        add(&self.expired, |counts| counts.expired);
        add(&self.released, |counts| counts.released);
        add(&self.parked, |counts| counts.parked);
        add(&self.dropped, |counts| counts.dropped);
    }

    pub(crate) fn committed(&self) {
        self.commits.increment(1);
    }

    /// Counts a commit that the log did not take, for others own the slots or for now.
    pub(crate) fn not_committed(&self, fenced: bool) {
        if fenced { &self.commits_refused } else { &self.commits_failed }.increment(1);
    }

    pub(crate) fn lag(&self, lag: &Lag) {
        self.lag.set(lag);
    }
}

/// The metrics of a projection.
pub(crate) struct ProjectionMeters {
    pub(crate) applied: Counter,
    pub(crate) batches: Counter,
    pub(crate) retries: Counter,
    pub(crate) rebuilds: Counter,
    position: Gauge,
    lag: LagMeters,
}

impl ProjectionMeters {
    pub(crate) fn new(projection: &str) -> Self {
        let counter = |name| counter(name, "projection", projection);
        let gauge = |name| gauge(name, "projection", projection);
        Self {
            applied: counter("headwater_projection_events_applied_total"),
            batches: counter("headwater_projection_batches_total"),
            retries: counter("headwater_projection_retries_total"),
            rebuilds: counter("headwater_projection_rebuilds_total"),
            position: gauge("headwater_projection_position"),
            lag: LagMeters {
                events: gauge("headwater_projection_lag_events"),
                bytes: gauge("headwater_projection_lag_bytes"),
                seconds: gauge("headwater_projection_lag_seconds"),
            },
        }
    }

    pub(crate) fn position(&self, position: headwater_core::Position) {
        self.position.set(as_f64(position.get()));
    }

    pub(crate) fn lag(&self, lag: &Lag) {
        self.lag.set(lag);
    }
}

/// The metrics of a reactor.
#[derive(Clone, Debug)]
pub(crate) struct ReactorMeters {
    pub(crate) reacted: Counter,
    pub(crate) failed: Counter,
}

impl ReactorMeters {
    pub(crate) fn new(reactor: &str) -> Self {
        let counter = |name| counter(name, "reactor", reactor);
        Self {
            reacted: counter("headwater_reactor_events_total"),
            failed: counter("headwater_reactor_failures_total"),
        }
    }
}

/// The metrics of a bridge.
pub(crate) struct BridgeMeters {
    pub(crate) forwarded: Counter,
    pub(crate) failed: Counter,
    pub(crate) refused: Counter,
    pub(crate) unavailable: Counter,
}

impl BridgeMeters {
    pub(crate) fn new(bridge: &str) -> Self {
        let counter = |name| counter(name, "bridge", bridge);
        Self {
            forwarded: counter("headwater_bridge_forwarded_total"),
            failed: counter("headwater_bridge_failures_total"),
            refused: counter("headwater_bridge_refused_total"),
            unavailable: counter("headwater_bridge_unavailable_total"),
        }
    }
}

struct LagMeters {
    events: Gauge,
    bytes: Gauge,
    seconds: Gauge,
}

impl LagMeters {
    fn set(&self, lag: &Lag) {
        self.events.set(as_f64(lag.events));
        if let Some(bytes) = lag.bytes {
            self.bytes.set(as_f64(bytes));
        }
        self.seconds.set(lag.time.as_secs_f64());
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact beyond 2^53")]
pub(crate) fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
#[cfg(feature = "metrics")]
mod tests;
