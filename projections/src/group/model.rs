//! The coordinator against a sequential model: whatever happens in whatever order, the rules of
//! a consumer group hold.
//!
//! The world plays both the log (with core's own [`GroupState`]) and every caller. It checks each
//! delivery and each commit against what it knows was acked or parked, and in the end re-drives
//! what is parked, lets everything settle and sees that nothing was left out.

mod stories;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use headwater_core::{
    Generation, GroupChange, GroupCommit, GroupName, GroupState, NewGroup, Order, Page, Parked,
    ParkedState, Position, RecordedEvent, Slot, SlotRange, Timestamp,
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::commit::{CommitPlan, runs};
use super::coordinator::{
    Coordinator, Dispatch, HandOver, MemberId, Place, ReadPlan, Rest, Room, Rules,
};
use super::policy::{FailurePolicy, Hopeless};
use super::testing::event_at;

const LEASE: Duration = Duration::from_secs(30);
const IN_FLIGHT_MAX: usize = 12;
const ATTEMPTS_MAX: u32 = 3;
/// Several keys share a slot, so that slots have a sequence of their own.
const KEYS: [(&str, u16); 6] = [("a", 3), ("b", 3), ("c", 3), ("d", 4), ("e", 700), ("f", 700)];

#[derive(Clone, Debug)]
enum Op {
    Append(Vec<(usize, bool)>),
    Join,
    Leave(usize),
    Next(usize, usize),
    NextRuns(usize, usize),
    /// How many of its events are handled, and after which time to try the next one again.
    SettleRun(usize, usize, Option<u64>),
    Ack(usize),
    Fail(usize, u64),
    Release(usize),
    Park(usize),
    Redrive(usize),
    Discard(usize),
    Pause(bool),
    Renew(usize),
    Advance(u64),
    Read(usize),
    StartRead(usize),
    FinishRead,
    HandOver,
    BeginHandOver,
    FinishHandOver,
    AbortHandOver,
    CommitAll,
    BeginCommit(usize),
    /// Whether the caller lives to hear that it is durable.
    FinishCommit(bool),
    Floors,
    Crash,
    Seek(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let some_event = (0..KEYS.len(), prop::bool::weighted(0.8));
    let op = prop_oneof![
        4 => prop::collection::vec(some_event, 1..8).prop_map(Op::Append),
        2 => Just(Op::Join),
        1 => (0..4_usize).prop_map(Op::Leave),
        10 => (0..4_usize, 1..6_usize).prop_map(|(m, n)| Op::Next(m, n)),
        6 => (0..4_usize, 1..8_usize).prop_map(|(m, n)| Op::NextRuns(m, n)),
        8 => (0..64_usize, 0..6_usize, prop::option::of(prop_oneof![Just(0), 1..60_u64]))
            .prop_map(|(d, n, s)| Op::SettleRun(d, n, s)),
        12 => (0..64_usize).prop_map(Op::Ack),
        4 => (0..64_usize, prop_oneof![Just(0), 1..60_u64]).prop_map(|(d, s)| Op::Fail(d, s)),
        1 => (0..64_usize).prop_map(Op::Release),
        2 => (0..64_usize).prop_map(Op::Park),
        2 => (0..8_usize).prop_map(Op::Redrive),
        1 => (0..8_usize).prop_map(Op::Discard),
        1 => prop::bool::weighted(0.3).prop_map(Op::Pause),
        1 => (0..64_usize).prop_map(Op::Renew),
        2 => (1..40_u64).prop_map(Op::Advance),
        6 => (1..16_usize).prop_map(Op::Read),
        2 => (1..16_usize).prop_map(Op::StartRead),
        2 => Just(Op::FinishRead),
        6 => Just(Op::HandOver),
        2 => Just(Op::BeginHandOver),
        2 => Just(Op::FinishHandOver),
        1 => Just(Op::AbortHandOver),
        2 => Just(Op::CommitAll),
        3 => (0..4_usize).prop_map(Op::BeginCommit),
        3 => prop::bool::weighted(0.8).prop_map(Op::FinishCommit),
        1 => Just(Op::Floors),
        1 => Just(Op::Crash),
        1 => prop_oneof![Just(0), 0..40_u64].prop_map(Op::Seek),
    ];
    prop::collection::vec(op, 1..160)
}

fn rules(order: Order, fair: bool) -> Rules {
    // In global order there is no parking by itself.
    let then = if order == Order::Global { Hopeless::Drop } else { Hopeless::Park };
    Rules {
        group: GroupName::new("g").unwrap(),
        order,
        lease: LEASE,
        in_flight_max: IN_FLIGHT_MAX,
        in_flight_bytes_max: usize::MAX,
        failure: FailurePolicy {
            attempts_max: Some(ATTEMPTS_MAX),
            then,
            ..FailurePolicy::default()
        },
        delay: Duration::ZERO,
        fair,
        wall: || Timestamp::EPOCH,
        among_others: false,
    }
}

struct Held {
    member: MemberId,
    slot: Slot,
    position: Position,
    /// What goes with it.
    rest: Vec<Position>,
    token: u64,
    until: Instant,
    /// Whether it still has the event.
    alive: bool,
}

struct World {
    order: Order,
    fair: bool,
    now: Instant,
    log: Vec<(RecordedEvent, bool)>,
    durable: GroupState,
    group: Coordinator,
    /// What a crash left behind: a coordinator that still believes in itself.
    ghost: Option<Coordinator>,
    members: Vec<MemberId>,
    held: Vec<Held>,
    reading: Option<(Page, ReadPlan)>,
    moving: Option<HandOver>,
    committing: Vec<(MemberId, CommitPlan)>,
    paused: bool,
    /// What this coordinator knows to be settled: acked, dropped, discarded, or sought past.
    acked: BTreeSet<Position>,
    /// What of it a commit has made durable.
    durable_acks: BTreeSet<Position>,
    /// What is parked, as it was seen last.
    parked: BTreeMap<Position, Parked>,
    owners: HashMap<(Slot, Generation), MemberId>,
    lives: u64,
    attempts: BTreeMap<Position, u32>,
}

impl World {
    fn new(order: Order, fair: bool) -> Self {
        let name = GroupName::new("g").unwrap();
        let new = match order {
            Order::None => NewGroup::share(name),
            _ => NewGroup::consumer(name).order(order),
        };
        let durable = GroupState::new(new, Position::START, Generation::NONE);
        Self {
            order,
            fair,
            now: Instant::now(),
            log: Vec::new(),
            group: Coordinator::new(rules(order, fair), durable.floor()),
            durable,
            ghost: None,
            members: Vec::new(),
            held: Vec::new(),
            reading: None,
            moving: None,
            committing: Vec::new(),
            paused: false,
            parked: BTreeMap::new(),
            acked: BTreeSet::new(),
            durable_acks: BTreeSet::new(),
            owners: HashMap::new(),
            lives: 0,
            attempts: BTreeMap::new(),
        }
    }

    fn head(&self) -> Position {
        Position::new(self.log.len() as u64)
    }

    fn selected(&self) -> impl Iterator<Item = &RecordedEvent> {
        self.log.iter().filter(|(_, selected)| *selected).map(|(event, _)| event)
    }

    fn slot_of(&self, event: &RecordedEvent) -> Slot {
        if self.order == Order::Global { Slot::FIRST } else { event.slot }
    }

    /// Returns whether an event belongs to a parked sequence and is not settled there.
    fn is_of(event: &RecordedEvent, parked: &Parked) -> bool {
        let own = match &parked.key {
            Some(key) => event.ordering_key() == key.as_str(),
            None => event.position == parked.first,
        };
        own && event.position >= parked.next && event.position <= parked.through
    }

    fn is_parked(&self, event: &RecordedEvent) -> bool {
        self.parked.values().any(|parked| Self::is_of(event, parked))
    }

    /// Returns what the log knows to be settled.
    fn settled_durably(&self) -> BTreeSet<Position> {
        let settled = |event: &&RecordedEvent| {
            let progress = self.durable.slot(self.slot_of(event));
            progress.is_settled(event.position)
                && !self.durable.parked().any(|parked| Self::is_of(event, parked))
        };
        self.selected().filter(settled).map(|event| event.position).collect()
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Append(events) => self.append(&events),
            Op::Join => self.join(),
            Op::Leave(member) => {
                if !self.members.is_empty() {
                    let member = self.members.remove(member % self.members.len());
                    self.group.leave(member);
                }
            }
            Op::Next(member, max) => self.next(member, max),
            Op::NextRuns(member, max) => self.next_runs(member, max),
            Op::SettleRun(held, done, delay) => self.settle_run(held, done, delay),
            Op::Ack(_) | Op::Fail(..) | Op::Release(_) | Op::Park(_) | Op::Renew(_) => {
                self.say(&op);
            }
            Op::Redrive(number) => self.set_parked(number, ParkedState::Redriving),
            Op::Discard(number) => self.set_parked(number, ParkedState::Done),
            Op::Pause(paused) => {
                self.paused = paused;
                self.durable.apply(&GroupChange::Pause(paused));
                self.group.pause(paused);
            }
            Op::Advance(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.group.expire(self.now);
                self.expire();
            }
            Op::Read(limit) => {
                self.run(Op::FinishRead);
                self.start_read(limit);
                self.run(Op::FinishRead);
            }
            Op::StartRead(limit) => self.start_read(limit),
            Op::FinishRead => {
                if let Some((page, plan)) = self.reading.take() {
                    self.group.absorb(page, plan, self.now);
                }
            }
            Op::BeginHandOver if self.is_alone() => {
                self.moving = self.group.begin_hand_over();
            }
            Op::HandOver => {
                self.run(Op::FinishHandOver);
                self.run(Op::BeginHandOver);
                self.run(Op::FinishHandOver);
            }
            Op::FinishHandOver => self.finish_hand_over(),
            Op::AbortHandOver => {
                if let Some(moving) = self.moving.take() {
                    self.group.abort_hand_over(moving);
                }
            }
            // Members commit beside each other; all else goes alone.
            Op::BeginCommit(member) if self.moving.is_none() => {
                let member = self.member(member);
                let free = |m: &MemberId| self.committing.iter().all(|(other, _)| other != m);
                if let Some(member) = member.filter(free) {
                    self.committing.push((member, self.group.plan_commit(Some(member))));
                }
            }
            Op::FinishCommit(heard) => {
                if let Some((_, plan)) = self.committing.pop() {
                    self.store(plan, heard);
                }
            }
            Op::CommitAll if self.is_alone() => {
                let plan = self.group.plan_commit(None);
                self.store(plan, true);
                assert_eq!(self.acked, self.durable_acks, "a commit of all is of all");
            }
            Op::Floors if self.is_alone() => {
                let plan = self.group.plan_floors(None);
                self.store(plan, true);
            }
            Op::Seek(to) if self.is_alone() => self.seek(to),
            Op::BeginHandOver | Op::BeginCommit(_) | Op::CommitAll | Op::Floors | Op::Seek(_) => {}
            Op::Crash => self.crash(),
        }
        let (open, _) = self.group.load();
        assert!(open <= IN_FLIGHT_MAX, "{open} events are held");
        self.check_parked();
        self.check_floor();
        self.check_in_flight();
    }

    /// Says something about a delivery.
    fn say(&mut self, op: &Op) {
        match *op {
            Op::Ack(held) => self.ack(held),
            Op::Fail(held, seconds) => {
                let delay = Duration::from_secs(seconds);
                let failed = self
                    .end(held, |group, place, now| group.fail(place, "no".to_owned(), delay, now));
                if let Some(position) = failed
                    && self.order == Order::Global
                    && self.attempts[&position] >= ATTEMPTS_MAX
                {
                    self.acked.insert(position);
                }
            }
            Op::Release(held) => {
                if let Some(held) = self.end(held, Coordinator::release) {
                    *self.attempts.get_mut(&held).unwrap() -= 1;
                }
            }
            Op::Park(held) => {
                let parked =
                    self.end(held, |group, place, now| group.park(place, "never".to_owned(), now));
                if let Some(position) = parked {
                    let of = |parked: &Parked| position == parked.next;
                    assert!(self.group.parked().iter().any(of), "{position} is not parked");
                }
            }
            Op::Renew(held) => {
                let index = held % self.held.len().max(1);
                if let Some(held) = self.held.get_mut(index) {
                    let alive = held.alive;
                    let renewed =
                        self.group.extend((held.slot, held.position, held.token), LEASE, self.now);
                    assert_eq!(renewed, alive, "a lease can be renewed exactly until it ends");
                    if renewed {
                        held.until = self.now + LEASE;
                    }
                }
            }
            _ => unreachable!("{op:?} is not about a delivery"),
        }
    }

    fn append(&mut self, events: &[(usize, bool)]) {
        for &(key, selected) in events {
            let (name, slot) = KEYS[key];
            let mut event = (*event_at(self.head().get() + 1, name)).clone();
            event.slot = Slot::new(slot).unwrap();
            self.log.push((event, selected));
        }
    }

    fn join(&mut self) {
        if self.members.len() < 4 {
            self.members.push(self.group.join("m".into()));
        }
    }

    fn member(&self, number: usize) -> Option<MemberId> {
        self.members.get(number % self.members.len().max(1)).copied()
    }

    fn next(&mut self, member: usize, max: usize) {
        let Some(member) = self.member(member) else {
            return;
        };
        let dispatched = self.group.next(member, max, self.now);
        assert!(!self.paused || dispatched.is_empty(), "a paused group delivers nothing");
        for dispatch in dispatched {
            self.take(member, &dispatch, Vec::new());
        }
    }

    fn next_runs(&mut self, member: usize, max: usize) {
        let Some(member) = self.member(member) else {
            return;
        };
        let runs = self.group.next_runs(member, &mut Room::new(max, usize::MAX), self.now);
        assert!(!self.paused || runs.is_empty(), "a paused group delivers nothing");
        let count: usize = runs.iter().map(|(_, rest)| 1 + rest.len()).sum();
        assert!(count <= max, "{count} of {max} events were taken");
        for (dispatch, rest) in runs {
            let positions = rest.iter().map(|(event, _)| event.position).collect();
            self.take(member, &dispatch, positions);
            let mut before = vec![dispatch.event.position];
            for (event, attempt) in rest {
                let open = |position: &Position| !self.acked.contains(position);
                let key = |other: &&RecordedEvent| {
                    self.order == Order::Global || other.ordering_key() == event.ordering_key()
                };
                let earlier = self.selected().filter(key).map(|other| other.position);
                let earlier = earlier.take_while(|at| *at < event.position).filter(open);
                let parked = |at: &Position| {
                    let event = &self.log[usize::try_from(at.get()).unwrap() - 1].0;
                    self.order == Order::Global && self.is_parked(event)
                };
                let earlier: Vec<_> = earlier.filter(|at| !parked(at)).collect();
                assert_eq!(earlier, before, "a run has no gap");
                assert_ne!(self.order, Order::None, "without an order there are no runs");
                let attempts = self.attempts.get(&event.position).copied().unwrap_or(0);
                assert_eq!(attempt, attempts + 1, "attempts of {}", event.position);
                before.push(event.position);
            }
        }
    }

    fn settle_run(&mut self, held: usize, done: usize, delay: Option<u64>) {
        let index = held % self.held.len().max(1);
        let Some(held) = self.held.get(index) else { return };
        let (first, followers) = (held.position, held.rest.clone());
        let run: Vec<Position> = std::iter::once(first).chain(followers.iter().copied()).collect();
        let done = done.min(run.len());
        let rest = match delay {
            None => Rest::Release,
            Some(seconds) => {
                Rest::Fail { cause: "no".to_owned(), delay: Duration::from_secs(seconds) }
            }
        };
        let counted = self
            .end(index, |group, place, now| group.settle_run(place, &followers, done, rest, now));
        if counted.is_none() {
            return;
        }
        self.acked.extend(&run[..done]);
        let Some(next) = run.get(done) else { return };
        let attempts = self.attempts.entry(*next).or_default();
        match delay {
            None if done == 0 => *attempts -= 1,
            None => {}
            Some(_) => {
                *attempts += u32::from(done > 0);
                if self.order == Order::Global && *attempts >= ATTEMPTS_MAX {
                    self.acked.insert(*next);
                }
            }
        }
    }

    /// Notes a delivery, and checks that it may be one.
    fn take(&mut self, member: MemberId, dispatch: &Dispatch, rest: Vec<Position>) {
        let event = &dispatch.event;
        let position = event.position;
        assert!(!self.acked.contains(&position), "{position} was acked before");
        self.check_turn(event);
        let twice = |held: &Held| held.position == position && held.alive;
        assert!(!self.held.iter().any(twice), "{position} is out already");
        let slot = self.slot_of(event);
        assert_eq!(dispatch.slot, slot);
        let owner = *self.owners.entry((slot, dispatch.generation)).or_insert(member);
        assert_eq!(owner, member, "a slot has one owner in a generation");
        assert_eq!(
            self.durable.slot(slot).generation,
            dispatch.generation,
            "an ownership is durable before anything is delivered"
        );
        let attempts = self.attempts.entry(position).or_default();
        *attempts += 1;
        assert_eq!(dispatch.attempt, *attempts, "attempts of {position}");
        self.held.push(Held {
            member,
            slot,
            position,
            rest,
            token: dispatch.token,
            until: self.now + LEASE,
            alive: true,
        });
    }

    /// Checks that nothing that should come before an event is open.
    fn check_turn(&self, event: &RecordedEvent) {
        let position = event.position;
        if let Some(parked) = self.parked.values().find(|parked| Self::is_of(event, parked)) {
            assert_eq!(parked.state, ParkedState::Redriving, "{position} is parked");
            let left = self.selected().filter(|e| Self::is_of(e, parked));
            let first = left.map(|e| e.position).find(|at| !self.acked.contains(at));
            assert_eq!(first, Some(position), "what is re-driven comes in order");
            return;
        }
        let before = |other: &&RecordedEvent| {
            let related = match self.order {
                Order::Key => other.ordering_key() == event.ordering_key(),
                // What was parked alone is out of the order.
                Order::Global => !self.is_parked(other),
                Order::None => false,
            };
            other.position < position && related && !self.acked.contains(&other.position)
        };
        let before = self.selected().find(before).map(|event| event.position);
        assert_eq!(before, None, "{position} came before its turn");
    }

    fn ack(&mut self, held: usize) {
        if let Some(position) = self.end(held, Coordinator::ack) {
            self.acked.insert(position);
        }
    }

    /// Lets a member say something about a delivery, which counts exactly while it has the event.
    /// Returns the event if it counted.
    fn end(
        &mut self,
        held: usize,
        say: impl FnOnce(&mut Coordinator, Place, Instant) -> bool,
    ) -> Option<Position> {
        if self.held.is_empty() {
            return None;
        }
        let held = self.held.remove(held % self.held.len());
        let position = held.position;
        let counted = say(&mut self.group, (held.slot, position, held.token), self.now);
        assert_eq!(counted, held.alive, "it counts exactly until the lease ends");
        counted.then_some(position)
    }

    /// Notes which leases have ended, and what was dropped by that.
    fn expire(&mut self) {
        let now = self.now;
        for held in &mut self.held {
            if held.alive && held.until <= now {
                held.alive = false;
                // In global order what is hopeless is dropped.
                if self.order == Order::Global && self.attempts[&held.position] >= ATTEMPTS_MAX {
                    self.acked.insert(held.position);
                }
            }
        }
    }

    fn set_parked(&mut self, number: usize, state: ParkedState) {
        let Some(first) = self.parked.keys().nth(number % self.parked.len().max(1)).copied() else {
            return;
        };
        let parked = self.parked[&first].clone();
        if !self.group.is_live() {
            // Nobody owns the slots: the log alone is told.
            self.durable.apply(&GroupChange::Parked(first, state));
            return self.forget();
        }
        if state == ParkedState::Done {
            let of = |event: &&RecordedEvent| Self::is_of(event, &parked);
            let given_up: Vec<_> = self.selected().filter(of).map(|e| e.position).collect();
            for held in &mut self.held {
                held.alive &= !given_up.contains(&held.position);
            }
            self.acked.extend(given_up);
            assert!(self.group.discard(first), "{first} is parked");
        } else {
            assert!(self.group.redrive(first), "{first} is parked");
            if parked.state == ParkedState::Waiting {
                self.attempts.remove(&parked.next);
            }
        }
    }

    /// Compares what is parked with what was parked before.
    fn check_parked(&mut self) {
        if !self.group.is_live() {
            return;
        }
        let now: BTreeMap<_, _> = self.group.parked().into_iter().map(|p| (p.first, p)).collect();
        for (first, before) in &self.parked {
            if let Some(parked) = now.get(first) {
                assert!(parked.next >= before.next && parked.through >= before.through);
                continue;
            }
            let left = self.selected().filter(|e| Self::is_of(e, before));
            let left: Vec<_> =
                left.map(|e| e.position).filter(|at| !self.acked.contains(at)).collect();
            assert!(left.is_empty(), "{left:?} was parked and is lost");
        }
        self.parked = now;
    }

    fn start_read(&mut self, limit: usize) {
        let (None, Some(plan)) = (&self.reading, self.group.read_plan()) else {
            return;
        };
        let mut page = Page { events: Vec::new(), scanned: plan.after, done: true };
        for (event, selected) in self.log.iter().filter(|(e, _)| e.position > plan.after) {
            if page.events.len() == limit.min(plan.limit) {
                break;
            }
            page.scanned = event.position;
            if *selected {
                page.events.push(event.clone());
            }
        }
        self.reading = Some((page, plan));
    }

    fn finish_hand_over(&mut self) {
        let Some(moving) = self.moving.take() else {
            return;
        };
        if moving.cold {
            let generation = self.durable.apply(&GroupChange::Claim(vec![SlotRange::all()]));
            let durable = self.durable.clone();
            self.group.warm_up(&durable);
            self.group.finish_hand_over(moving, generation);
            self.check_ghost();
        } else {
            let plan = self.group.plan_commit(None);
            self.store(plan, true);
            let generation = self
                .durable
                .apply(&GroupChange::Claim(runs(moving.moves.iter().map(|&(slot, _)| slot))));
            self.group.finish_hand_over(moving, generation);
        }
    }

    /// Whether nothing is under way at the log.
    fn is_alone(&self) -> bool {
        self.moving.is_none() && self.committing.is_empty()
    }

    fn store(&mut self, plan: CommitPlan, heard: bool) {
        let [commit] = plan.commits().try_into().expect("little is parked");
        let change = GroupChange::Commit(commit);
        self.durable.check(&change, self.head()).unwrap();
        self.durable.apply(&change);
        if heard {
            self.group.committed(plan);
        }
        let durable = self.settled_durably();
        let unacked: Vec<_> = durable.difference(&self.acked).collect();
        assert!(unacked.is_empty(), "{unacked:?} were never acked and are settled");
        assert!(durable.is_superset(&self.durable_acks), "what is durable stays");
        self.durable_acks = durable;
    }

    fn check_floor(&self) {
        let floor = self.group.floor();
        let open = |e: &&RecordedEvent| !self.acked.contains(&e.position) && !self.is_parked(e);
        let unacked = self.selected().find(open);
        let unacked = unacked.map_or(Position::MAX, |e| e.position);
        assert!(floor < unacked, "the floor {floor} passed the unacked {unacked}");
    }

    fn check_in_flight(&self) {
        for (id, view) in self.members.iter().zip(self.group.members()) {
            let out = |held: &&Held| held.member == *id && held.alive;
            assert_eq!(view.in_flight, self.held.iter().filter(out).count());
        }
    }

    fn seek(&mut self, to: u64) {
        let to = Position::new(to.min(self.log.len() as u64));
        self.durable.apply(&GroupChange::Seek(to));
        let durable = self.durable.clone();
        self.group.restart(&durable);
        self.paused = durable.paused;
        self.forget();
        for held in &mut self.held {
            held.alive = false;
        }
    }

    /// Knows no more than the log does.
    fn forget(&mut self) {
        self.durable_acks = self.settled_durably();
        self.acked = self.durable_acks.clone();
        self.parked = self.durable.parked().map(|p| (p.first, p.clone())).collect();
        let tried = self.durable.runs().flat_map(|(_, progress)| progress.attempts.clone());
        self.attempts = tried.collect();
        self.attempts.extend(self.parked.values().map(|parked| (parked.next, parked.attempts)));
    }

    fn crash(&mut self) {
        let fresh = Coordinator::new(rules(self.order, self.fair), self.durable.floor());
        self.ghost = Some(std::mem::replace(&mut self.group, fresh));
        self.lives += 1;
        self.members.clear();
        self.held.clear();
        self.reading = None;
        self.moving = None;
        self.committing.clear();
        self.paused = self.durable.paused;
        self.forget();
        self.owners.clear();
    }

    /// Whoever lost the group cannot commit any more.
    fn check_ghost(&mut self) {
        if let Some(ghost) = self.ghost.take() {
            let commit = ghost.plan_commit(None).commits().remove(0);
            let empty = commit == GroupCommit::default();
            let change = GroupChange::Commit(commit);
            assert!(empty || self.durable.check(&change, self.head()).is_err());
        }
    }

    /// Lets everything settle, with one member more that does its work.
    fn settle(&mut self) {
        if self.members.is_empty() {
            self.join();
        }
        let mut rounds = 0;
        while !self.committing.is_empty() {
            self.run(Op::FinishCommit(true));
        }
        self.run(Op::Pause(false));
        while self.group.floor() < self.head() || !self.parked.is_empty() {
            rounds += 1;
            assert!(rounds < 1_000, "it goes round and round without getting anywhere");
            self.run(Op::HandOver);
            self.run(Op::Read(100));
            for number in 0..self.parked.len() {
                self.run(Op::Redrive(number));
            }
            self.run(Op::Read(100));
            for member in 0..self.members.len() {
                self.run(Op::Next(member, 100));
            }
            while !self.held.is_empty() {
                self.run(Op::Ack(0));
            }
            self.run(Op::Advance(60));
        }
        self.run(Op::FinishHandOver);
        self.run(Op::CommitAll);
        self.run(Op::Floors);
        let left = self.selected().map(|e| e.position).filter(|at| !self.acked.contains(at));
        let left: Vec<_> = left.collect();
        assert!(left.is_empty(), "never delivered: {left:?}");
        assert_eq!(self.durable.parked().len(), 0, "what is over is forgotten");
        if !self.log.is_empty() {
            assert_eq!(self.durable.floor(), self.head(), "a restart reads nothing again");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_of_a_group_hold_whatever_happens(
        ops in ops(),
        order in prop_oneof![3 => Just(Order::Key), 1 => Just(Order::Global), 1 => Just(Order::None)],
        fair in any::<bool>(),
    ) {
        let mut world = World::new(order, fair);
        for op in ops {
            world.run(op);
        }
        world.settle();
    }
}
