//! Reading without copying: a lending walk over the frames of the log.

use std::sync::Arc;

use headwater_core::{
    CodecId, EventId, Position, ReadError, RecordedEvent, Revision, SchemaVersion, Selectable,
    Slot, Timestamp,
};

use crate::format::frame::{self, FrameHeader};
use crate::format::record::{self, RecordRef};
use crate::log::holding;
use crate::segment::Segment;

/// An event where it lies in the mapped log. It costs no copy and no allocation.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    position: Position,
    commit_time: Timestamp,
    record: RecordRef<'a>,
    segment: &'a Segment,
}

impl<'a> EventRef<'a> {
    /// Returns the place in the whole log.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns the name of the stream.
    pub fn stream(&self) -> &'a str {
        self.record.stream
    }

    /// Returns the place in the stream.
    pub fn revision(&self) -> Revision {
        self.record.revision()
    }

    /// Returns the position of the stream's event before, [`Position::START`] for its first.
    pub fn previous(&self) -> Position {
        self.record.previous()
    }

    /// Returns the identity of the event.
    pub fn id(&self) -> EventId {
        self.record.id()
    }

    /// Returns what happened.
    pub fn event_type(&self) -> &'a str {
        self.record.event_type
    }

    /// Returns the shape of the payload.
    pub fn schema_version(&self) -> SchemaVersion {
        self.record.schema_version()
    }

    /// Returns when the log committed it.
    pub fn commit_time(&self) -> Timestamp {
        self.commit_time
    }

    /// Returns when it happened by the producer's clock.
    pub fn event_time(&self) -> Timestamp {
        self.record.event_time()
    }

    /// Returns the slot of the ordering key.
    pub fn slot(&self) -> Slot {
        self.record.slot()
    }

    /// Returns how the payload is encoded.
    pub fn codec(&self) -> CodecId {
        self.record.codec()
    }

    /// Goes through the tags, in order.
    pub fn tags(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.record.tags()
    }

    /// Returns the encoded payload.
    pub fn payload(&self) -> &'a [u8] {
        self.record.payload
    }

    /// Copies everything into an event of its own.
    ///
    /// # Errors
    ///
    /// [`ReadError::Damaged`] if the names or the metadata are not what this format allows.
    pub fn to_event(&self) -> Result<RecordedEvent, ReadError> {
        self.record
            .to_event(self.position, self.commit_time)
            .map_err(|fault| self.segment.damaged(self.position, 0, &fault))
    }
}

impl Selectable for EventRef<'_> {
    fn stream(&self) -> &str {
        self.record.stream
    }

    fn event_type(&self) -> &str {
        self.record.event_type
    }

    fn has_tag(&self, tag: &str) -> bool {
        self.record.has_tag(tag)
    }
}

/// A walk over all events from a position to the head as it was when the walk began.
///
/// Every record's checksum is verified. The segments stay mapped while the walk lives.
#[derive(Debug)]
pub struct Scan {
    segments: Arc<Vec<Arc<Segment>>>,
    at: usize,
    next: Position,
    last: Position,
    frame: Option<Open>,
}

/// The frame that is being read.
#[derive(Clone, Copy, Debug)]
struct Open {
    header: FrameHeader,
    /// Where the next record begins in the file.
    record: usize,
    /// Where the next frame begins.
    end: usize,
}

impl Scan {
    /// Walks from `first` through `last`, which is published.
    pub(crate) fn new(segments: Arc<Vec<Arc<Segment>>>, first: Position, last: Position) -> Self {
        let at = holding(&segments, first);
        Self { segments, at, next: first, last, frame: None }
    }

    /// Returns the next event, or `None` at the end.
    ///
    /// # Errors
    ///
    /// [`ReadError::Damaged`] if stored bytes are not what was written. The walk ends there.
    #[expect(clippy::should_implement_trait, reason = "an Iterator cannot lend")]
    pub fn next(&mut self) -> Option<Result<EventRef<'_>, ReadError>> {
        if self.next > self.last {
            return None;
        }
        let place = match self.place() {
            Ok(place) => place,
            Err(error) => {
                self.last = Position::START;
                return Some(Err(error));
            }
        };
        let position = self.next;
        self.next = position.next();
        let segment = &*self.segments[self.at];
        let bytes = segment.published().get(place.record..place.end).unwrap_or_default();
        match record::decode(bytes, &segment.seed) {
            Ok(record) => {
                let record_end = place.record + record.bytes.len();
                self.frame = Some(Open { record: record_end, ..place });
                let commit_time = place.header.commit_time;
                Some(Ok(EventRef { position, commit_time, record, segment }))
            }
            Err(fault) => {
                self.last = Position::START;
                Some(Err(segment.damaged(position, place.record as u64, &fault)))
            }
        }
    }

    /// Finds the next record: in the open frame, the one behind it, or the next segment.
    fn place(&mut self) -> Result<Open, ReadError> {
        match self.frame {
            Some(open) if self.next <= open.header.last() => return Ok(open),
            None => return self.seek(),
            Some(_) => {}
        }
        let following = self.segments.get(self.at + 1);
        if following.is_some_and(|segment| segment.header.base <= self.next) {
            self.at += 1;
            self.frame = None;
            return self.seek();
        }
        let end = self.frame.map_or(0, |open| open.end);
        self.open(end)
    }

    /// Goes to the next record by the index, which knows its frame.
    fn seek(&mut self) -> Result<Open, ReadError> {
        let segment = &self.segments[self.at];
        let Some(at) = segment.index().find(self.next) else {
            let missing = crate::format::record::RecordFault::Truncated(0);
            return Err(segment.damaged(self.next, segment.end(), &missing));
        };
        let open = self.open(at.frame as usize)?;
        Ok(Open { record: at.offset as usize, ..open })
    }

    fn open(&self, offset: usize) -> Result<Open, ReadError> {
        let segment = &self.segments[self.at];
        let bytes = segment.published().get(offset..).unwrap_or_default();
        let header = frame::decode_header(bytes, &segment.seed)
            .map_err(|fault| segment.damaged(self.next, offset as u64, &fault))?;
        let end = offset + header.bytes as usize;
        Ok(Open { header, record: offset + frame::HEADER_BYTES, end })
    }
}
