//! Folding what a query selects, once, up to some moment.

use std::error::Error;

use crate::event::RecordedEvent;
use crate::log::{EventLog, Read, ReadError, Visibility};
use crate::position::Position;
use crate::query::Query;
use crate::time::Timestamp;

/// Where a fold ends. What is not there yet does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// At the last event that is there when it begins.
    #[default]
    Head,
    /// With the event at this position.
    Position(Position),
    /// With the last event that was committed at this time or before.
    Time(Timestamp),
}

/// A state, and up to where everything is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded<S> {
    /// What was folded.
    pub state: S,
    /// The position up to which every selected event is in it.
    pub position: Position,
}

/// Why something could not be folded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError<E: Error + 'static> {
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An event was refused.
    #[error("the event at position {position} cannot be folded")]
    Apply {
        /// Where the event stands.
        position: Position,
        /// Why.
        source: E,
    },
}

/// Folds the events that a query selects into a state: what did this look like on the first of May?
///
/// For a question that is asked once. What is asked again and again is a projection.
///
/// # Errors
///
/// [`FoldError`]; [`ReadError::BelowStart`] if retention has removed the beginning of the log.
///
/// # Cancel safety
///
/// Cancel safe.
///
/// # Complexity
///
/// Linear in the number of selected events, found by index, in bounded memory.
///
/// # Examples
///
/// ```
/// use headwater_core::{
///     Append, DecodeError, EventLog, EventType, MemoryLog, NewEvent, Query, StreamId, Until, fold,
/// };
///
/// # pollster::block_on(async {
/// let log = MemoryLog::new();
/// for amount in [3_i64, 4, -2] {
///     let event = NewEvent::json(StreamId::new("account-1")?, EventType::new("moved")?, &amount)?;
///     log.append(Append::new([event])).await?;
/// }
/// let account = Query::stream(StreamId::new("account-1")?);
/// let after_two = Until::Position(headwater_core::Position::new(2));
/// let balance = fold(&log, account, after_two, 0, |balance, event| {
///     *balance += event.decode::<i64>()?;
///     Ok::<_, headwater_core::CodecError>(())
/// })
/// .await?;
/// assert_eq!(balance.state, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub async fn fold<S, E: Error + 'static>(
    log: &dyn EventLog,
    query: Query,
    until: Until,
    state: S,
    mut apply: impl FnMut(&mut S, &RecordedEvent) -> Result<(), E>,
) -> Result<Folded<S>, FoldError<E>> {
    let head = log.head(Visibility::Committed).await?;
    let until = match until {
        Until::Head => head,
        Until::Position(position) => position.min(head),
        Until::Time(time) => log.position_at(time).await?.min(head),
    };
    let mut folded = Folded { state, position: Position::START };
    while folded.position < until {
        let page = log.read(Read::forward(query.clone(), folded.position)).await?;
        for event in page.events.iter().take_while(|event| event.position <= until) {
            let position = event.position;
            apply(&mut folded.state, event)
                .map_err(|source| FoldError::Apply { position, source })?;
        }
        folded.position = page.scanned.min(until);
    }
    Ok(folded)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use pollster::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::append::Append;
    use crate::event::NewEvent;
    use crate::memory::MemoryLog;
    use crate::name::{EventType, StreamId};

    fn event(stream: &str) -> NewEvent {
        let event_type = EventType::new("e").unwrap();
        NewEvent::json(StreamId::new(stream).unwrap(), event_type, &()).unwrap()
    }

    fn positions(log: &MemoryLog, query: &Query, until: Until) -> Folded<Vec<u64>> {
        let push = |positions: &mut Vec<u64>, event: &RecordedEvent| {
            positions.push(event.position.get());
            Ok::<_, Infallible>(())
        };
        block_on(fold(log, query.clone(), until, Vec::new(), push)).unwrap()
    }

    proptest! {
        #[test]
        fn a_fold_takes_what_is_selected_up_to_its_end_and_nothing_else(
            streams in prop::collection::vec(0..3_u8, 0..3_000),
            until in 0..3_500_u64,
        ) {
            let log = MemoryLog::new();
            let events: Vec<NewEvent> = streams.iter().map(|n| event(&format!("a-{n}"))).collect();
            for some in events.chunks(700) {
                block_on(log.append(Append::new(some.to_vec()))).unwrap();
            }
            let head = streams.len() as u64;
            let all = |through: u64| -> Vec<u64> { (1..=head.min(through)).collect() };
            let folded = positions(&log, &Query::all(), Until::Position(Position::new(until)));
            prop_assert_eq!(&folded.state, &all(until));
            prop_assert_eq!(folded.position.get(), until.min(head));
            prop_assert_eq!(positions(&log, &Query::all(), Until::Head).state, all(head));

            let one = Query::stream(StreamId::new("a-1").unwrap());
            let folded = positions(&log, &one, Until::Position(Position::new(until)));
            let of_one = |at: &u64| streams[usize::try_from(*at).unwrap() - 1] == 1;
            let expected: Vec<u64> = all(until).into_iter().filter(of_one).collect();
            prop_assert_eq!(folded.state, expected);
            prop_assert_eq!(folded.position.get(), until.min(head));
        }
    }

    #[test]
    fn a_moment_is_before_what_was_committed_later() {
        let log = MemoryLog::new();
        for _ in 0..5 {
            block_on(log.append(Append::new([event("a-1")]))).unwrap();
        }
        let page = block_on(log.read(Read::forward(Query::all(), Position::START))).unwrap();
        let third = page.events[2].commit_time;
        let expected: Vec<u64> = page
            .events
            .iter()
            .filter(|event| event.commit_time <= third)
            .map(|event| event.position.get())
            .collect();
        let folded = positions(&log, &Query::all(), Until::Time(third));
        assert_eq!(folded.state, expected);
        assert!(positions(&log, &Query::all(), Until::Time(Timestamp::EPOCH)).state.is_empty());
    }

    #[test]
    fn an_event_that_is_refused_is_named() {
        let log = MemoryLog::new();
        block_on(log.append(Append::new([event("a-1"), event("a-1")]))).unwrap();
        let refuse = |(): &mut (), event: &RecordedEvent| match event.position.get() {
            2 => Err(std::fmt::Error),
            _ => Ok(()),
        };
        let error = block_on(fold(&log, Query::all(), Until::Head, (), refuse)).unwrap_err();
        assert_eq!(error.to_string(), "the event at position 2 cannot be folded");
    }
}
