//! What is where in one segment: derived from the log and disposable.
//!
//! Every stream, category, type, tag, flow and append id is a *term*, a 32-bit hash; the postings of a
//! term list the events that carry it. Hashes collide, so postings only propose: whoever reads
//! the record compares the names (`KurrentDB` lost a stream to a collision, issue 1030).
//!
//! Events of a segment count from 0 in here: their *delta* is the distance from the segment's
//! base position. What is being written is indexed in [memory](MemoryIndex); what is sealed, in an
//! immutable [file](IndexFile) beside the segment. Both answer the same questions.

mod build;
mod file;
mod layers;
mod memory;
mod postings;
mod select;

use headwater_core::{
    AppendId, CorrelationId, Query, QueryItem, Selectable, StreamId, Timestamp, category_of,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::format::frame::{FrameHeader, HEADER_BYTES};
use crate::format::record;

pub(crate) use build::build;
pub(crate) use file::{FileList, IndexFile, Step, file_name};
pub(crate) use layers::{Layers, LayersTaken};
pub(crate) use memory::MemoryIndex;
pub(crate) use select::Walk;

/// What a term stands for; the number is the seed of its hash.
#[derive(Clone, Copy, Debug)]
enum TermKind {
    Stream = 1,
    Category = 2,
    Type = 3,
    Tag = 4,
    Append = 5,
    /// The first event of any append that has an id.
    Identified = 6,
    Flow = 7,
}

/// The hash of a stream, category, type, tag, flow or append id.
pub(crate) type Term = u32;

fn term(kind: TermKind, text: &[u8]) -> Term {
    half(xxh3_64_with_seed(text, kind as u64))
}

/// Returns the term of a hash: its high half. All 64 bits would double the dictionaries and spare
/// one look at a record in some ten thousand look-ups.
fn half(hash: u64) -> Term {
    u32::try_from(hash >> 32).expect("half of 64 bits")
}

/// Collects the terms of an event, and returns the whole hash of its stream.
pub(crate) fn terms<'a>(
    out: &mut Vec<Term>,
    stream: &str,
    event_type: &str,
    tags: impl Iterator<Item = &'a str>,
    flow: Option<CorrelationId>,
    append: Option<AppendId>,
) -> u64 {
    let hash = stream_hash(stream);
    out.push(half(hash));
    out.push(term(TermKind::Category, category_of(stream).as_bytes()));
    out.push(term(TermKind::Type, event_type.as_bytes()));
    out.extend(tags.map(|tag| term(TermKind::Tag, tag.as_bytes())));
    out.extend(flow.map(|flow| term(TermKind::Flow, flow.as_bytes())));
    if let Some(id) = append {
        out.extend([append_term(id), identified_term()]);
    }
    hash
}

/// The hash of a stream's name.
pub(crate) fn stream_hash(stream: &str) -> u64 {
    xxh3_64_with_seed(stream.as_bytes(), TermKind::Stream as u64)
}

/// The term of a stream.
pub(crate) fn stream_term(stream: &str) -> Term {
    half(stream_hash(stream))
}

/// The term of an append id.
pub(crate) fn append_term(id: AppendId) -> Term {
    term(TermKind::Append, id.as_bytes())
}

/// The term of every append that has an id.
pub(crate) fn identified_term() -> Term {
    term(TermKind::Identified, &[])
}

/// A place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// Offset of the record in the file.
    pub(crate) offset: u32,
    /// Offset of its frame.
    pub(crate) frame: u32,
    /// When the frame was committed.
    pub(crate) commit_time: Timestamp,
}

/// Why an index file gave no answer. It is built anew then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IndexFault {
    #[error("page {0} of the index has the wrong checksum")]
    Page(usize),
    #[error("the index points outside of itself")]
    Bounds,
}

/// The events that may carry a term, ascending.
#[derive(Clone, Debug)]
pub(crate) enum List<'a> {
    Slice(&'a [u32]),
    One(u32),
    File(FileList<'a>),
}

/// Whoever has lists of events.
pub(crate) trait Lists {
    /// Returns the events that may carry a term.
    fn list(&self, term: Term) -> Result<List<'_>, IndexFault>;
}

impl List<'_> {
    pub(crate) const NONE: List<'static> = List::Slice(&[]);

    /// Returns how many events the list has.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Slice(list) => list.len(),
            Self::One(_) => 1,
            Self::File(list) => list.len(),
        }
    }

    /// Collects the lowest `count` events from `first` through `last`, or the highest ones
    /// downward.
    pub(crate) fn collect(
        &self,
        (first, last): (u32, u32),
        count: usize,
        walk: Walk,
        out: &mut Vec<u32>,
    ) -> Result<(), IndexFault> {
        let slice = match self {
            Self::Slice(deltas) => deltas,
            Self::One(delta) => std::slice::from_ref(delta),
            Self::File(file) => return file.collect((first, last), count, walk, out),
        };
        let from = slice.partition_point(|&delta| delta < first);
        let through = slice.partition_point(|&delta| delta <= last);
        let within = slice.get(from..through).unwrap_or_default();
        match walk {
            Walk::Up => out.extend(within.iter().take(count)),
            Walk::Down => out.extend(within.iter().rev().take(count)),
        }
        Ok(())
    }

    /// Returns the last event before `below`.
    pub(crate) fn newest(&self, below: u32) -> Result<Option<u32>, IndexFault> {
        let Some(last) = below.checked_sub(1) else { return Ok(None) };
        match self {
            Self::One(delta) => Ok((*delta < below).then_some(*delta)),
            Self::Slice(deltas) => {
                let end = deltas.partition_point(|&delta| delta < below);
                Ok(end.checked_sub(1).map(|at| deltas[at]))
            }
            Self::File(file) => {
                let mut found = Vec::with_capacity(1);
                file.collect((0, last), 1, Walk::Down, &mut found)?;
                Ok(found.pop())
            }
        }
    }

    /// Returns how many events of the list come after `delta`.
    pub(crate) fn count_after(&self, delta: u32) -> Result<usize, IndexFault> {
        match self {
            Self::One(one) => Ok(usize::from(*one > delta)),
            Self::Slice(list) => Ok(list.len() - list.partition_point(|&other| other <= delta)),
            Self::File(list) => {
                let mut found = Vec::new();
                list.collect(
                    (delta.saturating_add(1), u32::MAX),
                    usize::MAX,
                    Walk::Up,
                    &mut found,
                )?;
                Ok(found.len())
            }
        }
    }
}

/// A query in terms: for each item, lists of alternatives that must all be met.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    items: Vec<Vec<Vec<Term>>>,
}

impl Terms {
    /// All terms of the query.
    pub(crate) fn all(&self) -> impl Iterator<Item = Term> {
        self.items.iter().flatten().flatten().copied()
    }

    pub(crate) fn of(query: &Query) -> Self {
        Self { items: query.items().iter().map(Self::item).collect() }
    }

    fn item(item: &QueryItem) -> Vec<Vec<Term>> {
        let any = |kind, names: &mut dyn Iterator<Item = &str>| -> Vec<Term> {
            names.map(|name| term(kind, name.as_bytes())).collect()
        };
        let mut groups = vec![
            any(TermKind::Stream, &mut item.streams.iter().map(StreamId::as_str)),
            any(TermKind::Category, &mut item.categories.iter().map(AsRef::as_ref)),
            any(TermKind::Type, &mut item.types.iter().map(AsRef::as_ref)),
            item.flows.iter().map(|flow| term(TermKind::Flow, flow.as_bytes())).collect(),
        ];
        groups
            .extend(item.tags.iter().map(|tag| vec![term(TermKind::Tag, tag.as_str().as_bytes())]));
        groups.retain(|group| !group.is_empty());
        groups
    }
}

/// Adds a frame whose checksums are right to an index. Refuses one whose records are not.
pub(crate) fn add_frame(
    index: &mut MemoryIndex,
    seed: &crate::format::Seed,
    offset: u64,
    frame: &FrameHeader,
    body: &[u8],
) -> Result<(), String> {
    let narrow = |offset: u64| u32::try_from(offset).map_err(|error| error.to_string());
    // All records first: a frame is in the index whole or not at all.
    let mut records = Vec::with_capacity(frame.records as usize);
    for record in record::records(body, frame.records, seed) {
        let refused = |fault: record::RecordFault| format!("record {}: {fault}", records.len());
        let (start, record) = record.map_err(refused)?;
        let append = record.append_mark().map(|mark| mark.id);
        records.push((narrow(offset + (HEADER_BYTES + start) as u64)?, record, append));
    }
    if records.len() != frame.records as usize {
        return Err(format!("it holds {} records, not {}", records.len(), frame.records));
    }
    index.begin_frame(narrow(offset)?, frame.commit_time);
    let mut found = Vec::new();
    for (at, record, append) in &records {
        found.clear();
        terms(&mut found, record.stream, record.event_type, record.tags(), record.flow(), *append);
        index.push(*at, &found);
    }
    Ok(())
}
