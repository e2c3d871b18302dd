//! A projection with its sink: what blocks, one transaction at a time.

use std::borrow::Borrow;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use headwater_core::{EventId, Position, RecordedEvent, TRACEPARENT};

use super::status::StopCause;
use crate::checkpoint::{Checkpoint, ProjectionId};
use crate::projection::{ApplyError, Projection};
use crate::sink::{Sink, SinkError};

pub(crate) struct Worker<P: Projection> {
    projection: P,
    sink: P::Sink,
    id: ProjectionId,
    name: Arc<str>,
}

impl<P: Projection> Worker<P> {
    pub(crate) fn new(projection: P, sink: P::Sink, id: ProjectionId) -> Self {
        let name = id.name.as_str().into();
        Self { projection, sink, id, name }
    }

    pub(crate) fn id(&self) -> &ProjectionId {
        &self.id
    }

    pub(crate) fn into_parts(self) -> (P, P::Sink) {
        (self.projection, self.sink)
    }

    fn checkpoint(&self, position: Position, event: Option<EventId>) -> Checkpoint {
        Checkpoint { id: self.id.clone(), position, event }
    }

    fn sink_failed(name: &Arc<str>) -> impl Fn(SinkError) -> StopCause + use<P> {
        let projection = Arc::clone(name);
        move |source| StopCause::Sink { projection: Arc::clone(&projection), source }
    }

    pub(crate) fn load(&mut self, head: Position) -> Result<Option<Checkpoint>, StopCause> {
        let loaded = self.sink.load(&self.id, head);
        loaded.map_err(Self::sink_failed(&self.name))
    }

    /// Makes an empty read model, after removing what is there if asked to, whoever made it, and commits
    /// the checkpoint before the first event with it.
    pub(crate) fn begin_anew(&mut self, reset: bool) -> Result<(), StopCause> {
        let (failed, checkpoint) =
            (Self::sink_failed(&self.name), self.checkpoint(Position::START, None));
        let setup = |action| {
            let projection = Arc::clone(&self.name);
            move |error: ApplyError| StopCause::Setup {
                projection,
                action,
                source: error.into_inner(),
            }
        };
        let begun = if reset { self.sink.begin_anew() } else { self.sink.begin() };
        let mut tx = begun.map_err(&failed)?;
        if reset {
            self.projection.reset(&mut tx).map_err(setup("remove"))?;
        }
        self.projection.init(&mut tx).map_err(setup("make"))?;
        P::Sink::commit(tx, &checkpoint).map_err(failed)
    }

    /// Applies events and commits them with the checkpoint `through`, up to which the log's last
    /// event is `event`: all or nothing.
    pub(crate) fn apply<E: Borrow<RecordedEvent>>(
        &mut self,
        events: &[E],
        (through, event): (Position, Option<EventId>),
        current: &Cell<Option<Position>>,
    ) -> Result<(), StopCause> {
        let (failed, checkpoint) = (Self::sink_failed(&self.name), self.checkpoint(through, event));
        let mut tx = self.sink.begin().map_err(&failed)?;
        let _batch = tracing::info_span!(
            "headwater.batch",
            projection = %self.name,
            events = events.len(),
            through = through.get(),
        )
        .entered();
        for event in events.iter().map(E::borrow) {
            let _event = tracing::debug_span!(
                "headwater.apply",
                position = event.position.get(),
                event_type = event.event_type.as_str(),
                correlation_id = event.correlation_id.map(tracing::field::display),
                traceparent = event.headers.get(TRACEPARENT),
            )
            .entered();
            current.set(Some(event.position));
            let applied = self.projection.apply(&mut tx, event);
            applied.map_err(|error| StopCause::Apply {
                projection: Arc::clone(&self.name),
                position: event.position,
                event_type: event.event_type.clone(),
                attempts: 1,
                source: error.into_inner(),
            })?;
        }
        current.set(None);
        P::Sink::commit(tx, &checkpoint).map_err(failed)
    }

    /// Commits a checkpoint on its own, where nothing matched.
    pub(crate) fn save(
        &mut self,
        position: Position,
        event: Option<EventId>,
    ) -> Result<(), StopCause> {
        self.apply::<RecordedEvent>(&[], (position, event), &Cell::new(None))
    }

    pub(crate) fn flush(&mut self) -> Result<(), StopCause> {
        self.sink.flush().map_err(Self::sink_failed(&self.name))
    }

    /// Runs `work` on a thread that may block. A panic comes back as a cause.
    ///
    /// The worker is gone from its place meanwhile, and for good if the runtime ends.
    pub(crate) async fn block<T: Send + 'static>(
        place: &mut Option<Self>,
        name: &Arc<str>,
        work: impl FnOnce(&mut Self, &Cell<Option<Position>>) -> Result<T, StopCause> + Send + 'static,
    ) -> Result<T, StopCause> {
        let gone = || StopCause::Runtime { projection: Arc::clone(name) };
        let mut worker = place.take().ok_or_else(gone)?;
        let task = tokio::task::spawn_blocking(move || {
            let current = Cell::new(None);
            // After a panic the projection is not called again; the sink has rolled back.
            let caught = catch_unwind(AssertUnwindSafe(|| work(&mut worker, &current)));
            let result = caught.unwrap_or_else(|panic| {
                Err(StopCause::Panicked {
                    projection: Arc::clone(&worker.name),
                    position: current.get(),
                    message: crate::panic::message(&*panic),
                })
            });
            (worker, result)
        });
        let (worker, result) = task.await.map_err(|_| gone())?;
        *place = Some(worker);
        result
    }
}
