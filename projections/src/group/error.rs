//! What can go wrong in a consumer group.

use headwater_core::{GroupError, GroupName, JournalError, Position, ReadError};

/// Why an operation of a consumer group failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// An option is out of its bounds. Nothing was done; change it.
    #[error("consumer group option {option} is {given}; {remedy}")]
    InvalidOption {
        /// The name of the option.
        option: &'static str,
        /// Its value.
        given: String,
        /// What is accepted.
        remedy: &'static str,
    },
    /// The group was opened or moved elsewhere, which fences everything here. Nothing was
    /// committed by this call; what was not committed before is delivered again there. Open the
    /// group again to take it back.
    #[error("consumer group {group} was opened or moved elsewhere; open it again to take it back")]
    Fenced {
        /// The group.
        group: GroupName,
        /// What the log said, if it said it.
        source: Option<GroupError>,
    },
    /// Slots were taken from this process: others had not heard from it for as long as its lease
    /// runs, or the group was moved, or something of it re-driven, from another process. What was
    /// acked of them and not committed is delivered again; the rest was committed, and the group
    /// goes on.
    #[error(
        "slots of consumer group {group} were taken from this process with acks that were not committed; their events are delivered again"
    )]
    LostSlots {
        /// The group.
        group: GroupName,
    },
    /// The log refused an operation; [`GroupError::effect`] says whether it may have happened.
    #[error("the log refused an operation of consumer group {group}")]
    Log {
        /// The group.
        group: GroupName,
        /// What the log said.
        source: GroupError,
    },
    /// The log could not be read, and trying again does not help. What was committed stays.
    #[error("consumer group {group} cannot read on after position {after}")]
    Read {
        /// The group.
        group: GroupName,
        /// Where the read began.
        after: Position,
        /// What the log said.
        source: ReadError,
    },
    /// An event failed too often or is too old, and the group's policy is to stop there. What was
    /// acked stays; the event is delivered again when the group is opened again.
    #[error(
        "consumer group {group} stops at position {position} after {attempts} attempts: {cause}"
    )]
    Hopeless {
        /// The group.
        group: GroupName,
        /// The event.
        position: Position,
        /// How often it was delivered.
        attempts: u32,
        /// What went wrong last.
        cause: String,
    },
    /// The group was closed here. Nothing was done; open it again.
    #[error("consumer group {group} is closed; open it again")]
    Closed {
        /// The group.
        group: GroupName,
    },
}

impl ConsumerError {
    /// Says for whom the log refused something, and tells fencing from the rest.
    pub(super) fn from_log(group: &GroupName, source: GroupError) -> Self {
        let group = group.clone();
        match source {
            GroupError::Fenced { .. } => Self::Fenced { group, source: Some(source) },
            source => Self::Log { group, source },
        }
    }

    /// Returns whether the same call may succeed later without anybody reopening anything.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Log { source, .. } => match source {
                // Progress that is too large shrinks as the oldest events are settled.
                GroupError::StorageFull(_)
                | GroupError::NoSegment(_)
                | GroupError::TooLarge { .. } => true,
                GroupError::Read(read) => passes(read),
                // What became of an entry shows when the journal is read again.
                GroupError::Journal(error) => !matches!(error, JournalError::Damaged(_)),
                _ => false,
            },
            Self::Read { source, .. } => passes(source),
            Self::LostSlots { .. } => true,
            _ => false,
        }
    }
}

fn passes(error: &ReadError) -> bool {
    matches!(error, ReadError::Io(_) | ReadError::Engine(_))
}
