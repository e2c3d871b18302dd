//! Where read models live.

mod memory;
mod snapshot;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use headwater_core::Position;

pub use self::memory::{MemorySink, MemoryTx, MemoryView};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteSink, SqliteTx};
use crate::checkpoint::{Checkpoint, ProjectionId};

/// Holds a read model and its checkpoint, and changes both in one transaction.
///
/// Its methods may block: the runner calls them on threads made for that.
///
/// # Guarantees an implementation gives
///
/// - What [`commit`](Self::commit) returned `Ok` for is there as a whole, data and checkpoint
///   alike. A sink may lose its newest transactions in a crash, but never a part of one.
/// - A dropped transaction has changed nothing.
/// - Where two runners can have the same read model at a time, such as in a file, a transaction
///   goes through only if the stored checkpoint is the one that this sink last loaded or
///   committed, compared where nobody else can commit in between. Otherwise it is
///   [`SinkError::Overtaken`]: what the runner would apply may be applied already. Only
///   [`begin_anew`](Self::begin_anew) takes over whatever is stored.
pub trait Sink: Sized + Send + 'static {
    /// A transaction, rolled back when dropped. Projections write through it.
    type Tx<'a>;

    /// Returns the checkpoint of the projection with this name, or `None` if there is none.
    ///
    /// A sink whose content is only a cache may return `None` for a checkpoint that does not
    /// fit `id` or lies beyond `head`, and then begins empty. Others return what they have, and
    /// the runner refuses it. A sink with room for a single read model returns its checkpoint even
    /// if it is another projection's: after `None` the two would mix.
    ///
    /// # Errors
    ///
    /// [`SinkError`] if the sink cannot be read.
    fn load(&mut self, id: &ProjectionId, head: Position) -> Result<Option<Checkpoint>, SinkError>;

    /// Begins a transaction that goes on from the checkpoint last loaded or committed.
    ///
    /// # Errors
    ///
    /// [`SinkError`] if the sink cannot be written, [`SinkError::Overtaken`] if another runner
    /// has moved the read model; nothing was changed.
    fn begin(&mut self) -> Result<Self::Tx<'_>, SinkError>;

    /// Begins a transaction that will empty the read model, whatever checkpoint it has and
    /// whether or not that was loaded.
    ///
    /// A sink that nobody shares need not tell the two apart, and does not unless it says so.
    ///
    /// # Errors
    ///
    /// [`SinkError`] if the sink cannot be written; nothing was changed.
    fn begin_anew(&mut self) -> Result<Self::Tx<'_>, SinkError> {
        self.begin()
    }

    /// Commits a transaction together with the checkpoint.
    ///
    /// # Errors
    ///
    /// [`SinkError`] if that failed; nothing was changed.
    fn commit(tx: Self::Tx<'_>, checkpoint: &Checkpoint) -> Result<(), SinkError>;

    /// Writes down what is only in memory. Called now and then, and before the runner stops.
    ///
    /// # Errors
    ///
    /// [`SinkError`] if that failed; what was committed stays committed.
    fn flush(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Why a sink failed. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// A file could not be read or written. Look at the path's permissions and space.
    #[error("{action} {path} failed")]
    File {
        /// What was being done, such as "writing".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// What is stored is not what a sink writes. Restore the file, or delete it and rebuild.
    #[error("{path} is damaged: {detail}; restore it, or delete it and rebuild")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Another runner has committed to the read model since this one last did. Run one of them
    /// at a time; started again, this one goes on from what is stored.
    #[error(
        "another runner moved this read model of {projection} from {} to {}; run one at a time and start this one again",
        describe(.expected.as_deref()), describe(.found.as_deref())
    )]
    Overtaken {
        /// The projection.
        projection: String,
        /// The checkpoint that this sink last loaded or committed.
        expected: Option<Box<Checkpoint>>,
        /// The checkpoint that is stored.
        found: Option<Box<Checkpoint>>,
    },
    /// The sink's own engine failed.
    #[error("{action} failed in the read model's engine")]
    Engine {
        /// What was being done, such as "committing".
        action: &'static str,
        /// What the engine said.
        source: Arc<dyn Error + Send + Sync>,
    },
}

fn describe(checkpoint: Option<&Checkpoint>) -> String {
    checkpoint.map_or("no checkpoint".to_owned(), |Checkpoint { id, position, .. }| {
        format!("position {position} of version {}", id.version)
    })
}

impl SinkError {
    /// Wraps what a sink's engine said.
    pub fn engine(action: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Engine { action, source: Arc::new(source) }
    }
}
