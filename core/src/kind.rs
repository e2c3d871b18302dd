//! Typed events: how a domain's own enum is named, encoded and read back.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, CodecError};
use crate::event::{NewEvent, RecordedEvent};
use crate::name::{EventType, InvalidName, StreamId, Tag};
use crate::position::{Position, SchemaVersion};

/// The frozen name and current schema version of one kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKind {
    /// The frozen name.
    pub name: &'static str,
    /// The shape that this program writes.
    pub version: SchemaVersion,
}

impl EventKind {
    /// Names a kind of event. Meant for constants.
    pub const fn new(name: &'static str, version: u16) -> Self {
        Self { name, version: SchemaVersion::new(version) }
    }
}

/// A domain's events, usually an enum.
///
/// # Examples
///
/// ```
/// use headwater_core::{Event, EventKind, Json};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum Account {
///     Opened { owner: String },
///     Deposited { cents: u64 },
/// }
///
/// impl Event for Account {
///     type Codec = Json;
///     const KINDS: &'static [EventKind] =
///         &[EventKind::new("account.opened", 1), EventKind::new("account.deposited", 1)];
///
///     fn kind(&self) -> EventKind {
///         match self {
///             Self::Opened { .. } => Self::KINDS[0],
///             Self::Deposited { .. } => Self::KINDS[1],
///         }
///     }
/// }
/// ```
pub trait Event: Serialize + DeserializeOwned {
    /// How payloads are encoded.
    type Codec: Codec;

    /// Every kind that this type can be.
    const KINDS: &'static [EventKind];

    /// Returns which of [`KINDS`](Self::KINDS) this event is.
    fn kind(&self) -> EventKind;

    /// Returns the labels to find the event by.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if a value cannot stand in a tag.
    fn tags(&self) -> Result<Vec<Tag>, InvalidName> {
        Ok(Vec::new())
    }
}

/// Why a typed event could not be made ready for a log.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The payload has no encoding.
    #[error("event {name} cannot be encoded")]
    Codec {
        /// The kind of event.
        name: &'static str,
        /// What the codec said.
        source: CodecError,
    },
    /// The event type or a tag is not a name.
    #[error("event {name} cannot be named or tagged")]
    Name {
        /// The kind of event.
        name: &'static str,
        /// What is wrong.
        source: InvalidName,
    },
}

/// Why a recorded event could not be read as a typed one.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The type has no such kind.
    #[error("event type {event_type} at position {position} is unknown here; known are {known:?}")]
    UnknownType {
        /// Where the event stands.
        position: Position,
        /// Its name.
        event_type: EventType,
        /// The names this program knows.
        known: Vec<&'static str>,
    },
    /// The kind is known in another shape.
    #[error(
        "event type {event_type} at position {position} has schema version {found}, and this program reads version {known}; deploy a program that knows it"
    )]
    UnknownSchemaVersion {
        /// Where the event stands.
        position: Position,
        /// Its name.
        event_type: EventType,
        /// The version stored.
        found: SchemaVersion,
        /// The version this program reads.
        known: SchemaVersion,
    },
    /// The payload is not what its name says.
    #[error("event type {event_type} at position {position} cannot be decoded")]
    Codec {
        /// Where the event stands.
        position: Position,
        /// Its name.
        event_type: EventType,
        /// What the codec said.
        source: CodecError,
    },
}

/// Makes a typed event ready to append to `stream`.
///
/// # Errors
///
/// [`EncodeError`] if the payload has no encoding or a tag is not a name.
pub fn encode_event<E: Event>(stream: StreamId, event: &E) -> Result<NewEvent, EncodeError> {
    let name = event.kind().name;
    let named = |source| EncodeError::Name { name, source };
    let payload = E::Codec::encode(event).map_err(|source| EncodeError::Codec { name, source })?;
    let event_type = EventType::new(name).map_err(named)?;
    let mut new = NewEvent::new(stream, event_type, E::Codec::ID, payload);
    new.schema_version = event.kind().version;
    new.tags = event.tags().map_err(named)?;
    Ok(new)
}

/// Reads a recorded event as a typed one.
///
/// # Errors
///
/// [`DecodeError`] if the type, its schema version or its codec is unknown, or if the payload is
/// not what its name says.
pub fn decode_event<E: Event>(event: &RecordedEvent) -> Result<E, DecodeError> {
    let position = event.position;
    let event_type = || event.event_type.clone();
    let Some(kind) = E::KINDS.iter().find(|kind| kind.name == event.event_type.as_str()) else {
        return Err(DecodeError::UnknownType {
            position,
            event_type: event_type(),
            known: E::KINDS.iter().map(|kind| kind.name).collect(),
        });
    };
    if kind.version != event.schema_version {
        return Err(DecodeError::UnknownSchemaVersion {
            position,
            event_type: event_type(),
            found: event.schema_version,
            known: kind.version,
        });
    }
    let decoded =
        if event.codec == E::Codec::ID { E::Codec::decode(&event.payload) } else { event.decode() };
    decoded.map_err(|source| DecodeError::Codec { position, event_type: event_type(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Bincode, CodecId, Json};
    use crate::log::{EventLog, Read};
    use crate::memory::MemoryLog;
    use crate::query::Query;
    use pollster::block_on;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Opened {
        seats: u32,
    }

    impl Event for Opened {
        type Codec = Json;
        const KINDS: &'static [EventKind] = &[EventKind::new("course.opened", 2)];

        fn kind(&self) -> EventKind {
            Self::KINDS[0]
        }

        fn tags(&self) -> Result<Vec<Tag>, InvalidName> {
            Ok(vec![Tag::new(format!("seats:{}", self.seats))?])
        }
    }

    /// The event as a log gives it back, changed on the way in.
    fn recorded(change: impl FnOnce(&mut NewEvent)) -> RecordedEvent {
        let log = MemoryLog::new();
        let stream = StreamId::new("course-1").unwrap();
        let mut event = encode_event(stream, &Opened { seats: 30 }).unwrap();
        change(&mut event);
        block_on(log.append(crate::append::Append::new([event]))).unwrap();
        let page = block_on(log.read(Read::forward(Query::all(), Position::START))).unwrap();
        page.events.into_iter().next().unwrap()
    }

    #[test]
    fn a_typed_event_survives_with_name_version_codec_and_tags() {
        let event = recorded(|_| {});
        assert_eq!(event.event_type.as_str(), "course.opened");
        assert_eq!((event.schema_version, event.codec), (SchemaVersion::new(2), CodecId::JSON));
        assert_eq!(event.tags, [Tag::new("seats:30").unwrap()]);
        assert_eq!(decode_event::<Opened>(&event).unwrap(), Opened { seats: 30 });
    }

    #[test]
    fn an_event_of_another_built_in_codec_is_decoded_with_that() {
        let payload = Bincode::encode(&Opened { seats: 7 }).unwrap();
        let event = recorded(|event| {
            event.codec = Bincode::ID;
            event.payload = payload;
        });
        assert_eq!(decode_event::<Opened>(&event).unwrap(), Opened { seats: 7 });
    }

    #[test]
    fn unknown_types_versions_and_codecs_are_told_apart_and_named() {
        let event = recorded(|event| event.event_type = EventType::new("course.shut").unwrap());
        let error = decode_event::<Opened>(&event).unwrap_err();
        assert!(matches!(error, DecodeError::UnknownType { .. }), "{error}");
        assert!(error.to_string().contains("course.opened"), "{error}");

        let event = recorded(|event| event.schema_version = SchemaVersion::new(3));
        let error = decode_event::<Opened>(&event).unwrap_err();
        assert!(
            matches!(error, DecodeError::UnknownSchemaVersion { found, known, .. }
                if (found.get(), known.get()) == (3, 2)),
            "{error}"
        );

        let event = recorded(|event| event.codec = CodecId::new(200));
        let error = decode_event::<Opened>(&event).unwrap_err();
        let DecodeError::Codec { source: CodecError::Unknown { found }, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(found, CodecId::new(200));
    }
}
