//! Where the streams end that were written to last, so that appending to them again reads nothing.
//!
//! A cache of fixed size. Only the writer extends streams, so what stands here is right; names are
//! compared, not hashes.

use std::hint::black_box;

use headwater_core::{Position, Revision, StreamId};

/// Sets are as small as possible, so that a stream is found in few cache lines, and large enough
/// that streams rarely push each other out while there is room.
const WAYS: usize = 4;
const SETS: usize = 8 * 1024;
/// Longer names are not kept.
const NAME_BYTES_MAX: usize = 47;

/// A stream and where it ends; free if the position is 0.
#[derive(Clone, Copy, Debug)]
struct Head {
    revision: u64,
    position: u64,
    len: u8,
    name: [u8; NAME_BYTES_MAX],
}

const _: () = assert!(size_of::<Head>() == 64);

/// The newest ends of streams, in at most 2 MiB.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Empty until something is written.
    sets: Vec<[Head; WAYS]>,
}

impl Head {
    const FREE: Self = Self { revision: 0, position: 0, len: 0, name: [0; NAME_BYTES_MAX] };

    fn is_of(&self, stream: &[u8]) -> bool {
        self.position > 0 && self.name[..self.len.into()] == *stream
    }
}

impl Heads {
    /// Returns where a stream ends, if it is known here. `hash` is that of its name.
    pub(super) fn find(&self, stream: &StreamId, hash: u64) -> Option<(Revision, Position)> {
        let set = self.sets.get(place(hash))?;
        let head = set.iter().find(|head| head.is_of(stream.as_str().as_bytes()))?;
        Some((Revision::new(head.revision), Position::new(head.position)))
    }

    /// Looks at where the heads of many streams would be, so that their cache misses do not wait for
    /// each other when they are looked for.
    pub(super) fn touch(&self, hashes: impl Iterator<Item = u64>) {
        let sets = hashes.filter_map(|hash| self.sets.get(place(hash)));
        black_box(sets.fold(0, |sum, set| sum ^ set[0].position));
    }

    /// Notes where a stream ends now, in place of the one in its set that was written to longest
    /// ago.
    pub(super) fn note(&mut self, stream: &[u8], hash: u64, (revision, end): (Revision, Position)) {
        let Some(len) = u8::try_from(stream.len()).ok().filter(|_| stream.len() <= NAME_BYTES_MAX)
        else {
            return;
        };
        if self.sets.is_empty() {
            self.sets = vec![[Head::FREE; WAYS]; SETS];
        }
        let set = &mut self.sets[place(hash)];
        let known = set.iter().position(|head| head.is_of(stream));
        let oldest = || (0..WAYS).min_by_key(|&at| set[at].position).expect("a set has heads");
        let head = &mut set[known.unwrap_or_else(oldest)];
        (head.revision, head.position, head.len) = (revision.get(), end.get(), len);
        head.name[..stream.len()].copy_from_slice(stream);
    }
}

fn place(hash: u64) -> usize {
    usize::try_from(hash % SETS as u64).expect("less than SETS")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::stream_hash;

    fn end(n: u64) -> (Revision, Position) {
        (Revision::new(n), Position::new(n + 10))
    }

    fn find(heads: &Heads, stream: &StreamId) -> Option<(Revision, Position)> {
        heads.find(stream, stream_hash(stream.as_str()))
    }

    fn note(heads: &mut Heads, stream: &StreamId, end: (Revision, Position)) {
        heads.note(stream.as_str().as_bytes(), stream_hash(stream.as_str()), end);
    }

    #[test]
    fn a_stream_is_found_by_its_whole_name_and_where_it_ends_now() {
        let mut heads = Heads::default();
        let streams: Vec<_> = (1..=100)
            .map(|length| StreamId::new(format!("a-{}", "x".repeat(length))).unwrap())
            .collect();
        for (n, stream) in (1..).zip(&streams) {
            assert_eq!(find(&heads, stream), None);
            note(&mut heads, stream, end(n));
            note(&mut heads, stream, end(n + 1));
        }
        let found: Vec<_> = streams.iter().map(|stream| find(&heads, stream)).collect();
        // Names of 47 bytes and less, with "a-" before.
        for (n, found) in (1..).zip(found) {
            assert_eq!(found, (n <= 45).then(|| end(n + 1)), "{n}");
        }
    }

    #[test]
    fn a_full_set_forgets_the_stream_that_was_written_to_longest_ago() {
        let mut heads = Heads::default();
        let name = |n: u64| StreamId::new(format!("a-{n}")).unwrap();
        let set = |stream: &StreamId| place(stream_hash(stream.as_str()));
        let first = name(0);
        let rivals = (0..).map(name).filter(|other| set(other) == set(&first));
        let streams: Vec<_> = rivals.take(WAYS + 1).collect();
        for (n, stream) in (1..).zip(&streams[..WAYS]) {
            note(&mut heads, stream, end(n));
        }
        note(&mut heads, &first, end(10));
        assert_eq!(find(&heads, &streams[WAYS]), None, "it is not taken for one of its set");
        note(&mut heads, &streams[WAYS], end(11));
        let found: Vec<_> = streams.iter().map(|stream| find(&heads, stream)).collect();
        assert_eq!(found, [Some(end(10)), None, Some(end(3)), Some(end(4)), Some(end(11))]);
    }
}
