//! The few file operations the store needs, as a trait: the real file system is one
//! implementation, disks that fail on command are others.
//!
//! Everything that makes bytes durable goes through here, so a test that implements [`Fs`] sees
//! each write and each sync, in order.

#[cfg(test)]
pub(crate) mod faulty;
mod real;
#[cfg(test)]
pub(crate) mod sim;
#[expect(unsafe_code, reason = "one system call that no crate offers as safe")]
mod write_out;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::mmap::Map;
use crate::planted::{Bug, planted};

pub(crate) use real::RealFs;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It exists and is only read.
    Read,
    /// It exists and is written too.
    Write,
    /// It does not exist yet.
    CreateNew,
}

/// How a file gets its space before it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preallocation {
    /// By the file system and the durability: zeros on ext4 and XFS where every append is synced,
    /// sparse on file systems that copy on write, reserved extents otherwise.
    #[default]
    Auto,
    /// Zeros, written and synced. A later sync then flushes once and commits no journal, and a
    /// full disk shows before a segment is begun. Doubles the bytes that the device writes.
    ZeroFill,
    /// Reserved extents. A full disk shows before a segment is begun; each sync that touches new
    /// blocks costs the file system a journal commit.
    Fallocate,
    /// Only the size. For file systems that copy on write, where nothing else helps.
    Sparse,
}

/// A file system.
pub(crate) trait Fs: fmt::Debug + Send + Sync + 'static {
    /// Creates a directory and those above it; it may exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Returns the names of what is in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn FsFile>>;
    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name, which must be free, in the same file system.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns how many names a file has.
    fn names(&self, path: &Path) -> io::Result<u64>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory that is empty.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock of a file, which is created if need be, without waiting. `None` means that
    /// somebody else has it. It is free again when the value is dropped or the process ends.
    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn FsFile>>>;
    /// Returns how many bytes are free for us, as far as the file system knows.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Returns how files get their space where [`Preallocation::Auto`] leaves it to us.
    fn preallocation(&self, path: &Path) -> Preallocation;
    /// Returns whether what runs in a thread of its own is waited for at once, so that a test does the same each time.
    fn works_in_turn(&self) -> bool {
        false
    }
}

/// An open file.
pub(crate) trait FsFile: fmt::Debug + Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads until the buffer is full; a shorter file is an error.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Sets the size.
    fn set_size(&self, bytes: u64) -> io::Result<()>;
    /// Reserves space from the beginning, and sets the size to at least that.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Lets the device begin with the bytes of a range, and waits for nothing. Durable is only what
    /// is synced.
    fn begin_write_out(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes the bytes durable, and the size.
    fn sync(&self) -> io::Result<()>;
    /// Drops clean pages from the cache, so that the next read asks the device.
    fn evict(&self) -> io::Result<()>;
    /// Lets later reads ask the device for what they need and for nothing beside it, so that what
    /// lies next to an unreadable place can be read.
    fn read_singly(&self) -> io::Result<()>;
    /// Maps the whole file for reading.
    fn map(&self) -> io::Result<Map>;
}

/// Reads a whole small file.
pub(crate) fn read_file(fs: &dyn Fs, path: &Path) -> io::Result<Vec<u8>> {
    let file = fs.open(path, Access::Read)?;
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Writes a whole small file so that it is there complete or not at all: under another name,
/// synced, renamed, and the directory synced.
pub(crate) fn write_file(fs: &dyn Fs, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    replace_file(fs, dir, name, bytes)?;
    if planted(Bug::ForgetFileName) { Ok(()) } else { fs.sync_dir(dir) }
}

/// Does the same without making the name durable: after a crash the file is the old one, the new
/// one, or missing.
pub(crate) fn replace_file(fs: &dyn Fs, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    remove_file(fs, &temporary)?;
    let file = fs.open(&temporary, Access::CreateNew)?;
    file.write_at(bytes, 0)?;
    if !planted(Bug::NameBeforeContent) {
        file.sync()?;
    }
    fs.rename(&temporary, &dir.join(name))
}

/// Removes a file that may be missing.
pub(crate) fn remove_file(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a file's bytes its own before they are written over: a backup may have a hard link to it.
pub(crate) fn own_file(fs: &dyn Fs, dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    if fs.names(&path)? > 1 {
        write_file(fs, dir, name, &read_file(fs, &path)?)?;
    }
    Ok(())
}

/// Returns whether a file is in the making, and means nothing yet.
pub(crate) fn is_temporary(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "tmp")
}

/// Returns whether an error means that there is no space left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Returns whether an error means that the device does not give these bytes, and may give others.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    // The last two are a bad medium and a failed check of it, where the file system passes them on.
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::NODATA | Errno::ILSEQ))
}
