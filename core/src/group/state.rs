//! The durable state of a group, folded from its changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Generation, GroupDefinition, GroupError, GroupId, GroupShape, NewGroup, Parked, ParkedCommit,
    ParkedState, SlotCommit, SlotProgress, SlotRange,
};
use crate::position::Position;
use crate::slot::{SLOT_COUNT, Slot};

/// A change of a group. An engine checks it, makes it durable, and folds it into the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupChange {
    /// Slots get a new owner.
    Claim(Vec<SlotRange>),
    /// Owners of slots make progress.
    Commit(GroupCommit),
    /// Every slot is set to a position, forwards or backwards.
    Seek(Position),
    /// Nothing is delivered any more, or deliveries go on.
    Pause(bool),
    /// A parked sequence is delivered again, or given up ([`ParkedState::Done`]).
    Parked(Position, ParkedState),
    /// The group is for something else from now on, and its members are fenced. Its progress
    /// stays; where the order changes, it goes back to the lowest floor.
    Alter(GroupShape),
}

impl GroupChange {
    /// Returns the highest position that it speaks of.
    fn reach(&self) -> Position {
        match self {
            Self::Commit(commit) => commit.reach(),
            Self::Seek(to) => *to,
            Self::Claim(_) | Self::Pause(_) | Self::Parked(..) | Self::Alter(_) => Position::START,
        }
    }
}

/// Progress that becomes durable as one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCommit {
    /// New progress of slots.
    pub slots: Vec<SlotCommit>,
    /// New states of parked sequences.
    pub parked: Vec<ParkedCommit>,
}

impl From<Vec<SlotCommit>> for GroupCommit {
    fn from(slots: Vec<SlotCommit>) -> Self {
        Self { slots, parked: Vec::new() }
    }
}

impl GroupCommit {
    fn reach(&self) -> Position {
        let slots = self.slots.iter().map(|commit| commit.progress.reach());
        let parked = self.parked.iter().map(|commit| commit.parked.through);
        slots.chain(parked).max().unwrap_or_default()
    }
}

/// Everything durable about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// What the group is.
    pub definition: GroupDefinition,
    /// The newest generation given out.
    pub generation: Generation,
    /// Whether it delivers nothing until it is told to go on.
    pub paused: bool,
    /// Progress by the first slot of each run; a run reaches to the next one.
    runs: BTreeMap<u16, SlotProgress>,
    /// Parked sequences by their first event; shared by copies of the state, for engines copy it
    /// with each change, and few changes concern them.
    parked: Arc<BTreeMap<Position, Parked>>,
}

impl GroupState {
    /// Makes the state of a group that is just created and begins after `start`.
    ///
    /// `generation` is above every one that the log has given out before: it is the identity of
    /// the group, and who owned slots of a deleted group of this name owns none of this.
    pub fn new(group: NewGroup, start: Position, generation: Generation) -> Self {
        let NewGroup { name, shape, .. } = group;
        let id = GroupId::new(generation.get());
        Self::of(GroupDefinition { name, id, shape, start }, generation)
    }

    /// Makes the state of a group without progress.
    pub fn of(definition: GroupDefinition, generation: Generation) -> Self {
        let progress = SlotProgress::beginning_at(definition.start, generation);
        let runs = BTreeMap::from([(0, progress)]);
        Self { definition, generation, paused: false, runs, parked: Arc::default() }
    }

    /// Takes over what was written down of a state's progress.
    pub(super) fn restore(
        &mut self,
        paused: bool,
        slots: Vec<(SlotRange, SlotProgress)>,
        parked: Vec<Parked>,
    ) {
        let runs = slots.into_iter().map(|(range, progress)| (range.first().get(), progress));
        self.paused = paused;
        // The first run, which is there already, stays if none was written.
        self.runs.extend(runs);
        self.parked = Arc::new(parked.into_iter().map(|parked| (parked.first, parked)).collect());
    }

    /// Returns the same state with nothing parked, and what was parked.
    pub fn without_parked(&self) -> (Self, Vec<ParkedCommit>) {
        let commit = |parked: &Parked| ParkedCommit {
            generation: self.slot(parked.slot).generation,
            parked: parked.clone(),
        };
        let parked = self.parked.values().map(commit).collect();
        let definition = self.definition.clone();
        let rest = Self { definition, runs: self.runs.clone(), parked: Arc::default(), ..*self };
        (rest, parked)
    }

    /// Checks that the group is what is asked for.
    ///
    /// # Errors
    ///
    /// [`GroupError::Differs`] names each difference.
    pub fn check_same(&self, asked: &NewGroup) -> Result<(), GroupError> {
        let stored = &self.definition;
        match stored.shape.differences(&asked.shape) {
            None => Ok(()),
            Some(differences) => {
                Err(GroupError::Differs { group: stored.name.clone(), differences })
            }
        }
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
            let range = SlotRange::new(slot(first), slot(end - 1));
            (range.expect("runs are not empty"), progress)
        })
    }

    /// Goes through the parked sequences by the position of their first event.
    pub fn parked(&self) -> impl ExactSizeIterator<Item = &Parked> {
        self.parked.values()
    }

    /// Returns the parked sequence that an event has begun.
    pub fn parked_at(&self, first: Position) -> Option<&Parked> {
        self.parked.get(&first)
    }

    /// Returns the lowest ack floor: everything up to it is settled or parked in every slot.
    pub fn floor(&self) -> Position {
        self.runs.values().map(|progress| progress.floor).min().unwrap_or_default()
    }

    /// Returns the position after which the group still needs the log: its floor, or the first
    /// event that is parked.
    pub fn needs_after(&self) -> Position {
        let parked = self.parked.values().map(|parked| parked.next.previous());
        parked.chain([self.floor()]).min().unwrap_or_default()
    }

    /// Returns the highest position that the progress speaks of. It lies inside the log, unless
    /// that has lost its end.
    pub fn reach(&self) -> Position {
        let slots = self.runs.values().map(SlotProgress::reach);
        let parked = self.parked.values().map(|parked| parked.through);
        slots.chain(parked).max().unwrap_or_default()
    }

    /// Checks that a change may be made in a log that ends at `head`.
    ///
    /// # Errors
    ///
    /// For a commit [`GroupError::Fenced`], [`GroupError::Backwards`] or
    /// [`GroupError::Disordered`] for the first slot where it does not come from the owner, goes
    /// back, or contradicts itself; [`GroupError::OutsideLog`]; [`GroupError::NotParked`];
    /// [`GroupError::NoSuchOrder`]; [`GroupError::StillParked`] if the order is to change while
    /// anything is.
    pub fn check(&self, change: &GroupChange, head: Position) -> Result<(), GroupError> {
        let position = change.reach();
        if position > head {
            let group = self.definition.name.clone();
            return Err(GroupError::OutsideLog { group, position, head });
        }
        match change {
            GroupChange::Claim(_) | GroupChange::Seek(_) | GroupChange::Pause(_) => Ok(()),
            GroupChange::Commit(commit) => self.check_commit(commit),
            GroupChange::Parked(first, _) => self.check_parked(*first),
            GroupChange::Alter(shape) => {
                let (group, sequences) = (&self.definition.name, self.parked.len());
                if shape.order != self.definition.shape.order && sequences > 0 {
                    return Err(GroupError::StillParked { group: group.clone(), sequences });
                }
                shape.check(group)
            }
        }
    }

    fn check_parked(&self, first: Position) -> Result<(), GroupError> {
        if self.parked.contains_key(&first) {
            return Ok(());
        }
        Err(GroupError::NotParked { group: self.definition.name.clone(), position: first })
    }

    fn check_commit(&self, commit: &GroupCommit) -> Result<(), GroupError> {
        let group = || self.definition.name.clone();
        let fence = |slot, given, current| {
            if given == current {
                return Ok(());
            }
            Err(GroupError::Fenced { group: group(), slot, given, current })
        };
        for SlotCommit { slots, progress } in &commit.slots {
            let (first, last) = (slots.first().get(), slots.last().get());
            let from = self.runs.range(..=first).next_back().map_or(0, |(&start, _)| start);
            for (&start, current) in self.runs.range(from..=last) {
                let slot = Slot::new(start.max(first)).expect("runs begin inside the slots");
                fence(slot, progress.generation, current.generation)?;
                if progress.floor < current.floor {
                    return Err(GroupError::Backwards {
                        group: group(),
                        slot,
                        given: progress.floor,
                        current: current.floor,
                    });
                }
            }
            if let Some((range, after)) = progress.disorder() {
                let (group, slots) = (group(), *slots);
                return Err(GroupError::Disordered { group, slots, range, after });
            }
        }
        for ParkedCommit { generation, parked } in &commit.parked {
            fence(parked.slot, *generation, self.slot(parked.slot).generation)?;
            let begun = self.parked.get(&parked.first);
            let same = begun.is_none_or(|now| now.slot == parked.slot && now.key == parked.key);
            if !same || !parked.is_in_order() {
                return Err(GroupError::ParkedWrong { group: group(), position: parked.first });
            }
        }
        Ok(())
    }

    /// Takes over a change that [`check`](Self::check) has passed. Returns the generation that it
    /// gave out, or the newest one.
    pub fn apply(&mut self, change: &GroupChange) -> Generation {
        match change {
            GroupChange::Claim(slots) => self.claim(slots),
            GroupChange::Commit(commit) => self.commit(commit),
            GroupChange::Seek(to) => self.seek(*to),
            GroupChange::Pause(paused) => self.paused = *paused,
            GroupChange::Parked(first, state) => self.set_parked(*first, *state),
            GroupChange::Alter(shape) => {
                if shape.order != self.definition.shape.order {
                    // What lies above the lowest floor was settled by another order.
                    let progress = SlotProgress::beginning_at(self.floor(), self.generation);
                    self.runs = BTreeMap::from([(0, progress)]);
                }
                self.definition.shape = shape.clone();
                self.claim(&[SlotRange::all()]);
            }
        }
        self.generation
    }

    /// Gives slots to a new owner under the next generation.
    fn claim(&mut self, slots: &[SlotRange]) {
        self.generation = self.generation.next();
        for &range in slots {
            self.split(range);
            for (_, progress) in self.runs.range_mut(range.first().get()..=range.last().get()) {
                progress.generation = self.generation;
            }
            self.merge();
        }
    }

    fn commit(&mut self, commit: &GroupCommit) {
        for SlotCommit { slots, progress } in &commit.slots {
            self.split(*slots);
            let (first, last) = (slots.first().get(), slots.last().get());
            let inner: Vec<u16> = self.runs.range(first..=last).map(|(&start, _)| start).collect();
            for start in inner {
                self.runs.remove(&start);
            }
            self.runs.insert(first, progress.clone());
        }
        if !commit.slots.is_empty() {
            self.merge();
        }
        for ParkedCommit { parked, .. } in &commit.parked {
            let all = Arc::make_mut(&mut self.parked);
            if parked.state == ParkedState::Done {
                all.remove(&parked.first);
            } else {
                all.insert(parked.first, parked.clone());
            }
        }
    }

    /// Sets every slot to a position under a new generation that no member owns yet: whoever
    /// delivers or commits under an older one is fenced.
    ///
    /// A parked sequence that begins up to there stays parked, and its key takes along what lies
    /// between: all of the key up to there comes with it, when it is re-driven. What begins behind
    /// will be met again.
    fn seek(&mut self, to: Position) {
        self.generation = self.generation.next();
        self.runs = BTreeMap::from([(0, SlotProgress::beginning_at(to, self.generation))]);
        Arc::make_mut(&mut self.parked).retain(|_, parked| {
            if parked.key.is_some() {
                parked.through = to;
            }
            parked.next <= to
        });
    }

    /// Sets the state of a parked sequence from outside of its slot's ownership, which is fenced
    /// by that: the owner has to learn of it.
    fn set_parked(&mut self, first: Position, state: ParkedState) {
        let all = Arc::make_mut(&mut self.parked);
        let Some(parked) = all.get_mut(&first) else { return };
        parked.state = state;
        parked.attempts = 0;
        let slot = parked.slot;
        if state == ParkedState::Done {
            all.remove(&first);
        }
        self.claim(&[SlotRange::one(slot)]);
    }

    /// Makes runs begin at both ends of `range`.
    fn split(&mut self, range: SlotRange) {
        for start in [range.first().get(), range.last().get() + 1] {
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

#[cfg(test)]
mod tests {
    use super::super::{Order, Start};
    use super::*;
    use crate::name::{GroupName, Key, StreamId};
    use crate::query::Query;
    use crate::time::Timestamp;

    const HEAD: Position = Position::new(100);

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    fn range(first: u16, last: u16) -> SlotRange {
        SlotRange::new(slot(first), slot(last)).unwrap()
    }

    fn name() -> GroupName {
        GroupName::new("g").unwrap()
    }

    fn state() -> GroupState {
        GroupState::new(NewGroup::consumer(name()), Position::new(10), Generation::NONE)
    }

    fn commit(slots: SlotRange, floor: u64, generation: Generation) -> SlotCommit {
        let floor = Position::new(floor);
        SlotCommit { slots, progress: SlotProgress::beginning_at(floor, generation) }
    }

    fn made(commits: impl Into<Vec<SlotCommit>>) -> GroupChange {
        GroupChange::Commit(commits.into().into())
    }

    #[test]
    fn progress_is_per_slot_and_the_floor_is_the_lowest() {
        let mut state = state();
        let generation = state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
        state.apply(&made([
            commit(range(0, 99), 50, generation),
            commit(range(7, 7), 60, generation),
        ]));
        assert_eq!(state.slot(slot(6)).floor, Position::new(50));
        assert_eq!(state.slot(slot(7)).floor, Position::new(60));
        assert_eq!(state.slot(slot(100)).floor, Position::new(10));
        assert_eq!(state.floor(), Position::new(10));
        assert_eq!(state.runs().count(), 4);
        state.apply(&made([commit(SlotRange::all(), 70, generation)]));
        assert_eq!((state.floor(), state.runs().count()), (Position::new(70), 1));
    }

    #[test]
    fn an_older_generation_is_fenced_and_changes_nothing() {
        let mut state = state();
        let old = state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
        let new = state.apply(&GroupChange::Claim(vec![range(5, 9)]));
        assert!(new > old);
        let commits = [commit(range(0, 4), 20, old), commit(range(4, 6), 20, old)];
        let error = state.check(&made(commits), HEAD).unwrap_err();
        assert!(
            matches!(error, GroupError::Fenced { slot: s, given, current, .. }
                if s == slot(5) && given == old && current == new),
            "{error}"
        );
        assert!(state.check(&made([commit(range(5, 9), 20, new)]), HEAD).is_ok());
    }

    #[test]
    fn a_floor_never_goes_back_but_by_seeking() {
        let mut state = state();
        let generation = state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
        let error = state.check(&made([commit(range(3, 3), 9, generation)]), HEAD).unwrap_err();
        assert!(matches!(error, GroupError::Backwards { .. }), "{error}");
        state.apply(&GroupChange::Seek(Position::new(2)));
        assert_eq!(state.floor(), Position::new(2));
        let error = state.check(&made([commit(range(3, 3), 9, generation)]), HEAD).unwrap_err();
        assert!(matches!(error, GroupError::Fenced { .. }), "{error}");
    }

    #[test]
    fn settled_ranges_lie_in_order_above_the_floor_and_inside_the_log() {
        let mut state = state();
        let generation = state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
        let positions = |(first, last): (u64, u64)| (Position::new(first), Position::new(last));
        let check = |settled: &[(u64, u64)]| {
            let mut commit = commit(range(3, 5), 20, generation);
            commit.progress.settled = settled.iter().map(|&range| positions(range)).collect();
            state.check(&made([commit]), HEAD)
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
            (&[(30, 40), (22, 23), (99, 100)], (22, 23), 40),
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
        let error = state.check(&made([commit(range(0, 0), 101, generation)]), HEAD).unwrap_err();
        assert!(matches!(error, GroupError::OutsideLog { .. }), "{error}");
    }

    fn parked(first: u64, through: u64) -> Parked {
        Parked {
            first: Position::new(first),
            slot: slot(7),
            key: Some(Key::new("k").unwrap()),
            next: Position::new(first),
            through: Position::new(through),
            attempts: 3,
            since: Timestamp::EPOCH,
            cause: "no".to_owned(),
            state: ParkedState::Waiting,
        }
    }

    fn park(generation: Generation, parked: Parked) -> GroupChange {
        let parked = vec![ParkedCommit { generation, parked }];
        GroupChange::Commit(GroupCommit { slots: Vec::new(), parked })
    }

    #[test]
    fn what_is_parked_is_fenced_like_its_slot_and_holds_the_log() {
        let mut state = state();
        let old = state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
        let new = state.apply(&GroupChange::Claim(vec![SlotRange::one(slot(7))]));
        let error = state.check(&park(old, parked(12, 15)), HEAD).unwrap_err();
        assert!(matches!(error, GroupError::Fenced { .. }), "{error}");
        state.check(&park(new, parked(12, 15)), HEAD).unwrap();
        state.apply(&park(new, parked(12, 15)));
        assert_eq!(state.needs_after(), Position::new(10));
        state.apply(&made([commit(range(0, 6), 50, old), commit(range(7, 7), 50, new)]));
        state.apply(&made([commit(range(8, 1023), 50, old)]));
        assert_eq!((state.floor(), state.needs_after()), (Position::new(50), Position::new(11)));
        state.apply(&park(new, Parked { state: ParkedState::Done, ..parked(12, 15) }));
        assert_eq!((state.parked().len(), state.needs_after()), (0, Position::new(50)));
    }

    #[test]
    fn a_parked_sequence_that_contradicts_itself_or_what_is_known_is_refused() {
        let mut state = state();
        let generation = state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
        state.apply(&park(generation, parked(12, 15)));
        let p = Position::new;
        for wrong in [
            Parked { key: None, ..parked(12, 15) },
            Parked { slot: slot(8), ..parked(12, 15) },
            Parked { next: p(11), ..parked(12, 15) },
            Parked { through: p(11), ..parked(12, 15) },
            Parked { key: None, ..parked(20, 21) },
            Parked { cause: "x".repeat(1_025), ..parked(20, 21) },
        ] {
            let error = state.check(&park(generation, wrong.clone()), HEAD).unwrap_err();
            assert!(matches!(error, GroupError::ParkedWrong { .. }), "{wrong:?}: {error}");
        }
        let error =
            state.check(&GroupChange::Parked(p(13), ParkedState::Redriving), HEAD).unwrap_err();
        assert!(matches!(error, GroupError::NotParked { .. }), "{error}");
    }

    #[test]
    fn from_outside_a_parked_sequence_changes_under_a_new_generation() {
        let mut state = state();
        let generation = state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
        state.apply(&park(generation, parked(12, 15)));
        let first = Position::new(12);
        let newer = state.apply(&GroupChange::Parked(first, ParkedState::Redriving));
        let now = state.parked_at(first).unwrap();
        assert_eq!((now.state, now.attempts), (ParkedState::Redriving, 0));
        assert_eq!(state.slot(slot(7)).generation, newer);
        assert_eq!(state.slot(slot(8)).generation, generation);
        state.apply(&GroupChange::Parked(first, ParkedState::Done));
        assert_eq!(state.parked().len(), 0);
    }

    #[test]
    fn seeking_forgets_what_will_be_met_again() {
        let mut state = state();
        let generation = state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
        for (first, through) in [(12, 15), (20, 30), (40, 41)] {
            state.apply(&park(generation, parked(first, through)));
        }
        state.apply(&GroupChange::Seek(Position::new(25)));
        let left: Vec<_> = state.parked().map(|p| (p.first.get(), p.through.get())).collect();
        assert_eq!(left, [(12, 25), (20, 25)]);
    }

    #[test]
    fn another_order_begins_at_the_lowest_floor_and_with_nothing_parked() {
        let mut state = state();
        let generation = state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
        state.apply(&made([commit(SlotRange::all(), 30, generation)]));
        state.apply(&made([commit(range(5, 9), 50, generation)]));
        let selection = Query::stream(StreamId::new("a-1").unwrap());
        let narrower = GroupShape { selection, ..GroupShape::default() };
        state.apply(&GroupChange::Alter(narrower));
        assert_eq!(state.slot(slot(6)).floor, Position::new(50));
        let alter = GroupChange::Alter(NewGroup::share(name()).shape);
        state.apply(&park(generation, parked(12, 15)));
        let error = state.check(&alter, HEAD).unwrap_err();
        assert!(matches!(error, GroupError::StillParked { sequences: 1, .. }), "{error}");
        state.apply(&GroupChange::Parked(Position::new(12), ParkedState::Done));
        state.check(&alter, HEAD).unwrap();
        state.apply(&alter);
        assert_eq!((state.slot(slot(6)).floor, state.runs().count()), (Position::new(30), 1));
    }

    #[test]
    fn another_shape_is_named_part_by_part() {
        let state = state();
        state.check_same(&NewGroup::consumer(name()).start(Start::End)).unwrap();
        let asked = NewGroup::share(name());
        let error = state.check_same(&asked).unwrap_err().to_string();
        assert!(error.contains(r#"the kind "consumer", not "share" and the order"#), "{error}");
        assert!(!error.contains("selection"), "{error}");
        let error = asked.order(Order::Global).shape.check(&name()).unwrap_err();
        assert!(matches!(error, GroupError::NoSuchOrder { .. }), "{error}");
    }
}
