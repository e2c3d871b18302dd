//! Points on the monotonic clock.

use std::time::Duration;

use tokio::time::Instant;

/// As good as never, and still inside what every clock can hold.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Returns the point in time that lies `by` after `now`, or decades ahead where that is too far.
pub(crate) fn later(now: Instant, by: Duration) -> Instant {
    now + by.min(FAR)
}
