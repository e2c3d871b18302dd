//! The coordinator against a sequential model: whatever happens in whatever order, the rules of
//! a consumer group hold.
//!
//! The world plays both the log (with core's own [`GroupState`]) and every caller. It checks each
//! delivery and each commit against what it knows was acked, and in the end lets everything
//! settle and sees that nothing was left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use headwater_core::{
    Generation, GroupChange, GroupName, GroupState, NewGroup, Page, Position, RecordedEvent, Slot,
    SlotRange,
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::assignment::MemberId;
use super::commit::{CommitPlan, runs};
use super::coordinator::{Coordinator, HandOver, ReadPlan};
use super::testing::event_at;

const LEASE: Duration = Duration::from_secs(30);
const IN_FLIGHT_MAX: usize = 12;
/// Several keys share a slot, so that slots have a sequence of their own.
const KEYS: [(&str, u16); 6] = [("a", 3), ("b", 3), ("c", 3), ("d", 4), ("e", 700), ("f", 700)];

#[derive(Clone, Debug)]
enum Op {
    Append(Vec<(usize, bool)>),
    Join,
    Leave(usize),
    Next(usize, usize),
    Ack(usize),
    Return(usize),
    RetryAfter(usize, u64),
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
        12 => (0..64_usize).prop_map(Op::Ack),
        2 => (0..64_usize).prop_map(Op::Return),
        2 => (0..64_usize, 1..60_u64).prop_map(|(d, s)| Op::RetryAfter(d, s)),
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

struct Held {
    member: MemberId,
    slot: Slot,
    position: Position,
    token: u64,
    until: Instant,
}

struct World {
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
    /// The events below were settled, or sought past.
    start: Position,
    /// Counted acks that this coordinator knows of.
    acked: BTreeSet<Position>,
    /// Those that a commit has made durable.
    durable_acks: BTreeSet<Position>,
    owners: HashMap<(Slot, Generation), MemberId>,
    lives: u64,
    attempts: BTreeMap<Position, u32>,
}

impl World {
    fn new() -> Self {
        let new = NewGroup::consumer(GroupName::new("g").unwrap());
        let durable = GroupState::new(new, Position::START, Generation::NONE);
        Self {
            now: Instant::now(),
            log: Vec::new(),
            group: Coordinator::new(LEASE, IN_FLIGHT_MAX, durable.floor()),
            durable,
            ghost: None,
            members: Vec::new(),
            held: Vec::new(),
            reading: None,
            moving: None,
            committing: Vec::new(),
            start: Position::START,
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
        let start = self.start;
        let selected = self.log.iter().filter(move |(e, s)| *s && e.position > start);
        selected.map(|(event, _)| event)
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
            Op::Ack(held) => self.ack(held),
            Op::Return(held) => self.put_back(held, 0),
            Op::RetryAfter(held, seconds) => self.put_back(held, seconds),
            Op::Renew(held) => {
                let index = held % self.held.len().max(1);
                if let Some(held) = self.held.get_mut(index) {
                    let alive = held.until > self.now;
                    let renewed = self.group.renew(held.slot, held.position, held.token, self.now);
                    assert_eq!(renewed, alive, "a lease can be renewed exactly until it ends");
                    if renewed {
                        held.until = self.now + LEASE;
                    }
                }
            }
            Op::Advance(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.group.expire(self.now);
            }
            Op::Read(limit) => {
                self.run(Op::FinishRead);
                self.start_read(limit);
                self.run(Op::FinishRead);
            }
            Op::StartRead(limit) => self.start_read(limit),
            Op::FinishRead => {
                if let Some((page, plan)) = self.reading.take() {
                    self.group.absorb(page, plan);
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
        self.check_floor();
        self.check_in_flight();
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
        for dispatch in self.group.next(member, max, self.now) {
            let event = &dispatch.event;
            let position = event.position;
            assert!(!self.acked.contains(&position), "{position} was acked before");
            let open = self.selected().filter(|e| !self.acked.contains(&e.position));
            let first = open.into_iter().find(|e| e.ordering_key() == event.ordering_key());
            assert_eq!(
                first.map(|e| e.position),
                Some(position),
                "a key's events are delivered in order, each after the one before was acked"
            );
            let twice = |held: &Held| held.position == position && held.until > self.now;
            assert!(!self.held.iter().any(twice), "{position} is out already");
            let owner = *self.owners.entry((event.slot, dispatch.generation)).or_insert(member);
            assert_eq!(owner, member, "a slot has one owner in a generation");
            assert_eq!(
                self.durable.slot(event.slot).generation,
                dispatch.generation,
                "an ownership is durable before anything is delivered"
            );
            let attempts = self.attempts.entry(position).or_default();
            *attempts += 1;
            assert_eq!(dispatch.attempt, *attempts);
            self.held.push(Held {
                member,
                slot: event.slot,
                position,
                token: dispatch.token,
                until: self.now + LEASE,
            });
        }
    }

    fn ack(&mut self, held: usize) {
        if self.held.is_empty() {
            return;
        }
        let held = self.held.remove(held % self.held.len());
        let counted = self.group.ack(held.slot, held.position, held.token, self.now);
        assert_eq!(counted, held.until > self.now, "an ack counts exactly until the lease ends");
        if counted {
            self.acked.insert(held.position);
        }
    }

    fn put_back(&mut self, held: usize, seconds: u64) {
        if !self.held.is_empty() {
            let held = self.held.remove(held % self.held.len());
            let delay = Duration::from_secs(seconds);
            self.group.put_back(held.slot, held.position, held.token, delay, self.now);
        }
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
        let change = GroupChange::Commit(plan.commits().into());
        self.durable.check(&change, self.head()).unwrap();
        self.durable.apply(&change);
        if heard {
            self.group.committed(plan);
        }
        let durable: BTreeSet<Position> = self
            .selected()
            .filter(|e| self.durable.slot(e.slot).is_settled(e.position))
            .map(|e| e.position)
            .collect();
        let unacked: Vec<_> = durable.difference(&self.acked).collect();
        assert!(unacked.is_empty(), "{unacked:?} were never acked and are settled");
        assert!(durable.is_superset(&self.durable_acks), "what is durable stays");
        self.durable_acks = durable;
    }

    fn check_floor(&self) {
        let floor = self.group.floor();
        let unacked = self.selected().find(|e| !self.acked.contains(&e.position));
        let unacked = unacked.map_or(Position::MAX, |e| e.position);
        assert!(floor < unacked, "the floor {floor} passed the unacked {unacked}");
    }

    fn check_in_flight(&self) {
        for (id, view) in self.members.iter().zip(self.group.members()) {
            let out = |held: &&Held| held.member == *id && held.until > self.now;
            assert_eq!(view.in_flight, self.held.iter().filter(out).count());
        }
    }

    fn seek(&mut self, to: u64) {
        let to = Position::new(to.min(self.log.len() as u64));
        let generation = self.durable.apply(&GroupChange::Seek(to));
        self.group.restart(to, generation);
        self.start = to;
        self.acked.clear();
        self.durable_acks.clear();
        self.attempts.clear();
        for held in &mut self.held {
            held.until = self.now;
        }
    }

    fn crash(&mut self) {
        let fresh = Coordinator::new(LEASE, IN_FLIGHT_MAX, self.durable.floor());
        self.ghost = Some(std::mem::replace(&mut self.group, fresh));
        self.lives += 1;
        self.members.clear();
        self.held.clear();
        self.attempts.clear();
        self.reading = None;
        self.moving = None;
        self.committing.clear();
        self.acked = self.durable_acks.clone();
        self.owners.clear();
    }

    /// Whoever lost the group cannot commit any more.
    fn check_ghost(&mut self) {
        if let Some(ghost) = self.ghost.take() {
            let commits = ghost.plan_commit(None).commits();
            let change = GroupChange::Commit(commits.clone().into());
            assert!(commits.is_empty() || self.durable.check(&change, self.head()).is_err());
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
        while self.group.floor() < self.head() {
            rounds += 1;
            assert!(rounds < 1_000, "it goes round and round without getting anywhere");
            self.run(Op::HandOver);
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
        let left: Vec<_> = self.selected().filter(|e| !self.acked.contains(&e.position)).collect();
        assert!(left.is_empty(), "never delivered: {left:?}");
        if !self.log.is_empty() {
            assert_eq!(self.durable.floor(), self.head(), "a restart reads nothing again");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_of_a_group_hold_whatever_happens(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
        }
        world.settle();
    }
}

/// Plays a story that chance rarely tells, and lets everything settle.
fn play(story: &[Op]) -> World {
    let mut world = World::new();
    for op in story {
        world.run(op.clone());
    }
    world.settle();
    world
}

fn one(key: usize) -> Op {
    Op::Append(vec![(key, true)])
}

#[test]
fn slots_under_claim_deliver_nothing_even_if_the_taker_leaves_meanwhile() {
    play(&[
        Op::Join,
        Op::HandOver,
        one(4),
        Op::Read(9),
        Op::Join,
        Op::BeginHandOver,
        Op::Leave(1),
        Op::Next(0, 9),
        Op::FinishHandOver,
    ]);
}

#[test]
fn an_ack_during_a_commit_is_left_for_the_next_commit() {
    play(&[
        Op::Join,
        Op::HandOver,
        one(0),
        one(1),
        Op::Read(9),
        Op::Next(0, 9),
        Op::Ack(0),
        Op::BeginCommit(0),
        Op::Ack(0),
        Op::FinishCommit(true),
        Op::CommitAll,
    ]);
}

#[test]
fn a_commit_keeps_settled_ranges_that_were_not_read_again_yet() {
    play(&[
        Op::Join,
        Op::HandOver,
        one(0),
        one(1),
        one(2),
        Op::Read(9),
        Op::Next(0, 9),
        Op::Ack(2),
        Op::CommitAll,
        Op::Crash,
        Op::Join,
        Op::HandOver,
        Op::Read(1),
        Op::Next(0, 9),
        Op::Ack(0),
        Op::CommitAll,
    ]);
}
