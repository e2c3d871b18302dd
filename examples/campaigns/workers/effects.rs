//! What a member writes down of what it does: an effect, before it is acknowledged; that it was
//! committed, after the log has said so.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use headwater::Generation;

/// How long an entry is.
const LEN: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An event had its effect.
    Effect,
    /// An acknowledgement was committed.
    Committed,
    /// A commit was refused, since others have the slots.
    Lost,
    /// A commit failed and was tried again.
    Stalled,
}

const KINDS: [Kind; 4] = [Kind::Effect, Kind::Committed, Kind::Lost, Kind::Stalled];

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) key: u32,
    /// Which event of its key, from 1.
    pub(super) number: u64,
    /// Under which ownership.
    pub(super) generation: Generation,
}

impl Entry {
    pub(super) fn of(kind: Kind) -> Self {
        Self { kind, key: 0, number: 0, generation: Generation::default() }
    }
}

/// The entries of one process.
pub(super) struct Effects(File);

impl Effects {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        File::create_new(path).map(Self)
    }

    /// Writes entries with one call: what it has returned from outlives the process.
    pub(super) fn write(&mut self, entries: impl Iterator<Item = Entry>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.extend((entry.kind as u32).to_le_bytes());
            bytes.extend(entry.key.to_le_bytes());
            bytes.extend(entry.number.to_le_bytes());
            bytes.extend(entry.generation.get().to_le_bytes());
        }
        self.0.write_all(&bytes)
    }
}

/// Reads what a process has written; its last entry may have been cut off.
pub(super) fn read(path: &Path) -> Result<Vec<Entry>, Box<dyn Error>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    bytes.chunks_exact(LEN).map(|bytes| entry(bytes).ok_or_else(|| "no entry".into())).collect()
}

fn entry(bytes: &[u8]) -> Option<Entry> {
    let short = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    Some(Entry {
        kind: *KINDS.get(usize::try_from(short(0)?).ok()?)?,
        key: short(4)?,
        number: long(8)?,
        generation: Generation::new(long(16)?),
    })
}
