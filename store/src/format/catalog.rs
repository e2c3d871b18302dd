//! The file `CATALOG`: two blocks written in turn, so that one is always whole. The newest valid
//! one tells recovery where each log ended at least, and which writer epoch came last.

use headwater_core::{LogId, Position};

use super::block::{self, BlockFault, FIELDS_AT};
use super::{array, put, u32_at, u64_at};

const MAGIC: [u8; 8] = *b"HWCATLG1";
const FLAG_CLEAN: u16 = 1;

/// What the catalog knows of one log: the events' or the offsets'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogEntry {
    /// The oldest segment that still counts; 0 before the first one exists.
    pub(crate) first_segment: u64,
    /// The segment that was being written; later ones may exist. 0 before the first one exists.
    pub(crate) active_segment: u64,
    /// Everything up to here was on the device when this was written.
    pub(crate) durable: Position,
}

/// One of the two blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Catalog {
    pub(crate) store: LogId,
    /// The newer block has the higher one.
    pub(crate) sequence: u64,
    /// The epoch of the last writer.
    pub(crate) epoch: u32,
    /// Whether that writer closed the store.
    pub(crate) clean: bool,
    pub(crate) events: LogEntry,
    pub(crate) offsets: LogEntry,
}

impl Catalog {
    pub(crate) fn encode(&self) -> Vec<u8> {
        block::encode(MAGIC, if self.clean { FLAG_CLEAN } else { 0 }, |block| {
            put(block, FIELDS_AT, *self.store.as_bytes());
            put(block, 32, self.sequence.to_le_bytes());
            put(block, 40, self.epoch.to_le_bytes());
            for (at, log) in [(48, &self.events), (72, &self.offsets)] {
                put(block, at, log.first_segment.to_le_bytes());
                put(block, at + 8, log.active_segment.to_le_bytes());
                put(block, at + 16, log.durable.get().to_le_bytes());
            }
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BlockFault> {
        let flags = block::check(bytes, MAGIC, FLAG_CLEAN)?;
        let log = |at| LogEntry {
            first_segment: u64_at(bytes, at),
            active_segment: u64_at(bytes, at + 8),
            durable: Position::new(u64_at(bytes, at + 16)),
        };
        Ok(Self {
            store: LogId::from_bytes(array(bytes, FIELDS_AT)),
            sequence: u64_at(bytes, 32),
            epoch: u32_at(bytes, 40),
            clean: flags & FLAG_CLEAN != 0,
            events: log(48),
            offsets: log(72),
        })
    }
}
