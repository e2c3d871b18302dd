//! Read models in SQLite, one file for as many projections as fit together.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_core::{LogId, Position};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::{Sink, SinkError};
use crate::checkpoint::{Checkpoint, ProjectionId};

/// How long to wait for another writer of the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Numbers are stored as the signed integers that SQLite has, bit for bit.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS headwater_checkpoints (
    name TEXT PRIMARY KEY NOT NULL,
    version INTEGER NOT NULL,
    log_id BLOB NOT NULL,
    selection INTEGER NOT NULL,
    position INTEGER NOT NULL
) STRICT";

/// Keeps read models in a SQLite file, each with its checkpoint in the table
/// `headwater_checkpoints`.
///
/// The file is in WAL mode: readers with their own connection
/// ([`reader`](Self::reader)) see one transaction after the other and never wait. Several
/// projections can share a file, each through a sink of its own; their writes take turns.
///
/// A commit survives a crash of the process. After power loss the newest commits may be gone,
/// data and checkpoint together, and are applied again from the log.
#[derive(Debug)]
pub struct SqliteSink {
    connection: Connection,
    path: PathBuf,
}

/// A transaction of a [`SqliteSink`]: a [`Connection`] to write through. The runner ends it.
pub struct SqliteTx<'a>(rusqlite::Transaction<'a>);

impl Deref for SqliteTx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl fmt::Debug for SqliteTx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteTx").finish_non_exhaustive()
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
            let connection = Connection::open(&path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            // Enough for a checkpoint that commits with its data: see the promise above.
            connection.pragma_update(None, "synchronous", "normal")?;
            connection.execute_batch(SCHEMA)?;
            Ok(connection)
        };
        let connection = connect().map_err(failed("opening the database"))?;
        Ok(Self { connection, path })
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
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            Ok(connection)
        };
        open().map_err(failed("opening a reader"))
    }
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> SinkError {
    move |error| SinkError::engine(action, error)
}

impl Sink for SqliteSink {
    type Tx<'a> = SqliteTx<'a>;

    fn load(&mut self, id: &ProjectionId, _: Position) -> Result<Option<Checkpoint>, SinkError> {
        let query = "SELECT version, log_id, selection, position
                     FROM headwater_checkpoints WHERE name = ?1";
        let row = self.connection.query_row(query, [&id.name], |row| {
            let (log, selection, position): (Vec<u8>, i64, i64) =
                (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok((row.get::<_, u32>(0)?, log, selection, position))
        });
        let row = row.optional().map_err(failed("reading the checkpoint"))?;
        let Some((version, log, selection, position)) = row else {
            return Ok(None);
        };
        let log = <[u8; 16]>::try_from(log.as_slice()).map_err(|_| SinkError::Damaged {
            path: self.path.clone(),
            detail: format!("the log id of {} has {} bytes, not 16", id.name, log.len()),
        })?;
        Ok(Some(Checkpoint {
            id: ProjectionId {
                name: id.name.clone(),
                version,
                log: LogId::from_bytes(log),
                selection: selection.cast_unsigned(),
            },
            position: Position::new(position.cast_unsigned()),
        }))
    }

    fn begin(&mut self) -> Result<SqliteTx<'_>, SinkError> {
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        begun.map(SqliteTx).map_err(failed("beginning a transaction"))
    }

    fn commit(tx: SqliteTx<'_>, checkpoint: &Checkpoint) -> Result<(), SinkError> {
        let Checkpoint { id, position } = checkpoint;
        let statement = "INSERT INTO headwater_checkpoints VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (name) DO UPDATE SET version = excluded.version, log_id = excluded.log_id,
                 selection = excluded.selection, position = excluded.position";
        let write = || {
            tx.0.prepare_cached(statement)?.execute(params![
                id.name,
                id.version,
                id.log.as_bytes(),
                id.selection.cast_signed(),
                position.get().cast_signed(),
            ])
        };
        write().map_err(failed("writing the checkpoint"))?;
        tx.0.commit().map_err(failed("committing"))
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
    fn a_checkpoint_row_that_is_not_ours_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = SqliteSink::open(dir.path().join("model.sqlite")).unwrap();
        let tx = sink.begin().unwrap();
        SqliteSink::commit(tx, &checkpoint(5)).unwrap();
        sink.connection.execute("UPDATE headwater_checkpoints SET log_id = x'00'", []).unwrap();
        let error = sink.load(&checkpoint(0).id, Position::MAX).unwrap_err();
        assert!(matches!(error, SinkError::Damaged { .. }), "{error}");
    }
}
