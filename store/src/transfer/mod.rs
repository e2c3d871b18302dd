//! Whole logs as lines of JSON, each a `CloudEvents` event: out of a store, and into a new one.
//!
//! `docs/export.md` describes the lines. [`export`] writes them, `lines.rs` reads them, [`import`]
//! hands them to the writer of a store that is none before its end: see `target.rs`.

mod export;
mod import;
#[cfg(test)]
mod interrupted;
mod lines;
mod notes;
mod target;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use headwater_core::{LogId, Position, ReadError};

use crate::error::OpenError;
use crate::writer::Misplaced;

/// Version of the lines.
const VERSION: u32 = 1;
/// What the data of a line is, where it is not bytes in base64.
const JSON: &str = "application/json";
/// The lines that are no events carry this attribute.
const NOTE: &str = "headwater";
/// Progress is told after so many bytes of lines, about.
const STEP_BYTES: usize = 256 * 1024;

/// How far an export or an import has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferProgress {
    /// Events so far.
    pub events: u64,
    /// Events in all.
    pub events_total: u64,
    /// Bytes of lines so far.
    pub bytes: u64,
}

/// What an export wrote, or an import made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// The log that was exported.
    pub log: LogId,
    /// The log that was made; the same again for an export.
    pub into: LogId,
    /// The last position that had been removed from its beginning.
    pub start: Position,
    /// The last position.
    pub head: Position,
    /// How many events.
    pub events: u64,
    /// How many consumer groups.
    pub groups: u64,
    /// How many lines.
    pub lines: u64,
    /// How many bytes of lines.
    pub bytes: u64,
}

/// Why an export did not come to its end. What was written is no export: it lacks its last line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The end of the log is damaged, or the progress of its groups.
    #[error("a damaged store is not exported")]
    Damaged(#[source] OpenError),
    /// The lines could not be written.
    #[error("cannot write the export")]
    Write(#[source] io::Error),
}

/// Why an import did not come to its end. What it had made is gone again, unless the system refused
/// that too.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A line is not what an export has there.
    #[error("line {line}: {detail}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it, and what to do.
        detail: String,
    },
    /// An event does not follow those before it.
    #[error("line {line}: {fault}; export the log again")]
    Misplaced {
        /// The number of the line, from 1.
        line: u64,
        /// Why.
        fault: Misplaced,
    },
    /// The lines are of a newer version.
    #[error(
        "the export has version {found}, and this program reads up to {known}; use a newer program"
    )]
    Version {
        /// Its version.
        found: u32,
        /// The newest this program reads.
        known: u32,
    },
    /// The last line is missing.
    #[error(
        "the export was cut off behind line {lines}; copy the whole file, or export the log again"
    )]
    CutOff {
        /// How many whole lines there are.
        lines: u64,
    },
    /// The lines are not those that were exported.
    #[error(
        "the lines have the digest {found}, and were exported with {expected}; export the log again"
    )]
    Digest {
        /// The digest of the lines.
        found: String,
        /// What the last line says.
        expected: String,
    },
    /// The lines could not be read.
    #[error("cannot read the export")]
    Input(#[source] io::Error),
    /// The new store could not be made.
    #[error(transparent)]
    Target(#[from] OpenError),
    /// The disk is full.
    #[error("no space for the new store; free some and import again")]
    StorageFull(#[source] Arc<io::Error>),
    /// The system refused a write.
    #[error("cannot write the new store")]
    Write(#[source] Arc<io::Error>),
    /// The new store did not take what it should.
    #[error("cannot fill the new store")]
    Engine(#[source] Arc<dyn std::error::Error + Send + Sync>),
}

pub use import::{ImportOptions, ImportedId};
