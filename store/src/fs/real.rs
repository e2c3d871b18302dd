//! The operating system's files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags};

use super::{Access, Fs, FsFile, Preallocation, write_out};
use crate::mmap::Map;

/// The operating system's file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RealFs;

#[derive(Debug)]
struct RealFile {
    file: File,
    /// The process that locked it, if it is locked.
    locked_by: Option<u32>,
}

impl Fs for RealFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn FsFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read).create_new(access == Access::CreateNew);
        Ok(Arc::new(RealFile { file: options.open(path)?, locked_by: None }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn names(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.nlink())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn FsFile>>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Arc::new(RealFile { file, locked_by: Some(std::process::id()) }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn preallocation(&self, path: &Path) -> Preallocation {
        // Magic numbers of statfs(2).
        const EXT4: u64 = 0xEF53;
        const XFS: u64 = 0x5846_5342;
        const BTRFS: u64 = 0x9123_683E;
        const ZFS: u64 = 0x2FC1_2FC1;
        const BCACHEFS: u64 = 0xCA45_1A4E;
        let kind = rustix::fs::statfs(path).ok().and_then(|stat| u64::try_from(stat.f_type).ok());
        match kind {
            Some(EXT4 | XFS) => Preallocation::ZeroFill,
            Some(BTRFS | ZFS | BCACHEFS) => Preallocation::Sparse,
            _ => Preallocation::Fallocate,
        }
    }
}

impl FsFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(bytes),
            result => Ok(result?),
        }
    }

    fn begin_write_out(&self, offset: u64, len: u64) -> io::Result<()> {
        write_out::begin(&self.file, offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn evict(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    fn read_singly(&self) -> io::Result<()> {
        // The cache may have pages of many blocks, which are there as a whole or not at all.
        self.evict()?;
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::Random)?)
    }

    fn map(&self) -> io::Result<Map> {
        Map::new(&self.file)
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        // A forked child shares the lock, and must not free its parent's.
        if self.locked_by == Some(std::process::id()) {
            // Closing frees the lock too, unless a forked child still holds the descriptor. If
            // even this fails, there is nobody left to tell.
            let _ = self.file.unlock();
        }
    }
}
