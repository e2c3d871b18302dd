//! Typed events: how a domain's own enum is named, encoded and read back.
//!
//! `body.rs` leaves the variant out of the payload, `payload.rs` is what a type is decoded from and
//! how older shapes become newer ones, `decode.rs` finds the kind of a recorded event.

mod body;
mod decode;
mod payload;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, CodecError};
use crate::event::NewEvent;
use crate::name::{EventType, InvalidName, Key, StreamId, Tag};
use crate::position::SchemaVersion;
use crate::shape::VersionShape;

pub use decode::{DecodeError, StoredEvent, decode_event, decode_stored};
pub use payload::{Payload, PayloadError, Upcast, encode_variant};

/// The frozen names and the schema versions of one kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKind {
    /// The frozen name, which new events get.
    pub name: &'static str,
    /// The names that older events of this kind have.
    pub formerly: &'static [&'static str],
    /// The shape that this program writes.
    pub version: SchemaVersion,
    /// The oldest shape that this program reads; it reads every one from there on.
    pub oldest: SchemaVersion,
}

impl EventKind {
    /// Names a kind of event that is read in the shape in which it is written. Meant for constants.
    pub const fn new(name: &'static str, version: u16) -> Self {
        let version = SchemaVersion::new(version);
        Self { name, formerly: &[], version, oldest: version }
    }

    /// Adds the names that older events have.
    #[must_use]
    pub const fn formerly(self, names: &'static [&'static str]) -> Self {
        Self { formerly: names, ..self }
    }

    /// Adds older shapes, from this one on.
    #[must_use]
    pub const fn reading_from(self, oldest: u16) -> Self {
        Self { oldest: SchemaVersion::new(oldest), ..self }
    }

    /// Returns all names that events of this kind have, the one of new events first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.formerly.iter().copied())
    }

    /// Returns all names as types, for a query that finds old and new events of this kind.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if one is not the name of an event type.
    pub fn types(&self) -> Result<Vec<EventType>, InvalidName> {
        self.names().map(EventType::new).collect()
    }

    fn reads(&self, version: SchemaVersion) -> bool {
        self.oldest <= version && version <= self.version
    }
}

/// A domain's events, usually an enum.
///
/// Derive it (feature `derive`): the derive checks names and versions, writes what a variant holds
/// and not what it is called, and reads older shapes through upcasters. An implementation by hand
/// says the same in more words, and by default encodes the value as serde does.
///
/// # Examples
///
/// ```
/// use headwater_core::{Event, EventKind, Json};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct AccountOpened {
///     owner: String,
/// }
///
/// impl Event for AccountOpened {
///     type Codec = Json;
///     const KINDS: &'static [EventKind] = &[EventKind::new("account.opened", 1)];
///
///     fn kind(&self) -> EventKind {
///         Self::KINDS[0]
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

    /// Returns what consumer groups order the event by; `None` leaves it to the stream.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if a value cannot be a key.
    fn key(&self) -> Result<Option<Key>, InvalidName> {
        Ok(None)
    }

    /// Encodes what the log is to hold.
    ///
    /// # Errors
    ///
    /// [`CodecError::Encode`] if the value has no form in the encoding.
    fn encode_payload(&self) -> Result<Bytes, CodecError> {
        Self::Codec::encode(self)
    }

    /// Decodes what the log holds, in any shape that [`KINDS`](Self::KINDS) promises to read.
    ///
    /// # Errors
    ///
    /// [`PayloadError`] if the bytes are not of that shape, or an upcaster refuses them.
    fn decode_payload(payload: Payload<'_>) -> Result<Self, PayloadError> {
        payload.decode::<Self::Codec, Self>()
    }

    /// Returns how each version of each kind is stored, as far as the source says; nothing by default.
    fn shapes() -> &'static [VersionShape] {
        &[]
    }

    /// Returns the types of all kinds under all their names, for a query that finds old and new
    /// events alike.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if one is not the name of an event type.
    fn types() -> Result<Vec<EventType>, InvalidName> {
        Self::KINDS.iter().flat_map(EventKind::names).map(EventType::new).collect()
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
    /// The event type, a tag or the key is not a name.
    #[error("event {name} cannot be named, tagged or keyed")]
    Name {
        /// The kind of event.
        name: &'static str,
        /// What is wrong.
        source: InvalidName,
    },
}

/// Makes a typed event ready to append to `stream`.
///
/// # Errors
///
/// [`EncodeError`] if the payload has no encoding, or a tag or the key is not a name.
pub fn encode_event<E: Event>(stream: StreamId, event: &E) -> Result<NewEvent, EncodeError> {
    let EventKind { name, version, .. } = event.kind();
    let named = |source| EncodeError::Name { name, source };
    let payload = event.encode_payload().map_err(|source| EncodeError::Codec { name, source })?;
    let event_type = EventType::new(name).map_err(named)?;
    let mut new = NewEvent::new(stream, event_type, E::Codec::ID, payload);
    new.schema_version = version;
    new.tags = event.tags().map_err(named)?;
    new.key = event.key().map_err(named)?;
    Ok(new)
}

#[cfg(test)]
mod tests;
