//! Turns: whose event goes next where many keys wait.

use std::collections::HashMap;

use headwater_core::Position;

/// Gives each ready event a turn, so that a key with many events does not hold up the others:
/// each key's events take turns of their own, one after the other, from the turn that is served
/// now. This is start-time fair queueing (Goyal, Vin and Cheng, 1996) with events of equal cost.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Without it every event has the same turn, and positions decide.
    fair: bool,
    /// The turn that was served last.
    now: u64,
    /// The next turn of each key that is ahead of `now`.
    next: HashMap<Box<str>, u64>,
    /// The turns of events that are ready.
    given: HashMap<Position, u64>,
}

impl Turns {
    pub(super) fn new(fair: bool) -> Self {
        Self { fair, ..Self::default() }
    }

    /// Returns the turn of an event that is ready.
    pub(super) fn of(&mut self, position: Position, key: &str) -> u64 {
        if !self.fair {
            return 0;
        }
        if let Some(&turn) = self.given.get(&position) {
            return turn;
        }
        let next = self.next.get(key).copied().unwrap_or(0);
        let turn = next.max(self.now);
        self.next.insert(key.into(), turn + 1);
        self.given.insert(position, turn);
        turn
    }

    /// Returns the turn that a ready event has, if it has one.
    pub(super) fn given(&self, position: Position) -> u64 {
        self.given.get(&position).copied().unwrap_or(0)
    }

    /// Notes that the event is ready no more.
    pub(super) fn forget(&mut self, position: Position) {
        self.given.remove(&position);
    }

    /// Notes that the turn of an event is served.
    pub(super) fn served(&mut self, position: Position) {
        if let Some(turn) = self.given.remove(&position) {
            self.now = self.now.max(turn);
            // What is not ahead any more says nothing. Keys that had one event each are all one turn
            // ahead: let that turn pass, which costs nobody more than a turn.
            if self.next.len() > 2 * self.given.len() + 64 {
                self.now += 1;
                let now = self.now;
                self.next.retain(|_, next| *next > now);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.next.clear();
        self.given.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_late_does_not_wait_behind_a_busy_one() {
        let mut turns = Turns::new(true);
        let busy: Vec<u64> = (1..=5).map(|n| turns.of(Position::new(n), "busy")).collect();
        assert_eq!(busy, [0, 1, 2, 3, 4]);
        turns.served(Position::new(1));
        turns.served(Position::new(2));
        assert_eq!(turns.of(Position::new(6), "late"), 1);
        assert_eq!(turns.of(Position::new(6), "late"), 1, "a turn stays");
        assert_eq!(turns.of(Position::new(7), "late"), 2);
        turns.forget(Position::new(6));
        assert_eq!(turns.of(Position::new(6), "late"), 3, "back in the queue");
    }

    #[test]
    fn keys_that_come_once_are_forgotten() {
        let mut turns = Turns::new(true);
        for n in 1..10_000 {
            turns.of(Position::new(n), &n.to_string());
            turns.served(Position::new(n));
        }
        assert!(turns.next.len() < 100, "{} keys are kept", turns.next.len());
    }

    #[test]
    fn without_fairness_positions_decide() {
        let mut turns = Turns::new(false);
        assert_eq!((turns.of(Position::new(9), "a"), turns.of(Position::new(1), "a")), (0, 0));
    }
}
