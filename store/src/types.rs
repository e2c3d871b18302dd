//! Which event types a log has, without reading it: in each segment the events of all types that are
//! known are crossed out by its index, and the first event that is left names another one.
//!
//! Indexes know 32 bits of a name. A type is overlooked if each of its events is found under another
//! type's bits too, which for two names happens once in four billion; for a report of what a log holds
//! that is enough, and nothing else rests on it.

use std::sync::Arc;

use headwater_core::{EventType, Position, Query, ReadError};

use crate::index::{Terms, Walk};
use crate::segment::Segment;
use crate::segments::SegmentEntry;

/// How many candidates are taken from an index at a time.
const CHUNK_EVENTS: usize = 64 * 1024;

/// Returns the types of all events up to `last`, in the order in which they first appeared.
pub(crate) fn event_types(
    segments: &[Arc<SegmentEntry>],
    last: Position,
) -> Result<Vec<EventType>, ReadError> {
    let mut known: Vec<(EventType, Terms)> = Vec::new();
    for (at, entry) in segments.iter().enumerate() {
        let end = segments.get(at + 1).map_or(last, |next| next.base.previous().min(last));
        if entry.base > end {
            continue;
        }
        let segment = entry.get()?;
        let mut left = Left::new(&segment, end);
        for (_, terms) in &known {
            left.cross_out(terms)?;
        }
        while let Some(position) = left.first() {
            let place = segment.find(position)?.ok_or_else(|| missing(&segment, position))?;
            let record = segment.record(position, place)?;
            let event_type = EventType::new(record.event_type)
                .map_err(|error| segment.damaged(position, place.offset.into(), &error))?;
            let terms = Terms::of(&Query::types([event_type.clone()]));
            left.cross_out(&terms)?;
            left.cross_out_one(position);
            known.push((event_type, terms));
        }
    }
    Ok(known.into_iter().map(|(event_type, _)| event_type).collect())
}

fn missing(segment: &Segment, position: Position) -> ReadError {
    #[derive(Debug, thiserror::Error)]
    #[error("the index does not know the event")]
    struct Unknown;
    segment.damaged(position, 0, &Unknown)
}

/// The events of a segment that are not crossed out.
struct Left<'a> {
    segment: &'a Segment,
    last: Position,
    /// One bit for each event, set where it is crossed out.
    crossed: Vec<u64>,
    /// Everything before is crossed out.
    from: u32,
}

impl<'a> Left<'a> {
    /// All events of a segment up to `last`.
    fn new(segment: &'a Segment, last: Position) -> Self {
        let events = segment.deltas_through(last).min(segment.events());
        let crossed = vec![0; events.div_ceil(64) as usize];
        Self { segment, last: last.min(segment.position(events).previous()), crossed, from: 0 }
    }

    /// Crosses out what the index finds.
    fn cross_out(&mut self, terms: &Terms) -> Result<(), ReadError> {
        let mut next = self.segment.position(self.from);
        while next <= self.last {
            let range = (next, self.last);
            let (found, reached) = self.segment.candidates(terms, range, CHUNK_EVENTS, Walk::Up)?;
            for delta in found {
                self.cross(delta);
            }
            next = reached.next();
        }
        Ok(())
    }

    fn cross_out_one(&mut self, position: Position) {
        self.cross(self.segment.deltas_through(position) - 1);
    }

    fn cross(&mut self, delta: u32) {
        if let Some(word) = self.crossed.get_mut((delta / 64) as usize) {
            *word |= 1 << (delta % 64);
        }
    }

    /// Returns the first event that is left.
    fn first(&mut self) -> Option<Position> {
        let at = (self.from / 64) as usize;
        let word = self.crossed.get(at..)?.iter().position(|&word| word != u64::MAX)?;
        let bit = self.crossed[at + word].trailing_ones();
        self.from = u32::try_from((at + word) * 64).expect("deltas fit 32 bits") + bit;
        let position = self.segment.position(self.from);
        (position <= self.last).then_some(position)
    }
}
