//! How far behind the head of the log a reader is.

use std::time::Duration;

use headwater_core::{EventLog, Position, Query, Read, ReadError, Timestamp, Visibility};

/// How far behind the head of the log a reader is, in events, bytes and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// How many positions lie between the reader and the head.
    pub events: u64,
    /// Whether `events` is exact. Where the reader selects only some events, or the engine
    /// leaves gaps, it is an upper bound.
    pub exact: bool,
    /// How many bytes of the log lie between, as its engine stores them, whether the reader
    /// selects them or not; `None` if the engine cannot say.
    pub bytes: Option<u64>,
    /// How long ago the first event was committed that the reader has not handled, by the wall
    /// clock. An upper bound where `events` is one.
    pub time: Duration,
}

impl Lag {
    /// Measures from a reader's position to the head as it is now, with one read of one event.
    pub(crate) async fn measure<L: EventLog + ?Sized>(
        log: &L,
        reached: Position,
        exact: bool,
        visibility: Visibility,
    ) -> Result<Self, ReadError> {
        let head = log.head(visibility).await?;
        let events = head.events_since(reached).unwrap_or(0);
        let mut lag = Self { events, exact, bytes: Some(0), time: Duration::ZERO };
        if events > 0 {
            lag.bytes = log.bytes_between(reached, head).await?;
            let first = Read::forward(Query::all(), reached).limit(1).visible(visibility);
            if let Some(event) = log.read(first).await?.events.first() {
                lag.time = Timestamp::now().saturating_since(event.commit_time);
            }
        }
        Ok(lag)
    }
}
