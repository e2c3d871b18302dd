//! One file of a log: header block, frames, and zeros where nothing was written yet.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::{fmt, io};

use headwater_core::{Position, ReadError, Timestamp};

use crate::format::segment::{FRAMES_AT, SegmentHeader};
use crate::format::{BLOCK_BYTES, Seed, frame, i64_at, record};
use crate::fs::{Access, Fs, FsFile, Preallocation};
use crate::index::{Location, SegmentIndex};
use crate::mmap::Map;

/// Bytes written at a time while a segment is filled with zeros, and between two syncs.
const FILL_STEP_BYTES: usize = 1024 * 1024;
const FILL_SYNC_BYTES: u64 = 16 * 1024 * 1024;

/// An open segment, read through a map. Sealed ones never change again.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) seed: Seed,
    pub(crate) file: Arc<dyn FsFile>,
    map: Map,
    /// Bytes below are published and final.
    end: AtomicU64,
    index: RwLock<SegmentIndex>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("header", &self.header)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// Maps an open file whose header block is `header`. Nothing in it is published yet.
    pub(crate) fn new(
        header: SegmentHeader,
        path: PathBuf,
        file: Arc<dyn FsFile>,
    ) -> io::Result<Self> {
        let map = file.map()?;
        Ok(Self {
            seed: Seed::new(header.salt),
            index: RwLock::new(SegmentIndex::new(header.base)),
            end: AtomicU64::new(FRAMES_AT),
            header,
            path,
            file,
            map,
        })
    }

    /// Publishes everything below `end`. The index knows it already.
    pub(crate) fn publish(&self, end: u64) {
        // Pairs with the Acquire load in `Map::published`.
        self.end.store(end, Ordering::Release);
    }

    /// Returns where the published bytes end.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Returns the published bytes, from the beginning of the file.
    pub(crate) fn published(&self) -> &[u8] {
        self.map.published(&self.end)
    }

    /// Returns the whole file, for recovery: no writer runs then.
    pub(crate) fn whole(&self) -> io::Result<&[u8]> {
        self.map.populate(self.header.capacity_bytes)?;
        Ok(self.map.below(self.header.capacity_bytes))
    }

    /// Copies the whole file, for readers beside a writer that runs.
    pub(crate) fn copy(&self) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.header.capacity_bytes).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        self.file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, SegmentIndex> {
        // Nothing panics while it holds this lock; if something did, the index is still whole.
        self.index.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, SegmentIndex> {
        self.index.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads the record at a place that the index named.
    pub(crate) fn record(&self, at: Location) -> Result<record::RecordRef<'_>, ReadError> {
        let bytes = self.published().get(at.offset as usize..).unwrap_or_default();
        record::decode(bytes, &self.seed)
            .map_err(|fault| self.damaged(at.position, at.offset.into(), &fault))
    }

    /// Returns the commit time of a record's frame.
    ///
    /// The frame's checksum was verified when the segment was opened or written; the record's own
    /// is verified with each read.
    pub(crate) fn commit_time(&self, at: Location) -> Timestamp {
        let header = self.published().get(at.frame as usize..).unwrap_or_default();
        match header.get(..frame::HEADER_BYTES) {
            Some(header) => Timestamp::from_nanos(i64_at(header, 32)),
            None => self.header.created,
        }
    }

    /// Names damage in this file.
    pub(crate) fn damaged(
        &self,
        position: Position,
        offset: u64,
        fault: &dyn std::error::Error,
    ) -> ReadError {
        ReadError::Damaged {
            position,
            file: self.path.display().to_string(),
            offset,
            detail: fault.to_string(),
        }
    }
}

/// Creates a file of a segment's size under a name that means nothing yet, and makes its space
/// durable.
pub(crate) fn preallocate(
    fs: &dyn Fs,
    path: &Path,
    capacity_bytes: u64,
    how: Preallocation,
) -> io::Result<Arc<dyn FsFile>> {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let dir = path.parent().unwrap_or(path);
    // Asked first, so that a full disk is not filled to its last block with each attempt. Where
    // the answer is wrong, writing finds out.
    if how != Preallocation::Sparse && fs.free_bytes(dir).is_ok_and(|free| free < capacity_bytes) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let file = fs.open(path, Access::CreateNew)?;
    let done = fill(fs, path, file.as_ref(), capacity_bytes, how);
    if done.is_err() {
        // Gives the space back at once. The name means nothing, so failing to is harmless.
        let _ = fs.remove(path);
    }
    done.map(|()| file)
}

fn fill(
    fs: &dyn Fs,
    path: &Path,
    file: &dyn FsFile,
    capacity_bytes: u64,
    how: Preallocation,
) -> io::Result<()> {
    match how {
        Preallocation::Auto => {
            let dir = path.parent().unwrap_or(path);
            return fill(fs, path, file, capacity_bytes, fs.preallocation(dir));
        }
        Preallocation::Sparse => file.set_size(capacity_bytes)?,
        Preallocation::Fallocate => file.allocate(capacity_bytes)?,
        Preallocation::ZeroFill => {
            let zeros = vec![0; FILL_STEP_BYTES];
            let mut at = 0;
            while at < capacity_bytes {
                let step = (capacity_bytes - at).min(zeros.len() as u64);
                let len = usize::try_from(step).expect("a step fits memory");
                file.write_at(&zeros[..len], at)?;
                at += step;
                if at.is_multiple_of(FILL_SYNC_BYTES) {
                    file.sync()?;
                }
            }
        }
    }
    file.sync()
}

/// Writes the header into a preallocated file, syncs it, and gives it its name.
pub(crate) fn establish(
    fs: &dyn Fs,
    dir: &Path,
    temporary: &Path,
    file: Arc<dyn FsFile>,
    header: SegmentHeader,
) -> io::Result<Segment> {
    let block = header.encode();
    assert_eq!(block.len(), BLOCK_BYTES);
    file.write_at(&block, 0)?;
    file.sync()?;
    let path = dir.join(header.file_name());
    fs.rename(temporary, &path)?;
    fs.sync_dir(dir)?;
    Segment::new(header, path, file)
}
