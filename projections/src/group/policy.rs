//! What becomes of an event that fails again and again.

use std::time::Duration;

use headwater_core::Order;

use super::error::ConsumerError;
use crate::retry::Backoff;

/// How often and how long an event is tried, and what happens then.
///
/// A delivery fails if its handler says so, if it is dropped without a word, or if its lease ends.
/// Giving it back with [`release`](super::Delivery::release) is no failure. Attempts are durable
/// with the commits that follow them.
#[derive(Clone, Debug)]
pub struct FailurePolicy {
    /// After how many failed attempts the event counts as hopeless; never where this is `None`.
    pub attempts_max: Option<u32>,
    /// How old an event may get, from its commit: an older one is not delivered any more. Never
    /// too old where this is `None`.
    pub age_max: Option<Duration>,
    /// How long a failed event waits, half of it by chance.
    pub backoff: Backoff,
    /// What happens to a hopeless event.
    pub then: Hopeless,
}

/// What happens to an event that failed too often or is too old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hopeless {
    /// It is set aside together with the later events of its key, and others go on. See
    /// [`ConsumerGroup::parked`](super::ConsumerGroup::parked).
    #[default]
    Park,
    /// It counts as settled, and only the log of the process has a line about it.
    Drop,
    /// The whole group stops with [`ConsumerError::Hopeless`].
    Stop,
}

impl Default for FailurePolicy {
    /// 20 attempts, from 100 ms up to 30 s apart, which takes some four to six minutes, at any
    /// age; then the sequence is parked.
    fn default() -> Self {
        Self {
            attempts_max: Some(20),
            age_max: None,
            backoff: Backoff::default(),
            then: Hopeless::Park,
        }
    }
}

impl FailurePolicy {
    /// Tries for ever.
    pub fn never() -> Self {
        Self { attempts_max: None, ..Self::default() }
    }

    pub(super) fn check(&self, order: Order) -> Result<(), ConsumerError> {
        let invalid = |option, given: String, remedy| {
            Err(ConsumerError::InvalidOption { option, given, remedy })
        };
        if self.attempts_max == Some(0) {
            return invalid("attempts_max", "0".to_owned(), "allow one attempt at least");
        }
        if self.age_max.is_some_and(|age| age.is_zero()) {
            return invalid("age_max", "0 s".to_owned(), "give it more than zero");
        }
        let bounded = self.attempts_max.is_some() || self.age_max.is_some();
        if order == Order::Global && self.then == Hopeless::Park && bounded {
            let remedy =
                "a group in global order would set everything aside: stop or drop, or try for ever";
            return invalid("then", "Park".to_owned(), remedy);
        }
        Ok(())
    }
}
