//! Progress: handing slots over, what to commit, and beginning anew.

use headwater_core::{Generation, GroupState, Position, SLOT_COUNT, Slot, SlotProgress};

use super::{Coordinator, HandOver, MemberId, Phase};
use crate::group::commit::CommitPlan;
use crate::group::tracker::Tracker;

impl Coordinator {
    /// Returns whether a slot can move now.
    pub(in crate::group) fn can_hand_over(&self) -> bool {
        matches!(self.phase, Phase::Cold | Phase::Live)
            && self.slots.iter().any(|slot| slot.movable().is_some())
    }

    /// Takes the slots that can move now; no events of them go out until
    /// [`finish_hand_over`](Self::finish_hand_over) or [`abort_hand_over`](Self::abort_hand_over).
    pub(in crate::group) fn begin_hand_over(&mut self) -> Option<HandOver> {
        let cold = match self.phase {
            Phase::Cold => true,
            Phase::Live => false,
            Phase::Closed | Phase::Stopped(_) => return None,
        };
        let movable = |slot| Some((slot, self.slot(slot).movable()?));
        let moves: Vec<(Slot, MemberId)> = Slot::all().filter_map(movable).collect();
        for &(slot, _) in &moves {
            self.slot_mut(slot).claiming = true;
        }
        (!moves.is_empty()).then_some(HandOver { cold, moves })
    }

    /// Loads the group's progress, as it is after the first claim.
    pub(in crate::group) fn warm_up(&mut self, state: &GroupState) {
        debug_assert_eq!(self.slots.len(), usize::from(SLOT_COUNT));
        for (slot, own) in Slot::all().zip(&mut self.slots) {
            own.tracker = Tracker::new(state.slot(slot).clone());
        }
        self.scanned = state.floor();
        self.generation = state.generation;
        self.phase = Phase::Live;
        self.wake.reader = true;
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
            !self.dirty.contains(slot) && tracker.floor(self.scanned) > tracker.committed().floor
        };
        self.plan(Slot::all().filter(of_member).filter(behind))
    }

    fn plan(&self, slots: impl Iterator<Item = Slot>) -> CommitPlan {
        if !matches!(self.phase, Phase::Live) {
            return CommitPlan::default();
        }
        let entry = |slot| {
            let tracker = &self.slot(slot).tracker;
            (slot, tracker.acks(), tracker.progress(self.scanned))
        };
        CommitPlan::new(slots.map(entry).collect())
    }

    /// Notes that a plan is durable.
    pub(in crate::group) fn committed(&mut self, plan: CommitPlan) {
        for (slot, acks, progress) in plan.into_entries() {
            let tracker = &mut self.slot_mut(slot).tracker;
            tracker.set_committed(progress);
            if tracker.acks() == acks {
                self.dirty.remove(&slot);
            }
        }
    }

    /// Begins anew at a position that the log has set under `generation`. What was read is
    /// dropped, what is in flight is forgotten, and every slot has to be claimed again.
    pub(in crate::group) fn restart(&mut self, to: Position, generation: Generation) {
        self.epoch += 1;
        self.timers.clear();
        self.open.clear();
        self.dirty.clear();
        self.scanned = to;
        self.generation = generation;
        for member in self.members.values_mut() {
            member.ready.clear();
            member.in_flight = 0;
        }
        for slot in &mut self.slots {
            slot.owner = None;
            slot.tracker = Tracker::new(SlotProgress {
                floor: to,
                settled: Vec::new(),
                generation,
                ..SlotProgress::default()
            });
        }
        self.wake.steward = true;
        self.wake.reader = true;
        self.wake.reader_restart = true;
    }
}
