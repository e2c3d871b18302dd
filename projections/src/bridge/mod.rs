//! Bridges: the events of a group, forwarded to another system at least once.
//!
//! [`drive`] takes events and settles them, [`circuit`] says when the target may be asked; the
//! targets are in folders of their own. Read `drive` first.

#[cfg(feature = "amqp")]
pub mod amqp;
mod circuit;
mod drive;
mod error;
mod status;
#[cfg(feature = "webhooks")]
pub mod webhook;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headwater_core::{CloudEvent, Position, RecordedEvent};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use self::circuit::Circuit;
use self::drive::Drive;
pub use self::error::SendError;
pub use self::status::{BridgeFailure, BridgePhase, BridgeStatus, BridgeStop};
use crate::commits::Commits;
use crate::group::{ConsumerError, ConsumerGroup, IdempotencyKey};
use crate::meters::BridgeMeters;
use crate::retry::Backoff;
use crate::wait::WaitError;

/// Another system, which takes events: a broker, an HTTP endpoint.
///
/// # Guarantees
///
/// It is given every event of the group at least once, and those of one key in order: the next
/// one after the one before was taken, or given up by the group's policy. An event that comes
/// again, after a crash or an answer that was lost, has the same [`Message::key`].
#[async_trait]
pub trait Target: Send + Sync + 'static {
    /// Hands an event over. `Ok` means that the other system has it for good: it was confirmed,
    /// not just sent.
    ///
    /// Called for many events at once, of different keys. Must end by itself: give whatever it
    /// waits for a time-out.
    ///
    /// # Errors
    ///
    /// [`SendError`] says what becomes of the event and of those behind it.
    ///
    /// # Cancel safety
    ///
    /// A bridge never drops the future half way, but the process may end.
    async fn send(&self, message: &Message<'_>) -> Result<(), SendError>;
}

/// An event on its way to a [`Target`].
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The event.
    pub event: &'a RecordedEvent,
    /// Names the handling of this event by this group, the same however often it is sent. The
    /// other side tells duplicates by it.
    pub key: &'a IdempotencyKey,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The log, as [`CloudEvent::source_of`] says it.
    pub source: &'a str,
}

impl<'a> Message<'a> {
    /// Returns the event in the form of `CloudEvents`.
    pub fn cloud_event(&self) -> CloudEvent<'a> {
        CloudEvent::new(self.event, self.source)
    }
}

/// How a bridge is run.
#[derive(Clone, Copy, Debug)]
pub struct BridgeOptions {
    /// How many events are under way at once, at least one. Each is of another key, so of one key
    /// there is only ever one. More is faster, and repeats more after a crash.
    pub concurrency: usize,
    /// After how many events in a row, which had not failed before, the target itself is under
    /// suspicion and left alone for a while; at least one.
    pub failures_max: usize,
    /// For how long an unavailable target is left alone, half of it by chance.
    pub backoff: Backoff,
}

impl Default for BridgeOptions {
    /// 32 events at once; five in a row put the target under suspicion; from 100 ms up to 30 s.
    fn default() -> Self {
        Self { concurrency: 32, failures_max: 5, backoff: Backoff::default() }
    }
}

/// Starts bridges.
#[derive(Clone, Copy, Debug)]
pub struct Bridge;

impl Bridge {
    /// Forwards what `group` delivers to `target`, as the group's member `name`. Must be called
    /// inside a tokio runtime.
    ///
    /// What becomes of events that the target does not take is the group's
    /// [`FailurePolicy`](crate::FailurePolicy); give a target a group of its own.
    ///
    /// # Errors
    ///
    /// If the group is closed or has stopped.
    ///
    /// # Cancel safety
    ///
    /// A dropped future starts nothing.
    pub async fn start(
        group: &ConsumerGroup,
        name: &str,
        target: impl Target,
        options: BridgeOptions,
    ) -> Result<BridgeHandle, ConsumerError> {
        let member = group.join(name).await?;
        let (stop, stopping) = watch::channel(false);
        let status = Arc::new(watch::Sender::new(BridgeStatus::default()));
        let drive = Drive {
            target: Arc::new(target),
            member,
            source: CloudEvent::source_of(group.log_id()).into(),
            concurrency: options.concurrency.max(1),
            heartbeat: group.heartbeat(),
            circuit: Circuit::new(options.failures_max.max(1), options.backoff),
            sending: JoinSet::new(),
            uncommitted: false,
            commits: Commits::default(),
            stopping,
            status: Arc::clone(&status),
            meters: BridgeMeters::new(name),
        };
        let task = tokio::spawn(drive.run());
        Ok(BridgeHandle { group: group.clone(), name: name.into(), stop, status, task: Some(task) })
    }
}

/// A running bridge. Dropping it stops the bridge after the events under way. Neither that nor
/// [`shutdown`](Self::shutdown) closes the group.
#[derive(Debug)]
pub struct BridgeHandle {
    group: ConsumerGroup,
    name: Arc<str>,
    stop: watch::Sender<bool>,
    status: Arc<watch::Sender<BridgeStatus>>,
    task: Option<JoinHandle<Result<(), Arc<BridgeStop>>>>,
}

impl BridgeHandle {
    /// Returns the bridge's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the group that it works for, which knows lag and what is parked.
    pub fn group(&self) -> &ConsumerGroup {
        &self.group
    }

    /// Returns what the bridge is doing.
    pub fn status(&self) -> BridgeStatus {
        self.status.borrow().clone()
    }

    /// Returns the status as it changes.
    pub fn watch(&self) -> watch::Receiver<BridgeStatus> {
        self.status.subscribe()
    }

    /// Waits until everything up to `position` was forwarded, or given up by the group's policy.
    ///
    /// # Errors
    ///
    /// [`WaitError::Timeout`] says how far the group is; [`WaitError::Stopped`] why it will not
    /// get there.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_for(&self, position: Position, timeout: Duration) -> Result<(), WaitError> {
        let mut status = self.status.subscribe();
        let stopped = status.wait_for(|now| matches!(now.phase, BridgePhase::Stopped { .. }));
        let cause = tokio::select! {
            biased;
            done = self.group.wait_for(position, timeout) => return done,
            stopped = stopped => match stopped.map(|now| now.phase.clone()) {
                Ok(BridgePhase::Stopped { cause }) => cause,
                _ => Arc::new(BridgeStop::Shutdown),
            },
        };
        let reached = self.group.floor();
        if reached >= position {
            return Ok(());
        }
        Err(WaitError::Stopped { position, reached, cause })
    }

    /// Takes no more events, waits for those under way, commits and leaves the group, which stays
    /// open.
    ///
    /// # Errors
    ///
    /// Why the bridge stopped before, or why it could not commit.
    ///
    /// # Cancel safety
    ///
    /// A dropped future shuts down all the same.
    pub async fn shutdown(mut self) -> Result<(), Arc<BridgeStop>> {
        self.stop.send_replace(true);
        match self.task.take() {
            Some(task) => task.await.unwrap_or_else(|_| Err(Arc::new(BridgeStop::Runtime))),
            None => Ok(()),
        }
    }
}

impl Drop for BridgeHandle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

#[cfg(test)]
mod tests;
