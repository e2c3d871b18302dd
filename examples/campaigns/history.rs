//! What a store must hold: everything that was seen in it before, and what a life adds to that.

use std::collections::{HashMap, HashSet, VecDeque};

use headwater::{
    Category, Durability, EventLog, EventType, GroupLog, Page, Position, Query, Read,
    ReadOnlyStore, RecordedEvent, Revision, Scan, Store, StreamId, Timestamp, Visibility,
};
use pollster::block_on;

use crate::child::{BLOCKING, PIPELINED};
use crate::plan::{Expects, Found, Name, Plan, is_as_sent, named};
use crate::watch::Told;

/// How many of the newest append ids are looked up, and how many streams are read by index.
const SAMPLE: usize = 12;

/// What took the process down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The process died: what it was answered is there.
    Process,
    /// The power went: what was durable is there.
    Power,
}

/// A store that is looked at.
pub(crate) enum View {
    /// Opened for writing, and so recovered.
    Recovered(Store),
    /// Only read, as it was left.
    Left(Box<ReadOnlyStore>),
}

/// Everything that is known of a store.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    seed: u64,
    start: Position,
    /// The events after the start, as they were seen last.
    settled: VecDeque<Settled>,
    ends: Ends,
    /// How far the group had come.
    floor: Position,
    /// Acknowledged appends that were compared.
    pub(crate) acks: u64,
    /// Acknowledged appends that the loss of power took, as the mode allows.
    pub(crate) lost: u64,
    /// When the first of those of the last life was heard of.
    pub(crate) oldest_lost: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Settled {
    name: Name,
    at: usize,
    revision: Revision,
}

/// Where streams end.
#[derive(Clone, Debug, Default)]
struct Ends {
    known: HashMap<StreamId, Revision>,
    /// Lower bounds: events that were never seen have been removed since.
    least: HashMap<StreamId, Revision>,
    unseen: bool,
}

/// Where an append is, and at which revision it found its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    first: Position,
    found: Revision,
}

/// A walk over the log, and what it has met.
struct Walk<'a> {
    history: &'a History,
    told: &'a Told,
    /// The append that the last event belongs to, and how many of its events have come.
    append: Option<(Plan, usize)>,
    commit_time: Timestamp,
    claims: HashSet<String>,
    newest: HashMap<u32, u32>,
    ends: Ends,
    /// Where the appends of this life are.
    places: HashMap<Name, Place>,
    events: Vec<RecordedEvent>,
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Ends {
    /// Events were appended and removed again without being seen.
    fn pass_unseen(&mut self) {
        self.unseen = true;
        self.least.extend(self.known.drain());
    }

    /// Takes the next event of a stream.
    fn extend(&mut self, event: &RecordedEvent) -> Result<(), String> {
        let (stream, revision) = (&event.stream, event.revision);
        let known = self.known.insert(stream.clone(), revision);
        let least = known.or_else(|| self.least.get(stream).copied()).unwrap_or_default().next();
        let follows =
            if known.is_none() && self.unseen { revision >= least } else { revision == least };
        ensure(follows, || format!("{stream} is to go on with {least}, and does with {revision}"))
    }
}

impl View {
    fn start(&self) -> Result<Position, String> {
        match self {
            Self::Recovered(store) => block_on(store.start()).map_err(text),
            Self::Left(store) => Ok(store.start()),
        }
    }

    fn head(&self) -> Result<Position, String> {
        match self {
            Self::Recovered(store) => block_on(store.head(Visibility::Committed)).map_err(text),
            Self::Left(store) => Ok(store.head()),
        }
    }

    fn scan(&self, after: Position) -> Result<Scan, String> {
        match self {
            Self::Recovered(store) => store.scan(after).map_err(text),
            Self::Left(store) => store.scan(after).map_err(text),
        }
    }

    fn read(&self, read: &Read) -> Result<Page, String> {
        match self {
            Self::Recovered(store) => store.read_blocking(read).map_err(text),
            Self::Left(store) => store.read(read).map_err(text),
        }
    }

    fn floor(&self) -> Result<Position, String> {
        let groups = match self {
            Self::Recovered(store) => block_on(store.groups()).map_err(text)?,
            Self::Left(store) => store.groups().to_vec(),
        };
        Ok(groups.first().map(headwater::GroupState::floor).unwrap_or_default())
    }

    /// Everything that a query selects after a position, as the index finds it.
    fn all(&self, query: &Query, after: Position) -> Result<Vec<RecordedEvent>, String> {
        let (mut after, mut events) = (after, Vec::new());
        loop {
            let page = self.read(&Read::forward(query.clone(), after).limit(10_000))?;
            events.extend(page.events);
            if page.done {
                return Ok(events);
            }
            after = page.scanned;
        }
    }
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Returns whether nothing was ever seen in the store.
    pub(crate) fn is_empty(&self) -> bool {
        self.head() == Position::START
    }

    /// The last event that was seen.
    fn head(&self) -> Position {
        Position::new(self.start.get() + self.settled.len() as u64)
    }

    /// Checks a store after a life, and takes what it holds for what there is from now on.
    ///
    /// # Errors
    ///
    /// What must hold and does not.
    pub(crate) fn check(&mut self, view: &View, told: &Told, loss: Loss) -> Result<(), String> {
        ensure(told.wrong.is_empty(), || format!("the child saw {:?}", told.wrong))?;
        if let View::Left(store) = view
            && let Some(damage) = store.damage().or(store.groups_damage())
        {
            return Err(format!("no crash explains: {damage}"));
        }
        let (start, head) = (view.start()?, view.head()?);
        let promised = match loss {
            Loss::Process => told.acknowledged(),
            Loss::Power => told.durable(),
        };
        ensure(head >= promised, || format!("the log ends at {head}, {promised} was promised"))?;
        self.check_start(start, told)?;
        let mut walk = Walk::new(self, told);
        if start > self.head() {
            walk.ends.pass_unseen();
        }
        let mut scan = view.scan(start)?;
        while let Some(event) = scan.next() {
            let event = event.and_then(|event| event.to_event()).map_err(text)?;
            walk.meet(event, start)?;
        }
        walk.end(start, head)?;
        check_index(view, &walk.events, start, self.seed ^ head.get())?;
        if let View::Recovered(store) = view {
            walk.check_ids(store)?;
        }
        let (ends, places) = (walk.ends, walk.places);
        let settled = walk.events.iter().map(|event| {
            let (name, at, _) = named(event)?;
            Ok(Settled { name, at, revision: event.revision })
        });
        let settled = settled.collect::<Result<_, String>>()?;
        self.check_acks(told, &places, start, head)?;
        self.check_floor(view.floor()?, head, told, loss)?;
        (self.start, self.settled, self.ends) = (start, settled, ends);
        Ok(())
    }

    /// What was removed stays removed, and nothing went that nobody wanted removed.
    fn check_start(&self, start: Position, told: &Told) -> Result<(), String> {
        let least = self.start.max(told.removed);
        let floors = told.committing.iter().copied().max().unwrap_or_default().max(self.floor);
        let most = least.max(told.removing).max(floors);
        ensure((least..=most).contains(&start), || {
            format!("the log starts after {start}, it may start after {least} to {most}")
        })
    }

    fn check_acks(
        &mut self,
        told: &Told,
        places: &HashMap<Name, Place>,
        start: Position,
        head: Position,
    ) -> Result<(), String> {
        self.oldest_lost = None;
        for ack in told.acks.iter().filter(|ack| ack.first > start) {
            let name = ack.plan.name;
            self.acks += 1;
            if ack.last > head {
                // What was promised lies below the head.
                ensure(ack.first > head && !places.contains_key(&name), || {
                    format!("{name} was torn or moved: it was at {} to {}", ack.first, ack.last)
                })?;
                self.lost += 1;
                self.oldest_lost = self.oldest_lost.or(Some(ack.at));
                continue;
            }
            let place = places.get(&name).map(|place| place.first);
            ensure(place == Some(ack.first), || {
                format!("{name} was at {}, and is at {place:?}", ack.first)
            })?;
            let last = Position::new(ack.first.get() + ack.plan.len() as u64 - 1);
            ensure(ack.last == last, || format!("{name} was to end at {last}, not {}", ack.last))?;
        }
        Ok(())
    }

    fn check_floor(
        &mut self,
        floor: Position,
        head: Position,
        told: &Told,
        loss: Loss,
    ) -> Result<(), String> {
        let promised = match loss {
            Loss::Power if told.life.durability != Durability::Sync => None,
            _ => told.committed,
        };
        let least = promised.unwrap_or(self.floor);
        let possible = floor == self.floor || told.committing.contains(&floor);
        ensure(possible && floor >= least && floor <= head, || {
            format!("the group is at {floor} of {head}; {least} was promised")
        })?;
        self.floor = floor;
        Ok(())
    }
}

impl<'a> Walk<'a> {
    fn new(history: &'a History, told: &'a Told) -> Self {
        Self {
            history,
            told,
            append: None,
            commit_time: Timestamp::from_nanos(i64::MIN),
            claims: HashSet::new(),
            newest: HashMap::new(),
            ends: history.ends.clone(),
            places: HashMap::new(),
            events: Vec::new(),
        }
    }

    /// Takes the next event of the log.
    fn meet(&mut self, event: RecordedEvent, start: Position) -> Result<(), String> {
        let position = event.position;
        let expected = Position::new(start.get() + 1 + self.events.len() as u64);
        ensure(position == expected, || format!("{position} follows, not {expected}"))?;
        ensure(event.commit_time >= self.commit_time, || format!("time goes back at {position}"))?;
        self.commit_time = event.commit_time;
        let (name, at, found) = named(&event)?;
        let plan = self.next_of(name, at, position)?;
        ensure(is_as_sent(&plan.event(at, found), &event), || {
            format!("{position} is not what {name} sent: {event:?}")
        })?;
        if let Some(claim) = event.tags.first() {
            let first = self.claims.insert(claim.as_str().to_owned());
            ensure(first, || format!("{claim} was claimed twice, again at {position}"))?;
        }
        if position <= self.history.head() {
            let index = position.get() - self.history.start.get() - 1;
            let was = &self.history.settled[usize::try_from(index).expect("an index in memory")];
            let is = Settled { name, at, revision: event.revision };
            ensure(*was == is, || format!("{position} was {was:?} and is {is:?}"))?;
        } else {
            self.meet_new(&plan, at, found, &event)?;
        }
        self.append = Some((plan, at + 1));
        self.events.push(event);
        Ok(())
    }

    /// The events of one append come together, from the first to the last.
    fn next_of(&mut self, name: Name, at: usize, position: Position) -> Result<Plan, String> {
        let last = self.append.take();
        if at == 0 {
            ensure(last.is_none_or(|(plan, met)| plan.len() == met), || {
                format!("the append before {position} is not whole")
            })?;
            return Ok(Plan::of(self.history.seed, name));
        }
        match last {
            Some((plan, met)) if plan.name == name && met == at && at < plan.len() => Ok(plan),
            _ => Err(format!("event {at} of {name} stands alone at {position}")),
        }
    }

    /// An event that was not there before this life.
    fn meet_new(
        &mut self,
        plan: &Plan,
        at: usize,
        found: Revision,
        event: &RecordedEvent,
    ) -> Result<(), String> {
        let (name, position) = (plan.name, event.position);
        let window = if name.thread == BLOCKING { PIPELINED + 1 } else { 1 };
        let answered = self.told.answered.get(&name.thread).copied().unwrap_or(0);
        ensure(name.life == self.told.life.number && name.n <= answered + window, || {
            format!("{name} was not sent, and is at {position}")
        })?;
        ensure(!self.told.refused.contains(&name), || {
            format!("{name} was refused without effect, and is at {position}")
        })?;
        if at == 0 {
            let twice = self.places.insert(name, Place { first: position, found });
            ensure(twice.is_none(), || format!("{name} is there twice, again at {position}"))?;
            let before = self.newest.insert(name.thread, name.n).unwrap_or(0);
            ensure(before < name.n, || format!("{name} comes after the {before}th of its thread"))?;
        }
        self.ends.extend(event)?;
        let met = match &plan.expects {
            Expects::Exact(_) if at == 0 => event.revision == found.next(),
            Expects::NoStream(_) if at == 0 => event.revision == Revision::FIRST,
            _ => true,
        };
        ensure(met, || format!("{name} at {position} did not find what it expected"))
    }

    fn end(&self, start: Position, head: Position) -> Result<(), String> {
        let whole = self.append.as_ref().is_none_or(|(plan, met)| plan.len() == *met);
        ensure(whole, || "the last append is not whole".to_owned())?;
        let last = Position::new(start.get() + self.events.len() as u64);
        ensure(last == head, || format!("the walk ends at {last}, the log at {head}"))?;
        let before = self.history.head();
        ensure(head >= before, || format!("{before} was there, and the log ends at {head}"))
    }

    /// Ids of appends that are there answer, those of others do not, and repeating adds nothing.
    fn check_ids(&self, store: &Store) -> Result<(), String> {
        let mut there: Vec<(&Name, &Place)> = self.places.iter().collect();
        there.sort_by_key(|(_, place)| place.first);
        let mut repeated = false;
        let start = block_on(store.start()).map_err(text)?;
        for (&name, place) in there.into_iter().rev().take(4 * SAMPLE) {
            let plan = Plan::of(self.history.seed, name);
            let (Some(id), first) = (plan.id(), place.first) else { continue };
            let found = Found { revision: place.found, start };
            let known = block_on(store.find_append(id)).map_err(text)?;
            ensure(known.is_some_and(|known| known.first == first), || {
                format!("{name} is at {first}, and its id says {known:?}")
            })?;
            if !std::mem::replace(&mut repeated, true) {
                let again = store.append_blocking(plan.append(found));
                ensure(
                    matches!(&again, Ok(again) if again.deduplicated && again.first == first),
                    || format!("{name} is at {first}, and repeated gave {again:?}"),
                )?;
            }
        }
        let refused = self.told.refused.iter();
        let lost = self.told.acks.iter().map(|ack| &ack.plan.name);
        let missing = refused.chain(lost).filter(|name| !self.places.contains_key(name));
        for &name in missing.take(SAMPLE) {
            let Some(id) = Plan::of(self.history.seed, name).id() else { continue };
            let known = block_on(store.find_append(id)).map_err(text)?;
            ensure(known.is_none_or(|known| known.last <= start), || {
                format!("{name} is not there, and its id says {known:?}")
            })?;
        }
        Ok(())
    }
}

/// The index answers as a walk does.
fn check_index(
    view: &View,
    events: &[RecordedEvent],
    start: Position,
    seed: u64,
) -> Result<(), String> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let name = |text| Category::new(text).expect("a word");
    let mut queries =
        vec![Query::category(name("new")), Query::types([EventType::new("sold").expect("a word")])];
    for event in dice.choose_multiple(events, SAMPLE) {
        queries.push(Query::stream(event.stream.clone()));
        queries.extend(event.tags.first().map(|tag| Query::tags([tag.clone()])));
    }
    for query in queries {
        let found = view.all(&query, start)?;
        let walked = events.iter().filter(|event| query.matches(*event));
        ensure(walked.eq(&found), || format!("the index answers otherwise to {query:?}"))?;
    }
    Ok(())
}
