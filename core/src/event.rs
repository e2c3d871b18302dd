//! Events as they are given to a log and as they come back.

use bytes::Bytes;

use crate::codec::{Codec, CodecError, CodecId, Json};
use crate::id::{CorrelationId, EventId};
use crate::limits;
use crate::metadata::Headers;
use crate::name::{EventType, Key, StreamId, Tag};
use crate::position::{Position, Revision, SchemaVersion};
use crate::slot::Slot;
use crate::time::Timestamp;

/// Header of an event that groups deliver later: nanoseconds since 1970-01-01 00:00 UTC, decimal.
pub const DELIVER_AFTER: &str = "deliver-after";

/// An event that has not been appended yet.
///
/// The names in it are checked already; sizes are checked by [`Append`](crate::Append) when the
/// log takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Identity of the event, unique for ever.
    pub id: EventId,
    /// The stream it extends.
    pub stream: StreamId,
    /// What happened.
    pub event_type: EventType,
    /// The shape of the payload.
    pub schema_version: SchemaVersion,
    /// When it happened by the producer's clock. It informs and never orders.
    pub event_time: Timestamp,
    /// The flow it belongs to.
    pub correlation_id: Option<CorrelationId>,
    /// The event that caused it.
    pub causation_id: Option<EventId>,
    /// Labels to find it by, sorted and without repeats once appended.
    pub tags: Vec<Tag>,
    /// What consumer groups order it by; the stream where this is `None`.
    pub key: Option<Key>,
    /// Named texts that travel along, such as `traceparent`.
    pub headers: Headers,
    /// How the payload is encoded.
    pub codec: CodecId,
    /// The encoded payload.
    pub payload: Bytes,
}

impl NewEvent {
    /// Makes an event from a payload that is encoded already, with a fresh id and the time now.
    pub fn new(
        stream: StreamId,
        event_type: EventType,
        codec: CodecId,
        payload: impl Into<Bytes>,
    ) -> Self {
        Self {
            id: EventId::generate(),
            stream,
            event_type,
            schema_version: SchemaVersion::FIRST,
            event_time: Timestamp::now(),
            correlation_id: None,
            causation_id: None,
            tags: Vec::new(),
            key: None,
            headers: Headers::new(),
            codec,
            payload: payload.into(),
        }
    }

    /// Makes an event with a JSON payload, a fresh id and the time now.
    ///
    /// # Errors
    ///
    /// [`CodecError::Encode`] if `data` has no JSON form.
    pub fn json<T: serde::Serialize + ?Sized>(
        stream: StreamId,
        event_type: EventType,
        data: &T,
    ) -> Result<Self, CodecError> {
        Ok(Self::new(stream, event_type, Json::ID, Json::encode(data)?))
    }

    /// Asks groups to deliver this event at `time` at the earliest. It is in the log, and read by
    /// everybody else, at once. It stands in the header [`DELIVER_AFTER`]; if asked more than once,
    /// the first counts.
    #[must_use]
    pub fn deliver_after(mut self, time: Timestamp) -> Self {
        let added = self.headers.insert(DELIVER_AFTER, time.as_nanos().to_string());
        added.expect("the name is one that headers may have");
        self
    }

    /// Returns the text that consumer groups order this event by.
    pub fn ordering_key(&self) -> &str {
        self.key.as_ref().map_or(self.stream.as_str(), Key::as_str)
    }

    /// Returns the slot of the ordering key.
    pub fn slot(&self) -> Slot {
        Slot::of_key(self.ordering_key())
    }

    /// Returns how many bytes the metadata takes at most in a log's own encoding.
    ///
    /// # Complexity
    ///
    /// Linear in the number of tags and headers.
    pub fn metadata_bytes(&self) -> usize {
        const ENTRY: usize = 3;
        let tags: usize = self.tags.iter().map(|t| ENTRY + t.as_str().len()).sum();
        let headers: usize = self.headers.iter().map(|(n, v)| ENTRY + 1 + n.len() + v.len()).sum();
        let key = self.key.as_ref().map_or(0, |k| ENTRY + k.as_str().len());
        // Correlation, causation and the append id with its digest.
        tags + headers + key + 3 * ENTRY + 16 + 16 + 24
    }

    /// Returns how many bytes the event counts for in the limit of a batch.
    pub fn size_bytes(&self) -> usize {
        self.payload.len()
            + self.metadata_bytes()
            + self.stream.as_str().len()
            + self.event_type.as_str().len()
    }

    /// Returns the first limit that this event exceeds.
    pub(crate) fn oversize(&self) -> Option<Oversize> {
        let checks = [
            ("payload bytes", self.payload.len(), limits::PAYLOAD_BYTES_MAX),
            ("metadata bytes", self.metadata_bytes(), limits::METADATA_BYTES_MAX),
            ("tags", self.tags.len(), limits::TAGS_MAX),
        ];
        checks
            .into_iter()
            .find(|(_, actual, max)| actual > max)
            .map(|(what, actual, max)| Oversize { what, actual, max })
    }
}

/// A limit and by how much it was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Oversize {
    pub(crate) what: &'static str,
    pub(crate) actual: usize,
    pub(crate) max: usize,
}

/// An event as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Place in the whole log.
    pub position: Position,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Place in its stream.
    pub revision: Revision,
    /// Identity of the event.
    pub id: EventId,
    /// What happened.
    pub event_type: EventType,
    /// The shape of the payload.
    pub schema_version: SchemaVersion,
    /// When the log committed it: never earlier than for the event before.
    pub commit_time: Timestamp,
    /// When it happened by the producer's clock. It informs and never orders.
    pub event_time: Timestamp,
    /// The flow it belongs to.
    pub correlation_id: Option<CorrelationId>,
    /// The event that caused it.
    pub causation_id: Option<EventId>,
    /// Labels to find it by, sorted and without repeats.
    pub tags: Vec<Tag>,
    /// What consumer groups order it by; the stream where this is `None`.
    pub key: Option<Key>,
    /// The slot of the ordering key.
    pub slot: Slot,
    /// Named texts that travel along.
    pub headers: Headers,
    /// How the payload is encoded.
    pub codec: CodecId,
    /// The encoded payload.
    pub payload: Bytes,
}

impl RecordedEvent {
    /// Returns before when groups do not deliver this event, if it asks for such a time
    /// ([`NewEvent::deliver_after`]).
    pub fn deliver_after(&self) -> Option<Timestamp> {
        let nanos = self.headers.get(DELIVER_AFTER)?.parse().ok()?;
        Some(Timestamp::from_nanos(nanos))
    }

    /// Returns the text that consumer groups order this event by.
    pub fn ordering_key(&self) -> &str {
        self.key.as_ref().map_or(self.stream.as_str(), Key::as_str)
    }

    /// Decodes the payload with the codec that the event names, one of those built in.
    ///
    /// # Errors
    ///
    /// [`CodecError::Unknown`] for a codec of your own (call its
    /// [`decode`](Codec::decode) instead), [`CodecError::Decode`] if the payload is not a `T`.
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T, CodecError> {
        crate::codec::decode(self.codec, &self.payload)
    }
}
