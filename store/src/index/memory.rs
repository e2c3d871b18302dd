//! The index of what was written last, in memory.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use headwater_core::Timestamp;

use super::select::chunk;
use super::{IndexFault, List, Lists, Location, Term, Terms, Walk};

/// Terms are hashes already; this spreads their 32 bits over 64.
#[derive(Clone, Debug, Default)]
pub(super) struct TermHasher(u64);

impl Hasher for TermHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("terms hash as one u32")
    }

    fn write_u32(&mut self, term: u32) {
        self.0 = u64::from(term).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// Most terms of a log name a stream, and most streams have few events in one segment.
#[derive(Debug)]
enum Postings {
    One(u32),
    Many(Vec<u32>),
}

/// A frame: its first event, where it lies, and when it was committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) first: u32,
    pub(super) offset: u32,
    pub(super) commit_time: Timestamp,
}

/// The index of the events of a segment from some delta on.
#[derive(Debug)]
pub(crate) struct MemoryIndex {
    first: u32,
    /// Offset of each record.
    records: Vec<u32>,
    frames: Vec<Frame>,
    postings: HashMap<Term, Postings, BuildHasherDefault<TermHasher>>,
}

impl MemoryIndex {
    /// Begins with the event at `first`.
    pub(crate) fn from(first: u32) -> Self {
        Self { first, records: Vec::new(), frames: Vec::new(), postings: HashMap::default() }
    }

    /// Notes that a frame begins with the next event.
    pub(crate) fn begin_frame(&mut self, offset: u32, commit_time: Timestamp) {
        self.frames.push(Frame { first: self.end(), offset, commit_time });
    }

    /// Notes the next event of the frame.
    pub(crate) fn push(&mut self, offset: u32, terms: &[Term]) {
        let delta = self.end();
        self.records.push(offset);
        for &term in terms {
            self.postings
                .entry(term)
                .and_modify(|list| list.push(delta))
                .or_insert(Postings::One(delta));
        }
    }

    /// Returns the last event of a range that may match a query and does.
    pub(crate) fn latest_match(
        &self,
        query: &Terms,
        (first, mut last): (u32, u32),
        matches: impl Fn(u32) -> bool,
    ) -> Result<Option<u32>, IndexFault> {
        let mut count = 16;
        loop {
            let chunk = chunk(self, query, (first, last), count, Walk::Down)?;
            if let Some(found) = chunk.candidates.into_iter().find(|&delta| matches(delta)) {
                return Ok(Some(found));
            }
            if chunk.reached <= first {
                return Ok(None);
            }
            last = chunk.reached - 1;
            count *= 4;
        }
    }

    /// The first delta that is in here.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// The delta behind the last one.
    pub(crate) fn end(&self) -> u32 {
        let count = u32::try_from(self.records.len());
        self.first + count.expect("a segment of 4 GiB has fewer than 2^26 events")
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns where an event lies that is in here.
    pub(crate) fn location(&self, delta: u32) -> Location {
        let frame = self.frames.partition_point(|frame| frame.first <= delta) - 1;
        let Frame { offset, commit_time, .. } = self.frames[frame];
        Location { offset: self.records[(delta - self.first) as usize], frame: offset, commit_time }
    }

    pub(super) fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Goes through the terms, in no order.
    pub(super) fn terms(&self) -> impl Iterator<Item = Term> {
        self.postings.keys().copied()
    }

    /// Returns the first event of the first frame that was committed after `time`.
    pub(crate) fn first_after(&self, time: Timestamp) -> Option<u32> {
        let at = self.frames.partition_point(|frame| frame.commit_time <= time);
        self.frames.get(at).map(|frame| frame.first)
    }
}

impl Postings {
    fn push(&mut self, delta: u32) {
        match self {
            // Two tags of one event may collide.
            Self::One(last) if *last == delta => {}
            Self::One(first) => *self = Self::Many(vec![*first, delta]),
            Self::Many(list) if list.last() == Some(&delta) => {}
            Self::Many(list) => list.push(delta),
        }
    }
}

impl Lists for MemoryIndex {
    fn list(&self, term: Term) -> Result<List<'_>, IndexFault> {
        Ok(match self.postings.get(&term) {
            None => List::NONE,
            Some(Postings::One(delta)) => List::One(*delta),
            Some(Postings::Many(list)) => List::Slice(list),
        })
    }
}
