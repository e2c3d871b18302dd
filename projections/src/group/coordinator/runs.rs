//! Runs: consecutive events of one key that are out together, under the lease of the first one.
//!
//! Only the first is in flight for everything else here: it keeps its key, so nobody can take the
//! others, and what becomes of it becomes of them. An event of a run that is settled makes way for
//! the next one without its ever being ready for anybody.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::{Position, RecordedEvent, Slot};
use tokio::time::Instant;

use super::{Coordinator, Dispatch, MemberId, Place};
use crate::clock::later;

/// An event behind the first one of a run, with the number of this attempt, from 1.
pub(in crate::group) type Follower = (Arc<RecordedEvent>, u32);

/// What becomes of the first event of a run that is not settled. The later ones wait behind it.
#[derive(Clone, Debug)]
pub(in crate::group) enum Rest {
    /// Nobody has worked on it: it does not count as an attempt.
    Release,
    /// It failed, and is tried again after this time, unless it is hopeless.
    Fail { cause: String, delay: Duration },
}

/// How many events, with how many bytes of payload, may still be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    events: usize,
    bytes: usize,
}

impl Room {
    pub(crate) fn new(events: usize, bytes: usize) -> Self {
        Self { events, bytes }
    }

    pub(crate) fn is_full(self) -> bool {
        self.events == 0 || self.bytes == 0
    }

    /// Takes an event in, also one that is larger than what is left.
    fn take(&mut self, bytes: usize) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn take_if_it_fits(&mut self, bytes: usize) -> bool {
        let fits = self.events > 0 && bytes <= self.bytes;
        if fits {
            self.take(bytes);
        }
        fits
    }
}

impl Coordinator {
    /// Hands a member events as there is room, at least one: the oldest of each key first, and then
    /// what follows them.
    pub(in crate::group) fn next_runs(
        &mut self,
        id: MemberId,
        room: &mut Room,
        now: Instant,
    ) -> Vec<(Dispatch, Vec<Follower>)> {
        let mut runs = Vec::new();
        while !room.is_full() || runs.is_empty() {
            let Some(first) = self.next(id, 1, now).pop() else { break };
            room.take(first.event.payload.len());
            runs.push((first, Vec::new()));
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.starved = runs.is_empty();
        }
        for (first, rest) in &mut runs {
            let place = (first.slot, first.event.position);
            *rest = self.followers(place, first.event.position, room, now);
        }
        runs
    }

    /// Returns the events of its key behind `after` that can go with a delivery, as there is room:
    /// those that could be delivered now, if it were settled.
    pub(in crate::group) fn followers(
        &mut self,
        (slot, at): (Slot, Position),
        after: Position,
        room: &mut Room,
        now: Instant,
    ) -> Vec<Follower> {
        let tracker = &self.slot(slot).tracker;
        let due = |position| tracker.not_before(position).is_none_or(|at| at <= now);
        let followers = tracker
            .behind(at)
            .skip_while(|open| open.event.position <= after)
            // They are younger than the first one, which was not too old.
            .take_while(|open| {
                due(open.event.position) && room.take_if_it_fits(open.event.payload.len())
            })
            .map(|open| (Arc::clone(&open.event), open.attempts.saturating_add(1)));
        let followers: Vec<Follower> = followers.collect();
        for &(_, attempt) in &followers {
            self.counts.handed_out(attempt);
        }
        followers
    }

    /// Settles the first `done` events of a run. Returns false, and does nothing, if its delivery
    /// lost its event.
    pub(in crate::group) fn settle_run(
        &mut self,
        (slot, at, token): Place,
        followers: &[Position],
        done: usize,
        rest: Rest,
        now: Instant,
    ) -> bool {
        let Some(last) = done.checked_sub(1) else {
            return match rest {
                Rest::Release => self.release((slot, at, token), now),
                Rest::Fail { cause, delay } => self.fail((slot, at, token), cause, delay, now),
            };
        };
        if !self.end_lease(slot, at, token, now) {
            return false;
        }
        self.counts.acked += done as u64;
        let next = self.settle_first(slot, at, followers.iter().take(last));
        self.dirty.insert(slot);
        if let Some(next) = next {
            match rest {
                Rest::Fail { cause, delay } if followers.get(last) == Some(&next) => {
                    self.take_again(slot, next, now);
                    self.landed(slot);
                    self.failed(slot, next, cause, delay, now);
                }
                Rest::Fail { .. } | Rest::Release => self.announce(slot, next, now),
            }
        }
        self.wake_reader();
        true
    }

    /// Settles an event whose delivery has landed and those that follow it. Returns the next one of
    /// their key.
    fn settle_first<'a>(
        &mut self,
        slot: Slot,
        first: Position,
        followers: impl Iterator<Item = &'a Position>,
    ) -> Option<Position> {
        let mut followers = followers;
        let mut settled = first;
        loop {
            let event = self.slot(slot).tracker.look(settled);
            let bytes = event.map_or(0, |(event, _)| event.payload.len());
            self.count_out(settled, bytes);
            let next = self.slot_mut(slot).tracker.settle(settled);
            match followers.next() {
                // It is ready in its slot only, so nobody has it.
                Some(&follower) if next == Some(follower) => settled = follower,
                _ => return next,
            }
        }
    }

    /// Counts an attempt at an event of a run that has become the first one of its key.
    fn take_again(&mut self, slot: Slot, at: Position, now: Instant) {
        let lease = self.timer(later(now, self.rules.lease), slot, at);
        self.timers.remove(&lease);
        let owner = self.slot(slot).owner;
        if let Some(member) = owner.and_then(|owner| self.members.get_mut(&owner)) {
            member.in_flight += 1;
        }
        let taken = self.slot_mut(slot).tracker.take(at, lease);
        debug_assert!(taken.is_some(), "the next event of a key is ready in its slot");
    }
}
