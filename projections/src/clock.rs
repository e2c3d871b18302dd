//! Points on the monotonic clock, and the clock on the wall.

use std::fmt;
use std::future;
use std::time::Duration;

use async_trait::async_trait;
use headwater_core::Timestamp;
use tokio::time::Instant;

/// As good as never, and still inside what every clock can hold.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Returns the point in time that lies `by` after `now`, or decades ahead where that is too far.
pub(crate) fn later(now: Instant, by: Duration) -> Instant {
    now + by.min(FAR)
}

/// Sleeps until then, or for ever.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => future::pending().await,
    }
}

/// The clock on the wall, which may be set while it runs.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns what the clock shows.
    fn now(&self) -> Timestamp;

    /// Waits until the clock may show `time`, or for ever if there is none. It may return earlier,
    /// and does where the clock can be set meanwhile: whoever waits looks again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn wait_until(&self, time: Option<Timestamp>);
}

/// The system's clock. A change of it is noticed within a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// The monotonic clock by which we sleep does not tell that the one on the wall was set.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn wait_until(&self, time: Option<Timestamp>) {
        match time {
            Some(time) => {
                tokio::time::sleep(time.saturating_since(self.now()).min(LOOK_AGAIN)).await;
            }
            None => future::pending().await,
        }
    }
}
