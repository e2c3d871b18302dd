//! The numbers of a log: four types that never mix.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number that means one thing: no arithmetic but the next one, and no conversion by itself.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone,
            Copy,
            Debug,
            Default,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            serde::Serialize,
            serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Takes it from a plain number.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// Returns the plain number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Returns the one after this; the highest stays where it is.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

pub(crate) use number;

number! {
    /// Place of an event in the whole log: dense, from 1.
    ///
    /// In this crate's own engines position *n + 1* follows *n* without a hole, and no reader ever
    /// sees *n + 1* before *n*. Other engines may leave gaps, so code that runs over any log
    /// compares positions and does not count with them.
    Position
}

impl Position {
    /// Before the first event: reading after it reads everything.
    pub const START: Self = Self(0);
    /// The first event of a log.
    pub const FIRST: Self = Self(1);
    /// After every event a log can hold.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the position before this one; [`Position::START`] stays where it is.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Returns the position `count` places further on.
    #[must_use]
    pub const fn advanced_by(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// Returns how far this lies beyond `earlier`, or `None` if `earlier` comes later.
    pub const fn events_since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

number! {
    /// Place of an event in its stream: dense, from 1; 0 means the stream has no events.
    Revision
}

impl Revision {
    /// The revision of a stream without events.
    pub const NONE: Self = Self(0);
    /// The first event of a stream.
    pub const FIRST: Self = Self(1);
}

/// Shape of an event type, from 1. It has nothing to do with revisions or file formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaVersion(u16);

impl SchemaVersion {
    /// The first shape of an event type.
    pub const FIRST: Self = Self(1);

    /// Takes a schema version from its number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for SchemaVersion {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_positions_exists_only_forwards() {
        assert_eq!(Position::new(7).events_since(Position::new(3)), Some(4));
        assert_eq!(Position::new(3).events_since(Position::new(7)), None);
    }

    #[test]
    fn stepping_stays_inside_the_range() {
        assert_eq!(Position::START.previous(), Position::START);
        assert_eq!(Position::MAX.next(), Position::MAX);
        assert_eq!(Position::FIRST.previous(), Position::START);
    }
}
