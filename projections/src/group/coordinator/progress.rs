//! Progress: handing slots over, what to commit, and beginning anew.

use headwater_core::{
    Generation, GroupState, Order, Parked, Position, SLOT_COUNT, Slot, SlotRange,
};

use super::{Coordinator, HandOver, MemberId, Phase};
use crate::group::commit::{CommitPlan, Entry};
use crate::group::tracker::Tracker;

impl Coordinator {
    /// Returns whether a slot can move now.
    pub(in crate::group) fn can_hand_over(&self) -> bool {
        matches!(self.phase, Phase::Cold | Phase::Live)
            && Slot::all().any(|slot| self.movable(slot).is_some())
    }

    /// Returns to whom a slot can move now: in global order all move together.
    fn movable(&self, slot: Slot) -> Option<MemberId> {
        let global = self.rules.order == Order::Global;
        let free = self.slot(if global { Slot::FIRST } else { slot }).is_free();
        self.slot(slot).target.filter(|_| free && self.slot(slot).is_free())
    }

    /// Takes the slots that can move now; no events of them go out until
    /// [`finish_hand_over`](Self::finish_hand_over) or [`abort_hand_over`](Self::abort_hand_over).
    pub(in crate::group) fn begin_hand_over(&mut self) -> Option<HandOver> {
        let cold = match self.phase {
            Phase::Cold => true,
            Phase::Live => false,
            Phase::Closed | Phase::Stopped(_) => return None,
        };
        let movable = |slot| Some((slot, self.movable(slot)?));
        let moves: Vec<(Slot, MemberId)> = Slot::all().filter_map(movable).collect();
        for &(slot, _) in &moves {
            self.slot_mut(slot).claiming = true;
        }
        (!moves.is_empty()).then_some(HandOver { cold, moves })
    }

    /// Loads the group's progress, as it is after the first claim.
    pub(in crate::group) fn warm_up(&mut self, state: &GroupState) {
        debug_assert_eq!(self.slots.len(), usize::from(SLOT_COUNT));
        self.load_progress(state);
        self.phase = Phase::Live;
        self.wake.reader = true;
    }

    /// Begins with what the log says.
    fn load_progress(&mut self, state: &GroupState) {
        self.scanned = state.floor();
        self.generation = state.generation;
        self.paused = state.paused;
        self.redriving.clear();
        self.redrive_after = None;
        self.load_slots(Slot::all(), state);
    }

    /// Begins with what the log says of some slots.
    pub(super) fn load_slots(&mut self, slots: impl Iterator<Item = Slot>, state: &GroupState) {
        let mut parked: Vec<Vec<Parked>> = vec![Vec::new(); self.slots.len()];
        for sequence in state.parked() {
            let slot = if self.rules.order == Order::Global { Slot::FIRST } else { sequence.slot };
            parked[usize::from(slot.get())].push(sequence.clone());
        }
        for slot in slots {
            let parked = std::mem::take(&mut parked[usize::from(slot.get())]);
            let progress = state.slot(slot).clone();
            let order = self.rules.order;
            let own = self.slot_mut(slot);
            let fresh = !std::mem::replace(&mut own.held, true);
            own.known = Position::START;
            own.tracker = Tracker::new(order, progress, parked);
            if own.tracker.lanes().is_redriving() {
                self.redriving.insert(slot);
                self.note_unread(slot);
            }
            self.held += usize::from(fresh);
        }
    }

    /// Gives the slots to their new owners, whose `generation` is durable.
    pub(in crate::group) fn finish_hand_over(
        &mut self,
        hand_over: HandOver,
        generation: Generation,
    ) {
        self.generation = generation;
        for (slot, member) in hand_over.moves {
            let state = self.slot_mut(slot);
            debug_assert_eq!(state.tracker.in_flight(), 0, "C1: nothing is in flight");
            state.claiming = false;
            state.owner = Some(member);
            state.tracker.set_generation(generation);
            self.connect(slot);
        }
        // The members may have changed meanwhile.
        self.wake.steward = true;
    }

    /// Gives up a hand-over; whether it was made durable does not matter.
    pub(in crate::group) fn abort_hand_over(&mut self, hand_over: HandOver) {
        for (slot, _) in hand_over.moves {
            self.slot_mut(slot).claiming = false;
            self.connect(slot);
        }
    }

    /// Returns the slots with acks that are not durable yet: those of one member, or all.
    pub(in crate::group) fn plan_commit(&self, member: Option<MemberId>) -> CommitPlan {
        let of_member = |slot: &&Slot| member.is_none() || self.slot(**slot).owner == member;
        self.plan(self.dirty.iter().filter(of_member).copied())
    }

    /// Returns the slots whose floor can move without new acks, so that a restart need not read
    /// again what lies behind. Slots with acks that are not durable are left to
    /// [`plan_commit`](Self::plan_commit).
    pub(in crate::group) fn plan_floors(&self, member: Option<MemberId>) -> CommitPlan {
        let of_member = |slot: &Slot| member.is_none() || self.slot(*slot).owner == member;
        let behind = |slot: &Slot| {
            let tracker = &self.slot(*slot).tracker;
            self.slot(*slot).held
                && !self.dirty.contains(slot)
                && tracker.floor(self.read_of(*slot)) > tracker.committed().floor
        };
        let last = if self.rules.order == Order::Global { 1 } else { SLOT_COUNT.into() };
        self.plan(Slot::all().take(last).filter(of_member).filter(behind))
    }

    /// Returns the progress of these slots.
    pub(super) fn plan(&self, slots: impl Iterator<Item = Slot>) -> CommitPlan {
        if !self.is_live() {
            return CommitPlan::default();
        }
        let entry = |slot| {
            let tracker = &self.slot(slot).tracker;
            let (parked, lanes) = tracker.lanes().uncommitted();
            Entry {
                slots: self.spread(slot),
                slot,
                changes: tracker.changes(),
                lanes,
                progress: tracker.progress(self.read_of(slot)),
                parked,
            }
        };
        CommitPlan::new(slots.map(entry).collect())
    }

    /// Notes that a plan is durable.
    pub(in crate::group) fn committed(&mut self, plan: CommitPlan) {
        for Entry { slot, changes, lanes, progress, .. } in plan.into_entries() {
            if self.slot_mut(slot).tracker.set_committed(progress, changes, lanes) {
                self.dirty.remove(&slot);
            }
        }
    }

    /// Returns the slots that the progress of one stands for.
    fn spread(&self, slot: Slot) -> SlotRange {
        if self.rules.order == Order::Global { SlotRange::all() } else { SlotRange::one(slot) }
    }

    /// Begins anew where the log says the group was set to. What was read is dropped, what is in
    /// flight is forgotten, and every slot has to be claimed again.
    pub(in crate::group) fn restart(&mut self, state: &GroupState) {
        self.epoch += 1;
        self.timers.clear();
        self.turns.clear();
        self.open.clear();
        self.open_bytes = 0;
        self.dirty.clear();
        for member in self.members.values_mut() {
            member.ready.clear();
            member.in_flight = 0;
        }
        for slot in &mut self.slots {
            slot.owner = None;
        }
        self.load_progress(state);
        self.wake.steward = true;
        self.wake.reader = true;
        self.wake.reader_restart = true;
    }
}
