//! The state machine of a group: who owns which slot, what is in flight, what may be committed.
//!
//! Pure and synchronous: time comes in as an argument, and what has to happen elsewhere goes out
//! as a plan ([`ReadPlan`], [`HandOver`], [`CommitPlan`](super::commit::CommitPlan)) or
//! as a [`Wake`]. Invariants, beside
//! those of [`Tracker`]:
//!
//! - C1: a member gets events of a slot only while it is both owner and target of it, and no
//!   claim of it is under way. A slot changes its owner only with nothing in flight.
//! - C2: `ready` of a member holds exactly the ready events of the slots it gets events of.
//! - C3: `open` holds the events that were read and are not settled or set aside: never more than
//!   `in_flight_max`. Events of parked sequences that are delivered again count apart.
//! - C4: `timers` holds the timer of each delivery in flight and each delay, and no other.
//! - C5: only slots whose progress was loaded are `held`, and only their events are kept. Alone, a
//!   process holds all; among others, those it has claimed, and has not lost.

mod deliveries;
mod failing;
mod progress;
mod redrive;
mod runs;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{
    Generation, GroupName, Order, Position, RecordedEvent, Slot, Timestamp, rebalance,
};
use tokio::time::Instant;

pub(in crate::group) use self::deliveries::Place;
pub(crate) use self::runs::Room;
pub(in crate::group) use self::runs::{Follower, Rest};
use super::error::ConsumerError;
use super::fair::Turns;
use super::policy::FailurePolicy;
use super::tracker::{Timer, Tracker};

/// A member of a group, for as long as the group is open; never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::group) struct MemberId(u64);

/// What a coordinator goes by.
#[derive(Clone, Debug)]
pub(in crate::group) struct Rules {
    pub(in crate::group) group: GroupName,
    pub(in crate::group) order: Order,
    pub(in crate::group) lease: Duration,
    pub(in crate::group) in_flight_max: usize,
    pub(in crate::group) in_flight_bytes_max: usize,
    pub(in crate::group) failure: FailurePolicy,
    /// How long after its commit an event is delivered.
    pub(in crate::group) delay: Duration,
    /// Whether keys take turns.
    pub(in crate::group) fair: bool,
    /// The wall clock.
    pub(in crate::group) wall: fn() -> Timestamp,
    /// Whether other processes may run the group too.
    pub(in crate::group) among_others: bool,
}

/// What has happened in a group since it was opened here, delivery by delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupCounts {
    /// How many events were handed to members, again included.
    pub delivered: u64,
    /// How many of these were not the first attempt.
    pub redelivered: u64,
    /// How many were acknowledged.
    pub acked: u64,
    /// How many attempts failed, expired leases included.
    pub failed: u64,
    /// How many deliveries nobody settled in time.
    pub expired: u64,
    /// How many deliveries were given back untouched.
    pub released: u64,
    /// How many sequences were parked.
    pub parked: u64,
    /// How many hopeless events were dropped.
    pub dropped: u64,
}

impl GroupCounts {
    fn handed_out(&mut self, attempt: u32) {
        self.delivered += 1;
        self.redelivered += u64::from(attempt > 1);
    }
}

/// How far the group has come with its own life.
#[derive(Clone, Debug)]
pub(in crate::group) enum Phase {
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
pub(in crate::group) struct Wake {
    /// These members may have something to take, or have to learn that it is over.
    pub(in crate::group) members: Vec<MemberId>,
    /// Slots may be handed over, or a timer ends earlier than before.
    pub(in crate::group) steward: bool,
    /// There may be room to read.
    pub(in crate::group) reader: bool,
    /// What the reader does or waits for has lost its meaning.
    pub(in crate::group) reader_restart: bool,
}

/// The next page to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::group) struct ReadPlan {
    /// Whether it is read again, for parked sequences.
    pub(in crate::group) again: bool,
    pub(in crate::group) after: Position,
    pub(in crate::group) limit: usize,
    /// Which life of the reader asked: a page of an earlier one is dropped.
    pub(in crate::group) epoch: u64,
}

/// Slots to give to new owners, once that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::group) struct HandOver {
    /// Whether the group's progress has to be loaded first.
    pub(in crate::group) cold: bool,
    pub(in crate::group) moves: Vec<(Slot, MemberId)>,
}

/// An event handed to a member.
#[derive(Debug)]
pub(in crate::group) struct Dispatch {
    pub(in crate::group) event: Arc<RecordedEvent>,
    /// Where it is kept here, which in global order is not the event's own slot.
    pub(in crate::group) slot: Slot,
    pub(in crate::group) generation: Generation,
    pub(in crate::group) attempt: u32,
    pub(in crate::group) token: u64,
}

#[derive(Debug, Default)]
struct SlotState {
    tracker: Tracker,
    owner: Option<MemberId>,
    target: Option<MemberId>,
    claiming: bool,
    /// Whether it may have a target here.
    wanted: bool,
    /// Whether its progress was loaded.
    held: bool,
    /// Its events up to here were read, though the group may read again what lies before.
    known: Position,
}

impl SlotState {
    /// Returns who gets its events now (C1).
    fn receiver(&self) -> Option<MemberId> {
        let settled = !self.claiming && self.owner == self.target;
        self.owner.filter(|_| settled)
    }

    fn is_free(&self) -> bool {
        !self.claiming && self.owner != self.target && self.tracker.in_flight() == 0
    }
}

#[derive(Debug)]
struct MemberState {
    name: Arc<str>,
    /// With their turns.
    ready: BTreeSet<(u64, Position, Slot)>,
    in_flight: usize,
    /// It asked and got nothing.
    starved: bool,
    /// Slots went to other processes with something that it had acked and that was not durable.
    lost: bool,
}

/// What a status says about one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::group) struct MemberView {
    pub(in crate::group) name: Arc<str>,
    pub(in crate::group) slots: usize,
    pub(in crate::group) in_flight: usize,
}

#[derive(Debug)]
pub(in crate::group) struct Coordinator {
    phase: Phase,
    paused: bool,
    rules: Rules,
    turns: Turns,
    slots: Vec<SlotState>,
    /// How many of them are held.
    held: usize,
    members: BTreeMap<MemberId, MemberState>,
    members_joined: u64,
    tokens: u64,
    timers: BTreeMap<Timer, (Slot, Position)>,
    /// When a member has asked for events last, or joined.
    asked: Option<Instant>,
    /// When the steward looks at the timers next.
    armed: Option<Instant>,
    open: BTreeSet<Position>,
    /// How many bytes of payload they have.
    open_bytes: usize,
    /// How many an event had on the average of the last page.
    event_bytes: usize,
    /// Slots with parked sequences that are delivered again.
    redriving: BTreeSet<Slot>,
    /// Events after this are read again for them.
    redrive_after: Option<Position>,
    /// Slots with something that is not durable yet.
    dirty: BTreeSet<Slot>,
    /// Where the group is: durable before the first claim, read since.
    scanned: Position,
    epoch: u64,
    generation: Generation,
    /// The lowest floor of the slots that are not held here, as far as is known.
    elsewhere: Option<Position>,
    /// Until when the other processes leave to this one what it holds.
    serves_until: Option<Instant>,
    wake: Wake,
    counts: GroupCounts,
    /// How many leases were started anew.
    #[cfg(test)]
    pub(in crate::group) renewals: usize,
}

impl Coordinator {
    /// Makes the coordinator of a group without members, whose progress stands at `floor`.
    pub(in crate::group) fn new(rules: Rules, floor: Position) -> Self {
        let wanted = !rules.among_others;
        Self {
            phase: Phase::Cold,
            paused: false,
            turns: Turns::new(rules.fair),
            slots: Slot::all().map(|_| SlotState { wanted, ..SlotState::default() }).collect(),
            held: 0,
            elsewhere: rules.among_others.then_some(floor),
            serves_until: None,
            rules,
            members: BTreeMap::new(),
            members_joined: 0,
            tokens: 0,
            timers: BTreeMap::new(),
            asked: None,
            armed: None,
            counts: GroupCounts::default(),
            open: BTreeSet::new(),
            open_bytes: 0,
            event_bytes: 0,
            redriving: BTreeSet::new(),
            redrive_after: None,
            dirty: BTreeSet::new(),
            scanned: floor,
            epoch: 0,
            generation: Generation::NONE,
            wake: Wake::default(),
            #[cfg(test)]
            renewals: 0,
        }
    }

    /// Returns what has happened since it was opened.
    pub(in crate::group) fn counts(&self) -> GroupCounts {
        self.counts
    }

    /// Returns how many deliveries and delays there were.
    #[cfg(test)]
    pub(in crate::group) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Returns the slot that an event belongs to here: in global order all belong to one.
    pub(in crate::group) fn place(&self, event: &RecordedEvent) -> Slot {
        if self.rules.order == Order::Global { Slot::FIRST } else { event.slot }
    }

    pub(in crate::group) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Returns whether events are ready that no member has asked for as long as a lease runs.
    pub(in crate::group) fn is_starved(&self, now: Instant) -> bool {
        let ready = self.members.values().any(|member| !member.ready.is_empty());
        ready && self.asked.is_some_and(|at| now.saturating_duration_since(at) > self.rules.lease)
    }

    pub(in crate::group) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Stops delivering, or goes on with it. What is out stays out.
    pub(in crate::group) fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.wake.members.extend(self.members.keys());
    }

    fn slot(&self, slot: Slot) -> &SlotState {
        &self.slots[usize::from(slot.get())]
    }

    fn slot_mut(&mut self, slot: Slot) -> &mut SlotState {
        &mut self.slots[usize::from(slot.get())]
    }

    pub(in crate::group) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(in crate::group) fn take_wake(&mut self) -> Wake {
        std::mem::take(&mut self.wake)
    }

    /// Returns the generation given out last, as far as this coordinator knows.
    pub(in crate::group) fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the generation under which the events of a slot are delivered.
    pub(in crate::group) fn generation_of(&self, slot: Slot) -> Generation {
        self.slot(slot).tracker.generation()
    }

    /// Returns whether an event that was read is settled.
    pub(in crate::group) fn is_settled(&self, slot: Slot, position: Position) -> bool {
        let state = self.slot(slot);
        state.held && position <= self.read_of(slot) && state.tracker.look(position).is_none()
    }

    pub(in crate::group) fn scanned(&self) -> Position {
        self.scanned
    }

    /// Returns up to where the events of a slot were read.
    fn read_of(&self, slot: Slot) -> Position {
        self.scanned.max(self.slot(slot).known)
    }

    /// Returns the position up to which every event of the group is settled.
    pub(in crate::group) fn floor(&self) -> Position {
        let lowest = self.open.first();
        let here = lowest.map_or(self.scanned, |lowest| lowest.previous());
        match self.elsewhere {
            Some(elsewhere) if self.holds_any() => here.min(elsewhere),
            Some(elsewhere) => elsewhere,
            None => here,
        }
    }

    /// Returns how many events are read and not settled, and how many of them are in flight.
    pub(in crate::group) fn load(&self) -> (usize, usize) {
        let in_flight = self.slots.iter().map(|slot| slot.tracker.in_flight()).sum();
        (self.open.len(), in_flight)
    }

    pub(in crate::group) fn members(&self) -> Vec<MemberView> {
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

    pub(in crate::group) fn join(&mut self, name: Arc<str>) -> MemberId {
        let id = MemberId(self.members_joined);
        self.members_joined += 1;
        let (in_flight, starved, lost) = (0, false, false);
        let member = MemberState { name, ready: BTreeSet::new(), in_flight, starved, lost };
        self.members.insert(id, member);
        self.reassign();
        id
    }

    /// Removes a member. Its slots move once its deliveries are settled, returned or expired.
    pub(in crate::group) fn leave(&mut self, member: MemberId) {
        if self.members.remove(&member).is_some() {
            self.reassign();
        }
    }

    /// Draws the targets anew, and stops delivering what has to move.
    fn reassign(&mut self) {
        let members: Vec<MemberId> = self.members.keys().copied().collect();
        let wanted: Vec<Slot> = Slot::all().filter(|&slot| self.slot(slot).wanted).collect();
        let mut targets: Vec<_> = wanted.iter().map(|&slot| self.slot(slot).target).collect();
        if self.rules.order == Order::Global {
            // One member has everything; the others stand by.
            let now = targets.first().copied().flatten();
            let stays = now.filter(|target| self.members.contains_key(target));
            targets.fill(stays.or(members.first().copied()));
        } else {
            let members: Vec<_> = members.into_iter().map(|member| (member, 1)).collect();
            rebalance(&mut targets, &members);
        }
        for (slot, target) in wanted.into_iter().zip(targets) {
            self.aim(slot, target);
        }
        self.wake.steward = true;
    }

    /// Sets who a slot is to go to, and stops delivering it if that is another than has it.
    fn aim(&mut self, slot: Slot, target: Option<MemberId>) {
        if self.slot(slot).target != target {
            self.disconnect(slot);
            self.slot_mut(slot).target = target;
            self.connect(slot);
        }
    }

    /// Takes what is ready in a slot away from its receiver.
    fn disconnect(&mut self, slot: Slot) {
        let state = &self.slots[usize::from(slot.get())];
        if let Some(member) = state.receiver().and_then(|id| self.members.get_mut(&id)) {
            for position in state.tracker.ready() {
                member.ready.remove(&(self.turns.given(position), position, slot));
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
        for position in state.tracker.ready() {
            let key = state.tracker.look(position).map_or("", |(event, _)| event.ordering_key());
            member.ready.insert((self.turns.of(position, key), position, slot));
        }
        if member.ready.len() > before {
            self.wake.members.push(id);
        }
    }

    /// Gives one event that became ready to the slot's receiver, or lets it wait for its time.
    fn announce(&mut self, slot: Slot, position: Position, now: Instant) {
        let tracker = &self.slot(slot).tracker;
        if let Some(at) = tracker.not_before(position).filter(|&at| at > now) {
            let until = self.timer(at, slot, position);
            self.slot_mut(slot).tracker.put_back(position, Some(until));
            return;
        }
        let state = &self.slots[usize::from(slot.get())];
        if let Some(id) = state.receiver()
            && let Some(member) = self.members.get_mut(&id)
        {
            let key = state.tracker.look(position).map_or("", |(event, _)| event.ordering_key());
            member.ready.insert((self.turns.of(position, key), position, slot));
            self.wake.members.push(id);
        }
    }

    /// Takes an event that is ready away from the slot's receiver.
    fn withdraw(&mut self, slot: Slot, position: Position) {
        let receiver = self.slot(slot).receiver();
        if let Some(member) = receiver.and_then(|id| self.members.get_mut(&id)) {
            member.ready.remove(&(self.turns.given(position), position, slot));
        }
        self.turns.forget(position);
    }

    pub(in crate::group) fn close(&mut self) {
        self.end(Phase::Closed);
    }

    pub(in crate::group) fn stop(&mut self, cause: ConsumerError) {
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
