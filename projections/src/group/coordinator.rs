//! The state machine of a group: who owns which slot, what is in flight, what may be committed.
//!
//! Pure and synchronous: time comes in as an argument, and what has to happen elsewhere goes out
//! as a plan ([`ReadPlan`], [`HandOver`], [`CommitPlan`]) or as a [`Wake`]. Invariants, beside
//! those of [`Tracker`]:
//!
//! - C1: a member gets events of a slot only while it is both owner and target of it, and no
//!   claim of it is under way. A slot changes its owner only with nothing in flight.
//! - C2: `ready` of a member holds exactly the ready events of the slots it gets events of.
//! - C3: `open` holds the events that were read and are not settled: never more than
//!   `in_flight_max`.
//! - C4: `timers` holds the timer of each delivery in flight and each delay, and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{Generation, GroupState, Page, Position, RecordedEvent, SLOT_COUNT, Slot};
use tokio::time::Instant;

use super::assignment::{MemberId, rebalance};
use super::commit::CommitPlan;
use super::error::ConsumerError;
use super::tracker::{Offered, Timer, Tracker};

/// How far the group has come with its own life.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// No member has joined yet, so nothing is claimed and nothing read.
    Cold,
    /// It reads and delivers.
    Live,
    /// It was closed.
    Closed,
    /// It failed for good.
    Stopped(ConsumerError),
}

/// Who has to look again after a change.
#[derive(Debug, Default)]
pub(super) struct Wake {
    /// These members may have something to take, or have to learn that it is over.
    pub(super) members: Vec<MemberId>,
    /// Slots may be handed over, or a timer ends earlier than before.
    pub(super) steward: bool,
    /// There may be room to read.
    pub(super) reader: bool,
    /// What the reader does or waits for has lost its meaning.
    pub(super) reader_restart: bool,
}

/// The next page to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadPlan {
    pub(super) after: Position,
    pub(super) limit: usize,
    /// Which life of the reader asked: a page of an earlier one is dropped.
    pub(super) epoch: u64,
}

/// Slots to give to new owners, once that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HandOver {
    /// Whether the group's progress has to be loaded first.
    pub(super) cold: bool,
    pub(super) moves: Vec<(Slot, MemberId)>,
}

/// An event handed to a member.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub(super) event: Arc<RecordedEvent>,
    pub(super) generation: Generation,
    pub(super) attempt: u32,
    pub(super) token: u64,
}

#[derive(Debug, Default)]
struct SlotState {
    tracker: Tracker,
    owner: Option<MemberId>,
    target: Option<MemberId>,
    claiming: bool,
}

impl SlotState {
    /// Returns who gets its events now (C1).
    fn receiver(&self) -> Option<MemberId> {
        let settled = !self.claiming && self.owner == self.target;
        self.owner.filter(|_| settled)
    }

    fn movable(&self) -> Option<MemberId> {
        let free = !self.claiming && self.owner != self.target && self.tracker.in_flight() == 0;
        self.target.filter(|_| free)
    }
}

#[derive(Debug)]
struct MemberState {
    name: Arc<str>,
    ready: BTreeSet<(Position, Slot)>,
    in_flight: usize,
    /// It asked and got nothing.
    starved: bool,
}

/// What a status says about one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MemberView {
    pub(super) name: Arc<str>,
    pub(super) slots: usize,
    pub(super) in_flight: usize,
}

#[derive(Debug)]
pub(super) struct Coordinator {
    phase: Phase,
    lease: Duration,
    in_flight_max: usize,
    slots: Vec<SlotState>,
    members: BTreeMap<MemberId, MemberState>,
    members_joined: u64,
    tokens: u64,
    timers: BTreeMap<Timer, (Slot, Position)>,
    /// When the steward looks at the timers next.
    armed: Option<Instant>,
    open: BTreeSet<Position>,
    /// Slots with acks that are not durable yet.
    dirty: BTreeSet<Slot>,
    /// Where the group is: durable before the first claim, read since.
    scanned: Position,
    epoch: u64,
    generation: Generation,
    wake: Wake,
}

impl Coordinator {
    /// Makes the coordinator of a group without members, whose progress stands at `floor`.
    pub(super) fn new(lease: Duration, in_flight_max: usize, floor: Position) -> Self {
        Self {
            phase: Phase::Cold,
            lease,
            in_flight_max,
            slots: Slot::all().map(|_| SlotState::default()).collect(),
            members: BTreeMap::new(),
            members_joined: 0,
            tokens: 0,
            timers: BTreeMap::new(),
            armed: None,
            open: BTreeSet::new(),
            dirty: BTreeSet::new(),
            scanned: floor,
            epoch: 0,
            generation: Generation::NONE,
            wake: Wake::default(),
        }
    }

    fn slot(&self, slot: Slot) -> &SlotState {
        &self.slots[usize::from(slot.get())]
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut SlotState {
        &mut self.slots[usize::from(slot.get())]
    }

    // --- What the shell asks -----------------------------------------------------------------

    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(super) fn take_wake(&mut self) -> Wake {
        std::mem::take(&mut self.wake)
    }

    /// Returns the generation given out last, as far as this coordinator knows.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn scanned(&self) -> Position {
        self.scanned
    }

    /// Returns the position up to which every event of the group is settled.
    pub(super) fn floor(&self) -> Position {
        let lowest = self.open.first();
        lowest.map_or(self.scanned, |lowest| lowest.previous())
    }

    /// Returns how many events are read and not settled, and how many of them are in flight.
    pub(super) fn load(&self) -> (usize, usize) {
        let in_flight = self.slots.iter().map(|slot| slot.tracker.in_flight()).sum();
        (self.open.len(), in_flight)
    }

    pub(super) fn members(&self) -> Vec<MemberView> {
        let mut slots: BTreeMap<MemberId, usize> = BTreeMap::new();
        for owner in self.slots.iter().filter_map(|slot| slot.owner) {
            *slots.entry(owner).or_default() += 1;
        }
        let view = |(id, member): (&MemberId, &MemberState)| MemberView {
            name: Arc::clone(&member.name),
            slots: slots.get(id).copied().unwrap_or(0),
            in_flight: member.in_flight,
        };
        self.members.iter().map(view).collect()
    }

    // --- Members -----------------------------------------------------------------------------

    pub(super) fn join(&mut self, name: Arc<str>) -> MemberId {
        let id = MemberId(self.members_joined);
        self.members_joined += 1;
        let member = MemberState { name, ready: BTreeSet::new(), in_flight: 0, starved: false };
        self.members.insert(id, member);
        self.reassign();
        id
    }

    /// Removes a member. Its slots move once its deliveries are settled, returned or expired.
    pub(super) fn leave(&mut self, member: MemberId) {
        if self.members.remove(&member).is_some() {
            self.reassign();
        }
    }

    /// Draws the targets anew, and stops delivering what has to move.
    fn reassign(&mut self) {
        let members: Vec<MemberId> = self.members.keys().copied().collect();
        let mut targets: Vec<_> = self.slots.iter().map(|slot| slot.target).collect();
        rebalance(&mut targets, &members);
        for (slot, target) in Slot::all().zip(targets) {
            if self.slot(slot).target != target {
                self.disconnect(slot);
                self.slot_mut(slot).target = target;
                self.connect(slot);
            }
        }
        self.wake.steward = true;
    }

    /// Takes what is ready in a slot away from its receiver.
    fn disconnect(&mut self, slot: Slot) {
        let state = &self.slots[usize::from(slot.get())];
        if let Some(member) = state.receiver().and_then(|id| self.members.get_mut(&id)) {
            for position in state.tracker.ready() {
                member.ready.remove(&(position, slot));
            }
        }
    }

    /// Gives what is ready in a slot to its receiver.
    fn connect(&mut self, slot: Slot) {
        let state = &self.slots[usize::from(slot.get())];
        let Some(id) = state.receiver() else { return };
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let before = member.ready.len();
        let ready = state.tracker.ready().map(|position| (position, slot));
        member.ready.extend(ready);
        if member.ready.len() > before {
            self.wake.members.push(id);
        }
    }

    /// Gives one event that became ready to the slot's receiver.
    fn announce(&mut self, slot: Slot, position: Position) {
        if let Some(id) = self.slot(slot).receiver()
            && let Some(member) = self.members.get_mut(&id)
        {
            member.ready.insert((position, slot));
            self.wake.members.push(id);
        }
    }

    // --- Deliveries --------------------------------------------------------------------------

    /// Hands up to `max` events to a member, the oldest first.
    pub(super) fn next(&mut self, id: MemberId, max: usize, now: Instant) -> Vec<Dispatch> {
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
        let lease = self.timer(now + self.lease, slot, position);
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

    /// Ends a delivery's lease, if it still runs.
    fn end_lease(&mut self, slot: Slot, at: Position, token: u64, now: Instant) -> bool {
        self.expire(now);
        let Some(lease) = self.slot(slot).tracker.lease(at, token) else {
            return false;
        };
        if !matches!(self.phase, Phase::Live) {
            return false;
        }
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
    pub(super) fn ack(&mut self, slot: Slot, at: Position, token: u64, now: Instant) -> bool {
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
    pub(super) fn put_back(
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
            let until = self.timer(now + delay, slot, at);
            self.slot_mut(slot).tracker.put_back(at, Some(until));
        }
        true
    }

    /// Starts a delivery's lease anew. Returns false, and does nothing, if it lost its event.
    pub(super) fn renew(&mut self, slot: Slot, at: Position, token: u64, now: Instant) -> bool {
        self.expire(now);
        let Some(old) = self.slot(slot).tracker.lease(at, token) else {
            return false;
        };
        let lease = Timer { at: now + self.lease, token };
        self.timers.remove(&old);
        self.timers.insert(lease, (slot, at));
        self.slot_mut(slot).tracker.renew(at, lease);
        true
    }

    /// Makes ready what was delayed or leased until now.
    pub(super) fn expire(&mut self, now: Instant) {
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
    pub(super) fn arm(&mut self) -> Option<Instant> {
        self.armed = self.timers.keys().next().map(|timer| timer.at);
        self.armed
    }

    // --- Reading -----------------------------------------------------------------------------

    /// Returns what to read next, if there is room.
    pub(super) fn read_plan(&self) -> Option<ReadPlan> {
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
    pub(super) fn absorb(&mut self, page: Page, plan: ReadPlan) {
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

    // --- Hand-over ---------------------------------------------------------------------------

    /// Takes the slots that can move now; no events of them go out until
    /// [`finish_hand_over`](Self::finish_hand_over) or [`abort_hand_over`](Self::abort_hand_over).
    pub(super) fn begin_hand_over(&mut self) -> Option<HandOver> {
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
    pub(super) fn warm_up(&mut self, state: &GroupState) {
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
    pub(super) fn finish_hand_over(&mut self, hand_over: HandOver, generation: Generation) {
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
    pub(super) fn abort_hand_over(&mut self, hand_over: HandOver) {
        for (slot, _) in hand_over.moves {
            self.slot_mut(slot).claiming = false;
            self.connect(slot);
        }
    }

    // --- Progress ----------------------------------------------------------------------------

    /// Returns the slots with acks that are not durable yet: those of one member, or all.
    pub(super) fn plan_commit(&self, member: Option<MemberId>) -> CommitPlan {
        let of_member = |slot: &&Slot| member.is_none() || self.slot(**slot).owner == member;
        self.plan(self.dirty.iter().filter(of_member).copied())
    }

    /// Returns the slots whose floor can move without new acks, so that a restart need not read
    /// again what lies behind. Slots with acks that are not durable are left to
    /// [`plan_commit`](Self::plan_commit).
    pub(super) fn plan_floors(&self, member: Option<MemberId>) -> CommitPlan {
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
    pub(super) fn committed(&mut self, plan: CommitPlan) {
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
    pub(super) fn restart(&mut self, to: Position, generation: Generation) {
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
            slot.tracker = Tracker::new(headwater_core::SlotProgress {
                floor: to,
                settled: Vec::new(),
                generation,
            });
        }
        self.wake.steward = true;
        self.wake.reader = true;
        self.wake.reader_restart = true;
    }

    // --- The end -----------------------------------------------------------------------------

    pub(super) fn close(&mut self) {
        self.end(Phase::Closed);
    }

    pub(super) fn stop(&mut self, cause: ConsumerError) {
        self.end(Phase::Stopped(cause));
    }

    fn end(&mut self, phase: Phase) {
        if matches!(self.phase, Phase::Cold | Phase::Live) {
            self.phase = phase;
        }
        self.wake.members.extend(self.members.keys());
        self.wake.steward = true;
        self.wake.reader = true;
        self.wake.reader_restart = true;
    }
}
