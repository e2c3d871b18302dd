//! What a bridge says about itself, and why it may have stopped.

use std::sync::Arc;

use headwater_core::{Position, Timestamp};

use super::SendError;
use crate::group::ConsumerError;

/// Why a bridge stopped. What was forwarded and committed stays; the rest comes again when it is
/// started anew.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BridgeStop {
    /// It was shut down.
    #[error("the bridge was shut down")]
    Shutdown,
    /// Its target panicked. Fix the target.
    #[error("the target of the bridge panicked at position {position}: {message}")]
    Panicked {
        /// Where the event stands.
        position: Position,
        /// What the panic said.
        message: String,
    },
    /// Its group does not go on.
    #[error("the bridge's group stopped")]
    Group(#[source] ConsumerError),
    /// The runtime that it ran on is gone.
    #[error("the runtime under the bridge was shut down")]
    Runtime,
}

/// What a bridge is doing.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum BridgePhase {
    /// It forwards what its group delivers.
    #[default]
    Running,
    /// Its target is unavailable, or refused many events in a row. It sends nothing for a while,
    /// then one event to try. No event loses an attempt by waiting.
    Waiting {
        /// When it tries again, by the system's clock.
        until: Timestamp,
        /// What the target said last.
        cause: SendError,
    },
    /// It does nothing any more.
    Stopped {
        /// Why.
        cause: Arc<BridgeStop>,
    },
}

/// An event that was not forwarded.
#[derive(Clone, Debug)]
pub struct BridgeFailure {
    /// Where it stands.
    pub position: Position,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// What the target said.
    pub error: SendError,
}

/// A bridge at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BridgeStatus {
    /// What it is doing.
    pub phase: BridgePhase,
    /// How many events it forwarded.
    pub forwarded: u64,
    /// How many attempts failed.
    pub failed: u64,
    /// How many events the target refused for good.
    pub refused: u64,
    /// How many times the target could not be asked.
    pub unavailable: u64,
    /// The last event that was not forwarded.
    pub last_failure: Option<BridgeFailure>,
}

impl BridgeStatus {
    /// Changes what it is doing, unless it has stopped.
    pub(super) fn enter(&mut self, phase: BridgePhase) {
        if !matches!(self.phase, BridgePhase::Stopped { .. }) {
            self.phase = phase;
        }
    }
}
