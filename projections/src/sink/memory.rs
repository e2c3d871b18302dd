//! Read models in memory, with snapshot files to start from.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use headwater_core::Position;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Sink, SinkError, snapshot};
use crate::checkpoint::{Checkpoint, ProjectionId};

/// Keeps one read model of type `S` in memory.
///
/// Readers hold a [`MemoryView`] and see whole batches. With a snapshot file
/// ([`with_snapshot`](Self::with_snapshot)) a restart goes on from the last snapshot; without one
/// it begins with the log. A snapshot is a cache: one that is damaged or belongs to another
/// projection, version, selection or log is ignored with a warning.
///
/// # Complexity
///
/// Each transaction clones the state, so that a failing batch can be dropped whole and readers
/// never wait. Where the state is large, use large batches or persistent collections, which
/// clone in constant time.
pub struct MemorySink<S> {
    model: MemoryView<S>,
    snapshot: Option<PathBuf>,
    /// The checkpoint of the snapshot file, as far as known.
    flushed: Option<Checkpoint>,
}

/// A reader's hold on the state of a [`MemorySink`]. Clones share it.
pub struct MemoryView<S>(Arc<RwLock<Model<S>>>);

/// A state and what it has seen.
struct Model<S> {
    state: Arc<S>,
    checkpoint: Option<Checkpoint>,
}

impl<S> Clone for MemoryView<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> MemoryView<S> {
    /// Returns the state after the last committed batch. It never changes; ask again for news.
    pub fn get(&self) -> Arc<S> {
        Arc::clone(&self.read().state)
    }

    /// Returns the state as [`get`](Self::get) does, together with the checkpoint that it was
    /// committed with.
    pub fn get_with_checkpoint(&self) -> (Arc<S>, Option<Checkpoint>) {
        let model = self.read();
        (Arc::clone(&model.state), model.checkpoint.clone())
    }

    /// Returns the checkpoint of the last committed batch; `None` before the first.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.read().checkpoint.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Model<S>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: S, checkpoint: Checkpoint) {
        let model = Model { state: Arc::new(state), checkpoint: Some(checkpoint) };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = model;
    }
}

impl<S> fmt::Debug for MemoryView<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryView").finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for MemorySink<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySink")
            .field("checkpoint", &self.model.checkpoint())
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

/// A transaction of a [`MemorySink`]: the state, to be changed in place.
pub struct MemoryTx<'a, S> {
    state: S,
    view: &'a MemoryView<S>,
}

impl<S> Deref for MemoryTx<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

impl<S> DerefMut for MemoryTx<'_, S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.state
    }
}

impl<S> fmt::Debug for MemoryTx<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTx").finish_non_exhaustive()
    }
}

impl<S: Default> Default for MemorySink<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Default> MemorySink<S> {
    /// Makes an empty state that no file keeps.
    pub fn new() -> Self {
        Self::sharing(None, None)
    }

    /// Makes a sink over a state that others hold already, or an empty one.
    pub(crate) fn sharing(model: Option<MemoryView<S>>, snapshot: Option<PathBuf>) -> Self {
        let model = model.unwrap_or_else(|| {
            let empty = Model { state: Arc::new(S::default()), checkpoint: None };
            MemoryView(Arc::new(RwLock::new(empty)))
        });
        Self { model, snapshot, flushed: None }
    }

    /// Makes a state that is kept in the file at `path`, whose directory must exist.
    ///
    /// The state is stored in the [`Bincode`](headwater_core::Bincode) encoding, which does not
    /// describe itself: raise the projection's version whenever the shape of `S` changes.
    pub fn with_snapshot(path: impl Into<PathBuf>) -> Self {
        Self::sharing(None, Some(path.into()))
    }
}

impl<S> MemorySink<S> {
    /// Returns a reader's hold on the state.
    pub fn view(&self) -> MemoryView<S> {
        self.model.clone()
    }
}

impl<S> Sink for MemorySink<S>
where
    S: Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Tx<'a> = MemoryTx<'a, S>;

    fn load(&mut self, id: &ProjectionId, head: Position) -> Result<Option<Checkpoint>, SinkError> {
        if self.model.checkpoint().is_none()
            && let Some(path) = &self.snapshot
        {
            match snapshot::read::<S>(path, id, head) {
                Ok(Some((checkpoint, state))) => {
                    self.flushed = Some(checkpoint.clone());
                    self.model.set(state, checkpoint);
                }
                Ok(None) => {}
                Err(fault) => {
                    let path = path.display();
                    tracing::warn!(%path, %fault, "a snapshot is ignored; the log is applied again");
                }
            }
        }
        Ok(self.model.checkpoint())
    }

    fn begin(&mut self) -> Result<MemoryTx<'_, S>, SinkError> {
        Ok(MemoryTx { state: S::clone(&self.model.get()), view: &self.model })
    }

    fn commit(tx: MemoryTx<'_, S>, checkpoint: &Checkpoint) -> Result<(), SinkError> {
        tx.view.set(tx.state, checkpoint.clone());
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        if let (Some(path), Some(checkpoint)) = (&self.snapshot, self.model.checkpoint())
            && self.flushed.as_ref() != Some(&checkpoint)
        {
            snapshot::write(path, &checkpoint, &*self.model.get())?;
            self.flushed = Some(checkpoint);
        }
        Ok(())
    }
}
