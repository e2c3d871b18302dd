//! Consecutive events of one key, in a member's hand together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{Position, RecordedEvent};

use super::coordinator::{Follower, Rest, Room};
use super::delivery::{Delivery, IdempotencyKey, Settlement};

/// Consecutive events of one key that were handed to a member together, until they are settled or
/// their lease ends; where the group keeps no order, and of a sequence that is re-driven, each event
/// is a run of its own.
///
/// They have one lease. Settling is cumulative, for the later ones count only behind the earlier
/// ones: the first so many are handled, and the next one failed or was not touched. Dropping a run
/// is a failed attempt at its first event.
#[must_use = "a dropped run is delivered again"]
pub struct Run {
    first: Delivery,
    rest: Vec<Follower>,
}

impl Run {
    pub(super) fn new(first: Delivery, rest: Vec<Follower>) -> Self {
        Self { first, rest }
    }

    /// Returns how many events it has, at least one.
    #[expect(clippy::len_without_is_empty, reason = "no run is empty")]
    pub fn len(&self) -> usize {
        1 + self.rest.len()
    }

    /// Goes through the events in order.
    pub fn events(&self) -> impl Iterator<Item = &Arc<RecordedEvent>> {
        std::iter::once(self.first.shared_event()).chain(self.rest.iter().map(|(event, _)| event))
    }

    /// Returns which attempt this is at the event with this index, from 1.
    pub fn attempt(&self, index: usize) -> u32 {
        match index.checked_sub(1) {
            None => self.first.attempt(),
            Some(behind) => self.rest.get(behind).map_or(1, |(_, attempt)| *attempt),
        }
    }

    /// Returns what names the handling of an event of this run by its group.
    pub fn idempotency_key(&self, event: &RecordedEvent) -> IdempotencyKey {
        IdempotencyKey::new(self.first.group_id(), event.id)
    }

    /// Says that all events are handled for good. It is durable with the next commit.
    pub fn ack(self) -> Settlement {
        let all = self.len();
        self.ack_first(all)
    }

    /// Says that the first `count` events are handled for good, and gives the others back untouched,
    /// to be delivered again at once.
    pub fn ack_first(self, count: usize) -> Settlement {
        self.settle(count, Rest::Release)
    }

    /// Says that the first `count` events are handled for good and that the next one could not be:
    /// it is delivered again after the group's backoff, or is parked, dropped or stops the group if
    /// that was the last attempt. The others wait behind it, untouched.
    pub fn fail_after_first(self, count: usize, cause: impl fmt::Display) -> Settlement {
        let delay = self.first.backoff(self.attempt(count));
        self.fail_with_delay(count, cause, delay)
    }

    /// As [`fail_after_first`](Self::fail_after_first), with a wait of your own.
    pub fn fail_with_delay(
        self,
        count: usize,
        cause: impl fmt::Display,
        delay: Duration,
    ) -> Settlement {
        self.settle(count, Rest::Fail { cause: cause.to_string(), delay })
    }

    /// Gives all events back untouched, to be delivered again at once.
    pub fn release(self) -> Settlement {
        self.ack_first(0)
    }

    /// Starts the lease anew, for work that takes longer.
    pub fn renew(&self) -> Settlement {
        self.first.renew()
    }

    /// Takes in events of the key that have come meanwhile, as there is room.
    pub(crate) fn grow(&mut self, room: &mut Room) {
        let last = self.rest.last().map_or(self.first.event().position, |(e, _)| e.position);
        self.rest.extend(self.first.followers(last, room));
    }

    fn settle(mut self, count: usize, rest: Rest) -> Settlement {
        let followers: Vec<Position> = self.rest.iter().map(|(event, _)| event.position).collect();
        let done = count.min(self.len());
        self.first
            .settle_by(|group, place, now| group.settle_run(place, &followers, done, rest, now))
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("first", &self.first)
            .field("behind", &self.rest.len())
            .finish_non_exhaustive()
    }
}
