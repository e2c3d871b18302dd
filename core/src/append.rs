//! Appending: the request, its result, and its failures.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use crate::codec::CodecId;
use crate::condition::{Condition, Conflict};
use crate::event::{NewEvent, RecordedEvent};
use crate::id::AppendId;
use crate::limits;
use crate::name::GroupName;
use crate::position::{Position, SchemaVersion};
use crate::trace::TraceContext;

/// What a log promises for an acknowledged append, named for what it survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Power loss: the bytes are on the device before the answer. The default.
    #[default]
    Sync,
    /// A crash of the process; of power, all but the last interval.
    Interval {
        /// The longest time between an answer and its bytes being on the device.
        every: Duration,
        /// How many bytes may wait before a sync is started early.
        bytes: u64,
    },
    /// A crash of the process. When the bytes reach the device is up to the kernel.
    Os,
}

impl Durability {
    /// [`Durability::Interval`] with its defaults: 100 ms or 1 MiB.
    pub const INTERVAL: Self =
        Self::Interval { every: Duration::from_millis(100), bytes: 1024 * 1024 };

    /// Returns whether the log syncs by itself while it runs.
    pub fn syncs(self) -> bool {
        self != Self::Os
    }
}

/// Events to append as one unit, with what they expect of the log.
///
/// # Examples
///
/// ```
/// use headwater_core::{Append, ExpectedRevision, NewEvent, EventType, StreamId};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = StreamId::new("order-17")?;
/// let event = NewEvent::json(stream.clone(), EventType::new("order.placed")?, &42)?;
/// let append = Append::new([event]).expecting(stream, ExpectedRevision::NoStream);
/// assert!(append.check().is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// The events, in the order they are to have. They are visible all or none.
    pub events: Vec<NewEvent>,
    /// What must hold at the moment of writing.
    pub condition: Condition,
    /// Makes the append idempotent inside the log's idempotency window.
    pub append_id: Option<AppendId>,
    /// Asks for the bytes to be on the device before the answer, whatever the log's default.
    pub sync: bool,
}

impl Append {
    /// Takes events without expecting anything.
    pub fn new(events: impl IntoIterator<Item = NewEvent>) -> Self {
        Self { events: events.into_iter().collect(), ..Self::default() }
    }

    /// Sets the whole condition.
    #[must_use]
    pub fn under(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }

    /// Expects something of one stream.
    #[must_use]
    pub fn expecting(
        mut self,
        stream: crate::name::StreamId,
        expected: crate::condition::ExpectedRevision,
    ) -> Self {
        self.condition = self.condition.and_stream(stream, expected);
        self
    }

    /// Makes the append idempotent.
    #[must_use]
    pub fn with_id(mut self, id: AppendId) -> Self {
        self.append_id = Some(id);
        self
    }

    /// Asks for the bytes to be on the device before the answer.
    #[must_use]
    pub fn synced(mut self) -> Self {
        self.sync = true;
        self
    }

    /// Says which event is the cause: the events that have no cause get it, and go on with its flow, or
    /// begin one with it, and with its trace.
    #[must_use]
    pub fn caused_by(mut self, cause: &RecordedEvent) -> Self {
        let flow = cause.correlation_id.unwrap_or_else(|| cause.id.into());
        for event in &mut self.events {
            event.causation_id.get_or_insert(cause.id);
            event.correlation_id.get_or_insert(flow);
        }
        match TraceContext::from_headers(&cause.headers) {
            Some(context) => self.traced(&context),
            None => self,
        }
    }

    /// Says of each event from where in a trace it comes, unless it says so already.
    #[must_use]
    pub fn traced(mut self, context: &TraceContext) -> Self {
        self.events = self.events.into_iter().map(|event| event.traced(context)).collect();
        self
    }

    /// Checks the batch against the limits that every log has.
    ///
    /// # Errors
    ///
    /// The [`InvalidAppend`] that applies first.
    pub fn check(&self) -> Result<(), InvalidAppend> {
        if self.events.is_empty() {
            return Err(InvalidAppend::Empty);
        }
        let mut bytes = 0;
        for (index, event) in self.events.iter().enumerate() {
            if let Some(over) = event.oversize() {
                return Err(InvalidAppend::EventTooLarge {
                    index,
                    what: over.what,
                    actual: over.actual,
                    max: over.max,
                });
            }
            bytes += event.size_bytes();
        }
        let limits = [
            ("events", self.events.len(), limits::BATCH_EVENTS_MAX),
            ("bytes", bytes, limits::BATCH_BYTES_MAX),
        ];
        match limits.into_iter().find(|(_, actual, max)| actual > max) {
            Some((what, actual, max)) => Err(InvalidAppend::BatchTooLarge { what, actual, max }),
            None => Ok(()),
        }
    }

    /// Returns a digest of what the append would store, without the ids and times that a retry
    /// may draw anew. It tells a repeated append from another one that reuses its id.
    pub fn content_digest(&self) -> u64 {
        let mut digest = ContentDigest::new();
        for event in &self.events {
            let names = (event.stream.as_str(), event.event_type.as_str());
            digest.add(names, event.schema_version, event.codec, &event.payload);
        }
        digest.finish()
    }
}

/// What [`Append::content_digest`] is made of, event by event.
#[derive(Clone, Default)]
pub struct ContentDigest(Xxh3);

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ContentDigest").field(&self.finish()).finish()
    }
}

impl ContentDigest {
    /// Begins with no event.
    pub fn new() -> Self {
        Self(Xxh3::new())
    }

    /// Adds an event, given by its stream and type, and what it holds.
    pub fn add(
        &mut self,
        (stream, event_type): (&str, &str),
        schema_version: SchemaVersion,
        codec: CodecId,
        payload: &[u8],
    ) {
        let mut part = |bytes: &[u8]| {
            self.0.update(&(bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        };
        part(stream.as_bytes());
        part(event_type.as_bytes());
        part(&schema_version.get().to_le_bytes());
        part(&[codec.get()]);
        part(payload);
    }

    /// Returns the digest.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position of the first event.
    pub first: Position,
    /// Position of the last event.
    pub last: Position,
    /// Whether an earlier append with the same id had done the work already.
    pub deduplicated: bool,
}

/// Whether a failed operation may have changed the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It surely changed nothing.
    None,
    /// It may or may not have happened. Read the log, or repeat with the same append id.
    Unknown,
}

/// A batch that no log accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAppend {
    /// There is nothing to append.
    #[error("the batch has no events; append at least one")]
    Empty,
    /// One event exceeds a limit.
    #[error(
        "event {index} of the batch has {actual} {what}, and the limit is {max}; store the large part elsewhere and append a reference to it"
    )]
    EventTooLarge {
        /// Which event of the batch, from 0.
        index: usize,
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        actual: usize,
        /// How much is accepted.
        max: usize,
    },
    /// The whole exceeds a limit.
    #[error(
        "the batch has {actual} {what}, and the limit is {max}; split it where atomicity is not needed"
    )]
    BatchTooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        actual: usize,
        /// How much is accepted.
        max: usize,
    },
}

/// A group that producers must not outrun is too far behind. Nothing was written; append again
/// when it has caught up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "group {group} is {lag} {measure} behind the log, and producers wait until it is no more than {mark}; append again when it has caught up"
)]
pub struct Overrun {
    /// The group.
    pub group: GroupName,
    /// What is counted: `events`, `bytes` or `ms`.
    pub measure: &'static str,
    /// How far behind the group is.
    pub lag: u64,
    /// How far it may be: the high mark, or once that was passed, the low one.
    pub mark: u64,
    /// How long the append has waited.
    pub waited: Duration,
}

/// Why an append failed. [`AppendError::effect`] says whether it may have happened all the same.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The batch breaks a limit. Nothing was written; change the batch.
    #[error(transparent)]
    Invalid(#[from] InvalidAppend),
    /// The condition does not hold. Nothing was written; load, decide and append again.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The append id was used before, for other events. Nothing was written.
    #[error(
        "append id {id} was used for other events at position {first}; give each request its own id"
    )]
    AppendIdReused {
        /// The id.
        id: AppendId,
        /// Where the first use put its events.
        first: Position,
    },
    /// The disk is full. Nothing was written, reads go on, and appends work again once there is
    /// space.
    #[error("no space for another segment; free some and append again")]
    StorageFull(#[source] Arc<io::Error>),
    /// The next segment could not be made, for another reason than space, such as a file system
    /// that turned read-only. Nothing was written, reads go on, and appends work again once the
    /// cause is gone.
    #[error("another segment could not be made; mend the cause and append again")]
    NoSegment(#[source] Arc<io::Error>),
    /// The log was opened for reading only. Nothing was written.
    #[error("the log was opened for reading only")]
    ReadOnly,
    /// A write or sync failed while this append was part of it. What reached the disk is
    /// unknown until the log is reopened.
    #[error("a write or sync failed under this append; reopen the log to learn what it holds")]
    Indeterminate(#[source] Arc<io::Error>),
    /// An earlier write or sync failed. Nothing was written; reopen the log.
    #[error("the log refuses appends since a write or sync failed; reopen it")]
    Poisoned(#[source] Arc<io::Error>),
    /// The log is closed. Nothing was written.
    #[error("the log is closed")]
    Closed,
    /// The log could not check the condition, because reading it failed. Nothing was written.
    #[error("the condition could not be checked")]
    Check(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// A group is too far behind, in a log that holds up producers then. Nothing was written.
    #[error(transparent)]
    Overrun(#[from] Overrun),
    /// Another engine's own failure.
    #[error("the log's engine failed")]
    Engine {
        /// Whether the append may have happened.
        effect: Effect,
        /// What the engine said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl AppendError {
    /// Returns whether the append may have happened all the same.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Indeterminate(_) => Effect::Unknown,
            Self::Engine { effect, .. } => *effect,
            _ => Effect::None,
        }
    }

    /// Returns the conflict, if that is what it is.
    pub fn as_conflict(&self) -> Option<&Conflict> {
        match self {
            Self::Conflict(conflict) => Some(conflict),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::CodecId;
    use crate::name::{EventType, StreamId, Tag};

    fn event(payload: usize) -> NewEvent {
        let stream = StreamId::new("a-1").unwrap();
        NewEvent::new(stream, EventType::new("t").unwrap(), CodecId::RAW, vec![0; payload])
    }

    #[test]
    fn an_empty_batch_is_refused() {
        assert_eq!(Append::new([]).check(), Err(InvalidAppend::Empty));
    }

    #[test]
    fn each_limit_is_exact() {
        assert!(Append::new([event(limits::PAYLOAD_BYTES_MAX)]).check().is_ok());
        let error = Append::new([event(0), event(limits::PAYLOAD_BYTES_MAX + 1)]).check();
        assert!(matches!(error, Err(InvalidAppend::EventTooLarge { index: 1, .. })), "{error:?}");

        let mut tagged = event(0);
        tagged.tags = (0..=limits::TAGS_MAX).map(|n| Tag::new(format!("t{n}")).unwrap()).collect();
        let error = Append::new([tagged]).check();
        assert!(
            matches!(error, Err(InvalidAppend::EventTooLarge { what: "tags", .. })),
            "{error:?}"
        );

        let many = vec![event(0); limits::BATCH_EVENTS_MAX + 1];
        let error = Append::new(many).check();
        assert!(matches!(error, Err(InvalidAppend::BatchTooLarge { what: "events", .. })));

        let half = limits::PAYLOAD_BYTES_MAX;
        let error = Append::new([event(half), event(half)]).check();
        assert!(matches!(error, Err(InvalidAppend::BatchTooLarge { what: "bytes", .. })));
    }

    #[test]
    fn the_digest_ignores_ids_and_times_and_nothing_else() {
        let first = Append::new([event(3), event(4)]);
        let retry = Append::new([event(3), event(4)]);
        assert_ne!(first.events[0].id, retry.events[0].id);
        assert_eq!(first.content_digest(), retry.content_digest());
        assert_ne!(first.content_digest(), Append::new([event(4), event(3)]).content_digest());
    }
}
