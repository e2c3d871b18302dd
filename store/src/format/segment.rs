//! The header block of a segment, and the segment's file name. Both say who it is.

use headwater_core::{LogId, Position, Timestamp};

use super::block::{self, BlockFault, FIELDS_AT};
use super::{BLOCK_BYTES, array, i64_at, put, u32_at, u64_at};

const MAGIC: [u8; 8] = *b"HWSEG001";

/// Where the first frame of a segment begins.
pub(crate) const FRAMES_AT: u64 = BLOCK_BYTES as u64;

/// Which of a store's two logs a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogKind {
    Events,
    Offsets,
}

impl LogKind {
    const fn number(self) -> u64 {
        match self {
            Self::Events => 0,
            Self::Offsets => 1,
        }
    }

    /// The folder of the log inside the store.
    pub(crate) const fn folder(self) -> &'static str {
        match self {
            Self::Events => "log",
            Self::Offsets => "offsets",
        }
    }
}

/// What the header block of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) capacity_bytes: u64,
    pub(crate) store: LogId,
    pub(crate) kind: LogKind,
    /// Counts the segments of the log from 1 and is never used again.
    pub(crate) id: u64,
    /// Position of the first event.
    pub(crate) base: Position,
    /// Drawn at random; begins every checksum in the segment.
    pub(crate) salt: u64,
    pub(crate) created: Timestamp,
    /// The segment before, 0 for the first.
    pub(crate) previous_id: u64,
    /// The chain word of the last frame before this segment.
    pub(crate) previous_word: u32,
    /// The writer that made it.
    pub(crate) epoch: u32,
    /// How many frames the log has before this segment.
    pub(crate) frames_before: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let blocks = u32::try_from(self.capacity_bytes / BLOCK_BYTES as u64)
            .expect("options limit a segment to 4 GiB");
        block::encode(MAGIC, 0, |block| {
            put(block, 12, blocks.to_le_bytes());
            put(block, FIELDS_AT, *self.store.as_bytes());
            put(block, 32, self.kind.number().to_le_bytes());
            put(block, 40, self.id.to_le_bytes());
            put(block, 48, self.base.get().to_le_bytes());
            put(block, 56, self.salt.to_le_bytes());
            put(block, 64, self.created.as_nanos().to_le_bytes());
            put(block, 72, self.previous_id.to_le_bytes());
            put(block, 80, self.previous_word.to_le_bytes());
            put(block, 84, self.epoch.to_le_bytes());
            put(block, 88, self.base.previous().get().to_le_bytes());
            put(block, 96, self.frames_before.to_le_bytes());
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BlockFault> {
        block::check(bytes, MAGIC, 0)?;
        let fault = |field, value| Err(BlockFault::Field { field, value });
        let kind = match u64_at(bytes, 32) {
            0 => LogKind::Events,
            1 => LogKind::Offsets,
            other => return fault("log", other),
        };
        let base = Position::new(u64_at(bytes, 48));
        if base == Position::START {
            return fault("base position", 0);
        }
        let durable = u64_at(bytes, 88);
        if durable != base.previous().get() {
            return fault("durable position", durable);
        }
        Ok(Self {
            capacity_bytes: u64::from(u32_at(bytes, 12)) * BLOCK_BYTES as u64,
            store: LogId::from_bytes(array(bytes, FIELDS_AT)),
            kind,
            id: u64_at(bytes, 40),
            base,
            salt: u64_at(bytes, 56),
            created: Timestamp::from_nanos(i64_at(bytes, 64)),
            previous_id: u64_at(bytes, 72),
            previous_word: u32_at(bytes, 80),
            epoch: u32_at(bytes, 84),
            frames_before: u64_at(bytes, 96),
        })
    }

    /// The name of the segment's file.
    pub(crate) fn file_name(&self) -> String {
        file_name(self.base, self.id)
    }
}

/// The name of the file of a segment.
pub(crate) fn file_name(base: Position, id: u64) -> String {
    format!("{:020}-{id:08x}.seg", base.get())
}

/// Reads a segment's base position and id from its file name; `None` if it is not such a name.
pub(crate) fn parse_file_name(name: &str) -> Option<(Position, u64)> {
    let (base, id) = name.strip_suffix(".seg")?.split_once('-')?;
    let parsed = (Position::new(base.parse().ok()?), u64::from_str_radix(id, 16).ok()?);
    (file_name(parsed.0, parsed.1) == name).then_some(parsed)
}
