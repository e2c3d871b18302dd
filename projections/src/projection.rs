//! The trait of a projection: a fold of events into a read model.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use headwater_core::{Query, RecordedEvent};

use crate::sink::Sink;

/// Folds events into a read model that can be rebuilt at any time.
///
/// # Guarantees
///
/// Every selected event is applied exactly once, in the log's order, as seen in the sink: the
/// checkpoint is committed in the same transaction. A batch that fails is rolled back whole and
/// applied again, so [`apply`](Self::apply) may run more than once for an event, each time on a
/// sink that has not seen it. It must therefore do nothing that the sink does not undo: no
/// requests, no commands, no memory of its own that matters. Use a
/// [`Reactor`](crate::Reactor) for effects.
///
/// Same events, same read model: no clock, no randomness.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
/// use headwater_core::{Query, RecordedEvent};
/// use headwater_projections::{ApplyError, MemorySink, MemoryTx, Projection};
///
/// /// Counts the events of each type.
/// struct EventCounts;
///
/// impl Projection for EventCounts {
///     type Sink = MemorySink<BTreeMap<String, u64>>;
///
///     fn name(&self) -> &str {
///         "event-counts"
///     }
///
///     fn version(&self) -> u32 {
///         1
///     }
///
///     fn selection(&self) -> Query {
///         Query::all()
///     }
///
///     fn reset(&mut self, tx: &mut MemoryTx<'_, BTreeMap<String, u64>>) -> Result<(), ApplyError> {
///         tx.clear();
///         Ok(())
///     }
///
///     fn apply(
///         &mut self,
///         tx: &mut MemoryTx<'_, BTreeMap<String, u64>>,
///         event: &RecordedEvent,
///     ) -> Result<(), ApplyError> {
///         *tx.entry(event.event_type.to_string()).or_default() += 1;
///         Ok(())
///     }
/// }
/// ```
pub trait Projection: Send + 'static {
    /// Where the read model lives.
    type Sink: Sink;

    /// Returns the name, unique in its sink and the same for ever.
    fn name(&self) -> &str;

    /// Returns the version of the fold. Raise it when [`apply`](Self::apply) or the shape of the
    /// read model changes: what an older version built is then refused, not mixed.
    fn version(&self) -> u32;

    /// Returns which events are applied.
    ///
    /// The others are not all passed over unread: a [`Checkpoint`](crate::Checkpoint) names the
    /// log's last event, selected or not. If that one is damaged, the projection stops and says so.
    fn selection(&self) -> Query;

    /// Makes the empty read model, such as its tables. Runs once, in the transaction of the first
    /// checkpoint, and after each [`reset`](Self::reset).
    ///
    /// # Errors
    ///
    /// Whatever the sink says; nothing was made then.
    fn init(&mut self, tx: &mut <Self::Sink as Sink>::Tx<'_>) -> Result<(), ApplyError> {
        let _ = tx;
        Ok(())
    }

    /// Removes the whole read model, that of an older version or none at all included.
    ///
    /// # Errors
    ///
    /// Whatever the sink says; nothing was removed then.
    fn reset(&mut self, tx: &mut <Self::Sink as Sink>::Tx<'_>) -> Result<(), ApplyError>;

    /// Takes one event into the read model.
    ///
    /// # Errors
    ///
    /// Whatever the sink or the payload says. The whole batch is rolled back and tried again as
    /// [`RunnerOptions`](crate::RunnerOptions) say.
    fn apply(
        &mut self,
        tx: &mut <Self::Sink as Sink>::Tx<'_>,
        event: &RecordedEvent,
    ) -> Result<(), ApplyError>;
}

/// What a projection's own code failed with. Every error converts into it, so `?` works.
#[derive(Clone)]
pub struct ApplyError(Arc<dyn Error + Send + Sync>);

impl ApplyError {
    /// Makes an error from a text.
    pub fn message(text: impl Into<String>) -> Self {
        Self(Arc::from(Box::<dyn Error + Send + Sync>::from(text.into())))
    }

    /// Returns the error that was converted.
    pub fn into_inner(self) -> Arc<dyn Error + Send + Sync> {
        self.0
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for ApplyError {
    fn from(error: E) -> Self {
        Self(Arc::new(error))
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
