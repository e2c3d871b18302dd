//! Whether a read model is what the log says.

mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;

use headwater_core::{EventLog, Position, ReadError, SlotRange};

pub use self::memory::MemoryAudit;
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteAudit;
use crate::checkpoint::{Checkpoint, CheckpointMismatch, ProjectionId};
use crate::projection::Projection;
use crate::replay::{Replay, ReplayError, ReplayOptions};
use crate::runner::Progress;
use crate::sink::{Sink, SinkError};

/// A read model that can be compared with another one of the same shape. Its methods may block.
pub trait Audit: Send + 'static {
    /// Where the read model lives.
    type Sink: Sink;

    /// Takes a copy of what is committed, while the projection goes on, and returns its checkpoint;
    /// `None` if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be read or the copy not be made.
    fn copy(&mut self, projection: &str) -> Result<Option<Checkpoint>, SinkError>;

    /// Makes an empty place for another read model of the same shape, which goes with this.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    fn shadow(&mut self) -> Result<Self::Sink, SinkError>;

    /// Compares the copy with the shadow, all entries or those of the shadow only, and notes what
    /// differs.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read.
    fn compare(
        &mut self,
        shadow: Self::Sink,
        extent: Extent,
        differences: &mut Differences,
    ) -> Result<(), SinkError>;
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every entry of either.
    Whole,
    /// The entries of the shadow: others may be there besides.
    OfTheShadow,
}

/// An entry that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where it is: a path in a state, a row of a table.
    pub place: String,
    /// What the read model has; `None` if it lacks the entry.
    pub found: Option<String>,
    /// What the log makes of it; `None` if it should not be there.
    pub expected: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, found, expected } = self;
        let text = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{place}: found {}, expected {}", text(found), text(expected))
    }
}

/// What differs: all of it counted, and the beginning of it kept.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    kept: Vec<Difference>,
    count: u64,
    max: usize,
}

impl Differences {
    fn keeping(max: usize) -> Self {
        Self { kept: Vec::new(), count: 0, max }
    }

    /// Notes an entry that differs.
    pub fn note(&mut self, place: String, found: Option<String>, expected: Option<String>) {
        self.count += 1;
        if self.kept.len() < self.max {
            self.kept.push(Difference { place, found, expected });
        }
    }
}

/// How a read model is checked.
#[derive(Clone, Debug)]
pub struct DriftOptions {
    /// Folds only the events of these slots and compares only what they lead to, which takes as much
    /// less time; everything where this is `None`.
    ///
    /// Right for read models whose entries depend on the events of one key each. That an entry is
    /// there which no event explains is only found by a whole check.
    pub sample: Option<SlotRange>,
    /// How many differences are told.
    pub differences_max: usize,
    /// How many events are applied in one transaction of the shadow at most, from 1.
    pub batch_events: usize,
    /// How many events are read in a second at most; no limit where this is `None`.
    pub events_per_second_max: Option<NonZeroU64>,
}

impl Default for DriftOptions {
    /// Checks everything, and tells up to 100 differences.
    fn default() -> Self {
        Self {
            sample: None,
            differences_max: 100,
            batch_events: 10_000,
            events_per_second_max: None,
        }
    }
}

/// What a check of a read model found.
#[derive(Clone, Debug)]
pub struct DriftReport {
    /// Where the read model stood when it was copied.
    pub position: Position,
    /// How many events were applied to the shadow.
    pub applied: u64,
    /// The first differences.
    pub differences: Vec<Difference>,
    /// How many there are.
    pub count: u64,
}

impl DriftReport {
    /// Returns whether the read model is what the log says, as far as it was compared.
    pub fn is_clean(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for DriftReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, applied, differences, count } = self;
        if self.is_clean() {
            return write!(f, "no drift at position {position} ({applied} events applied)");
        }
        write!(f, "{count} differences at position {position} ({applied} events applied)")?;
        differences.iter().try_for_each(|difference| write!(f, "\n- {difference}"))
    }
}

/// Why a read model could not be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriftError {
    /// The read model has no checkpoint: it was never begun.
    #[error("there is no read model of {projection}")]
    NoModel {
        /// The projection.
        projection: String,
    },
    /// The read model is another version's, log's or selection's: what it should be is not known.
    #[error(transparent)]
    Mismatch(#[from] CheckpointMismatch),
    /// The read model could not be copied or compared.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The log could not be read.
    #[error("the log cannot be read")]
    Log(#[from] ReadError),
    /// The shadow could not be built.
    #[error("the log could not be applied to the shadow")]
    Replay(#[from] ReplayError),
    /// The runtime is being shut down, or the code that compares has panicked.
    #[error("the check was ended")]
    Ended,
}

/// Checks a read model against the log while its projection goes on: copies it, applies the log anew
/// to a shadow up to the copy's checkpoint, and compares the two. Must be called inside a tokio runtime.
///
/// What differs was changed beside the projection, was damaged, or was made by code that is not a
/// function of the events, such as one that looks at the clock. Build it anew with
/// [`RunningBuild::rebuild_beside`](crate::RunningBuild::rebuild_beside).
///
/// # Errors
///
/// [`DriftError`]. Differences are no error.
///
/// # Cancel safety
///
/// Cancel safe: the read model is only read.
///
/// # Complexity
///
/// Linear in the events that the projection selects and in the size of the read model, of which there
/// are two more meanwhile.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use headwater_core::{Append, EventLog, EventType, MemoryLog, NewEvent, Query, RecordedEvent, StreamId};
/// use headwater_projections::{
///     ApplyError, DriftOptions, MemoryAudit, MemorySink, MemoryTx, Projection, ProjectionRunner,
///     RunnerOptions, check_drift,
/// };
///
/// struct Count;
///
/// impl Projection for Count {
///     type Sink = MemorySink<u64>;
/// #   fn name(&self) -> &str { "count" }
/// #   fn version(&self) -> u32 { 1 }
/// #   fn selection(&self) -> Query { Query::all() }
/// #   fn reset(&mut self, tx: &mut MemoryTx<'_, u64>) -> Result<(), ApplyError> {
/// #       **tx = 0;
/// #       Ok(())
/// #   }
///     // ...
///     fn apply(&mut self, tx: &mut MemoryTx<'_, u64>, _: &RecordedEvent) -> Result<(), ApplyError> {
///         **tx += 1;
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let log = Arc::new(MemoryLog::new());
/// # let event = NewEvent::json(StreamId::new("order-17")?, EventType::new("placed")?, &"a book")?;
/// # let last = log.append(Append::new([event])).await?.last;
/// # let patience = std::time::Duration::from_secs(10);
/// let sink = MemorySink::new();
/// let audit = MemoryAudit::new(sink.view());
/// let running = ProjectionRunner::start(log.clone(), Count, sink, RunnerOptions::default()).await?;
/// running.wait_for(last, patience).await?;
/// // Now and then:
/// let report = check_drift(log, Count, audit, DriftOptions::default(), |_| {}).await?;
/// assert!(report.is_clean(), "{report}");
/// # Ok(())
/// # }
/// ```
pub async fn check_drift<P: Projection, A: Audit<Sink = P::Sink>>(
    log: Arc<dyn EventLog>,
    projection: P,
    audit: A,
    options: DriftOptions,
    progress: impl FnMut(&Progress),
) -> Result<DriftReport, DriftError> {
    let id = ProjectionId::of(&projection, &*log);
    let name = id.name.clone();
    let (audit, copied) = blocking(audit, move |audit| {
        let checkpoint = audit.copy(&name)?;
        checkpoint.map(|checkpoint| Ok((checkpoint, audit.shadow()?))).transpose()
    })
    .await?;
    let Some((checkpoint, shadow)) = copied? else {
        return Err(DriftError::NoModel { projection: id.name });
    };
    checkpoint.check(&id, checkpoint.position)?;
    checkpoint.check_event(&*log).await??;
    let mut applied = 0;
    let mut progress = progress;
    let mut replay = Replay::over(
        log,
        ReplayOptions {
            through: Some(checkpoint.position),
            batch_events: options.batch_events,
            events_per_second_max: options.events_per_second_max,
            ..ReplayOptions::default()
        },
    );
    replay.take_only(options.sample);
    let part = replay.add(projection, shadow);
    replay
        .run(|now| {
            applied = now.applied;
            progress(now);
        })
        .await?;
    let (_, shadow) = part.into_inner().ok_or(DriftError::Ended)?;
    let extent = if options.sample.is_some() { Extent::OfTheShadow } else { Extent::Whole };
    let mut differences = Differences::keeping(options.differences_max);
    let (_, compared) = blocking(audit, move |audit| {
        audit.compare(shadow, extent, &mut differences)?;
        Ok(differences)
    })
    .await?;
    let Differences { kept: differences, count, .. } = compared?;
    Ok(DriftReport { position: checkpoint.position, applied, differences, count })
}

/// Works on a thread that may block, and gives back what it worked with.
async fn blocking<A: Audit, T: Send + 'static>(
    mut audit: A,
    work: impl FnOnce(&mut A) -> Result<T, SinkError> + Send + 'static,
) -> Result<(A, Result<T, SinkError>), DriftError> {
    let task = tokio::task::spawn_blocking(move || {
        let done = work(&mut audit);
        (audit, done)
    });
    task.await.map_err(|_| DriftError::Ended)
}

#[cfg(test)]
mod tests;
