//! Backup of a store, and restoring it: one copy of a log as it was at a moment.
//!
//! A copy is made durable file by file under a directory that is no store yet: what will be `STORE`
//! is called `UNFINISHED` until everything else is there. The offsets are taken before the events,
//! so that no group has read more than the copy holds, and so is `TAILS`: a stream that is not in it
//! has events behind it, which the copy then holds. If retention removes a segment before it is
//! copied, the copy begins anew; the oldest go first.

mod copy;
mod source;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{AppendError, GroupError, LogId, Position, ReadError};

use crate::error::OpenError;
use crate::fs::{Fs, RealFs, is_full};
use crate::handle::Store;
use crate::log::Depth;
use crate::read_only::ATTEMPTS_MAX;

use copy::{Links, copy};
use source::Source;

/// What a backup or a restored store holds, and how it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The log, which keeps its identity.
    pub id: LogId,
    /// The last position that retention had removed: the log starts after it.
    pub start: Position,
    /// The last position.
    pub head: Position,
    /// How many consumer groups have their progress in it.
    pub groups: usize,
    /// How many segments of events.
    pub segments: usize,
    /// Bytes of files that the copy shares with its source, by hard links.
    pub linked_bytes: u64,
    /// Bytes of files that are the copy's own.
    pub copied_bytes: u64,
}

/// How far a backup is, in bytes of files linked or copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupProgress {
    /// What is done.
    pub done_bytes: u64,
    /// What there is to do, about.
    pub total_bytes: u64,
}

/// Why a backup was not made or not restored. Nothing but the destination was touched, and what
/// was begun there was removed again, as far as that was possible.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The destination holds something. Give a directory that is empty or does not exist.
    #[error("{} is not empty: it holds {found:?}; choose a new or an empty directory", path.display())]
    NotEmpty {
        /// The destination.
        path: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// What is to be copied cannot be opened, or is damaged.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is to be copied cannot be read, or is damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The events that were appended last could not be made durable. Open the store anew.
    #[error(
        "the events that were appended last cannot be made durable, so they cannot be backed up"
    )]
    Events(#[source] AppendError),
    /// The progress of the groups could not be made durable. Open the store anew.
    #[error("the progress of the groups cannot be made durable, so it cannot be backed up")]
    Groups(#[source] GroupError),
    /// Another process changed the store faster than it could be copied. Try again.
    #[error("{} changes faster than it can be copied; try again", path.display())]
    Overtaken {
        /// The directory of the store.
        path: PathBuf,
    },
    /// The destination's disk is full.
    #[error("no space to write {}; free some, or choose another disk", path.display())]
    StorageFull {
        /// The file that found none.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl BackupError {
    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| {
            let source = Arc::new(error);
            if is_full(&source) {
                Self::StorageFull { path, source }
            } else {
                Self::Io { action, path, source }
            }
        }
    }
}

/// Backs up a store that no process has open, or that another one is writing, without its lock and
/// without changing a byte of it.
///
/// The backup holds what was committed when it began, and it is a store of its own that can be
/// opened where it is. See
/// [`Store::backup`](crate::Store::backup) for what it shares with the store, and for what lies in
/// `into`. `progress` is told now and then how far it is.
///
/// Where a sync of the writer has failed and its process still runs, the cache cannot be told from
/// the device: the end of the backup may be events that the store loses when it is opened anew. None
/// of them was acknowledged as durable.
///
/// # Errors
///
/// [`BackupError`]; `into` is no store then.
pub fn backup(
    from: impl AsRef<Path>,
    into: impl AsRef<Path>,
    mut progress: impl FnMut(BackupProgress),
) -> Result<BackupReport, BackupError> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    backup_on(&fs, from.as_ref(), into.as_ref(), &mut progress)
}

pub(crate) fn backup_on(
    fs: &Arc<dyn Fs>,
    from: &Path,
    into: &Path,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<BackupReport, BackupError> {
    copy_beside(fs, (from, Depth::Newest), into, Links::WherePossible, progress)
}

/// Copies a store that is not open here. Begins anew where it was overtaken.
fn copy_beside(
    fs: &Arc<dyn Fs>,
    (from, depth): (&Path, Depth),
    into: &Path,
    links: Links,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<BackupReport, BackupError> {
    let mut attempt = 1;
    loop {
        let source = Source::beside(fs, from, depth)?;
        match copy(&source, into, links, progress) {
            Err(BackupError::Overtaken { .. }) if attempt < ATTEMPTS_MAX => attempt += 1,
            done => return done,
        }
    }
}

/// Makes a store of a backup, after a walk over every frame of it. The backup stays as it is: they
/// share no file.
///
/// The store keeps the log's identity. Whoever has read the log further than the backup reaches
/// finds other events at the positions that are given anew: projections refuse to go on then, and
/// the progress of the groups lies in the store and went back with it.
///
/// # Errors
///
/// [`BackupError`]; `to` is no store then.
///
/// # Complexity
///
/// Reads the backup twice.
pub fn restore(
    backup: impl AsRef<Path>,
    to: impl AsRef<Path>,
    mut progress: impl FnMut(BackupProgress),
) -> Result<BackupReport, BackupError> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    restore_on(&fs, backup.as_ref(), to.as_ref(), &mut progress)
}

pub(crate) fn restore_on(
    fs: &Arc<dyn Fs>,
    backup: &Path,
    to: &Path,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<BackupReport, BackupError> {
    copy_beside(fs, (backup, Depth::All), to, Links::Never, progress)
}

impl Store {
    /// Backs up the store into a directory that is missing or empty, while appends go on.
    ///
    /// The backup holds every event that was committed when it began, and the progress of the
    /// groups, none of which has read more. It is a store of its own, with the same identity: it
    /// can be read and opened where it is, and [`restore`](crate::restore) makes another of it.
    /// Sealed segments are hard links where `into` lies on the same file system, which
    /// costs no space and protects from what people and programs do, but not from a disk that
    /// fails; elsewhere they are copies. The newest segment is always a copy.
    ///
    /// When this returns `Ok`, the backup survives the loss of power. Until then `into` is no
    /// store: opening one that was interrupted is [`OpenError::Unfinished`].
    /// [`remove`](Self::remove) and retention wait meanwhile; [`close`](Self::close) does not, and
    /// the backup goes on.
    ///
    /// Blocks until everything is copied and synced.
    ///
    /// # Errors
    ///
    /// [`BackupError`]; the store goes on as before, and what was begun in `into` is removed. If
    /// the very last sync fails, the whole backup may be there.
    ///
    /// # Complexity
    ///
    /// Linear in the number of segments, and in the bytes that are copied.
    pub fn backup(&self, into: impl AsRef<Path>) -> Result<BackupReport, BackupError> {
        let keeper = self.keeper();
        let _turn = keeper.turn.take();
        let source = Source::of(keeper)?;
        copy(&source, into.as_ref(), Links::WherePossible, &mut |_| {})
    }
}
