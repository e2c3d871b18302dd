//! The lines of an export that are no events: what stands before and behind them.

use headwater_core::{
    Generation, GroupDefinition, GroupName, GroupState, Position, Query, Revision, Slot,
    SlotCommit, SlotProgress, SlotRange, StreamId,
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

/// A consumer group and its progress.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupNote {
    pub(super) name: GroupName,
    start: Position,
    generation: Generation,
    selection: Query,
    runs: Vec<RunNote>,
}

/// The progress of a run of slots.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunNote {
    slots: (Slot, Slot),
    generation: Generation,
    floor: Position,
    settled: Vec<(Position, Position)>,
}

impl From<&GroupState> for GroupNote {
    fn from(state: &GroupState) -> Self {
        let GroupDefinition { name, selection, start } = state.definition.clone();
        let runs = state.runs().map(|(slots, progress)| RunNote {
            slots: (slots.first(), slots.last()),
            generation: progress.generation,
            floor: progress.floor,
            settled: progress.settled.clone(),
        });
        Self { name, start, generation: state.generation, selection, runs: runs.collect() }
    }
}

impl GroupNote {
    /// Makes the state of the group in this log, or says what is wrong with it.
    pub(super) fn state(self, log: &LogNote) -> Result<GroupState, &'static str> {
        let Self { name, start, generation: newest, selection, runs } = self;
        if newest.get() >= log.offsets.get() {
            return Err("its generation lies beyond the log of the groups");
        }
        let mut commits = Vec::with_capacity(runs.len());
        let mut due = 0;
        for RunNote { slots: (first, last), generation, floor, settled } in runs {
            let slots = SlotRange::new(first, last).filter(|_| first.get() == due);
            let slots = slots.ok_or("the runs of slots have a hole or overlap")?;
            due = last.get() + 1;
            if generation > newest {
                return Err("a run has a generation that the group has not given yet");
            }
            let progress = SlotProgress { floor, settled, generation };
            if progress.disorder().is_some() {
                return Err("what a run has settled is not in order");
            }
            if progress.reach() > log.head {
                return Err("a run has settled what lies beyond the head");
            }
            commits.push(SlotCommit { slots, progress });
        }
        if usize::from(due) != Slot::all().len() {
            return Err("the runs do not reach to the last slot");
        }
        let mut state = GroupState::new(GroupDefinition { name, selection, start }, newest);
        state.commit(&commits);
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
