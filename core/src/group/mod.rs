//! The durable side of groups: definitions, progress per slot, what is parked, and fencing.
//!
//! What is here is pure: [`GroupState`] is folded from the changes that an engine makes
//! durable, and every engine folds with the same code. Delivering events to members is the
//! business of the package `headwater-projections`.

mod assignment;
mod definition;
mod error;
mod journal;
mod parked;
mod shared;
mod slots;
mod state;
mod workers;

use async_trait::async_trait;

pub use self::assignment::rebalance;
pub use self::definition::{
    GroupDefinition, GroupId, GroupKind, GroupShape, NewGroup, Order, Start,
};
pub use self::error::GroupError;
pub use self::journal::{Journal, JournalError, JournalRead, MemoryJournal, Version};
pub use self::parked::{CAUSE_BYTES_MAX, Parked, ParkedCommit, ParkedState};
pub use self::shared::{SharedGroup, SharedGroups, WorkerLog};
pub use self::slots::{Generation, InvalidSlotRange, SlotCommit, SlotProgress, SlotRange};
pub use self::state::{GroupChange, GroupCommit, GroupState};
pub use self::workers::{Worker, WorkerChange, WorkerId, Workers};
use crate::log::EventLog;
use crate::name::GroupName;
use crate::position::Position;

/// A log that also keeps the progress of groups.
///
/// Everything here is durable when it returns, to the degree that [`EventLog::durability`] says.
/// None of it is cancel safe: a dropped future may still have its effect.
///
/// An engine keeps a [`GroupState`] by name, checks each change ([`GroupState::check`]), makes it
/// durable, and folds it in ([`GroupState::apply`]). The methods that it need not write are made
/// of [`change_group`](Self::change_group).
#[async_trait]
pub trait GroupLog: EventLog {
    /// Opens a group, and creates it where there is none of its name. An existing group keeps its
    /// progress, whatever `start` says.
    ///
    /// # Errors
    ///
    /// [`GroupError::Differs`] if it exists with another kind, order or selection;
    /// [`GroupError::NoSuchOrder`]; [`GroupError::OutsideLog`] if the start, or the progress of an
    /// existing group, lies beyond the head.
    async fn open_group(&self, group: NewGroup) -> Result<GroupState, GroupError>;

    /// Returns the state of a group.
    async fn group(&self, name: &GroupName) -> Result<GroupState, GroupError>;

    /// Returns the state of every group, by name.
    async fn groups(&self) -> Result<Vec<GroupState>, GroupError>;

    /// Changes a group, or leaves it as it was. Returns the generation that the change has given
    /// out, or the newest one.
    ///
    /// # Errors
    ///
    /// As [`GroupState::check`], and [`GroupError::OutsideLog`] for positions beyond the head.
    async fn change_group(
        &self,
        name: &GroupName,
        change: GroupChange,
    ) -> Result<Generation, GroupError>;

    /// Gives a group another name. It keeps everything else, its identity too.
    ///
    /// # Errors
    ///
    /// [`GroupError::NameTaken`] if there is a group of that name already.
    async fn rename_group(&self, name: &GroupName, to: GroupName) -> Result<(), GroupError>;

    /// Removes a group and its progress. The log keeps its events.
    async fn delete_group(&self, name: &GroupName) -> Result<(), GroupError>;

    /// Returns what processes need to run a group together. Without it one process at a time runs
    /// a group, and the next one that does takes it over.
    fn workers(&self) -> Option<&dyn WorkerLog> {
        None
    }

    /// Gives slots to a new owner and returns its generation. Older owners of these slots are
    /// fenced from now on.
    async fn claim_slots(
        &self,
        name: &GroupName,
        slots: Vec<SlotRange>,
    ) -> Result<Generation, GroupError> {
        self.change_group(name, GroupChange::Claim(slots)).await
    }

    /// Stores new progress: all of it, or none where any slot is fenced or would go back.
    async fn commit_slots(
        &self,
        name: &GroupName,
        commits: Vec<SlotCommit>,
    ) -> Result<(), GroupError> {
        self.change_group(name, GroupChange::Commit(commits.into())).await.map(drop)
    }

    /// Sets every slot of a group to a position and fences its members.
    async fn seek_group(&self, name: &GroupName, to: Position) -> Result<Generation, GroupError> {
        self.change_group(name, GroupChange::Seek(to)).await
    }
}
