//! Opening a store: its directory, its identity, its lock, and its two logs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{Durability, LogId, Position, Timestamp};

use crate::catalog::{self, CatalogFile, file_fault};
use crate::error::OpenError;
use crate::format::BLOCK_BYTES;
use crate::format::catalog::{Catalog, LogEntry};
use crate::format::identity::Identity;
use crate::format::segment::LogKind;
use crate::fs::{Fs, FsFile, is_temporary, read_file, write_file};
use crate::index::add_frame;
use crate::log::{Cut, Depth, LogDir, Manner, Purpose, Recovered, recover};
use crate::offsets::{Groups, Offsets, fold};
use crate::options::{OpenMode, Options, Preallocation};
use crate::planted::{Bug, planted};
use crate::tail::{Layout, LogTail};
use crate::tails;

pub(crate) const STORE_FILE: &str = "STORE";
/// What will be `STORE` when everything else of a copy is there.
pub(crate) const UNFINISHED_FILE: &str = "UNFINISHED";
/// Present while an import fills the directory. Once `STORE` is there it means nothing, and goes.
pub(crate) const IMPORT_FILE: &str = "IMPORT";
pub(crate) const LOCK_FILE: &str = "LOCK";
/// The folder of what was cut off or taken out.
pub(crate) const QUARANTINE: &str = "quarantine";

/// What opening a store found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the store is new.
    pub created: bool,
    /// Whether its last writer had closed it.
    pub clean: bool,
    /// The last position.
    pub head: Position,
    /// How many segments the log of events has.
    pub segments: usize,
    /// Torn ends that were cut off and kept in `quarantine/`. None of it was ever acknowledged as
    /// durable.
    pub cuts: Vec<Cut>,
}

/// A store that is open for writing, in parts.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) id: LogId,
    pub(crate) lock: Arc<dyn FsFile>,
    pub(crate) catalog: Arc<CatalogFile>,
    pub(crate) tail: LogTail,
    pub(crate) offsets: Offsets,
    pub(crate) report: RecoveryReport,
}

/// Opens a store to write. `options` are checked.
pub(crate) fn open(fs: &Arc<dyn Fs>, root: &Path, options: &Options) -> Result<Opened, OpenError> {
    if admit(fs.as_ref(), root, options.mode)? == (Found::Nothing { state: "missing" }) {
        fs.create_dir(root).map_err(OpenError::io("create", root))?;
    }
    let lock = lock(fs.as_ref(), root)?;
    open_locked(fs, root, options, lock)
}

/// Opens a store to write under a lock that was taken. `options` are checked.
pub(crate) fn open_locked(
    fs: &Arc<dyn Fs>,
    root: &Path,
    options: &Options,
    lock: Arc<dyn FsFile>,
) -> Result<Opened, OpenError> {
    // Again: somebody may have created it before we had the lock.
    let created = admit(fs.as_ref(), root, options.mode)? != Found::Store;
    if created {
        create(fs.as_ref(), root).map_err(OpenError::io("create a store in", root))?;
    } else {
        forget_import(fs.as_ref(), root)?;
    }
    // A crash may have come between a name and the sync of its directory.
    for dir in [root, parent_of(root)] {
        fs.sync_dir(dir).map_err(OpenError::io("sync", dir))?;
    }
    let identity = identity(fs.as_ref(), root)?;
    let mut catalog = catalog::read(fs.as_ref(), root, identity.id)?;
    let dir = |kind| LogDir { fs: Arc::clone(fs), root: root.to_owned(), kind, store: identity.id };

    if catalog.events.first_segment > 1 {
        tails::require(fs.as_ref(), root)?;
    }
    let manner = |depth| Manner { purpose: Purpose::Write, depth, clean: catalog.clean };
    let events = dir(LogKind::Events);
    let recovered = open_log(
        &events,
        &catalog.events,
        manner(Depth::Newest),
        |segment, offset, frame, body| {
            add_frame(segment.index_mut().open(), &segment.seed, offset, frame, body)
        },
    )?
    .unwrap_or_else(Recovered::empty);
    let mut groups = Groups::new();
    let offsets = dir(LogKind::Offsets);
    let recovered_offsets =
        open_log(&offsets, &catalog.offsets, manner(Depth::All), |_, _, frame, body| {
            fold(&mut groups, frame, body)
        })?;

    let report = RecoveryReport {
        created,
        clean: catalog.clean,
        head: recovered.end.next.previous(),
        segments: recovered.sealed.len() + 1,
        cuts: [Some(&recovered), recovered_offsets.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|log| log.cut.clone())
            .collect(),
    };
    let newest = recovered_offsets.as_ref().map_or(0, |log| log.end.epoch);
    catalog.epoch = catalog.epoch.max(recovered.end.epoch).max(newest);
    catalog.epoch += u32::from(!planted(Bug::ShareEpoch));
    let layout = Layout {
        capacity_bytes: options.segment_bytes,
        preallocation: preallocation(fs.as_ref(), root, options),
        epoch: catalog.epoch,
        open_max: options.open_segments,
    };
    catalog.clean &= planted(Bug::LeaveCleanMark);
    catalog.events.durable = catalog.events.durable.max(recovered.end.durable);
    let catalog = Arc::new(CatalogFile::open(fs.as_ref(), root, catalog)?);
    // The epoch is durable before anything is written in it, and so is what recovery found.
    catalog.update(|_| {}).map_err(OpenError::io("write", root.join(catalog::FILE_NAME)))?;
    let is_new = recovered.active.is_none();
    let tail = LogTail::open(events, Arc::clone(&catalog), recovered, layout)?;
    if is_new {
        tail.note();
    }
    let shared = Arc::clone(&catalog);
    let durability = options.durability;
    let offsets = Offsets::open(offsets, shared, recovered_offsets, groups, (durability, layout))?;
    Ok(Opened { id: identity.id, lock, catalog, tail, offsets, report })
}

/// Returns how segments get their space. Zeros make each sync cheaper and double what is written, so
/// they are for those who sync every append.
fn preallocation(fs: &dyn Fs, root: &Path, options: &Options) -> Preallocation {
    match options.preallocation {
        Preallocation::Auto if options.durability != Durability::Sync => {
            match fs.preallocation(root) {
                Preallocation::ZeroFill => Preallocation::Fallocate,
                other => other,
            }
        }
        chosen => chosen,
    }
}

/// Removes what a crash behind the last step of an import has left.
fn forget_import(fs: &dyn Fs, root: &Path) -> Result<(), OpenError> {
    let path = root.join(IMPORT_FILE);
    match fs.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(OpenError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Looks what the directory holds and whether the mode allows it.
fn admit(fs: &dyn Fs, root: &Path, mode: OpenMode) -> Result<Found, OpenError> {
    match (look(fs, root)?, mode) {
        (Found::Store, OpenMode::Create) => Err(OpenError::Exists { path: root.to_owned() }),
        (Found::Nothing { state }, OpenMode::Open) => {
            Err(OpenError::NotFound { path: root.to_owned(), state })
        }
        (Found::Unfinished, _) => Err(OpenError::UnfinishedImport { path: root.to_owned() }),
        (found, _) => Ok(found),
    }
}

/// The directory that a store's directory stands in.
pub(crate) fn parent_of(root: &Path) -> &Path {
    match root.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => root,
    }
}

/// Opens one of the two logs; `None` if it was never begun.
fn open_log(
    dir: &LogDir,
    entry: &LogEntry,
    manner: Manner,
    mut visit: impl FnMut(
        &crate::segment::Segment,
        u64,
        &crate::format::frame::FrameHeader,
        &[u8],
    ) -> Result<(), String>,
) -> Result<Option<Recovered>, OpenError> {
    let path = dir.path();
    if entry.active_segment == 0 {
        if dir.kind == LogKind::Offsets && !exists(dir.fs.as_ref(), &path)? {
            return Ok(None);
        }
        dir.fs.create_dir(&path).map_err(OpenError::io("create", &path))?;
        dir.fs.sync_dir(&dir.root).map_err(OpenError::io("sync", &dir.root))?;
    }
    recover(dir, entry, manner, &mut visit).map(Some)
}

/// Returns whether a directory exists.
pub(crate) fn exists(fs: &dyn Fs, path: &Path) -> Result<bool, OpenError> {
    match fs.list(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io("list", path)(error)),
    }
}

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Store,
    /// An import that did not come to its end.
    Unfinished,
    Nothing {
        state: &'static str,
    },
}

/// Looks whether a directory holds a store, nothing, or something else, which is an error.
pub(crate) fn look(fs: &dyn Fs, root: &Path) -> Result<Found, OpenError> {
    let names = match fs.list(root) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Found::Nothing { state: "missing" });
        }
        Err(error) => return Err(OpenError::io("list", root)(error)),
    };
    if names.iter().any(|name| name == STORE_FILE) {
        return Ok(Found::Store);
    }
    if names.iter().any(|name| name == UNFINISHED_FILE) {
        return Err(OpenError::Unfinished { path: root.to_owned() });
    }
    if names.iter().any(|name| name == IMPORT_FILE) {
        return Ok(Found::Unfinished);
    }
    let foreign = |detail| Err(OpenError::NotAStore { path: root.to_owned(), detail });
    for name in names {
        // A creation that was interrupted leaves these; segments come after STORE.
        let ours = [LOCK_FILE, catalog::FILE_NAME, "lost+found"].contains(&name.as_str())
            || is_temporary(&name);
        if !ours {
            return foreign(format!("it holds {name:?} and no file {STORE_FILE}"));
        }
    }
    Ok(Found::Nothing { state: "empty" })
}

fn create(fs: &dyn Fs, root: &Path) -> io::Result<()> {
    let identity = Identity { id: LogId::generate(), created: Timestamp::now() };
    let (store, none) = (identity.id, LogEntry::default());
    let catalog =
        Catalog { store, sequence: 1, epoch: 0, clean: true, events: none, offsets: none };
    catalog::create(fs, root, &catalog)?;
    // From here on it is a store.
    write_file(fs, root, STORE_FILE, &identity.encode())
}

/// Reads which store this is.
pub(crate) fn identity(fs: &dyn Fs, root: &Path) -> Result<Identity, OpenError> {
    let path = root.join(STORE_FILE);
    let bytes = read_file(fs, &path).map_err(OpenError::io("read", &path))?;
    if bytes.len() != BLOCK_BYTES {
        let detail = format!("it has {} bytes where {BLOCK_BYTES} are needed", bytes.len());
        return Err(OpenError::File { path, detail });
    }
    Identity::decode(&bytes).map_err(|fault| file_fault(path, &fault))
}

/// Takes the store's lock and writes our process id into it.
pub(crate) fn lock(fs: &dyn Fs, root: &Path) -> Result<Arc<dyn FsFile>, OpenError> {
    let path: PathBuf = root.join(LOCK_FILE);
    let Some(file) = fs.lock(&path).map_err(OpenError::io("lock", &path))? else {
        let text = read_file(fs, &path).unwrap_or_default();
        let pid = String::from_utf8_lossy(&text).trim().parse().unwrap_or(0);
        return Err(OpenError::Locked { path: root.to_owned(), pid });
    };
    // Only for the message that a second writer gets: a full disk must not stop us here.
    let pid = format!("{:<16}\n", std::process::id());
    if let Err(error) = file.write_at(pid.as_bytes(), 0) {
        tracing::warn!(%error, "the process id could not be written into the lock");
    }
    Ok(file)
}

/// Reads the catalog and the identity of a store without taking its lock.
pub(crate) fn read_only(fs: &dyn Fs, root: &Path) -> Result<(Identity, Catalog), OpenError> {
    match look(fs, root)? {
        Found::Store => {}
        Found::Unfinished => return Err(OpenError::UnfinishedImport { path: root.to_owned() }),
        Found::Nothing { state } => {
            return Err(OpenError::NotFound { path: root.to_owned(), state });
        }
    }
    let identity = identity(fs, root)?;
    // The writer may be in the middle of writing one block; the other one is whole then.
    let catalog = catalog::read(fs, root, identity.id)?;
    Ok((identity, catalog))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fs::sim::SimFs;

    #[test]
    fn zeros_are_for_those_who_sync_every_append() {
        let root = Path::new("/disk");
        let fs = SimFs::new(root);
        let chosen = |chosen, durability| {
            let options = Options { durability, preallocation: chosen, ..Options::default() };
            preallocation(&fs, root, &options)
        };
        let interval = Durability::Interval { every: Duration::from_secs(1), bytes: 1 };
        assert_eq!(fs.preallocation(root), Preallocation::ZeroFill);
        assert_eq!(chosen(Preallocation::Auto, Durability::Sync), Preallocation::Auto);
        for durability in [interval, Durability::Os] {
            assert_eq!(chosen(Preallocation::Auto, durability), Preallocation::Fallocate);
            for choice in [Preallocation::ZeroFill, Preallocation::Sparse] {
                assert_eq!(chosen(choice, durability), choice);
            }
        }
    }
}
