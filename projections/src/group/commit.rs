//! What to commit: progress of slots, packed into runs of neighbours.

use headwater_core::{Slot, SlotCommit, SlotProgress, SlotRange};

/// Progress to make durable, and what it is based on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CommitPlan {
    /// Slots in ascending order, with the number of acks their progress includes.
    entries: Vec<(Slot, u64, SlotProgress)>,
}

impl CommitPlan {
    /// Takes slots in ascending order.
    pub(super) fn new(entries: Vec<(Slot, u64, SlotProgress)>) -> Self {
        debug_assert!(entries.is_sorted_by_key(|(slot, ..)| *slot));
        Self { entries }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn into_entries(self) -> Vec<(Slot, u64, SlotProgress)> {
        self.entries
    }

    /// Joins neighbours that have equal progress.
    pub(super) fn commits(&self) -> Vec<SlotCommit> {
        let mut commits: Vec<SlotCommit> = Vec::new();
        for (slot, _, progress) in &self.entries {
            if let Some(last) = commits.last_mut()
                && last.slots.last().get() + 1 == slot.get()
                && last.progress == *progress
                && let Some(longer) = SlotRange::new(last.slots.first(), *slot)
            {
                last.slots = longer;
                continue;
            }
            commits.push(SlotCommit { slots: SlotRange::one(*slot), progress: progress.clone() });
        }
        commits
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
        let entries = entries.map(|(number, floor)| (slot(number), 0, at(floor)));
        let commits = CommitPlan::new(entries.to_vec()).commits();
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
