//! What all files of SQLite have in common here.

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

/// How long to wait for other processes that write.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks for the write-ahead log, in which reading and writing do not wait for each other, and returns
/// the mode that the file is in then.
pub(crate) fn into_wal(connection: &Connection) -> rusqlite::Result<String> {
    let begun = Instant::now();
    // The way into this mode does not wait for others by itself.
    loop {
        let mode =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0));
        match mode {
            Err(error) if is_busy(&error) && begun.elapsed() < BUSY_TIMEOUT => {
                thread::sleep(Duration::from_millis(10));
            }
            mode => return mode,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let busy = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked];
    error.sqlite_error_code().is_some_and(|code| busy.contains(&code))
}
