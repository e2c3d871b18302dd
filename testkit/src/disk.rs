//! Real file systems that lose power on command: ext4 and XFS in a file, mounted over a loop
//! device. Needs root and the tools of the file system.
//!
//! [`Disk::cut_power`] shuts the file system down as it is: nothing that waits is written any
//! more, neither data nor journal. Mounting it again replays the journal, as after a power cut. The
//! call that asks for it is the only `unsafe` of this crate.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::ioctl;
use tempfile::TempDir;

/// How large the file system is. The file is sparse; XFS takes no less.
const DISK_BYTES: u64 = 320 * 1024 * 1024;

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// ext4 as it comes.
    Ext4,
    /// ext4 without its journal: a write that fails concerns that write alone.
    Ext4NoJournal,
    /// XFS as it comes.
    Xfs,
}

/// A file system in a file. It is unmounted and removed when this goes.
#[derive(Debug)]
pub struct Disk {
    kind: DiskKind,
    image: PathBuf,
    home: TempDir,
    mounted: bool,
}

/// A small file system in memory. It is unmounted and gone when this goes.
#[derive(Debug)]
pub struct MemoryDisk {
    home: TempDir,
}

/// A file that takes space away until it goes.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
}

/// Why there is no such disk here: no root, no loop devices, a tool that is missing.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {said}")]
pub struct DiskError {
    action: String,
    said: String,
}

impl fmt::Display for DiskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Ext4NoJournal => "ext4 without journal",
            Self::Xfs => "xfs",
        })
    }
}

/// Runs a program, and returns what it said against it.
fn run(command: &mut Command) -> Result<(), DiskError> {
    let failed = |said: String| DiskError { action: format!("{command:?}"), said };
    let output = Command::new(command.get_program()).args(command.get_args()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

impl Disk {
    /// Makes a file system in a temporary file, and mounts it.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if this machine cannot: without root, loop devices, or the tools.
    pub fn new(kind: DiskKind) -> Result<Self, DiskError> {
        let home = home()?;
        let image = home.path().join("image");
        let made = File::create(&image).and_then(|file| file.set_len(DISK_BYTES));
        made.map_err(|error| DiskError::new("make the file of a disk", &error))?;
        Self::on(kind, image, home)
    }

    /// Makes a file system on a file or device that is there, and mounts it.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if this machine cannot.
    pub fn new_on(kind: DiskKind, image: &Path) -> Result<Self, DiskError> {
        Self::on(kind, image.to_owned(), home()?)
    }

    /// Mounts a file system that is there.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if it cannot be mounted.
    pub fn open(kind: DiskKind, image: &Path) -> Result<Self, DiskError> {
        let mut disk = Self { kind, image: image.to_owned(), home: home()?, mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    fn on(kind: DiskKind, image: PathBuf, home: TempDir) -> Result<Self, DiskError> {
        let mut mkfs = Command::new(if kind == DiskKind::Xfs { "mkfs.xfs" } else { "mkfs.ext4" });
        match kind {
            DiskKind::Ext4 => mkfs.args(["-q", "-F", "-N", "4096"]),
            DiskKind::Ext4NoJournal => mkfs.args(["-q", "-F", "-N", "4096", "-O", "^has_journal"]),
            DiskKind::Xfs => mkfs.args(["-q", "-f"]),
        };
        run(mkfs.arg(&image))?;
        let mut disk = Self { kind, image, home, mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    /// Returns the directory on which it is mounted.
    pub fn path(&self) -> PathBuf {
        self.home.path().join("mounted")
    }

    /// Returns what it is.
    pub fn kind(&self) -> DiskKind {
        self.kind
    }

    /// Takes the power away: what was not on the device is lost, and everything that is asked of
    /// the file system from now on fails until it is mounted again.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn cut_power(&self) -> io::Result<()> {
        let dir = File::open(self.path())?;
        shut_down(&dir)
    }

    /// Mounts it, which replays the journal.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if it cannot be mounted.
    pub fn mount(&mut self) -> Result<(), DiskError> {
        let dir = self.path();
        fs::create_dir_all(&dir).map_err(|error| DiskError::new("make a directory", &error))?;
        // A copy of a mounted XFS has its id too.
        let options = if self.kind == DiskKind::Xfs { "loop,nouuid" } else { "loop" };
        run(Command::new("mount").args(["-o", options]).arg(&self.image).arg(dir))?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it. Nobody may have a file of it open.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if somebody has.
    pub fn unmount(&mut self) -> Result<(), DiskError> {
        run(Command::new("umount").arg(self.path()))?;
        self.mounted = false;
        Ok(())
    }

    /// Unmounts it and mounts it again.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if either cannot be done.
    pub fn remount(&mut self) -> Result<(), DiskError> {
        self.unmount()?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let_go(&self.path());
        }
    }
}

/// Unmounts; lazily if need be: somebody may have a file of it open, and will let go of it.
fn let_go(dir: &Path) {
    if run(Command::new("umount").arg(dir)).is_err()
        && let Err(error) = run(Command::new("umount").arg("--lazy").arg(dir))
    {
        eprintln!("a mount is left behind: {error}");
    }
}

impl MemoryDisk {
    /// Mounts a file system in memory with so much space.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if this machine cannot: without root.
    pub fn new(bytes: u64) -> Result<Self, DiskError> {
        let home = home()?;
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "headwater-testkit"]).arg(home.path());
        run(&mut mount)?;
        Ok(Self { home })
    }

    /// Returns the directory on which it is mounted.
    pub fn path(&self) -> &Path {
        self.home.path()
    }

    /// Makes it read-only. Nobody may have a file of it open for writing.
    ///
    /// # Errors
    ///
    /// [`DiskError`] if somebody has.
    pub fn set_read_only(&self) -> Result<(), DiskError> {
        run(Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()))
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        let_go(self.path());
    }
}

impl Ballast {
    /// Takes the space of the file system that a directory lies on, all but so many bytes.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn leaving(dir: &Path, free_bytes: u64) -> io::Result<Self> {
        let ballast = Self { path: dir.join("ballast") };
        let file = File::create(&ballast.path)?;
        let stat = rustix::fs::statvfs(dir)?;
        let free = stat.f_bavail * stat.f_frsize;
        if let Some(bytes) = free.checked_sub(free_bytes).filter(|&bytes| bytes > 0) {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
        }
        Ok(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // Without it there is nothing to free.
        let _ = fs::remove_file(&self.path);
    }
}

impl DiskError {
    fn new(action: &str, said: &io::Error) -> Self {
        Self { action: action.to_owned(), said: said.to_string() }
    }
}

fn home() -> Result<TempDir, DiskError> {
    let home = tempfile::Builder::new().prefix("headwater-disk-").tempdir();
    home.map_err(|error| DiskError::new("make a temporary directory", &error))
}

/// Shuts down the file system that a directory lies on, without writing its journal.
#[expect(unsafe_code, reason = "there is no other way to ask for it than this ioctl")]
fn shut_down(dir: &File) -> io::Result<()> {
    /// `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN`, which are the same.
    const SHUTDOWN: ioctl::Opcode = ioctl::opcode::read::<u32>(b'X', 125);
    const WITHOUT_LOG_FLUSH: u32 = 2;
    // SAFETY: the opcode reads one `u32`, which is what it is given, and writes no memory. A file
    // system that does not know it answers with an error.
    unsafe { ioctl::ioctl(dir, ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_LOG_FLUSH))? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// What the campaigns stand on: synced bytes stay, others go.
    #[test]
    fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
        for kind in [DiskKind::Ext4, DiskKind::Xfs] {
            let mut disk = match Disk::new(kind) {
                Ok(disk) => disk,
                Err(error) => {
                    println!("SKIPPED: power cuts on {kind}: {error}");
                    continue;
                }
            };
            let path = disk.path().join("file");
            let mut file = File::create(&path).unwrap();
            file.write_all(b"kept").unwrap();
            file.sync_all().unwrap();
            file.write_all(b"lost").unwrap();
            disk.cut_power().unwrap();
            assert!(file.sync_all().is_err(), "{kind} is down");
            drop(file);
            disk.remount().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"kept", "{kind}");
        }
    }
}
