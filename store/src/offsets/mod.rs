//! The durable progress of consumer groups: a log of its own, in the same format as the events'.
//!
//! Operations of many members are written as one frame, like appends. When a segment is full, the
//! next one begins with the state of every group, and the older ones go. So the log stays small,
//! and what recovery folds is complete at any moment.

use std::collections::BTreeMap;
use std::io;
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use headwater_core::{
    Durability, Generation, GroupChange, GroupCommit, GroupError, GroupName, GroupState, NewGroup,
    Position, SlotProgress, Timestamp,
};
use tokio::sync::oneshot;

use crate::catalog::CatalogFile;
use crate::error::OpenError;
use crate::format::BLOCK_BYTES;
use crate::format::catalog::LogEntry;
use crate::format::frame::{FrameHeader, HEADER_BYTES};
use crate::format::offsets::OffsetEntry;
use crate::fs::is_full;
use crate::log::{LogDir, Recovered};
use crate::options::SEGMENT_BYTES_MAX;
use crate::planted::{Bug, planted};
use crate::sync::{Mutex, MutexGuard};
use crate::tail::{Layout, LogTail, TailError};
use crate::writer::{ClosesOnDrop, Queue, Taken};

/// Size of a segment of offsets, unless the state of all groups needs more; in tests so small that
/// there soon is another one.
const SEGMENT_BYTES: u64 = if cfg!(test) { 64 * 1024 } else { 4 * 1024 * 1024 };
/// A frame is closed when it has this many bytes.
const FRAME_BYTES: usize = 1024 * 1024;
/// One operation takes this many bytes at most.
const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How many parked sequences one entry holds at most: some 1,400 bytes each.
const PARKED_PER_ENTRY: usize = 1_024;

pub(crate) type Groups = BTreeMap<GroupName, GroupState>;

/// Something to do to a group.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Where the group is new, it begins after the position.
    Open(NewGroup, Position),
    /// The log ends at the position.
    Change(GroupChange, Position),
    Rename(GroupName),
    Delete,
}

/// What an operation gave.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    State(GroupState),
    Generation(Generation),
    Done,
}

type Answer = Result<Outcome, GroupError>;

/// An operation on its way to the offsets' thread.
#[derive(Debug)]
pub(crate) struct Request {
    name: GroupName,
    operation: Operation,
    reply: oneshot::Sender<Answer>,
}

impl Request {
    pub(crate) fn new(name: GroupName, operation: Operation) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Self { name, operation, reply }, answer)
    }
}

/// The writer of the offsets log, and the state it has come to.
#[derive(Debug)]
pub(crate) struct Offsets {
    core: Mutex<Core>,
}

#[derive(Debug)]
struct Core {
    groups: Groups,
    /// The log, or what it takes to make it when the first group comes.
    log: Log,
    durability: Durability,
    poison: Option<Arc<io::Error>>,
}

#[derive(Debug)]
enum Log {
    /// No group was ever created.
    Absent {
        dir: LogDir,
        catalog: Arc<CatalogFile>,
        layout: Layout,
    },
    Open(Box<LogTail>),
}

/// Operations that will be written as one frame.
#[derive(Debug, Default)]
struct Group {
    frame: Vec<u8>,
    entries: u32,
    /// New states; `None` is a deleted group.
    states: BTreeMap<GroupName, Option<GroupState>>,
    waiting: Vec<(oneshot::Sender<Answer>, Outcome)>,
}

/// Folds a frame of the offsets log into the state of the groups.
pub(crate) fn fold(groups: &mut Groups, frame: &FrameHeader, body: &[u8]) -> Result<(), String> {
    let mut rest = body;
    for _ in 0..frame.records {
        let (entry, len) = OffsetEntry::decode(rest).map_err(|fault| fault.to_string())?;
        rest = &rest[len..];
        let known = |name: &GroupName| format!("group {name} was never created");
        match entry {
            OffsetEntry::State(state) => {
                groups.insert(state.definition.name.clone(), state);
            }
            OffsetEntry::Change(name, change) => {
                groups.get_mut(&name).ok_or_else(|| known(&name))?.apply(&change);
            }
            OffsetEntry::Rename(name, to) => {
                let mut state = groups.remove(&name).ok_or_else(|| known(&name))?;
                state.definition.name = to.clone();
                if groups.insert(to.clone(), state).is_some() {
                    return Err(format!("there was a group {to} when {name} got its name"));
                }
            }
            OffsetEntry::Delete(name) => {
                groups.remove(&name).ok_or_else(|| known(&name))?;
            }
        }
    }
    Ok(())
}

impl Offsets {
    /// Takes over a recovered log and the groups it holds.
    pub(crate) fn open(
        dir: LogDir,
        catalog: Arc<CatalogFile>,
        recovered: Option<Recovered>,
        groups: Groups,
        (durability, layout): (Durability, Layout),
    ) -> Result<Self, OpenError> {
        let layout = Layout { capacity_bytes: SEGMENT_BYTES, ..layout };
        let log = match recovered {
            Some(recovered) => Log::Open(Box::new(LogTail::open(dir, catalog, recovered, layout)?)),
            None => Log::Absent { dir, catalog, layout },
        };
        Ok(Self { core: Mutex::new(Core { groups, log, durability, poison: None }) })
    }

    /// Returns the state of a group.
    pub(crate) fn group(&self, name: &GroupName) -> Result<GroupState, GroupError> {
        let core = self.core();
        let state = core.groups.get(name).cloned();
        state.ok_or_else(|| GroupError::Unknown(name.clone()))
    }

    /// Returns the state of every group.
    pub(crate) fn groups(&self) -> Vec<GroupState> {
        self.core().groups.values().cloned().collect()
    }

    /// Makes everything durable that was written, and shows the log, if there is one, and how many
    /// groups it knows, while nothing is written.
    pub(crate) fn source<T>(
        &self,
        take: impl FnOnce(&LogTail, usize) -> T,
    ) -> Result<Option<T>, GroupError> {
        let mut core = self.core();
        core.sync()?;
        Ok(match &core.log {
            Log::Absent { .. } => None,
            Log::Open(tail) => Some(take(tail, core.groups.len())),
        })
    }

    /// Runs the offsets' thread until the queue is closed and empty.
    pub(crate) fn run(&self, queue: &Queue<Request>) {
        let _closes = ClosesOnDrop(queue);
        let mut due = None;
        loop {
            match queue.take(due) {
                Taken::Requests(requests) => self.core().write(requests),
                Taken::Nothing => {}
                Taken::Closed => return,
            }
            due = self.core().sync_if_due();
        }
    }

    /// Syncs, and says what went wrong before.
    pub(crate) fn finish(&self) -> Result<(), Arc<io::Error>> {
        let mut core = self.core();
        if let Log::Open(tail) = &mut core.log {
            tail.discard_spare();
        }
        core.sync().map_err(|error| match error {
            GroupError::Indeterminate(cause) | GroupError::Poisoned(cause) => cause,
            other => Arc::new(io::Error::other(other)),
        })
    }

    /// Returns what the catalog should know of the log.
    pub(crate) fn entry(&self) -> LogEntry {
        match &self.core().log {
            Log::Absent { .. } => LogEntry::default(),
            Log::Open(tail) => tail.entry(),
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    fn write(&mut self, requests: Vec<Request>) {
        let mut group = Group::default();
        for request in requests {
            if request.reply.is_closed() {
                continue;
            }
            if group.frame.len() > FRAME_BYTES {
                self.commit(std::mem::take(&mut group));
            }
            let answer = self.stage(&mut group, &request);
            match answer {
                Ok((outcome, true)) => group.waiting.push((request.reply, outcome)),
                // A receiver that is gone needs no answer.
                Ok((outcome, false)) => drop(request.reply.send(Ok(outcome))),
                Err(error) => drop(request.reply.send(Err(error))),
            }
        }
        self.commit(group);
    }

    /// Takes an operation into the group. Returns its outcome and whether it must wait for the
    /// group to be written.
    fn stage(&self, group: &mut Group, request: &Request) -> Result<(Outcome, bool), GroupError> {
        if let Some(cause) = &self.poison {
            return Err(GroupError::Poisoned(Arc::clone(cause)));
        }
        let name = &request.name;
        let current = match group.states.get(name) {
            Some(staged) => staged.clone(),
            None => self.groups.get(name).cloned(),
        };
        let staged_before = group.states.contains_key(name);
        let mut renamed = None;
        let (state, entry, outcome) = match (&request.operation, current) {
            (Operation::Open(asked, _), Some(state)) => {
                state.check_same(asked)?;
                return Ok((Outcome::State(state), staged_before));
            }
            (Operation::Open(asked, start), None) => {
                // Every generation takes an entry, so none is beyond the entries.
                let next = match &self.log {
                    Log::Absent { .. } => Position::FIRST,
                    Log::Open(tail) => tail.next(),
                };
                let generation = Generation::new(next.advanced_by(group.entries.into()).get());
                let state = GroupState::new(asked.clone(), *start, generation);
                let entry = OffsetEntry::State(state.clone());
                (Some(state.clone()), entry, Outcome::State(state))
            }
            (_, None) => return Err(GroupError::Unknown(name.clone())),
            (Operation::Change(change, head), Some(mut state)) => {
                if !planted(Bug::ForgetFencing) {
                    state.check(change, *head)?;
                }
                let generation = state.apply(change);
                let entry = OffsetEntry::Change(name.clone(), change.clone());
                (Some(state), entry, Outcome::Generation(generation))
            }
            (Operation::Rename(to), Some(mut state)) => {
                let taken = match group.states.get(to) {
                    Some(staged) => staged.is_some(),
                    None => self.groups.contains_key(to),
                };
                if taken {
                    return Err(GroupError::NameTaken(to.clone()));
                }
                state.definition.name = to.clone();
                renamed = Some((to.clone(), state));
                (None, OffsetEntry::Rename(name.clone(), to.clone()), Outcome::Done)
            }
            (Operation::Delete, Some(_)) => {
                (None, OffsetEntry::Delete(name.clone()), Outcome::Done)
            }
        };
        let before = group.frame.len().max(HEADER_BYTES);
        group.frame.resize(before, 0);
        entry.encode(&mut group.frame);
        // The whole state is one entry too, when the log goes over to another segment.
        let entry_bytes = group.frame.len() - before;
        let bytes = entry_bytes.max(state.as_ref().map_or(0, state_bytes));
        if bytes > ENTRY_BYTES_MAX {
            group.frame.truncate(before);
            return Err(GroupError::TooLarge { group: name.clone(), bytes, max: ENTRY_BYTES_MAX });
        }
        group.entries += 1;
        group.states.insert(name.clone(), state);
        if let Some((to, state)) = renamed {
            group.states.insert(to, Some(state));
        }
        Ok((outcome, true))
    }

    /// Writes the group and answers everybody in it.
    fn commit(&mut self, mut group: Group) {
        if group.entries == 0 {
            return;
        }
        let written = catch_unwind(AssertUnwindSafe(|| self.write_group(&mut group)));
        let (result, panic) = match written {
            Ok(result) => (result, None),
            Err(panic) => {
                // How far it came, nobody knows.
                let cause = io::Error::other("a thread panicked while it was writing");
                (Err(self.failed(TailError::Broken(Arc::new(cause)))), Some(panic))
            }
        };
        if result.is_ok() {
            for (name, state) in group.states {
                match state {
                    Some(state) => self.groups.insert(name, state),
                    None => self.groups.remove(&name),
                };
            }
        }
        for (reply, outcome) in group.waiting {
            // A receiver that is gone needs no answer.
            let _ = reply.send(result.clone().map(|()| outcome));
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn write_group(&mut self, group: &mut Group) -> Result<(), GroupError> {
        let sync = self.durability == Durability::Sync;
        let snapshot = || -> Vec<OffsetEntry> {
            let skipped = usize::from(planted(Bug::ForgetGroup));
            self.groups.values().skip(skipped).flat_map(whole_state).collect()
        };
        let tail = match &mut self.log {
            Log::Open(tail) => tail,
            Log::Absent { .. } => return self.create_log().and_then(|()| self.write_group(group)),
        };
        let before = tail.active().header.id;
        let reserved = tail.reserve(group.frame.len());
        let written = reserved.and_then(|()| {
            let first = tail.active().header.id;
            if first != before {
                // The older segments go only once their content stands in the new ones, durably.
                let bytes = write_snapshot(tail, &snapshot())?;
                if !planted(Bug::OffsetsWithoutSync) {
                    tail.sync()?;
                }
                if let Err(error) = tail.remove_before(first) {
                    // Until the catalog says that they are gone they must be there.
                    tracing::warn!(%error, "older segments of the offsets stay");
                }
                // So that the state is not written again too often.
                tail.set_capacity(SEGMENT_BYTES.max(4 * bytes));
                tail.reserve(group.frame.len())?;
            }
            tail.write(&mut group.frame, group.entries, Timestamp::now())?;
            tail.publish();
            if sync { tail.sync() } else { Ok(()) }
        });
        written.map_err(|error| self.failed(error))
    }

    /// Makes the log when the first group comes.
    fn create_log(&mut self) -> Result<(), GroupError> {
        let Log::Absent { dir, catalog, layout } = &self.log else {
            return Ok(());
        };
        let tail = create_log(dir, catalog, *layout, Position::FIRST)?;
        tail.note();
        self.log = Log::Open(Box::new(tail));
        Ok(())
    }

    fn failed(&mut self, error: TailError) -> GroupError {
        match error {
            TailError::Full(error) => open_failed(error),
            TailError::Broken(error) => {
                self.poison = Some(Arc::clone(&error));
                GroupError::Indeterminate(error)
            }
        }
    }

    fn sync(&mut self) -> Result<(), GroupError> {
        if let Some(cause) = &self.poison {
            return Err(GroupError::Poisoned(Arc::clone(cause)));
        }
        let Log::Open(tail) = &mut self.log else {
            return Ok(());
        };
        tail.sync().map_err(|error| self.failed(error))
    }

    fn sync_if_due(&mut self) -> Option<Instant> {
        let due = |core: &Self| match &core.log {
            Log::Open(tail) if core.poison.is_none() => tail.sync_due(core.durability),
            _ => None,
        };
        if due(self).is_some_and(|due| due <= Instant::now()) {
            // The next operation reports a failure.
            let _ = self.sync();
        }
        due(self)
    }
}

/// Makes the log, whose first entry has a position.
fn create_log(
    dir: &LogDir,
    catalog: &Arc<CatalogFile>,
    layout: Layout,
    first: Position,
) -> Result<LogTail, GroupError> {
    let fs = &dir.fs;
    fs.create_dir(&dir.path())
        .and_then(|()| fs.sync_dir(&dir.root))
        .map_err(|error| open_failed(Arc::new(error)))?;
    let begun = Recovered::beginning_at(first);
    LogTail::open(dir.clone(), Arc::clone(catalog), begun, layout).map_err(|error| match error {
        OpenError::StorageFull { source, .. } | OpenError::Io { source, .. } => open_failed(source),
        other => open_failed(Arc::new(io::Error::other(other))),
    })
}

/// Makes a log that holds the state of these groups and whose next entry will have a position:
/// as generations are taken from it, no group gets one again that the name had before.
pub(crate) fn import(
    dir: &LogDir,
    catalog: &Arc<CatalogFile>,
    layout: Layout,
    groups: &[GroupState],
    next: Position,
) -> Result<LogEntry, GroupError> {
    let mut bytes = 0;
    let entries: Vec<OffsetEntry> = groups.iter().flat_map(whole_state).collect();
    for entry in &entries {
        let mut encoded = Vec::new();
        entry.encode(&mut encoded);
        if encoded.len() > ENTRY_BYTES_MAX {
            let (group, bytes) = (entry.name().clone(), encoded.len());
            return Err(GroupError::TooLarge { group, bytes, max: ENTRY_BYTES_MAX });
        }
        bytes += encoded.len() as u64;
    }
    // Room for all of it several times, so that the first segment is not left empty.
    let capacity_bytes = SEGMENT_BYTES.max(4 * bytes).min(SEGMENT_BYTES_MAX);
    let capacity_bytes = capacity_bytes.next_multiple_of(BLOCK_BYTES as u64);
    let layout = Layout { capacity_bytes, ..layout };
    let first = Position::new(next.get().saturating_sub(entries.len() as u64));
    let mut tail = create_log(dir, catalog, layout, first)?;
    let written = write_snapshot(&mut tail, &entries).and_then(|_| tail.sync());
    written.map_err(|error| match error {
        TailError::Full(error) => open_failed(error),
        TailError::Broken(error) => GroupError::Indeterminate(error),
    })?;
    tail.discard_spare();
    Ok(tail.entry())
}

/// Returns the entries that make a group's whole state: the state itself, and what is parked in
/// pieces that each fit an entry.
fn whole_state(state: &GroupState) -> Vec<OffsetEntry> {
    let (state, parked) = state.without_parked();
    let name = state.definition.name.clone();
    let pieces = parked.chunks(PARKED_PER_ENTRY).map(|parked| {
        let commit = GroupCommit { slots: Vec::new(), parked: parked.to_vec() };
        OffsetEntry::Change(name.clone(), GroupChange::Commit(commit))
    });
    let pieces: Vec<OffsetEntry> = pieces.collect();
    iter::once(OffsetEntry::State(state)).chain(pieces).collect()
}

/// Returns about how many bytes the entry of a group's state takes, but for what is parked.
fn state_bytes(state: &GroupState) -> usize {
    let bytes =
        |progress: &SlotProgress| 28 + 16 * progress.settled.len() + 12 * progress.attempts.len();
    let runs = state.runs().map(|(_, progress)| bytes(progress));
    1024 + runs.sum::<usize>()
}

/// Names a failure that changed nothing.
fn open_failed(error: Arc<io::Error>) -> GroupError {
    if is_full(&error) { GroupError::StorageFull(error) } else { GroupError::NoSegment(error) }
}

/// Writes the state of every group, in as many frames as it takes.
/// Returns how many bytes that was.
fn write_snapshot(tail: &mut LogTail, states: &[OffsetEntry]) -> Result<u64, TailError> {
    let mut frame = vec![0; HEADER_BYTES];
    let mut bytes = 0;
    let mut entries = 0;
    for (at, state) in states.iter().enumerate() {
        state.encode(&mut frame);
        entries += 1;
        if frame.len() > FRAME_BYTES || at + 1 == states.len() {
            tail.reserve(frame.len())?;
            tail.write(&mut frame, entries, Timestamp::now())?;
            tail.publish();
            bytes += frame.len() as u64;
            frame.clear();
            frame.resize(HEADER_BYTES, 0);
            entries = 0;
        }
    }
    Ok(bytes)
}
