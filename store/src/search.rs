//! Searching the segments for what a query matches: indexes propose, records decide.

use std::hint::black_box;
use std::sync::Arc;

use headwater_core::{Page, Position, Query, ReadError, RecordedEvent};

use crate::format::record::{Names, RecordRef};
use crate::index::{Location, Step, Terms, Walk};
use crate::planted::{Bug, planted};
use crate::seek::{Seek, find_all};
use crate::segment::Segment;
use crate::segments::{SegmentEntry, holding};

/// How many candidates are taken from an index at a time.
const CHUNK_EVENTS: usize = 512;
/// How many records are looked for at a time.
const GROUP_EVENTS: usize = 64;
/// How many segments are asked for the query's terms at a time, and for how many of them.
const AHEAD_SEGMENTS: usize = 32;
const AHEAD_TERMS: usize = 8;
/// About how many bytes one page looks at before it hands back what it has.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// A position, and where it lies in its segment.
pub(crate) type Place = (Position, Location);

/// What to do after a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Go,
    Stop,
}

/// A query and where it is looked for.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    segments: &'a [Arc<SegmentEntry>],
    query: &'a Query,
    terms: Terms,
}

/// Candidates that wait to be looked at, from one segment after the other.
#[derive(Debug, Default)]
struct Wave {
    parts: Vec<(Arc<Segment>, Vec<u32>)>,
    events: usize,
    /// How many records are looked for at a time: few where the first may be enough.
    group: usize,
}

impl Wave {
    fn new(expected: usize) -> Self {
        Self { group: expected.clamp(1, GROUP_EVENTS), ..Self::default() }
    }

    fn add(&mut self, segment: &Arc<Segment>, candidates: Vec<u32>) {
        if !candidates.is_empty() {
            self.events += candidates.len();
            self.parts.push((Arc::clone(segment), candidates));
        }
    }

    fn is_full(&self) -> bool {
        self.events >= self.group
    }
}

impl<'a> Search<'a> {
    pub(crate) fn new(segments: &'a [Arc<SegmentEntry>], query: &'a Query) -> Self {
        Self { segments, query, terms: Terms::of(query) }
    }

    /// Collects a page from the range `first` through `last`, which is not empty.
    pub(crate) fn page(
        &self,
        first: Position,
        last: Position,
        limit: usize,
        forward: bool,
    ) -> Result<Page, ReadError> {
        let mut events: Vec<RecordedEvent> = Vec::new();
        let (mut bytes, mut names) = (0, Names::default());
        let collect = |segment: &Segment, (position, at): Place, record: RecordRef<'_>| {
            let event = record
                .to_event(position, at.commit_time, &mut names)
                .map_err(|fault| segment.damaged(position, at.offset.into(), &fault))?;
            bytes += record.bytes.len();
            events.push(event);
            let full = events.len() == limit || bytes >= PAGE_BYTES;
            Ok(if full { Flow::Stop } else { Flow::Go })
        };
        let scanned = if forward {
            self.ascend((first, last), limit, PAGE_BYTES, collect)?
        } else {
            self.descend(first, last, PAGE_BYTES, collect)?
        };
        let scanned = scanned.advanced_by(u64::from(forward && planted(Bug::SkipBetweenPages)));
        let end = if forward { last } else { first };
        Ok(Page { events, scanned, done: scanned == end })
    }

    /// Goes up through the range, over about `bound` bytes and to about `expected` matches, and
    /// returns how far it came.
    pub(crate) fn ascend(
        &self,
        (first, last): (Position, Position),
        expected: usize,
        bound: usize,
        mut each: impl FnMut(&Segment, Place, RecordRef<'_>) -> Result<Flow, ReadError>,
    ) -> Result<Position, ReadError> {
        let (mut next, mut looked, mut wave) = (first, 0, Wave::new(expected));
        let mut ahead = Vec::new().into_iter();
        for at in holding(self.segments, first)..self.segments.len() {
            let end = match self.segments.get(at + 1) {
                Some(following) => following.base.previous().min(last),
                None => last,
            };
            if next > end {
                continue;
            }
            let segment = if let Some(segment) = ahead.next() {
                segment
            } else {
                let segment = self.segments[at].get()?;
                ahead = self.look_ahead(&segment, &self.segments[at + 1..], last, expected);
                segment
            };
            debug_assert_eq!(segment.header.id, self.segments[at].id);
            while next <= end {
                let (candidates, reached) =
                    segment.candidates(&self.terms, (next, end), CHUNK_EVENTS, Walk::Up)?;
                wave.add(&segment, candidates);
                next = reached.next();
                if !wave.is_full() {
                    continue;
                }
                if let Some(stopped) = self.visit(&mut wave, &mut looked, &mut each)? {
                    return Ok(stopped);
                }
                if looked >= bound {
                    return Ok(reached);
                }
            }
        }
        Ok(self.visit(&mut wave, &mut looked, &mut each)?.unwrap_or(last))
    }

    /// Takes the segments behind one that are open, as far as about `expected` matches may need, and
    /// asks for the memory that looking into all of them takes: their cache misses do not wait for each
    /// other then, as in [`find_all`].
    fn look_ahead(
        &self,
        segment: &Arc<Segment>,
        behind: &[Arc<SegmentEntry>],
        last: Position,
        expected: usize,
    ) -> std::vec::IntoIter<Arc<Segment>> {
        let count = expected.min(AHEAD_SEGMENTS) - 1;
        let behind = behind.iter().take(count).take_while(|entry| entry.base <= last);
        let ahead: Vec<_> = behind.map_while(|entry| entry.opened()).collect();
        let mut sum = 0;
        if !ahead.is_empty() {
            for step in [Step::Bucket, Step::Entries, Step::Postings] {
                for segment in [segment].into_iter().chain(&ahead) {
                    for term in self.terms.all().take(AHEAD_TERMS) {
                        sum ^= segment.touch(term, step);
                    }
                }
            }
        }
        black_box(sum);
        ahead.into_iter()
    }

    /// Goes down through the range, over about `bound` bytes, and returns how far it came.
    pub(crate) fn descend(
        &self,
        first: Position,
        last: Position,
        bound: usize,
        mut each: impl FnMut(&Segment, Place, RecordRef<'_>) -> Result<Flow, ReadError>,
    ) -> Result<Position, ReadError> {
        // Whoever goes down often wants the newest alone, so nothing is gathered ahead.
        let (mut before, mut looked, mut wave) = (last.next(), 0, Wave::new(1));
        for at in (0..=holding(self.segments, last)).rev() {
            let begin = self.segments[at].base.max(first);
            if before <= begin {
                continue;
            }
            let segment = self.segments[at].get()?;
            while before > begin {
                let range = (begin, before.previous());
                let (candidates, reached) =
                    segment.candidates(&self.terms, range, CHUNK_EVENTS, Walk::Down)?;
                wave.add(&segment, candidates);
                if let Some(stopped) = self.visit(&mut wave, &mut looked, &mut each)? {
                    return Ok(stopped);
                }
                if looked >= bound {
                    return Ok(reached);
                }
                before = reached;
            }
            if before <= first {
                break;
            }
        }
        Ok(first)
    }

    /// Compares candidates with the query and hands over those that match.
    /// Returns where it was stopped.
    fn visit(
        &self,
        wave: &mut Wave,
        looked: &mut usize,
        each: &mut impl FnMut(&Segment, Place, RecordRef<'_>) -> Result<Flow, ReadError>,
    ) -> Result<Option<Position>, ReadError> {
        wave.events = 0;
        let parts = std::mem::take(&mut wave.parts);
        let mut candidates =
            parts.iter().flat_map(|(segment, deltas)| deltas.iter().map(move |&at| (segment, at)));
        loop {
            let group = candidates.by_ref().take(wave.group);
            let mut seeks: Vec<_> =
                group.map(|(segment, delta)| Seek::new(segment, delta)).collect();
            if seeks.is_empty() {
                return Ok(None);
            }
            find_all(&mut seeks)?;
            for seek in seeks {
                let (segment, place) = (seek.segment, (seek.position(), seek.location()));
                let record = segment.record(place.0, place.1)?;
                *looked += record.bytes.len();
                if self.query.matches(&record) && each(segment, place, record)? == Flow::Stop {
                    return Ok(Some(place.0));
                }
            }
            wave.group = GROUP_EVENTS.min(wave.group * 4);
        }
    }
}
