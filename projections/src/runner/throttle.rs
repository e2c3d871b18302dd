//! So many events in a second, and no more.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::later;

/// Lets so many events pass in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Throttle {
    limit: Option<NonZeroU64>,
    not_before: Instant,
}

impl Throttle {
    pub(crate) fn new(limit: Option<NonZeroU64>) -> Self {
        Self { limit, not_before: Instant::now() }
    }

    /// Returns how many events to take at once: what passes in a tenth of a second at most.
    pub(crate) fn batch(&self, max: usize) -> usize {
        self.limit.map_or(max, |limit| {
            max.min(usize::try_from(limit.get() / 10).unwrap_or(usize::MAX).max(1))
        })
    }

    /// Notes that events have passed.
    pub(crate) fn note(&mut self, events: u64) {
        if let Some(limit) = self.limit {
            let nanos = u128::from(events) * 1_000_000_000 / u128::from(limit.get());
            let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            self.not_before = later(self.not_before.max(Instant::now()), pause);
        }
    }

    /// Returns when the next ones may pass.
    pub(crate) fn not_before(&self) -> Instant {
        self.not_before
    }
}
