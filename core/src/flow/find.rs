//! Looking for an event of which only the id is known, where the time in the id says that it is.

use std::time::Duration;

use crate::event::RecordedEvent;
use crate::id::EventId;
use crate::log::{EventLog, Read, ReadError};
use crate::position::Position;
use crate::query::Query;
use crate::time::Timestamp;

/// How long after its id was made an event is appended, as a rule.
const APPENDED_WITHIN: Duration = Duration::from_secs(60);
/// How many events are looked at before a place where the event should be.
const BEFORE: u64 = 10_000;

/// Looks for the event with this id that lies before a position: where its time says, right before
/// that, as clocks differ, and right before the position.
pub(super) async fn near(
    log: &dyn EventLog,
    id: EventId,
    start: Position,
    before: Position,
) -> Result<Option<RecordedEvent>, ReadError> {
    if let Some(time) = time_of(id) {
        let after = log.position_at(time).await?.max(start);
        let latest = time.saturating_add(APPENDED_WITHIN);
        let ends = |event: &RecordedEvent| event.position >= before || event.commit_time > latest;
        if let Some(event) = up(log, id, after, &mut { u64::MAX }, ends).await?.0 {
            return Ok(Some(event));
        }
        let early = down(log, id, after.next(), start, &mut { BEFORE }).await?;
        if let Some(event) = early.filter(|event| event.position < before) {
            return Ok(Some(event));
        }
    }
    down(log, id, before, start, &mut { BEFORE }).await
}

/// Looks for the event with this id among `max` events: where its time says, then everywhere before
/// that, and at last behind.
pub(super) async fn anywhere(
    log: &dyn EventLog,
    id: EventId,
    start: Position,
    max: u64,
) -> Result<Option<RecordedEvent>, ReadError> {
    let mut left = max;
    let Some(time) = time_of(id) else {
        return down(log, id, Position::MAX, start, &mut left).await;
    };
    let after = log.position_at(time).await?.max(start);
    let latest = time.saturating_add(APPENDED_WITHIN);
    let late = |event: &RecordedEvent| event.commit_time > latest;
    let (found, reached) = up(log, id, after, &mut left, late).await?;
    if found.is_some() {
        return Ok(found);
    }
    if let Some(event) = down(log, id, after.next(), start, &mut left).await? {
        return Ok(Some(event));
    }
    Ok(up(log, id, reached, &mut left, |_| false).await?.0)
}

/// Returns the time that an id was made at, if it says so.
fn time_of(id: EventId) -> Option<Timestamp> {
    let (seconds, nanos) = id.as_uuid().get_timestamp()?.to_unix();
    let seconds = Duration::new(seconds, nanos);
    Some(Timestamp::EPOCH.saturating_add(seconds))
}

/// Goes up until an event `ends` it or nothing is left to look at. Returns how far it came.
async fn up(
    log: &dyn EventLog,
    id: EventId,
    mut after: Position,
    left: &mut u64,
    ends: impl Fn(&RecordedEvent) -> bool,
) -> Result<(Option<RecordedEvent>, Position), ReadError> {
    while *left > 0 {
        let page = log.read(Read::forward(Query::all(), after).limit(page_of(*left))).await?;
        *left -= page.events.len() as u64;
        for event in page.events {
            if ends(&event) {
                return Ok((None, event.position.previous()));
            }
            if event.id == id {
                let position = event.position;
                return Ok((Some(event), position));
            }
        }
        after = page.scanned.max(after);
        if page.done {
            break;
        }
    }
    Ok((None, after))
}

/// Goes down until nothing is left to look at.
async fn down(
    log: &dyn EventLog,
    id: EventId,
    mut before: Position,
    start: Position,
    left: &mut u64,
) -> Result<Option<RecordedEvent>, ReadError> {
    while *left > 0 && before > start.next() {
        let page = log.read(Read::backward(Query::all(), before).limit(page_of(*left))).await?;
        *left -= page.events.len() as u64;
        if let Some(event) = page.events.into_iter().find(|event| event.id == id) {
            return Ok(Some(event));
        }
        if page.done {
            break;
        }
        before = page.scanned;
    }
    Ok(None)
}

fn page_of(left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(Read::LIMIT)
}
