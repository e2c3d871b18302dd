//! Where a state came from, and why it did not come from a snapshot.

use crate::codec::{CodecError, CodecId};
use crate::id::EventId;
use crate::log::ReadError;
use crate::position::Position;

use super::store::SnapshotStoreError;

/// Where a loaded state came from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A snapshot that goes up to this position, and the events after it.
    Snapshot(Position),
    /// All events.
    Replay(NoSnapshot),
}

impl Origin {
    /// Returns whether a snapshot was used.
    pub fn is_snapshot(&self) -> bool {
        matches!(self, Self::Snapshot(_))
    }
}

/// Why no snapshot was used. The state is right all the same: it was folded from all events.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoSnapshot {
    /// There is none, or none any more.
    #[error("there is none")]
    Absent,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] SnapshotStoreError),
    /// Its bytes are not those of a snapshot that was kept whole.
    #[error("it is damaged, cut short, or no snapshot of this format")]
    Damaged,
    /// It is of another log, fold or stream: two keys met, or the store mixed them up.
    #[error("it is of something else")]
    Foreign,
    /// Another version of the fold made it.
    #[error("version {stored} of the fold made it, and this is version {given}")]
    Version {
        /// The version that made it.
        stored: u32,
        /// The version that asked for it.
        given: u32,
    },
    /// The state had another shape.
    #[error("the state had the shape {stored:016x}, and has {given:016x} now")]
    Shape {
        /// The fingerprint that it had.
        stored: u64,
        /// The fingerprint that it has.
        given: u64,
    },
    /// It is encoded in another way.
    #[error("it is encoded as {stored}, and not as {given}")]
    Codec {
        /// The encoding that it has.
        stored: CodecId,
        /// The encoding that was asked for.
        given: CodecId,
    },
    /// The state cannot be decoded: its shape has changed without a new version, or the codec cannot
    /// read back what it writes of this type.
    #[error(
        "its state cannot be decoded; give the fold a new version whenever the shape of the state changes, and a codec that reads back all of it"
    )]
    Decode(#[source] CodecError),
    /// A view, as it is before any event, cannot be encoded.
    #[error("what it would be of cannot be encoded")]
    Encode(#[source] CodecError),
    /// The log has another event where the last one of the snapshot was, or none of the selected
    /// ones: it was restored, rolled back or lost its end.
    #[error("its last event is {stored} at position {position}, and the log has {} there", there(*.found))]
    Diverged {
        /// Where it ends.
        position: Position,
        /// The event that was there.
        stored: EventId,
        /// The event that is there.
        found: Option<EventId>,
    },
    /// The log could not be read where the snapshot ends: its end lies before that, or its start behind.
    #[error("the log cannot be read where it ends")]
    Log(#[source] ReadError),
}

fn there(found: Option<EventId>) -> String {
    found.map_or_else(|| "none of the selected ones".to_owned(), |event| event.to_string())
}

impl NoSnapshot {
    /// Tells what may be of interest to somebody: more the less it is to be expected.
    pub(super) fn trace(&self, name: &'static str) {
        match self {
            Self::Absent => tracing::trace!(name, "no snapshot"),
            Self::Version { .. } | Self::Shape { .. } | Self::Codec { .. } => {
                tracing::debug!(name, reason = %self, "a snapshot is of no use; reading all events");
            }
            _ => {
                let source = std::error::Error::source(self).map(tracing::field::display);
                tracing::warn!(name, reason = %self, source, "a snapshot is ignored; reading all events");
            }
        }
    }
}
