//! The file `STORE`: which store this is. Written once, never changed.

use headwater_core::{LogId, Timestamp};

use super::block::{self, BlockFault, FIELDS_AT};
use super::{array, i64_at, put, u32_at};

const MAGIC: [u8; 8] = *b"HWSTORE1";

/// Slots are `xxh3_64(key) mod 1024`.
const SLOT_HASH_XXH3: u32 = 1;

/// What the file `STORE` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: LogId,
    pub(crate) created: Timestamp,
}

impl Identity {
    pub(crate) fn encode(&self) -> Vec<u8> {
        block::encode(MAGIC, 0, |block| {
            put(block, FIELDS_AT, *self.id.as_bytes());
            put(block, 32, self.created.as_nanos().to_le_bytes());
            put(block, 40, SLOT_HASH_XXH3.to_le_bytes());
        })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BlockFault> {
        block::check(bytes, MAGIC, 0)?;
        let hash = u32_at(bytes, 40);
        if hash != SLOT_HASH_XXH3 {
            return Err(BlockFault::Field { field: "slot hash", value: hash.into() });
        }
        Ok(Self {
            id: LogId::from_bytes(array(bytes, FIELDS_AT)),
            created: Timestamp::from_nanos(i64_at(bytes, 32)),
        })
    }
}
