//! Where every stream is, in bounded memory: revisions without a hole, and links that lead to the
//! stream's event before.
//!
//! A table maps a digest of the name to the stream's end. When it is full, it keeps one half of
//! the digests, and the other half waits for another pass over the log; so memory is what was
//! allowed, and the number of passes grows with the number of streams.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use headwater_core::{Position, Revision};
use xxhash_rust::xxh3::xxh3_128;

/// What a stream takes in the table at most: an entry, the table's own byte, and room to grow.
const STREAM_BYTES: u64 = 80;

/// The digest of a stream's name. Two names have the same with a probability of 2^-128.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct StreamKey(u128);

impl StreamKey {
    pub(super) fn of(stream: &str) -> Self {
        Self(xxh3_128(stream.as_bytes()))
    }
}

/// Digests are hashes already.
#[derive(Clone, Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a digest hashes as one u128")
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = u64::try_from(key & u128::from(u64::MAX)).expect("half of 128 bits");
    }
}

/// The digests that begin with the lowest `bits` bits of `prefix`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    bits: u32,
    prefix: u128,
}

impl Part {
    pub(super) fn has(self, key: StreamKey) -> bool {
        self.bits == 0 || key.0 >> (128 - self.bits) == self.prefix
    }

    fn halves(self) -> [Self; 2] {
        [0, 1].map(|bit| Self { bits: self.bits + 1, prefix: self.prefix << 1 | bit })
    }
}

/// The events of one stream in one segment, which follow each other.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) key: StreamKey,
    /// Where the name stands among those of the segment.
    pub(super) name: std::ops::Range<usize>,
    pub(super) first: End,
    /// What the first one says came before it.
    pub(super) previous: Position,
    pub(super) last: End,
}

/// An event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) revision: Revision,
    pub(super) position: Position,
}

/// Positions that cannot be read, both included.
pub(super) type Hole = (Position, Position);

/// The streams of one pass.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) part: Part,
    /// What waits for another pass.
    waiting: Vec<Part>,
    ends: HashMap<StreamKey, End, BuildHasherDefault<KeyHasher>>,
    ends_max: usize,
    /// The log starts after this.
    removed: Position,
    /// How many streams earlier passes had.
    counted: u64,
}

impl Streams {
    pub(super) fn new(memory_bytes: u64, removed: Position) -> Self {
        let ends_max = usize::try_from(memory_bytes / STREAM_BYTES).unwrap_or(usize::MAX);
        Self {
            part: Part::default(),
            waiting: Vec::new(),
            ends: HashMap::default(),
            ends_max: ends_max.max(16),
            removed,
            counted: 0,
        }
    }

    /// Returns how many streams there are.
    pub(super) fn count(&self) -> u64 {
        self.counted + self.ends.len() as u64
    }

    /// Goes on to the streams that waited. Returns whether there are any.
    pub(super) fn next_pass(&mut self) -> bool {
        let Some(part) = self.waiting.pop() else { return false };
        self.counted += self.ends.len() as u64;
        self.ends.clear();
        self.part = part;
        true
    }

    /// Takes a span in. Returns what is wrong with how it joins the events before.
    pub(super) fn take(&mut self, span: &Span, holes: &[Hole]) -> Option<String> {
        if !self.part.has(span.key) {
            return None;
        }
        let known = self.ends.insert(span.key, span.last);
        if known.is_none() && self.ends.len() > self.ends_max {
            self.split();
        }
        let Span { first: End { revision, .. }, previous, .. } = *span;
        if holes.iter().any(|&(first, last)| first <= previous && previous <= last) {
            return None;
        }
        match known {
            Some(end) if previous != end.position => Some(format!(
                "it links back to position {previous}, and its stream was last at {}",
                end.position
            )),
            Some(end) if revision != end.revision.next() => {
                Some(format!("it has revision {revision}, not {}", end.revision.next()))
            }
            None if previous > self.removed => {
                Some(format!("it links back to position {previous}, where its stream is not"))
            }
            // Its beginning is gone, so its own word has to do.
            _ => None,
        }
    }

    fn split(&mut self) {
        let [now, later] = self.part.halves();
        self.part = now;
        self.waiting.push(later);
        self.ends.retain(|&key, _| now.has(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(stream: &str, revision: u64, position: u64, previous: u64) -> Span {
        let first = End { revision: Revision::new(revision), position: Position::new(position) };
        let key = StreamKey::of(stream);
        Span { key, name: 0..0, first, previous: Position::new(previous), last: first }
    }

    fn fault(removed: u64, holes: &[Hole], spans: &[Span]) -> Option<String> {
        let mut streams = Streams::new(1 << 20, Position::new(removed));
        spans.iter().find_map(|span| streams.take(span, holes))
    }

    #[test]
    fn streams_in_order_have_no_fault() {
        assert_eq!(fault(0, &[], &[span("a-1", 1, 1, 0), span("b-1", 1, 2, 0)]), None);
        assert_eq!(fault(0, &[], &[span("a-1", 1, 1, 0), span("a-1", 2, 3, 1)]), None);
        assert_eq!(fault(9, &[], &[span("a-1", 4, 10, 7), span("a-1", 5, 11, 10)]), None);
    }

    #[test]
    fn each_link_that_is_wrong_is_found() {
        let first = || span("a-1", 1, 1, 0);
        for (second, words) in [
            (span("a-1", 3, 2, 1), "revision 3, not 2"),
            (span("a-1", 2, 2, 0), "links back to position 0"),
            (span("b-1", 2, 2, 1), "where its stream is not"),
        ] {
            let fault = fault(0, &[], &[first(), second]).unwrap();
            assert!(fault.contains(words), "{fault}");
        }
    }

    #[test]
    fn what_links_into_a_hole_is_believed() {
        let hole = (Position::new(2), Position::new(4));
        assert_eq!(fault(0, &[hole], &[span("a-1", 1, 1, 0), span("a-1", 4, 5, 3)]), None);
        assert!(fault(0, &[hole], &[span("a-1", 1, 1, 0), span("a-1", 4, 6, 5)]).is_some());
    }

    #[test]
    fn more_streams_than_memory_take_more_passes_and_miss_nothing() {
        let spans: Vec<Span> = (0..1_000).map(|n| span(&format!("a-{n}"), 1, n + 1, 0)).collect();
        let mut streams = Streams::new(100 * STREAM_BYTES, Position::START);
        let (mut passes, mut faults) = (0, 0);
        loop {
            passes += 1;
            assert!(spans.iter().all(|span| streams.take(span, &[]).is_none()));
            for n in 0..1_000 {
                // Each stream's second event has the wrong revision.
                let wrong = span(&format!("a-{n}"), 3, 2_000 + n, n + 1);
                faults += usize::from(streams.take(&wrong, &[]).is_some());
            }
            assert!(streams.ends.len() <= 100);
            if !streams.next_pass() {
                break;
            }
        }
        assert!(passes > 10, "{passes}");
        assert_eq!(streams.count(), 1_000);
        assert_eq!(faults, 1_000);
    }
}
