//! How far something has come: what lies below is there for whoever has seen the mark.

use std::fmt;

use headwater_core::{Position, Visibility};

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

/// How far a log reaches.
#[derive(Debug)]
pub(crate) struct Watermark {
    /// The highest position readers may see.
    committed: Mark,
    /// The highest position that power loss cannot take.
    durable: Mark,
}

impl Watermark {
    pub(crate) fn new(head: Position) -> Self {
        Self { committed: Mark::new(head.get()), durable: Mark::new(head.get()) }
    }

    pub(crate) fn set(&self, committed: Position, durable: Position) {
        // Committed first: what is durable is committed, for whoever looks in the other order.
        self.committed.set(committed.get());
        self.durable.set(durable.get());
    }

    pub(crate) fn get(&self, visibility: Visibility) -> Position {
        let mark = match visibility {
            Visibility::Committed => &self.committed,
            Visibility::Durable => &self.durable,
        };
        Position::new(mark.get())
    }
}
