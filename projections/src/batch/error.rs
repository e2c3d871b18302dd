//! What a batch failed with.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a batch failed with. Every error converts into it, so `?` works, and stands for the whole
/// batch then.
#[derive(Clone)]
pub struct BatchError {
    pub(super) source: Arc<dyn Error + Send + Sync>,
    pub(super) of: Of,
}

/// Of what it is an error.
#[derive(Clone, Debug)]
pub(super) enum Of {
    /// Of everything: no event counts as handled.
    All,
    /// Of the events with these indexes in the batch.
    Items(BTreeSet<usize>),
    /// Of the time: nothing was tried, and everything is to come again after a while.
    Now(Duration),
}

impl Of {
    /// Returns whether the event with this index has failed.
    pub(super) fn includes(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::Items(failed) => failed.contains(&index),
            Self::Now(_) => false,
        }
    }
}

impl BatchError {
    /// Makes an error of the whole batch from a text.
    pub fn message(text: impl Into<String>) -> Self {
        Self { source: Arc::from(Box::<dyn Error + Send + Sync>::from(text.into())), of: Of::All }
    }

    /// Says which events failed, by their indexes in the batch; the others were handled. Events of a
    /// key behind one that failed come again with it. Indexes that the batch has not are ignored.
    #[must_use]
    pub fn items(self, failed: impl IntoIterator<Item = usize>) -> Self {
        Self { of: Of::Items(failed.into_iter().collect()), ..self }
    }

    /// Says that nothing was tried, since what it takes is not to be had for now: everything comes
    /// again after this time, and nothing counts as an attempt.
    #[must_use]
    pub fn not_now(self, delay: Duration) -> Self {
        Self { of: Of::Now(delay), ..self }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for BatchError {
    fn from(error: E) -> Self {
        Self { source: Arc::new(error), of: Of::All }
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl fmt::Debug for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchError").field("source", &self.source).field("of", &self.of).finish()
    }
}
