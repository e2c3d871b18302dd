//! Every byte on disk, as pure functions over slices. `docs/format.md` is the specification.
//!
//! All numbers are little-endian. Checks run in one order everywhere: all zero means unwritten,
//! then the checksum, then the magic number, then the version, then the fields. Nothing in here
//! opens a file, and no bytes can make it panic.

pub(crate) mod block;
pub(crate) mod catalog;
pub(crate) mod frame;
pub(crate) mod identity;
pub(crate) mod index;
pub(crate) mod metadata;
pub(crate) mod offsets;
pub(crate) mod record;
pub(crate) mod segment;
pub(crate) mod tails;

#[cfg(test)]
mod tests;

use crc32fast::Hasher;

/// Version of every file this program writes, and the newest it reads.
pub(crate) const FORMAT_VERSION: u16 = 1;

/// Size of header blocks, and the unit in which files are written.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// The unit in which a disk keeps or loses what was not synced.
pub(crate) const SECTOR_BYTES: usize = 512;

/// A checksum that begins with a segment's salt, so that bytes of another segment never pass.
#[derive(Clone, Debug)]
pub(crate) struct Seed(Hasher);

impl Seed {
    pub(crate) fn new(salt: u64) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(&salt.to_le_bytes());
        Self(hasher)
    }

    pub(crate) fn checksum(&self, parts: &[&[u8]]) -> u32 {
        let mut hasher = self.0.clone();
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

/// Reads `N` bytes at `at`; callers have checked the length.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has the length of the array")
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

pub(crate) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(array(bytes, at))
}

/// Writes bytes at `at`.
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// Returns whether all bytes are zero, which means that nothing was ever written there.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // In chunks, so that the compiler uses wide registers: this walks the unused rest of a
    // segment at each start.
    let chunks = bytes.chunks_exact(64);
    let rest = chunks.remainder();
    let zero = |chunk: &[u8]| chunk.iter().fold(0, |sum, byte| sum | byte) == 0;
    zero(rest) && chunks.into_iter().all(zero)
}
