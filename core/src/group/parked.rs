//! What was set aside: sequences that wait for somebody to look at them.

use serde::{Deserialize, Serialize};

use crate::name::Key;
use crate::position::Position;
use crate::slot::Slot;
use crate::time::Timestamp;

/// Longest cause of a parked sequence in bytes; a longer one is cut.
pub const CAUSE_BYTES_MAX: usize = 1_024;

/// A sequence of events that was set aside, so that others go on: an event that failed for good,
/// and where a key has an order, every later event of its key.
///
/// Its size does not depend on the number of its events: they are those of its key that the group
/// selects, from [`next`](Self::next) through [`through`](Self::through), and lie in the log.
/// After Axon's sequenced dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parked {
    /// The event that failed, which names the sequence.
    pub first: Position,
    /// The slot of its events.
    pub slot: Slot,
    /// The key that it holds up; `None` where the event stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The first event of it that is not settled.
    pub next: Position,
    /// The last event that was set aside so far.
    pub through: Position,
    /// How often the event at `next` was delivered.
    pub attempts: u32,
    /// When it was set aside last.
    pub since: Timestamp,
    /// What went wrong, at most [`CAUSE_BYTES_MAX`] bytes.
    pub cause: String,
    /// Whether it waits or is delivered again.
    pub state: ParkedState,
}

/// What happens to a parked sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParkedState {
    /// It waits.
    Waiting,
    /// Its events are delivered again, in order; later ones of the key come behind them.
    Redriving,
    /// It is over: all of it is settled or given up.
    Done,
}

/// A change of a parked sequence, by the owner of its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedCommit {
    /// The ownership of the slot.
    pub generation: super::Generation,
    /// The sequence as it is from now on; gone, if it is [`Done`](ParkedState::Done).
    #[serde(flatten)]
    pub parked: Parked,
}

impl Parked {
    /// Cuts a cause to what is kept of it.
    pub fn cut_cause(mut cause: String) -> String {
        let mut end = cause.len().min(CAUSE_BYTES_MAX);
        while !cause.is_char_boundary(end) {
            end -= 1;
        }
        cause.truncate(end);
        cause
    }

    /// Returns whether the fields agree with each other.
    pub fn is_in_order(&self) -> bool {
        let alone = self.key.is_some() || self.through == self.first;
        self.first <= self.next
            && self.first <= self.through
            && self.cause.len() <= CAUSE_BYTES_MAX
            && alone
    }
}
