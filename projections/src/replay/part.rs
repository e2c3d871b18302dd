//! One projection of a replay, whatever its types.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use headwater_core::{EventId, EventLog, Position, Query, RecordedEvent, Visibility};

use super::ReplayOptions;
use crate::checkpoint::{ProjectionId, event_at};
use crate::projection::Projection;
use crate::runner::{Begin, StartError, StopCause, Worker, begin};

/// A page of the log.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) events: Arc<Vec<RecordedEvent>>,
    /// How far it reaches.
    pub(super) through: Position,
    /// The log's last event up to there.
    pub(super) last: Option<EventId>,
}

#[async_trait]
pub(super) trait Part: Send {
    fn name(&self) -> &Arc<str>;

    fn selection(&self) -> &Query;

    /// Returns up to where everything is applied.
    fn cursor(&self) -> Position;

    /// Finds out where to begin, and makes the empty read model where there is none.
    async fn begin(
        &mut self,
        log: &dyn EventLog,
        begin: Begin,
        head: (Position, Visibility),
    ) -> Result<(), StartError>;

    /// Applies what of a page is selected and new, tries again what fails, and returns how many
    /// events that were.
    async fn apply(&mut self, step: &Step, options: &ReplayOptions) -> Result<u64, StopCause>;

    /// Makes everything durable and gives the projection back.
    async fn finish(self: Box<Self>, log: &dyn EventLog) -> Result<(), StopCause>;
}

/// Where the projection is given back.
pub(super) type Back<P> = Arc<Mutex<Option<(P, <P as Projection>::Sink)>>>;

pub(super) struct Seat<P: Projection> {
    name: Arc<str>,
    selection: Query,
    /// Always there, but while a thread has it or after the runtime is gone.
    worker: Option<Worker<P>>,
    cursor: Position,
    /// The checkpoint that is committed.
    saved: Position,
    back: Back<P>,
}

impl<P: Projection> Seat<P> {
    pub(super) fn new(projection: P, sink: P::Sink, log: &dyn EventLog, back: Back<P>) -> Self {
        let (selection, id) = (projection.selection(), ProjectionId::of(&projection, log));
        let name = id.name.as_str().into();
        let worker = Some(Worker::new(projection, sink, id));
        Self { name, selection, worker, cursor: Position::START, saved: Position::START, back }
    }

    async fn block<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Worker<P>, &Cell<Option<Position>>) -> Result<T, StopCause>
        + Send
        + 'static,
    ) -> Result<T, StopCause> {
        Worker::block(&mut self.worker, &self.name, work).await
    }
}

impl<P: Projection> Drop for Seat<P> {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
            *back = Some(worker.into_parts());
        }
    }
}

#[async_trait]
impl<P: Projection> Part for Seat<P> {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn selection(&self) -> &Query {
        &self.selection
    }

    fn cursor(&self) -> Position {
        self.cursor
    }

    async fn begin(
        &mut self,
        log: &dyn EventLog,
        at: Begin,
        head: (Position, Visibility),
    ) -> Result<(), StartError> {
        self.cursor = begin(&mut self.worker, &self.name, log, at, head).await?;
        self.saved = self.cursor;
        Ok(())
    }

    async fn apply(&mut self, step: &Step, options: &ReplayOptions) -> Result<u64, StopCause> {
        if step.through <= self.cursor {
            return Ok(0);
        }
        let mut failures = 0;
        let applied = loop {
            let (step, selection, cursor) = (step.clone(), self.selection.clone(), self.cursor);
            let work = move |worker: &mut Worker<P>, at: &Cell<_>| {
                let new = |event: &&RecordedEvent| {
                    event.position > cursor && (selection.is_all() || selection.matches(*event))
                };
                let events: Vec<&RecordedEvent> = step.events.iter().filter(new).collect();
                if !events.is_empty() {
                    worker.apply(&events, (step.through, step.last), at)?;
                }
                Ok(events.len() as u64)
            };
            let cause = match self.block(work).await {
                Ok(applied) => break applied,
                Err(cause) => cause,
            };
            failures += 1;
            if !cause.is_worth_a_retry() || failures > options.retries {
                return Err(cause.after(failures));
            }
            tracing::warn!(projection = %self.name, %cause, failures, "a replay tries again");
            tokio::time::sleep(options.backoff.delay(failures)).await;
        };
        self.cursor = step.through;
        if applied > 0 {
            self.saved = step.through;
        }
        Ok(applied)
    }

    async fn finish(mut self: Box<Self>, log: &dyn EventLog) -> Result<(), StopCause> {
        let cursor = self.cursor;
        if cursor > self.saved {
            let event = event_at(log, cursor).await.map_err(|source| StopCause::Log {
                projection: Arc::clone(&self.name),
                after: cursor,
                source,
            })?;
            self.block(move |worker, _| worker.save(cursor, event)).await?;
        }
        self.block(|worker, _| worker.flush()).await
    }
}
