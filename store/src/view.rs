//! What readers see of a log: its segments, and the watermarks that bound them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_core::{
    Direction, Page, Position, Query, Read, ReadError, RecordedEvent, Revision, StreamId,
    Visibility,
};
use tokio::sync::watch;

use crate::format::record::RecordRef;
use crate::index::{Chunk, Location, Terms, stream_term};
use crate::log::{Segments, holding};
use crate::segment::Segment;

/// How many candidates are taken from an index at a time.
const CHUNK_EVENTS: usize = 512;
/// About how many bytes one page looks at before it hands back what it has.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// How far a log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The watermark: the highest position readers may see.
    pub(crate) committed: Position,
    /// The highest position that power loss cannot take.
    pub(crate) durable: Position,
    /// Nothing will follow.
    pub(crate) closed: bool,
}

/// A log as readers see it.
#[derive(Debug)]
pub(crate) struct View {
    segments: Arc<Segments>,
    committed: AtomicU64,
    durable: AtomicU64,
    marks: watch::Sender<Marks>,
}

impl View {
    pub(crate) fn new(segments: Arc<Segments>, head: Position) -> Self {
        let marks = Marks { committed: head, durable: head, closed: false };
        Self {
            segments,
            committed: AtomicU64::new(head.get()),
            durable: AtomicU64::new(head.get()),
            marks: watch::Sender::new(marks),
        }
    }

    /// Lets readers see everything up to here. Segments and indexes hold it already.
    pub(crate) fn publish(&self, committed: Position, durable: Position) {
        // Pair with the Acquire loads in `head`. Committed first: what is durable is committed.
        self.committed.store(committed.get(), Ordering::Release);
        self.durable.store(durable.get(), Ordering::Release);
        self.marks.send_modify(|marks| *marks = Marks { committed, durable, ..*marks });
    }

    /// Tells those who wait that nothing will follow.
    pub(crate) fn close(&self) {
        self.marks.send_modify(|marks| marks.closed = true);
    }

    pub(crate) fn head(&self, visibility: Visibility) -> Position {
        let mark = match visibility {
            Visibility::Committed => &self.committed,
            Visibility::Durable => &self.durable,
        };
        Position::new(mark.load(Ordering::Acquire))
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.segments.list()
    }

    pub(crate) async fn wait_for(
        &self,
        position: Position,
        visibility: Visibility,
    ) -> Result<Position, ReadError> {
        let head = |marks: &Marks| match visibility {
            Visibility::Committed => marks.committed,
            Visibility::Durable => marks.durable,
        };
        let mut marks = self.marks.subscribe();
        let reached = marks.wait_for(|marks| head(marks) >= position || marks.closed).await;
        let reached = *reached.map_err(|_| ReadError::Closed)?;
        if head(&reached) >= position { Ok(head(&reached)) } else { Err(ReadError::Closed) }
    }

    pub(crate) fn read(&self, read: &Read) -> Result<Page, ReadError> {
        if read.limit == 0 {
            return Err(ReadError::ZeroLimit);
        }
        // The watermark first, then the segments: so the list holds all that the mark covers.
        let visible = self.head(read.visibility);
        let head = self.head(Visibility::Committed);
        let segments = self.segments();
        let walk = Walk { segments: &segments, query: &read.query, terms: Terms::of(&read.query) };
        match read.direction {
            Direction::After(after) if after > head => {
                Err(ReadError::BeyondHead { asked: after, head })
            }
            Direction::Before(before) if before > head.next() && before != Position::MAX => {
                Err(ReadError::BeyondHead { asked: before, head })
            }
            Direction::After(after) if after >= visible => {
                Ok(Page { events: Vec::new(), scanned: after, done: true })
            }
            Direction::After(after) => walk.page(after.next(), visible, read.limit, true),
            Direction::Before(before) => {
                let last = before.previous().min(visible);
                if last == Position::START {
                    return Ok(Page { events: Vec::new(), scanned: before, done: true });
                }
                walk.page(Position::FIRST, last, read.limit, false)
            }
        }
    }

    /// Returns where a stream ends.
    ///
    /// # Complexity
    ///
    /// One look-up per segment, from the newest, until one knows the stream.
    pub(crate) fn stream_end(&self, stream: &StreamId) -> Result<(Revision, Position), ReadError> {
        let term = stream_term(stream.as_str());
        for segment in self.segments().iter().rev() {
            let index = segment.index();
            for at in index.latest(term) {
                let record = segment.record(at)?;
                if record.stream == stream.as_str() {
                    return Ok((record.revision(), at.position));
                }
            }
        }
        Ok((Revision::NONE, Position::START))
    }

    /// Returns the last position after `after` that matches a query.
    pub(crate) fn latest_match(
        &self,
        query: &Query,
        after: Position,
    ) -> Result<Option<Position>, ReadError> {
        let head = self.head(Visibility::Committed);
        if after >= head {
            return Ok(None);
        }
        let segments = self.segments();
        let walk = Walk { segments: &segments, query, terms: Terms::of(query) };
        let mut found = None;
        walk.descend(after.next(), head, usize::MAX, |_, at, _| {
            found = Some(at.position);
            Ok(Flow::Stop)
        })?;
        Ok(found)
    }
}

/// What to do after a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

/// A search through the segments for what a query matches.
struct Walk<'a> {
    segments: &'a [Arc<Segment>],
    query: &'a Query,
    terms: Terms,
}

impl Walk<'_> {
    /// Collects a page from the range `first` through `last`, which is not empty.
    fn page(
        &self,
        first: Position,
        last: Position,
        limit: usize,
        forward: bool,
    ) -> Result<Page, ReadError> {
        let mut events: Vec<RecordedEvent> = Vec::new();
        let mut bytes = 0;
        let collect = |segment: &Segment, at: Location, record: RecordRef<'_>| {
            let event = record
                .to_event(at.position, segment.commit_time(at))
                .map_err(|fault| segment.damaged(at.position, at.offset.into(), &fault))?;
            bytes += record.bytes.len();
            events.push(event);
            let full = events.len() == limit || bytes >= PAGE_BYTES;
            Ok(if full { Flow::Stop } else { Flow::Go })
        };
        let scanned = if forward {
            self.ascend(first, last, collect)?
        } else {
            self.descend(first, last, PAGE_BYTES, collect)?
        };
        let end = if forward { last } else { first };
        Ok(Page { events, scanned, done: scanned == end })
    }

    /// Goes up through the range and returns how far it came.
    fn ascend(
        &self,
        first: Position,
        last: Position,
        mut each: impl FnMut(&Segment, Location, RecordRef<'_>) -> Result<Flow, ReadError>,
    ) -> Result<Position, ReadError> {
        let mut next = first;
        let mut looked = 0;
        for at in holding(self.segments, first)..self.segments.len() {
            let segment = &self.segments[at];
            let end = match self.segments.get(at + 1) {
                Some(following) => following.header.base.previous().min(last),
                None => last,
            };
            while next <= end {
                let chunk = segment.index().ascending(&self.terms, next, end, CHUNK_EVENTS);
                if let Some(stopped) = self.visit(segment, &chunk, &mut looked, &mut each)? {
                    return Ok(stopped);
                }
                if looked >= PAGE_BYTES {
                    return Ok(chunk.reached);
                }
                next = chunk.reached.next();
            }
        }
        Ok(last)
    }

    /// Goes down through the range, over about `bound` bytes, and returns how far it came.
    fn descend(
        &self,
        first: Position,
        last: Position,
        bound: usize,
        mut each: impl FnMut(&Segment, Location, RecordRef<'_>) -> Result<Flow, ReadError>,
    ) -> Result<Position, ReadError> {
        let mut before = last.next();
        let mut looked = 0;
        for at in (0..=holding(self.segments, last)).rev() {
            let segment = &self.segments[at];
            let begin = segment.header.base.max(first);
            while before > begin {
                let end = before.previous();
                let chunk = segment.index().descending(&self.terms, begin, end, CHUNK_EVENTS);
                if let Some(stopped) = self.visit(segment, &chunk, &mut looked, &mut each)? {
                    return Ok(stopped);
                }
                if looked >= bound {
                    return Ok(chunk.reached);
                }
                before = chunk.reached;
            }
            if before <= first {
                break;
            }
        }
        Ok(first)
    }

    /// Compares the candidates of a chunk with the query and hands over those that match.
    /// Returns where it was stopped.
    fn visit(
        &self,
        segment: &Segment,
        chunk: &Chunk,
        looked: &mut usize,
        each: &mut impl FnMut(&Segment, Location, RecordRef<'_>) -> Result<Flow, ReadError>,
    ) -> Result<Option<Position>, ReadError> {
        for &at in &chunk.candidates {
            let record = segment.record(at)?;
            *looked += record.bytes.len();
            if self.query.matches(&record) && each(segment, at, record)? == Flow::Stop {
                return Ok(Some(at.position));
            }
        }
        Ok(None)
    }
}
