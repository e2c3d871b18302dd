//! Snapshots in a file of SQLite that stays below a bound.
//!
//! `file.rs` is what is in it: one row for each key. Writing is the work of a thread, many at a time;
//! reading is one row from the page cache, in the caller's thread. What is damaged is thrown away: nothing
//! in here is worth keeping.

mod file;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_core::{SnapshotKey, SnapshotStore, SnapshotStoreError};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

/// How many snapshots may wait to be written. Later ones are dropped.
const WAITING_MAX: usize = 64;

/// Keeps snapshots in a file of SQLite, which stays below a bound: the ones that were written the longest
/// time ago go first. Clones share it.
///
/// The file belongs to the snapshots alone and must lie on a local file system. Any number of processes
/// of one machine may share it, and any number of logs. It can be deleted at any time, with SQLite's own
/// `-wal` and `-shm` beside it.
///
/// # Guarantees
///
/// The file never takes more bytes than it is allowed, whatever is kept and however often. The write-ahead
/// log beside it takes 4 MiB and the largest snapshots that are written at once; more only while some
/// other program reads the file for a long time.
///
/// Nothing is synced for its own sake. A crash, of the machine too, loses the newest snapshots, and nothing
/// else. A file that turns out to be damaged is replaced by an empty one.
///
/// Loading reads one row in the caller's thread, as a store reads its log, and waits for no writer. Saving
/// hands over and never waits: where 64 snapshots wait already, one is dropped.
/// [`flush`](Self::flush) waits. When the last clone goes, what was handed over is still written.
#[derive(Clone)]
pub struct SqliteSnapshots {
    file: Arc<SnapshotFile>,
    work: mpsc::Sender<Work>,
}

/// Why a file cannot be used for snapshots. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFileError {
    /// The bound is too low for anything.
    #[error(
        "{given} bytes are too few for snapshots; allow at least {}",
        SqliteSnapshots::BYTES_MIN
    )]
    TooSmall {
        /// The bound.
        given: u64,
    },
    /// The file is something else.
    #[error(
        "{path} is not a file of snapshots, or of a newer version; choose another path, or delete it if nobody needs it"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// SQLite cannot open it.
    #[error(
        "{path} cannot be opened for snapshots; it has to be on a local file system that can be written"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The system refused a thread, or to remove a damaged file.
    #[error("{path} cannot be used for snapshots")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

struct SnapshotFile {
    path: PathBuf,
    bytes_max: u64,
    reader: Mutex<Reader>,
}

struct Reader {
    connection: Connection,
    /// Counts the files that were thrown away.
    life: u64,
}

enum Work {
    Save(SnapshotKey, Bytes),
    /// The file is damaged, said somebody who read it in this life.
    Renew(u64),
    Clear(oneshot::Sender<Result<(), SnapshotStoreError>>),
    Flush(oneshot::Sender<()>),
}

impl fmt::Debug for SqliteSnapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteSnapshots")
            .field("path", &self.file.path)
            .field("bytes_max", &self.file.bytes_max)
            .finish_non_exhaustive()
    }
}

impl SqliteSnapshots {
    /// The least that a file is to be allowed, in bytes.
    pub const BYTES_MIN: u64 = 128 * 1024;

    /// Opens a file, and creates it if there is none. Blocks. It will take `bytes_max` bytes at most,
    /// from [`BYTES_MIN`](Self::BYTES_MIN) on; one that is larger is made smaller.
    ///
    /// # Errors
    ///
    /// [`SnapshotFileError`] if the file is something else, or cannot be opened.
    pub fn open(path: impl AsRef<Path>, bytes_max: u64) -> Result<Self, SnapshotFileError> {
        if bytes_max < Self::BYTES_MIN {
            return Err(SnapshotFileError::TooSmall { given: bytes_max });
        }
        let path = path.as_ref().to_owned();
        let (writer, connection) = file::open_or_renew(&path, bytes_max)?;
        let reader = Mutex::new(Reader { connection, life: 0 });
        let file = Arc::new(SnapshotFile { path, bytes_max, reader });
        let (work, inbox) = mpsc::channel(WAITING_MAX);
        let mut keeper = Keeper { file: Arc::clone(&file), connection: writer, life: 0 };
        let spawned = thread::Builder::new()
            .name("headwater-snapshots".to_owned())
            .spawn(move || keeper.run(inbox));
        match spawned {
            Ok(_) => Ok(Self { file, work }),
            Err(source) => Err(SnapshotFileError::Io { path: file.path.clone(), source }),
        }
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Waits until everything that was handed over before is written or given up.
    ///
    /// # Errors
    ///
    /// [`SnapshotStoreError`] if nobody writes any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn flush(&self) -> Result<(), SnapshotStoreError> {
        self.ask(Work::Flush).await
    }

    async fn ask<T>(
        &self,
        work: impl FnOnce(oneshot::Sender<T>) -> Work,
    ) -> Result<T, SnapshotStoreError> {
        let (reply, outcome) = oneshot::channel();
        self.work.send(work(reply)).await.map_err(|_| nobody())?;
        outcome.await.map_err(|_| nobody())
    }
}

#[async_trait]
impl SnapshotStore for SqliteSnapshots {
    async fn load(&self, key: SnapshotKey) -> Result<Option<Bytes>, SnapshotStoreError> {
        let reader = self.file.reader();
        let found = file::read(&reader.connection, key).inspect_err(|error| {
            if self.file.is_lost(error) {
                // Where no room is left for this, the next one says so.
                let _ = self.work.try_send(Work::Renew(reader.life));
            }
        });
        found.map_err(SnapshotStoreError::new)
    }

    async fn save(&self, key: SnapshotKey, snapshot: Bytes) -> Result<(), SnapshotStoreError> {
        match self.work.try_send(Work::Save(key, snapshot)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::debug!(path = %self.path().display(), "a snapshot was dropped: too many wait");
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(nobody()),
        }
    }

    async fn clear(&self) -> Result<(), SnapshotStoreError> {
        self.ask(Work::Clear).await?
    }
}

/// The thread that writes has ended, which it does by a panic alone.
fn nobody() -> SnapshotStoreError {
    SnapshotStoreError::new(io::Error::other("the thread that writes snapshots has ended"))
}

impl SnapshotFile {
    /// Returns whether the file is to be replaced by an empty one: it is of no use any more, or somebody
    /// deleted it.
    fn is_lost(&self, error: &rusqlite::Error) -> bool {
        file::is_unusable(error) || !self.path.exists()
    }

    fn reader(&self) -> MutexGuard<'_, Reader> {
        // Nothing is changed in here.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what others hand over.
struct Keeper {
    file: Arc<SnapshotFile>,
    connection: Connection,
    life: u64,
}

impl Keeper {
    fn run(&mut self, mut inbox: mpsc::Receiver<Work>) {
        let mut saves = Vec::new();
        while let Some(first) = inbox.blocking_recv() {
            let mut next = Some(first);
            while let Some(work) = next {
                if let Work::Save(key, snapshot) = work {
                    saves.push((key, snapshot));
                } else {
                    self.write(&mut saves);
                    self.answer(work);
                }
                next = if saves.len() < WAITING_MAX { inbox.try_recv().ok() } else { None };
            }
            self.write(&mut saves);
        }
    }

    fn answer(&mut self, work: Work) {
        match work {
            Work::Renew(life) if life == self.life => self.renew_or_warn(),
            Work::Save(..) | Work::Renew(_) => {}
            // Who asked may be gone.
            Work::Flush(reply) => drop(reply.send(())),
            Work::Clear(reply) => drop(reply.send(self.clear())),
        }
    }

    fn clear(&mut self) -> Result<(), SnapshotStoreError> {
        match file::clear(&self.connection) {
            Err(error) if self.file.is_lost(&error) => {
                self.renew().map_err(SnapshotStoreError::new)
            }
            cleared => cleared.map_err(SnapshotStoreError::new),
        }
    }

    /// Writes snapshots in one transaction.
    fn write(&mut self, saves: &mut Vec<(SnapshotKey, Bytes)>) {
        if saves.is_empty() {
            return;
        }
        if let Err(error) = file::write(&mut self.connection, saves, self.file.bytes_max) {
            let path = self.file.path.display();
            tracing::warn!(%path, %error, count = saves.len(), "snapshots were not kept");
            if self.file.is_lost(&error) {
                self.renew_or_warn();
            }
        }
        saves.clear();
    }

    fn renew_or_warn(&mut self) {
        if let Err(error) = self.renew() {
            let source = std::error::Error::source(&error).map(tracing::field::display);
            tracing::warn!(%error, source, "there are no snapshots until the file is opened again");
        }
    }

    /// Begins with an empty file.
    fn renew(&mut self) -> Result<(), SnapshotFileError> {
        let (writer, connection) = file::renew(&self.file.path, self.file.bytes_max)?;
        self.life += 1;
        self.connection = writer;
        *self.file.reader() = Reader { connection, life: self.life };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
