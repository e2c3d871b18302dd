//! Everything that was asked of a store, and what must hold of it after a crash.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use headwater_core::{
    AppendId, Appended, Durability, EventLog, Generation, GroupLog, GroupName, Position, Query,
    Read, RecordedEvent, Revision, StreamId, Tag, Visibility,
};
use pollster::block_on;

use super::options;
use crate::fs::Fs;
use crate::fs::sim::SimFs;
use crate::handle::Store;
use crate::options::{OpenMode, Options};

/// What was asked with one append, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Which of all appends it was.
    pub(super) n: usize,
    pub(super) payloads: Vec<String>,
    pub(super) id: Option<AppendId>,
    pub(super) told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is there at these positions.
    Done(Appended),
    /// It may be there.
    Unknown,
    /// It is not there.
    Refused,
}

/// Everything that was asked of a store, and what its answers promise.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) asked: Vec<Asked>,
    /// Everything up to here survives the loss of power.
    pub(super) durable: Position,
    /// What readers of durable events saw.
    pub(super) seen: BTreeMap<Position, String>,
    /// Where the log may start.
    pub(super) starts: Vec<Position>,
    /// Where the group's floor may be, the last one that was promised first.
    pub(super) floors: Vec<Position>,
    /// The last of them that was answered.
    pub(super) told_floor: usize,
    /// Power was lost, and nobody has looked yet what it took.
    pub(super) unseen: bool,
    /// The newest generation of a commit that is durable.
    pub(super) generation: Generation,
    pub(super) backups: Vec<Backup>,
}

/// A backup that was begun, and the log as it was then.
#[derive(Debug)]
pub(super) struct Backup {
    pub(super) path: PathBuf,
    pub(super) start: Position,
    pub(super) events: Vec<RecordedEvent>,
    /// It was reported to be done.
    pub(super) done: bool,
}

pub(super) fn group_name() -> GroupName {
    GroupName::new("g").unwrap()
}

pub(super) fn payload(n: usize, at: u64, bytes: u64) -> String {
    format!("{n}.{at} {}", "x".repeat(usize::try_from(bytes).unwrap()))
}

/// The stream of an append: one of three, or now and then one of its own, which retention may
/// remove whole.
pub(super) fn stream(n: usize) -> StreamId {
    let name = if n % 5 == 4 { format!("s-lone-{n}") } else { format!("s-{}", n % 3) };
    StreamId::new(name).unwrap()
}

/// The tag of an append.
pub(super) fn tag(n: usize) -> String {
    format!("k:{}", n % 4)
}

pub(super) fn head(store: &Store, visibility: Visibility) -> Position {
    block_on(store.head(visibility)).unwrap()
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            asked: Vec::new(),
            durable: Position::START,
            seen: BTreeMap::new(),
            starts: vec![Position::START],
            floors: vec![Position::START],
            told_floor: 0,
            unseen: false,
            generation: Generation::default(),
            backups: Vec::new(),
        }
    }

    /// The process dies and the power stays: everything that was answered is there, unless the
    /// disk had failed or the power was lost before.
    pub(super) fn process_dies(&mut self, fs: &SimFs) {
        if fs.has_failed() || self.unseen {
            return;
        }
        for asked in &self.asked {
            if let Told::Done(done) = asked.told {
                self.durable = self.durable.max(done.last);
            }
        }
        self.forget_older_floors();
    }

    pub(super) fn forget_older_floors(&mut self) {
        self.floors.drain(..self.told_floor);
        self.told_floor = 0;
    }

    /// Checks a store that was opened after a crash, and takes what it holds for what there is
    /// from now on.
    pub(super) fn check(&mut self, store: &Store) {
        let start = block_on(store.start()).unwrap();
        assert!(
            self.starts.contains(&start),
            "the log starts after {start}, and may start after {:?}",
            self.starts
        );
        let ledger = store.ledger().unwrap();
        let is_noted = ledger.iter().any(|removal| removal.through == start);
        assert!(start == Position::START || is_noted, "{start} is not in the ledger: {ledger:?}");
        let events = read_in_pages(store, start, Visibility::Committed);
        let head = head(store, Visibility::Durable);
        assert_eq!(head.events_since(start), Some(events.len() as u64), "positions are dense");
        assert!(head >= self.durable, "{} was durable, and the log ends at {head}", self.durable);
        for (at, event) in (1..).zip(&events) {
            assert_eq!(event.position, start.advanced_by(at), "positions are dense");
            if let Some(seen) = self.seen.get(&event.position) {
                assert_eq!(event.payload, seen.as_bytes(), "what was seen is not what is there");
            }
        }
        let counts = self.check_appends(store, start, head, &events);
        check_indexes(store, start, &events, &counts);
        let floor =
            block_on(store.group(&group_name())).map(|state| state.floor()).unwrap_or_default();
        assert!(
            self.floors.contains(&floor),
            "the group's floor is {floor}, and may be {:?}",
            self.floors
        );
        assert!(floor <= head, "the group has read events that are not there");
        (self.starts, self.floors, self.told_floor) = (vec![start], vec![floor], 0);
        (self.durable, self.unseen) = (head, false);
        for event in &events {
            let text = String::from_utf8(event.payload.to_vec()).unwrap();
            self.seen.insert(event.position, text);
        }
    }

    /// Checks that a backup which was done is whole, and that any other is whole or no store. Then
    /// they are written to, which must not show in the store.
    pub(super) fn check_backups(&self, fs: &SimFs) {
        let fs: Arc<dyn Fs> = Arc::new(fs.clone());
        for Backup { path, start, events, done } in &self.backups {
            let options = Options { mode: OpenMode::Open, ..options(Durability::Sync) };
            let copy = match Store::open_on(&fs, path, options) {
                Ok(copy) => copy,
                Err(error) => {
                    assert!(!done, "{} was done: {error}", path.display());
                    continue;
                }
            };
            assert_eq!(block_on(copy.start()).unwrap(), *start);
            let found = read_in_pages(&copy, *start, Visibility::Durable);
            assert_eq!(found, *events, "{}", path.display());
            let floor = block_on(copy.group(&group_name())).map(|state| state.floor());
            let head = head(&copy, Visibility::Durable);
            assert!(floor.unwrap_or_default() <= head, "the group has read what is not there");
            copy.append_blocking(crate::tests::append("s-0", "in the backup")).unwrap();
        }
    }

    /// Appends are there whole, in the order in which they were asked, and without those that were
    /// refused; only the newest may be missing, and none that was durable. Returns how many events
    /// each stream has had.
    fn check_appends(
        &mut self,
        store: &Store,
        start: Position,
        head: Position,
        events: &[RecordedEvent],
    ) -> HashMap<StreamId, u64> {
        let mut rest = events;
        let mut counts = HashMap::new();
        for asked in &mut self.asked {
            let count: &mut u64 = counts.entry(stream(asked.n)).or_default();
            if matches!(asked.told, Told::Done(done) if done.last <= start) {
                *count += asked.payloads.len() as u64;
                continue;
            }
            let is_next = rest.first().is_some_and(|event| event.payload == asked.payloads[0]);
            if !is_next {
                if let Told::Done(done) = asked.told {
                    assert!(done.first > head, "{done:?} was acknowledged and is missing");
                    assert!(done.last > self.durable, "{done:?} was durable and is missing");
                }
                if let Some(id) = asked.id {
                    assert_eq!(block_on(store.find_append(id)).unwrap(), None);
                }
                // What is gone is gone.
                asked.told = Told::Refused;
                continue;
            }
            assert_ne!(asked.told, Told::Refused, "an append without effect is there");
            let (mine, others) = rest.split_at(asked.payloads.len());
            let found: Vec<&[u8]> = mine.iter().map(|event| &event.payload[..]).collect();
            let sent: Vec<&[u8]> = asked.payloads.iter().map(String::as_bytes).collect();
            assert_eq!(found, sent, "an append is whole");
            for event in mine {
                *count += 1;
                assert_eq!(event.revision.get(), *count, "revisions are dense");
            }
            let (first, last) = (mine[0].position, mine[mine.len() - 1].position);
            let appended = Appended { first, last, deduplicated: false };
            if let Told::Done(done) = asked.told {
                assert_eq!((done.first, done.last), (first, last), "an append stays where it was");
            }
            if let Some(id) = asked.id {
                let known = block_on(store.find_append(id)).unwrap();
                assert_eq!(known, Some(Appended { deduplicated: true, ..appended }));
            }
            asked.told = Told::Done(appended);
            rest = others;
        }
        assert_eq!(rest.len(), 0, "events that nobody sent: {:?}", rest.first());
        counts
    }
}

/// Everything after a position, in pages that are joined.
pub(super) fn read_in_pages(
    store: &Store,
    start: Position,
    visibility: Visibility,
) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    let mut after = start;
    loop {
        let mut read = Read::forward(Query::all(), after).limit(5);
        read.visibility = visibility;
        let page = store.read_blocking(&read).unwrap();
        events.extend(page.events);
        after = page.scanned;
        if page.done {
            return events;
        }
    }
}

/// What the indexes say is what a walk says.
fn check_indexes(
    store: &Store,
    start: Position,
    events: &[RecordedEvent],
    counts: &HashMap<StreamId, u64>,
) {
    let mut scan = store.scan(start).unwrap();
    for event in events {
        assert_eq!(scan.next().unwrap().unwrap().to_event().unwrap(), *event);
    }
    assert!(scan.next().is_none());
    let found = |query: Query| {
        let read = Read::backward(query, Position::MAX).limit(100_000);
        let mut found = store.read_blocking(&read).unwrap().events;
        found.reverse();
        found
    };
    for (stream, &count) in counts {
        let mine: Vec<_> = events.iter().filter(|event| event.stream == *stream).cloned().collect();
        assert_eq!(found(Query::stream(stream.clone())), mine);
        let revision = block_on(store.stream_revision(stream)).unwrap();
        assert_eq!(revision, Revision::new(count), "{stream}");
    }
    // Who was never there is looked for in what retention left, too.
    let nobody = StreamId::new("s-nobody").unwrap();
    assert_eq!(block_on(store.stream_revision(&nobody)).unwrap(), Revision::NONE);
    for n in 0..4 {
        let tag = Tag::new(tag(n)).unwrap();
        let mine: Vec<_> =
            events.iter().filter(|event| event.tags.contains(&tag)).cloned().collect();
        assert_eq!(found(Query::tags([tag])), mine);
    }
    if let Some(middle) = events.get(events.len() / 2) {
        let place = store.position_at(middle.commit_time).unwrap();
        let last = events.iter().rfind(|event| event.commit_time <= middle.commit_time);
        assert_eq!(Some(place), last.map(|event| event.position));
    }
    if start > Position::START {
        let below = store.read_blocking(&Read::forward(Query::all(), Position::START).limit(1));
        assert!(matches!(below, Err(headwater_core::ReadError::BelowStart { .. })), "{below:?}");
    }
}
