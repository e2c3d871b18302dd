//! A file system that counts what is asked of it and fails on command. For tests.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Access, Fs, FsFile, Preallocation, RealFs};
use crate::mmap::Map;

/// An operation that changes something, on the device or in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Write,
    SetSize,
    WriteOut,
    Sync,
    Evict,
    Rename,
    Link,
    Remove,
    SyncDir,
}

/// One operation as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) op: Op,
    pub(crate) path: PathBuf,
    pub(crate) bytes: usize,
}

#[derive(Debug, Default)]
struct Plan {
    steps: Vec<Step>,
    /// How often something was asked that changes nothing.
    looks: usize,
    /// From which step on operations fail, with which error, and how many of them.
    fail: Option<(usize, i32, usize)>,
    /// Only operations of this kind fail.
    only: Option<Op>,
    /// The next operation of this kind panics.
    panic: Option<Op>,
    /// Every change of the file with this name fails.
    file: Option<(&'static str, i32)>,
    /// How much space there is said to be, if not what there is.
    free: Option<u64>,
    /// The current name of each open file.
    names: Vec<PathBuf>,
}

/// The real file system with a plan of failures. Clones share the plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyFs {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug)]
struct FaultyFile {
    inner: Arc<dyn FsFile>,
    /// Which of the plan's names is its own.
    name: usize,
    fs: FaultyFs,
}

impl FaultyFs {
    /// Returns what was asked for since the last call.
    pub(crate) fn take_steps(&self) -> Vec<Step> {
        std::mem::take(&mut self.plan.lock().unwrap().steps)
    }

    /// Returns how often files were read, measured or mapped since the last call.
    pub(crate) fn take_looks(&self) -> usize {
        std::mem::take(&mut self.plan.lock().unwrap().looks)
    }

    /// Lets `count` operations fail with `errno`, after `skip` that work, counted from now. Only
    /// operations of the kind `only` count, if one is given.
    pub(crate) fn fail(&self, skip: usize, errno: i32, count: usize, only: Option<Op>) {
        let mut plan = self.plan.lock().unwrap();
        plan.fail = Some((skip, errno, count));
        plan.only = only;
    }

    /// Lets the next operation of a kind panic, as a mistake of ours would.
    pub(crate) fn panic_at(&self, op: Op) {
        self.plan.lock().unwrap().panic = Some(op);
    }

    /// Lets every change of the file with this name fail.
    pub(crate) fn fail_file(&self, name: &'static str, errno: i32) {
        self.plan.lock().unwrap().file = Some((name, errno));
    }

    /// Says that there is so much space.
    pub(crate) fn say_free(&self, bytes: u64) {
        self.plan.lock().unwrap().free = Some(bytes);
    }

    /// Lets everything work again. Returns whether the failure ever came.
    pub(crate) fn heal(&self) -> bool {
        let mut plan = self.plan.lock().unwrap();
        let came = plan.fail.is_some_and(|(_, _, left)| left == 0);
        plan.fail = None;
        came
    }

    fn step(&self, op: Op, path: &Path, bytes: usize) -> io::Result<()> {
        let mut plan = self.plan.lock().unwrap();
        plan.steps.push(Step { op, path: path.to_owned(), bytes });
        if plan.panic.take_if(|panic| *panic == op).is_some() {
            drop(plan);
            panic!("planned");
        }
        if let Some((name, errno)) = plan.file
            && path.ends_with(name)
        {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let counts = plan.only.is_none_or(|only| only == op);
        match &mut plan.fail {
            Some((skip, ..)) if counts && *skip > 0 => *skip -= 1,
            Some((_, errno, left)) if counts && *left > 0 => {
                *left -= 1;
                return Err(io::Error::from_raw_os_error(*errno));
            }
            _ => {}
        }
        Ok(())
    }

    fn wrap(&self, inner: Arc<dyn FsFile>, path: &Path) -> Arc<dyn FsFile> {
        let mut plan = self.plan.lock().unwrap();
        plan.names.push(path.to_owned());
        Arc::new(FaultyFile { inner, name: plan.names.len() - 1, fs: self.clone() })
    }
}

impl Fs for FaultyFs {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealFs.list(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn FsFile>> {
        if access == Access::CreateNew {
            self.step(Op::Create, path, 0)?;
        }
        RealFs.open(path, access).map(|file| self.wrap(file, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Op::Rename, to, 0)?;
        RealFs.rename(from, to)?;
        for name in &mut self.plan.lock().unwrap().names {
            if name == from {
                to.clone_into(name);
            }
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Op::Link, to, 0)?;
        RealFs.link(from, to)
    }

    fn names(&self, path: &Path) -> io::Result<u64> {
        RealFs.names(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if path.exists() {
            self.step(Op::Remove, path, 0)?;
        }
        RealFs.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Op::Remove, path, 0)?;
        RealFs.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Op::SyncDir, path, 0)?;
        RealFs.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Arc<dyn FsFile>>> {
        // The lock's text is not part of any promise, so it is not part of the plan.
        RealFs.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let said = self.plan.lock().unwrap().free;
        said.map_or_else(|| RealFs.free_bytes(path), Ok)
    }

    fn preallocation(&self, _: &Path) -> Preallocation {
        Preallocation::Fallocate
    }
}

impl FaultyFile {
    fn step(&self, op: Op, bytes: usize) -> io::Result<()> {
        let name = self.fs.plan.lock().unwrap().names[self.name].clone();
        self.fs.step(op, &name, bytes)
    }

    fn look(&self) {
        self.fs.plan.lock().unwrap().looks += 1;
    }
}

impl FsFile for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        self.look();
        self.inner.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.look();
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.step(Op::Write, bytes.len())?;
        self.inner.write_at(bytes, offset)
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.step(Op::SetSize, 0)?;
        self.inner.set_size(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.step(Op::SetSize, 0)?;
        self.inner.allocate(bytes)
    }

    fn begin_write_out(&self, offset: u64, len: u64) -> io::Result<()> {
        self.step(Op::WriteOut, 0)?;
        self.inner.begin_write_out(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.step(Op::Sync, 0)?;
        self.inner.sync()
    }

    fn evict(&self) -> io::Result<()> {
        self.step(Op::Evict, 0)?;
        self.inner.evict()
    }

    fn read_singly(&self) -> io::Result<()> {
        self.look();
        self.inner.read_singly()
    }

    fn map(&self) -> io::Result<Map> {
        self.look();
        self.inner.map()
    }
}
