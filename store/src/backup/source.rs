//! What is copied: a store's two logs as they are at a moment.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{LogId, Position};

use super::BackupError;
use crate::error::OpenError;
use crate::format::identity::Identity;
use crate::format::segment::{LogKind, parse_file_name};
use crate::format::tails::Tails;
use crate::fs::{Access, Fs, read_file};
use crate::ledger;
use crate::log::{Depth, LogDir};
use crate::open;
use crate::read_only::{ATTEMPTS_MAX, ReadOnlyStore, offsets_log};
use crate::retention::Keeper;
use crate::source::LogSource;
use crate::sync::thread;
use crate::tails;

/// A store as it is at a moment. Everything in it is on the device.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) root: PathBuf,
    pub(super) identity: Identity,
    pub(super) groups: usize,
    /// `TAILS` and `LEDGER`, as far as they are there.
    pub(super) small: Vec<(&'static str, Vec<u8>)>,
    pub(super) offsets: LogSource,
    pub(super) events: LogSource,
}

impl Source {
    /// The store that is open here.
    pub(super) fn of(keeper: &Keeper) -> Result<Self, BackupError> {
        let (fs, root) = (Arc::clone(&keeper.fs), keeper.root.clone());
        let identity = open::identity(fs.as_ref(), &root)?;
        let offsets = keeper.offsets.source(|tail, groups| {
            // While nothing is written: the next segment makes the others go.
            let held = tail.source().hold(tail.dir());
            held.map(|log| (log, groups)).map_err(BackupError::io("open", tail.dir().path()))
        });
        let (offsets, groups) =
            offsets.map_err(BackupError::Groups)?.transpose()?.unwrap_or_default();
        let small = small_files(fs.as_ref(), &root)?;
        let events = keeper.writer.source().map_err(BackupError::Events)?;
        if !reaches(&small, keeper.view.start(), &root)? {
            // Nothing is removed meanwhile, so it is gone, or an older one.
            tails::require(fs.as_ref(), &root)?;
            let detail = "it does not reach to the beginning of the log".to_owned();
            return Err(OpenError::File { path: root.join(tails::FILE_NAME), detail }.into());
        }
        Ok(Self { fs, root, identity, groups, small, offsets, events })
    }

    /// A store that no process has open, or that another one is writing.
    pub(super) fn beside(fs: &Arc<dyn Fs>, root: &Path, depth: Depth) -> Result<Self, BackupError> {
        for _ in 0..ATTEMPTS_MAX {
            see_device(fs.as_ref(), root)?;
            let Some((offsets, groups)) = offsets_beside(fs, root)? else {
                thread::yield_now();
                continue;
            };
            let small = small_files(fs.as_ref(), root)?;
            let store = ReadOnlyStore::open_on(fs, root, depth)?;
            if !reaches(&small, store.start(), root)? {
                // It may have come since.
                tails::require(fs.as_ref(), root)?;
                continue;
            }
            let (identity, epoch) = (*store.identity(), store.epoch());
            let events = store.into_intact_log()?;
            let mut events = LogSource::read(events).map_err(BackupError::io("sync", root))?;
            events.epoch = events.epoch.max(epoch);
            let (fs, root) = (Arc::clone(fs), root.to_owned());
            return Ok(Self { fs, root, identity, groups, small, offsets, events });
        }
        Err(BackupError::Overtaken { path: root.to_owned() })
    }
}

/// Lets the newest segments be read from the device, as recovery does: after a failed sync the cache
/// shows what the device may not have. As long as a writer maps them, this changes nothing.
fn see_device(fs: &dyn Fs, root: &Path) -> Result<(), BackupError> {
    for kind in [LogKind::Offsets, LogKind::Events] {
        let folder = root.join(kind.folder());
        let names = match fs.list(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            names => names.map_err(BackupError::io("list", &folder))?,
        };
        let numbered = names.into_iter().filter_map(|name| Some((parse_file_name(&name)?.1, name)));
        let Some((_, newest)) = numbered.max() else { continue };
        let path = folder.join(newest);
        let file = match fs.open(&path, Access::Read) {
            // A writer went over to another one, and that is newer than any failure.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.map_err(BackupError::io("open", &path))?,
        };
        file.sync().map_err(BackupError::io("sync", &path))?;
        file.evict().map_err(BackupError::io("evict", &path))?;
    }
    Ok(())
}

/// Reads the files that retention writes.
fn small_files(fs: &dyn Fs, root: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, BackupError> {
    let mut found = Vec::new();
    for name in [tails::FILE_NAME, ledger::FILE_NAME] {
        let path = root.join(name);
        match read_file(fs, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            bytes => found.push((name, bytes.map_err(BackupError::io("read", path))?)),
        }
    }
    Ok(found)
}

/// Returns whether the ends of streams reach to the beginning of a log that was read after them.
/// Where they do not, retention was at work in between.
fn reaches(
    small: &[(&'static str, Vec<u8>)],
    start: Position,
    root: &Path,
) -> Result<bool, BackupError> {
    let tails = small.iter().find(|(name, _)| *name == tails::FILE_NAME);
    let Some((name, bytes)) = tails else { return Ok(start == Position::START) };
    match Tails::decode(bytes.as_slice()) {
        Ok(tails) => Ok(tails.through >= start),
        Err(fault) => {
            let (path, detail) = (root.join(name), fault.to_string());
            Err(OpenError::File { path, detail }.into())
        }
    }
}

/// Reads the offsets log of a store that is not open here, and counts the groups. `None` if the
/// writer changed it meanwhile.
fn offsets_beside(
    fs: &Arc<dyn Fs>,
    root: &Path,
) -> Result<Option<(LogSource, usize)>, BackupError> {
    let mut attempt = 1;
    let (dir, log, groups) = loop {
        let (identity, catalog) = open::read_only(fs.as_ref(), root)?;
        let dir = offsets_dir(fs, root, identity.id);
        let (log, groups) = offsets_log(&dir, &catalog)?;
        match log.damage {
            None => break (dir, log, groups.len()),
            Some(damage) if attempt == ATTEMPTS_MAX => return Err(damage.into()),
            Some(_) => thread::yield_now(),
        }
        attempt += 1;
    };
    let path = dir.path();
    let source = LogSource::read(log).map_err(BackupError::io("sync", &path))?;
    match source.hold(&dir) {
        Ok(source) => Ok(Some((source, groups))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BackupError::io("open", path)(error)),
    }
}

fn offsets_dir(fs: &Arc<dyn Fs>, root: &Path, store: LogId) -> LogDir {
    LogDir { fs: Arc::clone(fs), root: root.to_owned(), kind: LogKind::Offsets, store }
}
