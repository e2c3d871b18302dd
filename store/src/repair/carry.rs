//! Carrying a plan out. Each step may be done again, and is durable when the next one begins.

use std::io;
use std::path::Path;
use std::sync::Arc;

use headwater_core::{GroupLog, GroupName, Position};

use super::plan::{Action, Cutting, Plan};
use super::salvage::{self, STEP_BYTES};
use super::{RepairError, Repairer};
use crate::catalog::{self, CatalogFile};
use crate::error::OpenError;
use crate::format::catalog::Catalog;
use crate::format::segment::{LogKind, file_name, parse_file_name};
use crate::fs::{Access, Fs, FsFile, remove_file, write_file};
use crate::handle::Store;
use crate::index;
use crate::ledger;
use crate::log::Purpose;
use crate::options::{OpenMode, Options};
use crate::segments::Segments;
use crate::sync::block_on;
use crate::tails::{self, TailsFile};

/// What the steps of a repair share.
struct Carrier<'a> {
    repairer: &'a mut Repairer,
    lock: Arc<dyn FsFile>,
    catalog: Option<CatalogFile>,
    segments: Option<Segments>,
    /// For the groups, which only an open store sets back.
    store: Option<Store>,
}

impl Repairer {
    /// Carries a plan out under the lock, and says how far it came if it stops.
    pub(super) fn carry_out(
        &mut self,
        plan: &Plan,
        lock: Arc<dyn FsFile>,
    ) -> Result<(), RepairError> {
        let mut carrier =
            Carrier { repairer: self, lock, catalog: None, segments: None, store: None };
        for (at, action) in plan.actions.iter().enumerate() {
            if let Err(error) = carrier.act(action) {
                let (done, left) = plan.actions.split_at(at);
                let steps = |actions: &[Action]| actions.iter().map(Action::step).collect();
                let (done, left) = (steps(done), steps(left));
                return Err(RepairError::Interrupted { done, left, source: Box::new(error) });
            }
        }
        if let Some(store) = carrier.store {
            // What was set back is durable already.
            let _ = store.close();
        }
        Ok(())
    }
}

impl Carrier<'_> {
    fn act(&mut self, action: &Action) -> Result<(), RepairError> {
        match action {
            Action::Copy { file, bytes } => {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                self.repairer.keep(file, 0..*bytes, &name)
            }
            Action::Cut(cutting) => self.cut(cutting),
            Action::EndLog { kind, active, last } => self.catalog(|catalog| {
                let entry = crate::tail::entry_of(catalog, *kind);
                entry.active_segment = entry.active_segment.min(*active);
                entry.durable = entry.durable.min(*last);
            }),
            Action::BeginLog { tails, removal, first } => {
                let Repairer { fs, root, store, .. } = &*self.repairer;
                let file = TailsFile::new(Arc::clone(fs), root.clone(), *store);
                file.replace(removal.through, tails)
                    .map_err(RepairError::io("write", root.join(tails::FILE_NAME)))?;
                ledger::add(fs.as_ref(), root, removal)
                    .map_err(RepairError::io("write", root.join(ledger::FILE_NAME)))?;
                self.catalog(|catalog| {
                    let entry = &mut catalog.events;
                    entry.first_segment = *first;
                    entry.active_segment = entry.active_segment.max(*first);
                })
            }
            Action::Remove { file, is_edge } => self.remove(file, *is_edge),
            Action::Reindex { file, .. } => self.reindex(file),
            Action::SeekGroup { group, to } => self.seek(group, *to),
        }
    }

    /// Copies bytes to `quarantine/` and overwrites them with zeros.
    fn cut(&mut self, cutting: &Cutting) -> Result<(), RepairError> {
        let Cutting { dir, base, id, from, to } = cutting;
        let name = file_name(*base, *id);
        let path = dir.path().join(&name);
        let header = dir.header(*base, *id, &name)?;
        let kept = format!("{}-{name}-{from}.bin", dir.kind.folder());
        self.repairer.keep(&path, *from..*to, &kept)?;
        let fs = self.repairer.fs.as_ref();
        // It may cover what goes.
        let index = dir.path().join(index::file_name(&header));
        remove_file(fs, &index).map_err(RepairError::io("remove", index))?;
        own(fs, &dir.path(), &name).map_err(RepairError::io("copy", &path))?;
        let file = fs.open(&path, Access::Write).map_err(RepairError::io("open", &path))?;
        let zeros = vec![0; STEP_BYTES];
        for at in (*from..*to).step_by(STEP_BYTES) {
            let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(STEP_BYTES);
            file.write_at(&zeros[..len], at).map_err(RepairError::io("write", &path))?;
        }
        file.sync().map_err(RepairError::io("sync", &path))
    }

    fn catalog(&mut self, change: impl FnOnce(&mut Catalog)) -> Result<(), RepairError> {
        let Repairer { fs, root, catalog, .. } = &*self.repairer;
        let file = match &self.catalog {
            Some(file) => file,
            None => self.catalog.insert(CatalogFile::open(fs.as_ref(), root, *catalog)?),
        };
        file.update(|catalog| {
            // The next writer looks at everything behind the last frame.
            catalog.clean = false;
            change(catalog);
        })
        .map_err(RepairError::io("write", root.join(catalog::FILE_NAME)))
    }

    /// Removes a segment that was copied, with its index file.
    fn remove(&self, file: &Path, is_edge: bool) -> Result<(), RepairError> {
        let fs = self.repairer.fs.as_ref();
        for path in [file.to_owned(), file.with_extension("idx")] {
            remove_file(fs, &path).map_err(RepairError::io("remove", path))?;
        }
        let folder = file.parent().unwrap_or(file);
        if is_edge {
            fs.sync_dir(folder).map_err(RepairError::io("sync", folder))?;
        }
        Ok(())
    }

    /// Removes an index file, and builds that of a sealed segment anew.
    fn reindex(&mut self, file: &Path) -> Result<(), RepairError> {
        let repairer = &*self.repairer;
        remove_file(repairer.fs.as_ref(), file).map_err(RepairError::io("remove", file))?;
        let segments = match &self.segments {
            Some(segments) => segments,
            None => self.segments.insert(segments(repairer)?),
        };
        let segment = file.with_extension("seg");
        let name = segment.file_name().and_then(|name| name.to_str());
        let Some((_, id)) = name.and_then(parse_file_name) else { return Ok(()) };
        let list = segments.list();
        // The newest is indexed when the store is opened.
        let sealed = &list[..list.len().saturating_sub(1)];
        let Ok(at) = sealed.binary_search_by_key(&id, |entry| entry.id) else { return Ok(()) };
        let built = sealed[at].get().map(drop);
        built.map_err(|error| RepairError::io("build", file)(io::Error::other(error)))
    }

    fn seek(&mut self, group: &GroupName, to: Position) -> Result<(), RepairError> {
        let store = if let Some(store) = &self.store {
            store
        } else {
            let options = Options { mode: OpenMode::Open, ..Options::default() };
            let Repairer { fs, root, .. } = &*self.repairer;
            let lock = Arc::clone(&self.lock);
            self.store.insert(Store::open_locked(fs, root, options, lock)?)
        };
        let sought = block_on(store.seek_group(group, to)).map(drop);
        sought.map_err(|error| RepairError::Group { group: group.clone(), source: Arc::new(error) })
    }
}

/// Makes a file's bytes its own before they are written over: a backup may have a hard link to it.
fn own(fs: &dyn Fs, dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    if fs.names(&path)? > 1 {
        // What cannot be read is part of what goes.
        let (bytes, _) = salvage::read_whole(fs.open(&path, Access::Read)?.as_ref())?;
        write_file(fs, dir, name, &bytes)?;
    }
    Ok(())
}

/// Returns the segments of the events, one of which is open at a time.
fn segments(repairer: &Repairer) -> Result<Segments, OpenError> {
    let dir = repairer.dir(LogKind::Events);
    let first = repairer.catalog.events.first_segment;
    let names = dir.segment_names()?.into_iter().filter(|&(_, id, _)| id >= first);
    let listed: Vec<(Position, u64)> = names.map(|(base, id, _)| (base, id)).collect();
    Ok(Segments::new(dir, Purpose::Write, 1, &listed, None))
}
