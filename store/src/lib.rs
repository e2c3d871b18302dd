//! The embedded append-only log of Headwater.
//!
//! [`Store`] is a directory with one writer: segments of frames, group commit, conditional and
//! idempotent appends, mapped readers, consumer groups' offsets, and a recovery that cuts only
//! what was never acknowledged. [`ReadOnlyStore`] reads such a directory from elsewhere. Both
//! speak the vocabulary of [`headwater_core`]; [`Store`] implements its traits.
//!
//! `docs/format.md` describes every byte, `docs/guarantees.md` every promise.

#![deny(unsafe_code)]

mod backup;
mod catalog;
mod changes;
mod dump;
mod error;
mod follower;
mod format;
mod fs;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod handle;
mod index;
mod ledger;
mod log;
mod mark;
#[expect(unsafe_code, reason = "the only place that maps files; its invariants are numbered")]
mod mmap;
mod offsets;
mod open;
mod options;
mod planted;
mod read_only;
mod recovery;
mod repair;
mod retention;
mod scan;
mod search;
mod seek;
mod segment;
mod segments;
mod source;
mod sync;
mod tail;
mod tails;
#[cfg(test)]
mod tests;
mod transfer;
mod types;
mod verify;
mod view;
mod writer;

pub use backup::{BackupError, BackupProgress, BackupReport, backup, restore};
pub use changes::Changes;
pub use dump::{Detail, DumpItem, DumpOptions, dump};
pub use error::{CloseError, OpenError, Remedy};
pub use follower::Follower;
pub use handle::Store;
pub use ledger::Removal;
pub use log::Cut;
pub use open::RecoveryReport;
pub use options::{OpenMode, Options, Preallocation};
pub use read_only::{ReadOnlyStore, SegmentSummary};
pub use repair::{
    Effort, Keep, Loss, Lost, Repair, RepairError, RepairReport, RepairStep, Unreadable, repair,
};
pub use retention::{Cutoff, Passing, Retention, RetentionError, RetentionReport};
pub use scan::{EventRef, Scan};
pub use transfer::{
    ExportError, ImportError, ImportOptions, ImportedId, TransferProgress, Transferred,
};
pub use verify::{
    Fault, ProgressFn, Quarantined, Severity, VerifyDepth, VerifyOptions, VerifyReport, verify,
};
pub use writer::Misplaced;
