//! One segment: every frame and record by itself and against its neighbours, and its index file
//! against both.

use std::sync::Arc;

use headwater_core::{
    AppendId, ContentDigest, EventType, Position, Revision, Selectable, Slot, StreamId,
};

use super::index::{Content, Frame, compare, delta_of, term_of};
use super::streams::{End, Part, Span, StreamKey};
use super::{Fault, Faults, ProgressFn, Severity};
use crate::error::Remedy;
use crate::format::frame::{self, FrameHeader, HEADER_BYTES};
use crate::format::metadata;
use crate::format::record::{self, RecordRef};
use crate::format::segment::SegmentHeader;
use crate::format::tails::Tails;
use crate::index;
use crate::log::LogDir;
use crate::recovery::{self, Rest, Tail, Walked};
use crate::segment::Segment;
use crate::segments::bound;

/// How many bytes pass between two reports of progress.
const STEP_BYTES: u64 = 1024 * 1024;

/// What a pass looks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pass {
    /// Everything.
    Everything(Part),
    /// The log, without what is derived from it.
    Log(Part),
    /// The streams of a part; the rest was checked before.
    Streams(Part),
}

impl Pass {
    fn is_first(self) -> bool {
        !matches!(self, Self::Streams(_))
    }

    fn part(self) -> Part {
        match self {
            Self::Everything(part) | Self::Log(part) | Self::Streams(part) => part,
        }
    }
}

/// A segment to check, and what is known of it.
#[derive(Clone)]
pub(super) struct Task<'a> {
    pub(super) dir: &'a LogDir,
    pub(super) pass: Pass,
    pub(super) segment: &'a Arc<Segment>,
    /// The segment behind it, if this one is sealed.
    pub(super) following: Option<&'a SegmentHeader>,
    /// Bytes from here on do not count yet.
    pub(super) end: u64,
    /// Where streams ended that were removed, and up to where.
    pub(super) tails: Option<&'a Tails<Vec<u8>>>,
    pub(super) removed: Position,
    pub(super) progress: &'a ProgressFn<'a>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) faults: Faults,
    pub(super) end: Walked,
    /// What the first frame says of the log before it.
    pub(super) first: Option<FrameHeader>,
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) appends: Vec<(AppendId, Position)>,
    pub(super) spans: Vec<Span>,
    pub(super) names: String,
    pub(super) indexed: bool,
}

/// Checks a segment as far as it can be read.
pub(super) fn check(task: &Task<'_>) -> Checked {
    let Task { segment, .. } = task;
    let mut walk = Walk::new(task);
    let whole = match segment.whole(0, task.end) {
        Ok(whole) => &whole[..usize::try_from(task.end).unwrap_or(usize::MAX).min(whole.len())],
        Err(error) => {
            walk.fault(None, None, format!("it cannot be read: {error}"));
            return walk.done(Walked::before(&segment.header));
        }
    };
    let mut before = Walked::before(&segment.header);
    // A sealed segment was durable before the next one had a name.
    before.durable = task.following.map_or(segment.header.base, |next| next.base).previous();
    before.epoch = segment.header.epoch;
    let (end, tail) =
        recovery::walk(whole, &segment.seed, before, Rest::Look, |offset, header, body| {
            walk.frame(whole, offset, header, body);
            Ok(())
        });
    match tail {
        Ok(Tail::Clean) => {}
        Ok(Tail::Torn { from, .. }) => {
            let detail = "bytes follow its last frame that are no frame".to_owned();
            walk.fault(Some(end.next), Some(from), detail);
        }
        Err(damage) => {
            let (position, offset) = damage.place();
            walk.fault(Some(position), Some(offset), damage.to_string());
        }
    }
    let is_whole = walk.checked.faults.is_empty();
    walk.content.sort();
    walk.spans(whole);
    if let (Pass::Everything(_), true) = (task.pass, is_whole) {
        walk.index();
    }
    walk.report(true);
    walk.done(end)
}

/// A walk over one segment.
struct Walk<'a> {
    task: &'a Task<'a>,
    content: Content,
    checked: Checked,
    /// The frame before.
    before: Option<FrameHeader>,
    /// The append that is not over: its first event, and what it says of itself.
    open: Option<Open>,
    terms: Vec<index::Term>,
    reported: (u64, u64),
}

struct Open {
    first: Position,
    mark: Option<(metadata::AppendMark, ContentDigest)>,
}

impl<'a> Walk<'a> {
    fn new(task: &'a Task<'a>) -> Self {
        let checked = Checked {
            faults: Faults::default(),
            end: Walked::before(&task.segment.header),
            first: None,
            events: 0,
            bytes: 0,
            appends: Vec::new(),
            spans: Vec::new(),
            names: String::new(),
            indexed: false,
        };
        Self {
            task,
            content: Content::default(),
            checked,
            before: None,
            open: None,
            terms: Vec::new(),
            reported: (0, 0),
        }
    }

    fn done(mut self, end: Walked) -> Checked {
        self.checked.end = end;
        self.checked
    }

    fn fault(&mut self, position: Option<Position>, offset: Option<u64>, detail: String) {
        self.checked.faults.push(Fault {
            severity: Severity::Damage,
            file: self.task.segment.path.clone(),
            position,
            offset,
            detail,
            remedy: Some(if self.task.following.is_some() {
                Remedy::QuarantineSegment(self.task.segment.header.id)
            } else {
                Remedy::CutTail
            }),
        });
    }

    /// Tells how far the walk is.
    fn report(&mut self, always: bool) {
        if !self.task.pass.is_first() {
            return;
        }
        let (events, bytes) = (self.checked.events, self.checked.bytes);
        if always || bytes - self.reported.1 >= STEP_BYTES {
            (self.task.progress)(events - self.reported.0, bytes - self.reported.1);
            self.reported = (events, bytes);
        }
    }

    /// Checks a frame that validates and continues the log, and each record of it.
    fn frame(&mut self, whole: &[u8], offset: u64, header: &FrameHeader, body: &[u8]) {
        if self.checked.first.is_none() {
            self.checked.first = Some(*header);
        }
        let at = usize::try_from(offset).expect("a segment fits the address space");
        if self.task.pass.is_first() {
            let bytes = &whole[at..at + header.bytes as usize];
            if let Some(detail) = self.frame_fault(bytes, offset, header) {
                self.fault(Some(header.first), Some(offset), detail);
            }
        }
        self.before = Some(*header);
        let narrow = |at: usize| u32::try_from(at).expect("a segment has 4 GiB at most");
        let first = narrow(self.content.records.len());
        let commit_time = header.commit_time;
        self.content.frames.push(Frame { first, offset: narrow(at), commit_time });
        let mut position = header.first;
        for found in record::records(body, header.records, &self.task.segment.seed) {
            match found {
                Ok((start, record)) => {
                    self.record(position, narrow(at + HEADER_BYTES + start), &record);
                }
                Err(fault) => {
                    self.fault(Some(position), Some(offset), fault.to_string());
                    break;
                }
            }
            position = position.next();
        }
        if let Some(open) = self.open.take() {
            let detail = format!("the append that begins at {} ends with no frame", open.first);
            self.fault(Some(open.first), Some(offset), detail);
        }
        self.checked.events += u64::from(header.records);
        self.checked.bytes += u64::from(header.bytes);
        self.report(false);
    }

    fn frame_fault(&self, bytes: &[u8], offset: u64, header: &FrameHeader) -> Option<String> {
        let durable = self.before.map_or(Position::START, |before| before.durable);
        let time = self.before.map_or(header.commit_time, |before| before.commit_time);
        if header.commit_time < time {
            return Some("its commit time goes back".to_owned());
        }
        if header.durable < durable || header.durable >= header.first {
            return Some(format!("it calls position {} durable", header.durable));
        }
        if frame::zero_sectors(bytes, offset) != header.zero_sectors {
            return Some(format!("it counts {} sectors of zeros", header.zero_sectors));
        }
        None
    }

    fn record(&mut self, position: Position, offset: u32, record: &RecordRef<'_>) {
        let delta = self.content.records.len() as u64;
        self.content.records.push(offset);
        if !self.task.pass.is_first() {
            self.content.streams.push(u64::from(index::stream_term(record.stream)) << 32 | delta);
            return;
        }
        let fault = self.record_fault(position, record);
        if let Some(detail) = fault {
            self.fault(Some(position), Some(offset.into()), detail);
        }
        if matches!(self.task.pass, Pass::Log(_)) {
            self.content.streams.push(u64::from(index::stream_term(record.stream)) << 32 | delta);
            return;
        }
        self.terms.clear();
        let append = record.append_mark().map(|mark| mark.id);
        let names = (record.stream, record.event_type);
        index::terms(&mut self.terms, names.0, names.1, record.tags(), record.flow(), append);
        let mut terms = self.terms.iter().map(|&term| u64::from(term) << 32 | delta);
        self.content.streams.extend(terms.next());
        self.content.others.extend(terms);
    }

    fn record_fault(&mut self, position: Position, record: &RecordRef<'_>) -> Option<String> {
        if let Err(error) = StreamId::check(record.stream) {
            return Some(error.to_string());
        }
        if let Err(error) = EventType::check(record.event_type) {
            return Some(error.to_string());
        }
        let seen = match metadata::check(record.metadata) {
            Ok(seen) => seen,
            Err(fault) => return Some(fault.to_string()),
        };
        let slot = Slot::of_key(seen.key.unwrap_or(record.stream));
        if record.slot() != slot {
            return Some(format!("it is in slot {}, and its key belongs in {slot}", record.slot()));
        }
        let (revision, previous) = (record.revision(), record.previous());
        let is_first = revision == Revision::FIRST;
        if revision == Revision::NONE
            || previous >= position
            || is_first != (previous == Position::START)
        {
            return Some(format!("it has revision {revision} and links back to {previous}"));
        }
        self.batch(position, record, seen.append)
    }

    /// Follows the boundaries of appends, and their digests.
    fn batch(
        &mut self,
        position: Position,
        record: &RecordRef<'_>,
        mark: Option<metadata::AppendMark>,
    ) -> Option<String> {
        match (record.is_first_of_batch(), &self.open) {
            (true, None) => {
                self.checked.appends.extend(mark.map(|mark| (mark.id, position)));
                let is_deep = matches!(self.task.pass, Pass::Everything(_));
                let mark = mark.filter(|_| is_deep).map(|mark| (mark, ContentDigest::new()));
                self.open = Some(Open { first: position, mark });
            }
            (false, Some(_)) if mark.is_none() => {}
            (false, Some(_)) => return Some("it has an append id and is not the first".to_owned()),
            (true, Some(open)) => {
                return Some(format!("the append that begins at {} has no end", open.first));
            }
            (false, None) => return Some("it belongs to no append".to_owned()),
        }
        let open = self.open.as_mut().expect("it was opened above");
        if let Some((_, digest)) = &mut open.mark {
            let names = (record.stream, record.event_type);
            digest.add(names, record.schema_version(), record.codec(), record.payload);
        }
        if !record.is_last_of_batch() {
            return None;
        }
        let mark = self.open.take()?.mark;
        let (mark, digest) = mark?;
        (digest.finish() != mark.digest)
            .then(|| format!("the append with id {} has another digest than its content", mark.id))
    }

    /// Checks each stream within the segment, and gathers its first and last event.
    fn spans(&mut self, whole: &[u8]) {
        let streams = std::mem::take(&mut self.content.streams);
        let mut open: Vec<(&str, Span)> = Vec::new();
        for same in streams.chunk_by(|&a, &b| term_of(a) == term_of(b)) {
            for &pair in same {
                let offset = self.content.records[delta_of(pair) as usize];
                let bytes = whole.get(offset as usize..).unwrap_or_default();
                // It was read a moment ago; one that could not be stands in no list.
                let Ok(record) = record::decode_verified(bytes) else { continue };
                let position = self.task.segment.position(delta_of(pair));
                let last = End { revision: record.revision(), position };
                let previous = record.previous();
                // Two streams rarely have the same term.
                let known = open.iter_mut().find(|(name, _)| *name == record.stream);
                let Some((name, span)) = known else {
                    let key = StreamKey::of(record.stream);
                    let span = Span { key, name: 0..0, first: last, previous, last };
                    open.push((record.stream, span));
                    continue;
                };
                let end = std::mem::replace(&mut span.last, last);
                if (previous, last.revision) != (end.position, end.revision.next()) {
                    let detail = format!(
                        "it has revision {} of stream {name} and links back to position \
                         {previous}, and the stream was last at {}, with revision {}",
                        last.revision, end.position, end.revision
                    );
                    self.fault(Some(position), Some(offset.into()), detail);
                }
            }
            for (name, span) in open.drain(..) {
                self.keep(name, span);
            }
        }
        self.content.streams = streams;
    }

    fn keep(&mut self, name: &str, mut span: Span) {
        if !self.task.pass.part().has(span.key) {
            return;
        }
        if self.task.pass.is_first()
            && let Some(tails) = self.task.tails
            && span.previous <= self.task.removed
            && let Some((revision, position)) = tails.find(name)
            && position <= self.task.removed
            && (revision.next(), position) != (span.first.revision, span.previous)
        {
            let detail = format!(
                "it has revision {} of stream {name}, and links back to position {}; by TAILS the \
                 stream ended at {position}, with revision {revision}",
                span.first.revision, span.previous
            );
            self.fault(Some(span.first.position), None, detail);
        }
        let from = self.checked.names.len();
        self.checked.names.push_str(name);
        span.name = from..self.checked.names.len();
        self.checked.spans.push(span);
    }

    /// Compares the segment's index file with what the walk found.
    fn index(&mut self) {
        let Task { dir, segment, following, .. } = *self.task;
        let path = dir.path().join(index::file_name(&segment.header));
        let is_missing = dir.fs.open(&path, crate::fs::Access::Read).is_err();
        if is_missing {
            // A crash comes between a segment's end and its index, and the newest has none yet.
            if following.is_some() {
                self.derived(Severity::Note, path, "there is no index; it is built when read");
            }
            return;
        }
        let compared = bound(dir, segment, following).and_then(|index| {
            let covers = following.is_none() || index.end() as usize == self.content.records.len();
            if !covers {
                return Err("it covers a part of a sealed segment".to_owned());
            }
            compare(&index, &self.content)
        });
        match compared {
            Ok(()) => self.checked.indexed = true,
            Err(detail) => self.derived(Severity::Derived, path, &detail),
        }
    }

    fn derived(&mut self, severity: Severity, file: std::path::PathBuf, detail: &str) {
        let remedy = Some(Remedy::Reindex);
        let (position, offset, detail) = (None, None, detail.to_owned());
        self.checked.faults.push(Fault { severity, file, position, offset, detail, remedy });
    }
}
