//! What runs over a Headwater log: consumer groups, share groups, projections, reactors, timers.
//!
//! - A [`ConsumerGroup`] shares the events of a log among [`Member`]s: per-key or global order,
//!   leases, retries by a [`FailurePolicy`], parked sequences, and acks that survive the process.
//! - A [`ShareGroup`] is a work queue over the log: receipts, receive counts, dead letters.
//! - A [`Projection`] folds events into a read model, which a [`Sink`] holds together with the
//!   [`Checkpoint`]; [`ProjectionRunner`] runs and rebuilds it.
//! - A [`Reactor`] performs effects, driven by the members of a group; [`ReactorRunner`] runs it.
//!   Rebuilding a projection never comes near it.
//! - A [`Bridge`] forwards the events of a group to another system, its [`Target`]: an HTTP endpoint
//!   (feature `webhooks`), a broker (feature `amqp`), or one of your own.
//! - [`Requests`] sends a request and waits for its reply; a [`Responder`] answers each once.
//! - A [`GatedLog`] holds up producers that outrun a group.
//! - `SqliteSnapshots` (feature `sqlite`) keeps snapshots for `headwater-core`'s `Snapshots` in a file.
//! - [`Timers`] are events that appear in the log when it is time; [`TimerService`] lets them fire.
//!
//! Everything here meets the log only through the traits of `headwater-core`, so any engine can
//! stand in, and runs on tokio.
//!
//! # Examples
//!
//! ```
//! use std::sync::Arc;
//! use headwater_core::{Append, EventLog, EventType, GroupName, MemoryLog, NewEvent, StreamId};
//! use headwater_projections::{ConsumerGroup, GroupOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let log = Arc::new(MemoryLog::new());
//! let placed = EventType::new("order.placed")?;
//! let event = NewEvent::json(StreamId::new("order-17")?, placed, &42)?;
//! log.append(Append::new([event])).await?;
//!
//! let options = GroupOptions::new(GroupName::new("billing")?);
//! let group = ConsumerGroup::open(log, options).await?;
//! let mut member = group.join("worker-a").await?;
//! for delivery in member.next(64).await? {
//!     assert_eq!(delivery.event().decode::<u32>()?, 42);
//!     delivery.ack();
//! }
//! member.commit().await?;
//! group.close().await?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod batch;
mod bridge;
mod build;
mod checkpoint;
mod clock;
mod commits;
mod drift;
mod gate;
mod group;
#[cfg(feature = "sqlite")]
mod journal;
mod lag;
mod meters;
mod panic;
mod process;
mod projection;
mod reactor;
mod replay;
mod request;
mod retry;
mod runner;
mod sink;
#[cfg(feature = "sqlite")]
mod snapshots;
#[cfg(feature = "sqlite")]
mod sqlite;
mod timer;
mod wait;

/// Goes on implementations of [`Reactor`], as `#[async_trait]`: the attribute of the crate of this
/// name, in a version that fits.
pub use async_trait::async_trait;
pub use batch::{BatchError, BatchItem, BatchOptions, BatchReactor, BatchRunner};
#[cfg(feature = "amqp")]
pub use bridge::amqp;
#[cfg(feature = "webhooks")]
pub use bridge::webhook;
pub use bridge::{
    Bridge, BridgeFailure, BridgeHandle, BridgeOptions, BridgePhase, BridgeStatus, BridgeStop,
    Message, SendError, Target,
};
#[cfg(feature = "sqlite")]
pub use build::SqliteBuilds;
pub use build::{
    BuildError, BuildId, Builds, InvalidBuildId, LiveView, MemoryBuilds, PromoteError,
    RunningBuild, StartBuildError,
};
pub use checkpoint::{Checkpoint, CheckpointMismatch, ProjectionId};
pub use clock::{Clock, SystemClock};
#[cfg(feature = "sqlite")]
pub use drift::SqliteAudit;
pub use drift::{
    Audit, Difference, Differences, DriftError, DriftOptions, DriftReport, Extent, MemoryAudit,
    check_drift,
};
pub use gate::{GatedLog, HighWater, Level, Overflow};
pub use group::{
    ConsumerError, ConsumerGroup, Delivery, FailurePolicy, GroupCounts, GroupOptions, GroupPhase,
    GroupStatus, Hopeless, IdempotencyKey, Member, MemberStatus, Receipt, ReceiptError, Received,
    Run, Settlement, ShareGroup, ShareOptions, WorkerStatus,
};
#[cfg(feature = "sqlite")]
pub use journal::SqliteJournal;
pub use lag::Lag;
pub use process::{Managing, ProcessError, ProcessManager, Reaction};
pub use projection::{ApplyError, Projection};
pub use reactor::{
    ReactError, Reactor, ReactorFailure, ReactorHandle, ReactorOptions, ReactorPhase,
    ReactorRunner, ReactorStatus, ReactorStop,
};
pub use replay::{Replay, ReplayError, ReplayOptions, Replayed};
pub use request::{
    Answer, REPLY_STATUS, REPLY_TO, Reply, RequestError, Requests, Responder, Responding,
    SentRequest,
};
pub use retry::Backoff;
pub use runner::{
    Begin, Progress, ProjectionHandle, ProjectionRunner, ProjectionStatus, RebuildError,
    RunnerOptions, StartError, StopCause,
};
/// SQLite as [`SqliteSink`] has it: its types are those that a [`SqliteTx`] takes and returns.
#[cfg(feature = "sqlite")]
#[doc(no_inline)]
pub use rusqlite;
pub use sink::{MemorySink, MemoryTx, MemoryView, Sink, SinkError};
#[cfg(feature = "sqlite")]
pub use sink::{SqliteSink, SqliteTx};
#[cfg(feature = "sqlite")]
pub use snapshots::{SnapshotFileError, SqliteSnapshots};
pub use timer::{Missed, NewTimer, Timer, TimerError, TimerService, Timers};
pub use wait::WaitError;
