//! Why an operation on a group failed.

use std::io;
use std::sync::Arc;

use super::{Generation, GroupKind, JournalError, Order, SlotRange, WorkerId};
use crate::append::Effect;
use crate::id::LogId;
use crate::log::ReadError;
use crate::name::GroupName;
use crate::position::Position;
use crate::slot::Slot;

/// Why an operation on a group failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// No group has this name.
    #[error("there is no consumer group {0}; create it first")]
    Unknown(GroupName),
    /// The group exists and is another one than was asked for. Changing it is an explicit call.
    #[error(
        "group {group} was created with {differences}; use another name, or alter or delete the group first"
    )]
    Differs {
        /// The group.
        group: GroupName,
        /// In what it differs, as text.
        differences: String,
    },
    /// No group of this kind has this order. Nothing was done.
    #[error(
        "group {group} cannot be {kind:?} with the order {order:?}: consumer groups have the orders Key and Global, share groups Key and None"
    )]
    NoSuchOrder {
        /// The group.
        group: GroupName,
        /// The kind.
        kind: GroupKind,
        /// The order.
        order: Order,
    },
    /// Another group has the name. Nothing was changed.
    #[error("there is a group {0} already; choose another name")]
    NameTaken(GroupName),
    /// Nothing is parked under the position. Nothing was changed.
    #[error("group {group} has parked no sequence that begins at position {position}")]
    NotParked {
        /// The group.
        group: GroupName,
        /// The position.
        position: Position,
    },
    /// The order of a group cannot change while it has parked something. Nothing was changed.
    #[error(
        "group {group} has parked {sequences} sequences; re-drive or discard them before its order changes"
    )]
    StillParked {
        /// The group.
        group: GroupName,
        /// How many sequences.
        sequences: usize,
    },
    /// A parked sequence contradicts itself, or what is known of it. Nothing was changed.
    #[error(
        "group {group} refused the parked sequence of position {position}, which contradicts itself or what is known of it"
    )]
    ParkedWrong {
        /// The group.
        group: GroupName,
        /// The first event of the sequence.
        position: Position,
    },
    /// What a commit calls settled or tried is not above its floor, ascending and without overlap.
    /// Nothing was changed.
    #[error(
        "group {group} refused a commit for slots {} to {}: what is settled or tried from {} to {} must begin after position {after} and not end before it begins; give ranges above the floor, ascending and without overlap",
        slots.first(), slots.last(), range.0, range.1
    )]
    Disordered {
        /// The group.
        group: GroupName,
        /// The slots of the commit.
        slots: SlotRange,
        /// The first range that is out of place, first and last position.
        range: (Position, Position),
        /// The floor, or the end of the range before it.
        after: Position,
    },
    /// Somebody else owns the slot by now. Nothing was changed.
    #[error(
        "group {group} refused a commit for slot {slot}: generation {given} has lost it to generation {current}"
    )]
    Fenced {
        /// The group.
        group: GroupName,
        /// The slot.
        slot: Slot,
        /// The generation of the commit.
        given: Generation,
        /// The generation that owns the slot.
        current: Generation,
    },
    /// A commit would take a floor back. Nothing was changed; seeking is an explicit call.
    #[error(
        "group {group} refused to move slot {slot} back from position {current} to {given}; seek instead"
    )]
    Backwards {
        /// The group.
        group: GroupName,
        /// The slot.
        slot: Slot,
        /// The floor of the commit.
        given: Position,
        /// The floor that is stored.
        current: Position,
    },
    /// The position to start or seek to, what a commit speaks of, or the stored progress, lies
    /// outside the log. Nothing was changed.
    #[error("group {group} cannot be at position {position}: the log ends at {head}")]
    OutsideLog {
        /// The group.
        group: GroupName,
        /// The position.
        position: Position,
        /// The last position of the log.
        head: Position,
    },
    /// The progress has too many gaps to be stored at once. Nothing was changed.
    #[error(
        "the progress of group {group} takes {bytes} bytes, and the limit is {max}; settle the oldest events, so that ranges join"
    )]
    TooLarge {
        /// The group.
        group: GroupName,
        /// How many bytes it takes.
        bytes: usize,
        /// How many are accepted.
        max: usize,
    },
    /// The disk is full. Nothing was changed; free some space and try again.
    #[error("no space to store the progress of groups")]
    StorageFull(#[source] Arc<io::Error>),
    /// The next segment of the progress could not be made, for another reason than space. Nothing
    /// was changed; mend the cause and try again.
    #[error("another segment for the progress of groups could not be made")]
    NoSegment(#[source] Arc<io::Error>),
    /// The progress could not be written. Whether it was is unknown until the log is reopened.
    #[error("the progress of groups could not be written; reopen the log")]
    Indeterminate(#[source] Arc<io::Error>),
    /// An earlier write of progress failed. Nothing was changed; reopen the log.
    #[error("the progress of groups takes no writes since one failed; reopen the log")]
    Poisoned(#[source] Arc<io::Error>),
    /// The worker has left or was evicted, since the others had seen no beat of it for as long as
    /// a lease runs. Nothing was changed; join again.
    #[error("worker {worker} of group {group} has left or was evicted; join again")]
    WorkerGone {
        /// The group.
        group: GroupName,
        /// The worker.
        worker: WorkerId,
    },
    /// The worker has beaten since, so it was not evicted. Nothing was changed.
    #[error("worker {worker} of group {group} lives, and is not evicted")]
    WorkerAlive {
        /// The group.
        group: GroupName,
        /// The worker.
        worker: WorkerId,
    },
    /// Another worker owns the slot that is to be claimed, or not this one owns the slot that is
    /// to be released. Nothing was changed.
    #[error(
        "slot {slot} of group {group} is owned by {}",
        owner.map_or_else(|| "nobody".to_owned(), |owner| format!("worker {owner}"))
    )]
    SlotTaken {
        /// The group.
        group: GroupName,
        /// The slot.
        slot: Slot,
        /// Who owns it.
        owner: Option<WorkerId>,
    },
    /// What the processes that run groups together share belongs to another log. Nothing was
    /// changed; give each log a journal of its own.
    #[error("the journal of the groups belongs to the log {belongs_to}, not to {log}")]
    ForeignJournal {
        /// The log it belongs to.
        belongs_to: LogId,
        /// The log it was opened with.
        log: LogId,
    },
    /// What the processes that run groups together share could not be read or changed.
    #[error("the journal of the groups failed")]
    Journal(#[from] JournalError),
    /// The log was opened for reading only. Nothing was changed.
    #[error("the log was opened for reading only")]
    ReadOnly,
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
}

impl GroupError {
    /// Returns whether the operation may have happened all the same.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Indeterminate(_) => Effect::Unknown,
            Self::Journal(error) => error.effect(),
            _ => Effect::None,
        }
    }
}
