//! Repairing a store that refuses to open, where there is no backup.
//!
//! A repair is planned from what is on disk, and the plan is the same whether it is only shown or
//! carried out. Every byte that stops counting is copied to `quarantine/` and synced there before
//! it is touched. The steps stand in an order in which a crash after any of them leaves a store
//! that either opens, or refuses and can be repaired by the same command again.

mod carry;
mod error;
mod plan;
mod quarantine;
mod salvage;
mod segment;
pub(crate) mod survey;
mod tail;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{GroupName, GroupState, LogId, Position};
use serde::Serialize;

use crate::format::catalog::Catalog;
use crate::format::segment::{LogKind, parse_file_name};
use crate::fs::{Access, Fs, FsFile, RealFs};
use crate::log::LogDir;
use crate::open;
use crate::read_only::ReadOnlyStore;
use crate::verify::{VerifyOptions, wrong_indexes};

pub use error::RepairError;
use plan::{Action, Plan};
use salvage::Holes;

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
    /// The log ends before the segment. The positions and revisions behind are given anew, to
    /// other events: read models and whoever else has seen the old ones must be told, see
    /// [`repair`].
    Older,
    /// The log begins behind the segment. A stream of which nothing is behind goes on after the
    /// last revision that could be read: if its last events could not be, their revisions are given
    /// anew, to other events. Positions are not.
    Newer,
}

/// Whether acknowledged events may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A repair that would or may lose any is not carried out.
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
    /// A segment is copied to `quarantine/`.
    Copy {
        /// The segment.
        file: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Bytes of a segment are copied to `quarantine/` and overwritten with zeros.
    Cut {
        /// The segment.
        file: PathBuf,
        /// Where they begin.
        offset: u64,
        /// How many there are.
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
    /// A segment that was copied is removed, with its index file.
    Remove {
        /// The segment.
        file: PathBuf,
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
    /// Whether any of them was acknowledged as durable, or may have been: of the newest events
    /// nothing on the disk says that they were not.
    pub acknowledged: bool,
    /// How many of them can still be read from what goes to `quarantine/`.
    pub readable: u64,
    /// The streams that have these, each with how many; the first hundred by name.
    pub streams: Vec<(String, u64)>,
    /// How many more streams there are.
    pub streams_left_out: u64,
}

/// Bytes that the device does not give, so that no copy has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// The file that has them.
    pub file: PathBuf,
    /// How many there are.
    pub bytes: u64,
    /// Where they are, in blocks of 4 KiB.
    pub ranges: Vec<Range<u64>>,
}

impl Unreadable {
    fn new(file: PathBuf, holes: Holes) -> Self {
        let ranges = holes.into_ranges();
        Self { file, bytes: ranges.iter().map(|range| range.end - range.start).sum(), ranges }
    }
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
    /// What could not be copied, since the device does not give it. Zeros stand for it in the
    /// copies, and a text beside each says where.
    pub unreadable: Vec<Unreadable>,
    /// Where copies are kept.
    pub kept: Vec<PathBuf>,
}

impl RepairReport {
    /// Returns whether carrying it out takes [`Loss::Accept`].
    pub fn loses_acknowledged(&self) -> bool {
        self.lost.iter().any(|lost| lost.acknowledged)
    }
}

/// Repairs a store that no program has open, or says what a repair would do.
///
/// Where the log ends earlier afterwards, positions are given to other events than before. A
/// projection whose checkpoint lies behind the new end refuses to run, as beyond the head, and
/// once the log has grown again, as `CheckpointMismatch::Diverged`, both in the `StartError` of its
/// runner; it must be rebuilt. Groups are set back here, and meet some events again. Nothing else notices:
/// whoever keeps positions elsewhere starts over from before the cut.
///
/// Where it begins later, with [`Keep::Newer`], revisions may be given again.
///
/// # Errors
///
/// [`RepairError`], with nothing changed unless it is [`RepairError::Interrupted`], which says how
/// far it came. A repair that was interrupted, by an error or a crash, is finished by asking for
/// it again.
///
/// # Complexity
///
/// Linear in the size of the segments that are concerned; in that of the log if its end is well or
/// its beginning goes. It takes memory for one segment, and a list of what it does.
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
    see_what_was_written(fs, root, effort)?;
    let mut repairer = Repairer::new(fs, root)?;
    let plan = match repair {
        Repair::CutTail => repairer.plan_tail()?,
        Repair::QuarantineSegment { id, keep } => repairer.plan_segment(id, keep)?,
        Repair::Reindex => repairer.plan_indexes()?,
    };
    let mut report = plan.report();
    let Some(lock) = lock else { return Ok(report) };
    if report.loses_acknowledged() && loss == Loss::Refuse {
        return Err(RepairError::LosesAcknowledged);
    }
    repairer.carry_out(&plan, lock)?;
    report.applied = true;
    (report.kept, report.unreadable) = (repairer.kept, repairer.unreadable);
    Ok(report)
}

/// Lets reads see what the disk has of the files that a repair or a writer writes in place. What is
/// to be carried out is planned from what is durable.
fn see_what_was_written(fs: &Arc<dyn Fs>, root: &Path, effort: Effort) -> Result<(), RepairError> {
    let mut files = vec![root.join(crate::catalog::FILE_NAME)];
    for kind in [LogKind::Events, LogKind::Offsets] {
        let folder = root.join(kind.folder());
        if open::exists(fs.as_ref(), &folder)? {
            let names = fs.list(&folder).map_err(RepairError::io("list", &folder))?;
            let newest =
                names.iter().filter_map(|name| Some((parse_file_name(name)?.1, name))).max();
            files.extend(newest.map(|(_, name)| folder.join(name)));
        }
    }
    for path in files {
        let file = fs.open(&path, Access::Read).map_err(RepairError::io("open", &path))?;
        if effort == Effort::Apply {
            file.sync().map_err(RepairError::io("sync", &path))?;
        }
        see_the_disk(file.as_ref(), &path)?;
    }
    Ok(())
}

/// Lets reads see what the disk has: after a failed sync, also one of an earlier repair, the cache
/// may hold something else.
fn see_the_disk(file: &dyn FsFile, path: &Path) -> Result<(), RepairError> {
    file.evict().map_err(RepairError::io("evict", path))
}

/// Where a repair is done.
#[derive(Debug)]
struct Repairer {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    store: LogId,
    catalog: Catalog,
    /// What was copied, and what could not be.
    kept: Vec<PathBuf>,
    unreadable: Vec<Unreadable>,
}

impl Repairer {
    fn new(fs: &Arc<dyn Fs>, root: &Path) -> Result<Self, RepairError> {
        let (identity, catalog) = open::read_only(fs.as_ref(), root)?;
        let (fs, root, store) = (Arc::clone(fs), root.to_owned(), identity.id);
        Ok(Self { fs, root, store, catalog, kept: Vec::new(), unreadable: Vec::new() })
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
    fn plan_indexes(&self) -> Result<Plan, RepairError> {
        let wrong = wrong_indexes(&self.fs, &self.root, &VerifyOptions::default())?.into_iter();
        let actions = wrong.map(|fault| Action::Reindex { file: fault.file, detail: fault.detail });
        Ok(Plan { actions: actions.collect(), ..Plan::default() })
    }
}
