//! Which processes run a group together, and which slots each of them owns.
//!
//! Pure, and folded from changes like [`GroupState`](super::GroupState). A worker is a process; the
//! members in it share the slots that it owns. Two rules make hand-over safe whatever clocks say:
//!
//! - W1: a slot has one owner at most, and gets another only after its owner has released it, left,
//!   or been evicted.
//! - W2: taking a slot over gives out a new generation of the group with it, in one change, so that
//!   what an evicted owner still commits is refused.
//!
//! Clocks only decide when somebody is evicted: a worker beats, and who has seen no new beat for as
//! long as a lease runs, by its own monotonic clock, may evict it with the beat it has seen. If it
//! has beaten meanwhile, that is refused. The lock client of `DynamoDB` and the Kinesis Client Library
//! do the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{GroupError, SlotRange, rebalance};
use crate::name::GroupName;
use crate::position::number;
use crate::slot::{SLOT_COUNT, Slot};

number! {
    /// Names a process that runs members of a group; never given out twice in one group.
    WorkerId
}

/// A process that runs members of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// What people call it; not unique.
    pub name: String,
    /// How many members it runs, which is its weight when slots are shared.
    pub members: u16,
    /// How often it has beaten.
    pub beats: u64,
}

/// A change of the workers of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerChange {
    /// A worker joins, and gets the next id.
    Join {
        /// What people call it.
        name: String,
        /// How many members it runs.
        members: u16,
    },
    /// A worker lives.
    Beat {
        /// Which.
        worker: WorkerId,
        /// How many members it runs now.
        members: u16,
    },
    /// A worker goes, and owns nothing any more.
    Leave(WorkerId),
    /// Others have seen no beat after this one for as long as a lease runs. It owns nothing any
    /// more.
    Evict {
        /// Which.
        worker: WorkerId,
        /// How often it had beaten.
        beats: u64,
    },
    /// A worker takes slots that nobody else owns, under a new generation.
    Claim {
        /// Which.
        worker: WorkerId,
        /// The slots; its own may be among them, and get the new generation too.
        slots: Vec<SlotRange>,
    },
    /// A worker lets go of slots.
    Release {
        /// Which.
        worker: WorkerId,
        /// The slots.
        slots: Vec<SlotRange>,
    },
}

/// The workers of a group, and who owns which slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    newest: WorkerId,
    living: BTreeMap<WorkerId, Worker>,
    /// Owners by the first slot of each run; a run reaches to the next one. Without an entry, and
    /// before the first, slots are nobody's.
    runs: BTreeMap<u16, Option<WorkerId>>,
}

impl Workers {
    /// Goes through the workers in the order they joined.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (WorkerId, &Worker)> {
        self.living.iter().map(|(&id, worker)| (id, worker))
    }

    /// Returns a worker.
    pub fn get(&self, worker: WorkerId) -> Option<&Worker> {
        self.living.get(&worker)
    }

    /// Returns the worker that joined last, also where it is gone.
    pub fn newest(&self) -> WorkerId {
        self.newest
    }

    /// Returns who owns a slot.
    pub fn owner(&self, slot: Slot) -> Option<WorkerId> {
        self.runs.range(..=slot.get()).next_back().and_then(|(_, &owner)| owner)
    }

    /// Goes through runs of neighbouring slots with the same owner, in order.
    pub fn owners(&self) -> impl Iterator<Item = (SlotRange, WorkerId)> {
        let ends = self.runs.keys().skip(1).copied().chain([SLOT_COUNT]);
        self.runs.iter().zip(ends).filter_map(|((&first, &owner), end)| {
            let slot = |number| Slot::new(number).expect("runs begin and end inside the slots");
            let range = SlotRange::new(slot(first), slot(end - 1));
            owner.map(|owner| (range.expect("runs are not empty"), owner))
        })
    }

    /// Returns who should own which slot, by slot: even by the number of members, and with as few
    /// moves as possible. Every worker that knows the same draws up the same.
    ///
    /// # Complexity
    ///
    /// That of [`rebalance`].
    pub fn wanted(&self) -> Vec<Option<WorkerId>> {
        let mut targets: Vec<_> = Slot::all().map(|slot| self.owner(slot)).collect();
        rebalance(&mut targets, &self.weights());
        targets
    }

    /// Returns who should own every slot, where they are not to be shared out: the owner of the
    /// first, or else the first worker with members. The others stand by.
    pub fn wanted_alone(&self) -> Option<WorkerId> {
        let with_members = |id: &WorkerId| self.get(*id).is_some_and(|worker| worker.members > 0);
        let stays = self.owner(Slot::FIRST).filter(with_members);
        stays.or_else(|| self.living.keys().copied().find(with_members))
    }

    fn weights(&self) -> Vec<(WorkerId, usize)> {
        self.iter().map(|(id, worker)| (id, usize::from(worker.members))).collect()
    }

    /// Checks that a change may be made.
    ///
    /// # Errors
    ///
    /// [`GroupError::WorkerGone`] for a worker that left or was evicted; [`GroupError::WorkerAlive`]
    /// for one that has beaten since; [`GroupError::SlotTaken`] for the first slot that another
    /// one owns.
    pub fn check(&self, group: &GroupName, change: &WorkerChange) -> Result<(), GroupError> {
        let known = |worker: &WorkerId| {
            let gone = || GroupError::WorkerGone { group: group.clone(), worker: *worker };
            self.living.get(worker).ok_or_else(gone)
        };
        match change {
            WorkerChange::Join { .. } => Ok(()),
            WorkerChange::Beat { worker, .. } | WorkerChange::Leave(worker) => {
                known(worker).map(drop)
            }
            WorkerChange::Evict { worker, beats } => {
                if known(worker)?.beats == *beats {
                    return Ok(());
                }
                Err(GroupError::WorkerAlive { group: group.clone(), worker: *worker })
            }
            WorkerChange::Claim { worker, slots } => {
                known(worker)?;
                self.check_owners(group, slots, |owner| owner.is_none_or(|owner| owner == *worker))
            }
            WorkerChange::Release { worker, slots } => {
                known(worker)?;
                self.check_owners(group, slots, |owner| owner == Some(*worker))
            }
        }
    }

    fn check_owners(
        &self,
        group: &GroupName,
        slots: &[SlotRange],
        may: impl Fn(Option<WorkerId>) -> bool,
    ) -> Result<(), GroupError> {
        for range in slots {
            let from = self.runs.range(..=range.first().get()).next_back();
            let from = from.map_or(0, |(&start, _)| start);
            let first = (!self.runs.contains_key(&from)).then_some((from, None));
            let runs =
                self.runs.range(from..=range.last().get()).map(|(&start, &owner)| (start, owner));
            for (start, owner) in first.into_iter().chain(runs) {
                if !may(owner) {
                    let number = start.max(range.first().get());
                    let slot = Slot::new(number).expect("runs begin inside the slots");
                    return Err(GroupError::SlotTaken { group: group.clone(), slot, owner });
                }
            }
        }
        Ok(())
    }

    /// Takes over a change that [`check`](Self::check) has passed.
    pub fn apply(&mut self, change: &WorkerChange) {
        match change {
            WorkerChange::Join { name, members } => {
                self.newest = self.newest.next();
                let worker = Worker { name: name.clone(), members: *members, beats: 0 };
                self.living.insert(self.newest, worker);
            }
            WorkerChange::Beat { worker, members } => {
                if let Some(worker) = self.living.get_mut(worker) {
                    worker.beats += 1;
                    worker.members = *members;
                }
            }
            WorkerChange::Leave(worker) | WorkerChange::Evict { worker, .. } => {
                self.living.remove(worker);
                for owner in self.runs.values_mut().filter(|owner| **owner == Some(*worker)) {
                    *owner = None;
                }
                self.merge();
            }
            WorkerChange::Claim { worker, slots } => self.set(slots, Some(*worker)),
            WorkerChange::Release { slots, .. } => self.set(slots, None),
        }
    }

    fn set(&mut self, slots: &[SlotRange], owner: Option<WorkerId>) {
        for range in slots {
            let (first, after) = (range.first().get(), range.last().get() + 1);
            if let Some(next) = Slot::new(after)
                && !self.runs.contains_key(&after)
            {
                self.runs.insert(after, self.owner(next));
            }
            let inner: Vec<u16> = self.runs.range(first..after).map(|(&start, _)| start).collect();
            for start in inner {
                self.runs.remove(&start);
            }
            self.runs.insert(first, owner);
        }
        self.merge();
    }

    /// Joins neighbouring runs that have the same owner.
    fn merge(&mut self) {
        let mut previous = None;
        self.runs.retain(|_, owner| {
            let equal = previous == *owner;
            previous = *owner;
            !equal
        });
    }
}

/// How [`Workers`] are written down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    newest: WorkerId,
    workers: Vec<(WorkerId, Worker)>,
    owners: Vec<(SlotRange, WorkerId)>,
}

impl Serialize for Workers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let workers = self.iter().map(|(id, worker)| (id, worker.clone())).collect();
        Written { newest: self.newest, workers, owners: self.owners().collect() }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let workers = written.workers.into_iter().collect();
        let mut read = Self { newest: written.newest, living: workers, runs: BTreeMap::new() };
        for (range, owner) in written.owners {
            read.set(&[range], Some(owner));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group() -> GroupName {
        GroupName::new("mail").unwrap()
    }

    fn range(first: u16, last: u16) -> SlotRange {
        let slot = |number| Slot::new(number).unwrap();
        SlotRange::new(slot(first), slot(last)).unwrap()
    }

    fn joined(count: u64) -> Workers {
        let mut workers = Workers::default();
        for number in 0..count {
            workers.apply(&WorkerChange::Join { name: format!("w{number}"), members: 1 });
        }
        workers
    }

    fn claim(worker: u64, slots: SlotRange) -> WorkerChange {
        WorkerChange::Claim { worker: WorkerId::new(worker), slots: vec![slots] }
    }

    fn release(worker: u64, slots: SlotRange) -> WorkerChange {
        WorkerChange::Release { worker: WorkerId::new(worker), slots: vec![slots] }
    }

    #[test]
    fn a_slot_is_taken_only_when_nobody_else_owns_it() {
        let mut workers = joined(2);
        workers.apply(&claim(1, range(10, 20)));
        workers.check(&group(), &claim(1, range(5, 30))).unwrap();
        workers.check(&group(), &claim(2, range(0, 9))).unwrap();
        let error = workers.check(&group(), &claim(2, range(0, 12))).unwrap_err();
        let taken = matches!(&error, GroupError::SlotTaken { slot, owner, .. }
            if slot.get() == 10 && *owner == Some(WorkerId::new(1)));
        assert!(taken, "{error}");
        let error = workers.check(&group(), &release(1, range(10, 21))).unwrap_err();
        let not_its = matches!(&error, GroupError::SlotTaken { slot, owner: None, .. }
            if slot.get() == 21);
        assert!(not_its, "{error}");
        workers.apply(&release(1, range(12, 14)));
        workers.check(&group(), &claim(2, range(12, 14))).unwrap();
        let owners: Vec<_> =
            workers.owners().map(|(range, _)| (range.first().get(), range.last().get())).collect();
        assert_eq!(owners, [(10, 11), (15, 20)]);
    }

    #[test]
    fn who_has_beaten_since_is_not_evicted_and_who_was_is_gone() {
        let mut workers = joined(2);
        let one = WorkerId::new(1);
        workers.apply(&claim(1, SlotRange::all()));
        let evict = WorkerChange::Evict { worker: one, beats: 0 };
        workers.apply(&WorkerChange::Beat { worker: one, members: 2 });
        let error = workers.check(&group(), &evict).unwrap_err();
        assert!(matches!(error, GroupError::WorkerAlive { .. }), "{error}");
        let evict = WorkerChange::Evict { worker: one, beats: 1 };
        workers.check(&group(), &evict).unwrap();
        workers.apply(&evict);
        assert_eq!(workers.owners().count(), 0);
        for change in [claim(1, range(0, 0)), WorkerChange::Beat { worker: one, members: 1 }, evict]
        {
            let error = workers.check(&group(), &change).unwrap_err();
            assert!(matches!(error, GroupError::WorkerGone { .. }), "{error}");
        }
    }

    #[test]
    fn one_worker_is_wanted_where_nothing_is_shared_and_stays_it() {
        let mut workers = joined(2);
        workers.apply(&WorkerChange::Beat { worker: WorkerId::new(1), members: 0 });
        assert_eq!(workers.wanted_alone(), Some(WorkerId::new(2)));
        workers.apply(&claim(2, SlotRange::all()));
        workers.apply(&WorkerChange::Beat { worker: WorkerId::new(1), members: 1 });
        assert_eq!(workers.wanted_alone(), Some(WorkerId::new(2)));
        workers.apply(&WorkerChange::Leave(WorkerId::new(2)));
        assert_eq!(workers.wanted_alone(), Some(WorkerId::new(1)));
    }

    proptest! {
        #[test]
        fn owners_by_runs_are_owners_slot_by_slot_and_are_read_back_as_written(
            steps in prop::collection::vec((1..4u64, 0..40u16, 0..40u16, any::<bool>()), 0..30),
        ) {
            let mut workers = joined(3);
            let mut plain = [None; SLOT_COUNT as usize];
            for (worker, one, other, take) in steps {
                let (first, last) = (one.min(other), one.max(other));
                // Both ends of all slots are met too.
                let last = if last == 39 { SLOT_COUNT - 1 } else { last };
                let slots = range(first, last);
                let change = if take { claim(worker, slots) } else { release(worker, slots) };
                let owner = Some(WorkerId::new(worker));
                let inner = usize::from(first)..=usize::from(last);
                let may = plain[inner.clone()].iter()
                    .all(|&now| now == owner || (take && now.is_none()));
                prop_assert_eq!(workers.check(&group(), &change).is_ok(), may);
                if may {
                    workers.apply(&change);
                    plain[inner].fill(owner.filter(|_| take));
                }
                let now: Vec<_> = Slot::all().map(|slot| workers.owner(slot)).collect();
                prop_assert_eq!(&now[..], &plain[..]);
            }
            let json = serde_json::to_string(&workers).unwrap();
            prop_assert_eq!(serde_json::from_str::<Workers>(&json).unwrap(), workers);
        }
    }
}
