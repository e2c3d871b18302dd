//! What timers are in the log: events of one stream for each timer.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use headwater_core::{
    AppendId, CodecId, CorrelationId, Event, EventId, EventKind, EventType, Headers, Json, Key,
    NewEvent, Schedule, SchemaVersion, StreamId, Tag, Timestamp,
};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Missed;

/// The category of the streams that hold timers.
pub(super) const CATEGORY: &str = "headwater.timer";

/// What happened to a timer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TimerRecord {
    /// It was made.
    Scheduled(Box<Definition>),
    /// Its event of this time was appended: in the same append.
    Fired { due: Timestamp },
    /// Its ticks through this time were missed and do not fire any more.
    Passed { through: Timestamp },
    /// It will not fire any more.
    Cancelled {},
    /// Everything about it once more, so that the events before may be removed.
    Renewed(Box<Renewal>),
}

/// All that is to be known of a timer that is to fire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Renewal {
    /// The event that made it.
    pub(super) scheduled: EventId,
    pub(super) definition: Definition,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last_fired: Option<Timestamp>,
    /// Times after this one count.
    pub(super) after: Timestamp,
}

impl Event for TimerRecord {
    type Codec = Json;

    const KINDS: &'static [EventKind] = &[
        EventKind::new("headwater.timer.scheduled", 1),
        EventKind::new("headwater.timer.fired", 1),
        EventKind::new("headwater.timer.passed", 1),
        EventKind::new("headwater.timer.cancelled", 1),
        EventKind::new("headwater.timer.renewed", 1),
    ];

    fn kind(&self) -> EventKind {
        match self {
            Self::Scheduled(_) => Self::KINDS[0],
            Self::Fired { .. } => Self::KINDS[1],
            Self::Passed { .. } => Self::KINDS[2],
            Self::Cancelled {} => Self::KINDS[3],
            Self::Renewed(_) => Self::KINDS[4],
        }
    }
}

/// What a timer does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    pub(super) schedule: Schedule,
    pub(super) missed: Missed,
    /// Times from here on count.
    pub(super) from: Timestamp,
    pub(super) event: Template,
}

/// The event that a timer appends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Template {
    pub(super) stream: StreamId,
    event_type: EventType,
    schema_version: SchemaVersion,
    /// Of an event that is delivered later, and stays what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given: Option<Given>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation_id: Option<CorrelationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causation_id: Option<EventId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Tag>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Key>,
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    headers: Headers,
    codec: CodecId,
    payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    id: EventId,
    time: Timestamp,
}

impl Template {
    /// Takes an event of which each tick makes another.
    pub(super) fn of(event: NewEvent) -> Self {
        Self {
            stream: event.stream,
            event_type: event.event_type,
            schema_version: event.schema_version,
            given: None,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            tags: event.tags,
            key: event.key,
            headers: event.headers,
            codec: event.codec,
            payload: Bytes(event.payload),
        }
    }

    /// Takes an event that keeps its id and its time.
    pub(super) fn of_given(event: NewEvent) -> Self {
        let given = Given { id: event.id, time: event.event_time };
        Self { given: Some(given), ..Self::of(event) }
    }

    /// Returns correlation and causation id, as they were given.
    pub(super) fn flow(&self) -> (Option<CorrelationId>, Option<EventId>) {
        (self.correlation_id, self.causation_id)
    }

    /// Makes the event of a tick of the timer that was made by the event `scheduled`.
    pub(super) fn event(&self, scheduled: EventId, due: Timestamp) -> NewEvent {
        let own = || Given { id: tick(scheduled, due), time: due };
        let cause = self.given.is_none().then_some(scheduled);
        let given = self.given.unwrap_or_else(own);
        NewEvent {
            id: given.id,
            stream: self.stream.clone(),
            event_type: self.event_type.clone(),
            schema_version: self.schema_version,
            event_time: given.time,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id.or(cause),
            tags: self.tags.clone(),
            key: self.key.clone(),
            headers: self.headers.clone(),
            codec: self.codec,
            payload: self.payload.0.clone(),
        }
    }
}

/// Returns the id of a tick's event: the same one for the same timer and time, in every process.
fn tick(scheduled: EventId, due: Timestamp) -> EventId {
    let name = format!("headwater.timer {scheduled} {}", due.as_nanos());
    EventId::from_bytes(*AppendId::from_name(name.as_bytes()).as_bytes())
}

/// Bytes as base64.
#[derive(Clone, PartialEq, Eq)]
struct Bytes(bytes::Bytes);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}
