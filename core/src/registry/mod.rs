//! All event types of a program, checked against each other and against a log.

mod check;

use std::collections::HashMap;

use crate::codec::{Codec, CodecId};
use crate::event::RecordedEvent;
use crate::kind::{DecodeError, Event, EventKind, decode_event};
use crate::name::{EventType, InvalidName};
use crate::position::SchemaVersion;
use crate::query::{Query, QueryItem};
use crate::shape::VersionShape;

pub use check::{CheckError, LogFault, LogReport};

/// Events of this project's own, such as those of timers, begin so.
const OWN_PREFIX: &str = "headwater.";

/// The event types of a program: no two share a name, and [`check`](Self::check) tells whether a log
/// holds anything that they cannot read.
///
/// # Examples
///
/// ```
/// use headwater_core::{CheckError, Event, EventKind, Json, MemoryLog, Registry};
/// # use headwater_core::{Append, EventLog, LogFault, NewEvent, StreamId};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct AccountOpened {
///     owner: String,
/// }
/// # impl Event for AccountOpened {
/// #     type Codec = Json;
/// #     const KINDS: &'static [EventKind] = &[EventKind::new("account.opened", 1)];
/// #     fn kind(&self) -> EventKind { Self::KINDS[0] }
/// # }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # pollster::block_on(async {
/// let log = MemoryLog::new();
/// # let closed = NewEvent::json(StreamId::new("account-1")?, "account.closed".parse()?, &7)?;
/// # log.append(Append::new([closed])).await?;
/// let registry = Registry::new().with::<AccountOpened>()?;
/// let Err(CheckError::Unfit(faults)) = registry.check(&log).await else { panic!() };
/// assert!(matches!(&faults[0], LogFault::UnknownName { event_type, .. }
///     if event_type.as_str() == "account.closed"));
/// # Ok(()) })
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Registry {
    types: Vec<RegisteredType>,
    ignored: Vec<String>,
}

/// A type of events in a registry.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RegisteredType {
    /// The Rust type.
    pub rust_name: &'static str,
    /// How payloads are encoded.
    pub codec: CodecId,
    /// Its kinds.
    pub kinds: &'static [EventKind],
    /// How each version of each kind is stored, as far as the type says; one that was implemented by
    /// hand may say nothing.
    pub shapes: &'static [VersionShape],
    read: fn(&RecordedEvent) -> Result<(), DecodeError>,
}

/// Why a type does not fit to the others of a registry.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A name has two meanings.
    #[error(
        "the event name {name:?} is that of {first} and of {second}; events in the log tell their kind by their name alone, so give each its own"
    )]
    DuplicateName {
        /// The name, current or former.
        name: &'static str,
        /// The Rust type that has it already.
        first: &'static str,
        /// The one that was added.
        second: &'static str,
    },
    /// A type was added twice.
    #[error("the event type {rust_name} is in the registry already; add it once")]
    Twice {
        /// The Rust type.
        rust_name: &'static str,
    },
    /// A type has no kinds, so that a query for it would select everything.
    #[error("the event type {rust_name} has no kinds; give it one")]
    NoKinds {
        /// The Rust type.
        rust_name: &'static str,
    },
    /// A name is not one that an event can have.
    #[error("a name of the event type {rust_name} cannot be used")]
    Name {
        /// The Rust type.
        rust_name: &'static str,
        /// What is wrong.
        source: InvalidName,
    },
    /// The versions of a kind are no chain from 1 or later to the one that is written.
    #[error(
        "{rust_name} writes {name:?} in version {version} and reads from version {oldest} on; versions count from 1, and the oldest is not newer than the one written"
    )]
    Versions {
        /// The Rust type.
        rust_name: &'static str,
        /// The kind.
        name: &'static str,
        /// The version that is written.
        version: SchemaVersion,
        /// The oldest that is read.
        oldest: SchemaVersion,
    },
    /// A version within the chain has no shape, though others have.
    #[error(
        "{rust_name} promises to read {name:?} in version {hole} and has no shape for it; give it one, or begin behind it"
    )]
    Hole {
        /// The Rust type.
        rust_name: &'static str,
        /// The kind.
        name: &'static str,
        /// The version without a shape.
        hole: SchemaVersion,
    },
}

impl Registry {
    /// A registry of no types.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a type of events.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] if a name is another type's too or no name at all, or if its versions have a
    /// hole.
    pub fn with<E: Event>(mut self) -> Result<Self, RegistryError> {
        let added = RegisteredType {
            rust_name: std::any::type_name::<E>(),
            codec: E::Codec::ID,
            kinds: E::KINDS,
            shapes: E::shapes(),
            read: |event| decode_event::<E>(event).map(drop),
        };
        added.check()?;
        if self.types.iter().any(|known| known.rust_name == added.rust_name) {
            return Err(RegistryError::Twice { rust_name: added.rust_name });
        }
        let names =
            self.types.iter().flat_map(|known| known.names().map(move |name| (name, known)));
        let mut owners: HashMap<_, _> =
            names.map(|(name, known)| (name, known.rust_name)).collect();
        for name in added.names() {
            let second = added.rust_name;
            if let Some(first) = owners.insert(name, second) {
                return Err(RegistryError::DuplicateName { name, first, second });
            }
        }
        self.types.push(added);
        Ok(self)
    }

    /// Leaves events alone whose name begins so: those of other programs in the same log, or those that
    /// nobody reads any more. Names that begin with `headwater.` are always left alone.
    #[must_use]
    pub fn ignoring(mut self, prefix: impl Into<String>) -> Self {
        self.ignored.push(prefix.into());
        self
    }

    /// Returns the types in the order in which they were added.
    pub fn types(&self) -> &[RegisteredType] {
        &self.types
    }

    /// Widens a query: where it names a type by one of its names, it selects all names of that kind.
    ///
    /// For queries that were not built from types, as by [`Query::events`], but by people.
    #[must_use]
    pub fn widen(&self, query: &Query) -> Query {
        let widened = query.items().iter().map(|item| {
            let mut types: Vec<EventType> = Vec::with_capacity(item.types.len());
            for asked in &item.types {
                let mut kinds = self.types.iter().flat_map(|known| known.kinds);
                let kind = kinds.find(|kind| kind.names().any(|n| n == asked.as_str()));
                let others = kind.into_iter().flat_map(EventKind::names).map(|name| {
                    EventType::new(name).expect("names are checked when a type is added")
                });
                for name in std::iter::once(asked.clone()).chain(others) {
                    if !types.contains(&name) {
                        types.push(name);
                    }
                }
            }
            QueryItem { types, ..item.clone() }
        });
        widened.collect::<Vec<_>>().into()
    }

    /// Returns the type that has or had this name for one of its kinds.
    fn find(&self, name: &str) -> Option<&RegisteredType> {
        self.types.iter().find(|known| known.names().any(|other| other == name))
    }

    fn ignores(&self, name: &str) -> bool {
        name.starts_with(OWN_PREFIX) || self.ignored.iter().any(|prefix| name.starts_with(prefix))
    }
}

impl RegisteredType {
    fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.kinds.iter().flat_map(EventKind::names)
    }

    fn check(&self) -> Result<(), RegistryError> {
        let rust_name = self.rust_name;
        if self.kinds.is_empty() {
            return Err(RegistryError::NoKinds { rust_name });
        }
        for kind in self.kinds {
            let &EventKind { name, version, oldest, .. } = kind;
            for name in kind.names() {
                EventType::new(name).map_err(|source| RegistryError::Name { rust_name, source })?;
            }
            if oldest < SchemaVersion::FIRST || oldest > version {
                return Err(RegistryError::Versions { rust_name, name, version, oldest });
            }
            let shaped = |version| {
                self.shapes.iter().any(|shape| shape.kind == name && shape.version == version)
            };
            let mut promised = (oldest.get()..=version.get()).map(SchemaVersion::new);
            if let Some(hole) = promised.find(|&v| !self.shapes.is_empty() && !shaped(v)) {
                return Err(RegistryError::Hole { rust_name, name, hole });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
