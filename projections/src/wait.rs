//! Waiting for a reader to get somewhere.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::Position;

/// Why a wait for a position ended early. Waiting changes nothing.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The position was not reached in time. Wait again, or look at the status.
    #[error("position {position} was not reached within {timeout:?}; it is at {reached}")]
    Timeout {
        /// What was waited for.
        position: Position,
        /// How far it is.
        reached: Position,
        /// How long was waited.
        timeout: Duration,
    },
    /// It has stopped and will not get there. Remove the cause and start it again.
    #[error("position {position} will not be reached; it has stopped at {reached}")]
    Stopped {
        /// What was waited for.
        position: Position,
        /// How far it came.
        reached: Position,
        /// Why it stopped.
        #[source]
        cause: Arc<dyn Error + Send + Sync>,
    },
}
