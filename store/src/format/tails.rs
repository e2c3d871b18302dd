//! The file `TAILS`: where the streams ended whose last event retention has removed, so that
//! their revisions go on.

use headwater_core::{LogId, Position, Revision};

use super::block::{self, BlockFault, FIELDS_AT};
use super::{BLOCK_BYTES, array, put, u32_at, u64_at};

const MAGIC: [u8; 8] = *b"HWTAILS1";
/// Bytes of an entry before the name.
const ENTRY_BYTES: usize = 17;

/// The end of a stream that has no event in the log any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamTail {
    pub(crate) stream: String,
    pub(crate) revision: Revision,
    pub(crate) position: Position,
}

/// Why bytes are not such a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TailsFault {
    #[error(transparent)]
    Block(#[from] BlockFault),
    #[error("its entries have the wrong checksum")]
    Checksum,
    #[error("its entries are not what they should be")]
    Entries,
}

/// Makes the file. The tails are sorted by name.
pub(crate) fn encode(store: LogId, through: Position, tails: &[StreamTail]) -> Vec<u8> {
    let table = tails.len() * 4;
    let mut body = vec![0; table];
    for (at, tail) in tails.iter().enumerate() {
        let offset = u32::try_from(body.len()).expect("tails take less than 4 GiB");
        put(&mut body, at * 4, offset.to_le_bytes());
        body.extend_from_slice(&tail.revision.get().to_le_bytes());
        body.extend_from_slice(&tail.position.get().to_le_bytes());
        body.push(u8::try_from(tail.stream.len()).expect("limits bound the names"));
        body.extend_from_slice(tail.stream.as_bytes());
    }
    let count = u32::try_from(tails.len()).expect("tails take less than 4 GiB");
    let mut file = block::encode(MAGIC, 0, |block| {
        put(block, FIELDS_AT, *store.as_bytes());
        put(block, 32, through.get().to_le_bytes());
        put(block, 40, (body.len() as u64).to_le_bytes());
        put(block, 48, count.to_le_bytes());
        put(block, 52, crc32fast::hash(&body).to_le_bytes());
    });
    file.extend_from_slice(&body);
    file
}

/// A file that was checked, as bytes.
#[derive(Clone, Debug)]
pub(crate) struct Tails<B> {
    bytes: B,
    pub(crate) store: LogId,
    /// Everything up to here was removed, or is about to be.
    pub(crate) through: Position,
    count: u32,
}

impl<B: AsRef<[u8]>> Tails<B> {
    /// Checks all of it.
    ///
    /// # Complexity
    ///
    /// Linear in the size of the file.
    pub(crate) fn decode(bytes: B) -> Result<Self, TailsFault> {
        let all = bytes.as_ref();
        block::check(all, MAGIC, 0)?;
        let body = &all[BLOCK_BYTES..];
        if u64_at(all, 40) != body.len() as u64 || u32_at(all, 52) != crc32fast::hash(body) {
            return Err(TailsFault::Checksum);
        }
        let (store, through) =
            (LogId::from_bytes(array(all, FIELDS_AT)), Position::new(u64_at(all, 32)));
        let tails = Self { count: u32_at(all, 48), bytes, store, through };
        let mut before = None;
        for at in 0..tails.count {
            let tail = tails.get(at).ok_or(TailsFault::Entries)?;
            if before.is_some_and(|before| before >= tail.0) {
                return Err(TailsFault::Entries);
            }
            before = Some(tail.0);
        }
        Ok(tails)
    }

    /// Returns the stream with a number, and where it ended.
    fn get(&self, at: u32) -> Option<(&str, Revision, Position)> {
        let body = &self.bytes.as_ref()[BLOCK_BYTES..];
        let offset = body.get(at as usize * 4..)?.get(..4).map(|bytes| u32_at(bytes, 0))? as usize;
        let entry = body.get(offset..)?;
        let len = usize::from(*entry.get(ENTRY_BYTES - 1)?);
        let name = std::str::from_utf8(entry.get(ENTRY_BYTES..)?.get(..len)?).ok()?;
        Some((name, Revision::new(u64_at(entry, 0)), Position::new(u64_at(entry, 8))))
    }

    /// Returns where a stream ended.
    pub(crate) fn find(&self, stream: &str) -> Option<(Revision, Position)> {
        let (mut from, mut to) = (0, self.count);
        while from < to {
            let middle = from.midpoint(to);
            let (name, revision, position) = self.get(middle)?;
            match name.cmp(stream) {
                std::cmp::Ordering::Equal => return Some((revision, position)),
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        None
    }

    /// Goes through all of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = StreamTail> {
        (0..self.count).filter_map(|at| self.get(at)).map(|(stream, revision, position)| {
            StreamTail { stream: stream.to_owned(), revision, position }
        })
    }
}
