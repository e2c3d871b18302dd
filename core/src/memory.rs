//! The simplest correct log: for users' tests, and the oracle that other engines are compared
//! with. Everything is a scan over one vector.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::append::{Append, AppendError, Appended, Durability};
use crate::condition::{Condition, Conflict};
use crate::event::{NewEvent, RecordedEvent};
use crate::group::{Generation, GroupChange, GroupError, GroupLog, GroupState, NewGroup, Start};
use crate::id::{AppendId, LogId};
use crate::log::{Direction, EventLog, Page, Read, ReadError, Visibility};
use crate::name::{GroupName, StreamId};
use crate::position::{Position, Revision};
use crate::query::Query;
use crate::subscription::Subscription;
use crate::time::Timestamp;

/// A log in memory. Clones share it; it is gone with the last one.
///
/// It forgets no append id, calls itself [`Durability::Os`], and counts payloads where it is asked
/// for bytes ([`EventLog::bytes_between`]).
#[derive(Clone, Debug)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: LogId,
    state: Mutex<State>,
    head: watch::Sender<Position>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<RecordedEvent>,
    appends: HashMap<AppendId, (Appended, u64)>,
    groups: BTreeMap<GroupName, GroupState>,
    /// The highest generation of any group that ever was.
    generation: Generation,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLog {
    /// Makes an empty log.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                id: LogId::generate(),
                state: Mutex::default(),
                head: watch::Sender::new(Position::START),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn head(&self) -> Position {
        self.events.last().map_or(Position::START, |event| event.position)
    }

    fn stream_end(&self, stream: &StreamId) -> (Revision, Position) {
        let last = self.events.iter().rev().find(|event| event.stream == *stream);
        last.map_or((Revision::NONE, Position::START), |event| (event.revision, event.position))
    }

    fn check(&self, condition: &Condition) -> Result<(), Conflict> {
        for clause in &condition.streams {
            let (actual, last) = self.stream_end(&clause.stream);
            if !clause.expected.is_met_by(actual) {
                return Err(Conflict::Stream {
                    stream: clause.stream.clone(),
                    expected: clause.expected,
                    actual,
                    last,
                });
            }
        }
        for (index, clause) in condition.queries.iter().enumerate() {
            let later = self.events.iter().rev().take_while(|e| e.position > clause.after);
            if let Some(event) = later.into_iter().find(|e| clause.query.matches(*e)) {
                let (after, found) = (clause.after, event.position);
                return Err(Conflict::Query { index, after, found });
            }
        }
        Ok(())
    }

    fn append(&mut self, append: Append) -> Result<Appended, AppendError> {
        let digest = append.content_digest();
        if let Some(id) = append.append_id
            && let Some(&(earlier, earlier_digest)) = self.appends.get(&id)
        {
            if earlier_digest != digest {
                return Err(AppendError::AppendIdReused { id, first: earlier.first });
            }
            return Ok(Appended { deduplicated: true, ..earlier });
        }
        self.check(&append.condition)?;
        let first = self.head().next();
        let now =
            Timestamp::now().max(self.events.last().map_or(Timestamp::EPOCH, |e| e.commit_time));
        for event in append.events {
            self.record(event, now);
        }
        let done = Appended { first, last: self.head(), deduplicated: false };
        if let Some(id) = append.append_id {
            self.appends.insert(id, (done, digest));
        }
        Ok(done)
    }

    fn record(&mut self, event: NewEvent, commit_time: Timestamp) {
        let slot = event.slot();
        let mut tags = event.tags;
        tags.sort_unstable();
        tags.dedup();
        self.events.push(RecordedEvent {
            position: self.head().next(),
            revision: self.stream_end(&event.stream).0.next(),
            stream: event.stream,
            id: event.id,
            event_type: event.event_type,
            schema_version: event.schema_version,
            commit_time,
            event_time: event.event_time,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            tags,
            key: event.key,
            slot,
            headers: event.headers,
            codec: event.codec,
            payload: event.payload,
        });
    }

    fn read(&self, read: &Read) -> Result<Page, ReadError> {
        if read.limit == 0 {
            return Err(ReadError::ZeroLimit);
        }
        let head = self.head();
        let beyond = |asked| Err(ReadError::BeyondHead { asked, head });
        let mut page = Page { events: Vec::new(), scanned: Position::START, done: true };
        let candidates: Box<dyn Iterator<Item = &RecordedEvent>> = match read.direction {
            Direction::After(after) if after > head => return beyond(after),
            Direction::After(after) => {
                page.scanned = head.max(after);
                Box::new(self.events.iter().filter(move |e| e.position > after))
            }
            Direction::Before(before) if before > head.next() && before != Position::MAX => {
                return beyond(before);
            }
            Direction::Before(before) => {
                page.scanned = Position::FIRST.min(before);
                Box::new(self.events.iter().rev().filter(move |e| e.position < before))
            }
        };
        let mut candidates = candidates.peekable();
        while let Some(event) = candidates.next() {
            if read.query.matches(event) {
                page.events.push(event.clone());
            }
            if page.events.len() == read.limit && candidates.peek().is_some() {
                page.scanned = event.position;
                page.done = false;
                break;
            }
        }
        Ok(page)
    }

    fn group(&mut self, name: &GroupName) -> Result<&mut GroupState, GroupError> {
        self.groups.get_mut(name).ok_or_else(|| GroupError::Unknown(name.clone()))
    }

    /// Returns the last position that was committed before `time`.
    fn before(&self, time: Timestamp) -> Position {
        let count = self.events.partition_point(|event| event.commit_time < time);
        Position::new(count as u64)
    }

    fn inside(&self, group: &GroupName, position: Position) -> Result<(), GroupError> {
        let head = self.head();
        if position > head {
            return Err(GroupError::OutsideLog { group: group.clone(), position, head });
        }
        Ok(())
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    fn id(&self) -> LogId {
        self.shared.id
    }

    fn durability(&self) -> Durability {
        Durability::Os
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        append.check()?;
        let mut state = self.state();
        let done = state.append(append)?;
        self.shared.head.send_replace(state.head());
        Ok(done)
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        let found = self.state().appends.get(&id).map(|&(appended, _)| appended);
        Ok(found.map(|appended| Appended { deduplicated: true, ..appended }))
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.state().read(&read)
    }

    async fn head(&self, _: Visibility) -> Result<Position, ReadError> {
        Ok(self.state().head())
    }

    async fn wait_for(&self, position: Position, _: Visibility) -> Result<Position, ReadError> {
        let mut head = self.shared.head.subscribe();
        let reached = head.wait_for(|&head| head >= position).await;
        reached.map(|head| *head).map_err(|_| ReadError::Closed)
    }

    async fn bytes_between(
        &self,
        after: Position,
        through: Position,
    ) -> Result<Option<u64>, ReadError> {
        let state = self.state();
        let head = state.head();
        if let Some(asked) = [after, through].into_iter().find(|&asked| asked > head) {
            return Err(ReadError::BeyondHead { asked, head });
        }
        let between = state.events.iter().filter(|e| e.position > after && e.position <= through);
        Ok(Some(between.map(|e| e.payload.len() as u64).sum()))
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        Subscription::new(Arc::new(self.clone()), query, after)
    }
}

#[async_trait]
impl GroupLog for MemoryLog {
    async fn open_group(&self, group: NewGroup) -> Result<GroupState, GroupError> {
        group.shape.check(&group.name)?;
        let mut state = self.state();
        if let Some(known) = state.groups.get(&group.name) {
            known.check_same(&group)?;
            return Ok(known.clone());
        }
        let start = match group.start {
            Start::Beginning => Position::START,
            Start::End => state.head(),
            Start::After(position) => position,
            Start::Time(time) => state.before(time),
        };
        state.inside(&group.name, start)?;
        let opened = GroupState::new(group, start, state.generation.next());
        state.generation = opened.generation;
        state.groups.insert(opened.definition.name.clone(), opened.clone());
        Ok(opened)
    }

    async fn group(&self, name: &GroupName) -> Result<GroupState, GroupError> {
        self.state().group(name).cloned()
    }

    async fn groups(&self) -> Result<Vec<GroupState>, GroupError> {
        Ok(self.state().groups.values().cloned().collect())
    }

    async fn change_group(
        &self,
        name: &GroupName,
        change: GroupChange,
    ) -> Result<Generation, GroupError> {
        let mut state = self.state();
        let head = state.head();
        let group = state.group(name)?;
        group.check(&change, head)?;
        let generation = group.apply(&change);
        state.generation = state.generation.max(generation);
        Ok(generation)
    }

    async fn rename_group(&self, name: &GroupName, to: GroupName) -> Result<(), GroupError> {
        let mut state = self.state();
        if state.groups.contains_key(&to) {
            return Err(GroupError::NameTaken(to));
        }
        let mut group = state.group(name)?.clone();
        state.groups.remove(name);
        group.definition.name = to.clone();
        state.groups.insert(to, group);
        Ok(())
    }

    async fn delete_group(&self, name: &GroupName) -> Result<(), GroupError> {
        let removed = self.state().groups.remove(name);
        removed.map(|_| ()).ok_or_else(|| GroupError::Unknown(name.clone()))
    }
}

#[cfg(test)]
mod tests;
