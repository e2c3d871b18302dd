//! When something is to happen: once, at intervals, or by a cron line in a time zone.

#[cfg(feature = "cron")]
mod cron;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(feature = "cron")]
pub use self::cron::CronLine;
use crate::time::Timestamp;

/// When something is to happen.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use headwater_core::{Schedule, Timestamp};
///
/// let noon = Timestamp::from_millis(1_764_158_400_000);
/// let hourly = Schedule::every(Duration::from_secs(3_600), noon)?;
/// assert_eq!(hourly.next_after(noon).map(|t| t.to_string()).as_deref(), Some("2025-11-26T13:00:00Z"));
/// # Ok::<(), headwater_core::InvalidSchedule>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Schedule {
    /// At one moment.
    Once(Timestamp),
    /// At intervals of fixed length.
    Every(Interval),
    /// By the clock on the wall of a time zone.
    #[cfg(feature = "cron")]
    Cron(CronLine),
}

impl Schedule {
    /// Makes a schedule of intervals: at `start`, and at every whole number of intervals after it.
    ///
    /// # Errors
    ///
    /// [`InvalidSchedule::ZeroInterval`], or [`InvalidSchedule::IntervalTooLong`] for one of more
    /// than 292 years, beyond which no time lies.
    pub fn every(interval: Duration, start: Timestamp) -> Result<Self, InvalidSchedule> {
        Interval::new(interval, start).map(Self::Every)
    }

    /// Makes a schedule of a cron line and the name of a time zone; see [`CronLine`].
    ///
    /// # Errors
    ///
    /// [`InvalidSchedule`] says what is wrong with the line or the zone.
    #[cfg(feature = "cron")]
    pub fn cron(line: &str, zone: &str) -> Result<Self, InvalidSchedule> {
        CronLine::new(line, zone).map(Self::Cron)
    }

    /// Returns the first time of the schedule that is later than `after`, or `None` where there is
    /// none before the end of time in the year 2262.
    ///
    /// # Complexity
    ///
    /// Constant for an interval; for a cron line, with the years that lie in between.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Once(time) => (*time > after).then_some(*time),
            Self::Every(interval) => interval.next_after(after),
            #[cfg(feature = "cron")]
            Self::Cron(line) => line.next_after(after),
        }
    }

    /// Returns whether it happens once at most.
    pub fn is_once(&self) -> bool {
        matches!(self, Self::Once(_))
    }
}

/// Times at a fixed distance from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawInterval", into = "RawInterval")]
pub struct Interval {
    /// More than zero.
    nanos: i64,
    start: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInterval {
    nanos: u64,
    start: Timestamp,
}

impl Interval {
    fn new(interval: Duration, start: Timestamp) -> Result<Self, InvalidSchedule> {
        if interval.is_zero() {
            return Err(InvalidSchedule::ZeroInterval);
        }
        let nanos = i64::try_from(interval.as_nanos());
        let nanos = nanos.map_err(|_| InvalidSchedule::IntervalTooLong { interval })?;
        Ok(Self { nanos, start })
    }

    /// Returns how far the times lie apart.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.nanos.unsigned_abs())
    }

    /// Returns the first of the times.
    pub fn start(&self) -> Timestamp {
        self.start
    }

    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        if after < self.start {
            return Some(self.start);
        }
        let (start, after) = (i128::from(self.start.as_nanos()), i128::from(after.as_nanos()));
        let interval = i128::from(self.nanos);
        let next = start + ((after - start) / interval + 1) * interval;
        i64::try_from(next).ok().map(Timestamp::from_nanos)
    }
}

impl TryFrom<RawInterval> for Interval {
    type Error = InvalidSchedule;

    fn try_from(raw: RawInterval) -> Result<Self, InvalidSchedule> {
        Self::new(Duration::from_nanos(raw.nanos), raw.start)
    }
}

impl From<Interval> for RawInterval {
    fn from(interval: Interval) -> Self {
        Self { nanos: interval.nanos.unsigned_abs(), start: interval.start }
    }
}

/// A schedule that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSchedule {
    /// The interval has no length.
    #[error("an interval of zero never ends; give it at least a nanosecond")]
    ZeroInterval,
    /// The interval is longer than the time there is.
    #[error(
        "an interval of {interval:?} is longer than the 292 years that times reach; use a shorter one, or one moment"
    )]
    IntervalTooLong {
        /// The interval as given.
        interval: Duration,
    },
    /// The cron line is not one.
    #[error(
        "the cron line {line:?} is not one: {detail}; write minute, hour, day of month, month and day of week, as in \"30 6 * * MON-FRI\""
    )]
    Line {
        /// The line as given.
        line: String,
        /// What its parser said.
        detail: String,
    },
    /// The cron line has no time from 1970 on.
    #[error(
        "the cron line {line:?} has no time from 1970 to 2262; check that its month has its day"
    )]
    NeverDue {
        /// The line as given.
        line: String,
    },
    /// There is no such time zone.
    #[error(
        "there is no time zone {zone:?} ({detail}); use a name of the IANA database, such as Europe/Berlin or UTC"
    )]
    UnknownZone {
        /// The name as given.
        zone: String,
        /// What the database said.
        detail: String,
    },
}
