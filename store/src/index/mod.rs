//! What is where in one segment: derived from the log, disposable, rebuilt when it is opened.
//!
//! Every stream, category, type and tag is a *term*, a 64-bit hash; the postings of a term list
//! the events that carry it. Hashes may collide, so postings only propose: whoever reads the
//! record compares the names (`KurrentDB` lost a stream to a collision, issue 1030).

mod select;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use headwater_core::{Position, Query, QueryItem, category_of};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(crate) use select::Chunk;

/// What a term stands for; the number is the seed of its hash.
#[derive(Clone, Copy, Debug)]
enum TermKind {
    Stream = 1,
    Category = 2,
    Type = 3,
    Tag = 4,
}

/// The hash of a stream, category, type or tag.
pub(crate) type Term = u64;

fn term(kind: TermKind, text: &str) -> Term {
    xxh3_64_with_seed(text.as_bytes(), kind as u64)
}

/// Collects the terms of an event.
pub(crate) fn terms<'a>(
    out: &mut Vec<Term>,
    stream: &str,
    event_type: &str,
    tags: impl Iterator<Item = &'a str>,
) {
    out.push(stream_term(stream));
    out.push(term(TermKind::Category, category_of(stream)));
    out.push(term(TermKind::Type, event_type));
    out.extend(tags.map(|tag| term(TermKind::Tag, tag)));
}

/// The term of a stream.
pub(crate) fn stream_term(stream: &str) -> Term {
    term(TermKind::Stream, stream)
}

/// Where an event lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) position: Position,
    /// Offset of the record in the file.
    pub(crate) offset: u32,
    /// Offset of its frame.
    pub(crate) frame: u32,
}

/// Terms are hashes already.
#[derive(Clone, Debug, Default)]
pub(crate) struct TermHasher(u64);

impl Hasher for TermHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("terms hash as one u64")
    }

    fn write_u64(&mut self, term: u64) {
        self.0 = term;
    }
}

type Postings = HashMap<Term, Vec<u32>, BuildHasherDefault<TermHasher>>;

/// The index of one segment. Events count from 0 in here: their *delta* is the distance from the
/// segment's base position.
#[derive(Debug)]
pub(crate) struct SegmentIndex {
    base: Position,
    /// Offset of each record, by delta.
    records: Vec<u32>,
    /// First delta and offset of each frame.
    frames: Vec<(u32, u32)>,
    postings: Postings,
}

impl SegmentIndex {
    pub(crate) fn new(base: Position) -> Self {
        Self { base, records: Vec::new(), frames: Vec::new(), postings: Postings::default() }
    }

    /// Notes that a frame begins with the next event.
    pub(crate) fn begin_frame(&mut self, offset: u32) {
        self.frames.push((self.next_delta(), offset));
    }

    /// Notes the next event of the frame.
    pub(crate) fn push(&mut self, offset: u32, terms: &[Term]) {
        let delta = self.next_delta();
        self.records.push(offset);
        for &term in terms {
            let list = self.postings.entry(term).or_default();
            // Two tags of one event may collide.
            if list.last() != Some(&delta) {
                list.push(delta);
            }
        }
    }

    fn next_delta(&self) -> u32 {
        u32::try_from(self.records.len()).expect("a segment of 4 GiB has fewer than 2^32 events")
    }

    /// Returns how many events the segment has.
    pub(crate) fn len(&self) -> u32 {
        self.next_delta()
    }

    /// Returns where the event at a position lies, if it is in this segment.
    pub(crate) fn find(&self, position: Position) -> Option<Location> {
        let delta = u32::try_from(position.events_since(self.base)?).ok()?;
        (delta < self.len()).then(|| self.location(delta))
    }

    fn location(&self, delta: u32) -> Location {
        let frame = self.frames.partition_point(|&(first, _)| first <= delta) - 1;
        Location {
            position: self.base.advanced_by(delta.into()),
            offset: self.records[delta as usize],
            frame: self.frames[frame].1,
        }
    }

    /// Goes backward through the events that may carry a term.
    pub(crate) fn latest(&self, term: Term) -> impl Iterator<Item = Location> {
        let list = self.postings.get(&term).map_or(&[][..], Vec::as_slice);
        list.iter().rev().map(|&delta| self.location(delta))
    }
}

/// A query in terms: for each item, lists of alternatives that must all be met.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    items: Vec<Vec<Vec<Term>>>,
}

impl Terms {
    pub(crate) fn of(query: &Query) -> Self {
        Self { items: query.items().iter().map(Self::item).collect() }
    }

    fn item(item: &QueryItem) -> Vec<Vec<Term>> {
        let any = |kind, names: &mut dyn Iterator<Item = &str>| -> Vec<Term> {
            names.map(|name| term(kind, name)).collect()
        };
        let mut groups = vec![
            any(TermKind::Stream, &mut item.streams.iter().map(AsRef::as_ref)),
            any(TermKind::Category, &mut item.categories.iter().map(AsRef::as_ref)),
            any(TermKind::Type, &mut item.types.iter().map(AsRef::as_ref)),
        ];
        groups.extend(item.tags.iter().map(|tag| vec![term(TermKind::Tag, tag.as_str())]));
        groups.retain(|group| !group.is_empty());
        groups
    }
}
