//! What runs over a Headwater log: consumer groups, projections and reactors.
//!
//! It meets the log only through the traits of `headwater-core`, so every engine can stand in.

#![forbid(unsafe_code)]

mod checkpoint;
mod group;
mod lag;
mod panic;
mod projection;
mod reactor;
mod retry;
mod runner;
mod sink;
mod wait;

pub use checkpoint::{Checkpoint, CheckpointMismatch, ProjectionId};
pub use group::{
    ConsumerError, ConsumerGroup, Delivery, GroupOptions, GroupPhase, GroupStatus, IdempotencyKey,
    Member, MemberStatus, Settlement,
};
pub use lag::Lag;
pub use projection::{ApplyError, Projection};
pub use reactor::{
    ReactError, Reactor, ReactorFailure, ReactorHandle, ReactorOptions, ReactorPhase,
    ReactorRunner, ReactorStatus, ReactorStop,
};
pub use retry::Backoff;
pub use runner::{
    Begin, Progress, ProjectionHandle, ProjectionRunner, ProjectionStatus, RunnerOptions,
    StartError, StopCause,
};
pub use sink::{MemorySink, MemoryTx, MemoryView, Sink, SinkError};
#[cfg(feature = "sqlite")]
pub use sink::{SqliteSink, SqliteTx};
pub use wait::WaitError;
