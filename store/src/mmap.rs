//! Read-only memory maps: the only `unsafe` of the engine.
//!
//! Invariants:
//!
//! - **M1.** A mapped file is never shortened and never overwritten below the published end: the
//!   writer only appends, the directory lock keeps other writers of this kind away, and segments
//!   go by unlinking, which leaves their pages to whoever has them mapped.
//! - **M2.** A map hands out only bytes below an end that its caller has learned from the writer
//!   (a [`Mark`] that was set after the bytes were written), or,
//!   where no writer runs, below the size of the file.
//!
//! A repair of damaged bytes, which takes the lock, makes zeros of them: a reader that has them mapped
//! meets damage where it met damage before.
//!
//! A file that somebody else truncates or a device that fails to read breaks M1 from outside; the
//! kernel answers with SIGBUS. [`Map::populate`] asks for the pages first and turns most of that
//! into an error.

use std::fs::File;
use std::io;

use memmap2::Mmap;

use crate::mark::Mark;

/// A whole file, mapped for reading.
#[derive(Debug)]
pub(crate) struct Map {
    inner: Mmap,
}

impl Map {
    /// Maps a file. Its size must not shrink while the map lives (M1).
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: M1: files that are mapped here are never shortened, and M2 keeps every slice
        // below the bytes that may still change.
        let inner = unsafe { Mmap::map(file)? };
        Ok(Self { inner })
    }

    /// Returns the published bytes (M2).
    pub(crate) fn published(&self, end: &Mark) -> &[u8] {
        self.below(end.get())
    }

    /// Returns the bytes below `end`, which the caller knows to be final (M2).
    pub(crate) fn below(&self, end: u64) -> &[u8] {
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(self.inner.len());
        &self.inner[..end]
    }

    /// Reads the pages of a range in, so that a device that fails gives an error here and not a
    /// signal later. Kernels before Linux 5.14 cannot; there it does nothing.
    pub(crate) fn populate(&self, from: u64, to: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            let narrow = |at| usize::try_from(at).unwrap_or(usize::MAX).min(self.inner.len());
            let (from, to) = (narrow(from), narrow(to));
            match self.inner.advise_range(memmap2::Advice::PopulateRead, from, to - from) {
                Err(error)
                    if error.raw_os_error() != Some(rustix::io::Errno::INVAL.raw_os_error()) =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
