//! A device that keeps a record of every write and every flush: one file in a FUSE directory, over
//! which a loop device can be laid. The record can be played up to any moment, with or without what
//! was not flushed then, sector by sector.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite,
    Request, WriteFlags,
};
use headwater_testkit::{Disk, DiskKind};

const BLOCK_BYTES: u64 = 4096;
const SECTOR_BYTES: usize = 512;
const DEVICE: INodeNo = INodeNo(2);
const NAME: &str = "device";

/// Something that the device was asked to do.
#[derive(Debug)]
enum Entry {
    Write { offset: u64, bytes: Vec<u8> },
    Flush,
}

#[derive(Debug, Default)]
struct Record {
    blocks: HashMap<u64, Vec<u8>>,
    entries: Vec<Entry>,
    fails: bool,
    /// How many writes failed.
    failed: u64,
    /// Blocks that cannot be read until they are written.
    unreadable: HashSet<u64>,
    /// Where the last write that worked ended.
    end: u64,
}

/// The record of a device. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Tape {
    record: Arc<Mutex<Record>>,
    bytes: u64,
}

/// XFS takes no less.
const DEVICE_BYTES: u64 = 320 * 1024 * 1024;

/// Puts a file system on a device that records. Returns `None` if this machine has none, and says
/// so.
pub(crate) fn under(kind: DiskKind, campaign: &str) -> Option<(Tape, Device, Disk)> {
    let skip = |error: &dyn std::fmt::Display| println!("SKIPPED: {campaign} on {kind}: {error}");
    let (tape, device) =
        Tape::insert(DEVICE_BYTES).inspect_err(|error| skip(&format!("FUSE: {error}"))).ok()?;
    let disk = Disk::new_on(kind, &device.path()).inspect_err(|error| skip(error)).ok()?;
    Some((tape, device, disk))
}

/// The device, as long as this lives.
pub(crate) struct Device {
    // Goes first, which unmounts the directory.
    _session: BackgroundSession,
    home: tempfile::TempDir,
}

impl Tape {
    /// Makes a device of zeros.
    fn insert(bytes: u64) -> io::Result<(Self, Device)> {
        let tape = Self { record: Arc::default(), bytes };
        let home = tempfile::Builder::new().prefix("headwater-tape-").tempdir()?;
        let session = fuser::spawn_mount(tape.clone(), home.path(), &Config::default())?;
        Ok((tape, Device { _session: session, home }))
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets writes fail from now on, or work again.
    pub(crate) fn set_failing(&self, fails: bool) {
        self.record().fails = fails;
    }

    /// Lets reads of some blocks fail until they are written.
    pub(crate) fn spoil(&self, blocks: Range<u64>) {
        self.record().unreadable.extend(blocks);
    }

    /// How many writes have failed.
    pub(crate) fn failed(&self) -> u64 {
        self.record().failed
    }

    /// Forgets what there was, but for what the device holds.
    pub(crate) fn forget(&self) {
        self.record().entries.clear();
    }

    /// How many writes and flushes there were.
    pub(crate) fn len(&self) -> u64 {
        self.record().entries.len() as u64
    }

    /// Writes into a file what the device may hold if the power goes after so many entries: what
    /// was flushed, and any sectors of what was not.
    pub(crate) fn play(&self, until: u64, dice: &mut fastrand::Rng, to: &Path) -> io::Result<()> {
        let record = self.record();
        let entries = &record.entries[..usize::try_from(until).map_err(io::Error::other)?];
        let flushed = entries.iter().rposition(|entry| matches!(entry, Entry::Flush));
        let (settled, open) = entries.split_at(flushed.map_or(0, |index| index + 1));
        let image = File::create(to)?;
        image.set_len(self.bytes)?;
        for entry in settled {
            if let Entry::Write { offset, bytes } = entry {
                image.write_all_at(bytes, *offset)?;
            }
        }
        // Nothing, everything, or each sector as it likes.
        let kept = [0, 50, 50, 100][dice.usize(..4)];
        for entry in open {
            let Entry::Write { offset, bytes } = entry else { continue };
            for (offset, sector) in
                (*offset..).step_by(SECTOR_BYTES).zip(bytes.chunks(SECTOR_BYTES))
            {
                if dice.u8(..100) < kept {
                    image.write_all_at(sector, offset)?;
                }
            }
        }
        Ok(())
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_device = inode == DEVICE;
        FileAttr {
            ino: inode,
            size: if is_device { self.bytes } else { 0 },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_device { FileType::RegularFile } else { FileType::Directory },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Device {
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join(NAME)
    }
}

impl Record {
    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut at = 0;
        while at < length {
            let place = offset + at as u64;
            let within = usize::try_from(place % BLOCK_BYTES).expect("less than a block");
            let end = length.min(at + 4096 - within);
            if let Some(block) = self.blocks.get(&(place / BLOCK_BYTES)) {
                bytes[at..end].copy_from_slice(&block[within..within + end - at]);
            }
            at = end;
        }
        bytes
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let place = offset + at as u64;
            let within = usize::try_from(place % BLOCK_BYTES).expect("less than a block");
            let end = bytes.len().min(at + 4096 - within);
            let block = self.blocks.entry(place / BLOCK_BYTES).or_insert_with(|| vec![0; 4096]);
            block[within..within + end - at].copy_from_slice(&bytes[at..end]);
            self.unreadable.remove(&(place / BLOCK_BYTES));
            at = end;
        }
        self.entries.push(Entry::Write { offset, bytes: bytes.to_vec() });
    }
}

impl Filesystem for Tape {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&Duration::MAX, &self.attributes(DEVICE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::from_secs(1), &self.attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = self.bytes.saturating_sub(offset).min(u64::from(size));
        let length = usize::try_from(length).expect("at most a u32");
        let record = self.record();
        let blocks = offset / BLOCK_BYTES..(offset + length as u64).div_ceil(BLOCK_BYTES);
        if blocks.into_iter().any(|block| record.unreadable.contains(&block)) {
            return reply.error(Errno::EIO);
        }
        reply.data(&record.read(offset, length));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut record = self.record();
        // Not in the middle of what the loop device was asked for at once: it takes a write that
        // was done in part for one that was done.
        if record.fails && offset != record.end {
            record.failed += 1;
            return reply.error(Errno::EIO);
        }
        record.end = offset + bytes.len() as u64;
        record.write(offset, bytes);
        reply.written(u32::try_from(bytes.len()).expect("the kernel asks for less"));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.record().entries.push(Entry::Flush);
        reply.ok();
    }
}
