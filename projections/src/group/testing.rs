//! What the tests of this package share: events, and a log that is watched and can fail.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use headwater_core::{
    Append, AppendError, AppendId, Appended, CodecId, Direction, Durability, Effect, EventId,
    EventLog, EventType, Generation, GroupChange, GroupError, GroupLog, GroupName, GroupState,
    Headers, Key, LogId, MemoryLog, NewEvent, NewGroup, Page, Position, Query, Read, ReadError,
    RecordedEvent, Revision, SchemaVersion, Slot, SlotCommit, StreamId, Subscription, Timestamp,
    Visibility,
};

use tokio::sync::Barrier;

use super::{ConsumerGroup, GroupOptions};

/// Makes a recorded event of a key.
pub(crate) fn event_at(position: u64, key: &str) -> Arc<RecordedEvent> {
    Arc::new(RecordedEvent {
        position: Position::new(position),
        stream: StreamId::new("a-1").unwrap(),
        revision: Revision::new(position),
        id: EventId::generate(),
        event_type: EventType::new("t").unwrap(),
        schema_version: SchemaVersion::FIRST,
        commit_time: Timestamp::EPOCH,
        event_time: Timestamp::EPOCH,
        correlation_id: None,
        causation_id: None,
        tags: Vec::new(),
        key: Some(Key::new(key).unwrap()),
        slot: Slot::of_key(key),
        headers: Headers::new(),
        codec: CodecId::RAW,
        payload: Vec::new().into(),
    })
}

/// Makes events at these positions, each with a key of its own.
pub(crate) fn slot_events(positions: &[u64]) -> Vec<Arc<RecordedEvent>> {
    let event = |&position: &u64| event_at(position, &format!("key-{position}"));
    positions.iter().map(event).collect()
}

/// Makes an event of a stream, which is also its key.
pub(crate) fn event(stream: &str, event_type: &str) -> NewEvent {
    let stream = StreamId::new(stream).unwrap();
    let event_type = EventType::new(event_type).unwrap();
    NewEvent::new(stream, event_type, CodecId::RAW, "x")
}

/// Appends one event to each of these streams and returns the last position.
pub(crate) async fn append(log: &dyn EventLog, streams: &[&str]) -> Position {
    let events = streams.iter().map(|stream| event(stream, "t"));
    log.append(Append::new(events)).await.unwrap().last
}

pub(crate) fn options() -> GroupOptions {
    GroupOptions::new(GroupName::new("g").unwrap())
}

pub(crate) async fn open(log: &Arc<WatchedLog>) -> ConsumerGroup {
    open_with(log, options()).await
}

pub(crate) async fn open_with(log: &Arc<WatchedLog>, options: GroupOptions) -> ConsumerGroup {
    let log: Arc<dyn GroupLog> = log.clone();
    ConsumerGroup::open(log, options).await.unwrap()
}

/// Returns how many leases of the group were started anew.
pub(crate) fn renewals(group: &ConsumerGroup) -> usize {
    group.shared().with(|group| group.renewals)
}

/// Returns how many deliveries and delays the group has seen.
pub(crate) fn deliveries(group: &ConsumerGroup) -> u64 {
    group.shared().with(|group| group.tokens())
}

/// A log in memory that counts what is asked of it, and fails when told to.
#[derive(Debug, Default)]
pub(crate) struct WatchedLog {
    pub(crate) inner: MemoryLog,
    pub(crate) reads: AtomicUsize,
    pub(crate) claims: AtomicUsize,
    /// What was committed, call by call.
    pub(crate) commits: Mutex<Vec<Vec<SlotCommit>>>,
    /// How many parked sequences were in one commit at most.
    pub(crate) parked_at_once: AtomicUsize,
    /// The next commits fail with these.
    pub(crate) commit_errors: Mutex<VecDeque<GroupError>>,
    /// The next commits take so long.
    pub(crate) commit_times: Mutex<VecDeque<Duration>>,
    /// The next appends fail like this, written or not, where there is something.
    pub(crate) append_errors: Mutex<VecDeque<Option<Effect>>>,
    /// The next appends wait for each other.
    pub(crate) append_barrier: Mutex<Option<Arc<Barrier>>>,
    /// The next reads fail with these.
    pub(crate) read_errors: Mutex<VecDeque<ReadError>>,
    /// Reads that go backward fail.
    pub(crate) no_way_back: AtomicBool,
    /// How many of the newest events the head is behind.
    pub(crate) behind: AtomicU64,
}

impl WatchedLog {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) async fn state(&self) -> GroupState {
        self.inner.group(&GroupName::new("g").unwrap()).await.unwrap()
    }
}

pub(crate) fn io_error() -> Arc<io::Error> {
    Arc::new(io::Error::other("made up"))
}

#[async_trait]
impl EventLog for WatchedLog {
    fn id(&self) -> LogId {
        self.inner.id()
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let barrier = self.append_barrier.lock().unwrap().clone();
        if let Some(barrier) = barrier
            && barrier.wait().await.is_leader()
        {
            *self.append_barrier.lock().unwrap() = None;
        }
        let fault = self.append_errors.lock().unwrap().pop_front().flatten();
        match fault {
            Some(effect) => {
                if effect == Effect::Unknown {
                    self.inner.append(append).await?;
                }
                Err(AppendError::Engine { effect, source: io_error() })
            }
            None => self.inner.append(append).await,
        }
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        self.inner.find_append(id).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let goes_back = matches!(read.direction, Direction::Before(_));
        if goes_back && self.no_way_back.load(Ordering::Relaxed) {
            return Err(ReadError::Io(Arc::new(std::io::Error::other("made up"))));
        }
        let error = self.read_errors.lock().unwrap().pop_front();
        match error {
            Some(error) => Err(error),
            None => self.inner.read(read).await,
        }
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        let behind = self.behind.load(Ordering::Relaxed);
        let head = self.inner.head(visibility).await?.get();
        Ok(Position::new(head.saturating_sub(behind)))
    }

    async fn wait_for(&self, at: Position, visibility: Visibility) -> Result<Position, ReadError> {
        self.inner.wait_for(at, visibility).await
    }

    async fn bytes_between(
        &self,
        after: Position,
        through: Position,
    ) -> Result<Option<u64>, ReadError> {
        self.inner.bytes_between(after, through).await
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        self.inner.subscribe(query, after)
    }
}

#[async_trait]
impl GroupLog for WatchedLog {
    async fn open_group(&self, group: NewGroup) -> Result<GroupState, GroupError> {
        self.inner.open_group(group).await
    }

    async fn group(&self, name: &GroupName) -> Result<GroupState, GroupError> {
        self.inner.group(name).await
    }

    async fn groups(&self) -> Result<Vec<GroupState>, GroupError> {
        self.inner.groups().await
    }

    async fn change_group(
        &self,
        name: &GroupName,
        change: GroupChange,
    ) -> Result<Generation, GroupError> {
        match &change {
            GroupChange::Claim(_) => drop(self.claims.fetch_add(1, Ordering::Relaxed)),
            GroupChange::Commit(_) => {
                let error = self.commit_errors.lock().unwrap().pop_front();
                if let Some(error) = error {
                    return Err(error);
                }
                let time = self.commit_times.lock().unwrap().pop_front();
                if let Some(time) = time {
                    tokio::time::sleep(time).await;
                }
            }
            _ => {}
        }
        let generation = self.inner.change_group(name, change.clone()).await?;
        if let GroupChange::Commit(commit) = change {
            self.parked_at_once.fetch_max(commit.parked.len(), Ordering::Relaxed);
            self.commits.lock().unwrap().push(commit.slots);
        }
        Ok(generation)
    }

    async fn rename_group(&self, name: &GroupName, to: GroupName) -> Result<(), GroupError> {
        self.inner.rename_group(name, to).await
    }

    async fn delete_group(&self, name: &GroupName) -> Result<(), GroupError> {
        self.inner.delete_group(name).await
    }
}

/// What a subscriber writes about spans and events.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a subscriber that writes everything down.
pub(crate) fn written() -> (Written, impl tracing::Subscriber) {
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone());
    (written, subscriber.finish())
}
