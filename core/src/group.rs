//! The durable side of consumer groups: definitions, progress per slot, and fencing.
//!
//! What is here is pure: [`GroupState`] is folded from the operations that an engine makes
//! durable, and every engine folds with the same code. Delivering events to members is the
//! business of the package `headwater-projections`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use crate::log::{EventLog, ReadError};
use crate::name::GroupName;
use crate::position::{Position, number};
use crate::query::Query;
use crate::slot::{SLOT_COUNT, Slot};

number! {
    /// The fencing number of an ownership: it grows with every hand-over, and what an older owner
    /// says is refused.
    Generation
}

impl Generation {
    /// Before the first owner.
    pub const NONE: Self = Self(0);
}

/// A run of neighbouring slots, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    first: Slot,
    last: Slot,
}

impl SlotRange {
    /// Takes the slots from `first` through `last`, or returns `None` if they are out of order.
    pub fn new(first: Slot, last: Slot) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Takes one slot.
    pub const fn one(slot: Slot) -> Self {
        Self { first: slot, last: slot }
    }

    /// Takes all slots.
    pub fn all() -> Self {
        let slot = |number| Slot::new(number).expect("the ends of the range are slots");
        Self { first: slot(0), last: slot(SLOT_COUNT - 1) }
    }

    /// Returns the first slot.
    pub const fn first(self) -> Slot {
        self.first
    }

    /// Returns the last slot, which belongs to the range.
    pub const fn last(self) -> Slot {
        self.last
    }
}

/// What a group is: its name, what it selects, and where it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDefinition {
    /// The name, unique in its log.
    pub name: GroupName,
    /// Which events it receives.
    pub selection: Query,
    /// It receives events after this position.
    pub start: Position,
}

/// How far a slot of a group is: the ack floor and the acked ranges above it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotProgress {
    /// Every event of the slot up to this position is settled.
    pub floor: Position,
    /// Ranges of positions above the floor, first and last included, in which every event of the
    /// slot is settled; ascending and without overlap.
    pub settled: Vec<(Position, Position)>,
    /// The ownership that may change this.
    pub generation: Generation,
}

impl SlotProgress {
    /// Returns whether an event of the slot is settled.
    pub fn is_settled(&self, position: Position) -> bool {
        position <= self.floor
            || self
                .settled
                .binary_search_by(|&(first, last)| {
                    if position < first {
                        std::cmp::Ordering::Greater
                    } else if position > last {
                        std::cmp::Ordering::Less
                    } else {
                        std::cmp::Ordering::Equal
                    }
                })
                .is_ok()
    }

    /// Returns the highest position that is settled.
    pub fn reach(&self) -> Position {
        self.settled.last().map_or(self.floor, |&(_, last)| last)
    }

    /// Returns the first settled range that does not lie above the floor and above the ranges
    /// before it, or that ends before it begins, with the position that it must lie above.
    pub fn disorder(&self) -> Option<((Position, Position), Position)> {
        let mut after = self.floor;
        self.settled.iter().find_map(|&(first, last)| {
            if first <= after || last < first {
                return Some(((first, last), after));
            }
            after = last;
            None
        })
    }
}

/// New progress for a run of slots, by the owner of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotCommit {
    /// The slots.
    pub slots: SlotRange,
    /// Their progress and the generation that commits it.
    pub progress: SlotProgress,
}

/// Everything durable about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// What the group is.
    pub definition: GroupDefinition,
    /// The newest generation given out.
    pub generation: Generation,
    /// Progress by the first slot of each run; a run reaches to the next one.
    runs: BTreeMap<u16, SlotProgress>,
}

impl GroupState {
    /// Makes the state of a group that was just created.
    ///
    /// `generation` is above every one that a group of this name has had before it was deleted:
    /// who owned slots of that one owns none of this.
    pub fn new(definition: GroupDefinition, generation: Generation) -> Self {
        let floor = definition.start;
        let progress = SlotProgress { floor, settled: Vec::new(), generation };
        Self { definition, generation, runs: BTreeMap::from([(0, progress)]) }
    }

    /// Checks that the group selects what is asked for.
    ///
    /// # Errors
    ///
    /// [`GroupError::SelectionDiffers`] shows both selections.
    pub fn check_selection(&self, asked: &Query) -> Result<(), GroupError> {
        let json = |query: &Query| serde_json::to_string(query).unwrap_or_default();
        let stored = &self.definition.selection;
        if asked == stored {
            return Ok(());
        }
        Err(GroupError::SelectionDiffers {
            group: self.definition.name.clone(),
            stored: json(stored),
            asked: json(asked),
        })
    }

    /// Returns the progress of a slot.
    pub fn slot(&self, slot: Slot) -> &SlotProgress {
        let run = self.runs.range(..=slot.get()).next_back();
        run.expect("the first run begins at slot 0").1
    }

    /// Goes through runs of neighbouring slots that have equal progress, in order.
    pub fn runs(&self) -> impl Iterator<Item = (SlotRange, &SlotProgress)> {
        let ends = self.runs.keys().skip(1).copied().chain([SLOT_COUNT]);
        self.runs.iter().zip(ends).map(|((&first, progress), end)| {
            let slot = |number| Slot::new(number).expect("runs begin and end inside the slots");
            (SlotRange { first: slot(first), last: slot(end - 1) }, progress)
        })
    }

    /// Returns the lowest ack floor: everything up to it is settled in every slot.
    pub fn floor(&self) -> Position {
        self.runs.values().map(|progress| progress.floor).min().unwrap_or_default()
    }

    /// Gives slots to a new owner and returns its generation.
    pub fn claim(&mut self, slots: &[SlotRange]) -> Generation {
        self.generation = self.generation.next();
        for &range in slots {
            self.split(range);
            for (_, progress) in self.runs.range_mut(range.first.get()..=range.last.get()) {
                progress.generation = self.generation;
            }
            self.merge();
        }
        self.generation
    }

    /// Checks that each commit comes from the owner, goes forward, and says what can be in a log
    /// that ends at `head`.
    ///
    /// # Errors
    ///
    /// [`GroupError::Fenced`] or [`GroupError::Backwards`] for the first slot where it does not,
    /// [`GroupError::Disordered`] or [`GroupError::OutsideLog`] for the first such commit.
    pub fn check(&self, commits: &[SlotCommit], head: Position) -> Result<(), GroupError> {
        let group = || self.definition.name.clone();
        for commit in commits {
            let (first, last) = (commit.slots.first.get(), commit.slots.last.get());
            let from = self.runs.range(..=first).next_back().map_or(0, |(&start, _)| start);
            for (&start, current) in self.runs.range(from..=last) {
                let slot = Slot::new(start.max(first)).expect("runs begin inside the slots");
                if commit.progress.generation != current.generation {
                    return Err(GroupError::Fenced {
                        group: group(),
                        slot,
                        given: commit.progress.generation,
                        current: current.generation,
                    });
                }
                if commit.progress.floor < current.floor {
                    return Err(GroupError::Backwards {
                        group: group(),
                        slot,
                        given: commit.progress.floor,
                        current: current.floor,
                    });
                }
            }
            if let Some((range, after)) = commit.progress.disorder() {
                return Err(GroupError::Disordered {
                    group: group(),
                    slots: commit.slots,
                    range,
                    after,
                });
            }
            let position = commit.progress.reach();
            if position > head {
                return Err(GroupError::OutsideLog { group: group(), position, head });
            }
        }
        Ok(())
    }

    /// Takes over commits that [`check`](Self::check) has passed.
    pub fn commit(&mut self, commits: &[SlotCommit]) {
        for commit in commits {
            self.split(commit.slots);
            let (first, last) = (commit.slots.first.get(), commit.slots.last.get());
            let inner: Vec<u16> = self.runs.range(first..=last).map(|(&start, _)| start).collect();
            for start in inner {
                self.runs.remove(&start);
            }
            self.runs.insert(first, commit.progress.clone());
        }
        self.merge();
    }

    /// Sets every slot to a position, forwards or backwards, under a new generation that no
    /// member owns yet: whoever delivers or commits under an older one is fenced.
    pub fn seek(&mut self, to: Position) -> Generation {
        self.generation = self.generation.next();
        let progress = SlotProgress { floor: to, settled: Vec::new(), generation: self.generation };
        self.runs = BTreeMap::from([(0, progress)]);
        self.generation
    }

    /// Makes runs begin at both ends of `range`.
    fn split(&mut self, range: SlotRange) {
        for start in [range.first.get(), range.last.get() + 1] {
            if start < SLOT_COUNT && !self.runs.contains_key(&start) {
                let slot = Slot::new(start).expect("checked above");
                let progress = self.slot(slot).clone();
                self.runs.insert(start, progress);
            }
        }
    }

    /// Joins neighbouring runs that became equal.
    fn merge(&mut self) {
        let mut previous: Option<SlotProgress> = None;
        self.runs.retain(|_, progress| {
            let equal = previous.as_ref() == Some(progress);
            if !equal {
                previous = Some(progress.clone());
            }
            !equal
        });
    }
}

/// Why an operation on a group failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// No group has this name.
    #[error("there is no consumer group {0}; create it first")]
    Unknown(GroupName),
    /// The group exists and selects other events. Changing that is an explicit call.
    #[error(
        "consumer group {group} was created with the selection {stored}, not {asked}; use another name, or delete the group first"
    )]
    SelectionDiffers {
        /// The group.
        group: GroupName,
        /// What it selects, as JSON.
        stored: String,
        /// What was asked for, as JSON.
        asked: String,
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
    /// What a commit calls settled is not above its floor, ascending and without overlap. Nothing
    /// was changed.
    #[error(
        "group {group} refused a commit for slots {} to {}: the settled range from {} to {} must begin after position {after} and not end before it begins; give ranges above the floor, ascending and without overlap",
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
    /// The position to start or seek to, what a commit calls settled, or the stored progress, lies
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
    pub fn effect(&self) -> crate::append::Effect {
        match self {
            Self::Indeterminate(_) => crate::append::Effect::Unknown,
            _ => crate::append::Effect::None,
        }
    }
}

/// Where a new group begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first event of the log.
    #[default]
    Beginning,
    /// With the first event after the group was created.
    End,
    /// After a position.
    After(Position),
}

/// A log that also keeps the progress of consumer groups.
///
/// Everything here is durable when it returns, to the degree that [`EventLog::durability`] says.
/// None of it is cancel safe: a dropped future may still have its effect.
#[async_trait]
pub trait GroupLog: EventLog {
    /// Creates a group, or opens it if it exists with the same selection. An existing group
    /// keeps its progress, whatever `start` says.
    async fn open_group(
        &self,
        name: GroupName,
        selection: Query,
        start: Start,
    ) -> Result<GroupState, GroupError>;

    /// Returns the state of a group.
    async fn group(&self, name: &GroupName) -> Result<GroupState, GroupError>;

    /// Returns the state of every group, by name.
    async fn groups(&self) -> Result<Vec<GroupState>, GroupError>;

    /// Gives slots to a new owner and returns its generation. Older owners of these slots are
    /// fenced from now on.
    async fn claim_slots(
        &self,
        name: &GroupName,
        slots: Vec<SlotRange>,
    ) -> Result<Generation, GroupError>;

    /// Stores new progress: all of it, or none where any slot is fenced or would go back, or where
    /// any range is out of order or beyond the head.
    async fn commit_slots(
        &self,
        name: &GroupName,
        commits: Vec<SlotCommit>,
    ) -> Result<(), GroupError>;

    /// Sets every slot of a group to a position and fences its members.
    async fn seek_group(&self, name: &GroupName, to: Position) -> Result<Generation, GroupError>;

    /// Removes a group and its progress. The log keeps its events.
    async fn delete_group(&self, name: &GroupName) -> Result<(), GroupError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Position = Position::new(100);

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    fn range(first: u16, last: u16) -> SlotRange {
        SlotRange::new(slot(first), slot(last)).unwrap()
    }

    fn positions((first, last): (u64, u64)) -> (Position, Position) {
        (Position::new(first), Position::new(last))
    }

    fn state() -> GroupState {
        let definition = GroupDefinition {
            name: GroupName::new("g").unwrap(),
            selection: Query::all(),
            start: Position::new(10),
        };
        GroupState::new(definition, Generation::NONE)
    }

    fn commit(slots: SlotRange, floor: u64, generation: Generation) -> SlotCommit {
        let floor = Position::new(floor);
        SlotCommit { slots, progress: SlotProgress { floor, settled: Vec::new(), generation } }
    }

    #[test]
    fn progress_is_per_slot_and_the_floor_is_the_lowest() {
        let mut state = state();
        let generation = state.claim(&[SlotRange::all()]);
        state.commit(&[commit(range(0, 99), 50, generation), commit(range(7, 7), 60, generation)]);
        assert_eq!(state.slot(slot(6)).floor, Position::new(50));
        assert_eq!(state.slot(slot(7)).floor, Position::new(60));
        assert_eq!(state.slot(slot(100)).floor, Position::new(10));
        assert_eq!(state.floor(), Position::new(10));
        assert_eq!(state.runs().count(), 4);
        state.commit(&[commit(SlotRange::all(), 70, generation)]);
        assert_eq!((state.floor(), state.runs().count()), (Position::new(70), 1));
    }

    #[test]
    fn an_older_generation_is_fenced_and_changes_nothing() {
        let mut state = state();
        let old = state.claim(&[SlotRange::all()]);
        let new = state.claim(&[range(5, 9)]);
        assert!(new > old);
        let commits = [commit(range(0, 4), 20, old), commit(range(4, 6), 20, old)];
        let error = state.check(&commits, HEAD).unwrap_err();
        assert!(
            matches!(error, GroupError::Fenced { slot: s, given, current, .. }
                if s == slot(5) && given == old && current == new),
            "{error}"
        );
        assert!(state.check(&[commit(range(5, 9), 20, new)], HEAD).is_ok());
    }

    #[test]
    fn a_floor_never_goes_back_but_by_seeking() {
        let mut state = state();
        let generation = state.claim(&[SlotRange::all()]);
        let error = state.check(&[commit(range(3, 3), 9, generation)], HEAD).unwrap_err();
        assert!(matches!(error, GroupError::Backwards { .. }), "{error}");
        state.seek(Position::new(2));
        assert_eq!(state.floor(), Position::new(2));
        let error = state.check(&[commit(range(3, 3), 9, generation)], HEAD).unwrap_err();
        assert!(matches!(error, GroupError::Fenced { .. }), "{error}");
    }

    #[test]
    fn settled_ranges_lie_in_order_above_the_floor_and_inside_the_log() {
        let mut state = state();
        let generation = state.claim(&[SlotRange::all()]);
        let check = |settled: &[(u64, u64)]| {
            let mut commit = commit(range(3, 5), 20, generation);
            let ranges = settled.iter().map(|&range| positions(range));
            commit.progress.settled = ranges.collect();
            state.check(&[commit], HEAD)
        };
        for right in [&[][..], &[(21, 21)], &[(21, 30), (31, 31), (40, 100)]] {
            check(right).unwrap();
        }
        let wrong = [
            (&[(20, 25)][..], (20, 25), 20),
            (&[(7, 8)], (7, 8), 20),
            (&[(30, 29)], (30, 29), 20),
            (&[(30, 40), (40, 41)], (40, 41), 40),
            (&[(30, 40), (35, 36)], (35, 36), 40),
            (&[(30, 40), (22, 23), (101, 102)], (22, 23), 40),
        ];
        for (settled, out_of_place, must_follow) in wrong {
            let error = check(settled).unwrap_err();
            assert!(
                matches!(&error, GroupError::Disordered { slots, range: found, after, .. }
                    if *slots == range(3, 5) && *found == positions(out_of_place)
                        && after.get() == must_follow),
                "{error}"
            );
        }
        for beyond in [&[(101, 101)][..], &[(30, 40), (50, 101)]] {
            let error = check(beyond).unwrap_err();
            assert!(
                matches!(error, GroupError::OutsideLog { position, head: HEAD, .. }
                    if position == Position::new(101)),
                "{error}"
            );
        }
        let error = state.check(&[commit(range(0, 0), 101, generation)], HEAD).unwrap_err();
        assert!(matches!(error, GroupError::OutsideLog { .. }), "{error}");
    }

    #[test]
    fn settled_ranges_count_above_the_floor() {
        let p = Position::new;
        let progress = SlotProgress {
            floor: p(10),
            settled: vec![(p(12), p(12)), (p(15), p(20))],
            generation: Generation::NONE,
        };
        let open: Vec<u64> = (8..23).filter(|&n| !progress.is_settled(p(n))).collect();
        assert_eq!(open, [11, 13, 14, 21, 22]);
    }
}
