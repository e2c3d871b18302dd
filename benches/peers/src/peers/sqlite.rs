//! SQLite as an event store: one table by position with a unique index by stream and revision, in
//! WAL mode. One transaction is one commit; one lock keeps writers from meeting `SQLITE_BUSY`.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    EVENT_TYPE, Fallible, METADATA, Mode, PAYLOAD, Peer, Prepared, Seen, Verdict, stream_name,
};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS events (
        position INTEGER PRIMARY KEY,
        stream TEXT NOT NULL,
        revision INTEGER NOT NULL,
        type TEXT NOT NULL,
        metadata BLOB NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE UNIQUE INDEX IF NOT EXISTS streams ON events (stream, revision);";
const HEAD: &str = "SELECT max(revision) FROM events WHERE stream = ?1";

pub struct Sqlite {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl Sqlite {
    pub fn open(dir: &Path, mode: Mode) -> Fallible<Self> {
        let path = dir.join("events.sqlite");
        let connect = || -> Fallible<Connection> {
            let connection = Connection::open(&path)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            let synchronous = match mode {
                Mode::Sync => "FULL",
                Mode::Os => "OFF",
            };
            connection.pragma_update(None, "synchronous", synchronous)?;
            Ok(connection)
        };
        let writer = connect()?;
        writer.execute_batch(SCHEMA)?;
        Ok(Self { writer: Mutex::new(writer), reader: Mutex::new(connect()?) })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, streams: &[u64], expected: Option<u64>) -> Fallible<Verdict> {
        let mut connection = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO events (stream, revision, type, metadata, payload)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            let mut expected = expected;
            let metadata = [METADATA.0.as_bytes(), METADATA.1.as_bytes()].concat();
            for &stream in streams {
                let name = stream_name(stream);
                let revision = revision(&transaction, &name)?;
                if let Some(expected) = expected.take()
                    && i64::try_from(expected)? != revision
                {
                    return Ok(Verdict::Refused);
                }
                insert.execute(params![name, revision + 1, EVENT_TYPE, metadata, PAYLOAD])?;
            }
        }
        transaction.commit()?;
        Ok(Verdict::Accepted)
    }
}

fn revision(connection: &Connection, stream: &str) -> Fallible<i64> {
    let mut head = connection.prepare_cached(HEAD)?;
    Ok(head.query_row([stream], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0))
}

impl Peer for Sqlite {
    fn prepare<'a>(&'a self, streams: &'a [u64], expected: Option<u64>) -> Fallible<Prepared<'a>> {
        Ok(Box::new(move || self.commit(streams, expected)))
    }

    fn version(&self, stream: u64) -> Fallible<u64> {
        Ok(u64::try_from(revision(&self.reader(), &stream_name(stream))?)?)
    }

    fn replay(&self) -> Fallible<Option<Seen>> {
        let connection = self.reader();
        let mut seen = Seen::default();
        let mut select =
            connection.prepare_cached("SELECT payload FROM events ORDER BY position")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            seen.payload(row.get_ref(0)?.as_blob()?);
        }
        Ok(Some(seen))
    }

    fn load(&self, stream: u64) -> Fallible<Option<Seen>> {
        let connection = self.reader();
        let mut seen = Seen::default();
        let mut select = connection
            .prepare_cached("SELECT payload FROM events WHERE stream = ?1 ORDER BY revision")?;
        let mut rows = select.query([stream_name(stream)])?;
        while let Some(row) = rows.next()? {
            seen.payload(row.get_ref(0)?.as_blob()?);
        }
        Ok(Some(seen))
    }

    fn count(&self) -> Fallible<Option<u64>> {
        let newest = "SELECT position FROM events ORDER BY position DESC LIMIT 1";
        let newest = self.reader().query_row(newest, [], |row| row.get::<_, i64>(0)).optional()?;
        Ok(Some(u64::try_from(newest.unwrap_or(0))?))
    }

    fn close(self: Arc<Self>) -> Fallible<()> {
        Ok(())
    }
}
