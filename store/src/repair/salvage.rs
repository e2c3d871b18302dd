//! Reading what can be read of a file on a device that does not give all of it.

use std::io;
use std::ops::Range;

use crate::format::BLOCK_BYTES;
use crate::fs::{FsFile, is_unreadable};

/// The page cache asks the device for blocks of this size, so smaller reads get nothing more.
const BLOCK: u64 = BLOCK_BYTES as u64;
/// What is read at a time as long as nothing fails.
pub(super) const STEP_BYTES: usize = 1024 * 1024;

/// The ranges of a file that cannot be read, in order and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holes(Vec<Range<u64>>);

impl Holes {
    /// Adds a range behind those that are there.
    pub(super) fn push(&mut self, hole: Range<u64>) {
        match self.0.last_mut() {
            Some(last) if last.end == hole.start => last.end = hole.end,
            _ => self.0.push(hole),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether any byte of a range is in one.
    pub(super) fn touch(&self, range: &Range<u64>) -> bool {
        self.0.iter().any(|hole| hole.start < range.end && range.start < hole.end)
    }

    /// Returns the range from the first to the last of them.
    pub(super) fn span(&self) -> Option<Range<u64>> {
        Some(self.0.first()?.start..self.0.last()?.end)
    }

    pub(super) fn into_ranges(self) -> Vec<Range<u64>> {
        self.0
    }
}

/// Fills a buffer with what a file has from an offset on. Blocks that cannot be read are zeros in
/// it, and holes.
pub(super) fn read(
    file: &dyn FsFile,
    buffer: &mut [u8],
    offset: u64,
    holes: &mut Holes,
) -> io::Result<()> {
    match file.read_at(buffer, offset) {
        Err(error) if is_unreadable(&error) => {}
        read => return read,
    }
    file.read_singly()?;
    let (mut at, mut rest) = (offset, buffer);
    while !rest.is_empty() {
        let len = usize::try_from(BLOCK - at % BLOCK).expect("a block").min(rest.len());
        let (block, behind) = rest.split_at_mut(len);
        match file.read_at(block, at) {
            Err(error) if is_unreadable(&error) => {
                block.fill(0);
                holes.push(at..at + len as u64);
            }
            read => read?,
        }
        at += len as u64;
        rest = behind;
    }
    Ok(())
}

/// Reads a whole file, as far as it can be read.
pub(super) fn read_whole(file: &dyn FsFile) -> io::Result<(Vec<u8>, Holes)> {
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    let mut holes = Holes::default();
    for (step, buffer) in (0..).step_by(STEP_BYTES).zip(bytes.chunks_mut(STEP_BYTES)) {
        read(file, buffer, step, &mut holes)?;
    }
    Ok((bytes, holes))
}
