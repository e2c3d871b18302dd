//! The directory of a run: what is in it, and whose it is.
//!
//! A marker says that the directory is this program's, and which file of orders it belongs to.
//! It is locked while a run lives, and it is the first thing to come and the last to change: a
//! run that is killed while it starts over is found out by it, and started over again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::rows::OrderFile;

const MARKER: &str = "orders-example.txt";
const LOG: &str = "log";
const OUTBOX: &str = "outbox.ndjson";
const READ_MODEL: &str = "loyalty.sqlite";
const REPORT: &str = "report.txt";
/// All that a run may leave beside its marker, in the order of removal.
const CONTENT: [&str; 8] = [
    REPORT,
    "report.txt.new",
    READ_MODEL,
    "loyalty.sqlite-journal",
    "loyalty.sqlite-wal",
    "loyalty.sqlite-shm",
    OUTBOX,
    LOG,
];
/// What the marker says while its directory is emptied.
const EMPTYING: &str = "headwater example orders: emptying\n";

/// The directory of this run, and of no other while the value lives.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    /// Held for its lock.
    _marker: File,
}

impl Home {
    /// Takes a directory for the orders of `file`, empties it first if `fresh`.
    ///
    /// # Errors
    ///
    /// If it holds anything that is not this program's, belongs to other orders (unless
    /// `fresh`), or another run has it. Nothing was changed then.
    pub(crate) fn open(path: &Path, fresh: bool, file: &OrderFile) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let marker_path = path.join(MARKER);
        let strangers = strangers(path)?;
        if let Some(stranger) = strangers.first() {
            return refuse(path, &format!("holds {stranger}, which is not of this program"));
        }
        if !marker_path.exists() && fs::read_dir(path)?.next().is_some() {
            return refuse(path, &format!("is not empty and has no {MARKER}"));
        }
        let mut marker = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(marker_path)?;
        match marker.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return refuse(path, "is in use by another run"),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut found = String::new();
        marker.read_to_string(&mut found)?;
        let wanted = format!(
            "headwater example orders: {} orders, crc32 {:08x}\n",
            file.rows.len(),
            file.crc32
        );
        if found != wanted {
            // An empty marker is one whose run was killed before it wrote any.
            let over = fresh || found.is_empty() || found == EMPTYING;
            if !over {
                return refuse(path, "belongs to other orders; choose another, or use --fresh");
            }
        }
        if fresh || found != wanted {
            write(&mut marker, EMPTYING)?;
            CONTENT.iter().try_for_each(|name| remove(&path.join(name)))?;
            write(&mut marker, &wanted)?;
        }
        Ok(Self { path: path.to_owned(), _marker: marker })
    }

    /// Returns where the event log is.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Returns where the confirmations go.
    pub(crate) fn outbox(&self) -> PathBuf {
        self.path.join(OUTBOX)
    }

    /// Returns where the read model is.
    pub(crate) fn read_model(&self) -> PathBuf {
        self.path.join(READ_MODEL)
    }

    /// Replaces the report in one step.
    ///
    /// # Errors
    ///
    /// If it cannot be written; an older report is still there.
    pub(crate) fn write_report(&self, text: &str) -> io::Result<()> {
        let (new, report) = (self.path.join("report.txt.new"), self.path.join(REPORT));
        fs::write(&new, text)?;
        fs::rename(new, report)
    }
}

fn refuse<T>(path: &Path, why: &str) -> io::Result<T> {
    Err(io::Error::other(format!("directory {} {why}", path.display())))
}

/// Returns the names of all that no run leaves behind.
fn strangers(path: &Path) -> io::Result<Vec<String>> {
    let mut strangers = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != MARKER && !CONTENT.contains(&name.as_str()) {
            strangers.push(name);
        }
    }
    strangers.sort();
    Ok(strangers)
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn write(marker: &mut File, text: &str) -> io::Result<()> {
    marker.seek(SeekFrom::Start(0))?;
    marker.set_len(0)?;
    marker.write_all(text.as_bytes())?;
    marker.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(text: &str) -> OrderFile {
        OrderFile::parse(text.as_bytes())
    }

    #[test]
    fn nothing_is_removed_that_a_run_did_not_leave() {
        let dir = tempfile::tempdir().unwrap();
        let file = orders("1 19970101 1 1.00");
        fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
        assert!(Home::open(dir.path(), true, &file).is_err());
        fs::rename(dir.path().join("thesis.tex"), dir.path().join(LOG)).unwrap();
        assert!(Home::open(dir.path(), true, &file).is_err(), "the name alone says nothing");
        fs::remove_file(dir.path().join(LOG)).unwrap();
        drop(Home::open(dir.path(), false, &file).unwrap());
        fs::write(dir.path().join(LOG), "an old log").unwrap();
        drop(Home::open(dir.path(), false, &file).unwrap());
        assert!(dir.path().join(LOG).exists(), "a second run resumes");
        drop(Home::open(dir.path(), true, &file).unwrap());
        assert!(!dir.path().join(LOG).exists());
    }

    #[test]
    fn a_directory_belongs_to_one_file_and_one_run() {
        let dir = tempfile::tempdir().unwrap();
        let file = orders("1 19970101 1 1.00");
        let home = Home::open(dir.path(), false, &file).unwrap();
        assert!(Home::open(dir.path(), false, &file).is_err(), "it is in use");
        drop(home);
        let other = orders("1 19970101 1 2.00");
        assert!(Home::open(dir.path(), false, &other).is_err());
        assert!(Home::open(dir.path(), true, &other).is_ok());
    }

    #[test]
    fn a_run_that_was_killed_while_it_emptied_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARKER), EMPTYING).unwrap();
        fs::write(dir.path().join(READ_MODEL), "of a log that is gone").unwrap();
        drop(Home::open(dir.path(), false, &orders("1 19970101 1 1.00")).unwrap());
        assert!(!dir.path().join(READ_MODEL).exists());
    }

    #[test]
    fn whatever_sqlite_leaves_when_it_is_killed_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = orders("1 19970101 1 1.00");
        drop(Home::open(dir.path(), false, &file).unwrap());
        for suffix in ["", "-journal", "-wal", "-shm"] {
            fs::write(dir.path().join(format!("{READ_MODEL}{suffix}")), "").unwrap();
        }
        drop(Home::open(dir.path(), false, &file).unwrap());
        drop(Home::open(dir.path(), true, &file).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "only the marker is left");
    }
}
