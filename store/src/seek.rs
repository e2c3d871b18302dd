//! From the marks of an index to records, many at a time.
//!
//! A mark stands before a few events. A look-up is a chain of cache misses: the mark, the frame,
//! then record after record. Chains of different events do not wait for each other if each step is
//! taken for all of them before the next one (group prefetching: Chen, Ailamaki, Gibbons, Mowry,
//! "Improving Hash Join Performance through Prefetching", ICDE 2004).

use std::hint::black_box;

use headwater_core::{Position, ReadError};

use crate::format::frame::{FrameFault, FrameHeader, HEADER_BYTES};
use crate::format::index::MARK_EVERY;
use crate::format::record::RecordFault;
use crate::format::u32_at;
use crate::index::Location;
use crate::segment::Segment;

const LINE_BYTES: usize = 64;
/// So much of each record is asked for before the first is read.
const FETCHED_BYTES_MAX: usize = 1024;
const FRAME_HEADER_BYTES: u32 = 64;
const _: () = assert!(FRAME_HEADER_BYTES as usize == HEADER_BYTES);

/// An event on the way from the index to its record.
#[derive(Debug)]
pub(crate) struct Seek<'a> {
    pub(crate) segment: &'a Segment,
    delta: u32,
    place: Place,
}

/// How near an event is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// The index was not asked.
    Somewhere,
    /// There it is.
    At(Location),
    /// At or behind this record, in this frame or a later one.
    Behind { record: u32, frame: u32 },
    /// At or behind the record of a position, in a frame or a later one.
    Along { position: Position, record: u32, frame: u32, header: FrameHeader },
}

impl<'a> Seek<'a> {
    /// Begins to look for an event that the segment has.
    pub(crate) fn new(segment: &'a Segment, delta: u32) -> Self {
        Self { segment, delta, place: Place::Somewhere }
    }

    pub(crate) fn position(&self) -> Position {
        self.segment.position(self.delta)
    }

    /// Returns where the event lies, after [`find_all`].
    pub(crate) fn location(&self) -> Location {
        match self.place {
            Place::At(location) => location,
            Place::Somewhere | Place::Behind { .. } | Place::Along { .. } => {
                unreachable!("it was not looked for")
            }
        }
    }

    /// Looks at the frame of the mark.
    fn enter(&mut self) -> Result<(), ReadError> {
        if let Place::Behind { record, frame } = self.place {
            let position = self.segment.position(self.delta / MARK_EVERY * MARK_EVERY);
            let header = self.segment.frame(self.position(), frame.into())?;
            if !(header.first..=header.last()).contains(&position) {
                let fault = FrameFault::Length(header.records);
                return Err(self.segment.damaged(self.position(), frame.into(), &fault));
            }
            self.place = Place::Along { position, record, frame, header };
        }
        Ok(())
    }

    /// Goes on by a record or a frame. Returns whether the event is not there yet.
    fn step(&mut self) -> Result<bool, ReadError> {
        let Place::Along { position, record, frame, header } = self.place else { return Ok(false) };
        let target = self.position();
        if target > header.last() {
            let frame = frame + header.bytes;
            let (position, record) = (header.last().next(), frame + FRAME_HEADER_BYTES);
            let header = self.segment.frame(target, frame.into())?;
            self.place = Place::Along { position, record, frame, header };
        } else if position < target {
            let end = frame + header.bytes;
            let len = self.segment.published(record.into(), 4)?;
            let len = len.get(..4).map_or(0, |len| u32_at(len, 0));
            let next = record.checked_add(len).filter(|&next| len > 0 && next < end);
            let fault = RecordFault::Length(len);
            let next = next.ok_or_else(|| self.segment.damaged(position, record.into(), &fault))?;
            self.place = Place::Along { position: position.next(), record: next, frame, header };
        } else {
            let commit_time = header.commit_time;
            self.place = Place::At(Location { offset: record, frame, commit_time });
            return Ok(false);
        }
        Ok(true)
    }

    /// Asks for memory that is needed next.
    fn fetch(&self) -> Result<u8, ReadError> {
        let lines = |at: u32, len: usize| {
            let bytes = self.segment.published(at.into(), len as u64)?;
            let lines = bytes[..len.min(bytes.len())].iter().step_by(LINE_BYTES);
            Ok::<u8, ReadError>(lines.fold(0, |sum, byte| sum ^ byte))
        };
        match self.place {
            Place::Behind { record, frame } => Ok(lines(frame, 1)? ^ lines(record, 1)?),
            Place::Somewhere => Ok(self.segment.touch_mark(self.delta)),
            Place::Along { .. } => Ok(0),
            Place::At(location) => lines(location.offset, self.record_bytes(location)),
        }
    }

    /// Returns how much of the record is asked for.
    fn record_bytes(&self, at: Location) -> usize {
        let len = self.segment.published(at.offset.into(), 4);
        let len = len.ok().and_then(|bytes| Some(u32_at(bytes.get(..4)?, 0)));
        len.map_or(0, |len| (len as usize).min(FETCHED_BYTES_MAX))
    }
}

/// Finds the records of all these events.
pub(crate) fn find_all(seeks: &mut [Seek<'_>]) -> Result<(), ReadError> {
    fetch_all(seeks)?;
    for seek in &mut *seeks {
        seek.place = seek.segment.place(seek.delta)?;
    }
    fetch_all(seeks)?;
    for seek in &mut *seeks {
        seek.enter()?;
    }
    loop {
        let mut is_done = true;
        for seek in &mut *seeks {
            is_done &= !seek.step()?;
        }
        if is_done {
            return fetch_all(seeks);
        }
    }
}

fn fetch_all(seeks: &[Seek<'_>]) -> Result<(), ReadError> {
    let mut sum = 0;
    for seek in seeks {
        sum ^= seek.fetch()?;
    }
    // So that the compiler asks for what nobody looks at yet.
    black_box(sum);
    Ok(())
}
