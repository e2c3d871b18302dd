//! The parked sequences of one slot, and their events while they are delivered again.
//!
//! Pure. Invariants:
//!
//! - L1: `blocked` holds the key of each lane that has one, so no two lanes have the same.
//! - L2: `heads` holds the first queued event of each lane, and no other event of a lane is ever
//!   ready, delayed or in flight.
//! - L3: only lanes that are re-driven have events queued.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use headwater_core::{Parked, ParkedState, Position, RecordedEvent, Timestamp};

use super::tracker::Open;

#[derive(Debug)]
struct Lane {
    parked: Parked,
    /// Its events up to here were queued, or are settled.
    read: Position,
    queue: VecDeque<Open>,
}

#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// By the event that began the sequence.
    by_first: BTreeMap<Position, Lane>,
    blocked: HashMap<Box<str>, Position>,
    heads: BTreeMap<Position, Position>,
    /// Counts changes.
    clock: u64,
    /// Which are not durable as they are, and since which change.
    changed: BTreeMap<Position, u64>,
    /// Those that are over, until that is durable.
    gone: BTreeMap<Position, (Parked, u64)>,
    /// How many events are queued, and the bytes of their payloads.
    queued: (usize, usize),
}

impl Lanes {
    pub(super) fn new(parked: impl IntoIterator<Item = Parked>) -> Self {
        let mut lanes = Self::default();
        for parked in parked {
            lanes.insert(parked);
        }
        lanes
    }

    fn insert(&mut self, parked: Parked) {
        if let Some(key) = &parked.key {
            self.blocked.insert(key.as_str().into(), parked.first);
        }
        let lane = Lane { read: parked.next.previous(), queue: VecDeque::new(), parked };
        self.by_first.insert(lane.parked.first, lane);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Parked> {
        self.by_first.values().map(|lane| &lane.parked)
    }

    pub(super) fn get(&self, first: Position) -> Option<&Parked> {
        self.by_first.get(&first).map(|lane| &lane.parked)
    }

    /// Returns the event at the head of a lane.
    pub(super) fn front(&self, first: Position) -> Option<&Open> {
        self.by_first.get(&first)?.queue.front()
    }

    /// Returns whether any sequence is delivered again.
    pub(super) fn is_redriving(&self) -> bool {
        self.iter().any(|parked| parked.state == ParkedState::Redriving)
    }

    /// Returns how many sequences there are.
    pub(super) fn len(&self) -> usize {
        self.by_first.len()
    }

    /// Returns whether an event began a sequence that it is alone in.
    pub(super) fn is_alone(&self, position: Position) -> bool {
        self.get(position).is_some_and(|parked| parked.key.is_none())
    }

    /// Returns how many events are queued, and the bytes of their payloads.
    pub(super) fn queued(&self) -> (usize, usize) {
        self.queued
    }

    fn unqueue<'a>(queued: &mut (usize, usize), events: impl IntoIterator<Item = &'a Open>) {
        for open in events {
            queued.0 -= 1;
            queued.1 -= open.event.payload.len();
        }
    }

    fn change(&mut self, first: Position) {
        self.clock += 1;
        self.changed.insert(first, self.clock);
    }

    /// Returns the sequence that holds up a key.
    pub(super) fn blocking(&self, key: &str) -> Option<Position> {
        self.blocked.get(key).copied()
    }

    /// Returns what is not durable yet, and up to which change that is.
    pub(super) fn uncommitted(&self) -> (Vec<Parked>, u64) {
        let changed = self.changed.keys().filter_map(|first| self.by_first.get(first));
        let changed = changed.map(|lane| lane.parked.clone());
        let gone = self.gone.values().map(|(parked, _)| parked.clone());
        (gone.chain(changed).collect(), self.clock)
    }

    /// Notes that everything up to a change is durable.
    pub(super) fn committed(&mut self, through: u64) {
        self.changed.retain(|_, since| *since > through);
        self.gone.retain(|_, (_, since)| *since > through);
    }

    /// Sets a sequence aside.
    pub(super) fn park(&mut self, parked: Parked) {
        self.gone.remove(&parked.first);
        self.change(parked.first);
        self.insert(parked);
    }

    /// Adds an event to a sequence that holds up its key.
    pub(super) fn set_aside(&mut self, first: Position, position: Position) {
        if let Some(lane) = self.by_first.get_mut(&first) {
            lane.parked.through = lane.parked.through.max(position);
            self.change(first);
        }
    }

    /// Lets a sequence be delivered again. Returns after which position its events have to be
    /// read, or `None` if nothing waits there.
    pub(super) fn redrive(&mut self, first: Position) -> Option<Position> {
        let lane = self.by_first.get_mut(&first)?;
        if lane.parked.state == ParkedState::Redriving {
            return None;
        }
        lane.parked.state = ParkedState::Redriving;
        lane.parked.attempts = 0;
        lane.read = lane.parked.next.previous();
        let after = lane.read;
        self.change(first);
        Some(after)
    }

    /// Returns the lowest position after which a lane that is re-driven lacks events.
    pub(super) fn unread(&self) -> Option<Position> {
        let lacking = |lane: &&Lane| {
            lane.parked.state == ParkedState::Redriving && lane.read < lane.parked.through
        };
        self.by_first.values().filter(lacking).map(|lane| lane.read).min()
    }

    /// Takes an event that was read again after a position, if its lane lacks nothing before that.
    /// Returns whether it can be delivered at once.
    pub(super) fn feed(
        &mut self,
        event: &Arc<RecordedEvent>,
        key: Option<&str>,
        after: Position,
    ) -> bool {
        let position = event.position;
        let first = key.and_then(|key| self.blocking(key)).unwrap_or(position);
        let Some(lane) = self.by_first.get_mut(&first) else { return false };
        let parked = &lane.parked;
        let wanted = parked.state == ParkedState::Redriving
            && lane.read >= after
            && position > lane.read
            && position <= parked.through
            && (parked.key.is_some() || position == first);
        if !wanted {
            return false;
        }
        lane.read = position;
        let head = lane.queue.is_empty();
        let attempts = if head { parked.attempts } else { 0 };
        lane.queue.push_back(Open::new(Arc::clone(event), attempts, None));
        self.queued.0 += 1;
        self.queued.1 += event.payload.len();
        if head {
            self.heads.insert(position, first);
        }
        head
    }

    /// Notes that everything after a position up to `scanned` was read again, which ends sequences
    /// that lacked nothing before and have no more events.
    pub(super) fn passed(&mut self, after: Position, scanned: Position) {
        let mut over = Vec::new();
        for (&first, lane) in &mut self.by_first {
            if lane.parked.state == ParkedState::Redriving && lane.read >= after {
                lane.read = lane.read.max(scanned.min(lane.parked.through));
                if lane.is_over() {
                    over.push(first);
                }
            }
        }
        for first in over {
            self.end(first);
        }
    }

    /// Gives a sequence up, or notes that all of it is settled.
    pub(super) fn end(&mut self, first: Position) {
        let Some(mut lane) = self.by_first.remove(&first) else { return };
        if let Some(key) = &lane.parked.key {
            self.blocked.remove(key.as_str());
        }
        self.changed.remove(&first);
        self.clock += 1;
        lane.parked.state = ParkedState::Done;
        Self::unqueue(&mut self.queued, &lane.queue);
        self.gone.insert(first, (lane.parked, self.clock));
        if let Some(head) = lane.queue.front() {
            self.heads.remove(&head.event.position);
        }
    }

    pub(super) fn head(&self, position: Position) -> Option<&Open> {
        let first = self.heads.get(&position)?;
        self.by_first.get(first)?.queue.front()
    }

    pub(super) fn head_mut(&mut self, position: Position) -> Option<&mut Open> {
        let first = self.heads.get(&position)?;
        self.by_first.get_mut(first)?.queue.front_mut()
    }

    /// Settles the event at the head of a lane. Returns the next one, which can be delivered now.
    pub(super) fn settle(&mut self, position: Position) -> Option<Position> {
        let first = self.heads.remove(&position)?;
        let lane = self.by_first.get_mut(&first)?;
        Self::unqueue(&mut self.queued, &lane.queue.pop_front());
        lane.parked.attempts = 0;
        lane.parked.next = position.next();
        let next = lane.queue.front().map(|head| head.event.position);
        let over = lane.is_over();
        self.change(first);
        match next {
            Some(next) => drop(self.heads.insert(next, first)),
            None if over => self.end(first),
            None => {}
        }
        next
    }

    /// Notes how often the event at the head of a lane was delivered.
    pub(super) fn tried(&mut self, position: Position, attempts: u32) {
        if let Some(&first) = self.heads.get(&position)
            && let Some(lane) = self.by_first.get_mut(&first)
        {
            lane.parked.attempts = attempts;
            lane.parked.next = position;
            self.change(first);
        }
    }

    /// Sets a sequence aside again whose head failed.
    pub(super) fn park_again(&mut self, position: Position, cause: String, since: Timestamp) {
        let Some(first) = self.heads.remove(&position) else { return };
        let Some(lane) = self.by_first.get_mut(&first) else { return };
        let attempts = lane.queue.front().map_or(0, |head| head.attempts);
        Self::unqueue(&mut self.queued, &lane.queue);
        lane.queue.clear();
        lane.read = position.previous();
        let parked = &mut lane.parked;
        (parked.next, parked.attempts, parked.since) = (position, attempts, since);
        (parked.cause, parked.state) = (cause, ParkedState::Waiting);
        self.change(first);
    }
}

impl Lane {
    fn is_over(&self) -> bool {
        self.queue.is_empty() && self.read >= self.parked.through
    }
}
