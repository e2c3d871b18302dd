//! The loop of a running projection: read a page, apply it, follow the head.

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::Arc;

use headwater_core::{EventLog, Page, Position, Query, Read, ReadError, Visibility};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::RunnerOptions;
use super::status::{Meter, ProjectionStatus, RebuildError, StopCause};
use super::throttle::Throttle;
use super::worker::Worker;
use crate::checkpoint::{event_at, last_event};
use crate::clock::later;
use crate::lag::Lag;
use crate::meters::{self, ProjectionMeters};
use crate::projection::Projection;

/// What the handle asks of the task.
pub(super) enum Request {
    Rebuild(oneshot::Sender<Result<(), RebuildError>>),
    /// Answered with the position at which it rests.
    Pause(oneshot::Sender<Position>),
    Resume,
    /// Makes the progress durable.
    Save(oneshot::Sender<Result<(), StopCause>>),
    Throttle(Option<NonZeroU64>),
    Shutdown,
}

/// What the task lets the handle see.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) position: Position,
    pub(super) applied: u64,
    pub(super) status: ProjectionStatus,
    pub(super) meter: Meter,
}

pub(super) struct Task<P: Projection> {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) selection: Query,
    pub(super) visibility: Visibility,
    pub(super) options: RunnerOptions,
    /// Always there, but while a thread has it or after the runtime is gone.
    pub(super) worker: Option<Worker<P>>,
    pub(super) name: Arc<str>,
    /// Everything up to here is applied.
    pub(super) cursor: Position,
    /// The checkpoint that is committed.
    pub(super) saved: Position,
    /// When the cursor is committed and the sink flushed though nothing was applied.
    pub(super) save_at: Instant,
    pub(super) unflushed: bool,
    /// How often the log failed since a page was read or a wait ended well. That its head is
    /// known says nothing: a closed log still tells it.
    pub(super) log_failures: u32,
    /// What it does while it is behind: catch up, or rebuild.
    pub(super) behind: ProjectionStatus,
    pub(super) view: watch::Sender<View>,
    pub(super) meters: ProjectionMeters,
    pub(super) requests: mpsc::Receiver<Request>,
    /// A request that ended a wait and is to be answered next.
    pub(super) pending: Option<Request>,
    pub(super) paused: bool,
    pub(super) throttle: Throttle,
}

impl<P: Projection> Task<P> {
    /// Runs until shut down or until something fails for good; returns the sink or the cause.
    pub(super) async fn run(mut self) -> Result<P::Sink, Arc<StopCause>> {
        let done = self.follow().await;
        let cause = match &done {
            Ok(()) => StopCause::Shutdown { projection: Arc::clone(&self.name) },
            Err(cause) => {
                tracing::error!(projection = %self.name, position = %self.cursor, %cause, "the projection stops");
                cause.clone()
            }
        };
        let cause = Arc::new(cause);
        self.set_status(ProjectionStatus::Stopped { cause: Arc::clone(&cause) });
        match (done, self.worker) {
            (Ok(()), Some(worker)) => Ok(worker.into_parts().1),
            _ => Err(cause),
        }
    }

    async fn follow(&mut self) -> Result<(), StopCause> {
        loop {
            if let Some(request) = self.next_request()
                && self.answer(request).await?.is_break()
            {
                return self.finish().await;
            }
            if self.paused || Instant::now() < self.throttle.not_before() {
                self.rest().await;
            } else {
                match self.page().await? {
                    Some(page) => self.take(page).await?,
                    None if self.pending.is_none() => {
                        if let Err(error) = self.idle().await {
                            self.log_failed(error).await?;
                        }
                    }
                    None => {}
                }
            }
            if Instant::now() >= self.save_at {
                self.save_when_due().await?;
            }
        }
    }

    /// Does what was asked; `Break` is the end. Whoever asked may have stopped waiting.
    async fn answer(&mut self, request: Request) -> Result<ControlFlow<()>, StopCause> {
        match request {
            Request::Rebuild(done) => {
                let rebuilt = self.rebuild().await;
                if let Err(RebuildError::Failed(cause)) = &rebuilt
                    && cause.is_the_end()
                {
                    return Err(StopCause::clone(cause));
                }
                let _ = done.send(rebuilt);
            }
            Request::Pause(done) => {
                self.paused = true;
                self.set_status(ProjectionStatus::Paused);
                let _ = done.send(self.cursor);
            }
            Request::Resume => {
                self.paused = false;
                self.set_status(self.behind.clone());
                self.view.send_modify(|view| view.meter.clear());
            }
            Request::Save(done) => {
                let saved = self.finish().await;
                if let Err(cause) = &saved
                    && cause.is_the_end()
                {
                    return Err(cause.clone());
                }
                let _ = done.send(saved);
            }
            Request::Throttle(limit) => {
                self.throttle = Throttle::new(limit);
            }
            Request::Shutdown => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Waits until it may go on, for a request, or for the time to save.
    async fn rest(&mut self) {
        let unsaved = self.is_unsaved();
        tokio::select! {
            request = self.requests.recv() => {
                self.pending = Some(request.unwrap_or(Request::Shutdown));
            }
            () = tokio::time::sleep_until(self.throttle.not_before()), if !self.paused => {}
            () = tokio::time::sleep_until(self.save_at), if unsaved || meters::ON => {}
        }
    }

    fn is_unsaved(&self) -> bool {
        self.cursor > self.saved || self.unflushed
    }

    fn next_request(&mut self) -> Option<Request> {
        let pending = self.pending.take();
        pending.or_else(|| match self.requests.try_recv() {
            Ok(request) => Some(request),
            Err(mpsc::error::TryRecvError::Empty) => None,
            // The handle is gone.
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Request::Shutdown),
        })
    }

    async fn finish(&mut self) -> Result<(), StopCause> {
        self.save().await?;
        // Even if it was flushed without success before.
        self.unflushed = true;
        self.flush().await
    }

    /// Empties the read model and begins with the log, if that still has its beginning.
    async fn rebuild(&mut self) -> Result<(), RebuildError> {
        check_history(&*self.log, self.visibility, &self.name).await?;
        // Flushed at once: a sink that starts from an older snapshot would forget the rebuild.
        let emptied = self.block(|worker, _| {
            worker.begin_anew(true)?;
            Ok(worker.flush())
        });
        let flushed = emptied.await.map_err(|cause| RebuildError::Failed(Arc::new(cause)))?;
        self.meters.rebuilds.increment(1);
        self.cursor = Position::START;
        self.saved = Position::START;
        self.unflushed = flushed.is_err();
        self.behind = ProjectionStatus::Rebuilding;
        self.view.send_modify(|view| {
            view.position = Position::START;
            view.applied = 0;
            if !self.paused {
                view.status = ProjectionStatus::Rebuilding;
            }
            view.meter.clear();
        });
        flushed.map_err(|cause| RebuildError::Unflushed(Arc::new(cause)))
    }

    /// Reads the next page, or returns `None` at the head.
    async fn page(&mut self) -> Result<Option<Page>, StopCause> {
        loop {
            match self.try_page().await {
                Ok(page) => {
                    // The others are read when what they lead to was, too.
                    if page.as_ref().is_some_and(|page| page.events.is_empty()) {
                        self.log_failures = 0;
                    }
                    return Ok(page);
                }
                Err(error) => self.log_failed(error).await?,
            }
            if self.pending.is_some() {
                return Ok(None);
            }
        }
    }

    /// Counts a failure of the log and waits a while, or returns the cause if it was the last.
    async fn log_failed(&mut self, source: ReadError) -> Result<(), StopCause> {
        let projection = Arc::clone(&self.name);
        self.log_failures += 1;
        let cause = StopCause::Log { projection, after: self.cursor, source };
        self.back_off(cause, self.log_failures).await
    }

    async fn try_page(&mut self) -> Result<Option<Page>, ReadError> {
        let head = self.log.head(self.visibility).await?;
        if head <= self.cursor {
            return Ok(None);
        }
        let read = Read::forward(self.selection.clone(), self.cursor)
            .limit(self.throttle.batch(self.options.batch_events))
            .visible(self.visibility);
        self.log.read(read).await.map(Some)
    }

    /// Applies a page; tries again what fails, unless a request comes in between.
    async fn take(&mut self, page: Page) -> Result<(), StopCause> {
        let Page { events, scanned, done } = page;
        if !done || matches!(self.behind, ProjectionStatus::Rebuilding) {
            self.set_status(self.behind.clone());
        }
        let count = events.len() as u64;
        if count > 0 {
            let through = match last_event(&*self.log, &events, scanned).await {
                Ok(event) => (scanned, event),
                // The page is read again.
                Err(error) => return self.log_failed(error).await,
            };
            self.log_failures = 0;
            let events = Arc::new(events);
            let mut failures = 0;
            loop {
                let batch = Arc::clone(&events);
                let applied = self.block(move |worker, at| worker.apply(&batch, through, at));
                let Err(cause) = applied.await else { break };
                failures += 1;
                self.back_off(cause, failures).await?;
                if self.pending.is_some() {
                    return Ok(());
                }
            }
            self.saved = scanned;
            self.unflushed = true;
            self.meters.batches.increment(1);
            self.meters.applied.increment(count);
        }
        self.cursor = scanned;
        self.meters.position(scanned);
        self.throttle.note(count);
        let status = self.behind.clone();
        self.view.send_modify(|view| {
            view.position = scanned;
            view.applied += count;
            view.meter.note(Instant::now(), scanned);
            if matches!(view.status, ProjectionStatus::Retrying { .. }) {
                view.status = status;
            }
        });
        // An engine that always has an answer at once must not keep the others from running.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Waits a while after a failure, or returns the cause if it was the last attempt.
    async fn back_off(&mut self, cause: StopCause, failures: u32) -> Result<(), StopCause> {
        if !cause.is_worth_a_retry() || failures > self.options.retries {
            return Err(cause.after(failures));
        }
        tracing::warn!(projection = %self.name, %cause, failures, "the projection tries again");
        self.meters.retries.increment(1);
        let delay = self.options.backoff.delay(failures);
        self.set_status(ProjectionStatus::Retrying { failures, cause: Arc::new(cause) });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            request = self.requests.recv() => {
                self.pending = Some(request.unwrap_or(Request::Shutdown));
            }
        }
        Ok(())
    }

    /// Waits at the head for events, a request, or the time to save.
    async fn idle(&mut self) -> Result<(), ReadError> {
        self.behind = ProjectionStatus::CatchingUp;
        self.set_status(ProjectionStatus::Running);
        let unsaved = self.is_unsaved();
        tokio::select! {
            reached = self.log.wait_for(self.cursor.next(), self.visibility) => {
                reached?;
                self.log_failures = 0;
            }
            request = self.requests.recv() => {
                self.pending = Some(request.unwrap_or(Request::Shutdown));
            }
            () = tokio::time::sleep_until(self.save_at), if unsaved || meters::ON => {}
        }
        Ok(())
    }

    /// Measures how far the read model is behind.
    async fn gauge(&mut self) {
        let exact = self.selection.is_all();
        // What the log does not say is met by whoever reads it.
        if let Ok(lag) = Lag::measure(&*self.log, self.cursor, exact, self.visibility).await {
            self.meters.lag(&lag);
        }
    }

    /// Saves now and then; what fails there may go better the next time, and loses nothing.
    async fn save_when_due(&mut self) -> Result<(), StopCause> {
        self.save_at = later(Instant::now(), self.options.save_interval);
        if meters::ON {
            self.gauge().await;
        }
        let saved = match self.save().await {
            Ok(()) => self.flush().await,
            failed => failed,
        };
        match saved {
            Err(cause) if cause.is_worth_a_retry() => {
                tracing::warn!(projection = %self.name, %cause, "progress was not saved");
                Ok(())
            }
            saved => saved,
        }
    }

    /// Commits how far was read, where nothing was applied since.
    async fn save(&mut self) -> Result<(), StopCause> {
        let cursor = self.cursor;
        if cursor > self.saved {
            let event = event_at(&*self.log, cursor).await.map_err(|source| StopCause::Log {
                projection: Arc::clone(&self.name),
                after: cursor,
                source,
            })?;
            self.block(move |worker, _| worker.save(cursor, event)).await?;
            self.saved = cursor;
            self.unflushed = true;
        }
        Ok(())
    }

    /// Lets the sink write down what is only in memory.
    async fn flush(&mut self) -> Result<(), StopCause> {
        if std::mem::take(&mut self.unflushed) {
            self.block(|worker, _| worker.flush()).await?;
        }
        Ok(())
    }

    async fn block<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Worker<P>, &std::cell::Cell<Option<Position>>) -> Result<T, StopCause>
        + Send
        + 'static,
    ) -> Result<T, StopCause> {
        Worker::block(&mut self.worker, &self.name, work).await
    }

    fn set_status(&self, status: ProjectionStatus) {
        self.view.send_modify(|view| view.status = status);
    }
}

/// Checks that the log has all its history: what is removed from a read model now must be there
/// to be applied again.
pub(super) async fn check_history(
    log: &dyn EventLog,
    visibility: Visibility,
    projection: &Arc<str>,
) -> Result<(), RebuildError> {
    let first = Read::forward(Query::all(), Position::START).limit(1).visible(visibility);
    match log.read(first).await {
        Ok(_) => Ok(()),
        Err(ReadError::BelowStart { start, .. }) => {
            Err(RebuildError::HistoryRemoved { projection: Arc::clone(projection), start })
        }
        Err(source) => Err(RebuildError::Failed(Arc::new(StopCause::Log {
            projection: Arc::clone(projection),
            after: Position::START,
            source,
        }))),
    }
}
