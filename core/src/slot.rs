//! Slots: the fixed hash ranges by which the members of a consumer group share a log.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Number of slots, fixed for the life of every log.
pub const SLOT_COUNT: u16 = 1024;

/// One of the 1,024 hash ranges of ordering keys, stored with each event.
///
/// A group's members own slots, so a group scales from 1 to 1,024 members and back without
/// rewriting anything: the idea of Akka's slices and `KurrentDB`'s hash buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Slot(u16);

/// A number that is not a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {0} does not exist; slots go from 0 to {max}", max = SLOT_COUNT - 1)]
pub struct InvalidSlot(pub u16);

impl Slot {
    /// The first one.
    pub const FIRST: Self = Self(0);

    /// Takes a slot from its number, or returns `None` from 1,024 on.
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOT_COUNT { Some(Self(number)) } else { None }
    }

    /// Returns the slot of an ordering key: `xxh3_64(key) mod 1024`.
    pub fn of_key(key: &str) -> Self {
        let slot = xxh3_64(key.as_bytes()) % u64::from(SLOT_COUNT);
        Self(u16::try_from(slot).expect("a remainder of 1,024 fits 16 bits"))
    }

    /// Returns the number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Goes through all slots in order.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        (0..SLOT_COUNT).map(Self)
    }
}

impl TryFrom<u16> for Slot {
    type Error = InvalidSlot;

    fn try_from(number: u16) -> Result<Self, InvalidSlot> {
        Self::new(number).ok_or(InvalidSlot(number))
    }
}

impl From<Slot> for u16 {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_key_is_frozen() {
        // Stored with every event: a change here splits the keys of existing logs.
        let slots: Vec<u16> =
            ["", "order-1", "customer-00042"].iter().map(|k| Slot::of_key(k).get()).collect();
        assert_eq!(slots, [194, 118, 848]);
    }

    #[test]
    fn there_are_1024_slots() {
        assert_eq!(Slot::all().len(), 1024);
        assert_eq!(Slot::new(1024), None);
    }
}
