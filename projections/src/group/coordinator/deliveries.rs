//! Deliveries: handing events out, and what becomes of them; reading more where there is room.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::{Page, Position, RecordedEvent, Slot};
use tokio::time::Instant;

use super::{Coordinator, Dispatch, MemberId, ReadPlan};
use crate::clock::later;
use crate::group::tracker::{Offered, Timer};

/// Why an event that nobody delivered is given up.
const TOO_OLD: &str = "it is older than the group allows";
/// Why a delivery failed that nobody settled.
const LEASE_ENDED: &str = "its lease ended before it was settled";

/// A delivery: the slot and the event, and the number of its being handed out.
pub(in crate::group) type Place = (Slot, Position, u64);

impl Coordinator {
    /// Hands up to `max` events to a member, the oldest first.
    pub(in crate::group) fn next(
        &mut self,
        id: MemberId,
        max: usize,
        now: Instant,
    ) -> Vec<Dispatch> {
        self.expire(now);
        self.asked = Some(now);
        if self.paused || !self.is_live() || self.has_lapsed(now) {
            return Vec::new();
        }
        let mut dispatched = Vec::new();
        // A hopeless event on the way may stop the group.
        while dispatched.len() < max && self.is_live() {
            let Some(member) = self.members.get_mut(&id) else {
                break;
            };
            let Some((_, position, slot)) = member.ready.pop_first() else {
                break;
            };
            if self.is_too_old(slot, position) {
                self.turns.forget(position);
                self.give_up(slot, position, TOO_OLD.to_owned(), now);
                continue;
            }
            self.turns.served(position);
            self.members.get_mut(&id).expect("it was there").in_flight += 1;
            dispatched.push(self.dispatch(slot, position, now));
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.starved = dispatched.is_empty();
            self.wake.reader |= member.starved;
        }
        dispatched
    }

    /// Returns whether a member could take more at once.
    pub(in crate::group) fn has_ready(&self, id: MemberId, now: Instant) -> bool {
        let ready = self.members.get(&id).is_some_and(|member| !member.ready.is_empty());
        ready && !self.paused && !self.has_lapsed(now)
    }

    fn dispatch(&mut self, slot: Slot, position: Position, now: Instant) -> Dispatch {
        let lease = self.timer(later(now, self.rules.lease), slot, position);
        let tracker = &mut self.slot_mut(slot).tracker;
        let generation = tracker.generation();
        let taken = tracker.take(position, lease);
        let (event, attempt) = taken.expect("C2: a member's ready events are ready in their slot");
        self.counts.handed_out(attempt);
        Dispatch { event, slot, generation, attempt, token: lease.token }
    }

    pub(super) fn timer(&mut self, at: Instant, slot: Slot, position: Position) -> Timer {
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
        lease.filter(|_| self.is_live())
    }

    /// Ends a delivery's lease, if it still runs.
    pub(super) fn end_lease(&mut self, slot: Slot, at: Position, token: u64, now: Instant) -> bool {
        let Some(lease) = self.running(slot, at, token, now) else {
            return false;
        };
        self.timers.remove(&lease);
        self.landed(slot);
        true
    }

    /// Counts a delivery that is about to end.
    pub(super) fn landed(&mut self, slot: Slot) {
        let state = &self.slots[usize::from(slot.get())];
        if let Some(member) = state.owner.and_then(|owner| self.members.get_mut(&owner)) {
            member.in_flight -= 1;
        }
        self.wake.steward |= state.owner != state.target && state.tracker.in_flight() == 1;
    }

    /// Settles a delivery. Returns false, and does nothing, if it lost its event.
    pub(in crate::group) fn ack(&mut self, (slot, at, token): Place, now: Instant) -> bool {
        let running = self.end_lease(slot, at, token, now);
        if running {
            self.counts.acked += 1;
            self.settle(slot, at, now);
        }
        running
    }

    /// Settles an event whose delivery, if there was one, has landed.
    pub(super) fn settle(&mut self, slot: Slot, at: Position, now: Instant) {
        let event = self.slot(slot).tracker.look(at);
        let bytes = event.map_or(0, |(event, _)| event.payload.len());
        self.count_out(at, bytes);
        self.dirty.insert(slot);
        if let Some(next) = self.slot_mut(slot).tracker.settle(at) {
            self.announce(slot, next, now);
        }
        self.wake_reader();
    }

    /// Counts an event out that is settled or set aside, unless it is one of a parked sequence:
    /// those are not counted here (C3).
    pub(super) fn count_out(&mut self, at: Position, bytes: usize) {
        if self.open.remove(&at) {
            self.open_bytes -= bytes;
        }
    }

    /// Lets a delivery's lease end this long from now. Returns false, and does nothing, if it lost
    /// its event.
    pub(in crate::group) fn extend(
        &mut self,
        (slot, at, token): Place,
        by: Duration,
        now: Instant,
    ) -> bool {
        let Some(old) = self.running(slot, at, token, now) else {
            return false;
        };
        let lease = Timer { at: later(now, by), token };
        self.timers.remove(&old);
        self.timers.insert(lease, (slot, at));
        self.wake.steward |= self.armed.is_none_or(|armed| lease.at < armed);
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
            if self.slot(slot).tracker.lease(position, timer.token).is_some() {
                self.landed(slot);
                self.counts.expired += 1;
                self.failed(slot, position, LEASE_ENDED.to_owned(), Duration::ZERO, now);
            } else {
                self.slot_mut(slot).tracker.put_back(position, None);
                self.announce(slot, position, now);
            }
        }
    }

    /// Returns when [`expire`](Self::expire) has something to do next, and notes that somebody
    /// will call it then.
    pub(in crate::group) fn arm(&mut self) -> Option<Instant> {
        self.armed = self.timers.keys().next().map(|timer| timer.at);
        self.armed
    }

    /// Returns what to read next, if there is room: what parked sequences need first.
    pub(in crate::group) fn read_plan(&self) -> Option<ReadPlan> {
        if !self.is_live() || !self.holds_any() {
            return None;
        }
        self.redrive_plan().or_else(|| {
            let rules = &self.rules;
            let room = rules.in_flight_max.saturating_sub(self.open.len());
            // A page should be worth its call, unless somebody has nothing to do.
            let worth = room >= rules.in_flight_max.div_ceil(8)
                || self.members.values().any(|member| member.starved);
            let limit = room.min(self.room_by_bytes());
            (limit > 0 && worth).then_some(ReadPlan {
                again: false,
                after: self.scanned,
                limit,
                epoch: self.epoch,
            })
        })
    }

    /// Returns for how many events there is room in bytes, if they are as large as those of the
    /// last page.
    pub(super) fn room_by_bytes(&self) -> usize {
        let taken = self.open_bytes + self.queued_again().1;
        let room = self.rules.in_flight_bytes_max.saturating_sub(taken);
        // One at least, as long as there is any room: the size of the next is not known.
        room.div_ceil(self.event_bytes.max(1))
    }

    /// Takes in a page that was read by a plan, unless the plan has lost its meaning.
    pub(in crate::group) fn absorb(&mut self, page: Page, plan: ReadPlan, now: Instant) {
        if plan.epoch != self.epoch || !self.is_live() {
            return;
        }
        if plan.again {
            return self.absorb_again(page, plan.after, now);
        }
        if !page.events.is_empty() {
            let bytes: usize = page.events.iter().map(|event| event.payload.len()).sum();
            self.event_bytes = bytes.div_ceil(page.events.len());
        }
        for event in page.events {
            let (position, slot, bytes) = (event.position, self.place(&event), event.payload.len());
            if !self.slot(slot).held || position <= self.slot(slot).known {
                continue;
            }
            let not_before = self.not_before(&event, now);
            let offered = self.slot_mut(slot).tracker.offer(Arc::new(event), not_before);
            match offered {
                Offered::Settled => {}
                Offered::SetAside => {
                    self.dirty.insert(slot);
                    if self.redriving.contains(&slot) {
                        self.note_unread(slot);
                    }
                }
                Offered::Behind | Offered::Ready => {
                    self.open.insert(position);
                    self.open_bytes += bytes;
                }
            }
            if offered == Offered::Ready {
                self.announce(slot, position, now);
            }
        }
        self.scanned = self.scanned.max(page.scanned);
    }

    /// Returns before when an event must not be delivered.
    fn not_before(&self, event: &RecordedEvent, now: Instant) -> Option<Instant> {
        let due = event.deliver_after().unwrap_or(event.commit_time);
        let due = due.max(event.commit_time.saturating_add(self.rules.delay));
        let wait = due.saturating_since((self.rules.wall)());
        (!wait.is_zero()).then(|| later(now, wait))
    }
}
