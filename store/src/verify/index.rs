//! An index file against the log: every event found by each of its terms, and nothing else.
//!
//! The events' terms are sorted and then compared with the dictionary from its beginning to its
//! end, so the builder of the file has no say in what is right.

use headwater_core::Timestamp;

use crate::format::index::{MARK_EVERY, MOMENT_EVERY};
use crate::index::{IndexFault, IndexFile, Term, Walk};

/// A frame as the walk found it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// Its first event.
    pub(super) first: u32,
    pub(super) offset: u32,
    pub(super) commit_time: Timestamp,
}

/// What a walk over a segment learned, and what an index of it must say.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Where each record begins.
    pub(super) records: Vec<u32>,
    pub(super) frames: Vec<Frame>,
    /// The stream of each event: its term in the high half, the event in the low one.
    pub(super) streams: Vec<u64>,
    /// All other terms of each event, in the same form.
    pub(super) others: Vec<u64>,
}

impl Content {
    /// Sorts what is to be compared. A term counts once for an event.
    pub(super) fn sort(&mut self) {
        self.streams.sort_unstable();
        self.others.sort_unstable();
        self.others.dedup();
    }

    /// Returns the frame that holds an event.
    fn frame_of(&self, delta: u32) -> Option<Frame> {
        let at = self.frames.partition_point(|frame| frame.first <= delta).checked_sub(1)?;
        self.frames.get(at).copied()
    }
}

/// Returns the term of a pair.
pub(super) fn term_of(pair: u64) -> Term {
    u32::try_from(pair >> 32).expect("half of 64 bits")
}

/// Returns the event of a pair.
pub(super) fn delta_of(pair: u64) -> u32 {
    u32::try_from(pair & u64::from(u32::MAX)).expect("half of 64 bits")
}

/// Compares an index with the sorted content of its segment. Returns what is wrong.
pub(super) fn compare(index: &IndexFile, content: &Content) -> Result<(), String> {
    let text = |fault: IndexFault| fault.to_string();
    index.verify_pages().map_err(text)?;
    if index.end() as usize > content.records.len() {
        let (covered, found) = (index.end(), content.records.len());
        return Err(format!("it covers {covered} events, and the segment has {found}"));
    }
    marks(index, content).map_err(text)??;
    moments(index, content).map_err(text)??;
    dictionary(index, content).map_err(text)?
}

type Compared = Result<Result<(), String>, IndexFault>;

fn marks(index: &IndexFile, content: &Content) -> Compared {
    for delta in (0..index.end()).step_by(MARK_EVERY as usize) {
        let frame = content.frame_of(delta).map(|frame| frame.offset);
        let (record, marked) = index.mark(delta)?;
        if content.records.get(delta as usize) != Some(&record) || frame != Some(marked) {
            return Ok(Err(format!("its mark of event {delta} points elsewhere")));
        }
    }
    Ok(Ok(()))
}

fn moments(index: &IndexFile, content: &Content) -> Compared {
    let mut next = 0;
    for at in 0..index.header().moments {
        let (time, delta, offset) = index.moment(at)?;
        let frame = content.frame_of(delta).filter(|frame| frame.first == delta);
        let is_right =
            frame.is_some_and(|frame| (frame.offset, frame.commit_time) == (offset, time));
        if !is_right || delta < next {
            return Ok(Err(format!("its moment {at} is not that of a frame")));
        }
        next = delta + MOMENT_EVERY;
    }
    Ok(Ok(()))
}

fn dictionary(index: &IndexFile, content: &Content) -> Compared {
    let covered = |&&pair: &&u64| delta_of(pair) < index.end();
    let mut streams = content.streams.iter().filter(covered).copied().peekable();
    let mut others = content.others.iter().filter(covered).copied().peekable();
    let bits = index.header().bucket_bits;
    let bucket_of = |term: Term| if bits == 0 { 0 } else { (term >> (32 - bits)) as usize };
    let (mut bucket, mut expected, mut found) = (0, Vec::new(), Vec::new());
    for entry in 0..index.header().entries {
        let term = [streams.peek(), others.peek()].into_iter().flatten().min();
        let Some(term) = term.map(|&pair| term_of(pair)) else {
            return Ok(Err("it lists a term that no event has".to_owned()));
        };
        expected.clear();
        while let Some(pair) = streams.next_if(|&pair| term_of(pair) == term) {
            expected.push(delta_of(pair));
        }
        let of_streams = expected.len();
        while let Some(pair) = others.next_if(|&pair| term_of(pair) == term) {
            expected.push(delta_of(pair));
        }
        if of_streams > 0 && expected.len() > of_streams {
            // The terms of two kinds collide.
            expected.sort_unstable();
            expected.dedup();
        }
        if index.term(entry)? != term {
            return Ok(Err(format!("its entry {entry} is not the next term of the events")));
        }
        while bucket <= bucket_of(term) {
            if index.bucket(bucket)? != entry {
                return Ok(Err(format!("its bucket {bucket} begins elsewhere")));
            }
            bucket += 1;
        }
        found.clear();
        index.entry(entry)?.collect((0, u32::MAX), usize::MAX, Walk::Up, &mut found)?;
        if found != expected {
            return Ok(Err(format!(
                "its list of term {term:08x} has {} events, and the log {}, or others",
                found.len(),
                expected.len()
            )));
        }
    }
    if streams.peek().is_some() || others.peek().is_some() {
        return Ok(Err("it misses a term that events have".to_owned()));
    }
    for rest in bucket..=1 << bits {
        if index.bucket(rest)? != index.header().entries {
            return Ok(Err(format!("its bucket {rest} begins elsewhere")));
        }
    }
    Ok(Ok(()))
}
