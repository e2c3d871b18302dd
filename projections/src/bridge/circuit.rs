//! A circuit breaker: whether a target may be asked at all. Pure, with time as an argument.
//!
//! The pattern is Michael Nygard's (*Release It!*, 2007). What is ours: a failure that is not the
//! event's fault opens the circuit at once. Of those that may be, only events count that had not
//! failed before: an event that failed, and another was taken since, is known to be at fault
//! itself. And the target is tried with an event that has not failed, if there is one. So neither
//! one event that always fails nor many of them look like a target that is down for long.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use headwater_core::Position;
use tokio::time::Instant;

use crate::clock::later;
use crate::retry::Backoff;

/// From how many events the one that tries the target is chosen at most, and how many that failed
/// are remembered.
const CHOICE_MAX: usize = 1_024;

/// Which time of the circuit a message was sent in. What comes of messages of earlier ones says
/// nothing about the target as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

#[derive(Debug)]
pub(super) struct Circuit {
    failures_max: usize,
    backoff: Backoff,
    epoch: u64,
    /// Events that failed and were not answered since, as far as they are remembered.
    failed: HashSet<Position>,
    /// How many of them failed for the first time since the last answer.
    in_a_row: usize,
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
        Self { failures_max, backoff, epoch: 0, failed: HashSet::new(), in_a_row: 0, open: None }
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// Returns until when nothing is sent, if the circuit is open.
    pub(super) fn open_until(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.until)
    }

    /// Returns how many events to take beside those under way, none while the target is left
    /// alone. After that one is enough, of which more are taken to [choose](Self::choose) from.
    pub(super) fn room(&self, under_way: usize, max: usize, now: Instant) -> usize {
        match &self.open {
            None => max.saturating_sub(under_way),
            Some(open) if now < open.until => 0,
            Some(_) if under_way > 0 => 0,
            Some(_) if self.failed.is_empty() => 1,
            Some(_) => CHOICE_MAX,
        }
    }

    /// Returns which one of these events to try the target with, and `None` where all may be sent.
    pub(super) fn choose(&self, taken: impl IntoIterator<Item = Position>) -> Option<usize> {
        self.open.as_ref()?;
        let taken = taken.into_iter().enumerate();
        let fresh: Vec<usize> =
            taken.filter_map(|(index, at)| (!self.failed.contains(&at)).then_some(index)).collect();
        // Any of them: those that lie together may have the same fault.
        let random = usize::try_from(RandomState::new().hash_one(self.epoch) >> 32);
        let random = random.unwrap_or(0).checked_rem(fresh.len());
        Some(random.map_or(0, |random| fresh[random]))
    }

    /// Notes that the target answered an event, and closes the circuit.
    pub(super) fn answered(&mut self, epoch: Epoch, at: Position) {
        self.failed.remove(&at);
        if epoch == self.epoch() {
            self.in_a_row = 0;
            self.open = None;
        }
    }

    /// Notes that an event failed, which may be its own fault. Returns for how long the circuit
    /// opens, if it does.
    pub(super) fn failed(&mut self, epoch: Epoch, at: Position, now: Instant) -> Option<Duration> {
        if self.failed.len() >= CHOICE_MAX {
            // Of those that were parked since nothing was heard.
            self.failed.clear();
        }
        self.in_a_row += usize::from(self.failed.insert(at));
        if epoch != self.epoch() {
            return None;
        }
        let opens = self.open.is_some() || self.in_a_row >= self.failures_max;
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
            assert!(circuit.choose([at(1), at(2)]).is_some());
        }
        circuit.answered(circuit.epoch(), at(100));
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
        circuit.answered(before, at(2));
        assert_eq!(circuit.open_until(), Some(now + wait));
    }

    #[test]
    fn different_events_in_a_row_open_it_and_one_that_fails_often_does_not() {
        let (mut circuit, now) = (circuit(), Instant::now());
        for position in [1, 1, 1, 1, 2] {
            assert_eq!(circuit.failed(circuit.epoch(), at(position), now), None);
        }
        circuit.answered(circuit.epoch(), at(100));
        // They are known, and others were taken since.
        for position in [1, 2, 3, 4] {
            assert_eq!(circuit.failed(circuit.epoch(), at(position), now), None);
        }
        let wait = circuit.failed(circuit.epoch(), at(5), now).unwrap();
        // The one that tries fails too.
        let longer = circuit.failed(circuit.epoch(), at(6), now + wait).unwrap();
        assert!(longer >= 2 * SECOND, "{longer:?}");
    }

    #[test]
    fn the_target_is_tried_with_an_event_that_has_not_failed() {
        let (mut circuit, now) = (circuit(), Instant::now());
        assert_eq!(circuit.choose([at(1), at(2)]), None, "all may be sent");
        let before = circuit.epoch();
        let wait = circuit.unavailable(before, None, now).unwrap();
        assert_eq!(circuit.room(0, 4, now + wait), 1);
        for position in 1..=5 {
            // Those that were under way at the time are known too.
            circuit.failed(before, at(position), now);
        }
        assert_eq!(circuit.room(0, 4, now + wait), CHOICE_MAX);
        assert_eq!(circuit.choose((1..=6).map(at)), Some(5));
        assert_eq!(circuit.choose((1..=5).map(at)), Some(0));
        circuit.answered(before, at(2));
        assert_eq!(circuit.choose((1..=5).map(at)), Some(1), "it is known to be taken");
        circuit.answered(circuit.epoch(), at(6));
        assert_eq!(circuit.choose((1..=6).map(at)), None);
    }

    #[test]
    fn what_is_remembered_of_failures_is_bounded() {
        let (mut circuit, now) = (Circuit::new(usize::MAX, Backoff::default()), Instant::now());
        for position in 1..=5 * CHOICE_MAX as u64 {
            circuit.failed(circuit.epoch(), at(position), now);
            assert!(circuit.failed.len() <= CHOICE_MAX);
        }
    }
}
