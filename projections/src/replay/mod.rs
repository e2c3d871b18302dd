//! Many projections in one pass over the log.

mod part;

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use headwater_core::{EventLog, Page, Position, Query, Read, ReadError, SlotRange, Visibility};
use tokio::time::Instant;

use self::part::{Back, Part, Seat, Step};
use crate::checkpoint::last_event;
use crate::projection::Projection;
use crate::retry::Backoff;
use crate::runner::{Begin, Meter, Progress, StartError, StopCause, Throttle};

/// How a [`Replay`] goes through the log.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Where each projection begins.
    pub begin: Begin,
    /// Where to end; at the head of the log as it is when the replay begins where this is `None`.
    pub through: Option<Position>,
    /// How many events are read and applied in one transaction at most, from 1. The next ones are
    /// read meanwhile.
    pub batch_events: usize,
    /// Which events count as being there; what the log calls settled where this is `None`.
    pub visibility: Option<Visibility>,
    /// How often a failing batch, or a log that cannot be read, is tried again.
    pub retries: u32,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// How many events are read in a second at most, so that others have room; no limit where this
    /// is `None`.
    pub events_per_second_max: Option<NonZeroU64>,
}

impl Default for ReplayOptions {
    /// Resumes and goes to the head, with batches of 10,000 events and 5 retries from 100 ms up.
    fn default() -> Self {
        Self {
            begin: Begin::Resume,
            through: None,
            batch_events: 10_000,
            visibility: None,
            retries: 5,
            backoff: Backoff::default(),
            events_per_second_max: None,
        }
    }
}

/// Applies a log to many projections while it is read once, each on a thread of its own.
///
/// For read models that are rebuilt together, before their projections are started: with
/// [`RunningBuild`](crate::RunningBuild) beside those that are live.
///
/// # Guarantees
///
/// Those of [`Projection`]. Each model has a checkpoint of its own: where one fails, the others go on,
/// and a replay that was cut off, by a crash or by dropping its future, goes on where each model
/// is.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use headwater_core::{Append, EventLog, EventType, MemoryLog, NewEvent, Query, RecordedEvent, StreamId};
/// use headwater_projections::{
///     ApplyError, MemorySink, MemoryTx, Projection, ProjectionRunner, Replay, ReplayOptions, RunnerOptions,
/// };
///
/// /// Counts the events of one type.
/// struct CountOf(&'static str);
///
/// impl Projection for CountOf {
///     type Sink = MemorySink<u64>;
/// #   fn name(&self) -> &str { self.0 }
/// #   fn version(&self) -> u32 { 1 }
/// #   fn reset(&mut self, tx: &mut MemoryTx<'_, u64>) -> Result<(), ApplyError> {
/// #       **tx = 0;
/// #       Ok(())
/// #   }
///     // ...
///     fn selection(&self) -> Query {
///         Query::types([EventType::new(self.0).expect("it is a type")])
///     }
///
///     fn apply(&mut self, tx: &mut MemoryTx<'_, u64>, _: &RecordedEvent) -> Result<(), ApplyError> {
///         **tx += 1;
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let log = Arc::new(MemoryLog::new());
/// for happened in ["placed", "paid", "placed"] {
///     let event = NewEvent::json(StreamId::new("order-17")?, EventType::new(happened)?, &"a book")?;
///     log.append(Append::new([event])).await?;
/// }
/// let mut replay = Replay::over(log.clone(), ReplayOptions::default());
/// let placed = replay.add(CountOf("placed"), MemorySink::new());
/// let paid = replay.add(CountOf("paid"), MemorySink::new());
/// replay.run(|progress| println!("{} of {}", progress.position, progress.head)).await?;
///
/// let (projection, sink) = placed.into_inner().expect("the replay is over");
/// assert_eq!(*sink.view().get(), 2);
/// // It follows the log from here.
/// ProjectionRunner::start(log, projection, sink, RunnerOptions::default()).await?;
/// # drop(paid);
/// # Ok(())
/// # }
/// ```
pub struct Replay {
    log: Arc<dyn EventLog>,
    options: ReplayOptions,
    /// Events of other slots are left out.
    only: Option<SlotRange>,
    parts: Vec<Box<dyn Part>>,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.parts.iter().map(|part| part.name()).collect();
        f.debug_struct("Replay").field("projections", &names).finish_non_exhaustive()
    }
}

/// A projection and its sink that a [`Replay`] has, to be had back when that is over.
pub struct Replayed<P: Projection>(Back<P>);

impl<P: Projection> Replayed<P> {
    /// Returns the projection with its sink; `None` as long as the replay goes on, or where its future
    /// was dropped half way through a batch.
    pub fn into_inner(self) -> Option<(P, P::Sink)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<P: Projection> fmt::Debug for Replayed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayed").finish_non_exhaustive()
    }
}

/// Why a replay did not come to its end. What each model has is committed; run it again to go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A projection could not begin; nothing was applied to any.
    #[error("projection {projection} cannot be replayed")]
    Start {
        /// The projection.
        projection: Arc<str>,
        /// Why.
        source: StartError,
    },
    /// Batches have no room. Let at least one event in.
    #[error("replay option batch_events is zero; let at least one event in")]
    EmptyBatches,
    /// The log could not be read.
    #[error("the log cannot be read after position {after}")]
    Log {
        /// How far it was read.
        after: Position,
        /// What the log said.
        source: ReadError,
    },
    /// Some projections failed; the others came to the end.
    #[error("{} of the projections failed: {}", .0.len(), names(.0))]
    Failed(Vec<StopCause>),
}

fn names(causes: &[StopCause]) -> String {
    let texts: Vec<String> = causes.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl Replay {
    /// Begins without projections.
    pub fn over(log: Arc<dyn EventLog>, options: ReplayOptions) -> Self {
        Self { log, options, only: None, parts: Vec::new() }
    }

    /// Adds a projection with its sink, and returns what gives them back afterwards.
    pub fn add<P: Projection>(&mut self, projection: P, sink: P::Sink) -> Replayed<P> {
        let back = Arc::new(Mutex::new(None));
        let seat = Seat::new(projection, sink, &*self.log, Arc::clone(&back));
        self.parts.push(Box::new(seat));
        Replayed(back)
    }

    /// Leaves out the events of other slots, for models that are looked at and thrown away.
    pub(crate) fn take_only(&mut self, slots: Option<SlotRange>) {
        self.only = slots;
    }

    /// Goes through the log, tells after each batch how far it is, and flushes every sink at the
    /// end. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ReplayError::Start`] before anything was applied; [`ReplayError::Failed`] with each
    /// projection that failed, when the others are done.
    ///
    /// # Cancel safety
    ///
    /// A dropped future ends the replay after the batch in hand. What was committed stays, and
    /// another replay goes on there.
    ///
    /// # Complexity
    ///
    /// Reads the events that any projection selects once, from the one that is farthest behind on.
    pub async fn run(self, mut progress: impl FnMut(&Progress)) -> Result<(), ReplayError> {
        let Self { log, options, only, mut parts } = self;
        if options.batch_events == 0 {
            return Err(ReplayError::EmptyBatches);
        }
        let visibility = options.visibility.unwrap_or_else(|| log.settled_visibility());
        let failed = |source| ReplayError::Log { after: Position::START, source };
        let head = log.head(visibility).await.map_err(failed)?;
        let through = options.through.unwrap_or(head).min(head);
        for part in &mut parts {
            let begun = part.begin(&*log, options.begin, (head, visibility)).await;
            let projection = Arc::clone(part.name());
            begun.map_err(|source| ReplayError::Start { projection, source })?;
        }
        let Some(after) = parts.iter().map(|part| part.cursor()).min() else { return Ok(()) };
        let all = parts.iter().map(|part| part.selection().clone()).reduce(Query::or);
        let mut throttle = Throttle::new(options.events_per_second_max);
        let batch_events = throttle.batch(options.batch_events);
        let all = all.unwrap_or_default();
        let reader = Reader { log, options, only, all, batch_events, visibility, through };

        let mut causes = Vec::new();
        let mut pass = Pass { after, applied: 0, meter: Meter::default() };
        pass.meter.note(Instant::now(), after);
        let mut next = reader.read(after).await?;
        while let Some(step) = next.take() {
            // The next page is read while this one is applied.
            let ahead = reader.read(step.through);
            let (applied, read) = tokio::join!(apply_all(&mut parts, &step, &reader), ahead);
            causes.extend(applied.causes);
            pass.note(&step, applied.events);
            progress(&pass.progress(through));
            throttle.note(step.events.len() as u64);
            tokio::time::sleep_until(throttle.not_before()).await;
            next = if parts.is_empty() { None } else { read? };
        }
        for part in parts {
            causes.extend(part.finish(&*reader.log).await.err());
        }
        if causes.is_empty() { Ok(()) } else { Err(ReplayError::Failed(causes)) }
    }
}

/// Reads page after page.
struct Reader {
    log: Arc<dyn EventLog>,
    options: ReplayOptions,
    only: Option<SlotRange>,
    /// What any of the projections selects.
    all: Query,
    batch_events: usize,
    visibility: Visibility,
    through: Position,
}

impl Reader {
    /// Reads the next page; `None` at the end.
    async fn read(&self, after: Position) -> Result<Option<Step>, ReplayError> {
        let mut failures = 0;
        loop {
            match self.try_read(after).await {
                Ok(step) => return Ok(step),
                Err(ReadError::Io(_) | ReadError::Engine(_)) if failures < self.options.retries => {
                    failures += 1;
                    tokio::time::sleep(self.options.backoff.delay(failures)).await;
                }
                Err(source) => return Err(ReplayError::Log { after, source }),
            }
        }
    }

    async fn try_read(&self, after: Position) -> Result<Option<Step>, ReadError> {
        if after >= self.through {
            return Ok(None);
        }
        let read = Read::forward(self.all.clone(), after)
            .limit(self.batch_events)
            .visible(self.visibility);
        let Page { mut events, scanned, .. } = self.log.read(read).await?;
        events.retain(|event| event.position <= self.through);
        let last = last_event(&*self.log, &events, scanned.min(self.through)).await?;
        if let Some(slots) = self.only {
            events.retain(|event| slots.contains(event.slot));
        }
        let through = scanned.min(self.through);
        Ok(Some(Step { events: Arc::new(events), through, last }))
    }
}

/// What became of a page.
struct Applied {
    events: u64,
    causes: Vec<StopCause>,
}

/// Applies a page to each projection, all beside each other. Those that fail for good are left out
/// from then on.
async fn apply_all(parts: &mut Vec<Box<dyn Part>>, step: &Step, reader: &Reader) -> Applied {
    let mut set = tokio::task::JoinSet::new();
    for (index, mut part) in parts.drain(..).enumerate() {
        let (step, options) = (step.clone(), reader.options.clone());
        set.spawn(async move {
            let applied = part.apply(&step, &options).await;
            (index, part, applied)
        });
    }
    let (mut done, mut result) = (Vec::new(), Applied { events: 0, causes: Vec::new() });
    while let Some(joined) = set.join_next().await {
        // The parts catch their panics; a runtime that ends takes this future with it.
        let Ok((index, part, applied)) = joined else { continue };
        match applied {
            Ok(events) => {
                result.events += events;
                done.push((index, part));
            }
            Err(cause) => result.causes.push(cause),
        }
    }
    done.sort_by_key(|(index, _)| *index);
    parts.extend(done.into_iter().map(|(_, part)| part));
    result
}

/// How far a replay is.
struct Pass {
    after: Position,
    applied: u64,
    meter: Meter,
}

impl Pass {
    fn note(&mut self, step: &Step, applied: u64) {
        self.after = step.through;
        self.applied += applied;
        self.meter.note(Instant::now(), step.through);
    }

    fn progress(&self, head: Position) -> Progress {
        Progress {
            position: self.after,
            head,
            applied: self.applied,
            positions_per_second: self.meter.rate(),
            eta: self.meter.eta(self.after, head),
        }
    }
}

#[cfg(test)]
mod tests;
