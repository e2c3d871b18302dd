//! Parked sequences that are delivered again, or given up.

use std::sync::Arc;

use headwater_core::{Page, Position, Slot};
use tokio::time::Instant;

use super::{Coordinator, ReadPlan};
use crate::group::tracker::Standing;

impl Coordinator {
    /// Lets a parked sequence be delivered again, in order; later events of its key come behind
    /// it. Returns false if there is none that began with `first`.
    pub(in crate::group) fn redrive(&mut self, first: Position) -> bool {
        let Some(slot) = self.slot_of_parked(first) else { return false };
        if let Some(after) = self.slot_mut(slot).tracker.redrive(first) {
            self.dirty.insert(slot);
            self.redriving.insert(slot);
            self.read_again_after(after);
        }
        true
    }

    /// Gives a parked sequence up: all of it counts as settled. Returns false if there is none
    /// that began with `first`.
    pub(in crate::group) fn discard(&mut self, first: Position) -> bool {
        let Some(slot) = self.slot_of_parked(first) else { return false };
        let head = self.slot(slot).tracker.lanes().front(first);
        let head = head.map(|head| (head.event.position, head.standing));
        match head {
            Some((position, Standing::Waiting)) => self.withdraw(slot, position),
            Some((_, Standing::Delayed(timer))) => drop(self.timers.remove(&timer)),
            Some((_, Standing::InFlight(timer))) => {
                self.timers.remove(&timer);
                self.landed(slot);
            }
            None => {}
        }
        self.slot_mut(slot).tracker.discard(first);
        self.dirty.insert(slot);
        self.wake_reader();
        true
    }

    fn slot_of_parked(&self, first: Position) -> Option<Slot> {
        if !self.is_live() {
            return None;
        }
        let has = |slot: &Slot| self.slot(*slot).tracker.lanes().get(first).is_some();
        Slot::all().find(has)
    }

    /// Notes that sequences of a slot may need events to be read again.
    pub(super) fn note_unread(&mut self, slot: Slot) {
        if let Some(after) = self.slot(slot).tracker.lanes().unread() {
            self.read_again_after(after);
        }
    }

    fn read_again_after(&mut self, after: Position) {
        self.redrive_after = Some(self.redrive_after.map_or(after, |now| now.min(after)));
        self.wake_reader();
    }

    /// Wakes the reader if there is anything to read: also where it waits for new events, and
    /// there is room for old ones.
    pub(super) fn wake_reader(&mut self) {
        let plan = self.read_plan();
        self.wake.reader |= plan.is_some();
        self.wake.reader_restart |= plan.is_some_and(|plan| plan.again);
    }

    /// Returns what to read again, if there is room.
    pub(super) fn redrive_plan(&self) -> Option<ReadPlan> {
        let after = self.redrive_after?;
        let (events, _) = self.queued_again();
        let room = self.rules.in_flight_max.saturating_sub(events);
        let limit = room.min(self.room_by_bytes());
        (limit > 0).then_some(ReadPlan { again: true, after, limit, epoch: self.epoch })
    }

    /// Returns how many events of parked sequences are read again and not settled, and the bytes
    /// of their payloads.
    pub(super) fn queued_again(&self) -> (usize, usize) {
        let queued = self.redriving.iter().map(|&slot| self.slot(slot).tracker.lanes().queued());
        queued.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Takes in a page that was read again after a position.
    pub(super) fn absorb_again(&mut self, page: Page, after: Position, now: Instant) {
        for event in page.events {
            let (slot, position) = (self.place(&event), event.position);
            if self.redriving.contains(&slot)
                && self.slot_mut(slot).tracker.feed(&Arc::new(event), after)
            {
                self.announce(slot, position, now);
            }
        }
        let slots: Vec<Slot> = self.redriving.iter().copied().collect();
        self.redrive_after = None;
        for slot in slots {
            if self.slot_mut(slot).tracker.passed(after, page.scanned) {
                self.dirty.insert(slot);
            }
            if self.slot(slot).tracker.lanes().is_redriving() {
                self.note_unread(slot);
            } else {
                self.redriving.remove(&slot);
            }
        }
    }
}
