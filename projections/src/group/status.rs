//! What a group says about itself.

use std::sync::Arc;

use headwater_core::{Generation, GroupName, Position, SharedGroup, Worker, WorkerId};

use super::coordinator::GroupCounts;
use super::error::ConsumerError;

/// What a group is doing, measured against the log's head.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum GroupPhase {
    /// It was paused, so nothing is delivered.
    Paused,
    /// It has no members, so nothing is delivered.
    Idle,
    /// Other processes own all slots, or have not let go yet of those that are to come here.
    StandingBy,
    /// Events are ready, and no member has asked for any as long as a lease runs.
    Starved,
    /// It has not yet read everything that the log holds.
    CatchingUp,
    /// It has read everything that the log holds, and parked sequences wait for somebody.
    Parked,
    /// It has read everything that the log holds.
    Running,
    /// The log fails, and the group tries again and again.
    Stalled {
        /// Why.
        cause: ConsumerError,
    },
    /// It does nothing any more. Open it again.
    Stopped {
        /// Why; [`ConsumerError::Closed`] if it was closed.
        cause: ConsumerError,
    },
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The name it joined with.
    pub name: Arc<str>,
    /// How many slots it owns.
    pub slots: usize,
    /// How many deliveries it has that are not settled.
    pub in_flight: usize,
}

/// One process among several that run a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Which.
    pub id: WorkerId,
    /// What the others call it.
    pub name: String,
    /// How many members it runs.
    pub members: usize,
    /// How many slots it owns.
    pub slots: usize,
    /// Whether it is this one.
    pub is_here: bool,
}

impl WorkerStatus {
    pub(super) fn of(group: &SharedGroup, here: Option<WorkerId>) -> Vec<Self> {
        let workers = &group.workers;
        let slots = |id| -> usize {
            let own = workers.owners().filter(|&(_, owner)| owner == id);
            own.map(|(range, _)| usize::from(range.last().get() - range.first().get()) + 1).sum()
        };
        let status = |(id, worker): (WorkerId, &Worker)| Self {
            id,
            name: worker.name.clone(),
            members: worker.members.into(),
            slots: slots(id),
            is_here: here == Some(id),
        };
        workers.iter().map(status).collect()
    }
}

/// A group at one moment.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The group.
    pub name: GroupName,
    /// What it is doing.
    pub phase: GroupPhase,
    /// Its members in this process, in the order they joined.
    pub members: Vec<MemberStatus>,
    /// The processes that run it, in the order they joined, where several may.
    pub workers: Vec<WorkerStatus>,
    /// How many events are read and not settled, in flight or not.
    pub buffered: usize,
    /// How many deliveries are not settled, those of members that left among them.
    pub in_flight: usize,
    /// How many sequences are parked, those that are delivered again among them.
    pub parked: usize,
    /// Everything up to here is settled or parked. It is durable with the commits that follow.
    pub floor: Position,
    /// Everything up to here was read.
    pub scanned: Position,
    /// The last position of the log that the group may see.
    pub head: Position,
    /// The newest ownership.
    pub generation: Generation,
    /// What has happened in this process since the group was opened.
    pub counts: GroupCounts,
}
