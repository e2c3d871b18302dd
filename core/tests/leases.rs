//! A model of processes that share a group, explored in every order of their steps: stateright over
//! the real [`Workers`] and [`GroupState`].
//!
//! There are no clocks. Where they are as bad as can be, anybody may be given up at any moment; where
//! they are sound, only who is stopped or dead. A process that does nothing for a while is one whose
//! steps come later, so every pause is among the orders.
//!
//! A process decides what to do by what it saw when it looked last, however long ago that was. What it
//! appends is checked against all of the journal, for compare-and-append lets who has not seen all of it
//! read on and check again, as `SharedGroups` does. That it takes this is shown by a process that
//! appends blindly.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::hash::{Hash, Hasher};

use headwater_core::{
    Generation, GroupChange, GroupError, GroupName, GroupState, NewGroup, Position, Slot,
    SlotCommit, SlotProgress, SlotRange, WorkerChange, WorkerId, Workers,
};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// Who may be given up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clocks {
    /// Anybody, at any moment.
    Any,
    /// Who is stopped, or dead.
    Sound,
}

/// What a process, or the journal, does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    ClaimsWithoutGeneration,
    TakesWhatOthersOwn,
    CommitsUnfenced,
    BeginsAtTheHead,
    BeginsBehindTheNext,
    CommitsAhead,
    AppendsBlindly,
    ReleasesWhatIsOut,
    NeverGivesUp,
}

const ONE_OWNER: &str = "no two processes hold slots under one generation";
const GROWS: &str = "each claim gives out a higher generation";
const FENCED: &str = "no commit of an older owner is accepted";
const ORDER: &str = "an event has its effect after the one before it";
const ALONE: &str = "nobody hands out what another may hand out";
const ONCE: &str = "an event has one effect where nobody was given up";
const FLOOR: &str = "the floor passes no event without an effect";
const SETTLED: &str = "everything is settled in the end";
const REFUSED: &str = "somebody who was given up is refused";
const MOVED: &str = "slots go from one process to another";

/// Processes that share slots in some ranges, each with some events.
struct Group {
    processes: usize,
    ranges: Vec<SlotRange>,
    events: u64,
    clocks: Clocks,
    bug: Option<Bug>,
    evictions: u8,
    crashes: u8,
    stops: u8,
}

#[derive(Clone, Debug, PartialEq)]
struct World {
    journal: Seen,
    processes: Vec<Process>,
    /// How many events of each range had an effect; they have it in order.
    effects: Vec<u64>,
    evictions: u8,
    crashes: u8,
    stops: u8,
    /// Whether anybody was given up or died.
    troubled: bool,
    refused: bool,
    moved: bool,
    /// What went wrong.
    wrong: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    id: Option<WorkerId>,
    stopped: bool,
    /// What it has seen, where others have appended since.
    stale: Option<Box<Seen>>,
    held: Vec<Option<Held>>,
}

/// What the journal says, up to somewhere.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    group: GroupState,
    workers: Workers,
}

/// What a process believes to own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    generation: Generation,
    /// How many events are settled here.
    settled: u64,
    /// Whether the next one is out.
    out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Join,
    Look,
    Claim(usize),
    Deliver(usize),
    Settle(usize),
    Commit(usize),
    Release(usize),
    /// Gives up a process, by its id.
    Evict(WorkerId),
    Stop,
    GoOn,
    Crash,
}

fn name() -> GroupName {
    GroupName::new("g").unwrap()
}

impl Eq for World {}

impl Eq for Seen {}

impl Hash for Seen {
    /// Of the journal's fold, what the steps of this model can change.
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (range, progress) in self.group.runs() {
            (range.first().get(), progress.floor, progress.generation).hash(state);
        }
        for (id, worker) in self.workers.iter() {
            (id, worker.beats).hash(state);
        }
        for (range, owner) in self.workers.owners() {
            (range.first().get(), owner).hash(state);
        }
        self.workers.newest().hash(state);
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.journal.hash(state);
        (&self.processes, &self.effects, self.evictions, self.crashes, self.stops).hash(state);
        (self.troubled, self.refused, self.moved, self.wrong).hash(state);
    }
}

impl Group {
    fn new(processes: usize, ranges: usize, events: u64, clocks: Clocks) -> Self {
        let half =
            |first, last| SlotRange::new(Slot::new(first).unwrap(), Slot::new(last).unwrap());
        let ranges = match ranges {
            1 => vec![SlotRange::all()],
            _ => vec![half(0, 511).unwrap(), half(512, 1023).unwrap()],
        };
        Self { processes, ranges, events, clocks, bug: None, evictions: 1, crashes: 0, stops: 0 }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Returns where the events of a range up to a number end. Those of the ranges take turns.
    fn position(&self, range: usize, events: u64) -> Position {
        match events.checked_sub(1) {
            None => Position::START,
            Some(before) => Position::new(before * self.ranges.len() as u64 + range as u64 + 1),
        }
    }

    fn head(&self) -> Position {
        Position::new(self.ranges.len() as u64 * self.events)
    }

    /// Returns how many events of a range the journal knows to be settled.
    fn floor(&self, journal: &Seen, range: usize) -> u64 {
        let floor = journal.group.slot(self.ranges[range].first()).floor;
        let settled = |&events: &u64| self.position(range, events) <= floor;
        (0..=self.events).rev().find(settled).unwrap_or(0)
    }

    /// Returns what a process decides by.
    fn eyes(world: &World, number: usize) -> &Seen {
        world.processes[number].stale.as_deref().unwrap_or(&world.journal)
    }

    /// Returns what an append is checked against.
    fn judge<'a>(&self, world: &'a World, number: usize) -> &'a Seen {
        if self.has(Bug::AppendsBlindly) { Self::eyes(world, number) } else { &world.journal }
    }

    /// Notes that a process has appended: the others have not seen it.
    fn appended(world: &mut World, number: usize, before: Seen) {
        let before = Box::new(before);
        for (other, process) in world.processes.iter_mut().enumerate() {
            if other != number && process.id.is_some() {
                process.stale.get_or_insert_with(|| before.clone());
            }
        }
    }

    /// Changes the workers as the journal does: a claim gives out a generation too.
    fn change(
        &self,
        world: &mut World,
        number: usize,
        change: &WorkerChange,
    ) -> Result<(), GroupError> {
        let before = world.journal.clone();
        let checked = self.judge(world, number).workers.check(&name(), change);
        let taken = matches!(checked, Err(GroupError::SlotTaken { .. }));
        if !(taken && self.has(Bug::TakesWhatOthersOwn)) {
            checked?;
        }
        if let WorkerChange::Claim { slots, .. } = change
            && !self.has(Bug::ClaimsWithoutGeneration)
        {
            world.journal.group.apply(&GroupChange::Claim(slots.clone()));
        }
        world.journal.workers.apply(change);
        Self::appended(world, number, before);
        // The answer has everything up to here.
        world.processes[number].stale = None;
        Ok(())
    }

    /// Lets a process do something; `None` if it cannot, or if nothing changes.
    fn step(&self, world: &mut World, number: usize, step: Step) -> Option<()> {
        let process = world.processes[number].clone();
        if process.stopped != (step == Step::GoOn) {
            return None;
        }
        match step {
            Step::Join if process.id.is_none() => {
                let join = WorkerChange::Join { name: "w".to_owned(), members: 1 };
                self.change(world, number, &join).ok()?;
                world.processes[number].id = Some(world.journal.workers.newest());
            }
            Step::Join => return None,
            Step::Look => return self.look(world, number),
            Step::Claim(range) => return self.claim(world, number, range),
            Step::Deliver(range) => return self.deliver(world, number, range),
            Step::Settle(range) => {
                let held = world.processes[number].held[range].as_mut().filter(|held| held.out)?;
                held.out = false;
                held.settled += 1;
            }
            Step::Commit(range) => return self.commit(world, number, range),
            Step::Release(range) => return self.release(world, number, range),
            Step::Evict(victim) => {
                let beats = Self::eyes(world, number).workers.get(victim)?.beats;
                self.change(world, number, &WorkerChange::Evict { worker: victim, beats }).ok()?;
                world.evictions = world.evictions.checked_sub(1)?;
                world.troubled = true;
            }
            Step::Stop => {
                world.stops = world.stops.checked_sub(1)?;
                world.processes[number].stopped = true;
            }
            Step::GoOn => world.processes[number].stopped = false,
            Step::Crash => {
                process.id?;
                world.crashes = world.crashes.checked_sub(1)?;
                world.troubled = true;
                world.processes[number] = self.process();
            }
        }
        Some(())
    }

    fn process(&self) -> Process {
        Process { id: None, stopped: false, stale: None, held: vec![None; self.ranges.len()] }
    }

    /// Takes in what others have done.
    fn look(&self, world: &mut World, number: usize) -> Option<()> {
        let before = world.processes[number].clone();
        let process = &mut world.processes[number];
        let id = process.id?;
        process.stale = None;
        let Seen { group, workers } = &world.journal;
        if workers.get(id).is_none() {
            *process = self.process();
        }
        for (held, range) in process.held.iter_mut().zip(&self.ranges) {
            let first = range.first();
            let generation = group.slot(first).generation;
            let mine = workers.owner(first) == Some(id);
            if held.as_ref().is_some_and(|held| !mine || held.generation != generation) {
                *held = None;
            }
        }
        (*process != before).then_some(())
    }

    fn wants(&self, journal: &Seen, id: WorkerId, range: usize) -> bool {
        let first = self.ranges[range].first();
        if self.ranges.len() == 1 {
            return journal.workers.wanted_alone() == Some(id);
        }
        journal.workers.wanted()[usize::from(first.get())] == Some(id)
    }

    fn claim(&self, world: &mut World, number: usize, range: usize) -> Option<()> {
        let id = world.processes[number].id?;
        let greedy = self.has(Bug::TakesWhatOthersOwn);
        if world.processes[number].held[range].is_some()
            || !(greedy || self.wants(Self::eyes(world, number), id, range))
        {
            return None;
        }
        let first = self.ranges[range].first();
        let before = world.journal.group.slot(first).generation;
        let claim = WorkerChange::Claim { worker: id, slots: vec![self.ranges[range]] };
        self.change(world, number, &claim).ok()?;
        let generation = world.journal.group.slot(first).generation;
        if generation <= before {
            world.wrong = Some(GROWS);
        }
        let mut others = world.processes.iter().filter_map(|other| other.held[range].as_ref());
        if others.any(|held| held.generation == generation) {
            world.wrong = Some(ONE_OWNER);
        }
        world.moved |= before > Generation::NONE;
        let floor = self.floor(&world.journal, range);
        let settled = match self.bug {
            Some(Bug::BeginsAtTheHead) => self.events,
            Some(Bug::BeginsBehindTheNext) => (floor + 1).min(self.events),
            _ => floor,
        };
        world.processes[number].held[range] = Some(Held { generation, settled, out: false });
        Some(())
    }

    fn deliver(&self, world: &mut World, number: usize, range: usize) -> Option<()> {
        let held = world.processes[number].held[range].as_mut()?;
        if held.out || held.settled == self.events {
            return None;
        }
        held.out = true;
        let event = held.settled + 1;
        let effects = &mut world.effects[range];
        if event > *effects + 1 {
            world.wrong = Some(ORDER);
        }
        if event <= *effects && !world.troubled {
            world.wrong = Some(ONCE);
        }
        *effects = event.max(*effects);
        // Who was not given up and goes on believes rightly that a range is its own.
        let rightly = |(other, process): (usize, &Process)| {
            let lives = process.id.is_some_and(|id| world.journal.workers.get(id).is_some());
            other != number && process.held[range].is_some() && lives
        };
        let known = |id| world.journal.workers.get(id).is_some();
        let me = world.processes[number].id.is_some_and(known);
        if me && world.processes.iter().enumerate().any(rightly) {
            world.wrong = Some(ALONE);
        }
        Some(())
    }

    fn commit(&self, world: &mut World, number: usize, range: usize) -> Option<()> {
        let held = world.processes[number].held[range].clone()?;
        let ahead = self.has(Bug::CommitsAhead) && held.settled < self.events;
        let settled = held.settled + u64::from(ahead);
        let first = self.ranges[range].first();
        let floor = self.position(range, settled);
        if floor <= Self::eyes(world, number).group.slot(first).floor {
            return None;
        }
        let progress = SlotProgress::beginning_at(floor, held.generation);
        let slots = self.ranges[range];
        let change = GroupChange::Commit(vec![SlotCommit { slots, progress }].into());
        let before = world.journal.clone();
        match self.judge(world, number).group.check(&change, self.head()) {
            Ok(()) => {
                world.journal.group.apply(&change);
            }
            Err(GroupError::Fenced { .. }) if self.has(Bug::CommitsUnfenced) => {
                world.journal.group.apply(&change);
            }
            Err(GroupError::Fenced { .. }) => {
                world.refused = true;
                world.processes[number].held[range] = None;
                return Some(());
            }
            Err(error) => panic!("{error}"),
        }
        Self::appended(world, number, before);
        let owner = world.journal.workers.owner(first);
        if owner.is_some() && owner != world.processes[number].id {
            world.wrong = Some(FENCED);
        }
        Some(())
    }

    fn release(&self, world: &mut World, number: usize, range: usize) -> Option<()> {
        let id = world.processes[number].id?;
        let held = world.processes[number].held[range].clone()?;
        let eyes = Self::eyes(world, number);
        let done = held.settled == self.floor(eyes, range);
        let out = held.out && !self.has(Bug::ReleasesWhatIsOut);
        if out || !done || self.wants(eyes, id, range) {
            return None;
        }
        let release = WorkerChange::Release { worker: id, slots: vec![self.ranges[range]] };
        self.change(world, number, &release).ok()?;
        world.processes[number].held[range] = None;
        Some(())
    }

    /// Goes through what may be next.
    fn next_steps(&self, world: &World) -> impl Iterator<Item = World> {
        let mut actions = Vec::new();
        self.actions(world, &mut actions);
        actions.into_iter().filter_map(|action| self.next_state(world, action))
    }

    /// Returns whether a process may be given up.
    fn may_go(&self, world: &World, id: WorkerId) -> bool {
        match self.clocks {
            Clocks::Any => true,
            Clocks::Sound => {
                let lives = |process: &Process| process.id == Some(id) && !process.stopped;
                !world.processes.iter().any(lives)
            }
        }
    }
}

impl Model for Group {
    type State = World;
    type Action = (usize, Step);

    fn init_states(&self) -> Vec<World> {
        let new = NewGroup::consumer(name());
        vec![World {
            journal: Seen {
                group: GroupState::new(new, Position::START, Generation::NONE),
                workers: Workers::default(),
            },
            processes: vec![self.process(); self.processes],
            effects: vec![0; self.ranges.len()],
            evictions: self.evictions,
            crashes: self.crashes,
            stops: self.stops,
            troubled: false,
            refused: false,
            moved: false,
            wrong: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<(usize, Step)>) {
        for number in 0..self.processes {
            let alone = [Step::Join, Step::Look, Step::Stop, Step::GoOn, Step::Crash];
            actions.extend(alone.map(|step| (number, step)));
            for range in 0..self.ranges.len() {
                let of = [Step::Claim, Step::Deliver, Step::Settle, Step::Commit, Step::Release];
                actions.extend(of.map(|step| (number, step(range))));
            }
            let me = world.processes[number].id;
            let others =
                world.journal.workers.iter().map(|(id, _)| id).filter(|id| Some(*id) != me);
            let gives_up = me.is_some() && !self.has(Bug::NeverGivesUp);
            let gone = others.filter(|id| gives_up && self.may_go(world, *id));
            actions.extend(gone.map(|id| (number, Step::Evict(id))));
        }
    }

    fn next_state(&self, world: &World, (number, step): (usize, Step)) -> Option<World> {
        let mut next = world.clone();
        self.step(&mut next, number, step)?;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(ONE_OWNER, |_, world: &World| world.wrong != Some(ONE_OWNER)),
            Property::always(GROWS, |_, world: &World| world.wrong != Some(GROWS)),
            Property::always(FENCED, |_, world: &World| world.wrong != Some(FENCED)),
            Property::always(ORDER, |_, world: &World| world.wrong != Some(ORDER)),
            Property::always(ALONE, |_, world: &World| world.wrong != Some(ALONE)),
            Property::always(ONCE, |_, world: &World| world.wrong != Some(ONCE)),
            Property::always(FLOOR, |model: &Self, world: &World| {
                (0..model.ranges.len())
                    .all(|range| model.floor(&world.journal, range) <= world.effects[range])
            }),
            Property::sometimes(REFUSED, |_, world: &World| world.refused),
            Property::sometimes(MOVED, |_, world: &World| world.moved),
        ];
        if self.clocks == Clocks::Sound {
            // No step is ever taken back, so everything ends.
            properties.push(Property::always(SETTLED, |model: &Self, world: &World| {
                let settled = |range| model.floor(&world.journal, range) == model.events;
                (0..model.ranges.len()).all(settled) || model.next_steps(world).next().is_some()
            }));
        }
        properties
    }
}

/// Explores everything and returns how many states that was.
fn explore(group: Group) -> usize {
    let (processes, ranges, clocks) = (group.processes, group.ranges.len(), group.clocks);
    let checker = group.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    println!("{processes} processes, {ranges} ranges, {clocks:?} clocks: {states} states");
    states
}

#[test]
fn whoever_is_given_up_whenever_nothing_is_skipped_and_nobody_commits_for_another() {
    explore(Group { evictions: 2, crashes: 1, ..Group::new(2, 1, 2, Clocks::Any) });
    explore(Group { evictions: 1, ..Group::new(3, 1, 1, Clocks::Any) });
    explore(Group { evictions: 1, ..Group::new(2, 2, 1, Clocks::Any) });
}

#[test]
fn with_sound_clocks_a_slot_is_handed_out_by_one_and_everything_is_settled() {
    explore(Group { evictions: 2, crashes: 1, stops: 1, ..Group::new(2, 1, 2, Clocks::Sound) });
}

#[test]
#[ignore = "it takes minutes"]
fn lease_campaign() {
    explore(Group { evictions: 2, ..Group::new(3, 1, 2, Clocks::Any) });
    explore(Group { evictions: 4, crashes: 2, ..Group::new(2, 1, 3, Clocks::Any) });
    explore(Group { evictions: 2, crashes: 1, ..Group::new(3, 1, 2, Clocks::Any) });
    explore(Group { evictions: 1, ..Group::new(2, 2, 2, Clocks::Any) });
    explore(Group { evictions: 3, crashes: 1, stops: 2, ..Group::new(3, 1, 2, Clocks::Sound) });
    explore(Group { evictions: 1, stops: 1, ..Group::new(2, 2, 1, Clocks::Sound) });
    explore(Group { evictions: 1, stops: 1, ..Group::new(2, 2, 2, Clocks::Sound) });
}

#[test]
fn each_bug_breaks_the_property_that_forbids_it() {
    for (bug, clocks, ranges, property) in [
        (Bug::ClaimsWithoutGeneration, Clocks::Any, 1, GROWS),
        (Bug::ClaimsWithoutGeneration, Clocks::Any, 1, ONE_OWNER),
        (Bug::TakesWhatOthersOwn, Clocks::Sound, 1, ALONE),
        (Bug::CommitsUnfenced, Clocks::Any, 1, FENCED),
        (Bug::BeginsAtTheHead, Clocks::Any, 1, FLOOR),
        (Bug::BeginsBehindTheNext, Clocks::Any, 1, ORDER),
        (Bug::CommitsAhead, Clocks::Any, 1, FLOOR),
        (Bug::AppendsBlindly, Clocks::Any, 1, FENCED),
        (Bug::ReleasesWhatIsOut, Clocks::Any, 2, ONCE),
        (Bug::NeverGivesUp, Clocks::Sound, 1, SETTLED),
    ] {
        let group =
            Group { bug: Some(bug), evictions: 2, crashes: 1, ..Group::new(2, ranges, 2, clocks) };
        // With some of them there is no end to what can happen.
        let found = HasDiscoveries::AnyOf([property].into());
        let checker = group.checker().threads(2).finish_when(found).spawn_bfs().join();
        let path = checker.discovery(property);
        let path = path.unwrap_or_else(|| panic!("{bug:?} breaks nothing"));
        println!("{bug:?}: {} steps to \"{property}\"", path.into_actions().len());
    }
}
