//! Which kind a recorded event is, and reading it as that.

use std::fmt;

use super::payload::{Payload, PayloadError};
use super::{Event, EventKind};
use crate::codec::{CodecError, CodecId};
use crate::event::RecordedEvent;
use crate::position::{Position, SchemaVersion};

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
        event_type: String,
        /// The names this program knows.
        known: Vec<&'static str>,
    },
    /// The kind is known in other shapes.
    #[error(
        "event type {event_type} at position {position} has schema version {found}, and this program reads {}; {}",
        Versions(kind),
        Remedy { kind, found }
    )]
    UnknownSchemaVersion {
        /// Where the event stands.
        position: Position,
        /// Its name.
        event_type: String,
        /// The version stored.
        found: SchemaVersion,
        /// The versions this program reads.
        kind: EventKind,
    },
    /// The payload is not what its name and version say.
    #[error("event type {event_type} at position {position} cannot be decoded")]
    Codec {
        /// Where the event stands.
        position: Position,
        /// Its name.
        event_type: String,
        /// What the codec said.
        source: CodecError,
    },
    /// The payload has an older shape, of which no newer one could be made.
    #[error("event type {event_type} at position {position} cannot be upcast")]
    Upcast {
        /// Where the event stands.
        position: Position,
        /// Its name.
        event_type: String,
        /// Where it came to a stand, and what the upcaster said.
        source: PayloadError,
    },
}

/// The versions that are read of a kind, in words.
pub(crate) struct Versions<'a>(pub(crate) &'a EventKind);

impl fmt::Display for Versions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EventKind { version, oldest, .. } = self.0;
        if oldest == version {
            return write!(f, "version {version}");
        }
        write!(f, "versions {oldest} through {version}")
    }
}

/// What to do about a version that is not read.
pub(crate) struct Remedy<'a> {
    pub(crate) kind: &'a EventKind,
    pub(crate) found: &'a SchemaVersion,
}

impl fmt::Display for Remedy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self.found > self.kind.version {
            return f.write_str("deploy a program that knows it");
        }
        let found = self.found;
        write!(f, "give the program its shape and an upcaster, as in from({found} = ...)")
    }
}

/// What a typed event is decoded from, borrowed from wherever it lies.
#[derive(Clone, Copy, Debug)]
pub struct StoredEvent<'a> {
    /// Where the event stands.
    pub position: Position,
    /// Its name.
    pub event_type: &'a str,
    /// The shape of the payload.
    pub schema_version: SchemaVersion,
    /// How the payload is encoded.
    pub codec: CodecId,
    /// The encoded payload.
    pub payload: &'a [u8],
}

impl<'a> From<&'a RecordedEvent> for StoredEvent<'a> {
    fn from(event: &'a RecordedEvent) -> Self {
        Self {
            position: event.position,
            event_type: event.event_type.as_str(),
            schema_version: event.schema_version,
            codec: event.codec,
            payload: &event.payload,
        }
    }
}

/// Reads a recorded event as a typed one, under the name it has now or had before, and in the shape
/// that is written now or in an older one.
///
/// # Errors
///
/// [`DecodeError`] if the type, its schema version or its codec is unknown, if the payload is
/// not what its name says, or if an upcaster refuses it.
///
/// # Complexity
///
/// Linear in the payload. Names are compared in the order of [`Event::KINDS`].
pub fn decode_event<E: Event>(event: &RecordedEvent) -> Result<E, DecodeError> {
    decode_stored(event.into())
}

/// As [`decode_event`], of an event that is not copied out of the log, such as those of a scan.
///
/// # Errors
///
/// As [`decode_event`].
pub fn decode_stored<E: Event>(event: StoredEvent<'_>) -> Result<E, DecodeError> {
    let StoredEvent { position, event_type: name, schema_version: version, .. } = event;
    let event_type = || name.to_owned();
    let Some((index, kind)) = find(E::KINDS, name) else {
        return Err(DecodeError::UnknownType {
            position,
            event_type: event_type(),
            known: E::KINDS.iter().flat_map(EventKind::names).collect(),
        });
    };
    if !kind.reads(version) {
        let (event_type, kind) = (event_type(), *kind);
        return Err(DecodeError::UnknownSchemaVersion {
            position,
            event_type,
            found: version,
            kind,
        });
    }
    let payload = Payload::new(index, version, event.codec, event.payload);
    E::decode_payload(payload).map_err(|error| match error {
        PayloadError::Codec(source) => {
            DecodeError::Codec { position, event_type: event_type(), source }
        }
        source => DecodeError::Upcast { position, event_type: event_type(), source },
    })
}

/// Finds the kind that has or had a name: the current names come first.
fn find(kinds: &'static [EventKind], name: &str) -> Option<(usize, &'static EventKind)> {
    let all = || kinds.iter().enumerate();
    all()
        .find(|(_, kind)| kind.name == name)
        .or_else(|| all().find(|(_, kind)| kind.formerly.contains(&name)))
}
