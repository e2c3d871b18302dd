//! The traits of a log, implemented by the embedded store and by [`MemoryLog`](crate::MemoryLog).

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use crate::append::{Append, AppendError, Appended, Durability};
use crate::event::RecordedEvent;
use crate::id::{AppendId, LogId};
use crate::name::{EventType, StreamId};
use crate::position::{Position, Revision};
use crate::query::Query;
use crate::subscription::Subscription;
use crate::time::Timestamp;

/// Which events a reader may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Committed ones: what an append was acknowledged for.
    #[default]
    Committed,
    /// Only those that power loss cannot take back.
    Durable,
}

/// Which way a read goes, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the head, beginning after this position.
    After(Position),
    /// Towards the start, beginning before this position; [`Position::MAX`] begins at the head.
    Before(Position),
}

/// A request for one page of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Which events.
    pub query: Query,
    /// Which way, and from where.
    pub direction: Direction,
    /// How many events at most, from 1.
    pub limit: usize,
    /// Which events count as being there.
    pub visibility: Visibility,
}

impl Read {
    /// How many events a page has at most unless asked otherwise.
    pub const LIMIT: usize = 1_000;

    /// Reads forward after a position.
    pub fn forward(query: Query, after: Position) -> Self {
        Self::new(query, Direction::After(after))
    }

    /// Reads backward before a position; [`Position::MAX`] begins at the head.
    pub fn backward(query: Query, before: Position) -> Self {
        Self::new(query, Direction::Before(before))
    }

    fn new(query: Query, direction: Direction) -> Self {
        Self { query, direction, limit: Self::LIMIT, visibility: Visibility::Committed }
    }

    /// Sets how many events the page has at most.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Sets which events count as being there.
    #[must_use]
    pub fn visible(mut self, visibility: Visibility) -> Self {
        self.visibility = visibility;
        self
    }
}

/// Some of the events that a read asked for, in its direction, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The events, in the direction of the read.
    pub events: Vec<RecordedEvent>,
    /// The last position looked at, whether it matched or not. The next page begins after it (or
    /// before it, going backward).
    pub scanned: Position,
    /// Whether there was nothing more in this direction when the page was read. A page may have
    /// no events and still not be the last: engines bound the work of one call.
    pub done: bool,
}

/// Why a read failed. Reading never changes a log. Damage is an error and never the end.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The read begins beyond the last event. The position comes from another log or from a
    /// future that was lost.
    #[error(
        "position {asked} lies beyond the head of the log, which is {head}; check that the position belongs to this log"
    )]
    BeyondHead {
        /// Where the read was to begin.
        asked: Position,
        /// The last position of the log.
        head: Position,
    },
    /// The read begins before the first event that retention has left.
    #[error("position {asked} was removed by retention; the log starts after position {start}")]
    BelowStart {
        /// Where the read was to begin.
        asked: Position,
        /// The last position that was removed.
        start: Position,
    },
    /// A page of no events was asked for.
    #[error("a page needs room for at least one event, and the limit is 0")]
    ZeroLimit,
    /// Stored bytes are not what was written.
    #[error(
        "the log is damaged at position {position}, byte {offset} of {file}: {detail}; run `headwater verify` and restore from a backup"
    )]
    Damaged {
        /// The event, or the first of the frame that cannot be read.
        position: Position,
        /// The file.
        file: String,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// The system refused a read.
    #[error("reading the log failed")]
    Io(#[from] Arc<io::Error>),
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
    /// Another engine's own failure.
    #[error("the log's engine failed")]
    Engine(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

/// A log of events: append, read, wait.
///
/// # Guarantees
///
/// Positions grow with every event; an append's events are adjacent, and visible all or none.
/// Whoever sees an event sees every event before it. An append that returned is seen by every
/// read that begins afterwards.
#[async_trait]
pub trait EventLog: fmt::Debug + Send + Sync + 'static {
    /// Returns the identity of the log.
    fn id(&self) -> LogId;

    /// Returns what the log promises for an append that does not ask for more.
    fn durability(&self) -> Durability;

    /// Appends a batch as one unit.
    ///
    /// When this returns `Ok`, every event is committed in order, visible to readers, and as
    /// durable as [`durability`](Self::durability) says.
    ///
    /// # Errors
    ///
    /// [`AppendError::effect`] says whether the batch may be in the log all the same.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may still append. Give the batch an
    /// [`append_id`](Append::append_id) and repeat it to learn what happened.
    async fn append(&self, append: Append) -> Result<Appended, AppendError>;

    /// Returns what an earlier append with this id did, if it lies in the idempotency window.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError>;

    /// Reads one page. The work of one call is bounded, so a page may be short or empty without
    /// being the last: see [`Page::done`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn read(&self, read: Read) -> Result<Page, ReadError>;

    /// Returns the last position that was removed from the beginning of the log, after which it
    /// starts; [`Position::START`] in a log that removes nothing.
    async fn start(&self) -> Result<Position, ReadError> {
        Ok(Position::START)
    }

    /// Returns the position of the last event, [`Position::START`] if there is none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError>;

    /// Waits until the event at `position` is there, and returns the head.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn wait_for(
        &self,
        position: Position,
        visibility: Visibility,
    ) -> Result<Position, ReadError>;

    /// Follows the events that match `query` after a position: those that are there, and then
    /// those that come, without a gap or a repeat between the two.
    fn subscribe(&self, query: Query, after: Position) -> Subscription;

    /// Returns the revision of a stream's last event, [`Revision::NONE`] if it has none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn stream_revision(&self, stream: &StreamId) -> Result<Revision, ReadError> {
        let mut before = Position::MAX;
        loop {
            let read = Read::backward(Query::stream(stream.clone()), before).limit(1);
            let page = self.read(read).await?;
            match page.events.first() {
                Some(event) => return Ok(event.revision),
                None if page.done => return Ok(Revision::NONE),
                None => before = page.scanned,
            }
        }
    }

    /// Returns the last position that was committed at `time` or before, so that reading after it
    /// gives what was committed later. Commit times never go back, and are this log's own.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Complexity
    ///
    /// Unless the engine knows better, a binary search that reads one event each time.
    async fn position_at(&self, time: Timestamp) -> Result<Position, ReadError> {
        // Everything up to `low` is not later, and everything behind `high` is.
        let (mut low, mut high) = (self.start().await?, self.head(Visibility::Committed).await?);
        while low < high {
            let middle = Position::new(low.get().midpoint(high.get()));
            let read = Read::forward(Query::all(), middle).limit(1);
            match self.read(read).await?.events.first() {
                Some(event) if event.commit_time <= time => low = event.position,
                // There may be gaps: nothing lies between the middle and the event.
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// Returns how many bytes a reader at `after` has before it until it has read `through`, as the
    /// engine stores them; 0 where `through` is not behind `after`. `None` if the engine has no
    /// cheap answer.
    ///
    /// # Errors
    ///
    /// [`ReadError::BeyondHead`] and [`ReadError::BelowStart`] as reading there would.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn bytes_between(
        &self,
        after: Position,
        through: Position,
    ) -> Result<Option<u64>, ReadError> {
        let _ = (after, through);
        Ok(None)
    }

    /// Returns the types of all events in the log, each once, in the order in which they first
    /// appeared.
    ///
    /// An engine may find them by an index of shortened names, and overlook one in some billions: see
    /// this as a report, and rest nothing on it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Complexity
    ///
    /// Unless the engine knows better, linear in the size of the log.
    async fn event_types(&self) -> Result<Vec<EventType>, ReadError> {
        let (mut known, mut seen) = (Vec::new(), HashSet::new());
        let mut after = self.start().await?;
        loop {
            let page = self.read(Read::forward(Query::all(), after)).await?;
            for event in page.events {
                if !seen.contains(&event.event_type) {
                    seen.insert(event.event_type.clone());
                    known.push(event.event_type);
                }
            }
            if page.done {
                return Ok(known);
            }
            after = page.scanned;
        }
    }

    /// Returns what readers that must never see an event vanish should ask for: durable events
    /// where the log syncs by itself, committed ones where it does not.
    fn settled_visibility(&self) -> Visibility {
        if self.durability().syncs() { Visibility::Durable } else { Visibility::Committed }
    }
}
