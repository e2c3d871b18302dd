//! Deliveries: handing events out, and what becomes of them; reading more where there is room.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::{Page, Position, Slot};
use tokio::time::Instant;

use super::{Coordinator, Dispatch, MemberId, Phase, ReadPlan};
use crate::clock::later;
use crate::group::tracker::{Offered, Timer};

impl Coordinator {
    /// Hands up to `max` events to a member, the oldest first.
    pub(in crate::group) fn next(
        &mut self,
        id: MemberId,
        max: usize,
        now: Instant,
    ) -> Vec<Dispatch> {
        self.expire(now);
        if !matches!(self.phase, Phase::Live) {
            return Vec::new();
        }
        let mut dispatched = Vec::new();
        while dispatched.len() < max {
            let Some(member) = self.members.get_mut(&id) else {
                break;
            };
            let Some((position, slot)) = member.ready.pop_first() else {
                break;
            };
            member.in_flight += 1;
            dispatched.push(self.dispatch(slot, position, now));
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.starved = dispatched.is_empty();
            self.wake.reader |= member.starved;
        }
        dispatched
    }

    fn dispatch(&mut self, slot: Slot, position: Position, now: Instant) -> Dispatch {
        let lease = self.timer(later(now, self.lease), slot, position);
        let tracker = &mut self.slot_mut(slot).tracker;
        let generation = tracker.generation();
        let taken = tracker.take(position, lease);
        let (event, attempt) = taken.expect("C2: a member's ready events are ready in their slot");
        Dispatch { event, generation, attempt, token: lease.token }
    }

    fn timer(&mut self, at: Instant, slot: Slot, position: Position) -> Timer {
        self.tokens += 1;
        let timer = Timer { at, token: self.tokens };
        self.timers.insert(timer, (slot, position));
        self.wake.steward |= self.armed.is_none_or(|armed| at < armed);
        timer
    }

    /// Returns a delivery's lease, if it still runs. None does once the group has ended: the
    /// events may be another owner's by now.
    fn running(&mut self, slot: Slot, at: Position, token: u64, now: Instant) -> Option<Timer> {
        self.expire(now);
        let lease = self.slot(slot).tracker.lease(at, token);
        lease.filter(|_| matches!(self.phase, Phase::Live))
    }

    /// Ends a delivery's lease, if it still runs.
    fn end_lease(&mut self, slot: Slot, at: Position, token: u64, now: Instant) -> bool {
        let Some(lease) = self.running(slot, at, token, now) else {
            return false;
        };
        self.timers.remove(&lease);
        self.landed(slot);
        true
    }

    /// Counts a delivery that is about to end.
    fn landed(&mut self, slot: Slot) {
        let state = &self.slots[usize::from(slot.get())];
        if let Some(member) = state.owner.and_then(|owner| self.members.get_mut(&owner)) {
            member.in_flight -= 1;
        }
        self.wake.steward |= state.owner != state.target && state.tracker.in_flight() == 1;
    }

    /// Settles a delivery. Returns false, and does nothing, if it lost its event.
    pub(in crate::group) fn ack(
        &mut self,
        slot: Slot,
        at: Position,
        token: u64,
        now: Instant,
    ) -> bool {
        if !self.end_lease(slot, at, token, now) {
            return false;
        }
        self.open.remove(&at);
        self.dirty.insert(slot);
        if let Some(next) = self.slot_mut(slot).tracker.settle(at) {
            self.announce(slot, next);
        }
        self.wake.reader |= self.read_plan().is_some();
        true
    }

    /// Takes a delivery back, to be handed out again at once or after `delay`. Returns false, and
    /// does nothing, if it lost its event.
    pub(in crate::group) fn put_back(
        &mut self,
        slot: Slot,
        at: Position,
        token: u64,
        delay: Duration,
        now: Instant,
    ) -> bool {
        if !self.end_lease(slot, at, token, now) {
            return false;
        }
        if delay.is_zero() {
            self.slot_mut(slot).tracker.put_back(at, None);
            self.announce(slot, at);
        } else {
            let until = self.timer(later(now, delay), slot, at);
            self.slot_mut(slot).tracker.put_back(at, Some(until));
        }
        true
    }

    /// Starts a delivery's lease anew. Returns false, and does nothing, if it lost its event.
    pub(in crate::group) fn renew(
        &mut self,
        slot: Slot,
        at: Position,
        token: u64,
        now: Instant,
    ) -> bool {
        let Some(old) = self.running(slot, at, token, now) else {
            return false;
        };
        let lease = Timer { at: later(now, self.lease), token };
        self.timers.remove(&old);
        self.timers.insert(lease, (slot, at));
        self.slot_mut(slot).tracker.renew(at, lease);
        #[cfg(test)]
        {
            self.renewals += 1;
        }
        true
    }

    /// Makes ready what was delayed or leased until now.
    pub(in crate::group) fn expire(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().at <= now
        {
            let (timer, (slot, position)) = entry.remove_entry();
            let leased = self.slot(slot).tracker.lease(position, timer.token).is_some();
            if leased {
                self.landed(slot);
            }
            self.slot_mut(slot).tracker.put_back(position, None);
            self.announce(slot, position);
        }
    }

    /// Returns when [`expire`](Self::expire) has something to do next, and notes that somebody
    /// will call it then.
    pub(in crate::group) fn arm(&mut self) -> Option<Instant> {
        self.armed = self.timers.keys().next().map(|timer| timer.at);
        self.armed
    }

    /// Returns what to read next, if there is room.
    pub(in crate::group) fn read_plan(&self) -> Option<ReadPlan> {
        let room = self.in_flight_max.saturating_sub(self.open.len());
        // A page should be worth its call, unless somebody has nothing to do.
        let worth =
            room >= self.in_flight_max.div_ceil(8) || self.members.values().any(|m| m.starved);
        let live = matches!(self.phase, Phase::Live);
        (live && room > 0 && worth).then_some(ReadPlan {
            after: self.scanned,
            limit: room,
            epoch: self.epoch,
        })
    }

    /// Takes in a page that was read by a plan, unless the plan has lost its meaning.
    pub(in crate::group) fn absorb(&mut self, page: Page, plan: ReadPlan) {
        if plan.epoch != self.epoch || !matches!(self.phase, Phase::Live) {
            return;
        }
        for event in page.events {
            let (position, slot) = (event.position, event.slot);
            let offered = self.slot_mut(slot).tracker.offer(Arc::new(event));
            if offered != Offered::Settled {
                self.open.insert(position);
            }
            if offered == Offered::Ready {
                self.announce(slot, position);
            }
        }
        self.scanned = self.scanned.max(page.scanned);
    }
}
