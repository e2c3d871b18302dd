//! One slot: what was read of it, what is in flight, what is settled, what may go next.
//!
//! Pure. Invariants:
//!
//! - T1: `places` holds, in order, every selected event of the slot from the lowest unsettled one
//!   to the scanned position, each open or inside a settled run; its first place is open.
//! - T2: `keys` holds the open events of each key in order; only the first of a key is ever ready,
//!   delayed or in flight.
//! - T3: `ready` holds exactly the first events of keys that are neither delayed nor in flight.
//! - T4: the floor never goes back, and no open event lies at or below it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use headwater_core::{Generation, Position, RecordedEvent, SlotProgress};
use tokio::time::Instant;

/// When something ends, and the one dispatch or delay that it ends. Tokens are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    pub(super) at: Instant,
    pub(super) token: u64,
}

/// Where an open event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It waits behind another event of its key, or to be taken.
    Waiting,
    /// It may be taken again later.
    Delayed(Timer),
    /// A member has it.
    InFlight(Timer),
}

#[derive(Debug)]
struct Open {
    event: Arc<RecordedEvent>,
    /// How often it was taken.
    attempts: u32,
    standing: Standing,
}

#[derive(Debug)]
enum Place {
    Open(Open),
    /// A run of settled neighbours, through this position.
    Settled(Position),
}

/// What became of an event that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offered {
    /// It was settled before.
    Settled,
    /// It waits behind another event of its key.
    Behind,
    /// It can be taken.
    Ready,
}

#[derive(Debug, Default)]
pub(super) struct Tracker {
    /// What the log holds.
    committed: SlotProgress,
    /// Settled ranges that an earlier run of the group left, as far as not read again.
    inherited: VecDeque<(Position, Position)>,
    places: BTreeMap<Position, Place>,
    keys: HashMap<Box<str>, VecDeque<Position>>,
    ready: BTreeSet<Position>,
    in_flight: usize,
    /// Counts acks, so that a commit knows whether others came while it was under way.
    acks: u64,
}

impl Tracker {
    /// Begins where the log says the slot is.
    pub(super) fn new(committed: SlotProgress) -> Self {
        let inherited = committed.settled.iter().copied().collect();
        Self { committed, inherited, ..Self::default() }
    }

    pub(super) fn generation(&self) -> Generation {
        self.committed.generation
    }

    pub(super) fn set_generation(&mut self, generation: Generation) {
        self.committed.generation = generation;
    }

    pub(super) fn committed(&self) -> &SlotProgress {
        &self.committed
    }

    pub(super) fn set_committed(&mut self, committed: SlotProgress) {
        self.committed = committed;
    }

    pub(super) fn acks(&self) -> u64 {
        self.acks
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Goes through the events that can be taken now, in order.
    pub(super) fn ready(&self) -> impl Iterator<Item = Position> + '_ {
        self.ready.iter().copied()
    }

    /// Takes in the next event that was read; positions only grow.
    pub(super) fn offer(&mut self, event: Arc<RecordedEvent>) -> Offered {
        let position = event.position;
        if position <= self.committed.floor {
            return Offered::Settled;
        }
        while self.inherited.front().is_some_and(|&(_, last)| last < position) {
            self.inherited.pop_front();
        }
        let inherited = self.inherited.front();
        if inherited.is_some_and(|&(first, _)| first <= position) {
            // With no open event before it, the floor passes over it by itself (T1).
            match self.places.last_entry() {
                None => {}
                Some(mut last) => match last.get_mut() {
                    Place::Settled(through) => *through = position,
                    Place::Open(_) => {
                        self.places.insert(position, Place::Settled(position));
                    }
                },
            }
            return Offered::Settled;
        }
        let key = event.ordering_key();
        let first = if let Some(queue) = self.keys.get_mut(key) {
            queue.push_back(position);
            false
        } else {
            self.keys.insert(key.into(), VecDeque::from([position]));
            self.ready.insert(position);
            true
        };
        self.places.insert(
            position,
            Place::Open(Open { event, attempts: 0, standing: Standing::Waiting }),
        );
        if first { Offered::Ready } else { Offered::Behind }
    }

    fn open_mut(&mut self, position: Position) -> Option<&mut Open> {
        match self.places.get_mut(&position) {
            Some(Place::Open(open)) => Some(open),
            _ => None,
        }
    }

    /// Hands out an event that is ready, with the number of this attempt, from 1.
    pub(super) fn take(&mut self, at: Position, lease: Timer) -> Option<(Arc<RecordedEvent>, u32)> {
        if !self.ready.remove(&at) {
            return None;
        }
        self.in_flight += 1;
        let open = self.open_mut(at).expect("T3: what is ready is open");
        open.attempts = open.attempts.saturating_add(1);
        open.standing = Standing::InFlight(lease);
        Some((Arc::clone(&open.event), open.attempts))
    }

    /// Returns the lease of a delivery, if that delivery still has the event.
    pub(super) fn lease(&self, position: Position, token: u64) -> Option<Timer> {
        match self.places.get(&position) {
            Some(Place::Open(open)) => match open.standing {
                Standing::InFlight(timer) if timer.token == token => Some(timer),
                _ => None,
            },
            _ => None,
        }
    }

    /// Sets the lease of an event that is in flight.
    pub(super) fn renew(&mut self, position: Position, lease: Timer) {
        if let Some(open) = self.open_mut(position) {
            open.standing = Standing::InFlight(lease);
        }
    }

    /// Takes an event back that is in flight or delayed. It is ready at once, or `until` then.
    pub(super) fn put_back(&mut self, position: Position, until: Option<Timer>) {
        let Some(open) = self.open_mut(position) else {
            return;
        };
        let was = open.standing;
        open.standing = until.map_or(Standing::Waiting, Standing::Delayed);
        if matches!(was, Standing::InFlight(_)) {
            self.in_flight -= 1;
        }
        if until.is_none() {
            self.ready.insert(position);
        }
    }

    /// Settles an event that is in flight. Returns the next event of its key, which is ready now.
    pub(super) fn settle(&mut self, position: Position) -> Option<Position> {
        let Some(Place::Open(open)) = self.places.remove(&position) else {
            return None;
        };
        self.in_flight -= 1;
        self.acks += 1;
        self.join_settled(position);
        let key = open.event.ordering_key();
        let queue = self.keys.get_mut(key).expect("T2: open events have a queue");
        debug_assert_eq!(queue.front(), Some(&position), "T2: keys go in order");
        queue.pop_front();
        let next = queue.front().copied();
        match next {
            Some(next) => {
                self.ready.insert(next);
            }
            None => {
                self.keys.remove(key);
            }
        }
        next
    }

    /// Notes that `position`, whose place is empty now, is settled, and joins it with settled
    /// neighbours in the slot's own sequence of events.
    fn join_settled(&mut self, position: Position) {
        let mut through = position;
        let next = self.places.range(position..).next();
        if let Some((&at, &Place::Settled(last))) = next {
            self.places.remove(&at);
            through = last;
        }
        match self.places.range_mut(..position).next_back() {
            // Everything before is settled: the floor covers it (T1).
            None => {}
            Some((_, Place::Settled(last))) => *last = through,
            Some((_, Place::Open(_))) => {
                self.places.insert(position, Place::Settled(through));
            }
        }
    }

    /// Returns the position up to which every event of the slot is settled.
    pub(super) fn floor(&self, scanned: Position) -> Position {
        let lowest = self.places.keys().next();
        let floor = lowest.map_or(scanned, |lowest| lowest.previous());
        floor.max(self.committed.floor)
    }

    /// Returns what a commit should make durable.
    pub(super) fn progress(&self, scanned: Position) -> SlotProgress {
        let floor = self.floor(scanned);
        let own = self.places.iter().filter_map(|(&first, place)| match place {
            Place::Settled(last) => Some((first, *last)),
            Place::Open(_) => None,
        });
        let mut settled: Vec<(Position, Position)> = own.collect();
        // What was not read again yet still counts.
        let unread = floor.max(scanned);
        for &(first, last) in self.inherited.iter().filter(|&&(_, last)| last > unread) {
            match settled.last_mut() {
                Some((_, end)) if *end >= first => *end = last,
                _ => settled.push((first.max(unread.next()), last)),
            }
        }
        SlotProgress { floor, settled, generation: self.generation(), ..SlotProgress::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{event_at, slot_events};
    use super::*;

    const P: fn(u64) -> Position = Position::new;

    fn lease(token: u64) -> Timer {
        Timer { at: Instant::now(), token }
    }

    fn ack(tracker: &mut Tracker, position: u64) {
        assert!(tracker.take(P(position), lease(position)).is_some());
        tracker.settle(P(position));
    }

    fn filled(positions: &[u64]) -> Tracker {
        let mut tracker = Tracker::new(SlotProgress::default());
        for event in slot_events(positions) {
            tracker.offer(event);
        }
        tracker
    }

    fn settled(tracker: &Tracker, scanned: u64) -> (u64, Vec<(u64, u64)>) {
        let progress = tracker.progress(P(scanned));
        let ranges = progress.settled.iter();
        let ranges = ranges.map(|(a, b)| (a.get(), b.get())).collect();
        (progress.floor.get(), ranges)
    }

    #[test]
    fn the_floor_lies_before_the_lowest_open_event_or_at_the_scanned_position() {
        let mut tracker = filled(&[3, 9, 20]);
        assert_eq!(settled(&tracker, 30), (2, vec![]));
        ack(&mut tracker, 9);
        assert_eq!(settled(&tracker, 30), (2, vec![(9, 9)]));
        ack(&mut tracker, 3);
        assert_eq!(settled(&tracker, 30), (19, vec![]));
        ack(&mut tracker, 20);
        assert_eq!(settled(&tracker, 30), (30, vec![]));
    }

    #[test]
    fn settled_neighbours_of_the_slots_own_sequence_form_one_range() {
        let mut tracker = filled(&[3, 9, 20, 27, 40]);
        ack(&mut tracker, 9);
        ack(&mut tracker, 27);
        assert_eq!(settled(&tracker, 50), (2, vec![(9, 9), (27, 27)]));
        ack(&mut tracker, 20);
        assert_eq!(settled(&tracker, 50), (2, vec![(9, 27)]));
        ack(&mut tracker, 40);
        assert_eq!(settled(&tracker, 50), (2, vec![(9, 40)]));
    }

    #[test]
    fn ranges_of_an_earlier_run_count_before_and_while_they_are_read_again() {
        let inherited = SlotProgress {
            floor: P(10),
            settled: vec![(P(12), P(12)), (P(15), P(20))],
            generation: Generation::NONE,
            ..SlotProgress::default()
        };
        let mut tracker = Tracker::new(inherited.clone());
        assert_eq!(tracker.progress(P(10)), inherited);
        assert_eq!(tracker.progress(P(2)), inherited);
        for position in [9, 11, 12, 15] {
            tracker.offer(event_at(position, &position.to_string()));
        }
        assert_eq!(settled(&tracker, 15), (10, vec![(12, 20)]));
        for position in [17, 21] {
            tracker.offer(event_at(position, &position.to_string()));
        }
        assert_eq!(settled(&tracker, 21), (10, vec![(12, 17)]));
        ack(&mut tracker, 11);
        assert_eq!(settled(&tracker, 21), (20, vec![]));
    }

    #[test]
    fn a_half_read_range_is_cut_at_the_floor() {
        let inherited = SlotProgress {
            floor: P(10),
            settled: vec![(P(15), P(20))],
            generation: Generation::NONE,
            ..SlotProgress::default()
        };
        let mut tracker = Tracker::new(inherited);
        tracker.offer(event_at(16, "a"));
        assert_eq!(settled(&tracker, 17), (17, vec![(18, 20)]));
    }

    #[test]
    fn a_key_has_one_event_out_and_the_next_follows_its_ack() {
        let mut tracker = Tracker::new(SlotProgress::default());
        assert_eq!(tracker.offer(event_at(1, "a")), Offered::Ready);
        assert_eq!(tracker.offer(event_at(2, "a")), Offered::Behind);
        assert_eq!(tracker.offer(event_at(3, "b")), Offered::Ready);
        assert!(tracker.take(P(2), lease(0)).is_none());
        assert!(tracker.take(P(1), lease(1)).is_some());
        tracker.put_back(P(1), None);
        assert_eq!(tracker.ready().collect::<Vec<_>>(), [P(1), P(3)]);
        let (_, attempt) = tracker.take(P(1), lease(2)).unwrap();
        assert_eq!(attempt, 2);
        assert_eq!(tracker.settle(P(1)), Some(P(2)));
        assert_eq!(tracker.in_flight(), 0);
    }
}
