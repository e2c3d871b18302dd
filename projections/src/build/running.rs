//! A build at work beside the live one, and the moment it takes its place.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::{EventLog, Position, ReadError};
use tokio::time::Instant;

use super::{BuildError, BuildId, Builds, to_build, to_run};
use crate::projection::Projection;
use crate::runner::{
    Begin, ProjectionHandle, ProjectionRunner, RunnerOptions, StartError, StopCause,
};
use crate::wait::WaitError;

/// A projection that works on a build of its read model, while readers see that or another one.
///
/// This is the blue-green deployment of a read model: the new version replays the log beside the
/// live one, takes its place at one moment when it is as far, and the old one stays until it is
/// removed, so that one call goes back.
///
/// # Guarantees
///
/// Readers see one build or the other, whole. The one that takes over has everything up to the head
/// of the log as it was when [`promote`](Self::promote) was called, and is not behind the last
/// commit of the one before it.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::Arc;
/// use std::time::Duration;
/// use headwater_core::{Append, EventLog, EventType, MemoryLog, NewEvent, Query, RecordedEvent, StreamId};
/// use headwater_projections::{
///     ApplyError, MemoryBuilds, MemoryTx, MemorySink, Projection, RunnerOptions, RunningBuild,
/// };
///
/// type Counts = BTreeMap<String, u64>;
///
/// /// Counts events by stream; in version 1 it counted them by type.
/// struct EventCounts {
///     version: u32,
/// }
///
/// impl Projection for EventCounts {
///     type Sink = MemorySink<Counts>;
/// #   fn name(&self) -> &str { "event-counts" }
/// #   fn version(&self) -> u32 { self.version }
/// #   fn selection(&self) -> Query { Query::all() }
/// #   fn reset(&mut self, tx: &mut MemoryTx<'_, Counts>) -> Result<(), ApplyError> {
/// #       tx.clear();
/// #       Ok(())
/// #   }
///     // ...
///     fn apply(
///         &mut self,
///         tx: &mut MemoryTx<'_, Counts>,
///         event: &RecordedEvent,
///     ) -> Result<(), ApplyError> {
///         let key = if self.version == 1 { event.event_type.to_string() } else { event.stream.to_string() };
///         *tx.entry(key).or_default() += 1;
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let log = Arc::new(MemoryLog::new());
/// let event = NewEvent::json(StreamId::new("order-17")?, EventType::new("placed")?, &"a book")?;
/// log.append(Append::new([event])).await?;
///
/// let (builds, patience) = (Arc::new(MemoryBuilds::new("event-counts")), Duration::from_secs(10));
/// let live = builds.live_view();
/// let options = RunnerOptions::default;
/// let old = RunningBuild::start(log.clone(), EventCounts { version: 1 }, builds.clone(), options()).await?;
/// old.promote(patience).await?;
/// assert_eq!(live.get().unwrap()["placed"], 1);
///
/// // The new version is deployed: it builds beside the old one, and takes over when it is as far.
/// let new = RunningBuild::start(log, EventCounts { version: 2 }, builds.clone(), options()).await?;
/// new.take_over(old.handle(), patience).await?;
/// old.into_handle().shutdown().await?;
/// assert_eq!(live.get().unwrap()["order-17"], 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RunningBuild<P: Projection, B: Builds<Sink = P::Sink>> {
    handle: ProjectionHandle<P>,
    builds: Arc<B>,
    build: BuildId,
}

/// Why a build could not be started.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartBuildError {
    /// Its place could not be opened.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The projection could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The runtime is being shut down.
    #[error("the runtime was shut down")]
    Runtime,
}

/// Why a build did not take over. Readers see what they saw before.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromoteError {
    /// It is not as far in time, or will not get there.
    #[error("build {build} is not as far as it has to be to take over")]
    Behind {
        /// The build.
        build: BuildId,
        /// How far it is, or why it stopped.
        source: WaitError,
    },
    /// It could not be made durable.
    #[error("build {build} could not be saved")]
    Unsaved {
        /// The build.
        build: BuildId,
        /// Why.
        source: Arc<StopCause>,
    },
    /// The projection that it was to take over from has stopped, or cannot be paused.
    #[error("the projection before build {build} cannot be paused")]
    Before {
        /// The build that was to take over.
        build: BuildId,
        /// Why.
        source: Arc<StopCause>,
    },
    /// The log cannot say where it ends.
    #[error("the log cannot be read")]
    Log(#[source] ReadError),
    /// The place of the builds cannot be read or written.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The runtime is being shut down.
    #[error("the runtime was shut down")]
    Runtime,
}

impl<P: Projection, B: Builds<Sink = P::Sink>> RunningBuild<P, B> {
    /// Starts a projection on the build of its version: the live one where that is of this version,
    /// else the newest of this version, else a new one, which builds beside what is live. If none is
    /// live, this one is at once. Must be called inside a tokio runtime.
    ///
    /// Going back to an older version is the same: its build is still there, catches up, and takes
    /// over. With [`Begin::Rebuild`] that build begins anew where it is: who reads it sees it grow.
    ///
    /// # Errors
    ///
    /// If the builds cannot be opened, or as [`ProjectionRunner::start`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future starts nothing, and may have made an empty build.
    pub async fn start(
        log: Arc<dyn EventLog>,
        projection: P,
        builds: Arc<B>,
        options: RunnerOptions,
    ) -> Result<Self, StartBuildError> {
        Self::start_chosen(log, projection, builds, options, to_run).await
    }

    /// Starts a projection on another build of the same version than the live one: the newest that
    /// was begun, or a new one. For a read model that was damaged, or drifted.
    ///
    /// [`RunnerOptions::begin`] is left aside: what was begun goes on.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    ///
    /// As [`start`](Self::start).
    pub async fn rebuild_beside(
        log: Arc<dyn EventLog>,
        projection: P,
        builds: Arc<B>,
        options: RunnerOptions,
    ) -> Result<Self, StartBuildError> {
        let options = RunnerOptions { begin: Begin::Resume, ..options };
        Self::start_chosen(log, projection, builds, options, to_build).await
    }

    async fn start_chosen(
        log: Arc<dyn EventLog>,
        projection: P,
        builds: Arc<B>,
        options: RunnerOptions,
        choose: fn(&[BuildId], Option<BuildId>, u32) -> BuildId,
    ) -> Result<Self, StartBuildError> {
        let version = projection.version();
        let opened = blocking(&builds, move |builds| {
            let live = builds.live()?;
            let build = choose(&builds.list()?, live, version);
            Ok((builds.open(build)?, build, live.is_none()))
        });
        let (sink, build, is_first) = opened.await.ok_or(StartBuildError::Runtime)??;
        let handle = ProjectionRunner::start(log, projection, sink, options).await?;
        if is_first {
            let shown = blocking(&builds, move |builds| builds.make_live(build)).await;
            shown.ok_or(StartBuildError::Runtime)??;
        }
        Ok(Self { handle, builds, build })
    }

    /// Returns the build that it works on.
    pub fn build(&self) -> BuildId {
        self.build
    }

    /// Returns the projection: its status, progress, throttle and lag.
    pub fn handle(&self) -> &ProjectionHandle<P> {
        &self.handle
    }

    /// Gives the projection away. Which build is live does not change.
    pub fn into_handle(self) -> ProjectionHandle<P> {
        self.handle
    }

    /// Waits until the build has everything that the log has now and the live build has committed,
    /// makes it durable, and lets readers see it. Returns what they saw before; the same build if
    /// this one was live.
    ///
    /// What goes on writing to the build before in another process may be a few events ahead at that
    /// moment. In one process [`take_over`](Self::take_over) rules that out.
    ///
    /// # Errors
    ///
    /// [`PromoteError`]; readers see what they saw before.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still let readers see the build, which is as far as it has to be then.
    pub async fn promote(&self, timeout: Duration) -> Result<Option<BuildId>, PromoteError> {
        let until = Until(Instant::now(), timeout);
        let head = self.handle.head().await.map_err(PromoteError::Log)?;
        self.reach(head, until).await?;
        let before = self.blocking(B::live).await?;
        if let Some(before) = before
            && let Some(stored) = self.blocking(move |builds| builds.checkpoint(before)).await?
        {
            self.reach(stored.position, until).await?;
        }
        self.make_live().await?;
        Ok(before)
    }

    /// As [`promote`](Self::promote), from a projection of this process: it is paused, so that
    /// readers never go back, and stays so; shut it down. If this fails, it goes on.
    ///
    /// # Errors
    ///
    /// As [`promote`](Self::promote), and [`PromoteError::Before`] if the other projection has
    /// stopped: use [`promote`](Self::promote) then.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: the other projection may stay paused.
    pub async fn take_over<Q: Projection>(
        &self,
        before: &ProjectionHandle<Q>,
        timeout: Duration,
    ) -> Result<(), PromoteError> {
        let until = Until(Instant::now(), timeout);
        // Far behind, the other one should go on meanwhile.
        let head = self.handle.head().await.map_err(PromoteError::Log)?;
        self.reach(head, until).await?;
        let stopped = |source| PromoteError::Before { build: self.build, source };
        let position = before.pause().await.map_err(stopped)?;
        let taken = async {
            self.reach(position, until).await?;
            self.make_live().await
        };
        match taken.await {
            Ok(()) => Ok(()),
            Err(error) => {
                before.resume().await.map_err(stopped)?;
                Err(error)
            }
        }
    }

    async fn reach(&self, position: Position, until: Until) -> Result<(), PromoteError> {
        let Until(begun, timeout) = until;
        let left = timeout.saturating_sub(begun.elapsed());
        let reached = self.handle.wait_for(position, left).await;
        reached.map_err(|source| PromoteError::Behind { build: self.build, source })
    }

    async fn make_live(&self) -> Result<(), PromoteError> {
        let build = self.build;
        let saved = self.handle.save().await;
        saved.map_err(|source| PromoteError::Unsaved { build, source })?;
        self.blocking(move |builds| builds.make_live(build)).await?;
        tracing::info!(projection = self.handle.name(), %build, "a build is live");
        Ok(())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&B) -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, PromoteError> {
        Ok(blocking(&self.builds, work).await.ok_or(PromoteError::Runtime)??)
    }
}

/// When waiting began, and how long it may take.
#[derive(Clone, Copy)]
struct Until(Instant, Duration);

/// Works with the builds on a thread that may block; `None` if the runtime is gone.
async fn blocking<B: Builds, T: Send + 'static>(
    builds: &Arc<B>,
    work: impl FnOnce(&B) -> Result<T, BuildError> + Send + 'static,
) -> Option<Result<T, BuildError>> {
    let builds = Arc::clone(builds);
    tokio::task::spawn_blocking(move || work(&builds)).await.ok()
}
