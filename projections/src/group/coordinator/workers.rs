//! Other processes that run the group too: which slots this one holds, and how it gets and loses
//! them.
//!
//! What the journal says comes in through [`reconcile`](Coordinator::reconcile). What has to be
//! written there goes out as slots to let go of, once nothing of them is out, and as a
//! [`HandOver`] of slots to claim: those that nobody owns, and those that change their member here.

use std::collections::BTreeSet;

use headwater_core::{Order, Position, SharedGroup, Slot, WorkerId};
use tokio::time::Instant;

use super::{Coordinator, HandOver, MemberId, Phase};
use crate::group::commit::CommitPlan;

impl Coordinator {
    /// Begins to read and deliver what will be held.
    pub(in crate::group) fn go_live(&mut self) {
        if matches!(self.phase, Phase::Cold) {
            self.phase = Phase::Live;
        }
    }

    /// Returns whether any slot is held here.
    pub(in crate::group) fn holds_any(&self) -> bool {
        self.held > 0
    }

    /// Returns whether every slot is.
    pub(in crate::group) fn holds_all(&self) -> bool {
        self.is_live() && self.held == self.slots.len()
    }

    /// Returns whether a slot is.
    pub(in crate::group) fn holds(&self, slot: Slot) -> bool {
        self.is_live() && self.slot(slot).held
    }

    /// Returns how many members there are.
    pub(in crate::group) fn member_count(&self) -> usize {
        self.members.len()
    }

    /// Sets until when the other processes leave to this one what it holds.
    pub(in crate::group) fn serve_until(&mut self, until: Option<Instant>) {
        self.serves_until = until;
        self.wake.members.extend(self.members.keys());
    }

    /// Returns whether the others may have taken away by now what is held here.
    pub(super) fn has_lapsed(&self, now: Instant) -> bool {
        self.serves_until.is_some_and(|until| until <= now)
    }

    /// Takes in how far the other processes are.
    pub(in crate::group) fn note_elsewhere(&mut self, group: &SharedGroup) {
        let not_held = |&slot: &Slot| !self.slot(slot).held;
        let floors = Slot::all().filter(not_held).map(|slot| group.state.slot(slot).floor);
        // Where everything is held here, nothing is elsewhere.
        self.elsewhere = Some(floors.min().unwrap_or(Position::MAX));
    }

    /// Takes in what the journal says: what was lost, what is wanted here, and what is to go.
    pub(in crate::group) fn reconcile(&mut self, group: &SharedGroup, me: Option<WorkerId>) {
        if !self.is_live() {
            return self.note_elsewhere(group);
        }
        let (state, workers) = (&group.state, &group.workers);
        let mine = |slot| me.is_some() && workers.owner(slot) == me;
        let lost = |&slot: &Slot| {
            let own = self.slot(slot);
            let moved = own.tracker.generation() != state.slot(slot).generation;
            own.held && (!mine(slot) || moved)
        };
        let lost: BTreeSet<Slot> = Slot::all().filter(lost).collect();
        self.lose(&lost);
        if self.paused != state.paused {
            self.pause(state.paused);
        }
        self.generation = state.generation;
        let wanted = if self.rules.order == Order::Global {
            vec![workers.wanted_alone(); self.slots.len()]
        } else {
            workers.wanted()
        };
        let mut changed = false;
        for (slot, to) in Slot::all().zip(wanted) {
            let free = workers.owner(slot).is_none() || mine(slot);
            let wanted = me.is_some() && to == me && free;
            if self.slot(slot).wanted != wanted {
                self.slot_mut(slot).wanted = wanted;
                changed = true;
                if !wanted {
                    self.aim(slot, None);
                }
            }
        }
        if changed {
            self.reassign();
        }
        self.note_elsewhere(group);
    }

    /// Forgets what belongs to others now. Deliveries of it that are out have lost their events.
    fn lose(&mut self, slots: &BTreeSet<Slot>) {
        if slots.is_empty() {
            return;
        }
        self.timers.retain(|_, (slot, _)| !slots.contains(slot));
        for &slot in slots {
            self.disconnect(slot);
            let own = self.slot_mut(slot);
            let (tracker, owner) = (std::mem::take(&mut own.tracker), own.owner.take());
            (own.held, own.claiming) = (false, false);
            self.held -= 1;
            let dirty = self.dirty.remove(&slot);
            if let Some(member) = owner.and_then(|owner| self.members.get_mut(&owner)) {
                member.in_flight -= tracker.in_flight();
                member.lost |= dirty;
            }
            for position in tracker.ready() {
                self.turns.forget(position);
            }
            for (position, bytes) in tracker.open_events() {
                self.count_out(position, bytes);
            }
            self.redriving.remove(&slot);
        }
        self.wake_reader();
    }

    /// Returns whether slots went to other processes with something that a member had acked, or any
    /// member, and forgets that.
    pub(in crate::group) fn take_lost(&mut self, member: Option<MemberId>) -> bool {
        let asked = |id: &MemberId| member.is_none_or(|member| member == *id);
        let members = self.members.iter_mut().filter(|(id, _)| asked(id));
        members.fold(false, |lost, (_, member)| lost | std::mem::take(&mut member.lost))
    }

    /// Takes the slots that are to go to other processes and have nothing out; no events of them
    /// go out until [`released`](Self::released) or [`keep`](Self::keep).
    pub(in crate::group) fn begin_release(&mut self) -> BTreeSet<Slot> {
        let goes = |&slot: &Slot| {
            let place = if self.rules.order == Order::Global { Slot::FIRST } else { slot };
            let own = self.slot(slot);
            own.held
                && own.target.is_none()
                && !own.claiming
                && self.slot(place).tracker.in_flight() == 0
        };
        let slots: BTreeSet<Slot> = Slot::all().filter(goes).collect();
        for &slot in &slots {
            self.slot_mut(slot).claiming = true;
        }
        slots
    }

    /// Returns the last progress of slots that are to go.
    pub(in crate::group) fn plan_release(&self, slots: &BTreeSet<Slot>) -> CommitPlan {
        let last = if self.rules.order == Order::Global { 1 } else { slots.len() };
        self.plan(slots.iter().copied().take(last))
    }

    /// Notes that slots were released.
    pub(in crate::group) fn released(&mut self, slots: &BTreeSet<Slot>) {
        self.lose(slots);
    }

    /// Notes that slots could not be released.
    pub(in crate::group) fn keep(&mut self, slots: &BTreeSet<Slot>) {
        for &slot in slots {
            self.slot_mut(slot).claiming = false;
            self.connect(slot);
        }
    }

    /// Gives slots that were claimed to their members. Those that were not held begin where the
    /// journal says they are, which the reader may have to go back for.
    pub(in crate::group) fn finish_claim(&mut self, hand_over: HandOver, group: &SharedGroup) {
        let new = hand_over.moves.iter().map(|&(slot, _)| slot);
        let new: Vec<Slot> = new.filter(|&slot| !self.slot(slot).held).collect();
        if let Some(lowest) = new.iter().map(|&slot| group.state.slot(slot).floor).min() {
            if self.holds_any() {
                for slot in &mut self.slots {
                    slot.known = slot.known.max(self.scanned);
                }
                self.scanned = self.scanned.min(lowest);
            } else {
                self.scanned = lowest;
            }
            self.load_slots(new.into_iter(), &group.state);
            self.epoch += 1;
            self.wake.reader = true;
            self.wake.reader_restart = true;
        }
        self.finish_hand_over(hand_over, group.state.generation);
        self.note_elsewhere(group);
    }
}
