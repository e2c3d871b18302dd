//! A store in the making: what an import fills, and nobody can open before it is whole.
//!
//! The file `IMPORT` comes first and `STORE` last. A directory with the first and without the second
//! is an import that was interrupted: it is no store, and the next import into it begins anew.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{AppendError, Durability, GroupState, LogId, Position, Timestamp};

use super::ImportError;
use crate::catalog::{self, CatalogFile};
use crate::error::OpenError;
use crate::format::catalog::{Catalog, LogEntry};
use crate::format::identity::Identity;
use crate::format::segment::{LogKind, parse_file_name};
use crate::format::tails::StreamTail;
use crate::fs::{Fs, FsFile, is_temporary, write_file};
use crate::ledger::{self, Removal};
use crate::log::{LogDir, Recovered};
use crate::offsets;
use crate::open::{self, Found, IMPORT_FILE, STORE_FILE};
use crate::options::Options;
use crate::tail::{Layout, LogTail};
use crate::tails::{self, TailsFile};
use crate::view::View;
use crate::writer::Writer;

/// The only writer of an imported log so far.
const EPOCH: u32 = 1;
const NOTE: &[u8] = b"An import fills this directory. Without a file STORE it was not finished.\n";

/// What stands before the events of a log.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) id: LogId,
    pub(super) created: Timestamp,
    /// The last position that was removed.
    pub(super) start: Position,
    /// Where streams ended that have no event left, by name.
    pub(super) tails: Vec<StreamTail>,
    pub(super) ledger: Vec<Removal>,
}

/// The place for it. Dropping it leaves an unfinished import.
#[derive(Debug)]
pub(super) struct Target {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    options: Options,
    _lock: Arc<dyn FsFile>,
}

/// A store that takes events and is not one yet.
#[derive(Debug)]
pub(super) struct Store {
    identity: Identity,
    catalog: Arc<CatalogFile>,
    layout: Layout,
    pub(super) writer: Writer,
}

impl Target {
    /// Refuses a directory that holds a store or something else.
    pub(super) fn admit(fs: &dyn Fs, root: &Path) -> Result<Found, OpenError> {
        match open::look(fs, root)? {
            Found::Store => Err(OpenError::Exists { path: root.to_owned() }),
            found => Ok(found),
        }
    }

    /// Takes a directory that is missing, empty, or holds an unfinished import, which goes.
    pub(super) fn take(fs: &Arc<dyn Fs>, root: &Path, options: Options) -> Result<Self, OpenError> {
        let options = options.checked()?;
        if Self::admit(fs.as_ref(), root)? == (Found::Nothing { state: "missing" }) {
            fs.create_dir(root).map_err(OpenError::io("create", root))?;
        }
        let lock = open::lock(fs.as_ref(), root)?;
        // Again: somebody may have been here before we had the lock.
        Self::admit(fs.as_ref(), root)?;
        let target = Self { fs: Arc::clone(fs), root: root.to_owned(), options, _lock: lock };
        target.clear()?;
        let parent = open::parent_of(root);
        fs.sync_dir(parent).map_err(OpenError::io("sync", parent))?;
        write_file(fs.as_ref(), root, IMPORT_FILE, NOTE)
            .map_err(OpenError::io("write in", root))?;
        Ok(target)
    }

    fn dir(&self, kind: LogKind, store: LogId) -> LogDir {
        LogDir { fs: Arc::clone(&self.fs), root: self.root.clone(), kind, store }
    }

    /// Writes what stands before the events.
    pub(super) fn begin(&self, beginning: &Beginning) -> Result<Store, OpenError> {
        let Beginning { id, created, start, tails, ledger } = beginning;
        let (fs, root) = (self.fs.as_ref(), &self.root);
        let io = |action| OpenError::io(action, root);
        let (store, none) = (*id, LogEntry::default());
        let empty =
            Catalog { store, sequence: 1, epoch: EPOCH, clean: false, events: none, offsets: none };
        catalog::create(fs, root, &empty).map_err(io("write the catalog of"))?;
        let tails_file = TailsFile::new(Arc::clone(&self.fs), root.clone(), *id);
        if *start > Position::START {
            tails_file.replace(*start, tails).map_err(io("write where streams ended in"))?;
            ledger::create(fs, root, ledger).map_err(io("write the ledger of"))?;
        }
        let catalog = Arc::new(CatalogFile::open(fs, root, empty)?);
        let events = self.dir(LogKind::Events, *id);
        fs.create_dir(&events.path()).map_err(io("create the log of"))?;
        fs.sync_dir(root).map_err(io("sync"))?;
        let layout = Layout {
            capacity_bytes: self.options.segment_bytes,
            preallocation: self.options.preallocation,
            epoch: EPOCH,
            open_max: self.options.open_segments,
        };
        let begun = Recovered::beginning_at(start.next());
        let tail = LogTail::open(events, Arc::clone(&catalog), begun, layout)?;
        let view = Arc::new(View::new(tail.segments(), tails_file, *start));
        // Nothing of it counts before all of it is durable.
        let (mode, segment_bytes) = (Durability::Os, self.options.segment_bytes);
        let writer = Writer::new(tail, view, mode, self.options.idempotency_window, segment_bytes);
        let identity = Identity { id: *id, created: *created };
        Ok(Store { identity, catalog, layout, writer })
    }

    /// Makes everything durable, and a store of it. `offsets` is the position of the next entry in
    /// the log of the groups.
    pub(super) fn finish(
        &self,
        store: &Store,
        groups: &[GroupState],
        offsets: Position,
    ) -> Result<(), ImportError> {
        let Store { identity, catalog, layout, writer } = store;
        writer.finish_import()?;
        writer.finish().map_err(AppendError::Indeterminate)?;
        let offsets = if offsets > Position::FIRST {
            let dir = self.dir(LogKind::Offsets, identity.id);
            offsets::import(&dir, catalog, *layout, groups, offsets)?
        } else {
            LogEntry::default()
        };
        let io = |action| OpenError::io(action, &self.root);
        let noted = catalog.update(|catalog| {
            (catalog.events, catalog.offsets) = (writer.entry(), offsets);
            catalog.clean = true;
        });
        noted.map_err(io("write the catalog of"))?;
        let fs = self.fs.as_ref();
        write_file(fs, &self.root, STORE_FILE, &identity.encode()).map_err(io("write in"))?;
        // It is a store now. The other file means nothing beside the first.
        let removed = fs.remove(&self.root.join(IMPORT_FILE));
        if let Err(error) = removed.and_then(|()| fs.sync_dir(&self.root)) {
            tracing::warn!(%error, "the file {IMPORT_FILE} stays until the store is opened");
        }
        Ok(())
    }

    /// Removes everything that an import has made.
    pub(super) fn clear(&self) -> Result<(), OpenError> {
        let fs = self.fs.as_ref();
        let gone = |removed: io::Result<()>, path: &Path| match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(OpenError::io("remove", path)(error))
            }
            _ => Ok(()),
        };
        // Its name may be there already where the last sync failed. If it stays, so does all else.
        let store = self.root.join(STORE_FILE);
        gone(fs.remove(&store), &store)?;
        fs.sync_dir(&self.root).map_err(OpenError::io("sync", &self.root))?;
        for kind in [LogKind::Events, LogKind::Offsets] {
            let dir = self.root.join(kind.folder());
            if !open::exists(fs, &dir)? {
                continue;
            }
            for name in fs.list(&dir).map_err(OpenError::io("list", &dir))? {
                let is_ours = parse_file_name(&name.replace(".idx", ".seg")).is_some();
                if is_ours || is_temporary(&name) {
                    let path = dir.join(name);
                    gone(fs.remove(&path), &path)?;
                }
            }
            gone(fs.remove_dir(&dir), &dir)?;
        }
        let names = [catalog::FILE_NAME, tails::FILE_NAME, ledger::FILE_NAME];
        // The note goes last, so that what is left is known for what it is.
        for names in [&names[..], &[IMPORT_FILE]] {
            for name in names {
                let path = self.root.join(name);
                gone(fs.remove(&path), &path)?;
            }
            fs.sync_dir(&self.root).map_err(OpenError::io("sync", &self.root))?;
        }
        Ok(())
    }
}
