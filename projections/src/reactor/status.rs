//! What a reactor says about itself, and why it may have stopped.

use std::error::Error;
use std::sync::Arc;

use headwater_core::Position;

use crate::group::ConsumerError;

/// Why a reactor stopped. What was reacted to and committed stays; the rest comes again when it
/// is started anew.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReactorStop {
    /// It was shut down.
    #[error("the reactor was shut down")]
    Shutdown,
    /// It panicked. Fix the reactor.
    #[error("the reactor panicked at position {position}: {message}")]
    Panicked {
        /// Where the event stands.
        position: Position,
        /// What the panic said.
        message: String,
    },
    /// Its group does not go on.
    #[error("the reactor's group stopped")]
    Group(#[source] ConsumerError),
    /// The runtime that it ran on is gone.
    #[error("the runtime under the reactor was shut down")]
    Runtime,
}

/// What a reactor is doing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ReactorPhase {
    /// It reacts to what its group delivers.
    #[default]
    Running,
    /// It does nothing any more.
    Stopped {
        /// Why.
        cause: Arc<ReactorStop>,
    },
}

/// A reaction that failed.
#[derive(Clone, Debug)]
pub struct ReactorFailure {
    /// Where the event stands.
    pub position: Position,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// What the reactor said.
    pub error: Arc<dyn Error + Send + Sync>,
}

/// A reactor at one moment.
#[derive(Clone, Debug, Default)]
pub struct ReactorStatus {
    /// What it is doing.
    pub phase: ReactorPhase,
    /// How many events it reacted to.
    pub reacted: u64,
    /// How many reactions failed.
    pub failed: u64,
    /// The last one that failed.
    pub last_failure: Option<ReactorFailure>,
}

impl ReactorStatus {
    /// Notes why it stopped, unless it has stopped already.
    pub(crate) fn stop(&mut self, cause: &Arc<ReactorStop>) {
        if matches!(self.phase, ReactorPhase::Running) {
            self.phase = ReactorPhase::Stopped { cause: Arc::clone(cause) };
        }
    }
}
