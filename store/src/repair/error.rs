//! Why a repair was not done, or not finished.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use headwater_core::{GroupError, GroupName};

use super::RepairStep;
use crate::error::{OpenError, Remedy};

/// Why a repair was not done. Nothing was changed, unless it is
/// [`Interrupted`](Self::Interrupted).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The store cannot be repaired in this way.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The end of the log is well, and something else is not.
    #[error("the end of the log is well, and the damage is elsewhere: see `{}`", remedy.command(root))]
    Elsewhere {
        /// The directory.
        root: PathBuf,
        /// What may help there.
        remedy: Remedy,
    },
    /// Events would be lost that were acknowledged, or may have been.
    #[error(
        "this loses events that were acknowledged, or may have been; to accept that, say so (--lose-acknowledged)"
    )]
    LosesAcknowledged,
    /// There is no such segment, and no repair has taken it out.
    #[error("there is no segment {id}: the log has {}", runs(segments))]
    NoSegment {
        /// The id.
        id: u64,
        /// The ids of those that there are, as runs from the first to the last of each.
        segments: Vec<(u64, u64)>,
    },
    /// Segments lie on both sides, and only one side can stay.
    #[error(
        "segment {id} lies between others, and positions have no holes: choose which side stays (--keep older or --keep newer)"
    )]
    Between {
        /// The id.
        id: u64,
    },
    /// Nothing would be left.
    #[error("nothing would be left without segment {id}; restore the store from a backup")]
    NothingLeft {
        /// The id.
        id: u64,
    },
    /// The segment that is the end or the beginning of the log, or would become it, is damaged too.
    #[error(
        "segment {id} would be the {edge} of the log, and is damaged itself: {detail}; take it out instead"
    )]
    EdgeDamaged {
        /// The id.
        id: u64,
        /// "end" or "beginning".
        edge: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A group could not be set back.
    #[error("group {group} could not be set back")]
    Group {
        /// The group.
        group: GroupName,
        /// Why.
        source: Arc<GroupError>,
    },
    /// It was begun and not finished. Asking for the same again finishes it.
    #[error(
        "the repair stopped at step {} of {}, which may be done in part; {}; ask for the same again to finish it",
        done.len() + 1, done.len() + left.len(), before(done.len())
    )]
    Interrupted {
        /// What was done, in order, durably.
        done: Vec<RepairStep>,
        /// What was not; the first may be in part.
        left: Vec<RepairStep>,
        /// Why.
        source: Box<RepairError>,
    },
}

impl RepairError {
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { action, path, source: Arc::new(error) }
    }
}

fn before(done: usize) -> &'static str {
    if done == 0 { "nothing was done before it" } else { "those before it are done" }
}

/// Writes runs of ids for people.
fn runs(segments: &[(u64, u64)]) -> String {
    let run = |&(first, last): &(u64, u64)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    match segments {
        [] => "none".to_owned(),
        some => some.iter().map(run).collect::<Vec<_>>().join(", "),
    }
}
