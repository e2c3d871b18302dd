//! When to try again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How long to wait between attempts: twice as long each time, up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second attempt.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    /// From 100 ms up to 30 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// Returns how long to wait after this many failed attempts, from 1.
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }

    /// Returns a random wait between half of [`delay`](Self::delay) and all of it, so that many
    /// who failed together do not come back together.
    pub fn jittered(&self, failures: u32) -> Duration {
        let delay = self.delay(failures);
        // The standard library's hasher keys are random: enough for this, and no dependency.
        let random = RandomState::new().hash_one(failures) % 1_000;
        let part = u32::try_from(random).unwrap_or(0);
        delay / 2 + (delay / 2).saturating_mul(part) / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };
        let waits: Vec<u128> = (1..=6).map(|n| backoff.delay(n).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff.delay(u32::MAX), backoff.max);
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        let backoff = Backoff::default();
        for failures in 1..40 {
            let (full, random) = (backoff.delay(failures), backoff.jittered(failures));
            assert!(random >= full / 2 && random <= full, "{random:?} of {full:?}");
        }
    }
}
