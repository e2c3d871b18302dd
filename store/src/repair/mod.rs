//! Repairing a store that refuses to open, where there is no backup.
//!
//! A repair is planned from what is on disk, and the plan is the same whether it is only shown or
//! carried out. Every byte that stops counting is copied to `quarantine/` and synced there before
//! it is touched. The steps stand in an order in which a crash after any of them leaves a store
//! that either opens, or refuses and can be repaired by the same command again.

mod segment;
pub(crate) mod survey;
mod tail;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{GroupError, GroupLog, GroupName, GroupState, LogId, Position};
use serde::Serialize;

use crate::catalog::CatalogFile;
use crate::error::{OpenError, Remedy};
use crate::format::catalog::Catalog;
use crate::format::segment::LogKind;
use crate::fs::{Access, Fs, RealFs, remove_file};
use crate::handle::Store;
use crate::ledger::Removal;
use crate::log::LogDir;
use crate::open::{self, QUARANTINE};
use crate::options::{OpenMode, Options};
use crate::read_only::ReadOnlyStore;
use crate::segments::Segments;
use crate::sync::block_on;
use crate::verify::{VerifyOptions, verify_on};

use survey::Survey;

/// Streams are named up to this many, and counted beyond.
const STREAMS_NAMED: usize = 100;
/// Segments are copied in steps of this size.
const COPY_BYTES: usize = 1024 * 1024;

/// What is to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The end of the log, or of the log of the groups' progress: what does not validate is cut
    /// off, and the catalog lowered to what is left.
    CutTail,
    /// A segment that is damaged or missing: it is taken out, and so are those on one side of it,
    /// since positions have no holes.
    QuarantineSegment {
        /// The id of the segment.
        id: u64,
        /// Which side stays. For the oldest segment that can only be the newer ones, and for the
        /// newest the older ones.
        keep: Option<Keep>,
    },
    /// Index files that do not agree with their segments, or are missing: they are built anew.
    Reindex,
}

/// Which side of a segment that is taken out stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The log ends before the segment.
    Older,
    /// The log begins behind the segment.
    Newer,
}

/// Whether acknowledged events may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A repair that would lose any is not carried out.
    Refuse,
    /// They may.
    Accept,
}

/// Whether a repair is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// It is only planned: nothing is changed, and no lock is taken.
    DryRun,
    /// It is carried out, under the writer's lock.
    Apply,
}

/// Something that a repair does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum RepairStep {
    /// Bytes of a segment are copied to `quarantine/` and overwritten with zeros.
    Cut {
        /// The segment.
        file: PathBuf,
        /// Where they begin.
        offset: u64,
        /// How many there are.
        bytes: u64,
    },
    /// A segment is copied to `quarantine/` and removed.
    TakeOut {
        /// The segment.
        file: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The catalog says from now on that a log ends here.
    EndLog {
        /// The folder of the log.
        log: &'static str,
        /// Its last position.
        last: Position,
    },
    /// `TAILS`, the ledger and the catalog say from now on that the log begins behind a position.
    BeginLog {
        /// The last position before it.
        after: Position,
    },
    /// An index file is built anew, or removed if it is that of the newest segment.
    Reindex {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A group that is beyond the end of the log goes back: it meets some events again.
    SeekGroup {
        /// The group.
        group: GroupName,
        /// Where it goes on, after this.
        to: Position,
    },
}

/// Events that are lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The folder of the log: `log` for events, `offsets` for the progress of groups.
    pub log: &'static str,
    /// The first position.
    pub first: Position,
    /// The last position, as far as it is known.
    pub last: Position,
    /// Whether any of them was acknowledged as durable.
    pub acknowledged: bool,
    /// How many of them can still be read from what goes to `quarantine/`.
    pub readable: u64,
    /// The streams that have these, each with how many; the first hundred by name.
    pub streams: Vec<(String, u64)>,
    /// How many more streams there are.
    pub streams_left_out: u64,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Whether it was carried out.
    pub applied: bool,
    /// What was done, in order. Nothing, if there is nothing to repair.
    pub steps: Vec<RepairStep>,
    /// What is lost by it.
    pub lost: Vec<Lost>,
    /// Where copies of it are kept.
    pub kept: Vec<PathBuf>,
}

impl RepairReport {
    /// Returns whether carrying it out takes [`Loss::Accept`].
    pub fn loses_acknowledged(&self) -> bool {
        self.lost.iter().any(|lost| lost.acknowledged)
    }
}

/// Why a repair was not done. Unless it says so, nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The store cannot be repaired in this way.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The end of the log is well, and something else is not.
    #[error("the end of the log is well, and the damage is elsewhere: see `{}`", remedy.command(root))]
    Elsewhere {
        /// The directory.
        root: PathBuf,
        /// What may help there.
        remedy: Remedy,
    },
    /// Acknowledged events would be lost.
    #[error(
        "this loses events that were acknowledged; to accept that, say so (--lose-acknowledged)"
    )]
    LosesAcknowledged,
    /// There is no such segment.
    #[error("there is no segment {id}: the log has {oldest} to {newest}")]
    NoSegment {
        /// The id.
        id: u64,
        /// The id of the oldest segment.
        oldest: u64,
        /// The id of the newest segment.
        newest: u64,
    },
    /// Segments lie on both sides, and only one side can stay.
    #[error(
        "segment {id} lies between others, and positions have no holes: choose which side stays (--keep older or --keep newer)"
    )]
    Between {
        /// The id.
        id: u64,
    },
    /// Nothing would be left.
    #[error("nothing would be left without segment {id}; restore the store from a backup")]
    NothingLeft {
        /// The id.
        id: u64,
    },
    /// The segment that would become the end of the log is damaged too.
    #[error(
        "segment {id} would be the end of the log, and is damaged itself: {detail}; take it out instead"
    )]
    EndDamaged {
        /// The id.
        id: u64,
        /// What is wrong.
        detail: String,
    },
    /// The system refused something. What was done until then can be repeated.
    #[error("cannot {action} {}; what was done until then can be repeated", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The log is repaired, and a group could not be set back.
    #[error("the log is repaired, and group {group} could not be set back; run the same again")]
    Group {
        /// The group.
        group: GroupName,
        /// Why.
        source: Arc<GroupError>,
    },
}

impl RepairError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { action, path, source: Arc::new(error) }
    }
}

/// Repairs a store that no program has open, or says what a repair would do.
///
/// # Errors
///
/// [`RepairError`], with nothing changed unless it says so. A repair that was interrupted, by an
/// error or a crash, is finished by asking for it again.
///
/// # Complexity
///
/// Linear in the size of the segments that are concerned; in that of the log if its end is well or
/// its beginning goes.
pub fn repair(
    path: impl AsRef<Path>,
    repair: Repair,
    loss: Loss,
    effort: Effort,
) -> Result<RepairReport, RepairError> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    repair_on(&fs, path.as_ref(), repair, loss, effort)
}

pub(crate) fn repair_on(
    fs: &Arc<dyn Fs>,
    root: &Path,
    repair: Repair,
    loss: Loss,
    effort: Effort,
) -> Result<RepairReport, RepairError> {
    // Before the lock, which makes a file.
    open::read_only(fs.as_ref(), root)?;
    let lock = match effort {
        Effort::DryRun => None,
        Effort::Apply => Some(open::lock(fs.as_ref(), root)?),
    };
    let mut repairer = Repairer::new(fs, root)?;
    let plan = match repair {
        Repair::CutTail => repairer.plan_tail()?,
        Repair::QuarantineSegment { id, keep } => repairer.plan_segment(id, keep)?,
        Repair::Reindex => repairer.plan_indexes()?,
    };
    let mut report = plan.report();
    if effort == Effort::DryRun {
        return Ok(report);
    }
    if report.loses_acknowledged() && loss == Loss::Refuse {
        return Err(RepairError::LosesAcknowledged);
    }
    repairer.carry_out(&plan)?;
    // A group is set back by the store itself, which takes the lock.
    drop(lock);
    repairer.seek_groups(&plan.seeks)?;
    (report.applied, report.kept) = (true, repairer.kept);
    Ok(report)
}

/// A range of a segment that is cut.
#[derive(Debug)]
struct Cutting {
    dir: LogDir,
    base: Position,
    id: u64,
    from: u64,
    to: u64,
}

/// What is to be done, in this order, and what is lost by it.
#[derive(Debug, Default)]
struct Plan {
    cuts: Vec<Cutting>,
    /// Segments that are taken out, oldest first.
    out: Vec<PathBuf>,
    bytes_out: Vec<u64>,
    /// A new beginning: the streams that end there, and the line of the ledger.
    begin: Option<(Vec<crate::format::tails::StreamTail>, Removal, u64)>,
    /// New ends of logs: active segment and last position.
    ends: Vec<(LogKind, u64, Position)>,
    indexes: Vec<(PathBuf, String)>,
    seeks: Vec<(GroupName, Position)>,
    lost: Vec<Lost>,
}

impl Plan {
    fn report(&self) -> RepairReport {
        let mut steps = Vec::new();
        for cut in &self.cuts {
            let name = crate::format::segment::file_name(cut.base, cut.id);
            let file = cut.dir.path().join(name);
            steps.push(RepairStep::Cut { file, offset: cut.from, bytes: cut.to - cut.from });
        }
        for (file, &bytes) in self.out.iter().zip(&self.bytes_out) {
            steps.push(RepairStep::TakeOut { file: file.clone(), bytes });
        }
        for &(kind, _, last) in &self.ends {
            steps.push(RepairStep::EndLog { log: kind.folder(), last });
        }
        if let Some((_, removal, _)) = &self.begin {
            steps.push(RepairStep::BeginLog { after: removal.through });
        }
        for (file, detail) in &self.indexes {
            steps.push(RepairStep::Reindex { file: file.clone(), detail: detail.clone() });
        }
        for (group, to) in &self.seeks {
            steps.push(RepairStep::SeekGroup { group: group.clone(), to: *to });
        }
        let (applied, kept) = (false, Vec::new());
        RepairReport { applied, steps, lost: self.lost.clone(), kept }
    }
}

/// Where a repair is done.
#[derive(Debug)]
struct Repairer {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    store: LogId,
    catalog: Catalog,
    kept: Vec<PathBuf>,
}

impl Repairer {
    fn new(fs: &Arc<dyn Fs>, root: &Path) -> Result<Self, RepairError> {
        let (identity, catalog) = open::read_only(fs.as_ref(), root)?;
        let (fs, root, kept) = (Arc::clone(fs), root.to_owned(), Vec::new());
        Ok(Self { fs, root, store: identity.id, catalog, kept })
    }

    fn dir(&self, kind: LogKind) -> LogDir {
        LogDir { fs: Arc::clone(&self.fs), root: self.root.clone(), kind, store: self.store }
    }

    /// Returns the groups, as far as their progress can be read.
    fn groups(&self) -> Result<Vec<GroupState>, RepairError> {
        Ok(self.reader()?.groups().to_vec())
    }

    fn reader(&self) -> Result<ReadOnlyStore, RepairError> {
        Ok(ReadOnlyStore::open_on(&self.fs, &self.root, crate::log::Depth::Newest)?)
    }

    /// Finds the groups that are beyond a new end of the log.
    fn groups_beyond(&self, head: Position) -> Result<Vec<(GroupName, Position)>, RepairError> {
        let beyond = |group: &GroupState| {
            group.runs().any(|(_, progress)| {
                let settled = progress.settled.last().map_or(progress.floor, |&(_, last)| last);
                settled.max(progress.floor) > head
            })
        };
        let groups = self.groups()?;
        let groups = groups.iter().filter(|group| beyond(group));
        Ok(groups.map(|group| (group.definition.name.clone(), group.floor().min(head))).collect())
    }

    /// Names index files that do not agree with their segments, or are missing.
    fn plan_indexes(&mut self) -> Result<Plan, RepairError> {
        let report = verify_on(&self.fs, &self.root, &VerifyOptions::default(), &|_, _| {})?;
        let wrong = report.faults.into_iter().filter(|f| f.remedy == Some(Remedy::Reindex));
        let indexes = wrong.map(|fault| (fault.file, fault.detail)).collect();
        Ok(Plan { indexes, ..Plan::default() })
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<(), RepairError> {
        for file in &plan.out {
            self.copy_out(file)?;
        }
        for cut in &plan.cuts {
            self.cut(cut)?;
        }
        if let Some((tails, removal, _)) = &plan.begin {
            self.write_beginning(tails, removal)?;
        }
        if !plan.ends.is_empty() || plan.begin.is_some() {
            self.write_catalog(plan)?;
        }
        self.remove(&plan.out)?;
        self.reindex(plan)
    }

    /// Copies a segment to `quarantine/`, durably. One that is copied already is not again.
    fn copy_out(&mut self, file: &Path) -> Result<(), RepairError> {
        let quarantine = self.root.join(QUARANTINE);
        let fs = self.fs.as_ref();
        fs.create_dir(&quarantine).map_err(RepairError::io("create", &quarantine))?;
        fs.sync_dir(&self.root).map_err(RepairError::io("sync", &self.root))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let source = match fs.open(file, Access::Read) {
            // It was missing from the beginning.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            source => source.map_err(RepairError::io("open", file))?,
        };
        let size = source.size().map_err(RepairError::io("size", file))?;
        // A second damaged segment of the same name has other bytes, so the name says which.
        let kept = quarantine.join(&*name);
        let temporary = quarantine.join(format!("{name}.tmp"));
        let io = |action| RepairError::io(action, &temporary);
        remove_file(fs, &temporary).map_err(io("remove"))?;
        let target = fs.open(&temporary, Access::CreateNew).map_err(io("create"))?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        while at < size {
            let step = usize::try_from(size - at).unwrap_or(usize::MAX).min(COPY_BYTES);
            source.read_at(&mut buffer[..step], at).map_err(RepairError::io("read", file))?;
            target.write_at(&buffer[..step], at).map_err(io("write"))?;
            at += step as u64;
        }
        target.sync().map_err(io("sync"))?;
        let kept = self.free_name(&kept)?;
        self.fs.rename(&temporary, &kept).map_err(RepairError::io("rename", &kept))?;
        self.fs.sync_dir(&quarantine).map_err(RepairError::io("sync", &quarantine))?;
        self.kept.push(kept);
        Ok(())
    }

    /// Returns a name that nothing in `quarantine/` has.
    fn free_name(&self, path: &Path) -> Result<PathBuf, RepairError> {
        let folder = path.parent().unwrap_or(path);
        let names = self.fs.list(folder).map_err(RepairError::io("list", folder))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let numbered = (2..).map(|n| format!("{name}.{n}"));
        let mut all = std::iter::once(name.clone().into_owned()).chain(numbered);
        let free = all.find(|name| !names.contains(name)).expect("numbers do not end");
        Ok(folder.join(free))
    }

    fn write_catalog(&mut self, plan: &Plan) -> Result<(), RepairError> {
        let path = self.root.join(crate::catalog::FILE_NAME);
        let file = CatalogFile::open(self.fs.as_ref(), &self.root, self.catalog)?;
        file.update(|catalog| {
            // The next writer looks at everything behind the last frame.
            catalog.clean = false;
            for &(kind, active, last) in &plan.ends {
                let entry = crate::tail::entry_of(catalog, kind);
                entry.active_segment = entry.active_segment.min(active);
                entry.durable = entry.durable.min(last);
            }
            if let Some((_, _, first)) = plan.begin {
                let entry = &mut catalog.events;
                entry.first_segment = first;
                entry.active_segment = entry.active_segment.max(first);
            }
        })
        .map_err(RepairError::io("write", path))
    }

    /// Removes segments that were copied, oldest first, with their index files.
    fn remove(&self, out: &[PathBuf]) -> Result<(), RepairError> {
        for (at, file) in out.iter().enumerate() {
            for path in [file.clone(), file.with_extension("idx")] {
                let removed = remove_file(self.fs.as_ref(), &path);
                removed.map_err(RepairError::io("remove", path))?;
            }
            // The first one, before any other: without it the log is not taken for whole.
            if at == 0 || at + 1 == out.len() {
                let folder = file.parent().unwrap_or(file);
                self.fs.sync_dir(folder).map_err(RepairError::io("sync", folder))?;
            }
        }
        Ok(())
    }

    /// Removes index files, and builds those of sealed segments anew.
    fn reindex(&self, plan: &Plan) -> Result<(), RepairError> {
        if plan.indexes.is_empty() {
            return Ok(());
        }
        for (file, _) in &plan.indexes {
            let removed = remove_file(self.fs.as_ref(), file);
            removed.map_err(RepairError::io("remove", file))?;
        }
        let dir = self.dir(LogKind::Events);
        let first = self.catalog.events.first_segment;
        let names = dir.segment_names()?.into_iter().filter(|&(_, id, _)| id >= first);
        let listed: Vec<(Position, u64)> = names.map(|(base, id, _)| (base, id)).collect();
        let purpose = crate::log::Purpose::Write;
        let segments = Segments::new(dir, purpose, listed.len(), &listed, None);
        let list = segments.list();
        // The newest is indexed when the store is opened.
        for entry in list.iter().rev().skip(1) {
            let path = entry.index_path();
            if plan.indexes.iter().any(|(file, _)| Some(file) == path.as_ref()) {
                entry.get().map_err(|error| RepairError::Io {
                    action: "build",
                    path: path.unwrap_or_default(),
                    source: Arc::new(io::Error::other(error)),
                })?;
            }
        }
        Ok(())
    }

    fn seek_groups(&self, seeks: &[(GroupName, Position)]) -> Result<(), RepairError> {
        if seeks.is_empty() {
            return Ok(());
        }
        let options = Options { mode: OpenMode::Open, ..Options::default() };
        let store = Store::open_on(&self.fs, &self.root, options)?;
        for (group, to) in seeks {
            block_on(store.seek_group(group, *to)).map_err(|error| RepairError::Group {
                group: group.clone(),
                source: Arc::new(error),
            })?;
        }
        // What was set back is durable already.
        let _ = store.close();
        Ok(())
    }
}

/// Says what is lost.
fn lost(kind: LogKind, first: Position, survey: &Survey, durable: Position) -> Lost {
    let last = survey.last.max(durable);
    let streams = survey.streams.iter().map(|(name, met)| (name.clone(), met.events));
    Lost {
        log: kind.folder(),
        first,
        last: last.max(first),
        acknowledged: durable >= first,
        readable: survey.readable,
        streams: streams.take(STREAMS_NAMED).collect(),
        streams_left_out: survey.streams.len().saturating_sub(STREAMS_NAMED) as u64,
    }
}
