//! How far something has come: what lies below is there for whoever has seen the mark.

use std::fmt;

use crate::sync::atomic::{AtomicU64, Ordering};

/// A position or an offset that one thread raises and others look at.
pub(crate) struct Mark(AtomicU64);

impl Mark {
    pub(crate) fn new(at: u64) -> Self {
        Self(AtomicU64::new(at))
    }

    /// Raises the mark. Whatever it covers was written before.
    pub(crate) fn set(&self, to: u64) {
        // Release: pairs with the Acquire in `get`.
        self.0.store(to, Ordering::Release);
    }

    /// Returns the mark. Whoever looks at what it covers does so afterwards.
    pub(crate) fn get(&self) -> u64 {
        // Acquire: pairs with the Release in `set`.
        self.0.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
