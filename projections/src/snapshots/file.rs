//! What is in the file: rows within a bound, of which the oldest go.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use headwater_core::SnapshotKey;
use rusqlite::config::DbConfig;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::SnapshotFileError;
use crate::sqlite::{BUSY_TIMEOUT, into_wal};

/// `HWS1`, in the header of the file: what it is, and its format.
pub(super) const APPLICATION_ID: i32 = 0x4857_5331;
/// Where it stands in the header.
const APPLICATION_ID_AT: usize = 68;

/// Rows are numbered as they are written, and the lowest goes first.
const SCHEMA: &str = "CREATE TABLE snapshots
    (written INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, snapshot BLOB NOT NULL) STRICT";
const LOAD: &str = "SELECT snapshot FROM snapshots WHERE key = ?1";
const SAVE: &str = "INSERT INTO snapshots (key, snapshot) VALUES (?1, ?2)";
const FORGET: &str = "DELETE FROM snapshots WHERE key = ?1";
const FORGET_OLDEST: &str =
    "DELETE FROM snapshots WHERE written = (SELECT min(written) FROM snapshots)";

const PAGE_BYTES: u64 = 4096;
/// What a page of a long row holds at least.
const PAGE_CONTENT_BYTES: u64 = 4000;
/// Pages that a row may take beside its own: it and its key may split a page each, and these their
/// parents.
const PAGES_BESIDE: u64 = 6;
/// What an empty file has.
const PAGES_MIN: u64 = 3;
/// The write-ahead log is cut to this when it begins anew.
pub(super) const WAL_BYTES: u64 = 4 * 1024 * 1024;

/// Finds a snapshot.
pub(super) fn read(connection: &Connection, key: SnapshotKey) -> rusqlite::Result<Option<Bytes>> {
    let row = connection
        .prepare_cached(LOAD)?
        .query_row([key.as_bytes()], |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?)));
    row.optional()
}

/// Writes snapshots in one transaction.
pub(super) fn write(
    connection: &mut Connection,
    saves: &[(SnapshotKey, Bytes)],
    bytes_max: u64,
) -> rusqlite::Result<()> {
    let pages_max = bytes_max / PAGE_BYTES;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (key, snapshot) in saves {
        tx.prepare_cached(FORGET)?.execute([key.as_bytes()])?;
        let needed = (snapshot.len() as u64).div_ceil(PAGE_CONTENT_BYTES) + PAGES_BESIDE;
        if make_room(&tx, needed, pages_max)? {
            tx.prepare_cached(SAVE)?.execute(params![key.as_bytes(), &snapshot[..]])?;
        }
    }
    tx.commit()
}

/// Forgets the oldest until there is room for so many pages. Returns whether there ever will be.
fn make_room(tx: &Transaction<'_>, needed: u64, pages_max: u64) -> rusqlite::Result<bool> {
    if needed + PAGES_MIN > pages_max {
        return Ok(false);
    }
    while used_pages(tx)? + needed > pages_max {
        if tx.prepare_cached(FORGET_OLDEST)?.execute([])? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn used_pages(connection: &Connection) -> rusqlite::Result<u64> {
    Ok(pages(connection, "page_count")?.saturating_sub(pages(connection, "freelist_count")?))
}

fn pages(connection: &Connection, of: &str) -> rusqlite::Result<u64> {
    connection.pragma_query_value(None, of, |row| row.get(0))
}

/// Forgets everything, and leaves no bytes of it in the file and its log.
pub(super) fn clear(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM snapshots", [])?;
    shrink(connection)
}

/// Gives back what is free.
pub(super) fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("VACUUM")?;
    let busy = "PRAGMA wal_checkpoint(TRUNCATE)";
    if connection.query_row(busy, [], |row| row.get(0))? {
        // Somebody reads what was there before.
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        let detail = "others are reading the file".to_owned();
        return Err(rusqlite::Error::SqliteFailure(busy, Some(detail)));
    }
    Ok(())
}

/// Opens a file for writing and for reading, and begins with an empty one where it is damaged.
pub(super) fn open_or_renew(
    path: &Path,
    bytes_max: u64,
) -> Result<(Connection, Connection), SnapshotFileError> {
    match open(path, bytes_max) {
        Err(SnapshotFileError::Open { source, .. }) if is_unusable(&source) => {
            if is_ours(path).map_err(failed(path))? {
                return renew(path, bytes_max);
            }
            Err(SnapshotFileError::Foreign { path: path.to_owned() })
        }
        opened => opened,
    }
}

/// Puts an empty file in the place of a damaged one.
pub(super) fn renew(
    path: &Path,
    bytes_max: u64,
) -> Result<(Connection, Connection), SnapshotFileError> {
    tracing::warn!(path = %path.display(), "a damaged file of snapshots is replaced by an empty one");
    remove(path).map_err(failed(path))?;
    open(path, bytes_max)
}

fn open(path: &Path, bytes_max: u64) -> Result<(Connection, Connection), SnapshotFileError> {
    let opened = || {
        let (mut writer, reader) = (Connection::open(path)?, Connection::open(path)?);
        for connection in [&writer, &reader] {
            // Closing would remove the write-ahead log by its name, which may be that of a file that has
            // taken the place of ours.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        writer.busy_timeout(BUSY_TIMEOUT)?;
        // Reading all events is better than waiting here.
        reader.busy_timeout(Duration::ZERO)?;
        writer.pragma_update(None, "synchronous", "normal")?;
        let ours = create(&mut writer)?;
        if ours {
            limit(&mut writer, bytes_max / PAGE_BYTES)?;
        }
        Ok(ours.then_some((writer, reader)))
    };
    let opened =
        opened().map_err(|source| SnapshotFileError::Open { path: path.to_owned(), source })?;
    opened.ok_or_else(|| SnapshotFileError::Foreign { path: path.to_owned() })
}

/// Makes the table of a new file. Returns whether the file is one of snapshots.
fn create(connection: &mut Connection) -> rusqlite::Result<bool> {
    let id = |connection: &Connection| {
        connection.pragma_query_value(None, "application_id", |row| row.get::<_, i32>(0))
    };
    let tables = "SELECT count(*) FROM sqlite_schema";
    let is_new = |connection: &Connection| -> rusqlite::Result<bool> {
        let tables: u64 = connection.query_row(tables, [], |row| row.get(0))?;
        Ok(tables == 0 && id(connection)? == 0)
    };
    if is_new(connection)? {
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        into_wal(connection)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Somebody else may have come first.
        if is_new(&tx)? {
            tx.execute_batch(SCHEMA)?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.commit()?;
        }
    }
    Ok(id(connection)? == APPLICATION_ID)
}

/// Sees that the file stays below its bound.
fn limit(connection: &mut Connection, pages_max: u64) -> rusqlite::Result<()> {
    if pages(connection, "page_count")? > pages_max {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        make_room(&tx, 0, pages_max)?;
        tx.commit()?;
        shrink(connection)?;
    }
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    connection.pragma_update(None, "max_page_count", pages_max)
}

/// Returns whether it is the content of a file that is in the way, and neither others nor the system.
pub(super) fn is_unusable(error: &rusqlite::Error) -> bool {
    let others = [
        ErrorCode::CannotOpen,
        ErrorCode::DatabaseBusy,
        ErrorCode::DatabaseLocked,
        ErrorCode::DiskFull,
        ErrorCode::FileLockingProtocolFailed,
        ErrorCode::OutOfMemory,
        ErrorCode::PermissionDenied,
        ErrorCode::ReadOnly,
        ErrorCode::SystemIoFailure,
    ];
    error.sqlite_error_code().is_none_or(|code| !others.contains(&code))
}

/// Returns whether a file says that it is one of snapshots, damaged as it may be.
fn is_ours(path: &Path) -> io::Result<bool> {
    let mut header = Vec::new();
    File::open(path)?.take(100).read_to_end(&mut header)?;
    let id = header.get(APPLICATION_ID_AT..APPLICATION_ID_AT + 4);
    Ok(id == Some(&APPLICATION_ID.to_be_bytes()[..]))
}

/// Removes a file with what SQLite keeps beside it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        match fs::remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SnapshotFileError {
    |source| SnapshotFileError::Io { path: path.to_owned(), source }
}
