//! The store as its users hold it: where async begins.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use headwater_core::{
    Append, AppendError, AppendId, Appended, Durability, EventLog, EventType, Generation,
    GroupChange, GroupError, GroupLog, GroupName, GroupState, LogId, NewGroup, Page, Position,
    Query, Read, ReadError, Revision, Start, StreamId, Subscription, Timestamp, Visibility,
};
use tokio::sync::oneshot;

use crate::catalog::CatalogFile;
use crate::error::{CloseError, OpenError};
use crate::fs::{Fs, FsFile, RealFs};
use crate::ledger::{self, Removal};
use crate::offsets::{self, Offsets, Operation, Outcome};
use crate::open::{self, Opened, RecoveryReport};
use crate::options::Options;
use crate::planted::{Bug, planted};
use crate::retention::{
    self, Cutoff, Keeper, Passing, Retention, RetentionError, RetentionReport, Turn,
};
use crate::scan::Scan;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, block_on};
use crate::tails::TailsFile;
use crate::view::View;
use crate::writer::{Inline, Place, Queue, Reply, Request, Writer};

/// An open store. Clones share it; the last one to go closes it.
///
/// There is one writer to a directory: a second [`open`](Self::open) is refused with the first
/// one's process id. Appends have the order in which their futures are first polled. Reading never
/// waits for writing. The store works in every async runtime, and
/// without one: see [`append_blocking`](Self::append_blocking).
///
/// # Examples
///
/// ```
/// use headwater_core::{Append, EventLog, EventType, NewEvent, Query, Position, Read, StreamId};
/// use headwater_store::{Options, Store};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let options = Options { segment_bytes: 1 << 20, ..Options::default() };
/// let store = Store::open(dir.path(), options)?;
/// let placed =
///     NewEvent::json(StreamId::new("order-17")?, EventType::new("order.placed")?, &"a book")?;
/// let done = store.append_blocking(Append::new([placed]))?;
/// assert_eq!(done.last, Position::FIRST);
/// store.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    id: LogId,
    path: PathBuf,
    durability: Durability,
    segment_bytes: u64,
    /// How many append ids are remembered.
    window: usize,
    report: RecoveryReport,
    view: Arc<View>,
    writer: Arc<Writer>,
    appends: Arc<Queue<Request>>,
    offsets: Arc<Offsets>,
    operations: Arc<Queue<offsets::Request>>,
    catalog: Arc<CatalogFile>,
    keeper: Arc<Keeper>,
    running: Mutex<Option<Running>>,
}

/// What goes when the store is closed.
struct Running {
    /// They write events and offsets.
    writers: [JoinHandle<()>; 2],
    /// Removes what is old, if anything is ever to be.
    keeper: Option<JoinHandle<()>>,
    _lock: Arc<dyn FsFile>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.inner.path)
            .field("id", &self.inner.id)
            .field("head", &self.inner.view.head(Visibility::Committed))
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store, and recovers it if its last writer did not close it.
    ///
    /// Recovery cuts only what was never acknowledged as durable, keeps what it cut in
    /// `quarantine/`, and otherwise refuses. [`recovery`](Self::recovery) says what was done.
    /// Blocks while it reads the log.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; a refusal changes no event and no progress of a group.
    ///
    /// # Complexity
    ///
    /// Linear in what was written since the newest segment was begun or the store was closed, at
    /// most one segment: sealed segments are opened when they are read, and have their indexes in
    /// files. Where such a file is missing, whoever reads first waits for it to be built.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        Self::open_on(&fs, path.as_ref(), options)
    }

    /// Opens a store on any file system.
    pub(crate) fn open_on(
        fs: &Arc<dyn Fs>,
        path: &Path,
        options: Options,
    ) -> Result<Self, OpenError> {
        let options = options.checked()?;
        Self::with(fs, path, &options, open::open(fs, path, &options)?)
    }

    /// Opens a store whose lock somebody has, who keeps a hold of it.
    pub(crate) fn open_locked(
        fs: &Arc<dyn Fs>,
        path: &Path,
        options: Options,
        lock: Arc<dyn FsFile>,
    ) -> Result<Self, OpenError> {
        let options = options.checked()?;
        Self::with(fs, path, &options, open::open_locked(fs, path, &options, lock)?)
    }

    /// Starts the threads of a store.
    fn with(
        fs: &Arc<dyn Fs>,
        path: &Path,
        options: &Options,
        opened: Opened,
    ) -> Result<Self, OpenError> {
        let Opened { id, lock, catalog, tail, offsets, report } = opened;
        let window = options.idempotency_window;
        let tails = TailsFile::new(Arc::clone(fs), path.to_owned(), id);
        let view = Arc::new(View::new(tail.segments(), tails, report.head));
        let writer =
            Writer::new(tail, Arc::clone(&view), options.durability, window, options.segment_bytes);
        let (writer, offsets) = (Arc::new(writer), Arc::new(offsets));
        let appends = Arc::new(Queue::new());
        let operations = Arc::new(Queue::new());
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
            spawned.map_err(OpenError::io("start a thread for", path))
        };
        let (w, a) = (Arc::clone(&writer), Arc::clone(&appends));
        let (o, q) = (Arc::clone(&offsets), Arc::clone(&operations));
        let first = spawn("headwater-writer", Box::new(move || w.run(&a)))?;
        let second = spawn("headwater-offsets", Box::new(move || o.run(&q)));
        let second = second.inspect_err(|_| appends.close())?;
        let mut running = Running { writers: [first, second], keeper: None, _lock: lock };
        let keeper = Arc::new(Keeper {
            fs: Arc::clone(fs),
            root: path.to_owned(),
            view: Arc::clone(&view),
            writer: Arc::clone(&writer),
            offsets: Arc::clone(&offsets),
            turn: Turn::default(),
        });
        if options.retention != Retention::default() {
            let (keeper, segments) = (Arc::clone(&keeper), view.all_segments());
            let retention = options.retention;
            let work = move || keeper.run(&segments, retention);
            let third = spawn("headwater-retention", Box::new(work));
            running.keeper = Some(third.inspect_err(|_| {
                appends.close();
                operations.close();
            })?);
        }
        let inner = Inner {
            id,
            path: path.to_owned(),
            durability: options.durability,
            segment_bytes: options.segment_bytes,
            window,
            report,
            view,
            writer,
            appends,
            offsets,
            operations,
            catalog,
            keeper,
            running: Mutex::new(Some(running)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Returns what opening found and did.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.report
    }

    /// Appends like [`EventLog::append`], for callers without a runtime.
    ///
    /// # Errors
    ///
    /// [`AppendError::effect`] says whether the batch may be in the log all the same.
    pub fn append_blocking(&self, append: Append) -> Result<Appended, AppendError> {
        match self.inner.append(append, true)? {
            Begun::Done(appended) => Ok(appended),
            waits @ Begun::Waits { .. } => block_on(waits.answer()),
        }
    }

    /// Reads one page like [`EventLog::read`], without a runtime.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the page lies outside the log or cannot be read.
    pub fn read_blocking(&self, read: &Read) -> Result<Page, ReadError> {
        self.inner.view.read(read)
    }

    /// Returns the last position that was committed at `time` or before, so that reading after it
    /// gives what was committed later. Commit times never go back, and are this log's own.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the log cannot be read.
    ///
    /// # Complexity
    ///
    /// A binary search over segments, then over one event in a thousand, then over those.
    pub fn position_at(&self, time: Timestamp) -> Result<Position, ReadError> {
        self.inner.view.position_at(time)
    }

    /// Walks over all events after a position without copying them, up to the head as it is now.
    ///
    /// # Errors
    ///
    /// [`ReadError::BeyondHead`] if the position lies beyond the head.
    pub fn scan(&self, after: Position) -> Result<Scan, ReadError> {
        scan(&self.inner.view, after)
    }

    /// Removes the beginning of the log, whole segments at a time, and writes into the ledger what
    /// went. With [`Passing::Refuse`] it goes as far as the slowest group, and the report says who
    /// held it.
    ///
    /// What a stream's revisions were is kept: they go on where they ended. Reading below the new
    /// start is [`ReadError::BelowStart`]; a stream that lost nothing can still be read whole.
    ///
    /// # Errors
    ///
    /// [`RetentionError`]; nothing was removed then.
    ///
    /// # Complexity
    ///
    /// Linear in what is removed, which is read once. Appends go on meanwhile.
    pub fn remove(
        &self,
        cutoff: Cutoff,
        passing: Passing,
    ) -> Result<RetentionReport, RetentionError> {
        self.inner.keeper.remove(cutoff, passing)
    }

    /// Returns what [`remove`](Self::remove) would do, and does nothing.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the log cannot be read.
    pub fn would_remove(
        &self,
        cutoff: Cutoff,
        passing: Passing,
    ) -> Result<RetentionReport, ReadError> {
        retention::preview(&self.inner.view, &self.inner.offsets.groups(), cutoff, passing)
    }

    /// Reads the ledger of what was removed, oldest first.
    ///
    /// # Errors
    ///
    /// [`ReadError::Io`] if the file cannot be read.
    pub fn ledger(&self) -> Result<Vec<Removal>, ReadError> {
        let read = ledger::read(self.inner.keeper.fs.as_ref(), &self.inner.path);
        read.map_err(|error| ReadError::Io(Arc::new(error)))
    }

    /// Keeps what comes after `after` from being removed, until the pin is moved or removed. A pin
    /// is a group that nobody consumes: it is durable, and listed with the groups.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; a position outside of the log, among others.
    pub async fn pin(&self, name: GroupName, after: Position) -> Result<(), GroupError> {
        let state =
            self.open_group(NewGroup::consumer(name.clone()).start(Start::After(after))).await?;
        if state.floor() != after {
            self.seek_group(&name, after).await?;
        }
        Ok(())
    }

    /// Lets go of what a pin kept.
    ///
    /// # Errors
    ///
    /// [`GroupError::Unknown`] if there is no such pin.
    pub async fn unpin(&self, name: &GroupName) -> Result<(), GroupError> {
        self.delete_group(name).await
    }

    /// Makes every append that was answered durable, and returns how far that is.
    ///
    /// Blocks for one sync, if there is anything to sync.
    ///
    /// # Errors
    ///
    /// [`AppendError::Indeterminate`] if the sync fails; the store refuses appends from then on.
    pub fn flush(&self) -> Result<Position, AppendError> {
        self.inner.writer.flush()
    }

    /// Closes the store: takes no more appends, finishes those that wait, syncs, and frees the
    /// directory. Reading goes on as long as a clone lives, and so does a [`backup`](Self::backup)
    /// that was begun; what [`Options::retention`] lets go is removed before, unless a backup is
    /// being made. Closing twice does nothing.
    ///
    /// Dropping the last clone does the same, and can tell nobody what went wrong.
    ///
    /// # Errors
    ///
    /// [`CloseError::Indeterminate`] if the last sync fails or an earlier write had failed.
    pub fn close(&self) -> Result<(), CloseError> {
        self.inner.close()
    }

    /// Whoever removes, and copies.
    pub(crate) fn keeper(&self) -> &Keeper {
        &self.inner.keeper
    }

    /// The writer itself, for tests of what the queue keeps from happening often.
    #[cfg(test)]
    pub(crate) fn writer(&self) -> &Writer {
        &self.inner.writer
    }

    async fn operate(&self, name: &GroupName, operation: Operation) -> Result<Outcome, GroupError> {
        let (request, answer) = offsets::Request::new(name.clone(), operation);
        let _place = self.inner.operations.push(request).ok_or(GroupError::Closed)?;
        answer.await.unwrap_or(Err(GroupError::Closed))
    }

    /// Makes sure that a position lies in the log.
    fn inside(&self, group: &GroupName, position: Position) -> Result<(), GroupError> {
        let head = self.inner.view.head(Visibility::Committed);
        if position > head {
            return Err(GroupError::OutsideLog { group: group.clone(), position, head });
        }
        Ok(())
    }
}

/// An append that is done, or on its way.
enum Begun<'a> {
    Done(Appended),
    /// It leaves the queue when this is dropped, if nobody has come to it yet.
    Waits {
        answer: oneshot::Receiver<Reply>,
        _place: Place<'a, Request>,
    },
}

impl Begun<'_> {
    async fn answer(self) -> Result<Appended, AppendError> {
        match self {
            Self::Done(appended) => Ok(appended),
            Self::Waits { answer, _place } => {
                answer.await.map_or(Err(AppendError::Closed), |reply| reply.answer)
            }
        }
    }
}

/// Walks a view from a position to its head.
pub(crate) fn scan(view: &View, after: Position) -> Result<Scan, ReadError> {
    let head = view.head(Visibility::Committed);
    if after > head {
        return Err(ReadError::BeyondHead { asked: after, head });
    }
    view.check_start(after)?;
    Ok(Scan::new(view.segments(), after.next(), head))
}

impl Inner {
    /// Begins to append; `blocks` says that the calling thread may wait for a sync.
    fn append(&self, append: Append, blocks: bool) -> Result<Begun<'_>, AppendError> {
        let sync = append.sync || self.durability == Durability::Sync;
        let mut request = Request::new(append, self.segment_bytes)?;
        if (blocks || !sync) && self.appends.is_idle() {
            // Nobody waits, and waking another thread takes longer than to write.
            match self.writer.try_write(request) {
                Inline::Done { answer, due_changed } => {
                    if due_changed {
                        self.appends.poke();
                    }
                    return answer.map(Begun::Done);
                }
                Inline::Refused(refused) => request = refused,
            }
        }
        if let Some(conflict) = self.writer.conflict(&request) {
            return Err(conflict);
        }
        let answer = request.ask();
        let place = self.appends.push(request).ok_or(AppendError::Closed)?;
        Ok(Begun::Waits { answer, _place: place })
    }

    fn close(&self) -> Result<(), CloseError> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(running) = running else {
            return Ok(());
        };
        self.appends.close();
        self.operations.close();
        self.keeper.turn.close();
        let join = |thread: JoinHandle<()>| {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        };
        running.writers.into_iter().for_each(join);
        // No segment will follow now, and the keeper has yet to see the newest.
        self.view.all_segments().close();
        running.keeper.into_iter().for_each(join);
        let events = self.writer.finish();
        let offsets = self.offsets.finish();
        let clean = (events.is_ok() && offsets.is_ok()) || planted(Bug::AlwaysClean);
        let noted = self.catalog.update(|catalog| {
            catalog.clean = clean;
            if clean {
                catalog.events = self.writer.entry();
                catalog.offsets = self.offsets.entry();
            }
        });
        if let Err(error) = noted {
            // The next opening recovers, as after a crash.
            tracing::warn!(%error, "the catalog could not be written");
        }
        events.and(offsets).map_err(CloseError::Indeterminate)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "closing the store failed");
        }
    }
}

#[async_trait]
impl EventLog for Store {
    fn id(&self) -> LogId {
        self.inner.id
    }

    fn durability(&self) -> Durability {
        self.inner.durability
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.inner.append(append, false)?.answer().await
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        let found = self.inner.view.find_append(id, self.inner.window)?;
        Ok(found.map(|known| Appended { deduplicated: true, ..known.appended }))
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.inner.view.read(&read)
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        Ok(self.inner.view.head(visibility))
    }

    async fn start(&self) -> Result<Position, ReadError> {
        Ok(self.inner.view.start())
    }

    async fn wait_for(
        &self,
        position: Position,
        visibility: Visibility,
    ) -> Result<Position, ReadError> {
        self.inner.view.wait_for(position, visibility).await
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

#[async_trait]
impl GroupLog for Store {
    async fn open_group(&self, group: NewGroup) -> Result<GroupState, GroupError> {
        let name = group.name.clone();
        group.shape.check(&name)?;
        let start = group.start.resolve(self).await?;
        if self.inner.offsets.group(&name).is_err() {
            self.inside(&name, start)?;
        }
        match self.operate(&name, Operation::Open(group, start)).await? {
            Outcome::State(state) => {
                // A log that lost its end, or was restored, must not be read as if it had not.
                self.inside(&name, state.reach())?;
                Ok(state)
            }
            outcome => unreachable!("opening a group gives its state, not {outcome:?}"),
        }
    }

    async fn group(&self, name: &GroupName) -> Result<GroupState, GroupError> {
        self.inner.offsets.group(name)
    }

    async fn groups(&self) -> Result<Vec<GroupState>, GroupError> {
        Ok(self.inner.offsets.groups())
    }

    async fn change_group(
        &self,
        name: &GroupName,
        change: GroupChange,
    ) -> Result<Generation, GroupError> {
        let head = self.inner.view.head(Visibility::Committed);
        match self.operate(name, Operation::Change(change, head)).await? {
            Outcome::Generation(generation) => Ok(generation),
            outcome => unreachable!("a change gives a generation, not {outcome:?}"),
        }
    }

    async fn rename_group(&self, name: &GroupName, to: GroupName) -> Result<(), GroupError> {
        self.operate(name, Operation::Rename(to)).await.map(drop)
    }

    async fn delete_group(&self, name: &GroupName) -> Result<(), GroupError> {
        self.operate(name, Operation::Delete).await.map(|_| ())
    }
}
