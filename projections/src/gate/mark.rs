//! How far a group may fall behind, and what producers do then.

use std::time::Duration;

use headwater_core::{GroupName, Overrun};

use crate::lag::Lag;

/// How far behind the head of the log a group is, in any of three measures. What is `None` is not
/// looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// In events of the log, whether the group selects them or not.
    pub events: Option<u64>,
    /// In bytes of the log, likewise.
    pub bytes: Option<u64>,
    /// Since its first unsettled event was committed.
    pub age: Option<Duration>,
}

impl Level {
    /// A level in events.
    pub fn events(events: u64) -> Self {
        Self { events: Some(events), ..Self::default() }
    }

    /// A level in bytes.
    pub fn bytes(bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..Self::default() }
    }

    /// A level in time.
    pub fn age(age: Duration) -> Self {
        Self { age: Some(age), ..Self::default() }
    }

    fn half(self) -> Self {
        Self {
            events: self.events.map(|events| events / 2),
            bytes: self.bytes.map(|bytes| bytes / 2),
            age: self.age.map(|age| age / 2),
        }
    }

    /// Returns the first measure in which a lag has passed the level.
    pub(super) fn passed_by(&self, lag: &Lag, group: &GroupName) -> Option<Overrun> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let over = |mark: Option<u64>, lag: u64| mark.filter(|&mark| lag > mark);
        let found = |measure, mark, lag| {
            Some(Overrun { group: group.clone(), measure, lag, mark, waited: Duration::ZERO })
        };
        if let Some(mark) = over(self.events, lag.events) {
            return found("events", mark, lag.events);
        }
        let bytes = lag.bytes.unwrap_or(0);
        if let Some(mark) = over(self.bytes, bytes) {
            return found("bytes", mark, bytes);
        }
        let age = self.age.filter(|&age| lag.time > age)?;
        found("ms", millis(age), millis(lag.time))
    }
}

/// What producers do while a group is too far behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// They wait until it is down to the low mark, and are refused after this time.
    Block(Duration),
    /// They are refused at once.
    Refuse,
    /// They go on; there is one warning in the trace each time the mark is passed.
    Warn,
}

/// How far a group may fall behind the producers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HighWater {
    /// The group. While there is none of this name, it holds nobody up.
    pub group: GroupName,
    /// Whoever appends while the lag is above this is held up.
    pub high: Level,
    /// Who was held up goes on when the lag is no longer above this, in every measure. Half of
    /// `high` by default, so that producers are not woken for every event.
    pub low: Level,
    /// What producers do meanwhile.
    pub overflow: Overflow,
}

impl HighWater {
    /// Holds producers up above a level, until the lag is down to half of it.
    pub fn new(group: GroupName, high: Level, overflow: Overflow) -> Self {
        Self { group, high, low: high.half(), overflow }
    }
}
