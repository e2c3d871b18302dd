#![doc = include_str!("../README.md")]
//!
//! # Where to begin
//!
//! [`Store`] opens a directory. [`EventLog`] is what it can do, [`Append`] and [`Read`] what it is
//! asked for. [`Event`], [`Decider`] and [`execute`] are for domain code, and a [`Registry`] says
//! whether a log holds what the program can read; [`projections`] holds consumer groups, projections
//! and reactors. [`MemoryLog`] is the same log in memory, for tests.

#![forbid(unsafe_code)]

pub use headwater_core::*;
#[cfg(feature = "projections")]
pub use headwater_projections as projections;
pub use headwater_store::{
    BackupError, BackupProgress, BackupReport, Changes, CloseError, Cut, Cutoff, Detail, DumpItem,
    DumpOptions, Effort, EventRef, ExportError, Fault, Follower, ImportError, ImportOptions,
    ImportedId, Keep, Loss, Lost, Misplaced, OpenError, OpenMode, Options, Passing, Preallocation,
    ProgressFn, Quarantined, ReadOnlyStore, RecoveryReport, Remedy, Removal, Repair, RepairError,
    RepairReport, RepairStep, Retention, RetentionError, RetentionReport, Scan, SegmentSummary,
    Severity, Store, TransferProgress, Transferred, Unreadable, VerifyDepth, VerifyOptions,
    VerifyReport, backup, dump, repair, restore, verify,
};

/// The snippets of the guide to events.
#[cfg(all(doctest, feature = "derive"))]
#[doc = include_str!("../docs/events.md")]
mod events {}

/// The snippets of the guide to decisions.
#[cfg(all(doctest, feature = "derive", feature = "sqlite"))]
#[doc = include_str!("../docs/deciding.md")]
mod deciding {}

/// The snippets of the guide to replaying.
#[cfg(all(doctest, feature = "projections"))]
#[doc = include_str!("../docs/replay.md")]
mod replay {}
