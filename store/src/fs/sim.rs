//! A disk that exists in memory, loses power on command, and keeps of what was not synced what it
//! likes. For tests.
//!
//! Every file has a page cache, which is what reads and maps see, and a device. Writing changes the
//! cache; each sector remembers every content it had since the last sync. Syncing a file moves its
//! sectors and its size to the device; syncing a directory, its names. When the power
//! goes, each sector that was not synced keeps any of its contents since then, each file either
//! size, and each directory the changes of its names up to any point, as a journal would. A failed
//! sync leaves the cache as it is and forgets that the device is behind, as ext4 and XFS do.
//!
//! The page cache is a file of its own in memory, so that maps of it are real maps.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::MemfdFlags;

use super::{Access, Fs, FsFile, Preallocation};
use crate::format::SECTOR_BYTES;
use crate::mmap::Map;

type Sector = [u8; SECTOR_BYTES];

/// What becomes of what was not synced when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survival {
    /// Nothing of it stays.
    Nothing,
    /// Everything stays, as when only the process dies.
    Everything,
    /// Drawn for each sector, size and directory.
    Drawn(u64),
}

/// How an operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes: this operation and all later ones fail.
    PowerOff,
    /// This operation fails with an error of the system, and later ones work.
    Once(i32),
    /// This operation and all later ones that change anything fail.
    Always(i32),
}

/// A simulated disk. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct SimFs(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    /// Counts losses of power: who opened a file before one has lost it.
    life: u64,
    /// Operations that change something, since the last loss of power.
    steps: u64,
    fault: Option<(u64, Fault)>,
    off: bool,
    /// Threads of the store need not take turns.
    free: bool,
    dirs: BTreeMap<PathBuf, Dir>,
    files: HashMap<u64, Inode>,
    next_file: u64,
    locks: HashMap<PathBuf, Weak<Locked>>,
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

#[derive(Debug)]
struct Inode {
    cache: Arc<File>,
    size: u64,
    durable: Vec<u8>,
    /// Contents of sectors since the last sync.
    dirty: BTreeMap<u64, Vec<Sector>>,
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

/// Numbers that look random and are the same for the same seed (splitmix64, Steele et al., 2014).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}

impl Survival {
    /// Chooses one of `count` states, of which the first is the synced one and the last the newest.
    fn choose(self, dice: &mut Dice, count: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Everything => count - 1,
            Self::Drawn(_) => {
                let drawn = dice.roll(count as u64);
                usize::try_from(drawn).expect("less than a count")
            }
        }
    }
}

fn gone() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn memory_file() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("sim", MemfdFlags::CLOEXEC)?))
}

impl SimFs {
    /// An empty disk with one directory.
    pub(crate) fn new(dir: &Path) -> Self {
        let mut disk = Disk::default();
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

    /// How many operations have changed something since the last loss of power.
    pub(crate) fn steps(&self) -> u64 {
        self.disk().steps
    }

    /// Returns whether the power has gone.
    pub(crate) fn is_off(&self) -> bool {
        self.disk().off
    }

    /// Takes the power away and gives it back: what is there now is on the device.
    pub(crate) fn lose_power(&self, survival: Survival) {
        let mut disk = self.disk();
        let mut dice = Dice(if let Survival::Drawn(seed) = survival { seed } else { 0 });
        for dir in disk.dirs.values_mut() {
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
        let paths: Vec<PathBuf> = disk.dirs.keys().cloned().collect();
        for path in paths {
            let named = match (path.parent().and_then(|up| disk.dirs.get(up)), path.file_name()) {
                (Some(up), Some(name)) => up.names.contains_key(&*name.to_string_lossy()),
                _ => true,
            };
            if !named {
                disk.dirs.remove(&path);
            }
        }
        let ordered: BTreeMap<u64, Inode> = disk.files.drain().collect();
        for (id, inode) in ordered {
            let sizes = [inode.durable.len() as u64, inode.size];
            let size = sizes[survival.choose(&mut dice, 2)];
            let mut bytes = inode.durable;
            bytes.resize(usize::try_from(size).expect("test files are small"), 0);
            for (sector, versions) in inode.dirty {
                let chosen = survival.choose(&mut dice, versions.len() + 1);
                let at = usize::try_from(sector).expect("small") * SECTOR_BYTES;
                if let (Some(version), true) = (chosen.checked_sub(1), at < bytes.len()) {
                    let end = bytes.len().min(at + SECTOR_BYTES);
                    bytes[at..end].copy_from_slice(&versions[version][..end - at]);
                }
            }
            let cache = memory_file().expect("memory for a file");
            cache.write_all_at(&bytes, 0).expect("memory for a file");
            let (cache, size) = (Arc::new(cache), bytes.len() as u64);
            let inode = Inode { cache, size, durable: bytes, dirty: BTreeMap::new() };
            disk.files.insert(id, inode);
        }
        disk.life += 1;
        disk.locks.clear();
        (disk.steps, disk.fault, disk.off) = (0, None, false);
    }
}

impl Disk {
    /// Counts an operation that changes something, and fails if it is to.
    fn step(&mut self) -> io::Result<()> {
        if self.off {
            return Err(gone());
        }
        let step = self.steps;
        self.steps += 1;
        match self.fault {
            Some((at, Fault::PowerOff)) if step >= at => {
                self.off = true;
                Err(gone())
            }
            Some((at, Fault::Once(errno))) if step == at => {
                Err(io::Error::from_raw_os_error(errno))
            }
            Some((at, Fault::Always(errno))) if step >= at => {
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }

    fn is_on(&self) -> io::Result<()> {
        if self.off { Err(gone()) } else { Ok(()) }
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
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
        let cache = Arc::new(memory_file()?);
        let inode = Inode { cache, size: 0, durable: Vec::new(), dirty: BTreeMap::new() };
        let (dir, name) = self.dir_of(path)?;
        dir.change(name, Some(Entry::File(id)));
        self.files.insert(id, inode);
        Ok(id)
    }
}

impl Dir {
    fn change(&mut self, name: String, entry: Option<Entry>) {
        match entry {
            Some(entry) => self.names.insert(name.clone(), entry),
            None => self.names.remove(&name),
        };
        self.pending.push((name, entry));
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.cache.write_all_at(bytes, offset)?;
        self.size = self.size.max(offset + bytes.len() as u64);
        let unit = SECTOR_BYTES as u64;
        for sector in offset / unit..(offset + bytes.len() as u64).div_ceil(unit) {
            let mut content = [0; SECTOR_BYTES];
            let there = (self.size - sector * unit).min(unit);
            let there = usize::try_from(there).expect("at most a sector");
            self.cache.read_exact_at(&mut content[..there], sector * unit)?;
            self.dirty.entry(sector).or_default().push(content);
        }
        Ok(())
    }

    /// Moves everything to the device.
    fn sync(&mut self) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.durable);
        bytes.resize(usize::try_from(self.size).map_err(io::Error::other)?, 0);
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let at = usize::try_from(sector).expect("small") * SECTOR_BYTES;
            let end = bytes.len().min(at + SECTOR_BYTES);
            if let Some(newest) = versions.last().filter(|_| at < end) {
                bytes[at..end].copy_from_slice(&newest[..end - at]);
            }
        }
        self.durable = bytes;
        Ok(())
    }
}

impl Fs for SimFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.is_on()?;
        if disk.dirs.contains_key(path) {
            return Ok(());
        }
        disk.step()?;
        let (dir, name) = disk.dir_of(path)?;
        dir.change(name, Some(Entry::Dir));
        disk.dirs.insert(path.to_owned(), Dir::default());
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.is_on()?;
        Ok(disk.dir(path)?.names.keys().cloned().collect())
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn FsFile>> {
        let mut disk = self.disk();
        disk.is_on()?;
        let (dir, name) = disk.dir_of(path)?;
        let inode = match (dir.names.get(&name), access) {
            (Some(Entry::Dir), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(_), Access::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Entry::File(inode)), _) => *inode,
            (None, Access::CreateNew) => {
                disk.step()?;
                disk.create(path)?
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { fs: self.clone(), life: disk.life, inode, _lock: None }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(from.parent(), to.parent(), "the store renames within a directory");
        let mut disk = self.disk();
        disk.step()?;
        let new = to.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        let (dir, old) = disk.dir_of(from)?;
        let entry = *dir.names.get(&old).ok_or(io::ErrorKind::NotFound)?;
        // One change for a journal; here the new name comes first, so that no crash loses both.
        dir.change(new, Some(entry));
        dir.change(old, None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.is_on()?;
        let (dir, name) = disk.dir_of(path)?;
        if !dir.names.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.step()?;
        let (dir, name) = disk.dir_of(path)?;
        dir.change(name, None);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        let dir = disk.dir(path)?;
        dir.durable = dir.names.clone();
        dir.pending.clear();
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn FsFile>>> {
        let mut disk = self.disk();
        disk.is_on()?;
        if disk.locks.get(path).is_some_and(|lock| lock.strong_count() > 0) {
            return Ok(None);
        }
        let (dir, name) = disk.dir_of(path)?;
        let inode = match dir.names.get(&name) {
            Some(Entry::File(inode)) => *inode,
            Some(Entry::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
            None => {
                disk.step()?;
                disk.create(path)?
            }
        };
        let lock = Arc::new(Locked);
        disk.locks.insert(path.to_owned(), Arc::downgrade(&lock));
        Ok(Some(Arc::new(SimFile { fs: self.clone(), life: disk.life, inode, _lock: Some(lock) })))
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn preallocation(&self, _: &Path) -> Preallocation {
        Preallocation::ZeroFill
    }

    fn works_in_turn(&self) -> bool {
        !self.disk().free
    }
}

impl SimFile {
    fn with<T>(
        &self,
        changes: bool,
        work: impl FnOnce(&mut Inode) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.fs.disk();
        if disk.life != self.life {
            return Err(gone());
        }
        if changes {
            disk.step()?;
        } else {
            disk.is_on()?;
        }
        work(disk.files.get_mut(&self.inode).ok_or_else(gone)?)
    }
}

impl FsFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(false, |inode| Ok(inode.size))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(false, |inode| inode.cache.read_exact_at(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        // What a failing write leaves behind nobody knows: here, its first half, to a sector's end.
        let written = self.with(true, |inode| inode.write(bytes, offset));
        if written.is_err() {
            let mut disk = self.fs.disk();
            let unit = SECTOR_BYTES as u64;
            let half = (offset + bytes.len() as u64 / 2) / unit * unit;
            let len = usize::try_from(half.saturating_sub(offset)).expect("less than a slice");
            if disk.life == self.life
                && let Some(inode) = disk.files.get_mut(&self.inode)
            {
                inode.write(&bytes[..len], offset)?;
            }
        }
        written
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.with(true, |inode| {
            inode.cache.set_len(bytes)?;
            inode.size = bytes;
            Ok(())
        })
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.set_size(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self.with(true, Inode::sync);
        if synced.is_err() {
            let mut disk = self.fs.disk();
            if disk.life == self.life && !disk.off {
                // The cache is as clean as if it had worked: only what the device had stays.
                let inode = disk.files.get_mut(&self.inode).ok_or_else(gone)?;
                inode.dirty.clear();
            }
        }
        synced
    }

    fn evict(&self) -> io::Result<()> {
        self.with(true, |inode| {
            // Clean sectors are read from the device again.
            for (sector, content) in (0..).zip(inode.durable.chunks(SECTOR_BYTES)) {
                if !inode.dirty.contains_key(&sector) {
                    inode.cache.write_all_at(content, sector * SECTOR_BYTES as u64)?;
                }
            }
            Ok(())
        })
    }

    fn map(&self) -> io::Result<Map> {
        self.with(false, |inode| Map::new(&inode.cache))
    }
}

mod tests;
