//! Running a projection: batches, retries, rebuilding, and waiting for a position.

mod status;
mod task;
mod throttle;
mod worker;

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{EventLog, Position, Query, ReadError, Visibility};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use self::status::Meter;
pub use self::status::{Progress, ProjectionStatus, RebuildError, StopCause};
use self::task::{Request, Task, View, check_history};
pub(crate) use self::throttle::Throttle;
pub(crate) use self::worker::Worker;
use crate::checkpoint::{Checkpoint, CheckpointMismatch, ProjectionId};
use crate::clock::later;
use crate::lag::Lag;
use crate::meters::ProjectionMeters;
use crate::projection::Projection;
use crate::retry::Backoff;
use crate::wait::WaitError;

/// Where a projection begins when it is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// At its checkpoint, which must fit; at the start of the log if it has none.
    #[default]
    Resume,
    /// At the start of the log, after emptying the read model, whatever its checkpoint says.
    Rebuild,
}

/// How a projection is run.
#[derive(Clone, Debug)]
pub struct RunnerOptions {
    /// Where it begins.
    pub begin: Begin,
    /// How many events are read and applied in one transaction at most, from 1. More is faster
    /// and takes more memory; readers see the read model move in larger steps.
    pub batch_events: usize,
    /// Which events count as being there; what the log calls settled where this is `None`.
    pub visibility: Option<Visibility>,
    /// How often a failing batch, or a log that fails to be read or waited for, is tried again
    /// before the projection stops. What trying again cannot help stops it at once, such as a
    /// log that is closed.
    pub retries: u32,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// How often progress without matching events is committed and the sink flushed; more than
    /// zero. It bounds what is scanned again after a crash, not what is lost: nothing is.
    pub save_interval: Duration,
    /// How many events are applied in a second at most, so that a rebuild leaves room for others;
    /// no limit where this is `None`. [`ProjectionHandle::throttle`] changes it.
    pub events_per_second_max: Option<NonZeroU64>,
}

impl Default for RunnerOptions {
    /// Resumes, with batches of 1,000 events, 5 retries from 100 ms up, and saves every 5 s.
    fn default() -> Self {
        Self {
            begin: Begin::Resume,
            batch_events: 1_000,
            visibility: None,
            retries: 5,
            backoff: Backoff::default(),
            save_interval: Duration::from_secs(5),
            events_per_second_max: None,
        }
    }
}

/// Why a projection could not be started. The read model is as it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An option is out of its bounds. Change it.
    #[error("projection option {option} is zero; {remedy}")]
    InvalidOption {
        /// The name of the option.
        option: &'static str,
        /// What is accepted.
        remedy: &'static str,
    },
    /// The read model was not built by this projection from this log. Start the projection with
    /// [`Begin::Rebuild`], or do what the message says.
    #[error(transparent)]
    Mismatch(#[from] CheckpointMismatch),
    /// The log cannot say where it ends.
    #[error("the log under projection {projection} cannot be read")]
    Log {
        /// The projection.
        projection: String,
        /// What the log said.
        source: ReadError,
    },
    /// It was to begin with a rebuild, and that is not possible.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// The checkpoint could not be read, or the empty read model not be made. If it was made and
    /// only flushing it failed, the sink may hold it or the one before.
    #[error(transparent)]
    Failed(Arc<StopCause>),
}

/// Starts projections.
#[derive(Clone, Copy, Debug)]
pub struct ProjectionRunner;

impl ProjectionRunner {
    /// Starts a projection over a log. Must be called inside a tokio runtime.
    ///
    /// It runs until it is shut down, its handle is dropped, or something fails for good. Each
    /// batch is one transaction of the sink, on a thread that may block, and the checkpoint
    /// commits with it.
    ///
    /// # Errors
    ///
    /// [`StartError::Mismatch`] if the sink holds a read model that this projection did not
    /// build from this log, or from what this log was before it was restored or lost its end.
    ///
    /// # Cancel safety
    ///
    /// A dropped future starts nothing, and may have made the empty read model.
    pub async fn start<P: Projection>(
        log: Arc<dyn EventLog>,
        projection: P,
        sink: P::Sink,
        options: RunnerOptions,
    ) -> Result<ProjectionHandle<P>, StartError> {
        options.check()?;
        let selection = projection.selection();
        let id = ProjectionId::of(&projection, &*log);
        let name: Arc<str> = id.name.as_str().into();
        let head = log.head(Visibility::Committed).await;
        let head =
            head.map_err(|source| StartError::Log { projection: id.name.clone(), source })?;
        let visibility = options.visibility.unwrap_or_else(|| log.settled_visibility());
        let mut worker = Some(Worker::new(projection, sink, id));
        let position = begin(&mut worker, &name, &*log, options.begin, (head, visibility)).await?;

        let behind = match options.begin {
            Begin::Resume => ProjectionStatus::CatchingUp,
            Begin::Rebuild => ProjectionStatus::Rebuilding,
        };
        let mut meter = Meter::default();
        meter.note(Instant::now(), position);
        let (view, seen) =
            watch::channel(View { position, applied: 0, status: behind.clone(), meter });
        let (send, requests) = mpsc::channel(1);
        let task = Task {
            log: Arc::clone(&log),
            selection: selection.clone(),
            visibility,
            worker,
            name: Arc::clone(&name),
            cursor: position,
            saved: position,
            save_at: later(Instant::now(), options.save_interval),
            throttle: Throttle::new(options.events_per_second_max),
            options,
            unflushed: false,
            log_failures: 0,
            behind,
            view,
            meters: ProjectionMeters::new(&name),
            requests,
            pending: None,
            paused: false,
        };
        Ok(ProjectionHandle {
            log,
            selection,
            visibility,
            name,
            seen,
            requests: send,
            task: tokio::spawn(task.run()),
        })
    }
}

/// Returns the position to go on from, after making the empty read model where there is none.
pub(crate) async fn begin<P: Projection>(
    worker: &mut Option<Worker<P>>,
    name: &Arc<str>,
    log: &dyn EventLog,
    begin: Begin,
    (head, visibility): (Position, Visibility),
) -> Result<Position, StartError> {
    if begin == Begin::Rebuild {
        check_history(log, visibility, name).await?;
    }
    let found = Worker::block(worker, name, move |worker, _| prepare(worker, begin, head)).await;
    let found = found.map_err(|cause| StartError::Failed(Arc::new(cause)))??;
    if let Some(checkpoint) = &found {
        let fits = checkpoint.check_event(log).await;
        fits.map_err(|source| StartError::Log { projection: name.to_string(), source })??;
    }
    Ok(found.map_or(Position::START, |checkpoint| checkpoint.position))
}

/// Returns the checkpoint to go on from; `None` after making the empty read model, where there is
/// none.
fn prepare<P: Projection>(
    worker: &mut Worker<P>,
    begin: Begin,
    head: Position,
) -> Result<Result<Option<Checkpoint>, CheckpointMismatch>, StopCause> {
    if begin == Begin::Rebuild {
        worker.begin_anew(true)?;
        // A sink that starts from an older snapshot would forget the rebuild.
        worker.flush()?;
        return Ok(Ok(None));
    }
    let Some(checkpoint) = worker.load(head)? else {
        worker.begin_anew(false)?;
        return Ok(Ok(None));
    };
    let fits = checkpoint.check(worker.id(), head);
    Ok(fits.map(|()| Some(checkpoint)))
}

impl RunnerOptions {
    fn check(&self) -> Result<(), StartError> {
        let zero = |option, remedy| Err(StartError::InvalidOption { option, remedy });
        if self.batch_events == 0 {
            return zero("batch_events", "let at least one event in");
        }
        if self.save_interval.is_zero() {
            return zero("save_interval", "give it more than zero");
        }
        Ok(())
    }
}

/// A running projection. Dropping it shuts the projection down after the batch in hand.
pub struct ProjectionHandle<P: Projection> {
    log: Arc<dyn EventLog>,
    selection: Query,
    visibility: Visibility,
    name: Arc<str>,
    seen: watch::Receiver<View>,
    requests: mpsc::Sender<Request>,
    task: JoinHandle<Result<P::Sink, Arc<StopCause>>>,
}

impl<P: Projection> fmt::Debug for ProjectionHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.seen.borrow();
        f.debug_struct("ProjectionHandle")
            .field("name", &self.name)
            .field("position", &view.position)
            .field("status", &view.status)
            .finish_non_exhaustive()
    }
}

impl<P: Projection> ProjectionHandle<P> {
    /// Returns the projection's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until everything up to `position` is in the read model: read your own writes with
    /// the last position that an append returned.
    ///
    /// # Errors
    ///
    /// [`WaitError::Timeout`] says how far the projection is; [`WaitError::Stopped`] why it will
    /// not get there, with the [`StopCause`] as its source.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_for(&self, position: Position, timeout: Duration) -> Result<(), WaitError> {
        let mut seen = self.seen.clone();
        let there = seen.wait_for(|view| {
            view.position >= position || matches!(view.status, ProjectionStatus::Stopped { .. })
        });
        let view = match tokio::time::timeout(timeout, there).await {
            Ok(Ok(view)) => Some(view.clone()),
            Ok(Err(_)) | Err(_) => None,
        };
        let view = view.unwrap_or_else(|| self.seen.borrow().clone());
        let reached = view.position;
        match view.status {
            _ if reached >= position => Ok(()),
            ProjectionStatus::Stopped { cause } => {
                Err(WaitError::Stopped { position, reached, cause })
            }
            _ => Err(WaitError::Timeout { position, reached, timeout }),
        }
    }

    /// Returns what the projection is doing.
    pub fn status(&self) -> ProjectionStatus {
        self.seen.borrow().status.clone()
    }

    /// Returns up to where everything is in the read model.
    pub fn position(&self) -> Position {
        self.seen.borrow().position
    }

    /// Returns how far the projection is on its way to the head of the log as it is now.
    ///
    /// # Errors
    ///
    /// If the log cannot say where its head is.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn progress(&self) -> Result<Progress, ReadError> {
        let head = self.head().await?;
        let view = self.seen.borrow().clone();
        Ok(Progress {
            position: view.position,
            head,
            applied: view.applied,
            positions_per_second: view.meter.rate(),
            eta: view.meter.eta(view.position, head),
        })
    }

    /// Returns how far the read model is behind the log's head.
    ///
    /// # Errors
    ///
    /// If the log cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn lag(&self) -> Result<Lag, ReadError> {
        let position = self.position();
        let exact = self.selection.is_all();
        Lag::measure(&*self.log, position, exact, self.visibility).await
    }

    /// Empties the read model and applies everything again. Returns once it is empty; then
    /// [`progress`](Self::progress) and [`wait_for`](Self::wait_for) tell how far it is.
    ///
    /// Readers see the read model grow from nothing. Its checkpoint starts over in the
    /// transaction that empties it, and is flushed before this returns, so a crash on the way
    /// goes on with the rebuild.
    ///
    /// # Errors
    ///
    /// [`RebuildError::HistoryRemoved`] if the log no longer has its beginning;
    /// [`RebuildError::Failed`] if the model cannot be emptied or the projection has stopped. The
    /// read model is as it was. [`RebuildError::Unflushed`] if it was emptied and is being
    /// rebuilt, but a crash may undo that.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still rebuild.
    pub async fn rebuild(&self) -> Result<(), RebuildError> {
        let (done, rebuilt) = oneshot::channel();
        let sent = self.requests.send(Request::Rebuild(done)).await;
        if sent.is_ok()
            && let Ok(rebuilt) = rebuilt.await
        {
            return rebuilt;
        }
        Err(RebuildError::Failed(self.stopped().await))
    }

    /// Lets the projection rest after the batch in hand, and returns the position at which it does.
    /// It goes on with [`resume`](Self::resume), or when it is started again: a pause does not
    /// survive the process.
    ///
    /// # Errors
    ///
    /// Why the projection has stopped.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still pause.
    pub async fn pause(&self) -> Result<Position, Arc<StopCause>> {
        let (done, paused) = oneshot::channel();
        self.ask(Request::Pause(done)).await?;
        match paused.await {
            Ok(position) => Ok(position),
            Err(_) => Err(self.stopped().await),
        }
    }

    /// Lets the projection go on after a [`pause`](Self::pause).
    ///
    /// # Errors
    ///
    /// Why the projection has stopped.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still resume.
    pub async fn resume(&self) -> Result<(), Arc<StopCause>> {
        self.ask(Request::Resume).await
    }

    /// Changes [`RunnerOptions::events_per_second_max`] from the next batch on.
    ///
    /// # Errors
    ///
    /// Why the projection has stopped.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still change it.
    pub async fn throttle(&self, limit: Option<NonZeroU64>) -> Result<(), Arc<StopCause>> {
        self.ask(Request::Throttle(limit)).await
    }

    /// Commits how far the projection is and lets the sink write down what is only in memory, as it
    /// does by itself now and then ([`RunnerOptions::save_interval`]).
    ///
    /// # Errors
    ///
    /// Why that failed; the projection goes on, unless it has stopped.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still save.
    pub async fn save(&self) -> Result<(), Arc<StopCause>> {
        let (done, saved) = oneshot::channel();
        self.ask(Request::Save(done)).await?;
        match saved.await {
            Ok(saved) => saved.map_err(Arc::new),
            Err(_) => Err(self.stopped().await),
        }
    }

    /// Returns the log's last position that the projection may see.
    pub(crate) async fn head(&self) -> Result<Position, ReadError> {
        self.log.head(self.visibility).await
    }

    async fn ask(&self, request: Request) -> Result<(), Arc<StopCause>> {
        match self.requests.send(request).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.stopped().await),
        }
    }

    /// Returns why the projection stopped, which it has or is about to.
    async fn stopped(&self) -> Arc<StopCause> {
        let mut seen = self.seen.clone();
        let stopped = |view: &View| matches!(view.status, ProjectionStatus::Stopped { .. });
        let last = seen.wait_for(stopped).await.map(|view| view.status.clone());
        match last {
            Ok(ProjectionStatus::Stopped { cause }) => cause,
            _ => Arc::new(StopCause::Runtime { projection: Arc::clone(&self.name) }),
        }
    }

    /// Finishes the batch in hand, commits, flushes the sink and returns it.
    ///
    /// # Errors
    ///
    /// The cause, if the projection has stopped before or could not commit; the sink is closed
    /// then.
    ///
    /// # Cancel safety
    ///
    /// A dropped future shuts down all the same.
    pub async fn shutdown(self) -> Result<P::Sink, Arc<StopCause>> {
        // If that fails, the task has ended and says why.
        let _ = self.requests.send(Request::Shutdown).await;
        drop(self.requests);
        self.task
            .await
            .unwrap_or_else(|_| Err(Arc::new(StopCause::Runtime { projection: self.name })))
    }
}

#[cfg(test)]
mod tests;
