//! The ledger of what was removed: the file `LEDGER`, a line of JSON for each removal.

use std::io;
use std::path::Path;

use headwater_core::{GroupName, Position, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fs::{Access, Fs, read_file, write_file};
use crate::planted::{Bug, planted};
use crate::retention::Cutoff;

pub(crate) const FILE_NAME: &str = "LEDGER";

/// One removal from the beginning of the log.
///
/// It is written before the removal takes effect. If a crash comes between, the next removal
/// stands in the ledger again with what it removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// When it was decided.
    pub at: Timestamp,
    /// The first position that was removed.
    pub first: Position,
    /// The last position that was removed: the log starts after it.
    pub through: Position,
    /// How many segments.
    pub segments: u64,
    /// How many bytes their files had.
    pub bytes: u64,
    /// Why.
    pub cutoff: Cutoff,
    /// The groups that had not read everything of it, and how far each was. Not empty only where
    /// the removal was forced.
    pub passed: Vec<(GroupName, Position)>,
    /// A repair took the segments out, since one was damaged: copies are in `quarantine/`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantined: bool,
}

/// Adds a line, durably.
pub(crate) fn add(fs: &dyn Fs, root: &Path, removal: &Removal) -> io::Result<()> {
    let path = root.join(FILE_NAME);
    let (file, is_new) = match fs.open(&path, Access::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (fs.open(&path, Access::CreateNew)?, true)
        }
        file => (file?, false),
    };
    let size = file.size()?;
    let mut line = Vec::new();
    let mut last = [b'\n'];
    if size > 0 {
        file.read_at(&mut last, size - 1)?;
    }
    if last != [b'\n'] {
        // A crash tore the line before.
        line.push(b'\n');
    }
    serde_json::to_writer(&mut line, removal).map_err(io::Error::other)?;
    line.push(b'\n');
    file.write_at(&line, size)?;
    if !planted(Bug::LedgerWithoutSync) {
        file.sync()?;
    }
    if is_new { fs.sync_dir(root) } else { Ok(()) }
}

/// Writes the ledger of a log that comes from elsewhere.
pub(crate) fn create(fs: &dyn Fs, root: &Path, removals: &[Removal]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for removal in removals {
        serde_json::to_writer(&mut bytes, removal).map_err(io::Error::other)?;
        bytes.push(b'\n');
    }
    write_file(fs, root, FILE_NAME, &bytes)
}

/// Reads the ledger, oldest first. A line that a crash tore is left out: what it says did not
/// happen.
pub(crate) fn read(fs: &dyn Fs, root: &Path) -> io::Result<Vec<Removal>> {
    read_lines(fs, root).map(|(_, removals)| removals)
}

/// Reads the ledger, and how many of its lines are torn.
pub(crate) fn read_lines(fs: &dyn Fs, root: &Path) -> io::Result<(usize, Vec<Removal>)> {
    let bytes = match read_file(fs, &root.join(FILE_NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, Vec::new())),
        bytes => bytes?,
    };
    Ok(parse(&bytes))
}

/// Reads lines, and how many of them are torn.
pub(crate) fn parse(bytes: &[u8]) -> (usize, Vec<Removal>) {
    let lines = || bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let removals: Vec<Removal> =
        lines().filter_map(|line| serde_json::from_slice(line).ok()).collect();
    (lines().count() - removals.len(), removals)
}
