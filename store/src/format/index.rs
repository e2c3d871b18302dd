//! The header block of an index file: which part of which segment it describes, and where its
//! sections lie.
//!
//! An index file is derived from its segment and disposable. It is believed only where it is
//! bound to the bytes of the segment, by the salt and the chain word of the last frame that it
//! covers; every page of it has a checksum that is verified before the page is used.

use headwater_core::{LogId, Position, Timestamp};

use super::block::{self, BlockFault, FIELDS_AT};
use super::{BLOCK_BYTES, array, i64_at, put, u32_at, u64_at};

/// Files of the first version, which listed no flows, are built anew.
const MAGIC: [u8; 8] = *b"HWINDEX2";
const FLAG_DURABLE: u16 = 1;

/// Where the first section begins.
pub(crate) const SECTIONS_AT: usize = BLOCK_BYTES;
/// The unit of checksums behind the header block.
pub(crate) const PAGE_BYTES: usize = 4096;
/// One event in so many has a mark.
pub(crate) const MARK_EVERY: u32 = 4;
/// Bytes of a mark: where the record lies, and where its frame.
pub(crate) const MARK_BYTES: usize = 8;
/// A moment is noted every so many events.
pub(crate) const MOMENT_EVERY: u32 = 1024;
/// Bytes of a moment: commit time, delta and offset of a frame.
pub(crate) const MOMENT_BYTES: usize = 16;
/// Bytes of a dictionary entry: a term, and its one event or where its postings lie.
pub(crate) const ENTRY_BYTES: usize = 8;
/// In a dictionary entry's value: what follows is an offset into the postings.
pub(crate) const VALUE_IS_OFFSET: u32 = 1 << 31;

/// How far a log had come behind the last event that the index covers: what a walk needs to go on
/// from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    /// How many events of the segment are covered.
    pub(crate) events: u32,
    /// Where the next frame begins in the segment.
    pub(crate) end: u64,
    /// Where the last covered frame begins.
    pub(crate) last_frame: u32,
    /// The chain word of that frame.
    pub(crate) word: u32,
    /// How many frames the log has up to there.
    pub(crate) frames: u64,
    /// The epoch of that frame.
    pub(crate) epoch: u32,
    /// The commit time of that frame.
    pub(crate) commit_time: Timestamp,
    /// All of it was on the device before the index was written.
    pub(crate) durable: bool,
}

/// What the header block of an index file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub(crate) store: LogId,
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    pub(crate) base: Position,
    pub(crate) covered: Covered,
    /// Counts: the other sections' sizes follow from them.
    pub(crate) moments: u32,
    pub(crate) entries: u32,
    pub(crate) postings_bytes: u32,
    /// The dictionary is divided by the highest bits of a term, so many of them.
    pub(crate) bucket_bits: u32,
    /// Checksum of the table of page checksums, which ends the file.
    pub(crate) pages_crc: u32,
}

/// Where the sections of an index file begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sections {
    pub(crate) moments: usize,
    pub(crate) buckets: usize,
    pub(crate) entries: usize,
    pub(crate) postings: usize,
    /// The table of page checksums.
    pub(crate) pages: usize,
    pub(crate) file_bytes: usize,
}

impl IndexHeader {
    /// Returns where the sections begin. The marks are first, at [`SECTIONS_AT`].
    pub(crate) fn sections(&self) -> Sections {
        let marks = self.covered.events.div_ceil(MARK_EVERY) as usize;
        let moments = SECTIONS_AT + marks * MARK_BYTES;
        let buckets = moments + self.moments as usize * MOMENT_BYTES;
        let entries = buckets + ((1 << self.bucket_bits) + 1) * 4;
        let postings = entries + self.entries as usize * ENTRY_BYTES;
        let pages = (postings + self.postings_bytes as usize).next_multiple_of(4);
        let count = (pages - SECTIONS_AT).div_ceil(PAGE_BYTES);
        Sections { moments, buckets, entries, postings, pages, file_bytes: pages + count * 4 }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let covered = &self.covered;
        block::encode(MAGIC, if covered.durable { FLAG_DURABLE } else { 0 }, |block| {
            put(block, FIELDS_AT, *self.store.as_bytes());
            put(block, 32, self.segment.to_le_bytes());
            put(block, 40, self.salt.to_le_bytes());
            put(block, 48, self.base.get().to_le_bytes());
            put(block, 56, covered.end.to_le_bytes());
            put(block, 64, covered.frames.to_le_bytes());
            put(block, 72, covered.commit_time.as_nanos().to_le_bytes());
            put(block, 80, covered.events.to_le_bytes());
            put(block, 84, covered.last_frame.to_le_bytes());
            put(block, 88, covered.word.to_le_bytes());
            put(block, 92, covered.epoch.to_le_bytes());
            put(block, 96, self.moments.to_le_bytes());
            put(block, 100, self.entries.to_le_bytes());
            put(block, 104, self.postings_bytes.to_le_bytes());
            put(block, 108, self.bucket_bits.to_le_bytes());
            put(block, 112, self.pages_crc.to_le_bytes());
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BlockFault> {
        let flags = block::check(bytes, MAGIC, FLAG_DURABLE)?;
        let bucket_bits = u32_at(bytes, 108);
        if bucket_bits > 24 {
            return Err(BlockFault::Field { field: "bucket bits", value: bucket_bits.into() });
        }
        Ok(Self {
            store: LogId::from_bytes(array(bytes, FIELDS_AT)),
            segment: u64_at(bytes, 32),
            salt: u64_at(bytes, 40),
            base: Position::new(u64_at(bytes, 48)),
            covered: Covered {
                end: u64_at(bytes, 56),
                frames: u64_at(bytes, 64),
                commit_time: Timestamp::from_nanos(i64_at(bytes, 72)),
                events: u32_at(bytes, 80),
                last_frame: u32_at(bytes, 84),
                word: u32_at(bytes, 88),
                epoch: u32_at(bytes, 92),
                durable: flags & FLAG_DURABLE != 0,
            },
            moments: u32_at(bytes, 96),
            entries: u32_at(bytes, 100),
            postings_bytes: u32_at(bytes, 104),
            bucket_bits,
            pages_crc: u32_at(bytes, 112),
        })
    }
}
