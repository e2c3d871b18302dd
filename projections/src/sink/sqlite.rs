//! Read models in SQLite, one file for as many projections as fit together.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use headwater_core::{EventId, LogId, Position};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::{Sink, SinkError};
use crate::checkpoint::{Checkpoint, ProjectionId};
use crate::sqlite::BUSY_TIMEOUT;

/// Numbers are stored as the signed integers that SQLite has, bit for bit.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS headwater_checkpoints (
    name TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL,
    log_id BLOB NOT NULL,
    selection INTEGER NOT NULL,
    position INTEGER NOT NULL,
    event_id BLOB
) STRICT";
/// Files of earlier versions have no such column.
const HAS_EVENT_ID: &str =
    "SELECT count(*) FROM pragma_table_info('headwater_checkpoints') WHERE name = 'event_id'";
const ADD_EVENT_ID: &str = "ALTER TABLE headwater_checkpoints ADD COLUMN event_id BLOB";

/// Keeps read models in a SQLite file, each with its checkpoint in the table
/// `headwater_checkpoints`.
///
/// The file is in WAL mode: readers with their own connection
/// ([`reader`](Self::reader)) see one transaction after the other and never wait. Several
/// projections can share a file, each through a sink of its own; their writes take turns. Two
/// runners of the same projection cannot: the one that comes second finds that the read model
/// was moved, changes nothing and fails with [`SinkError::Overtaken`].
///
/// A commit survives a crash of the process. After power loss the newest commits may be gone,
/// data and checkpoint together, and are applied again from the log.
#[derive(Debug)]
pub struct SqliteSink {
    connection: Connection,
    path: PathBuf,
    /// The name that was asked for last; `None` before the first load.
    name: Option<String>,
    /// The checkpoint under that name, as this sink last loaded or committed it.
    last: Option<Checkpoint>,
}

/// A transaction of a [`SqliteSink`]: a [`Connection`] to write through. The runner ends it.
pub struct SqliteTx<'a> {
    inner: rusqlite::Transaction<'a>,
    name: &'a mut Option<String>,
    last: &'a mut Option<Checkpoint>,
}

impl Deref for SqliteTx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.inner
    }
}

impl fmt::Debug for SqliteTx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteTx").finish_non_exhaustive()
    }
}

impl SqliteSink {
    /// Opens a file, and creates it if there is none. Blocks.
    ///
    /// # Errors
    ///
    /// [`SinkError::Engine`] if SQLite cannot open it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SinkError> {
        let path = path.as_ref().to_owned();
        let connect = || {
            let mut connection = Connection::open(&path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            // Enough for a checkpoint that commits with its data: see the promise above.
            connection.pragma_update(None, "synchronous", "normal")?;
            create(&mut connection)?;
            Ok(connection)
        };
        let connection = connect().map_err(failed("opening the database"))?;
        Ok(Self { connection, path, name: None, last: None })
    }

    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens another connection to the file, for reading only. Blocks.
    ///
    /// # Errors
    ///
    /// [`SinkError::Engine`] if SQLite cannot open it.
    pub fn reader(&self) -> Result<Connection, SinkError> {
        Self::reader_at(&self.path)
    }

    /// Opens a file for reading only.
    pub(crate) fn reader_at(path: &Path) -> Result<Connection, SinkError> {
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            Ok(connection)
        };
        open().map_err(failed("opening a reader"))
    }

    /// Reads the checkpoint of a projection from a file.
    pub(crate) fn stored_at(path: &Path, name: &str) -> Result<Option<Checkpoint>, SinkError> {
        stored(&Self::reader_at(path)?, path, name)
    }
}

/// Makes the table of checkpoints, or brings it up to date. Where it is, nothing is written.
fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let has_event_id = |connection: &Connection| -> rusqlite::Result<bool> {
        connection.query_row(HAS_EVENT_ID, [], |row| row.get(0))
    };
    if has_event_id(connection)? {
        return Ok(());
    }
    // Somebody else may come first.
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(SCHEMA)?;
    if !has_event_id(&tx)? {
        tx.execute_batch(ADD_EVENT_ID)?;
    }
    tx.commit()
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> SinkError {
    move |error| SinkError::engine(action, error)
}

/// Reads the checkpoint of the projection with this name.
fn stored(
    connection: &Connection,
    path: &Path,
    name: &str,
) -> Result<Option<Checkpoint>, SinkError> {
    let query = "SELECT version, log_id, selection, position, event_id
                 FROM headwater_checkpoints WHERE name = ?1";
    let read = || {
        let row = connection.prepare_cached(query)?.query_row([name], |row| {
            let (log, selection, position): (Vec<u8>, i64, i64) =
                (row.get(1)?, row.get(2)?, row.get(3)?);
            let event: Option<Vec<u8>> = row.get(4)?;
            Ok((row.get::<_, u32>(0)?, log, selection, position, event))
        });
        row.optional()
    };
    let row = read().map_err(failed("reading the checkpoint"))?;
    let Some((version, log, selection, position, event)) = row else {
        return Ok(None);
    };
    let id = |what, bytes: &[u8]| {
        <[u8; 16]>::try_from(bytes).map_err(|_| SinkError::Damaged {
            path: path.to_owned(),
            detail: format!("the {what} id of {name} has {} bytes, not 16", bytes.len()),
        })
    };
    let log = id("log", &log)?;
    let event = event.map(|event| id("event", &event)).transpose()?;
    Ok(Some(Checkpoint {
        id: ProjectionId {
            name: name.to_owned(),
            version,
            log: LogId::from_bytes(log),
            selection: selection.cast_unsigned(),
        },
        position: Position::new(position.cast_unsigned()),
        event: event.map(EventId::from_bytes),
    }))
}

impl Sink for SqliteSink {
    type Tx<'a> = SqliteTx<'a>;

    fn load(&mut self, id: &ProjectionId, _: Position) -> Result<Option<Checkpoint>, SinkError> {
        let loaded = stored(&self.connection, &self.path, &id.name)?;
        self.name = Some(id.name.clone());
        self.last.clone_from(&loaded);
        Ok(loaded)
    }

    fn begin(&mut self) -> Result<SqliteTx<'_>, SinkError> {
        let path = self.path.clone();
        let tx = self.begin_anew()?;
        // Nobody else can commit before this transaction ends; an error rolls it back.
        if let Some(name) = &*tx.name {
            let found = stored(&tx, &path, name)?;
            if found != *tx.last {
                return Err(SinkError::Overtaken {
                    projection: name.clone(),
                    expected: tx.last.clone().map(Box::new),
                    found: found.map(Box::new),
                });
            }
        }
        Ok(tx)
    }

    fn begin_anew(&mut self) -> Result<SqliteTx<'_>, SinkError> {
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let inner = begun.map_err(failed("beginning a transaction"))?;
        Ok(SqliteTx { inner, name: &mut self.name, last: &mut self.last })
    }

    fn commit(tx: SqliteTx<'_>, checkpoint: &Checkpoint) -> Result<(), SinkError> {
        let Checkpoint { id, position, event } = checkpoint;
        let statement = "INSERT INTO headwater_checkpoints
                 (name, version, log_id, selection, position, event_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (name) DO UPDATE SET version = excluded.version, log_id = excluded.log_id,
                 selection = excluded.selection, position = excluded.position,
                 event_id = excluded.event_id";
        let write = || {
            tx.inner.prepare_cached(statement)?.execute(params![
                id.name,
                id.version,
                id.log.as_bytes(),
                id.selection.cast_signed(),
                position.get().cast_signed(),
                event.as_ref().map(EventId::as_bytes),
            ])
        };
        write().map_err(failed("writing the checkpoint"))?;
        tx.inner.commit().map_err(failed("committing"))?;
        *tx.name = Some(id.name.clone());
        *tx.last = Some(checkpoint.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(position: u64) -> Checkpoint {
        Checkpoint {
            id: ProjectionId {
                name: "p".into(),
                version: 3,
                log: LogId::from_bytes([7; 16]),
                selection: u64::MAX - 1,
            },
            position: Position::new(position),
            event: (position > 0).then_some(EventId::from_bytes([9; 16])),
        }
    }

    #[test]
    fn the_checkpoint_and_the_data_commit_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.sqlite");
        let mut sink = SqliteSink::open(&path).unwrap();
        let id = checkpoint(0).id;
        assert_eq!(sink.load(&id, Position::MAX).unwrap(), None);

        let tx = sink.begin().unwrap();
        tx.execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)").unwrap();
        SqliteSink::commit(tx, &checkpoint(5)).unwrap();

        let tx = sink.begin().unwrap();
        tx.execute("INSERT INTO t VALUES (2)", []).unwrap();
        drop(tx);
        drop(sink);

        let mut sink = SqliteSink::open(&path).unwrap();
        assert_eq!(sink.load(&id, Position::MAX).unwrap(), Some(checkpoint(5)));
        let sum = "SELECT sum(n) FROM t";
        let sum: i64 = sink.reader().unwrap().query_row(sum, [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 1);
    }

    #[test]
    fn a_table_of_an_earlier_version_is_brought_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.sqlite");
        let mut sink = SqliteSink::open(&path).unwrap();
        SqliteSink::commit(sink.begin().unwrap(), &checkpoint(5)).unwrap();
        sink.connection
            .execute_batch("ALTER TABLE headwater_checkpoints DROP COLUMN event_id")
            .unwrap();
        drop(sink);
        let mut sink = SqliteSink::open(&path).unwrap();
        let id = checkpoint(0).id;
        let known = sink.load(&id, Position::MAX).unwrap().unwrap();
        assert_eq!(known, Checkpoint { event: None, ..checkpoint(5) });
        SqliteSink::commit(sink.begin().unwrap(), &checkpoint(6)).unwrap();
        drop(sink);
        let mut sink = SqliteSink::open(&path).unwrap();
        assert_eq!(sink.load(&id, Position::MAX).unwrap(), Some(checkpoint(6)));
    }

    #[test]
    fn a_checkpoint_row_that_is_not_ours_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = SqliteSink::open(dir.path().join("model.sqlite")).unwrap();
        let tx = sink.begin().unwrap();
        SqliteSink::commit(tx, &checkpoint(5)).unwrap();
        sink.connection.execute("UPDATE headwater_checkpoints SET log_id = x'00'", []).unwrap();
        let error = sink.load(&checkpoint(0).id, Position::MAX).unwrap_err();
        assert!(matches!(error, SinkError::Damaged { .. }), "{error}");
    }

    #[test]
    fn who_was_overtaken_changes_nothing_until_it_loads_or_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.sqlite");
        let id = checkpoint(0).id;
        let mut sinks = [(); 2].map(|()| SqliteSink::open(&path).unwrap());
        for sink in &mut sinks {
            assert_eq!(sink.load(&id, Position::MAX).unwrap(), None);
        }
        let [first, second] = &mut sinks;
        SqliteSink::commit(first.begin().unwrap(), &checkpoint(3)).unwrap();
        let error = second.begin().unwrap_err().to_string();
        assert!(error.contains("from no checkpoint to position 3"), "{error}");
        SqliteSink::commit(first.begin().unwrap(), &checkpoint(4)).unwrap();

        assert_eq!(second.load(&id, Position::MAX).unwrap(), Some(checkpoint(4)));
        SqliteSink::commit(second.begin().unwrap(), &checkpoint(5)).unwrap();
        let error = first.begin().unwrap_err();
        assert!(matches!(error, SinkError::Overtaken { .. }), "{error}");

        SqliteSink::commit(first.begin_anew().unwrap(), &checkpoint(0)).unwrap();
        drop(first.begin().unwrap());
        let error = second.begin().unwrap_err();
        assert!(matches!(error, SinkError::Overtaken { .. }), "{error}");
    }
}
