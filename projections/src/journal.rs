//! A journal in SQLite: a file that the processes of one machine share, for
//! [`SharedGroups`](headwater_core::SharedGroups).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use headwater_core::{Journal, JournalError, JournalRead, Version};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};
use tokio::sync::watch;

use crate::sqlite::{BUSY_TIMEOUT, into_wal};

/// How long [`SqliteJournal::changed`] relies on being told by the file system.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// `HWJ1`, in the header of the file: what it is, and its format.
const APPLICATION_ID: i32 = 0x4857_4a31;

/// The entry `version` is the one that made the journal reach that version. There is one snapshot
/// at most, which stands for every entry up to its version.
const SCHEMA: &str =
    "CREATE TABLE entries (version INTEGER PRIMARY KEY, entry BLOB NOT NULL) STRICT;
    CREATE TABLE snapshot (version INTEGER PRIMARY KEY, snapshot BLOB NOT NULL) STRICT;";
const BASE: &str = "SELECT ifnull(max(version), 0) FROM snapshot";
const LAST: &str = "SELECT max((SELECT ifnull(max(version), 0) FROM entries),
                               (SELECT ifnull(max(version), 0) FROM snapshot))";
/// Compares and adds in one statement, which is a transaction of its own.
const APPEND: &str = "INSERT INTO entries (version, entry) SELECT ?1 + 1, ?2
    WHERE ?1 = max((SELECT ifnull(max(version), 0) FROM entries),
                   (SELECT ifnull(max(version), 0) FROM snapshot))";

/// A [`Journal`] in a SQLite file, which any number of processes of one machine share: through it
/// they run groups together. Clones share one connection.
///
/// The file belongs to the journal alone and must lie on a local file system. It is in WAL mode
/// with full synchronisation. Beside it and SQLite's own `-wal` and `-shm` lies an empty file
/// `-bell`, which is touched after each entry: that wakes the other processes without polling.
///
/// # Guarantees
///
/// Those of [`Journal`]. An entry that was added survives a crash of the process and of the
/// machine. It costs one flush of the device.
///
/// A process that is stopped (not killed) just while it adds an entry holds up the others until
/// it goes on or dies. They fail with [`JournalError::Unavailable`] after 5 s, and try again.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use headwater_core::{GroupName, MemoryLog, SharedGroups};
/// use headwater_projections::{ConsumerGroup, GroupOptions, SqliteJournal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let log = Arc::new(MemoryLog::new());
/// // The writer's process gives its store here, every other a follower of it.
/// let journal = SqliteJournal::open(dir.path().join("groups.journal"))?;
/// let groups = Arc::new(SharedGroups::open(log, Arc::new(journal)).await?);
/// let group = ConsumerGroup::open(groups, GroupOptions::new(GroupName::new("mails")?)).await?;
/// let member = group.join("this one").await?;
/// # drop(member);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteJournal {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    connection: Mutex<Connection>,
    bell: File,
    last: watch::Receiver<Version>,
    look_again: Duration,
    teller: Arc<Teller>,
    _watcher: RecommendedWatcher,
}

/// Tells who waits how far the journal is.
struct Teller {
    /// Its own: it reads while the other one writes.
    connection: Mutex<Connection>,
    last: watch::Sender<Version>,
}

impl Teller {
    fn tell(&self, version: Version) {
        self.last.send_if_modified(|last| {
            let moved = version > *last;
            *last = version.max(*last);
            moved
        });
    }

    /// Looks how far it is.
    fn look(&self) -> rusqlite::Result<()> {
        last(&lock(&self.connection)).map(|version| self.tell(version))
    }
}

impl fmt::Debug for SqliteJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteJournal").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A transaction that panics is rolled back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SqliteJournal {
    /// Opens a journal, and creates it if there is no such file. Blocks.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unavailable`] if the file cannot be opened, or the directory it is in not be
    /// watched; [`JournalError::Damaged`] if it is something else than a journal.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        Self::open_with(path.as_ref().to_owned(), LOOK_AGAIN)
    }

    fn open_with(path: PathBuf, look_again: Duration) -> Result<Self, JournalError> {
        let mut connection = connect(&path)?;
        create(&mut connection, &path)?;
        let teller = Arc::new(Teller {
            connection: Mutex::new(connect(&path)?),
            last: watch::Sender::new(Version::NONE),
        });
        let bell = bell_of(&path);
        let watcher = watch_bell(&bell, Arc::clone(&teller)).map_err(unavailable)?;
        let open = OpenOptions::new().write(true).create(true).truncate(false).open(bell);
        let bell = open.map_err(unavailable)?;
        // What came before the watch began.
        teller.look().map_err(unchanged)?;
        let (connection, last) = (Mutex::new(connection), teller.last.subscribe());
        let shared = Shared { path, connection, bell, last, look_again, teller, _watcher: watcher };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Works with the connection where it may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let shared = Arc::clone(&self.shared);
        let work = move || work(&mut lock(&shared.connection));
        // The runtime ends: whether the work began is not known.
        let ended = |error| JournalError::Indeterminate(Arc::new(error));
        tokio::task::spawn_blocking(work).await.map_err(ended)?
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn read(&self, after: Version) -> Result<JournalRead, JournalError> {
        self.run(move |connection| read(connection, after)).await
    }

    async fn append(&self, expected: Version, entry: Bytes) -> Result<Version, JournalError> {
        let shared = Arc::clone(&self.shared);
        self.run(move |connection| {
            let added = connection
                .prepare_cached(APPEND)
                .map_err(unchanged)?
                .execute(params![stored(expected), &entry[..]])
                .map_err(maybe_changed)?;
            if added == 0 {
                return Err(JournalError::Moved { expected });
            }
            shared.teller.tell(expected.next());
            // The file system says when SQLite writes, which is before others see the entry.
            if let Err(error) = shared.bell.set_modified(SystemTime::now()) {
                tracing::debug!(%error, "other processes were not told of an entry");
            }
            Ok(expected.next())
        })
        .await
    }

    async fn compact(&self, through: Version, snapshot: Bytes) -> Result<(), JournalError> {
        self.run(move |connection| {
            let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
            let tx = begun.map_err(unchanged)?;
            if replace(&tx, through, &snapshot).map_err(unchanged)? {
                tx.commit().map_err(maybe_changed)?;
            }
            Ok(())
        })
        .await
    }

    async fn changed(&self, after: Version) -> Result<(), JournalError> {
        let mut last = self.shared.last.clone();
        // The sender lives as long as this; who is told nothing looks in time.
        let _ =
            tokio::time::timeout(self.shared.look_again, last.wait_for(|last| *last > after)).await;
        Ok(())
    }
}

fn connect(path: &Path) -> Result<Connection, JournalError> {
    let open = || {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "synchronous", "full")?;
        Ok(connection)
    };
    open().map_err(unchanged)
}

/// Makes the tables of a new file, and sees that an old one is a journal.
fn create(connection: &mut Connection, path: &Path) -> Result<(), JournalError> {
    let mode = into_wal(connection).map_err(unchanged)?;
    if mode != "wal" {
        let detail = format!(
            "{} is in the mode {mode} and not wal; give it a place on a local file system",
            path.display()
        );
        return Err(unavailable(std::io::Error::other(detail)));
    }
    let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let tx = begun.map_err(unchanged)?;
    let id = tx.pragma_query_value(None, "application_id", |row| row.get::<_, i32>(0));
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables = || tx.query_row(tables, [], |row| row.get::<_, u64>(0)).map_err(unchanged);
    match id.map_err(unchanged)? {
        APPLICATION_ID => return Ok(()),
        0 if tables()? == 0 => {}
        _ => {
            return Err(JournalError::Damaged(format!(
                "{} is a database of something else, or of a newer version",
                path.display()
            )));
        }
    }
    tx.execute_batch(SCHEMA).map_err(unchanged)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(unchanged)?;
    tx.commit().map_err(maybe_changed)
}

fn bell_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-bell");
    name.into()
}

/// Looks at the journal each time its bell is touched.
fn watch_bell(bell: &Path, teller: Arc<Teller>) -> notify::Result<RecommendedWatcher> {
    let name = bell.file_name().unwrap_or_default().to_owned();
    let concerns = move |event: &notify::Event| {
        let named = |path: &PathBuf| path.file_name() == Some(&name);
        !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(named)
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Whatever went wrong, looking again is right.
        if event.map_or(true, |event| event.need_rescan() || concerns(&event))
            && let Err(error) = teller.look()
        {
            // The next change or the next beat looks again.
            tracing::debug!(%error, "a journal could not be looked at");
        }
    })?;
    let folder = match bell.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Numbers are stored as the signed integers that SQLite has.
fn stored(version: Version) -> i64 {
    version.get().cast_signed()
}

fn version(row: &rusqlite::Row<'_>) -> rusqlite::Result<Version> {
    Ok(Version::new(row.get::<_, i64>(0)?.cast_unsigned()))
}

fn last(connection: &Connection) -> rusqlite::Result<Version> {
    connection.prepare_cached(LAST)?.query_row([], version)
}

fn read(connection: &mut Connection, after: Version) -> Result<JournalRead, JournalError> {
    let mut fetch = || {
        // One moment for all of it.
        let tx = connection.transaction()?;
        let last = last(&tx)?;
        let snapshot = tx
            .prepare_cached("SELECT version, snapshot FROM snapshot WHERE version > ?1")?
            .query_row([stored(after)], |row| Ok((version(row)?, bytes(row)?)))
            .optional()?;
        let base = snapshot.as_ref().map_or(after, |(version, _)| *version);
        let mut select =
            tx.prepare_cached("SELECT version, entry FROM entries WHERE version > ?1 ORDER BY 1")?;
        let rows = select.query_map([stored(base)], |row| Ok((version(row)?, bytes(row)?)))?;
        let entries: Vec<(Version, Bytes)> = rows.collect::<Result<_, _>>()?;
        Ok((last, base, snapshot, entries))
    };
    let (last, base, snapshot, entries) = fetch().map_err(unchanged)?;
    if last < after {
        return Err(JournalError::Damaged(format!("it ends at version {last}, before {after}")));
    }
    let mut expected = base;
    for (version, _) in &entries {
        expected = expected.next();
        if *version != expected {
            return Err(JournalError::Damaged(format!("its entry {expected} is missing")));
        }
    }
    Ok(JournalRead { snapshot, entries: entries.into_iter().map(|(_, entry)| entry).collect() })
}

fn bytes(row: &rusqlite::Row<'_>) -> rusqlite::Result<Bytes> {
    Ok(row.get::<_, Vec<u8>>(1)?.into())
}

/// Puts a snapshot in the place of entries, unless a later one is there. Returns whether it did.
fn replace(tx: &Transaction<'_>, through: Version, snapshot: &[u8]) -> rusqlite::Result<bool> {
    let base = tx.prepare_cached(BASE)?.query_row([], version)?;
    if through <= base || through > last(tx)? {
        return Ok(false);
    }
    tx.execute("DELETE FROM entries WHERE version <= ?1", [stored(through)])?;
    tx.execute("DELETE FROM snapshot", [])?;
    let insert = "INSERT INTO snapshot (version, snapshot) VALUES (?1, ?2)";
    tx.execute(insert, params![stored(through), snapshot])?;
    Ok(true)
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> JournalError {
    JournalError::Unavailable(Arc::new(error))
}

/// Says what failed before anything could be changed.
fn unchanged(error: rusqlite::Error) -> JournalError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            JournalError::Damaged(error.to_string())
        }
        _ if error.sqlite_error().is_none() => JournalError::Damaged(error.to_string()),
        _ => unavailable(error),
    }
}

/// Says what failed while something was being changed. SQLite takes back what it could not write;
/// of what it wrote and could not flush nobody knows.
fn maybe_changed(error: rusqlite::Error) -> JournalError {
    match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) => JournalError::Indeterminate(Arc::new(error)),
        _ => unchanged(error),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use headwater_testkit::journal_laws;
    use tempfile::TempDir;

    use super::*;

    fn place() -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("groups.journal");
        (dir, path)
    }

    fn entry(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn the_journal_in_sqlite_keeps_the_laws_of_journals() {
        let (_dir, path) = place();
        // Longer than the laws wait: whoever waits is told.
        let hour = Duration::from_secs(3_600);
        journal_laws(|| SqliteJournal::open_with(path.clone(), hour).unwrap()).await;
    }

    #[test]
    fn processes_that_make_it_at_once_make_one() {
        for _ in 0..10 {
            let (_dir, path) = place();
            let open = || drop(SqliteJournal::open(&path).unwrap());
            thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(open))));
        }
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let (dir, path) = place();
        let foreign = dir.path().join("foreign.sqlite");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
        let newer = dir.path().join("newer.sqlite");
        let connection = Connection::open(&newer).unwrap();
        connection.pragma_update(None, "application_id", APPLICATION_ID + 1).unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "not a database, and longer than the header of one ".repeat(30))
            .unwrap();
        for path in [foreign, newer, text] {
            let error = SqliteJournal::open(&path).unwrap_err();
            assert!(matches!(error, JournalError::Damaged(_)), "{}: {error}", path.display());
        }
        let error = SqliteJournal::open(path.join("no").join("where")).unwrap_err();
        assert!(matches!(error, JournalError::Unavailable(_)), "{error}");
    }

    #[tokio::test]
    async fn an_entry_that_is_missing_is_damage() {
        let (_dir, path) = place();
        let journal = SqliteJournal::open(&path).unwrap();
        for number in 0..3 {
            journal.append(Version::new(number), entry("x")).await.unwrap();
        }
        let delete = "DELETE FROM entries WHERE version = 2";
        lock(&journal.shared.connection).execute(delete, []).unwrap();
        let error = journal.read(Version::NONE).await.unwrap_err().to_string();
        assert!(error.contains("its entry 2 is missing"), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_be_written_now_changes_nothing() {
        let (_dir, path) = place();
        let journal = SqliteJournal::open(&path).unwrap();
        let first = journal.append(Version::NONE, entry("x")).await.unwrap();
        // Somebody else holds the file.
        lock(&journal.shared.connection).busy_timeout(Duration::ZERO).unwrap();
        let holder = Connection::open(&path).unwrap();
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();
        let busy = journal.append(first, entry("y")).await.unwrap_err();
        assert!(matches!(busy, JournalError::Unavailable(_)), "{busy}");
        let busy = journal.compact(first, entry("s")).await.unwrap_err();
        assert!(matches!(busy, JournalError::Unavailable(_)), "{busy}");
        holder.execute_batch("ROLLBACK").unwrap();
        // The file cannot grow.
        lock(&journal.shared.connection).pragma_update(None, "max_page_count", 1).unwrap();
        let full = journal.append(first, vec![0; 100_000].into()).await.unwrap_err();
        assert!(matches!(full, JournalError::Unavailable(_)), "{full}");
        let read = journal.read(Version::NONE).await.unwrap();
        assert_eq!((read.snapshot, read.entries), (None, vec![entry("x")]));
    }
}
