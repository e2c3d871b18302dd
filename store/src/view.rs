//! What readers see of a log: its segments, and the watermarks that bound them.

use std::sync::Arc;

use headwater_core::{
    AppendId, Appended, Direction, EventType, Page, Position, Query, Read, ReadError, Revision,
    StreamId, Timestamp, Visibility,
};

use crate::index::{append_term, identified_term, stream_term};
use crate::mark::Watermark;
use crate::planted::{Bug, planted};
use crate::search::{Flow, Search};
use crate::segments::{SegmentEntry, SegmentList, Segments, holding};
use crate::sync::watch;
use crate::tails::TailsFile;
use crate::types;
use crate::writer::Remembered;

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
    tails: TailsFile,
    watermark: Watermark,
    marks: watch::Sender<Marks>,
}

impl View {
    pub(crate) fn new(segments: Arc<Segments>, tails: TailsFile, head: Position) -> Self {
        let marks = Marks { committed: head, durable: head, closed: false };
        Self { segments, tails, watermark: Watermark::new(head), marks: watch::Sender::new(marks) }
    }

    /// Lets readers see everything up to here. Segments and indexes hold it already.
    pub(crate) fn publish(&self, committed: Position, durable: Position) {
        self.watermark.set(committed, durable);
        self.marks.send_modify(|marks| *marks = Marks { committed, durable, ..*marks });
    }

    /// Tells those who wait that nothing will follow.
    pub(crate) fn close(&self) {
        self.marks.send_modify(|marks| marks.closed = true);
    }

    pub(crate) fn head(&self, visibility: Visibility) -> Position {
        if planted(Bug::ShowUnsynced) {
            return self.watermark.get(Visibility::Committed);
        }
        self.watermark.get(visibility)
    }

    pub(crate) fn segments(&self) -> SegmentList {
        self.segments.list()
    }

    pub(crate) fn all_segments(&self) -> Arc<Segments> {
        Arc::clone(&self.segments)
    }

    pub(crate) fn tails(&self) -> &TailsFile {
        &self.tails
    }

    /// Returns the last position that was removed from the log.
    pub(crate) fn start(&self) -> Position {
        self.segments.list().first().map_or(Position::START, |first| first.base.previous())
    }

    /// Refuses what begins in the part of the log that was removed.
    pub(crate) fn check_start(&self, after: Position) -> Result<(), ReadError> {
        let start = self.start();
        if after < start {
            return Err(ReadError::BelowStart { asked: after, start });
        }
        Ok(())
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
        let start = segments.first().map_or(Position::START, |first| first.base.previous());
        let search = Search::new(&segments, &read.query);
        match read.direction {
            Direction::After(after) if after > head => {
                Err(ReadError::BeyondHead { asked: after, head })
            }
            Direction::Before(before) if before > head.next() && before != Position::MAX => {
                Err(ReadError::BeyondHead { asked: before, head })
            }
            Direction::After(after) if after < start => {
                if !self.is_whole(&segments, &read.query)? && !planted(Bug::JumpToStart) {
                    return Err(ReadError::BelowStart { asked: after, start });
                }
                search.page(start.next(), visible, read.limit, true)
            }
            Direction::After(after) if after >= visible => {
                Ok(Page { events: Vec::new(), scanned: after, done: true })
            }
            Direction::After(after) if planted(Bug::RepeatBetweenPages) && after > start => {
                search.page(after, visible, read.limit, true)
            }
            Direction::After(after) => search.page(after.next(), visible, read.limit, true),
            Direction::Before(before) => {
                let last = before.previous().min(visible);
                if last < start {
                    return Err(ReadError::BelowStart { asked: before, start });
                }
                if last == start {
                    return Ok(Page { events: Vec::new(), scanned: before, done: true });
                }
                search.page(start.next(), last, read.limit, false)
            }
        }
    }

    /// Returns where a stream ends, also where all of it was removed.
    ///
    /// # Complexity
    ///
    /// One look-up per segment, from the newest, until one knows the stream.
    pub(crate) fn stream_end(&self, stream: &StreamId) -> Result<(Revision, Position), ReadError> {
        let start = self.start();
        let found = match self.last_of(stream.as_str(), Visibility::Committed)? {
            None if start > Position::START => self.tails.find(stream.as_str(), start)?,
            found => found,
        };
        Ok(found.unwrap_or((Revision::NONE, Position::START)))
    }

    /// Returns the last event of a stream that is in the log.
    pub(crate) fn last_of(
        &self,
        stream: &str,
        visibility: Visibility,
    ) -> Result<Option<(Revision, Position)>, ReadError> {
        let term = stream_term(stream);
        let head = self.head(visibility);
        for segment in self.segments().iter().rev() {
            let segment = segment.get()?;
            let mut below = segment.deltas_through(head);
            while let Some(delta) = segment.newest(term, below)? {
                let position = segment.position(delta);
                let record = segment.record(position, segment.locate(delta)?)?;
                if record.stream == stream {
                    return Ok(Some((record.revision(), position)));
                }
                below = delta;
            }
        }
        Ok(None)
    }

    /// Returns what an append did, if its id is among the newest `window` ones.
    pub(crate) fn find_append(
        &self,
        id: AppendId,
        window: usize,
    ) -> Result<Option<Remembered>, ReadError> {
        let term = append_term(id);
        let head = self.head(Visibility::Committed);
        let mut newer = 0;
        for segment in self.segments().iter().rev() {
            if newer >= window {
                break;
            }
            let segment = segment.get()?;
            let mut below = segment.deltas_through(head);
            while let Some(delta) = segment.newest(term, below)? {
                let first = segment.position(delta);
                let at = segment.locate(delta)?;
                let mark = segment.record(first, at)?.append_mark();
                if let Some(mark) = mark.filter(|mark| mark.id == id) {
                    newer += segment.count_after(identified_term(), Some(delta))?;
                    let last = segment.last_of_batch(first, at)?;
                    let appended = Appended { first, last, deduplicated: false };
                    let found = Remembered { appended, digest: mark.digest };
                    return Ok((newer < window).then_some(found));
                }
                below = delta;
            }
            newer += segment.count_after(identified_term(), None)?;
        }
        Ok(None)
    }

    /// Returns the last position that was committed at `time` or before.
    pub(crate) fn position_at(&self, time: Timestamp) -> Result<Position, ReadError> {
        let head = self.head(Visibility::Committed);
        let segments = self.segments();
        // The first segment whose successor begins after that time has the place.
        let (mut from, mut to) = (0, segments.len());
        while from < to {
            let middle = from.midpoint(to);
            let segment = segments[middle].get()?;
            // The newest may have no event yet: whatever comes into it comes later.
            let is_empty = segment.events() == 0 && !planted(Bug::TrustEmptySegment);
            if is_empty || segment.first_after(time)? < segment.events() {
                to = middle;
            } else {
                from = middle + 1;
            }
        }
        let Some(segment) = segments.get(from) else { return Ok(head) };
        let segment = segment.get()?;
        Ok(segment.position(segment.first_after(time)?).previous().min(head))
    }

    /// Returns how many bytes of frames and records lie behind `after` up to and with `through`.
    /// The header of a frame counts with what stands before it.
    ///
    /// # Complexity
    ///
    /// Linear in the segments between; a sealed one is opened the first time that it lies whole
    /// between two positions.
    pub(crate) fn bytes_between(
        &self,
        after: Position,
        through: Position,
    ) -> Result<u64, ReadError> {
        let head = self.head(Visibility::Committed);
        if let Some(asked) = [after, through].into_iter().find(|&asked| asked > head) {
            return Err(ReadError::BeyondHead { asked, head });
        }
        self.check_start(after)?;
        if after >= through {
            return Ok(0);
        }
        let segments = self.segments();
        let (first, last) = (holding(&segments, after.next()), holding(&segments, through));
        let mut bytes = 0;
        for (index, entry) in segments.iter().enumerate().take(last + 1).skip(first) {
            bytes += match index {
                _ if index == first || index == last => {
                    let segment = entry.get()?;
                    segment.bytes_through(through)? - segment.bytes_through(after)?
                }
                _ => entry.frames_bytes()?,
            };
        }
        Ok(bytes)
    }

    /// Returns whether a search is about streams alone that have lost nothing to retention.
    fn is_whole(&self, segments: &[Arc<SegmentEntry>], query: &Query) -> Result<bool, ReadError> {
        let items = query.items();
        if items.is_empty() || items.iter().any(|item| item.streams.is_empty()) {
            return Ok(false);
        }
        let head = self.head(Visibility::Committed);
        let Some(first) = segments.first() else { return Ok(true) };
        for stream in items.iter().flat_map(|item| &item.streams) {
            let query = Query::stream(stream.clone());
            let search = Search::new(segments, &query);
            let mut oldest = None;
            search.ascend((first.base, head), 1, usize::MAX, |_, _, record| {
                oldest = Some(record.revision());
                Ok(Flow::Stop)
            })?;
            let lost = match oldest {
                Some(oldest) => oldest > Revision::FIRST,
                None => self.tails.find(stream.as_str(), first.base.previous())?.is_some(),
            };
            if lost {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the types of all events, in the order in which they first appeared.
    pub(crate) fn event_types(&self) -> Result<Vec<EventType>, ReadError> {
        let head = self.head(Visibility::Committed);
        types::event_types(&self.segments(), head)
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
        // Whether anything of what was removed had matched, nobody knows.
        self.check_start(after)?;
        let segments = self.segments();
        let search = Search::new(&segments, query);
        let mut found = None;
        search.descend(after.next(), head, usize::MAX, |_, (position, _), _| {
            found = Some(position);
            Ok(Flow::Stop)
        })?;
        Ok(found)
    }
}
