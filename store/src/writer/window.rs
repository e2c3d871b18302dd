//! The idempotency window: which append ids were used last, and what they did.

use std::collections::{HashMap, VecDeque};

use headwater_core::{AppendError, AppendId, Appended};

/// What an append id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) appended: Appended,
    pub(crate) digest: u64,
}

impl Remembered {
    /// Answers a repeated append: with the first result, or with an error if it is another one.
    pub(crate) fn answer(&self, id: AppendId, digest: u64) -> Result<Appended, AppendError> {
        if digest != self.digest {
            return Err(AppendError::AppendIdReused { id, first: self.appended.first });
        }
        Ok(Appended { deduplicated: true, ..self.appended })
    }
}

/// The newest append ids, up to a number.
#[derive(Debug)]
pub(crate) struct Window {
    capacity: usize,
    known: HashMap<AppendId, Remembered>,
    order: VecDeque<AppendId>,
}

impl Window {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, known: HashMap::new(), order: VecDeque::new() }
    }

    pub(crate) fn get(&self, id: AppendId) -> Option<&Remembered> {
        self.known.get(&id)
    }

    /// Remembers an append, and forgets the oldest one where there is no more room.
    pub(crate) fn insert(&mut self, id: AppendId, remembered: Remembered) {
        if self.known.insert(id, remembered).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
