//! Where the streams end that were written to last, so that appending to them again reads nothing.
//!
//! A cache of fixed size: a stream has one slot, and whoever writes later takes it. Only the writer
//! extends streams, so what stands here is right; names are compared, not hashes.

use std::hash::Hasher;

use headwater_core::{Position, Revision, StreamId};
use xxhash_rust::xxh3::xxh3_64;

const SLOTS: usize = 16 * 1024;
/// Longer names are not kept.
const NAME_BYTES_MAX: usize = 47;

/// Length and name, filled up with zeros.
type Key = [u64; 6];
/// Revision, position and key; a position of 0 means that it is free.
type Slot = [u64; 8];

/// The newest ends of streams, in at most 1 MiB.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Empty until something is written.
    slots: Vec<Slot>,
}

impl Heads {
    /// Returns where a stream ends, if it is known here.
    pub(super) fn find(&self, stream: &StreamId) -> Option<(Revision, Position)> {
        let slot = self.slots.get(place(stream))?;
        let (&[revision, position], rest) = slot.split_first_chunk()?;
        let known = position > 0 && rest == key(stream)?;
        known.then(|| (Revision::new(revision), Position::new(position)))
    }

    /// Notes where a stream ends now.
    pub(super) fn note(&mut self, stream: &StreamId, (revision, position): (Revision, Position)) {
        let Some(key) = key(stream) else { return };
        if self.slots.is_empty() {
            self.slots = vec![[0; 8]; SLOTS];
        }
        let slot = &mut self.slots[place(stream)];
        slot[..2].copy_from_slice(&[revision.get(), position.get()]);
        slot[2..].copy_from_slice(&key);
    }
}

/// Hashes names for a map that lives as long as a group, which bounds what chosen names can do.
#[derive(Clone, Debug, Default)]
pub(super) struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= xxh3_64(bytes);
    }

    fn write_u8(&mut self, _: u8) {
        // The end of a text, which nothing follows.
    }
}

fn place(stream: &StreamId) -> usize {
    usize::try_from(xxh3_64(stream.as_str().as_bytes()) % SLOTS as u64).expect("less than SLOTS")
}

fn key(stream: &StreamId) -> Option<Key> {
    let name = stream.as_str().as_bytes();
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let mut bytes = [0; NAME_BYTES_MAX + 1];
    bytes[0] = u8::try_from(name.len()).ok()?;
    bytes[1..=name.len()].copy_from_slice(name);
    let (words, _) = bytes.as_chunks();
    let mut key = [0; 6];
    for (word, bytes) in key.iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(n: u64) -> (Revision, Position) {
        (Revision::new(n), Position::new(n + 10))
    }

    #[test]
    fn a_stream_is_found_by_its_whole_name_and_where_it_ends_now() {
        let mut heads = Heads::default();
        let streams: Vec<_> = (1..=100)
            .map(|length| StreamId::new(format!("a-{}", "x".repeat(length))).unwrap())
            .collect();
        for (n, stream) in (1..).zip(&streams) {
            assert_eq!(heads.find(stream), None);
            heads.note(stream, end(n));
            heads.note(stream, end(n + 1));
        }
        let found: Vec<_> = streams.iter().map(|stream| heads.find(stream)).collect();
        // Names of 47 bytes and less, with "a-" before.
        for (n, found) in (1..).zip(found) {
            assert_eq!(found, (n <= 45).then(|| end(n + 1)), "{n}");
        }
    }

    #[test]
    fn a_stream_in_the_slot_of_another_is_not_taken_for_it() {
        let mut heads = Heads::default();
        let stream = |n: u64| StreamId::new(format!("a-{n}")).unwrap();
        let first = stream(0);
        let rival = (1..1_000_000).map(stream).find(|other| place(other) == place(&first)).unwrap();
        heads.note(&first, end(7));
        assert_eq!(heads.find(&rival), None);
        heads.note(&rival, end(8));
        assert_eq!((heads.find(&first), heads.find(&rival)), (None, Some(end(8))));
    }
}
