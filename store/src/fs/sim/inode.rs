//! A file of the simulated disk: what the cache has, what the device has, and what lies between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, MutexGuard, PoisonError};

use rustix::fs::MemfdFlags;

use super::fault::{Dice, Fault, Survival};
use super::gone;
use crate::format::SECTOR_BYTES;
use crate::mmap::{Map, Spots};
use crate::planted::{Bug, planted};

type Sector = [u8; SECTOR_BYTES];
const UNIT: u64 = SECTOR_BYTES as u64;

#[derive(Debug)]
pub(super) struct Inode {
    /// What reads and maps see. It is a file of its own in memory, so that maps of it are real.
    cache: Arc<File>,
    pub(super) size: u64,
    /// It was mapped, so it must not shrink any more.
    mapped: bool,
    device: Vec<u8>,
    /// Contents of sectors since the last sync, oldest first.
    dirty: BTreeMap<u64, Vec<Sector>>,
    /// Sectors that the device cannot read, until they are written again.
    bad: Spots,
}

fn at(sector: u64) -> usize {
    usize::try_from(sector * UNIT).expect("test files are small")
}

impl Inode {
    pub(super) fn new() -> io::Result<Self> {
        Self::of(Vec::new(), Spots::default())
    }

    /// A file that is in the cache as it is on the device.
    fn of(device: Vec<u8>, bad: Spots) -> io::Result<Self> {
        let cache = File::from(rustix::fs::memfd_create("sim", MemfdFlags::CLOEXEC)?);
        cache.write_all_at(&device, 0)?;
        let size = device.len() as u64;
        let (cache, dirty) = (Arc::new(cache), BTreeMap::new());
        Ok(Self { cache, size, mapped: false, device, dirty, bad })
    }

    fn len(&self) -> usize {
        usize::try_from(self.size).expect("test files are small")
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        if self.bad().range(offset / UNIT..end.div_ceil(UNIT)).next().is_some() {
            return Err(gone());
        }
        self.cache.read_exact_at(buffer, offset)
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.cache.write_all_at(bytes, offset)?;
        self.size = self.size.max(offset + bytes.len() as u64);
        let (first, end) = (offset / UNIT, (offset + bytes.len() as u64).div_ceil(UNIT));
        let mut content = vec![0; at(end - first)];
        let there = at(end - first).min(self.len() - at(first));
        self.cache.read_exact_at(&mut content[..there], first * UNIT)?;
        let (sectors, _) = content.as_chunks();
        for (sector, content) in (first..).zip(sectors) {
            self.dirty.entry(sector).or_default().push(*content);
            self.bad().remove(&sector);
        }
        Ok(())
    }

    /// The end of a shortened file is zeroed in the cache, and that may reach the device before the
    /// size does.
    pub(super) fn set_size(&mut self, bytes: u64) -> io::Result<()> {
        assert!(!self.mapped || bytes >= self.size, "a map of a shortened file is a SIGBUS");
        let zeroed = if bytes < self.size { self.size.div_ceil(UNIT) } else { 0 };
        for sector in bytes / UNIT..zeroed {
            let mut content = [0; SECTOR_BYTES];
            let kept = usize::try_from(bytes.saturating_sub(sector * UNIT)).expect("a sector");
            self.cache.read_exact_at(&mut content[..kept], sector * UNIT)?;
            self.dirty.entry(sector).or_default().push(content);
        }
        self.cache.set_len(bytes)?;
        self.size = bytes;
        Ok(())
    }

    /// Moves everything to the device. It may lie about one sector.
    pub(super) fn sync(&mut self, lie: Option<(Fault, Dice)>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        self.device.resize(self.len(), 0);
        if let Some((fault, mut dice)) = lie
            && let Some(&sector) = dirty.keys().nth(dice.index(dirty.len().max(1)))
        {
            let versions = dirty.remove(&sector).unwrap_or_default();
            let count = self.size.div_ceil(UNIT);
            let elsewhere = (sector + 1 + dice.roll(count.max(2) - 1)) % count;
            if fault == Fault::MisdirectedWrite {
                self.put(elsewhere, versions.last());
            }
        }
        for (sector, versions) in dirty {
            self.put(sector, versions.last());
        }
    }

    /// What a sync leaves that failed: the cache is as clean as if it had worked, and the device
    /// has what it had.
    pub(super) fn fail_sync(&mut self) {
        if !planted(Bug::DiskSyncsAgain) {
            self.dirty.clear();
        }
    }

    fn put(&mut self, sector: u64, content: Option<&Sector>) {
        let (from, end) = (at(sector), self.device.len().min(at(sector + 1)));
        if let Some(content) = content.filter(|_| from < end) {
            self.device[from..end].copy_from_slice(&content[..end - from]);
        }
    }

    /// Reads clean sectors from the device again.
    pub(super) fn evict(&self) -> io::Result<()> {
        let mut content = self.device.clone();
        for (&sector, versions) in self.dirty.range(..(content.len() as u64).div_ceil(UNIT)) {
            let newest = versions.last().expect("a dirty sector was written");
            let end = content.len().min(at(sector + 1));
            content[at(sector)..end].copy_from_slice(&newest[..end - at(sector)]);
        }
        self.cache.write_all_at(&content, 0)
    }

    /// Flips a bit on the device, and in the cache, which has it from there.
    pub(super) fn rot(&mut self, bit: u64) -> io::Result<()> {
        let byte = usize::try_from(bit / 8).map_err(io::Error::other)?;
        self.device[byte] ^= 1 << (bit % 8);
        self.cache.write_all_at(&self.device[byte..=byte], bit / 8)
    }

    fn bad(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps the file.
    pub(super) fn map(&mut self) -> io::Result<Map> {
        self.mapped = true;
        Ok(Map::new(&self.cache)?.spotted(&self.bad))
    }

    pub(super) fn spoil(&self, sector: u64) {
        self.bad().insert(sector);
    }

    /// What the device has after the power went.
    pub(super) fn after_power_loss(
        mut self,
        survival: Survival,
        dice: &mut Dice,
    ) -> io::Result<Self> {
        let sizes = [self.device.len(), self.len()];
        self.device.resize(sizes[survival.choose(dice, 2)], 0);
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let chosen = survival.choose(dice, versions.len() + 1);
            self.put(sector, chosen.checked_sub(1).map(|version| &versions[version]));
        }
        Self::of(self.device, self.bad)
    }
}
