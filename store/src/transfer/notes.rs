//! The lines of an export that are no events: what stands before and behind them.

use headwater_core::{
    Generation, GroupChange, GroupCommit, GroupDefinition, GroupId, GroupName, GroupShape,
    GroupState, ParkedCommit, Position, Revision, Slot, SlotCommit, SlotProgress, StreamId,
};
use serde::{Deserialize, Serialize};

use crate::format::tails::StreamTail;

/// The first line: the log as a whole.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogNote {
    pub(super) version: u32,
    /// The last position that was removed from the beginning.
    pub(super) start: Position,
    pub(super) head: Position,
    /// How many lines there are of each of these kinds.
    pub(super) tails: u64,
    pub(super) removals: u64,
    pub(super) groups: u64,
    /// Position of the next entry in the log of the groups.
    pub(super) offsets: Position,
}

/// Where a stream ended that has no event left.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TailNote {
    pub(super) stream: StreamId,
    pub(super) revision: Revision,
    pub(super) position: Position,
}

impl From<TailNote> for StreamTail {
    fn from(note: TailNote) -> Self {
        let TailNote { stream, revision, position } = note;
        Self { stream: stream.into(), revision, position }
    }
}

/// A group and its progress.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupNote {
    pub(super) name: GroupName,
    id: GroupId,
    start: Position,
    generation: Generation,
    #[serde(default)]
    paused: bool,
    shape: GroupShape,
    runs: Vec<SlotCommit>,
    #[serde(default)]
    parked: Vec<ParkedCommit>,
}

impl From<&GroupState> for GroupNote {
    fn from(state: &GroupState) -> Self {
        let (state, parked) = state.without_parked();
        let commit = |(slots, progress): (_, &SlotProgress)| SlotCommit {
            slots,
            progress: progress.clone(),
        };
        let runs = state.runs().map(commit).collect();
        let GroupDefinition { name, id, shape, start } = state.definition;
        let GroupState { generation, paused, .. } = state;
        Self { name, id, start, generation, paused, shape, runs, parked }
    }
}

impl GroupNote {
    /// Makes the state of the group in this log, or says what is wrong with it.
    pub(super) fn state(self, log: &LogNote) -> Result<GroupState, &'static str> {
        let Self { name, id, start, generation: newest, paused, shape, runs, parked } = self;
        if newest.get() >= log.offsets.get() {
            return Err("its generation lies beyond the log of the groups");
        }
        if shape.check(&name).is_err() {
            return Err("its kind has no such order");
        }
        let mut due = 0;
        for SlotCommit { slots, progress } in &runs {
            if slots.first().get() != due {
                return Err("the runs of slots have a hole or overlap");
            }
            due = slots.last().get() + 1;
            if progress.generation > newest {
                return Err("a run has a generation that the group has not given yet");
            }
            if progress.disorder().is_some() {
                return Err("what a run has settled is not in order");
            }
            if progress.reach() > log.head {
                return Err("a run has settled what lies beyond the head");
            }
        }
        if usize::from(due) != Slot::all().len() {
            return Err("the runs do not reach to the last slot");
        }
        if parked.iter().any(|commit| !commit.parked.is_in_order()) {
            return Err("what is parked is not in order");
        }
        if parked.iter().any(|commit| commit.parked.through > log.head) {
            return Err("what is parked lies beyond the head");
        }
        let mut state = GroupState::of(GroupDefinition { name, id, shape, start }, newest);
        state.paused = paused;
        state.apply(&GroupChange::Commit(GroupCommit { slots: runs, parked }));
        Ok(state)
    }
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndNote {
    pub(super) events: u64,
    /// How many lines stand before this one.
    pub(super) lines: u64,
    /// XXH3-128 of all of them, as 32 hexadecimal digits.
    pub(super) xxh3: String,
}
