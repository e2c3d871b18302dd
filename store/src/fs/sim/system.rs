//! The operations of a file system, on the simulated disk: names, and opening what has one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Entry, Locked, Op, SimFile, SimFs};
use crate::fs::{Access, Fs, FsFile, Preallocation};

impl Fs for SimFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.is_on()?;
        if disk.is_named(path) {
            return Ok(());
        }
        disk.step(Op::CreateDir)?;
        let (dir, name) = disk.dir_of(path)?;
        dir.change(name, Some(Entry::Dir));
        disk.dirs.entry(path.to_owned()).or_default();
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
                disk.step(Op::Create)?;
                disk.create(path)?
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        disk.take_handle()?;
        Ok(Arc::new(SimFile { fs: self.clone(), life: disk.life, inode, _lock: None }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(from.parent(), to.parent(), "the store renames within a directory");
        let mut disk = self.disk();
        disk.step(Op::Rename)?;
        let new = to.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        let (dir, old) = disk.dir_of(from)?;
        let entry = *dir.names.get(&old).ok_or(io::ErrorKind::NotFound)?;
        // One change for a journal; here the new name comes first, so that no crash loses both.
        dir.change(new, Some(entry));
        dir.change(old, None);
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.is_on()?;
        let (dir, name) = disk.dir_of(from)?;
        let entry = *dir.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
        let (dir, name) = disk.dir_of(to)?;
        if dir.names.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.step(Op::Link)?;
        let (dir, name) = disk.dir_of(to)?;
        dir.change(name, Some(entry));
        Ok(())
    }

    fn names(&self, path: &Path) -> io::Result<u64> {
        let mut disk = self.disk();
        disk.is_on()?;
        let (dir, name) = disk.dir_of(path)?;
        let entry = *dir.names.get(&name).ok_or(io::ErrorKind::NotFound)?;
        let all = disk.dirs.values().flat_map(|dir| dir.names.values());
        Ok(all.filter(|other| **other == entry).count() as u64)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.is_on()?;
        let (dir, name) = disk.dir_of(path)?;
        if !dir.names.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.step(Op::Remove)?;
        let (dir, name) = disk.dir_of(path)?;
        dir.change(name, None);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.is_on()?;
        if !disk.dir(path)?.names.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        disk.step(Op::RemoveDir)?;
        // Its content stays for the case that the name comes back with the power.
        let (dir, name) = disk.dir_of(path)?;
        dir.change(name, None);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.step(Op::SyncDir)?;
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
                disk.step(Op::Create)?;
                disk.create(path)?
            }
        };
        disk.take_handle()?;
        disk.locked += 1;
        let lock = Arc::new(Locked);
        disk.locks.insert(path.to_owned(), Arc::downgrade(&lock));
        Ok(Some(Arc::new(SimFile { fs: self.clone(), life: disk.life, inode, _lock: Some(lock) })))
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.disk().free_bytes())
    }

    fn preallocation(&self, _: &Path) -> Preallocation {
        Preallocation::ZeroFill
    }

    fn works_in_turn(&self) -> bool {
        !self.disk().free
    }
}
