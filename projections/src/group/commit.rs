//! What to commit: progress of slots, packed into runs of neighbours.

use headwater_core::{
    GroupCommit, Parked, ParkedCommit, Slot, SlotCommit, SlotProgress, SlotRange,
};

/// How many parked sequences one commit holds at most: a log bounds the bytes of one, and a
/// sequence may have some 1,400.
const PARKED_PER_COMMIT: usize = 1_024;

/// Progress of one slot to make durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) slot: Slot,
    /// Which slots it stands for.
    pub(super) slots: SlotRange,
    /// How many changes it includes.
    pub(super) changes: u64,
    /// Up to which change of parked sequences.
    pub(super) lanes: u64,
    pub(super) progress: SlotProgress,
    /// New states of parked sequences.
    pub(super) parked: Vec<Parked>,
}

/// Progress to make durable, and what it is based on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CommitPlan {
    /// In ascending order of slots.
    entries: Vec<Entry>,
}

impl CommitPlan {
    /// Takes slots in ascending order.
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        debug_assert!(entries.is_sorted_by_key(|entry| entry.slot));
        Self { entries }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Returns the commits to make in this order. Where many sequences were parked, they come in
    /// pieces, before the progress that passes over them: whoever finds them after a crash, and
    /// their events not settled, knows that they are parked.
    pub(super) fn commits(&self) -> Vec<GroupCommit> {
        let mut whole = self.commit();
        if whole.parked.len() <= PARKED_PER_COMMIT {
            return vec![whole];
        }
        let parked = std::mem::take(&mut whole.parked);
        let piece =
            |parked: &[ParkedCommit]| GroupCommit { slots: Vec::new(), parked: parked.to_vec() };
        parked.chunks(PARKED_PER_COMMIT).map(piece).chain([whole]).collect()
    }

    /// Joins neighbours that have equal progress.
    fn commit(&self) -> GroupCommit {
        let mut commit = GroupCommit::default();
        for Entry { slots, progress, parked, .. } in &self.entries {
            let generation = progress.generation;
            let parked = parked.iter().cloned();
            commit.parked.extend(parked.map(|parked| ParkedCommit { generation, parked }));
            if let Some(last) = commit.slots.last_mut()
                && last.slots.last().get() + 1 == slots.first().get()
                && last.progress == *progress
                && let Some(longer) = SlotRange::new(last.slots.first(), slots.last())
            {
                last.slots = longer;
                continue;
            }
            commit.slots.push(SlotCommit { slots: *slots, progress: progress.clone() });
        }
        commit
    }
}

/// Joins slots in ascending order to runs of neighbours.
pub(super) fn runs(slots: impl IntoIterator<Item = Slot>) -> Vec<SlotRange> {
    let mut runs: Vec<SlotRange> = Vec::new();
    for slot in slots {
        match runs.last_mut() {
            Some(last) if last.last().get() + 1 == slot.get() => {
                *last = SlotRange::new(last.first(), slot).unwrap_or(*last);
            }
            _ => runs.push(SlotRange::one(slot)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use headwater_core::{Generation, Position};

    use super::*;

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn neighbours_with_equal_progress_are_one_commit() {
        let at = |floor| SlotProgress {
            floor: Position::new(floor),
            settled: Vec::new(),
            generation: Generation::new(1),
            ..SlotProgress::default()
        };
        let entries = [(0, 5), (1, 5), (2, 6), (4, 6), (5, 6)];
        let entries = entries.map(|(number, floor)| {
            let (slot, progress) = (slot(number), at(floor));
            Entry {
                slot,
                slots: SlotRange::one(slot),
                changes: 0,
                lanes: 0,
                progress,
                parked: Vec::new(),
            }
        });
        let commits = CommitPlan::new(entries.to_vec()).commits().remove(0).slots;
        let shape: Vec<_> = commits
            .iter()
            .map(|c| {
                let (first, last) = (c.slots.first().get(), c.slots.last().get());
                (first, last, c.progress.floor.get())
            })
            .collect();
        assert_eq!(shape, [(0, 1, 5), (2, 2, 6), (4, 5, 6)]);
    }

    #[test]
    fn runs_join_neighbours_and_nothing_else() {
        let joined = runs([0, 1, 2, 7, 9, 10].map(slot));
        let shape: Vec<_> = joined.iter().map(|r| (r.first().get(), r.last().get())).collect();
        assert_eq!(shape, [(0, 2), (7, 7), (9, 10)]);
    }
}
