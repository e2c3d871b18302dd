//! How a store is opened.

use headwater_core::Durability;

use crate::error::OpenError;
use crate::format::BLOCK_BYTES;
pub use crate::fs::Preallocation;
use crate::retention::Retention;

/// Smallest segment: 64 KiB.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// Largest segment: 4 GiB less one block, so that offsets fit 32 bits.
pub(crate) const SEGMENT_BYTES_MAX: u64 = (1 << 32) - BLOCK_BYTES as u64;

/// Whether the store must exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist. An empty directory is an error, because it may be a volume that is not
    /// mounted.
    Open,
    /// It must not exist. The directory may, if it is empty.
    Create,
    /// It is created if the directory is missing or empty.
    #[default]
    OpenOrCreate,
}

/// Options of a store. None of them is stored: each opening may choose anew.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the store must exist.
    pub mode: OpenMode,
    /// What an acknowledged append survives.
    pub durability: Durability,
    /// Size of new segments in bytes, from 64 KiB to 4 GiB, rounded up to 4 KiB. One append takes
    /// a quarter of it at most. A store takes the space of one segment from the beginning, and
    /// of the next once it is half full. The default is 128 MiB.
    pub segment_bytes: u64,
    /// How segments get their space.
    pub preallocation: Preallocation,
    /// How many appends with an append id are remembered, newest first: as long as it is among
    /// them, repeating one returns its first result. They take no memory; an id that is new is
    /// looked for in each segment that holds one of them. The default is 100,000.
    pub idempotency_window: usize,
    /// How many sealed segments are kept open, mapped together with their indexes. Each takes a
    /// few kilobytes of memory and two of the process's maps (65,530 by Linux's default). Reading
    /// opens others as it needs them. The default is 4,096.
    pub open_segments: usize,
    /// What is removed by itself, when the store is opened and each time a segment is full, as far
    /// as every group has read it. The default is nothing.
    pub retention: Retention,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: OpenMode::OpenOrCreate,
            durability: Durability::Sync,
            segment_bytes: 128 * 1024 * 1024,
            preallocation: Preallocation::Auto,
            idempotency_window: 100_000,
            open_segments: 4096,
            retention: Retention::default(),
        }
    }
}

impl Options {
    /// Checks each option and rounds the segment size.
    pub(crate) fn checked(mut self) -> Result<Self, OpenError> {
        let invalid = |option, value: u64, remedy| Err(OpenError::Option { option, value, remedy });
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return invalid(
                "segment_bytes",
                self.segment_bytes,
                "use 65,536 to 4,294,963,200 bytes",
            );
        }
        self.segment_bytes = self.segment_bytes.next_multiple_of(BLOCK_BYTES as u64);
        if self.open_segments == 0 {
            return invalid("open_segments", 0, "use at least 1");
        }
        if let Durability::Interval { every, bytes } = self.durability {
            if every.is_zero() {
                return invalid("durability.every", 0, "use more than zero, or Durability::Sync");
            }
            if bytes == 0 {
                return invalid(
                    "durability.bytes",
                    0,
                    "use at least one byte, or Durability::Sync",
                );
            }
        }
        Ok(self)
    }
}
