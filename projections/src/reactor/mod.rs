//! Reactors: effects and commands, driven by the members of a consumer group.

mod crew;
mod drive;
mod status;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headwater_core::{Position, RecordedEvent};
use tokio::task::JoinHandle;

pub(crate) use self::crew::Crew;
use self::drive::Drive;
pub use self::status::{ReactorFailure, ReactorPhase, ReactorStatus, ReactorStop};
use crate::group::{ConsumerError, ConsumerGroup, IdempotencyKey};
use crate::wait::WaitError;

/// Does something about events: sends a mail, calls a service, issues a command.
///
/// # Guarantees
///
/// Every event of the group is reacted to at least once, and those of one key in order, each
/// after the one before succeeded. After a crash or a lost lease the same event comes again with
/// the same `key`: hand it to whatever must not act twice. A rebuild of a projection never comes
/// here; only [`ConsumerGroup::seek`] makes a group see events again.
#[async_trait]
pub trait Reactor: Send + 'static {
    /// Reacts to one event. While it runs, the event's lease is renewed.
    ///
    /// # Errors
    ///
    /// Whatever went wrong: the event comes again after a while, and the later events of its key
    /// wait, until the group's [`FailurePolicy`](crate::FailurePolicy) says that it is hopeless.
    ///
    /// # Cancel safety
    ///
    /// The runner never drops the future half way, but the process may end.
    async fn react(
        &mut self,
        event: &RecordedEvent,
        key: &IdempotencyKey,
    ) -> Result<(), ReactError>;
}

/// What a reactor failed with. Every error converts into it, so `?` works.
#[derive(Clone)]
pub struct ReactError {
    source: Arc<dyn Error + Send + Sync>,
    retry_after: Option<Duration>,
}

impl ReactError {
    /// Makes an error from a text.
    pub fn message(text: impl Into<String>) -> Self {
        Self {
            source: Arc::from(Box::<dyn Error + Send + Sync>::from(text.into())),
            retry_after: None,
        }
    }

    /// Asks for the next attempt after this time, instead of what the group's policy says.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for ReactError {
    fn from(error: E) -> Self {
        Self { source: Arc::new(error), retry_after: None }
    }
}

impl fmt::Display for ReactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl fmt::Debug for ReactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

/// How a reactor is run.
#[derive(Clone, Copy, Debug)]
pub struct ReactorOptions {
    /// How many events a member takes at a time, at least one. They are reacted to one after the
    /// other and committed together: more is faster, and repeats more after a crash.
    ///
    /// At most one event of each key is out at a time, so no batch holds two of them: of a key
    /// with many events, each takes a batch, and so a commit, of its own. A
    /// [`BatchReactor`](crate::BatchReactor) takes many of them at once.
    pub batch_events: usize,
}

impl Default for ReactorOptions {
    /// Takes 32 events at a time.
    fn default() -> Self {
        Self { batch_events: 32 }
    }
}

/// Starts reactors.
#[derive(Clone, Copy, Debug)]
pub struct ReactorRunner;

impl ReactorRunner {
    /// Lets `members` reactors, made by `factory` from their number, share the work of a group.
    /// Must be called inside a tokio runtime.
    ///
    /// They join as `name-0`, `name-1` and so on. Give a group to one runner only, unless both
    /// do the same.
    ///
    /// # Errors
    ///
    /// If the group is closed or has stopped.
    ///
    /// # Cancel safety
    ///
    /// A dropped future starts nothing.
    pub async fn start<R: Reactor>(
        group: &ConsumerGroup,
        name: &str,
        mut factory: impl FnMut(usize) -> R,
        members: usize,
        options: ReactorOptions,
    ) -> Result<ReactorHandle, ConsumerError> {
        let (crew, joined) = Crew::join(group, name, members).await?;
        let drive = |(number, member)| {
            tokio::spawn(Drive::new(factory(number), member, options, crew.clone()).run())
        };
        let tasks = joined.into_iter().enumerate().map(drive).collect();
        Ok(ReactorHandle::new(group, name, crew, tasks))
    }
}

/// A running reactor. Dropping it stops the reactor after the events under way. Neither that nor
/// [`shutdown`](Self::shutdown) closes the group.
#[derive(Debug)]
pub struct ReactorHandle {
    group: ConsumerGroup,
    name: Arc<str>,
    crew: Crew,
    tasks: Vec<JoinHandle<Result<(), Arc<ReactorStop>>>>,
}

impl ReactorHandle {
    pub(crate) fn new(
        group: &ConsumerGroup,
        name: &str,
        crew: Crew,
        tasks: Vec<JoinHandle<Result<(), Arc<ReactorStop>>>>,
    ) -> Self {
        Self { group: group.clone(), name: name.into(), crew, tasks }
    }

    /// Returns the reactor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the group that it works for, which knows lag and members.
    pub fn group(&self) -> &ConsumerGroup {
        &self.group
    }

    /// Returns what the reactor is doing.
    pub fn status(&self) -> ReactorStatus {
        self.crew.status().borrow().clone()
    }

    /// Waits until everything up to `position` was reacted to.
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
        let mut status = self.crew.status().subscribe();
        let stopped = status.wait_for(|now| matches!(now.phase, ReactorPhase::Stopped { .. }));
        let cause = tokio::select! {
            biased;
            done = self.group.wait_for(position, timeout) => return done,
            stopped = stopped => match stopped.map(|now| now.phase.clone()) {
                Ok(ReactorPhase::Stopped { cause }) => cause,
                _ => Arc::new(ReactorStop::Shutdown),
            },
        };
        let reached = self.group.floor();
        if reached >= position {
            return Ok(());
        }
        Err(WaitError::Stopped { position, reached, cause })
    }

    /// Lets each member finish the event under way, gives the others back, commits and leaves
    /// the group.
    ///
    /// The group stays open, for it may have other members: whoever is done with it closes it too
    /// ([`ConsumerGroup::close`]), behind its reactors.
    ///
    /// # Errors
    ///
    /// Why the reactor stopped before, or why it could not commit.
    ///
    /// # Cancel safety
    ///
    /// A dropped future shuts down all the same.
    pub async fn shutdown(mut self) -> Result<(), Arc<ReactorStop>> {
        self.crew.stop();
        let mut result = Ok(());
        for task in std::mem::take(&mut self.tasks) {
            let done = task.await.unwrap_or_else(|_| Err(Arc::new(ReactorStop::Runtime)));
            result = result.and(done);
        }
        self.crew.status().send_modify(|status| status.stop(&Arc::new(ReactorStop::Shutdown)));
        result
    }
}

impl Drop for ReactorHandle {
    fn drop(&mut self) {
        self.crew.stop();
    }
}

#[cfg(test)]
mod tests;
