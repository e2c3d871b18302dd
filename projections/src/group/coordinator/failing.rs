//! Deliveries that fail: trying again, and giving up.

use std::time::Duration;

use headwater_core::{Parked, Position, Slot};
use tokio::time::Instant;

use super::{Coordinator, Place};
use crate::clock::later;
use crate::group::error::ConsumerError;
use crate::group::policy::Hopeless;

impl Coordinator {
    /// Takes back a delivery that failed, to be handed out again after `delay`, unless that was
    /// the last attempt. Returns false, and does nothing, if it lost its event.
    pub(in crate::group) fn fail(
        &mut self,
        (slot, at, token): Place,
        cause: String,
        delay: Duration,
        now: Instant,
    ) -> bool {
        let running = self.end_lease(slot, at, token, now);
        if running {
            self.failed(slot, at, cause, delay, now);
        }
        running
    }

    /// Takes back a delivery that nobody has worked on: it does not count as an attempt. Returns
    /// false, and does nothing, if it lost its event.
    pub(in crate::group) fn release(&mut self, (slot, at, token): Place, now: Instant) -> bool {
        let running = self.end_lease(slot, at, token, now);
        if running {
            self.counts.released += 1;
            self.slot_mut(slot).tracker.untried(at);
            self.slot_mut(slot).tracker.put_back(at, None);
            self.announce(slot, at, now);
        }
        running
    }

    /// Takes back a delivery that is hopeless. Returns false, and does nothing, if it lost its event.
    pub(in crate::group) fn abandon(
        &mut self,
        (slot, at, token): Place,
        cause: String,
        now: Instant,
    ) -> bool {
        let running = self.end_lease(slot, at, token, now);
        if running {
            self.counts.failed += 1;
            self.dirty.insert(slot);
            self.give_up(slot, at, cause, now);
        }
        running
    }

    /// Sets a delivery aside with the later events of its key. Returns false, and does nothing, if
    /// it lost its event.
    pub(in crate::group) fn park(
        &mut self,
        (slot, at, token): Place,
        cause: String,
        now: Instant,
    ) -> bool {
        let running = self.end_lease(slot, at, token, now);
        if running {
            self.set_aside(slot, at, cause, now);
        }
        running
    }

    /// Deals with an event whose delivery has landed in vain.
    pub(super) fn failed(
        &mut self,
        slot: Slot,
        at: Position,
        cause: String,
        delay: Duration,
        now: Instant,
    ) {
        self.counts.failed += 1;
        self.dirty.insert(slot);
        let attempts = self.slot(slot).tracker.look(at).map_or(0, |(_, attempts)| attempts);
        let hopeless = self.rules.failure.attempts_max.is_some_and(|max| attempts >= max);
        if hopeless || self.is_too_old(slot, at) {
            self.give_up(slot, at, cause, now);
        } else if delay.is_zero() {
            self.slot_mut(slot).tracker.put_back(at, None);
            self.announce(slot, at, now);
        } else {
            let until = self.timer(later(now, delay), slot, at);
            self.slot_mut(slot).tracker.put_back(at, Some(until));
        }
    }

    /// Returns whether an event has become too old to be delivered.
    pub(super) fn is_too_old(&self, slot: Slot, at: Position) -> bool {
        let Some(max) = self.rules.failure.age_max else { return false };
        let event = self.slot(slot).tracker.look(at);
        event
            .is_some_and(|(event, _)| (self.rules.wall)().saturating_since(event.commit_time) > max)
    }

    /// Does with a hopeless event what the policy says.
    pub(super) fn give_up(&mut self, slot: Slot, at: Position, cause: String, now: Instant) {
        let attempts = self.slot(slot).tracker.look(at).map_or(0, |(_, attempts)| attempts);
        match self.rules.failure.then {
            Hopeless::Park => self.set_aside(slot, at, cause, now),
            Hopeless::Drop => {
                let group = &self.rules.group;
                tracing::warn!(%group, position = %at, attempts, %cause, "an event is dropped");
                self.counts.dropped += 1;
                self.settle(slot, at, now);
            }
            Hopeless::Stop => {
                self.slot_mut(slot).tracker.put_back(at, None);
                let (group, position) = (self.rules.group.clone(), at);
                self.stop(ConsumerError::Hopeless { group, position, attempts, cause });
            }
        }
    }

    fn set_aside(&mut self, slot: Slot, at: Position, cause: String, now: Instant) {
        let group = &self.rules.group;
        tracing::warn!(%group, position = %at, %cause, "a sequence is parked");
        self.counts.parked += 1;
        let since = (self.rules.wall)();
        let out = self.slot_mut(slot).tracker.park(at, slot, (cause, since));
        for (position, bytes) in out.events {
            self.count_out(position, bytes);
        }
        if let Some(next) = out.next {
            self.announce(slot, next, now);
        }
        self.dirty.insert(slot);
        self.wake_reader();
    }

    /// Goes through everything that is parked.
    pub(in crate::group) fn parked(&self) -> Vec<Parked> {
        if !self.is_live() {
            return Vec::new();
        }
        self.slots.iter().flat_map(|slot| slot.tracker.lanes().iter()).cloned().collect()
    }
}
