//! Progress: which slots, how far, and by whose ownership.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::position::{Position, number};
use crate::slot::{SLOT_COUNT, Slot};

number! {
    /// The fencing number of an ownership: it grows with every hand-over, and what an older owner
    /// says is refused.
    Generation
}

impl Generation {
    /// Before the first owner.
    pub const NONE: Self = Self(0);
}

/// A run of neighbouring slots, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(Slot, Slot)", into = "(Slot, Slot)")]
pub struct SlotRange {
    first: Slot,
    last: Slot,
}

/// A first and a last slot that are out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("slot {0} does not come before slot {1}")]
pub struct InvalidSlotRange(pub Slot, pub Slot);

impl TryFrom<(Slot, Slot)> for SlotRange {
    type Error = InvalidSlotRange;

    fn try_from((first, last): (Slot, Slot)) -> Result<Self, InvalidSlotRange> {
        Self::new(first, last).ok_or(InvalidSlotRange(first, last))
    }
}

impl From<SlotRange> for (Slot, Slot) {
    fn from(range: SlotRange) -> Self {
        (range.first, range.last)
    }
}

impl SlotRange {
    /// Takes the slots from `first` through `last`, or returns `None` if they are out of order.
    pub fn new(first: Slot, last: Slot) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Takes one slot.
    pub const fn one(slot: Slot) -> Self {
        Self { first: slot, last: slot }
    }

    /// Takes all slots.
    pub fn all() -> Self {
        let slot = |number| Slot::new(number).expect("the ends of the range are slots");
        Self { first: slot(0), last: slot(SLOT_COUNT - 1) }
    }

    /// Returns the first slot.
    pub const fn first(self) -> Slot {
        self.first
    }

    /// Returns the last slot, which belongs to the range.
    pub const fn last(self) -> Slot {
        self.last
    }

    /// Returns whether a slot belongs to the range.
    pub fn contains(self, slot: Slot) -> bool {
        (self.first..=self.last).contains(&slot)
    }
}

/// How far a slot of a group is: the ack floor, the settled ranges above it, and what has been
/// tried there in vain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotProgress {
    /// Every event of the slot up to this position is settled.
    pub floor: Position,
    /// Ranges of positions above the floor, first and last included, in which every event of the
    /// slot is settled; ascending and without overlap.
    #[serde(default)]
    pub settled: Vec<(Position, Position)>,
    /// How often events were delivered that are not settled yet, ascending by position. An event
    /// that is missing here was delivered for the first time at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<(Position, u32)>,
    /// The ownership that may change this.
    pub generation: Generation,
}

impl SlotProgress {
    /// Begins after a position, with nothing settled above it.
    pub fn beginning_at(floor: Position, generation: Generation) -> Self {
        Self { floor, generation, ..Self::default() }
    }

    /// Returns whether an event of the slot is settled.
    pub fn is_settled(&self, position: Position) -> bool {
        let place = |&(first, last): &(Position, Position)| {
            if position < first {
                Ordering::Greater
            } else if position > last {
                Ordering::Less
            } else {
                Ordering::Equal
            }
        };
        position <= self.floor || self.settled.binary_search_by(place).is_ok()
    }

    /// Returns how often an event was delivered in vain, as far as that was made durable.
    pub fn attempts(&self, position: Position) -> u32 {
        let found = self.attempts.binary_search_by_key(&position, |&(at, _)| at);
        found.map_or(0, |at| self.attempts[at].1)
    }

    /// Returns the highest position that this speaks of.
    pub fn reach(&self) -> Position {
        let settled = self.settled.last().map(|&(_, last)| last);
        let tried = self.attempts.last().map(|&(at, _)| at);
        self.floor.max(settled.unwrap_or_default()).max(tried.unwrap_or_default())
    }

    /// Returns the first range of settled events, or event that was tried, that is not above the
    /// floor and above those before it, or that ends before it begins, with the position that it
    /// must lie above.
    pub fn disorder(&self) -> Option<((Position, Position), Position)> {
        let tried = self.attempts.iter().map(|&(at, _)| (at, at));
        disorder(self.floor, self.settled.iter().copied()).or_else(|| disorder(self.floor, tried))
    }
}

fn disorder(
    mut after: Position,
    mut ranges: impl Iterator<Item = (Position, Position)>,
) -> Option<((Position, Position), Position)> {
    ranges.find_map(|(first, last)| {
        if first <= after || last < first {
            return Some(((first, last), after));
        }
        after = last;
        None
    })
}

/// New progress for a run of slots, by the owner of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotCommit {
    /// The slots.
    pub slots: SlotRange,
    /// Their progress and the generation that commits it.
    #[serde(flatten)]
    pub progress: SlotProgress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settled_ranges_count_above_the_floor() {
        let p = Position::new;
        let settled = vec![(p(12), p(12)), (p(15), p(20))];
        let progress = SlotProgress { floor: p(10), settled, ..SlotProgress::default() };
        let open: Vec<u64> = (8..23).filter(|&n| !progress.is_settled(p(n))).collect();
        assert_eq!(open, [11, 13, 14, 21, 22]);
    }

    #[test]
    fn what_is_out_of_order_is_noticed() {
        let p = Position::new;
        let settled = |ranges: &[(u64, u64)]| SlotProgress {
            floor: p(10),
            settled: ranges.iter().map(|&(a, b)| (p(a), p(b))).collect(),
            ..SlotProgress::default()
        };
        assert_eq!(settled(&[(11, 11), (13, 20)]).disorder(), None);
        for wrong in [&[(10, 12)][..], &[(14, 13)], &[(12, 15), (15, 16)], &[(20, 21), (12, 13)]] {
            assert!(settled(wrong).disorder().is_some(), "{wrong:?}");
        }
        let tried = |attempts: &[(u64, u32)]| SlotProgress {
            floor: p(10),
            attempts: attempts.iter().map(|&(at, times)| (p(at), times)).collect(),
            ..SlotProgress::default()
        };
        assert_eq!(tried(&[(11, 2), (12, 1)]).disorder(), None);
        for wrong in [&[(10, 1)][..], &[(12, 1), (11, 1)]] {
            assert!(tried(wrong).disorder().is_some(), "{wrong:?}");
        }
    }
}
