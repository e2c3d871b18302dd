//! A circuit breaker: whether a target may be asked at all. Pure, with time as an argument.
//!
//! The pattern is Michael Nygard's (*Release It!*, 2007). What is ours: a failure that is not the
//! event's fault opens the circuit at once, and of those that may be, different events count and
//! not attempts, so that one event that always fails does not look like a target that is down.

use std::collections::HashSet;
use std::time::Duration;

use headwater_core::Position;
use tokio::time::Instant;

use crate::clock::later;
use crate::retry::Backoff;

/// Which time of the circuit a message was sent in. What comes of messages of earlier ones says
/// nothing about the target as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

#[derive(Debug)]
pub(super) struct Circuit {
    failures_max: usize,
    backoff: Backoff,
    epoch: u64,
    /// Events that failed since the last one that did not.
    failed: HashSet<Position>,
    open: Option<Open>,
}

/// The target is left alone.
#[derive(Debug)]
struct Open {
    until: Instant,
    /// How often in a row.
    times: u32,
}

impl Circuit {
    pub(super) fn new(failures_max: usize, backoff: Backoff) -> Self {
        Self { failures_max, backoff, epoch: 0, failed: HashSet::new(), open: None }
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// Returns until when nothing is sent, if the circuit is open.
    pub(super) fn open_until(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.until)
    }

    /// Returns how many messages may be sent beside those under way: none while the circuit is
    /// open, and then one alone, to try.
    pub(super) fn room(&self, under_way: usize, max: usize, now: Instant) -> usize {
        match &self.open {
            None => max.saturating_sub(under_way),
            Some(open) if now < open.until => 0,
            Some(_) => usize::from(under_way == 0),
        }
    }

    /// Notes that the target answered, and closes the circuit.
    pub(super) fn answered(&mut self, epoch: Epoch) {
        if epoch == self.epoch() {
            self.failed.clear();
            self.open = None;
        }
    }

    /// Notes that an event failed, which may be its own fault. Returns for how long the circuit
    /// opens, if it does.
    pub(super) fn failed(&mut self, epoch: Epoch, at: Position, now: Instant) -> Option<Duration> {
        if epoch != self.epoch() {
            return None;
        }
        self.failed.insert(at);
        let opens = self.open.is_some() || self.failed.len() >= self.failures_max;
        opens.then(|| self.open(Duration::ZERO, now))
    }

    /// Notes that the target could not be asked. Returns for how long the circuit opens, unless it
    /// did so since the message was sent.
    pub(super) fn unavailable(
        &mut self,
        epoch: Epoch,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<Duration> {
        (epoch == self.epoch()).then(|| self.open(retry_after.unwrap_or_default(), now))
    }

    fn open(&mut self, at_least: Duration, now: Instant) -> Duration {
        let times = self.open.as_ref().map_or(0, |open| open.times).saturating_add(1);
        let wait = self.backoff.jittered(times).max(at_least);
        self.open = Some(Open { until: later(now, wait), times });
        self.failed.clear();
        self.epoch += 1;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn circuit() -> Circuit {
        Circuit::new(3, Backoff { first: 2 * SECOND, max: 8 * SECOND })
    }

    fn at(position: u64) -> Position {
        Position::new(position)
    }

    #[test]
    fn an_unavailable_target_is_left_alone_for_longer_each_time_and_then_tried_with_one() {
        let (mut circuit, mut now) = (circuit(), Instant::now());
        assert_eq!(circuit.room(1, 4, now), 3);
        for longest in [2, 4, 8, 8] {
            let wait = circuit.unavailable(circuit.epoch(), None, now).unwrap();
            assert!(wait <= longest * SECOND && wait >= longest * SECOND / 2, "{wait:?}");
            assert_eq!(circuit.room(0, 4, now), 0);
            now += wait;
            assert_eq!((circuit.room(0, 4, now), circuit.room(1, 4, now)), (1, 0));
        }
        circuit.answered(circuit.epoch());
        assert_eq!(circuit.room(0, 4, now), 4);
        assert!(circuit.unavailable(circuit.epoch(), None, now).unwrap() <= 2 * SECOND);
    }

    #[test]
    fn a_target_that_asks_for_time_gets_it() {
        let (mut circuit, now) = (circuit(), Instant::now());
        let wait = circuit.unavailable(circuit.epoch(), Some(60 * SECOND), now);
        assert_eq!(wait, Some(60 * SECOND));
        assert_eq!(circuit.open_until(), Some(now + 60 * SECOND));
    }

    #[test]
    fn what_was_sent_before_the_circuit_opened_neither_closes_it_nor_makes_it_wait_longer() {
        let (mut circuit, now) = (circuit(), Instant::now());
        let before = circuit.epoch();
        let wait = circuit.unavailable(before, None, now).unwrap();
        assert_eq!(circuit.unavailable(before, None, now), None);
        assert_eq!(circuit.failed(before, at(1), now), None);
        circuit.answered(before);
        assert_eq!(circuit.open_until(), Some(now + wait));
    }

    #[test]
    fn different_events_in_a_row_open_it_and_one_that_fails_often_does_not() {
        let (mut circuit, now) = (circuit(), Instant::now());
        for position in [1, 1, 1, 1, 2] {
            assert_eq!(circuit.failed(circuit.epoch(), at(position), now), None);
        }
        circuit.answered(circuit.epoch());
        for position in [1, 2] {
            assert_eq!(circuit.failed(circuit.epoch(), at(position), now), None);
        }
        let wait = circuit.failed(circuit.epoch(), at(3), now).unwrap();
        // The one that tries fails too.
        let longer = circuit.failed(circuit.epoch(), at(4), now + wait).unwrap();
        assert!(longer >= 2 * SECOND, "{longer:?}");
    }
}
