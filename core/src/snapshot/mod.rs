//! Snapshots: states that were folded before, as a cache and never as the truth.
//!
//! `record.rs` is what is kept, `store.rs` and `memory.rs` where, `fold.rs` how a state is loaded from
//! it and the log, `origin.rs` what may be wrong with one, `views.rs` the same for decisions.

mod fold;
mod memory;
mod origin;
mod record;
mod store;
mod views;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::fold::{Folded, Selected, Taken};
use self::record::Identity;
use crate::codec::Codec;
use crate::decider::Decider;
use crate::event::RecordedEvent;
use crate::execute::{ExecuteError, ExecuteOptions, Executed, LoadError, Loaded, attempt};
use crate::id::LogId;
use crate::kind::{DecodeError, Event, decode_event};
use crate::log::EventLog;
use crate::name::StreamId;
use crate::position::Position;
use crate::query::Query;
use crate::shape::TypeShape;

pub use memory::MemorySnapshots;
pub use origin::{NoSnapshot, Origin};
pub use store::{SnapshotKey, SnapshotStore, SnapshotStoreError};
pub use views::SnapshotViews;

/// A fold whose states may be kept: a [`Decider`] with its state, or a [`View`](crate::View).
///
/// # What is never noticed
///
/// A snapshot is used again where name, version, shape and codec are the same. So raise
/// [`VERSION`](Self::VERSION) whenever the same events give another state: when `evolve` or `apply`
/// changes, an upcaster that it rests on, or what the fields of the state mean. When the shape of the
/// state changes and [`SHAPE`](Self::SHAPE) is given, that is noticed without it.
/// [`Snapshots::compare`] finds what was forgotten.
pub trait Snapshotted {
    /// How states are encoded. [`Bincode`](crate::Bincode) is small and fast, and needs a state that
    /// serde derives without `flatten`, `untagged` or skipped fields, and takes 64 MiB at most;
    /// [`Json`](crate::Json) is the other choice.
    type Codec: Codec;

    /// The frozen name of the fold, another one for each in the program.
    const NAME: &'static str;

    /// The version of the fold, to be raised with each change of what it makes of the same events.
    const VERSION: u32;

    /// How the state is stored: `Some(State::SHAPE)` where it derives [`Shape`](crate::shape::Shape).
    /// A snapshot of another shape is not used.
    const SHAPE: Option<TypeShape> = None;
}

/// When a snapshot is taken. Either of the two suffices, and there is none of what has not changed since
/// the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// When at least so many events had to be read and folded, from 1: no load folds more than these and
    /// those of one append, once there is a snapshot. Each costs an encoding of the state.
    pub every_events: u64,
    /// When reading and folding them took at least so long, however many they were.
    pub load_time: Duration,
}

impl Default for SnapshotPolicy {
    /// 100 events, or 10 ms.
    fn default() -> Self {
        Self { every_events: 100, load_time: Duration::from_millis(10) }
    }
}

impl SnapshotPolicy {
    fn is_due(&self, events: u64, took: Duration) -> bool {
        events > 0 && (events >= self.every_events || took >= self.load_time)
    }
}

/// Loads and decides as [`load`](crate::load), [`execute`](crate::execute()) and
/// [`decide`](crate::decide) do, and begins at snapshots. Clones share the store.
///
/// # Guarantees
///
/// Everything is as it would be without, but for the time: a snapshot is used only if it is whole, of
/// the same log, fold, version, shape, codec and stream, and if the log still has its last event where
/// it was. Otherwise all events are read, and the next snapshot replaces it. A store that fails is a
/// store without snapshots. What holds of checkpoints holds here: a log whose end was lost is told
/// apart by the id of one event, so the ids of events must be unique.
///
/// One difference remains: where retention has removed the beginning of a stream, loading it is an
/// error, and with a snapshot it may still succeed. Rest nothing on it: the snapshot may go.
///
/// # What is kept, and when
///
/// States as they were loaded, where the [`policy`](SnapshotPolicy) says so; never events that were
/// decided and are not read back yet. A state is encoded between loading and deciding, and given to the
/// store once the command is done, whatever came of it.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use headwater_core::{
///     Bincode, Decider, Event, ExecuteOptions, MemoryLog, MemorySnapshots, Snapshotted, Snapshots,
///     StreamId,
/// };
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Serialize, Deserialize, Event)]
/// # #[event(crate = headwater_core)]
/// #[event(name = "counter.raised")]
/// struct Raised {
///     by: u64,
/// }
///
/// struct Counter;
///
/// impl Decider for Counter {
///     type Command = u64;
///     type Event = Raised;
///     type State = u64;
///     type Error = std::convert::Infallible;
///
///     fn decide(&self, _: &u64, by: u64) -> Result<Vec<Raised>, Self::Error> {
///         Ok(vec![Raised { by }])
///     }
///
///     fn evolve(&self, count: u64, event: &Raised) -> u64 {
///         count + event.by
///     }
/// }
///
/// impl Snapshotted for Counter {
///     type Codec = Bincode;
///     const NAME: &'static str = "counter";
///     const VERSION: u32 = 1;
/// }
///
/// # pollster::block_on(async {
/// let log = MemoryLog::new();
/// let snapshots = Snapshots::new(Arc::new(MemorySnapshots::default()));
/// let stream = StreamId::new("counter-1")?;
/// for _ in 0..250 {
///     snapshots.execute(&log, &Counter, &stream, 2, &ExecuteOptions::default()).await?;
/// }
/// let (counter, origin) = snapshots.load(&log, &Counter, &stream).await?;
/// assert_eq!(counter.state, 500);
/// assert!(origin.is_snapshot());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Snapshots {
    store: Arc<dyn SnapshotStore>,
    policy: SnapshotPolicy,
}

/// What a snapshot says beside a fold of all events.
#[derive(Clone, Debug)]
pub enum Comparison {
    /// The same, up to this position.
    Same(Position),
    /// Something else. The fold was changed and its version was not, or it is not deterministic.
    Different {
        /// Where the snapshot ends.
        through: Position,
    },
    /// There is none that would be used.
    NoSnapshot(NoSnapshot),
}

impl Snapshots {
    /// Takes snapshots as the default policy says.
    pub fn new(store: Arc<dyn SnapshotStore>) -> Self {
        Self::with_policy(store, SnapshotPolicy::default())
    }

    /// Takes snapshots as a policy says.
    pub fn with_policy(store: Arc<dyn SnapshotStore>, policy: SnapshotPolicy) -> Self {
        Self { store, policy }
    }

    /// Forgets all snapshots, of all logs that share the store. It costs time and nothing else. Do so
    /// where personal data is to be forgotten: a state may hold what its events no longer show.
    ///
    /// # Errors
    ///
    /// [`SnapshotStoreError`] if the store could not.
    pub async fn clear(&self) -> Result<(), SnapshotStoreError> {
        self.store.clear().await
    }

    /// Folds a stream into the decider's state, as [`load`](crate::load) does, and says where the
    /// state came from.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the log cannot be read or an event is not one of the decider's.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Complexity
    ///
    /// Linear in the number of events behind the snapshot, and in the size of the state.
    pub async fn load<D>(
        &self,
        log: &dyn EventLog,
        decider: &D,
        stream: &StreamId,
    ) -> Result<(Loaded<D::State>, Origin), LoadError>
    where
        D: Decider<Event: Event, State: Serialize + DeserializeOwned> + Snapshotted,
    {
        let (folded, taken) = self.fold_stream(log, decider, stream).await?;
        self.save(taken).await;
        let Folded { state, revision, origin, .. } = folded;
        Ok((Loaded { state, revision }, origin))
    }

    /// Executes a command against one stream, as [`execute`](crate::execute()) does.
    ///
    /// # Errors
    ///
    /// [`ExecuteError`]; its [`effect`](ExecuteError::effect) says whether events may have been
    /// written. Nothing that goes wrong with snapshots is among them.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may still append, and may lose a snapshot. With an
    /// [`append_id`](ExecuteOptions::append_id) the command can be repeated.
    pub async fn execute<D>(
        &self,
        log: &dyn EventLog,
        decider: &D,
        stream: &StreamId,
        command: D::Command,
        options: &ExecuteOptions,
    ) -> Result<Executed<D::State, D::Event>, ExecuteError<D::Error>>
    where
        D: Decider<
                Command: Clone,
                Event: Event,
                State: Serialize + DeserializeOwned,
                Error: std::error::Error + 'static,
            > + Snapshotted,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let folded = self.fold_stream(log, decider, stream).await;
            let (folded, taken) = folded.map_err(|error| error.of(stream))?;
            let loaded = Loaded { state: folded.state, revision: folded.revision };
            let command = command.clone();
            let outcome = attempt(log, decider, stream, loaded, command, options, attempts).await;
            self.save(taken).await;
            if let Some(done) = outcome? {
                return Ok(done);
            }
        }
    }

    /// Compares the snapshot of a stream with what its events give now. For tests, and for a look at
    /// some streams now and then: it reads what snapshots save reading.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn compare<D>(
        &self,
        log: &dyn EventLog,
        decider: &D,
        stream: &StreamId,
    ) -> Result<Comparison, LoadError>
    where
        D: Decider<Event: Event, State: PartialEq + DeserializeOwned> + Snapshotted,
    {
        let identity = Ok(identity_of_stream::<D>(log.id(), stream));
        let (mark, kept) = match self.recall::<D::Codec, D::State>(identity).await.found {
            Ok(found) => found,
            Err(reason) => return Ok(Comparison::NoSnapshot(reason)),
        };
        if let Err(reason) = stream_of(log, stream, Position::MAX).begin(mark).await {
            return Ok(Comparison::NoSnapshot(reason));
        }
        let same = stream_of(log, stream, mark.position);
        let initial = D::State::default();
        let folded = same.replay(initial, evolving(decider), NoSnapshot::Absent).await?;
        let through = mark.position;
        let equal = folded.state == kept;
        Ok(if equal { Comparison::Same(through) } else { Comparison::Different { through } })
    }

    async fn fold_stream<D>(
        &self,
        log: &dyn EventLog,
        decider: &D,
        stream: &StreamId,
    ) -> Result<(Folded<D::State>, Option<Taken>), LoadError>
    where
        D: Decider<Event: Event, State: Serialize + DeserializeOwned> + Snapshotted,
    {
        let identity = Ok(identity_of_stream::<D>(log.id(), stream));
        let recalled = self.recall::<D::Codec, _>(identity).await;
        let selected = stream_of(log, stream, Position::MAX);
        let initial = D::State::default();
        self.fold::<D::Codec, _>(&selected, recalled, initial, evolving(decider)).await
    }
}

fn stream_of<'a>(log: &'a dyn EventLog, stream: &StreamId, through: Position) -> Selected<'a> {
    Selected { log, query: Query::stream(stream.clone()), through }
}

fn evolving<D: Decider<Event: Event>>(
    decider: &D,
) -> impl FnMut(D::State, &RecordedEvent) -> Result<D::State, DecodeError> {
    |state, recorded| {
        let event: D::Event = decode_event(recorded)?;
        Ok(decider.evolve(state, &event))
    }
}

/// What a snapshot of a stream is of. The first byte tells it from one of a view.
fn identity_of_stream<T: Snapshotted>(log: LogId, stream: &StreamId) -> Identity {
    identity::<T>(log, [b"s", stream.as_str().as_bytes()].concat())
}

fn identity<T: Snapshotted>(log: LogId, subject: Vec<u8>) -> Identity {
    Identity {
        log,
        name: T::NAME,
        subject,
        version: T::VERSION,
        shape: T::SHAPE.map_or(0, |shape| shape.fingerprint()),
        codec: T::Codec::ID,
    }
}

#[cfg(test)]
mod tests;
