//! Cron lines. Parsing and searching are croner's, time zones are jiff's.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Zoned;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::InvalidSchedule;
use crate::time::Timestamp;

/// A cron line is not longer than this.
const LINE_BYTES_MAX: usize = 256;

/// A cron line and the time zone whose clocks it is read by.
///
/// Five fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday; names as
/// `MON` and `JAN` work); six have seconds before them, and seven the year behind them too. Fields
/// take `*`, `a-b`, `,` and `/`; days of the month also `L` (the last) and `15W` (the weekday next
/// to it); days of the week `MON#2` (the second) and `FRI#L` (the last). A day matches if either
/// of the two fields of days does, unless one is `*`, or the last begins with `+`. `@hourly`,
/// `@daily`, `@weekly`, `@monthly` and `@yearly` are names for usual ones.
///
/// # When clocks are changed
///
/// As with Vixie's cron. A line whose minute and hour are fixed happens once a day: if clocks go
/// forward over its time, right after the gap; if they go back over it, the first time only. A line
/// with `*` or steps in its hours, minutes or seconds goes by what the clock shows: not in the gap,
/// and in both of the two hours that look the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "RawLine", into = "RawLine")]
pub struct CronLine {
    line: Arc<str>,
    zone: Arc<str>,
    cron: Arc<Cron>,
    time_zone: TimeZone,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    line: String,
    zone: String,
}

impl CronLine {
    /// Reads a line, and finds the zone in the system's database, or in the one compiled in.
    ///
    /// # Errors
    ///
    /// [`InvalidSchedule`] says what is wrong with the line or the zone.
    pub fn new(line: &str, zone: &str) -> Result<Self, InvalidSchedule> {
        let invalid = |detail: String| InvalidSchedule::Line {
            line: line.chars().take(80).collect(),
            detail,
        };
        if line.len() > LINE_BYTES_MAX {
            return Err(invalid(format!("it is longer than {LINE_BYTES_MAX} bytes")));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Optional).build();
        let cron = parser.parse(line).map_err(|error| invalid(error.to_string()))?;
        let time_zone = TimeZone::get(zone).map_err(|error| InvalidSchedule::UnknownZone {
            zone: zone.chars().take(80).collect(),
            detail: error.to_string(),
        })?;
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let this = Self { line: line.into(), zone: zone.into(), cron: Arc::new(cron), time_zone };
        if this.next_after(Timestamp::EPOCH).is_none() {
            return Err(InvalidSchedule::NeverDue { line: this.line.to_string() });
        }
        Ok(this)
    }

    /// Returns the line, with one space between two fields.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Returns the name of the time zone.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    pub(super) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        // Lines go by whole seconds, and so does the search.
        let second = jiff::Timestamp::from_second(after.as_nanos().div_euclid(1_000_000_000));
        let mut from = Zoned::new(second.ok()?, self.time_zone.clone());
        loop {
            let next = self.cron.find_next_occurrence(&from, false).ok()?;
            if next.timestamp() <= from.timestamp() {
                // It would not come to an end.
                return None;
            }
            let nanos = i64::try_from(next.timestamp().as_nanosecond()).ok()?;
            if nanos > after.as_nanos() {
                return Some(Timestamp::from_nanos(nanos));
            }
            from = next;
        }
    }
}

impl PartialEq for CronLine {
    fn eq(&self, other: &Self) -> bool {
        (&self.line, &self.zone) == (&other.line, &other.zone)
    }
}

impl Eq for CronLine {}

impl Hash for CronLine {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.line, &self.zone).hash(state);
    }
}

impl TryFrom<RawLine> for CronLine {
    type Error = InvalidSchedule;

    fn try_from(raw: RawLine) -> Result<Self, InvalidSchedule> {
        Self::new(&raw.line, &raw.zone)
    }
}

impl From<CronLine> for RawLine {
    fn from(line: CronLine) -> Self {
        Self { line: line.line.to_string(), zone: line.zone.to_string() }
    }
}
