//! Reading without copying: a lending walk over the frames of the log.

use std::sync::Arc;

use headwater_core::{
    CodecId, CorrelationId, EventId, Position, ReadError, RecordedEvent, Revision, SchemaVersion,
    Selectable, Slot, StoredEvent, Timestamp,
};

use crate::format::frame::{self, FrameHeader, HEADER_BYTES};
use crate::format::record::{self, Names, RecordRef};
use crate::planted::{Bug, planted};
use crate::segment::Segment;
use crate::segments::{SegmentList, holding};

/// A larger frame is verified record by record.
const VERIFIED_BYTES_MAX: usize = 1024 * 1024;

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

    /// Returns the record itself.
    pub(crate) fn record(&self) -> &RecordRef<'a> {
        &self.record
    }

    /// Names what is wrong with it.
    pub(crate) fn damaged(&self, fault: &dyn std::error::Error) -> ReadError {
        self.segment.damaged(self.position, 0, fault)
    }

    /// Returns what a typed event is decoded from, without copying: see
    /// [`decode_stored`](headwater_core::decode_stored).
    pub fn stored(&self) -> StoredEvent<'a> {
        StoredEvent {
            position: self.position(),
            event_type: self.event_type(),
            schema_version: self.schema_version(),
            codec: self.codec(),
            payload: self.payload(),
        }
    }

    /// Copies everything into an event of its own.
    ///
    /// # Errors
    ///
    /// [`ReadError::Damaged`] if the names or the metadata are not what this format allows.
    pub fn to_event(&self) -> Result<RecordedEvent, ReadError> {
        self.record
            .to_event(self.position, self.commit_time, &mut Names::default())
            .map_err(|fault| self.damaged(&fault))
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

    fn flow(&self) -> Option<CorrelationId> {
        self.record.flow()
    }
}

/// A walk over all events from a position to the head as it was when the walk began.
///
/// Every byte is verified, with the checksum of its frame or of its record. The segment that is
/// being read stays mapped while the walk lives.
#[derive(Debug)]
pub struct Scan {
    segments: SegmentList,
    at: usize,
    next: Position,
    last: Position,
    open: Option<Open>,
}

/// What is being read.
#[derive(Clone, Debug)]
struct Open {
    segment: Arc<Segment>,
    frame: FrameHeader,
    /// Where the next record begins in the file.
    record: usize,
    /// Where the next frame begins.
    end: usize,
    /// The checksum of the whole frame was right. It takes a fraction of those of its records.
    verified: bool,
}

impl Scan {
    /// Walks from `first` through `last`, which is published.
    pub(crate) fn new(segments: SegmentList, first: Position, last: Position) -> Self {
        let at = holding(&segments, first);
        Self { segments, at, next: first, last, open: None }
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
        let position = self.next;
        self.next = position.next();
        if let Err(error) = self.go_to(position) {
            self.last = Position::START;
            return Some(Err(error));
        }
        let open = self.open.as_mut().expect("it was opened just now");
        let segment = &*open.segment;
        // Opening the frame made sure of its pages.
        let bytes = segment.below_end().get(open.record..open.end).unwrap_or_default();
        let decoded = if open.verified {
            record::decode_verified(bytes)
        } else {
            record::decode(bytes, &segment.seed)
        };
        match decoded {
            Ok(record) => {
                open.record += record.bytes.len();
                let commit_time = open.frame.commit_time;
                Some(Ok(EventRef { position, commit_time, record, segment }))
            }
            Err(fault) => {
                self.last = Position::START;
                Some(Err(segment.damaged(position, open.record as u64, &fault)))
            }
        }
    }

    /// Opens the frame that holds a position: the open one, the one behind it, or the first of
    /// the next segment.
    fn go_to(&mut self, position: Position) -> Result<(), ReadError> {
        let end = match &self.open {
            Some(open) if position <= open.frame.last() => return Ok(()),
            Some(open) => open.end,
            None => return self.seek(position),
        };
        let following = self.segments.get(self.at + 1);
        let is_next = following.is_some_and(|segment| segment.base <= position);
        if is_next && !planted(Bug::MissSegmentEnd) {
            return self.seek(position);
        }
        let segment = Arc::clone(&self.open.as_ref().expect("it is open").segment);
        self.open = Some(Open::new(segment, position, end)?);
        Ok(())
    }

    /// Goes to a position by the index, which knows its frame.
    fn seek(&mut self, position: Position) -> Result<(), ReadError> {
        self.at = holding(&self.segments, position);
        let Some(segment) = self.segments.get(self.at) else {
            return Err(ReadError::Closed);
        };
        let segment = segment.get()?;
        let Some(at) = segment.find(position)? else {
            let missing = record::RecordFault::Truncated(0);
            return Err(segment.damaged(position, segment.end(), &missing));
        };
        let first = at.frame as usize + HEADER_BYTES;
        let mut open = Open::new(segment, position, at.frame as usize)?;
        if at.offset as usize != first {
            // Only a part of the frame is read.
            (open.record, open.verified) = (at.offset as usize, false);
        }
        self.open = Some(open);
        Ok(())
    }
}

impl Open {
    fn new(segment: Arc<Segment>, position: Position, offset: usize) -> Result<Self, ReadError> {
        let frame = segment.frame(position, offset as u64)?;
        let end = offset + frame.bytes as usize;
        // So that no record of it need ask.
        let bytes = segment.published(offset as u64, frame.bytes.into())?;
        // A frame that fits the cache is read twice at the price of once. If the checksum is
        // wrong, those of the records say which one.
        let verified =
            end - offset <= VERIFIED_BYTES_MAX && frame::decode(bytes, &segment.seed).is_ok();
        Ok(Self { segment, frame, record: offset + HEADER_BYTES, end, verified })
    }
}
