//! A log that another process writes, followed live.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_trait::async_trait;
use headwater_core::{
    Append, AppendError, AppendId, Appended, Durability, EventLog, EventType, LogId, Page,
    Position, Query, Read, ReadError, Revision, StreamId, Subscription, Timestamp, Visibility,
};

use crate::changes::Changes;
use crate::error::OpenError;
use crate::options::Options;
use crate::read_only::ReadOnlyStore;
use crate::view::View;

/// How long a change may go unnoticed where the system tells nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A store that another process may be writing, as an [`EventLog`] to read: history and live tail,
/// without the store's lock and without changing a byte.
///
/// It sees a prefix of the log that grows without a gap. A frame that the writer has written counts
/// as committed, although the writer's own sync may still be under way; what
/// [`Visibility::Durable`] shows was called durable by the writer, and lags one group behind while
/// nothing is appended. A thread waits for the file system to tell of changes; while
/// nothing is written it looks once a second. Appending is [`AppendError::ReadOnly`].
///
/// Clones share it; the last one to go ends the thread.
#[derive(Clone)]
pub struct Follower {
    inner: Arc<Inner>,
}

struct Inner {
    id: LogId,
    view: Arc<View>,
    failure: Arc<OnceLock<ReadError>>,
    stop: Arc<AtomicBool>,
    waker: SyncSender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("id", &self.inner.id)
            .field("head", &self.inner.view.head(Visibility::Committed))
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// Opens a store and follows it.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if there is no store, nothing of it can be read, or it cannot be watched.
    ///
    /// # Complexity
    ///
    /// Linear in what was written since the newest segment was begun or the store was closed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let mut store = ReadOnlyStore::open(path.as_ref())?;
        let changes = store.changes()?;
        // Between opening and watching something may have come.
        store.refresh()?;
        let (id, view) = (store.id(), Arc::clone(store.view()));
        let failure = Arc::new(OnceLock::new());
        let stop = Arc::new(AtomicBool::new(false));
        let waker = changes.waker();
        let (failed, stopped) = (Arc::clone(&failure), Arc::clone(&stop));
        let follow = move || follow(&mut store, &changes, &stopped, &failed);
        let thread = thread::Builder::new().name("headwater-follower".to_owned()).spawn(follow);
        let thread = thread.map_err(OpenError::io("start a thread for", path.as_ref()))?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { inner: Arc::new(Inner { id, view, failure, stop, waker, thread }) })
    }

    /// Returns why following has ended, if it has. What was seen before can still be read.
    pub fn failure(&self) -> Option<&ReadError> {
        self.inner.failure.get()
    }
}

/// Takes in what is written until it is stopped or fails.
fn follow(
    store: &mut ReadOnlyStore,
    changes: &Changes,
    stop: &AtomicBool,
    failure: &OnceLock<ReadError>,
) {
    // Acquire pairs with the Release in `drop`.
    while !stop.load(Ordering::Acquire) {
        let looked = store.refresh().map(|_| store.damage().cloned());
        if let Err(error) | Ok(Some(error)) = looked {
            tracing::warn!(%error, "following a store has ended");
            // There is one thread, and it ends here.
            let _ = failure.set(ReadError::Engine(Arc::new(error)));
            break;
        }
        changes.wait(LOOK_AGAIN);
    }
    store.view().close();
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A full channel wakes the thread as well.
        let _ = self.waker.try_send(());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that follows a store panicked");
        }
    }
}

#[async_trait]
impl EventLog for Follower {
    fn id(&self) -> LogId {
        self.inner.id
    }

    fn durability(&self) -> Durability {
        // What the writer promises to its callers is not written down.
        Durability::Os
    }

    async fn append(&self, _: Append) -> Result<Appended, AppendError> {
        Err(AppendError::ReadOnly)
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        let found = self.inner.view.find_append(id, Options::default().idempotency_window)?;
        Ok(found.map(|known| Appended { deduplicated: true, ..known.appended }))
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.inner.view.read(&read)
    }

    async fn start(&self) -> Result<Position, ReadError> {
        Ok(self.inner.view.start())
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        Ok(self.inner.view.head(visibility))
    }

    async fn wait_for(
        &self,
        position: Position,
        visibility: Visibility,
    ) -> Result<Position, ReadError> {
        let reached = self.inner.view.wait_for(position, visibility).await;
        reached.map_err(|error| self.failure().cloned().unwrap_or(error))
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        Subscription::new(Arc::new(self.clone()), query, after)
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, ReadError> {
        self.inner.view.position_at(time)
    }

    async fn bytes_between(
        &self,
        after: Position,
        through: Position,
    ) -> Result<Option<u64>, ReadError> {
        self.inner.view.bytes_between(after, through).map(Some)
    }

    async fn event_types(&self) -> Result<Vec<EventType>, ReadError> {
        self.inner.view.event_types()
    }

    async fn stream_revision(&self, stream: &StreamId) -> Result<Revision, ReadError> {
        self.inner.view.stream_end(stream).map(|(revision, _)| revision)
    }
}
