//! A disk that exists in memory, loses power on command, and keeps of what was not synced what it
//! likes. For tests.
//!
//! Every file has a page cache, which is what reads and maps see, and a device. Writing changes the
//! cache; each sector remembers every content it had since the last sync. Syncing a file moves its
//! sectors and its size to the device; syncing a directory, its names. When the power
//! goes, each sector that was not synced keeps any of its contents since then, each file either
//! size, and each directory the changes of its names up to any point, as a journal would. A failed
//! sync leaves the cache as it is and forgets that the device is behind, as ext4 and XFS do. When
//! only the process dies, the cache stays as it is, and a loss of power may follow.
//!
//! Operations that change something are counted, and can fail by number; space and open files can
//! run out; sectors can go bad, rot, get lost, or be written elsewhere. What cannot be had here is
//! a signal, where somebody looks at a page of a map without asking for it first.
//!
//! Everything that was done goes into a trace: the same seed leaves the same trace.

mod fault;
mod inode;
mod system;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::Errno;

use super::FsFile;
use crate::format::SECTOR_BYTES;
use crate::mmap::Map;
use crate::planted::{Bug, planted};

pub(crate) use fault::{Dice, Fault, Survival};
use inode::Inode;

/// A simulated disk. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SimFs(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    /// The directory that is always there.
    root: PathBuf,
    /// Counts ends of processes: who opened a file before one has lost it.
    life: u64,
    /// Operations that change something, since the last loss of power.
    steps: u64,
    fault: Option<(u64, Fault)>,
    came: Came,
    off: bool,
    /// Threads of the store need not take turns.
    free: bool,
    /// Dropping clean pages does nothing, as where something still maps them.
    pinned: bool,
    /// How many bytes files may take.
    space: Option<u64>,
    /// How many files may be open.
    handles_max: Option<usize>,
    handles: usize,
    dirs: BTreeMap<PathBuf, Dir>,
    files: HashMap<u64, Inode>,
    next_file: u64,
    locks: HashMap<PathBuf, Weak<Locked>>,
    /// How often one was taken.
    locked: u64,
    trace: DefaultHasher,
}

#[derive(Clone, Debug, Default)]
struct Dir {
    names: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
    /// Changes since the last sync, in order.
    pending: Vec<(String, Option<Entry>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(u64),
    Dir,
}

/// What has come of the planned fault in this life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Came {
    #[default]
    Nothing,
    /// An operation failed, or was a lie.
    Failure,
    /// The end.
    End,
}

/// An operation that changes something, and the file that it changes.
#[derive(Clone, Copy, Debug, Hash)]
enum Op {
    CreateDir,
    Create,
    Rename,
    Link,
    Remove,
    RemoveDir,
    SyncDir,
    Write(u64, u64, usize),
    SetSize(u64, u64),
    Sync(u64),
    Evict(u64),
}

#[derive(Debug)]
struct Locked;

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    life: u64,
    inode: u64,
    _lock: Option<Arc<Locked>>,
}

fn gone() -> io::Error {
    Errno::IO.into()
}

impl SimFs {
    /// An empty disk with one directory.
    pub(crate) fn new(dir: &Path) -> Self {
        let mut disk = Disk { root: dir.to_owned(), ..Disk::default() };
        disk.dirs.insert(dir.to_owned(), Dir::default());
        Self(Arc::new(Mutex::new(disk)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the store's threads run beside each other, for who chooses which one goes on.
    #[allow(dead_code, reason = "`tests/weave` compiles this file too")]
    pub(crate) fn let_threads_overlap(&self) {
        self.disk().free = true;
    }

    /// Lets the operation with this number fail, counted from the last loss of power.
    pub(crate) fn fail_at(&self, step: u64, fault: Fault) {
        self.disk().fault = Some((step, fault));
    }

    /// Lets everything work again.
    pub(crate) fn heal(&self) {
        self.disk().fault = None;
    }

    /// Does something while nothing goes wrong; what is planned may come afterwards.
    pub(crate) fn calmly<T>(&self, work: impl FnOnce() -> T) -> T {
        let planned = self.disk().fault.take();
        let done = work();
        self.disk().fault = planned;
        done
    }

    /// How many operations have changed something since the last loss of power.
    pub(crate) fn steps(&self) -> u64 {
        self.disk().steps
    }

    /// Returns whether the power has gone.
    pub(crate) fn is_off(&self) -> bool {
        self.disk().off
    }

    /// Returns whether an operation has failed, or was a lie, in this life.
    pub(crate) fn has_failed(&self) -> bool {
        self.disk().came == Came::Failure
    }

    /// Returns how often a lock was taken.
    pub(crate) fn locked(&self) -> u64 {
        self.disk().locked
    }

    /// Returns a digest of everything that was done, in order.
    pub(crate) fn trace(&self) -> u64 {
        self.disk().trace.finish()
    }

    /// Bounds the bytes that files take; `None` lifts the bound.
    pub(crate) fn set_space(&self, bytes: Option<u64>) {
        self.disk().space = bytes;
    }

    /// Bounds the files that are open; `None` lifts the bound.
    pub(crate) fn set_handles(&self, max: Option<usize>) {
        self.disk().handles_max = max;
    }

    /// Lets the cache keep its clean pages when it is asked to drop them.
    pub(crate) fn pin_cache(&self) {
        self.disk().pinned = true;
    }

    /// Flips a bit of a file on the device.
    pub(crate) fn rot(&self, path: &Path, bit: u64) {
        self.change(path, |inode| inode.rot(bit)).expect("memory for a file");
    }

    /// Makes a sector of a file unreadable until it is written again.
    pub(crate) fn spoil(&self, path: &Path, sector: u64) {
        self.change(path, |inode| inode.spoil(sector));
    }

    fn change<T>(&self, path: &Path, change: impl FnOnce(&mut Inode) -> T) -> T {
        let mut disk = self.disk();
        let (dir, name) = disk.dir_of(path).expect("the file's directory exists");
        let Some(&Entry::File(inode)) = dir.names.get(&name) else { panic!("no file {name}") };
        change(disk.files.get_mut(&inode).expect("a name has a file"))
    }

    /// Lets nothing work any more until the process or the power is back.
    pub(crate) fn stop(&self) {
        self.disk().off = true;
    }

    /// Ends the process that uses the disk and begins another one: files and locks are gone, and
    /// everything that was written is in the cache, synced or not. A fault that has not come to
    /// pass yet still may.
    pub(crate) fn kill_process(&self) {
        let mut disk = self.disk();
        if planted(Bug::DiskDiesWithProcess) {
            disk.lose(Survival::Nothing);
        }
        if disk.came != Came::Nothing {
            disk.fault = None;
        }
        disk.begin_life();
    }

    /// Takes the power away and gives it back: what is there now is on the device.
    pub(crate) fn lose_power(&self, survival: Survival) {
        let mut disk = self.disk();
        disk.lose(survival);
        (disk.steps, disk.fault) = (0, None);
        disk.begin_life();
    }
}

impl Disk {
    fn begin_life(&mut self) {
        self.life += 1;
        if !planted(Bug::DiskKeepsLocks) {
            self.locks.clear();
        }
        (self.came, self.off) = (Came::Nothing, false);
        (self.handles, self.pinned) = (0, false);
    }

    fn lose(&mut self, survival: Survival) {
        survival.hash(&mut self.trace);
        let mut dice = survival.dice();
        for dir in self.dirs.values_mut() {
            let kept = survival.choose(&mut dice, dir.pending.len() + 1);
            let mut names = dir.durable.clone();
            for (name, entry) in dir.pending.drain(..).take(kept) {
                match entry {
                    Some(entry) => names.insert(name, entry),
                    None => names.remove(&name),
                };
            }
            dir.names.clone_from(&names);
            dir.durable = names;
        }
        // A directory whose name is gone is gone with everything in it.
        let paths: Vec<PathBuf> = self.dirs.keys().cloned().collect();
        for path in paths {
            if !self.is_named(&path) {
                self.dirs.remove(&path);
            }
        }
        let ordered: BTreeMap<u64, Inode> = self.files.drain().collect();
        for (id, inode) in ordered {
            let after = inode.after_power_loss(survival, &mut dice).expect("memory for a file");
            self.files.insert(id, after);
        }
    }

    /// Counts an operation that changes something, and fails if it is to.
    fn step(&mut self, op: Op) -> io::Result<()> {
        self.is_on()?;
        let step = self.steps;
        self.steps += 1;
        op.hash(&mut self.trace);
        let fails = match self.fault {
            Some((at, Fault::PowerOff)) if step >= at => {
                (self.came, self.off) = (Came::End, true);
                return Err(gone());
            }
            Some((at, Fault::Once(errno))) if step == at => io::Error::from_raw_os_error(errno),
            Some((at, Fault::Always(errno))) if step >= at => io::Error::from_raw_os_error(errno),
            _ => return Ok(()),
        };
        self.came = Came::Failure;
        fails.kind().hash(&mut self.trace);
        Err(fails)
    }

    /// Returns the lie that the device tells about a sync, if it is to.
    fn lie(&mut self) -> Option<(Fault, Dice)> {
        let lies = |&(at, fault): &(u64, Fault)| {
            at <= self.steps && matches!(fault, Fault::LostWrite | Fault::MisdirectedWrite)
        };
        let (at, fault) = self.fault.take_if(|planned| lies(planned))?;
        self.came = Came::Failure;
        Some((fault, Dice(at)))
    }

    fn is_on(&self) -> io::Result<()> {
        if self.off { Err(gone()) } else { Ok(()) }
    }

    /// Returns how many bytes files may still take.
    fn free_bytes(&self) -> u64 {
        let Some(space) = self.space.filter(|_| !planted(Bug::DiskNeverFull)) else {
            return u64::MAX;
        };
        let names = self.dirs.values().flat_map(|dir| dir.names.values());
        let sizes = names.map(|entry| match entry {
            Entry::File(inode) => self.files.get(inode).map_or(0, |inode| inode.size),
            Entry::Dir => 0,
        });
        space.saturating_sub(sizes.sum())
    }

    /// Counts an open file.
    fn take_handle(&mut self) -> io::Result<()> {
        if self.handles_max.is_some_and(|max| self.handles >= max) {
            return Err(Errno::MFILE.into());
        }
        self.handles += 1;
        Ok(())
    }

    /// Returns whether a directory can be reached from the root.
    fn is_named(&self, path: &Path) -> bool {
        if path == self.root {
            return true;
        }
        let (Some(up), Some(name)) = (path.parent(), path.file_name()) else { return false };
        let entry = self.dirs.get(up).and_then(|dir| dir.names.get(&*name.to_string_lossy()));
        entry == Some(&Entry::Dir) && self.is_named(up)
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        if !self.is_named(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.dirs.get_mut(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn dir_of(&mut self, path: &Path) -> io::Result<(&mut Dir, String)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let name = name.to_string_lossy().into_owned();
        Ok((self.dir(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?, name))
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        let id = self.next_file;
        self.next_file += 1;
        let inode = Inode::new()?;
        let (dir, name) = self.dir_of(path)?;
        dir.change(name, Some(Entry::File(id)));
        self.files.insert(id, inode);
        Ok(id)
    }
}

impl Dir {
    fn change(&mut self, name: String, entry: Option<Entry>) {
        let changed = |names: &mut BTreeMap<String, Entry>| match entry {
            Some(entry) => names.insert(name.clone(), entry),
            None => names.remove(&name),
        };
        changed(&mut self.names);
        if planted(Bug::DiskNamesAreDurable) {
            changed(&mut self.durable);
        }
        self.pending.push((name, entry));
    }
}

impl SimFile {
    /// Does something to a file, unless its process is gone.
    fn with<T>(
        &self,
        op: Option<Op>,
        work: impl FnOnce(&mut Inode) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.fs.disk();
        if disk.life != self.life {
            return Err(gone());
        }
        match op {
            Some(op) => disk.step(op)?,
            None => disk.is_on()?,
        }
        work(disk.files.get_mut(&self.inode).ok_or_else(gone)?)
    }

    /// Writes what the end of a failed write may have left, though it failed.
    fn write_in_part(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.fs.disk();
        if disk.life != self.life || bytes.is_empty() {
            return Ok(());
        }
        disk.files.get_mut(&self.inode).ok_or_else(gone)?.write(bytes, offset)
    }

    /// Returns how many more bytes than there is room for a file of this size would take.
    fn lacks(&self, size: u64) -> u64 {
        let disk = self.fs.disk();
        let has = disk.files.get(&self.inode).map_or(0, |inode| inode.size);
        size.saturating_sub(has).saturating_sub(disk.free_bytes())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut disk = self.fs.disk();
        if disk.life == self.life {
            disk.handles -= 1;
        }
    }
}

impl FsFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(None, |inode| Ok(inode.size))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(None, |inode| inode.read(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let op = Op::Write(self.inode, offset, bytes.len());
        let lacks = self.lacks(offset + bytes.len() as u64);
        if lacks > 0 {
            self.with(Some(op), |_| Ok(()))?;
            // As much as there is room for is written.
            let fits = (bytes.len() as u64).saturating_sub(lacks);
            let fits = usize::try_from(fits).expect("less than a slice");
            self.write_in_part(&bytes[..fits], offset)?;
            return Err(Errno::NOSPC.into());
        }
        let was_on = self.fs.disk().is_on().is_ok();
        let written = self.with(Some(op), |inode| inode.write(bytes, offset));
        if written.is_err() && was_on {
            // What a failing write leaves behind nobody knows: here, its first half, to a sector's end.
            let unit = SECTOR_BYTES as u64;
            let half = (offset + bytes.len() as u64 / 2) / unit * unit;
            let len = usize::try_from(half.saturating_sub(offset)).expect("less than a slice");
            self.write_in_part(&bytes[..len], offset)?;
        }
        written
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.with(Some(Op::SetSize(self.inode, bytes)), |inode| inode.set_size(bytes))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        if self.lacks(bytes) > 0 {
            return Err(Errno::NOSPC.into());
        }
        self.set_size(bytes)
    }

    /// What is not synced may be on the device at any time anyway.
    fn begin_write_out(&self, _: u64, _: u64) -> io::Result<()> {
        self.with(None, |_| Ok(()))
    }

    fn sync(&self) -> io::Result<()> {
        let lie = self.fs.disk().lie();
        let synced = self.with(Some(Op::Sync(self.inode)), |inode| {
            inode.sync(lie);
            Ok(())
        });
        if synced.is_err() {
            let mut disk = self.fs.disk();
            if disk.life == self.life && !disk.off {
                disk.files.get_mut(&self.inode).ok_or_else(gone)?.fail_sync();
            }
        }
        synced
    }

    fn evict(&self) -> io::Result<()> {
        let pinned = self.fs.disk().pinned;
        self.with(Some(Op::Evict(self.inode)), |inode| if pinned { Ok(()) } else { inode.evict() })
    }

    fn read_singly(&self) -> io::Result<()> {
        self.with(None, |_| Ok(()))
    }

    fn map(&self) -> io::Result<Map> {
        self.with(None, Inode::map)
    }
}

mod conformance;
mod tests;
