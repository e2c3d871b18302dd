//! Identities: 128-bit values that mean different things and so are different types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that should be a UUID and is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a UUID; write it as 8-4-4-4-12 hexadecimal digits")]
pub struct InvalidId {
    /// The text as given.
    pub value: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes the identity from a UUID.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Takes the identity from its 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Returns the identity as a UUID.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }

            /// Returns the 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text).map(Self).map_err(|_| InvalidId { value: text.to_owned() })
            }
        }
    };
}

id! {
    /// Identity of one event, unique for ever. [`EventId::generate`] makes a time-ordered `UUIDv7`.
    EventId
}

id! {
    /// Identity of one append, chosen by the caller, that makes the append idempotent: inside the
    /// log's idempotency window the same id returns the first result and adds nothing.
    AppendId
}

id! {
    /// Joins everything that belongs to one conversation, across streams and services.
    CorrelationId
}

id! {
    /// Identity of one log. Checkpoints carry it, so that none is ever applied to another log.
    LogId
}

impl EventId {
    /// Makes a fresh `UUIDv7`.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl AppendId {
    /// Makes a fresh `UUIDv7`. Keep it with the request, so that a retry carries the same one.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Derives the id from a name, such as a request number: the same name gives the same id.
    pub fn from_name(name: &[u8]) -> Self {
        Self::from_bytes(xxhash_rust::xxh3::xxh3_128(name).to_le_bytes())
    }
}

impl CorrelationId {
    /// Makes a fresh `UUIDv7`.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl LogId {
    /// Makes a fresh random identity.
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }
}

impl From<EventId> for CorrelationId {
    /// Starts a correlation at an event, as is usual for the first event of a flow.
    fn from(id: EventId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text() {
        let id = EventId::generate();
        assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
    }

    #[test]
    fn a_text_that_is_no_uuid_is_refused_with_the_text() {
        let error = "42".parse::<AppendId>().unwrap_err();
        assert_eq!(error.value, "42");
    }

    #[test]
    fn a_named_append_id_depends_on_the_name_alone() {
        assert_eq!(AppendId::from_name(b"row 7"), AppendId::from_name(b"row 7"));
        assert_ne!(AppendId::from_name(b"row 7"), AppendId::from_name(b"row 8"));
    }
}
