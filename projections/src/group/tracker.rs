//! One slot: what was read of it, what is in flight, what is settled, what may go next.
//!
//! Pure. Invariants:
//!
//! - T1: `places` holds, in order, every selected event of the slot from the lowest unsettled one
//!   to the scanned position, each open or inside a settled run; its first place is open.
//! - T2: `keys` holds the open events of each key in order; only the first of a key is ever ready,
//!   delayed or in flight. Without an order every event is alone.
//! - T3: `ready` holds exactly the first events of keys and lanes that are neither delayed nor in
//!   flight.
//! - T4: the floor never goes back, and no open event lies at or below it.
//! - T5: no event of a key that a lane holds up is open: it is set aside as it is read.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use headwater_core::{
    Generation, Key, Order, Parked, ParkedState, Position, RecordedEvent, Slot, SlotProgress,
    Timestamp,
};
use tokio::time::Instant;

use super::lanes::Lanes;

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
pub(super) struct Open {
    pub(super) event: Arc<RecordedEvent>,
    /// How often it was taken.
    pub(super) attempts: u32,
    pub(super) standing: Standing,
    /// It is not delivered before.
    pub(super) not_before: Option<Instant>,
}

impl Open {
    pub(super) fn new(
        event: Arc<RecordedEvent>,
        attempts: u32,
        not_before: Option<Instant>,
    ) -> Self {
        Self { event, attempts, standing: Standing::Waiting, not_before }
    }
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
    /// Its key is held up by a parked sequence, which it joined.
    SetAside,
    /// It waits behind another event of its key.
    Behind,
    /// It can be taken.
    Ready,
}

/// What left a slot's own sequence for a parked one.
#[derive(Debug, Default)]
pub(super) struct SetAside {
    /// Events that were open, with the bytes of their payloads.
    pub(super) events: Vec<(Position, usize)>,
    /// An event that is ready now, since the one before it was set aside alone.
    pub(super) next: Option<Position>,
}

#[derive(Debug, Default)]
pub(super) struct Tracker {
    order: Order,
    /// What the log holds.
    committed: SlotProgress,
    /// Settled ranges that an earlier run of the group left, as far as not read again.
    inherited: VecDeque<(Position, Position)>,
    places: BTreeMap<Position, Place>,
    keys: HashMap<Box<str>, VecDeque<Position>>,
    ready: BTreeSet<Position>,
    in_flight: usize,
    lanes: Lanes,
    /// Counts what a commit would make durable, so that it knows whether more came while it was
    /// under way.
    changes: u64,
}

/// Returns by which text an order keeps events one after the other.
fn key_of(order: Order, event: &RecordedEvent) -> Option<&str> {
    match order {
        Order::Key => Some(event.ordering_key()),
        Order::Global => Some(""),
        Order::None => None,
    }
}

impl Tracker {
    /// Begins where the log says the slot is.
    pub(super) fn new(
        order: Order,
        committed: SlotProgress,
        parked: impl IntoIterator<Item = Parked>,
    ) -> Self {
        let inherited = committed.settled.iter().copied().collect();
        Self { order, committed, inherited, lanes: Lanes::new(parked), ..Self::default() }
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

    /// Notes what is durable, and whether that is everything. Returns the latter.
    pub(super) fn set_committed(
        &mut self,
        committed: SlotProgress,
        changes: u64,
        lanes: u64,
    ) -> bool {
        self.committed = committed;
        self.lanes.committed(lanes);
        self.changes == changes
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Goes through the events that can be taken now, in order.
    pub(super) fn ready(&self) -> impl Iterator<Item = Position> + '_ {
        self.ready.iter().copied()
    }

    /// Goes through the events of the slot's own sequence that are open, with the bytes of their
    /// payloads.
    pub(super) fn open_events(&self) -> impl Iterator<Item = (Position, usize)> + '_ {
        self.places.iter().filter_map(|(&position, place)| match place {
            Place::Open(open) => Some((position, open.event.payload.len())),
            Place::Settled(_) => None,
        })
    }

    /// Takes in the next event that was read; positions only grow.
    pub(super) fn offer(
        &mut self,
        event: Arc<RecordedEvent>,
        not_before: Option<Instant>,
    ) -> Offered {
        let position = event.position;
        if position <= self.committed.floor {
            return Offered::Settled;
        }
        while self.inherited.front().is_some_and(|&(_, last)| last < position) {
            self.inherited.pop_front();
        }
        let inherited = self.inherited.front().is_some_and(|&(first, _)| first <= position);
        // That an event is parked alone may have become durable without its being settled here.
        if inherited || self.lanes.is_alone(position) {
            self.pass(position);
            return Offered::Settled;
        }
        let key = key_of(self.order, &event);
        if let Some(first) = key.and_then(|key| self.lanes.blocking(key)) {
            self.pass(position);
            self.lanes.set_aside(first, position);
            self.changes += 1;
            return Offered::SetAside;
        }
        let first = match key.map(|key| (key, self.keys.get_mut(key))) {
            Some((_, Some(queue))) => {
                queue.push_back(position);
                false
            }
            Some((key, None)) => {
                self.keys.insert(key.into(), VecDeque::from([position]));
                true
            }
            None => true,
        };
        if first {
            self.ready.insert(position);
        }
        let attempts = self.committed.attempts(position);
        self.places.insert(position, Place::Open(Open::new(event, attempts, not_before)));
        if first { Offered::Ready } else { Offered::Behind }
    }

    /// Notes that the event that was just read is settled.
    fn pass(&mut self, position: Position) {
        // With no open event before it, the floor passes over it by itself (T1).
        let Some(mut last) = self.places.last_entry() else { return };
        match last.get_mut() {
            Place::Settled(through) => *through = position,
            Place::Open(_) => {
                self.places.insert(position, Place::Settled(position));
            }
        }
    }

    fn open(&self, position: Position) -> Option<&Open> {
        match self.places.get(&position) {
            Some(Place::Open(open)) => Some(open),
            _ => self.lanes.head(position),
        }
    }

    fn open_mut(&mut self, position: Position) -> Option<&mut Open> {
        match self.places.get_mut(&position) {
            Some(Place::Open(open)) => Some(open),
            _ => self.lanes.head_mut(position),
        }
    }

    /// Returns an event that is open, and how often it was taken.
    pub(super) fn look(&self, position: Position) -> Option<(&Arc<RecordedEvent>, u32)> {
        self.open(position).map(|open| (&open.event, open.attempts))
    }

    /// Goes through the open events of its key behind an event of the slot's own sequence, in order.
    pub(super) fn behind(&self, position: Position) -> impl Iterator<Item = &Open> {
        let event = match self.places.get(&position) {
            Some(Place::Open(open)) => Some(&open.event),
            _ => None,
        };
        let key = event.and_then(|event| key_of(self.order, event));
        let queue = key.and_then(|key| self.keys.get(key));
        let behind = queue.into_iter().flatten().skip_while(move |&&other| other <= position);
        behind.filter_map(|&behind| self.open(behind))
    }

    /// Returns before when a waiting event is not delivered.
    pub(super) fn not_before(&self, position: Position) -> Option<Instant> {
        self.open(position).and_then(|open| open.not_before)
    }

    /// Returns whether an event is one of a lane, and not of the slot's own sequence.
    fn is_redriven(&self, position: Position) -> bool {
        self.lanes.head(position).is_some()
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
        match self.open(position)?.standing {
            Standing::InFlight(timer) if timer.token == token => Some(timer),
            _ => None,
        }
    }

    /// Sets the lease of an event that is in flight.
    pub(super) fn renew(&mut self, position: Position, lease: Timer) {
        if let Some(open) = self.open_mut(position) {
            open.standing = Standing::InFlight(lease);
        }
    }

    /// Takes back that the last delivery of an event was an attempt.
    pub(super) fn untried(&mut self, position: Position) {
        if let Some(open) = self.open_mut(position) {
            open.attempts = open.attempts.saturating_sub(1);
        }
    }

    /// Takes an event back that waits, is in flight or delayed. It is ready at once, or `until`
    /// then.
    pub(super) fn put_back(&mut self, position: Position, until: Option<Timer>) {
        let Some(open) = self.open_mut(position) else {
            return;
        };
        let flew = matches!(open.standing, Standing::InFlight(_));
        open.standing = until.map_or(Standing::Waiting, Standing::Delayed);
        let attempts = open.attempts;
        if flew {
            self.in_flight -= 1;
            self.changes += 1;
            self.lanes.tried(position, attempts);
        }
        if until.is_none() {
            self.ready.insert(position);
        } else {
            self.ready.remove(&position);
        }
    }

    /// Ends the wait or the flight of an event that is about to be settled or parked.
    fn land(&mut self, position: Position) {
        self.ready.remove(&position);
        let flying =
            self.open(position).is_some_and(|o| matches!(o.standing, Standing::InFlight(_)));
        self.in_flight -= usize::from(flying);
        self.changes += 1;
    }

    /// Settles an event. Returns the next event of its key, which is ready now.
    pub(super) fn settle(&mut self, position: Position) -> Option<Position> {
        self.land(position);
        if self.is_redriven(position) {
            let next = self.lanes.settle(position)?;
            self.ready.insert(next);
            return Some(next);
        }
        let Some(Place::Open(open)) = self.places.remove(&position) else {
            return None;
        };
        self.join_settled(position);
        let key = key_of(self.order, &open.event)?;
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

    /// Sets an event aside that failed for good, and with it the later events of its key.
    pub(super) fn park(
        &mut self,
        position: Position,
        slot: Slot,
        (cause, since): (String, Timestamp),
    ) -> SetAside {
        let cause = Parked::cut_cause(cause);
        self.land(position);
        let mut out = SetAside::default();
        if self.is_redriven(position) {
            self.lanes.park_again(position, cause, since);
            return out;
        }
        let Some(Place::Open(open)) = self.places.remove(&position) else {
            return out;
        };
        self.join_settled(position);
        // Where one key is all there is, only the event itself is set aside: nothing would be left.
        let key = match self.order {
            Order::Key => Key::new(open.event.ordering_key()).ok(),
            Order::Global | Order::None => None,
        };
        out.events.push((position, open.event.payload.len()));
        let mut through = position;
        if let Some(text) = key_of(self.order, &open.event)
            && let Some(mut queue) = self.keys.remove(text)
        {
            queue.pop_front();
            if key.is_some() {
                for behind in queue {
                    let place = self.places.remove(&behind);
                    self.join_settled(behind);
                    if let Some(Place::Open(open)) = place {
                        out.events.push((behind, open.event.payload.len()));
                    }
                    through = behind;
                }
            } else if let Some(&next) = queue.front() {
                self.ready.insert(next);
                self.keys.insert(text.into(), queue);
                out.next = Some(next);
            }
        }
        let (attempts, state) = (open.attempts, ParkedState::Waiting);
        let (first, next) = (position, position);
        self.lanes.park(Parked { first, slot, key, next, through, attempts, since, cause, state });
        out
    }

    /// Lets a parked sequence be delivered again. Returns after which position its events have to
    /// be read.
    pub(super) fn redrive(&mut self, first: Position) -> Option<Position> {
        let after = self.lanes.redrive(first);
        self.changes += u64::from(after.is_some());
        after
    }

    /// Gives a parked sequence up.
    pub(super) fn discard(&mut self, first: Position) {
        if let Some(head) = self.lanes.front(first) {
            let position = head.event.position;
            self.land(position);
        }
        self.changes += 1;
        self.lanes.end(first);
    }

    /// Takes an event that was read again after a position, for a lane. Returns whether it can be
    /// taken now.
    pub(super) fn feed(&mut self, event: &Arc<RecordedEvent>, after: Position) -> bool {
        let ready = self.lanes.feed(event, key_of(self.order, event), after);
        if ready {
            self.ready.insert(event.position);
        }
        ready
    }

    /// Notes that everything after a position up to `scanned` was read again. Returns whether that
    /// ended a sequence.
    pub(super) fn passed(&mut self, after: Position, scanned: Position) -> bool {
        let before = self.lanes.len();
        self.lanes.passed(after, scanned);
        let ended = self.lanes.len() < before;
        self.changes += u64::from(ended);
        ended
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
        let (mut settled, mut attempts) = (Vec::<(Position, Position)>::new(), Vec::new());
        for (&first, place) in &self.places {
            match place {
                Place::Settled(last) => settled.push((first, *last)),
                Place::Open(open) if open.attempts > 0 => attempts.push((first, open.attempts)),
                Place::Open(_) => {}
            }
        }
        // What was not read again yet still counts.
        let unread = floor.max(scanned);
        for &(first, last) in self.inherited.iter().filter(|&&(_, last)| last > unread) {
            match settled.last_mut() {
                Some((_, end)) if *end >= first => *end = last,
                _ => settled.push((first.max(unread.next()), last)),
            }
        }
        attempts.extend(self.committed.attempts.iter().filter(|&&(at, _)| at > unread));
        SlotProgress { floor, settled, attempts, generation: self.generation() }
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
        let mut tracker = Tracker::new(Order::Key, SlotProgress::default(), []);
        for event in slot_events(positions) {
            tracker.offer(event, None);
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
        let mut tracker = Tracker::new(Order::Key, inherited.clone(), []);
        assert_eq!(tracker.progress(P(10)), inherited);
        assert_eq!(tracker.progress(P(2)), inherited);
        for position in [9, 11, 12, 15] {
            tracker.offer(event_at(position, &position.to_string()), None);
        }
        assert_eq!(settled(&tracker, 15), (10, vec![(12, 20)]));
        for position in [17, 21] {
            tracker.offer(event_at(position, &position.to_string()), None);
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
        let mut tracker = Tracker::new(Order::Key, inherited, []);
        tracker.offer(event_at(16, "a"), None);
        assert_eq!(settled(&tracker, 17), (17, vec![(18, 20)]));
    }

    #[test]
    fn a_key_has_one_event_out_and_the_next_follows_its_ack() {
        let mut tracker = Tracker::new(Order::Key, SlotProgress::default(), []);
        assert_eq!(tracker.offer(event_at(1, "a"), None), Offered::Ready);
        assert_eq!(tracker.offer(event_at(2, "a"), None), Offered::Behind);
        assert_eq!(tracker.offer(event_at(3, "b"), None), Offered::Ready);
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
