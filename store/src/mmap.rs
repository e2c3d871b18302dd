//! Read-only memory maps: the only `unsafe` of the engine but for one system call in `fs`.
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
use rustix::io::Errno;

use crate::mark::Mark;

/// A whole file, mapped for reading.
#[derive(Debug)]
pub(crate) struct Map {
    inner: Mmap,
    /// Sectors that a simulated device does not give.
    #[cfg(test)]
    bad: Spots,
}

/// Sectors of a file, as they are now.
#[cfg(test)]
pub(crate) type Spots = std::sync::Arc<std::sync::Mutex<std::collections::BTreeSet<u64>>>;

impl Map {
    /// Maps a file. Its size must not shrink while the map lives (M1).
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: M1: files that are mapped here are never shortened, and M2 keeps every slice
        // below the bytes that may still change.
        let inner = unsafe { Mmap::map(file)? };
        Ok(Self {
            inner,
            #[cfg(test)]
            bad: Spots::default(),
        })
    }

    /// Lets populating fail where a simulated device does not give the bytes. They can be looked
    /// at all the same, where a real one would answer with a signal.
    #[cfg(test)]
    pub(crate) fn spotted(self, bad: &Spots) -> Self {
        Self { bad: bad.clone(), ..self }
    }

    #[cfg(test)]
    fn ask_simulated(&self, from: u64, to: u64) -> io::Result<()> {
        use crate::format::{BLOCK_BYTES, SECTOR_BYTES};
        let (page, sector) = (BLOCK_BYTES as u64, SECTOR_BYTES as u64);
        let pages = from / page * page / sector..to.next_multiple_of(page) / sector;
        let bad = self.bad.lock().expect("nothing panics while it has the lock");
        if bad.range(pages).next().is_some() { Err(Errno::IO.into()) } else { Ok(()) }
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
        #[cfg(test)]
        self.ask_simulated(from, to)?;
        #[cfg(target_os = "linux")]
        {
            let narrow = |at| usize::try_from(at).unwrap_or(usize::MAX).min(self.inner.len());
            let (from, to) = (narrow(from), narrow(to));
            let populated = self.inner.advise_range(memmap2::Advice::PopulateRead, from, to - from);
            match populated.map_err(|error| Errno::from_io_error(&error).ok_or(error)) {
                // A kernel that does not know how.
                Ok(()) | Err(Ok(Errno::INVAL)) => {}
                // Where a look would be a signal: the device did not give the page.
                Err(Ok(Errno::FAULT)) => return Err(Errno::IO.into()),
                Err(Ok(errno)) => return Err(errno.into()),
                Err(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_cannot_be_read_are_an_error_of_the_device() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * 1024).unwrap();
        let map = Map::new(&file).unwrap();
        map.populate(0, 64 * 1024).unwrap();
        // Against M1, and nobody looks at what is gone.
        file.set_len(4096).unwrap();
        map.populate(0, 4096).unwrap();
        let error = map.populate(0, 64 * 1024).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }
}
