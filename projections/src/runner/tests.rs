use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use async_trait::async_trait;
use headwater_core::{
    Append, AppendError, AppendId, Appended, Category, Durability, LogId, Page, Read,
    RecordedEvent, Subscription,
};

use super::*;
use crate::checkpoint::Checkpoint;
use crate::group::testing::{WatchedLog, append, event_at, io_error, written};
use crate::projection::ApplyError;
use crate::sink::{MemorySink, MemoryTx, MemoryView, Sink, SinkError};

const SECOND: Duration = Duration::from_secs(1);

/// Positions by stream, and how often the state was committed is counted beside it.
type Model = BTreeMap<String, Vec<u64>>;

/// A sink in memory that counts transactions and can refuse them.
#[derive(Default)]
struct Counting {
    inner: MemorySink<Model>,
    commits: Arc<AtomicUsize>,
    refuse: Arc<AtomicU32>,
}

impl Sink for Counting {
    type Tx<'a> = (MemoryTx<'a, Model>, Arc<AtomicUsize>);

    fn load(&mut self, id: &ProjectionId, head: Position) -> Result<Option<Checkpoint>, SinkError> {
        self.inner.load(id, head)
    }

    fn begin(&mut self) -> Result<Self::Tx<'_>, SinkError> {
        let left = self.refuse.load(Ordering::SeqCst);
        if left > 0 {
            self.refuse.store(left - 1, Ordering::SeqCst);
            return Err(SinkError::engine("beginning", std::io::Error::other("busy")));
        }
        Ok((self.inner.begin()?, Arc::clone(&self.commits)))
    }

    fn commit((tx, commits): Self::Tx<'_>, checkpoint: &Checkpoint) -> Result<(), SinkError> {
        commits.fetch_add(1, Ordering::SeqCst);
        MemorySink::commit(tx, checkpoint)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.inner.flush()
    }
}

/// Records positions by stream; fails or panics at one of them.
#[derive(Clone)]
struct Positions {
    name: &'static str,
    version: u32,
    selection: Query,
    fails_at: u64,
    failures: Arc<AtomicU32>,
    panics_at: u64,
}

impl Default for Positions {
    fn default() -> Self {
        Self {
            name: "positions",
            version: 1,
            selection: Query::all(),
            fails_at: 0,
            failures: Arc::default(),
            panics_at: 0,
        }
    }
}

impl Projection for Positions {
    type Sink = Counting;

    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn selection(&self) -> Query {
        self.selection.clone()
    }

    fn reset(&mut self, (tx, _): &mut <Counting as Sink>::Tx<'_>) -> Result<(), ApplyError> {
        tx.clear();
        Ok(())
    }

    fn apply(
        &mut self,
        (tx, _): &mut <Counting as Sink>::Tx<'_>,
        event: &RecordedEvent,
    ) -> Result<(), ApplyError> {
        let position = event.position.get();
        tracing::debug!("applying");
        tx.entry(event.stream.to_string()).or_default().push(position);
        if position == self.fails_at && self.failures.load(Ordering::SeqCst) > 0 {
            self.failures.fetch_sub(1, Ordering::SeqCst);
            return Err(ApplyError::message("made up"));
        }
        assert_ne!(position, self.panics_at, "made up");
        Ok(())
    }
}

async fn start(log: &Arc<WatchedLog>, projection: Positions, sink: Counting) -> Running {
    start_with(log, projection, sink, RunnerOptions::default()).await.unwrap()
}

type Running = ProjectionHandle<Positions>;

async fn start_with(
    log: &Arc<WatchedLog>,
    projection: Positions,
    sink: Counting,
    options: RunnerOptions,
) -> Result<Running, StartError> {
    let log: Arc<dyn EventLog> = log.clone();
    ProjectionRunner::start(log, projection, sink, options).await
}

fn all(view: &MemoryView<Model>) -> Vec<u64> {
    let mut all: Vec<u64> = view.get().values().flatten().copied().collect();
    all.sort_unstable();
    all
}

#[tokio::test(start_paused = true)]
async fn an_append_can_be_read_after_waiting_for_its_position() {
    let log = WatchedLog::new();
    let sink = Counting::default();
    let view = sink.inner.view();
    let running = start(&log, Positions::default(), sink).await;
    for n in 1..=20 {
        let last = append(&*log, &["a-1", "a-2"]).await;
        running.wait_for(last, SECOND).await.unwrap();
        assert_eq!(all(&view), (1..=2 * n).collect::<Vec<u64>>());
    }
    tokio::time::sleep(SECOND).await;
    assert!(matches!(running.status(), ProjectionStatus::Running));
    let progress = running.progress().await.unwrap();
    assert_eq!((progress.applied, progress.eta), (40, Some(Duration::ZERO)));
    assert_eq!(running.lag().await.unwrap().events, 0);
}

#[tokio::test(start_paused = true)]
async fn the_size_of_batches_does_not_show_in_the_read_model() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2", "a-1", "a-3", "a-1", "a-2", "b-1"]).await;
    let mut models = Vec::new();
    for batch_events in [1, 2, 3, 1_000] {
        let sink = Counting::default();
        let (view, commits) = (sink.inner.view(), Arc::clone(&sink.commits));
        let options = RunnerOptions { batch_events, ..RunnerOptions::default() };
        let running = start_with(&log, Positions::default(), sink, options).await.unwrap();
        running.wait_for(last, SECOND).await.unwrap();
        // One transaction makes the empty model.
        assert_eq!(commits.load(Ordering::SeqCst), 1 + 7_usize.div_ceil(batch_events));
        models.push(view.get());
    }
    assert!(models.iter().all(|model| *model == models[0]));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_is_rolled_back_whole_and_tried_again() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2", "a-3"]).await;
    let sink = Counting::default();
    let view = sink.inner.view();
    let projection =
        Positions { fails_at: 2, failures: Arc::new(AtomicU32::new(3)), ..Positions::default() };
    let running = start(&log, projection, sink).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let ProjectionStatus::Retrying { failures, cause } = running.status() else {
        panic!("{:?}", running.status());
    };
    assert_eq!(failures, 2);
    assert!(cause.to_string().contains("position 2"), "{cause}");
    assert_eq!(all(&view), [0_u64; 0]);
    running.wait_for(last, 10 * SECOND).await.unwrap();
    assert_eq!(all(&view), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_keeps_failing_stops_the_projection_and_tells_every_waiter() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2", "a-3"]).await;
    let sink = Counting::default();
    let view = sink.inner.view();
    let projection = Positions {
        fails_at: 2,
        failures: Arc::new(AtomicU32::new(u32::MAX)),
        ..Positions::default()
    };
    let running = start(&log, projection, sink).await;
    let error = running.wait_for(last, 60 * SECOND).await.unwrap_err();
    let WaitError::Stopped { cause, reached, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(reached, Position::START);
    let text = cause.to_string();
    assert!(text.contains("failed 6 times") && text.contains("position 2"), "{text}");
    assert!(matches!(running.status(), ProjectionStatus::Stopped { .. }));
    assert_eq!(all(&view), [0_u64; 0]);
    assert!(running.rebuild().await.is_err());
    assert!(matches!(&*running.shutdown().await.err().unwrap(), StopCause::Apply { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_panic_stops_the_projection_with_its_words_and_place() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let projection = Positions { panics_at: 2, ..Positions::default() };
    let sink = Counting::default();
    let view = sink.inner.view();
    let running = start(&log, projection, sink).await;
    let error = running.wait_for(last, SECOND).await.unwrap_err();
    assert!(matches!(error, WaitError::Stopped { .. }), "{error}");
    let ProjectionStatus::Stopped { cause } = running.status() else {
        panic!("{:?}", running.status());
    };
    let text = cause.to_string();
    assert!(text.contains("position 2") && text.contains("made up"), "{text}");
    assert_eq!(all(&view), [0_u64; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_sink_or_a_log_that_fails_for_a_while_is_tried_again() {
    let log = WatchedLog::new();
    let sink = Counting::default();
    let (view, refuse) = (sink.inner.view(), Arc::clone(&sink.refuse));
    let running = start(&log, Positions::default(), sink).await;
    refuse.store(3, Ordering::SeqCst);
    let errors = (0..2).map(|_| headwater_core::ReadError::Io(io_error()));
    log.read_errors.lock().unwrap().extend(errors);
    let last = append(&*log, &["a-1"]).await;
    running.wait_for(last, 10 * SECOND).await.unwrap();
    assert_eq!(all(&view), [1]);
}

#[tokio::test(start_paused = true)]
async fn an_event_beside_the_page_that_cannot_be_read_is_given_up_like_the_page() {
    let log = WatchedLog::new();
    let selection = Query::stream(headwater_core::StreamId::new("a-1").unwrap());
    let projection = Positions { selection, ..Positions::default() };
    let running = start(&log, projection, Counting::default()).await;
    log.no_way_back.store(true, Ordering::Relaxed);
    // The page ends with an event that is not selected, and the checkpoint names that.
    let last = append(&*log, &["a-1", "b-1"]).await;
    let error = running.wait_for(last, 600 * SECOND).await.unwrap_err();
    assert!(matches!(error, WaitError::Stopped { .. }), "{error}");
    assert!(matches!(&*running.shutdown().await.err().unwrap(), StopCause::Log { .. }));
}

/// A log whose waits fail as long as they are told to, though its head is known: like a store
/// that is closed.
#[derive(Debug)]
struct DeafLog {
    inner: Arc<WatchedLog>,
    fault: watch::Sender<Option<ReadError>>,
}

impl DeafLog {
    fn new() -> Arc<Self> {
        Arc::new(Self { inner: WatchedLog::new(), fault: watch::Sender::new(None) })
    }

    async fn start(self: &Arc<Self>, sink: Counting) -> Running {
        let (log, options) = (Arc::clone(self), RunnerOptions::default());
        ProjectionRunner::start(log, Positions::default(), sink, options).await.unwrap()
    }
}

#[async_trait]
impl EventLog for DeafLog {
    fn id(&self) -> LogId {
        self.inner.id()
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.inner.append(append).await
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        self.inner.find_append(id).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.inner.read(read).await
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        self.inner.head(visibility).await
    }

    async fn wait_for(&self, at: Position, visibility: Visibility) -> Result<Position, ReadError> {
        let mut faults = self.fault.subscribe();
        tokio::select! {
            biased;
            fault = faults.wait_for(Option::is_some) => Err(fault.unwrap().clone().unwrap()),
            reached = self.inner.wait_for(at, visibility) => reached,
        }
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        self.inner.subscribe(query, after)
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_closed_stops_the_projection_at_once_and_tells_every_waiter() {
    let log = DeafLog::new();
    let running = log.start(Counting::default()).await;
    let last = append(&*log, &["a-1"]).await;
    running.wait_for(last, SECOND).await.unwrap();
    let waits = running.wait_for(last.next(), SECOND);
    let closes = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        log.fault.send_replace(Some(ReadError::Closed));
    };
    let (waited, ()) = tokio::join!(waits, closes);
    let error = waited.unwrap_err();
    assert!(matches!(error, WaitError::Stopped { reached, .. } if reached == last), "{error}");
    let ProjectionStatus::Stopped { cause } = running.status() else {
        panic!("{:?}", running.status());
    };
    let by_closing =
        |cause: &StopCause| matches!(cause, StopCause::Log { source: ReadError::Closed, .. });
    assert!(by_closing(&cause), "{cause}");
    assert!(by_closing(&running.shutdown().await.err().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn waiting_at_the_head_is_tried_again_and_given_up_like_reading() {
    let log = DeafLog::new();
    let sink = Counting::default();
    let view = sink.inner.view();
    let running = log.start(sink).await;
    // The first fault passes in time, and so does the second: success in between starts the
    // count over. The third stays.
    for n in 1..=2 {
        log.fault.send_replace(Some(ReadError::Io(io_error())));
        tokio::time::sleep(SECOND).await;
        let ProjectionStatus::Retrying { failures, .. } = running.status() else {
            panic!("{:?}", running.status());
        };
        assert_eq!(failures, 4, "after 0, 100, 300 and 700 ms");
        log.fault.send_replace(None);
        let last = append(&*log, &["a-1"]).await;
        running.wait_for(last, 10 * SECOND).await.unwrap();
        assert_eq!(all(&view), (1..=n).collect::<Vec<u64>>());
    }
    log.fault.send_replace(Some(ReadError::Io(io_error())));
    let error = running.wait_for(Position::new(3), 60 * SECOND).await.unwrap_err();
    assert!(matches!(error, WaitError::Stopped { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_another_projection_version_log_or_selection_built_is_refused_until_rebuilt() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let running = start(&log, Positions::default(), Counting::default()).await;
    running.wait_for(last, SECOND).await.unwrap();
    let mut sink = running.shutdown().await.unwrap();

    let other = WatchedLog::new();
    append(&*other, &["a-1", "a-2"]).await;
    let stranger = Positions { name: "strangers", ..Positions::default() };
    let newer = Positions { version: 2, ..Positions::default() };
    let narrower = Positions {
        selection: Query::category(Category::new("a").unwrap()),
        ..Positions::default()
    };
    let refusals: [(&Arc<WatchedLog>, Positions, &str); 4] = [
        (&log, stranger, "of projection positions, and this is projection strangers"),
        (&log, newer, "version 1, and this is version 2"),
        (&other, Positions::default(), "open the right log"),
        (&log, narrower, "selection"),
    ];
    for (log, projection, says) in refusals {
        let copy = Counting { inner: copied(&mut sink.inner), ..Counting::default() };
        let refused = start_with(log, projection.clone(), copy, RunnerOptions::default()).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, StartError::Mismatch(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");

        let copy = Counting { inner: copied(&mut sink.inner), ..Counting::default() };
        let view = copy.inner.view();
        let options = RunnerOptions { begin: Begin::Rebuild, ..RunnerOptions::default() };
        let running = start_with(log, projection, copy, options).await.unwrap();
        running.wait_for(last, SECOND).await.unwrap();
        assert_eq!(all(&view), [1, 2]);
    }
}

/// Copies a sink with its checkpoint, which belongs to version 1 of whatever wrote it.
fn copied(sink: &mut MemorySink<Model>) -> MemorySink<Model> {
    let id = ProjectionId {
        name: String::new(),
        version: 0,
        log: headwater_core::LogId::from_bytes([0; 16]),
        selection: 0,
    };
    let checkpoint = sink.load(&id, Position::MAX).unwrap().unwrap();
    let mut copy = MemorySink::<Model>::new();
    let mut tx = copy.begin().unwrap();
    (*tx).clone_from(&sink.view().get());
    MemorySink::commit(tx, &checkpoint).unwrap();
    copy
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_beyond_the_head_is_refused() {
    let log = WatchedLog::new();
    append(&*log, &["a-1"]).await;
    let mut sink = Counting::default();
    let id = ProjectionId::of(&Positions::default(), &log.inner);
    let checkpoint = Checkpoint { id, position: Position::new(2), event: None };
    MemorySink::commit(sink.inner.begin().unwrap(), &checkpoint).unwrap();
    let refused = start_with(&log, Positions::default(), sink, RunnerOptions::default()).await;
    let beyond = CheckpointMismatch::BeyondHead {
        projection: "positions".into(),
        stored: Position::new(2),
        head: Position::FIRST,
    };
    assert!(matches!(refused.unwrap_err(), StartError::Mismatch(m) if m == beyond));
}

/// A log with the identity of another, as one that was restored from a backup.
#[derive(Debug)]
struct Restored {
    id: LogId,
    inner: Arc<WatchedLog>,
}

#[async_trait]
impl EventLog for Restored {
    fn id(&self) -> LogId {
        self.id
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.inner.append(append).await
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        self.inner.find_append(id).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.inner.read(read).await
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        self.inner.head(visibility).await
    }

    async fn wait_for(&self, at: Position, visibility: Visibility) -> Result<Position, ReadError> {
        self.inner.wait_for(at, visibility).await
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        self.inner.subscribe(query, after)
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_whose_event_is_another_now_is_refused_until_rebuilt() {
    let log = WatchedLog::new();
    let restored = Arc::new(Restored { id: log.id(), inner: WatchedLog::new() });
    append(&*restored, &["c-1", "c-2", "c-3"]).await;
    let narrow = Query::category(Category::new("b").unwrap());
    for (selection, streams) in [
        (Query::all(), ["a-1", "a-2"]),
        // The last event is not selected, and committed with one that is.
        (narrow.clone(), ["b-1", "a-2"]),
        // Nothing is, and progress alone was saved.
        (narrow, ["a-1", "a-2"]),
    ] {
        let projection = Positions { selection, ..Positions::default() };
        let last = append(&*log, &streams).await;
        let running = start(&log, projection.clone(), Counting::default()).await;
        running.wait_for(last, SECOND).await.unwrap();
        let mut sink = running.shutdown().await.unwrap();
        let head = restored.head(Visibility::Committed).await.unwrap();
        let same = restored.inner.clone();
        for _ in head.get()..last.get() {
            append(&*same, &["c-1"]).await;
        }

        let copy = Counting { inner: copied(&mut sink.inner), ..Counting::default() };
        let begin = RunnerOptions::default();
        let refused = ProjectionRunner::start(restored.clone(), projection.clone(), copy, begin);
        let error = refused.await.unwrap_err();
        let event = |log: Arc<dyn EventLog>| async move {
            let read = Read::backward(Query::all(), last.next()).limit(1);
            log.read(read).await.unwrap().events[0].id
        };
        let diverged = CheckpointMismatch::Diverged {
            projection: "positions".into(),
            position: last,
            stored: event(log.clone()).await,
            found: event(restored.clone()).await,
        };
        assert!(error.to_string().contains("rebuild the read model"), "{error}");
        assert!(matches!(error, StartError::Mismatch(m) if m == diverged));

        // The log that it was built from is still fine.
        let copy = Counting { inner: copied(&mut sink.inner), ..Counting::default() };
        start(&log, projection.clone(), copy).await.shutdown().await.unwrap();
        let copy = Counting { inner: copied(&mut sink.inner), ..Counting::default() };
        let begin = RunnerOptions { begin: Begin::Rebuild, ..RunnerOptions::default() };
        let rebuilt = ProjectionRunner::start(restored.clone(), projection, copy, begin);
        rebuilt.await.unwrap().wait_for(last, SECOND).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_names_no_event_goes_on_and_names_one_from_then_on() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-2"]).await;
    let mut sink = Counting::default();
    let id = ProjectionId::of(&Positions::default(), &log.inner);
    let checkpoint = Checkpoint { id: id.clone(), position: Position::FIRST, event: None };
    MemorySink::commit(sink.inner.begin().unwrap(), &checkpoint).unwrap();
    let running = start(&log, Positions::default(), sink).await;
    running.wait_for(Position::new(2), SECOND).await.unwrap();
    let mut sink = running.shutdown().await.unwrap();
    let saved = sink.load(&id, Position::MAX).unwrap().unwrap();
    let read = Read::forward(Query::all(), Position::FIRST);
    let second = log.inner.read(read).await.unwrap().events.remove(0);
    assert_eq!((saved.position, saved.event), (second.position, Some(second.id)));
}

#[tokio::test(start_paused = true)]
async fn a_filtered_projection_advances_without_a_transaction_for_each_page() {
    let log = WatchedLog::new();
    let sink = Counting::default();
    let commits = Arc::clone(&sink.commits);
    let projection = Positions {
        selection: Query::category(Category::new("c").unwrap()),
        ..Positions::default()
    };
    let running = start(&log, projection.clone(), sink).await;
    for _ in 0..50 {
        let last = append(&*log, &["a-1"]).await;
        running.wait_for(last, SECOND).await.unwrap();
    }
    assert_eq!(commits.load(Ordering::SeqCst), 1, "the one that made the empty model");
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(commits.load(Ordering::SeqCst), 2, "progress is saved now and then, and once");
    let last = append(&*log, &["a-1"]).await;
    running.wait_for(last, SECOND).await.unwrap();
    let sink = running.shutdown().await.unwrap();
    assert_eq!(commits.load(Ordering::SeqCst), 3);

    let reads = log.reads.load(Ordering::Relaxed);
    let running = start(&log, projection, sink).await;
    running.wait_for(last, SECOND).await.unwrap();
    let reads = log.reads.load(Ordering::Relaxed) - reads;
    assert_eq!(reads, 1, "the event at the checkpoint, and nothing is scanned again");
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_gives_the_same_model_while_appends_go_on() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2", "a-1", "b-1"]).await;
    let sink = Counting::default();
    let view = sink.inner.view();
    let options = RunnerOptions { batch_events: 2, ..RunnerOptions::default() };
    let running = start_with(&log, Positions::default(), sink, options).await.unwrap();
    running.wait_for(last, SECOND).await.unwrap();
    let before = view.get();
    running.rebuild().await.unwrap();
    let last = append(&*log, &["c-1"]).await;
    running.wait_for(last, SECOND).await.unwrap();
    let mut expected = (*before).clone();
    expected.insert("c-1".into(), vec![5]);
    assert_eq!(*view.get(), expected);
    assert_eq!(running.progress().await.unwrap().applied, 5);
}

#[tokio::test(start_paused = true)]
async fn a_projection_that_is_paused_applies_nothing_until_it_is_resumed() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let sink = Counting::default();
    let view = sink.inner.view();
    let running = start(&log, Positions::default(), sink).await;
    running.wait_for(last, SECOND).await.unwrap();
    assert_eq!(running.pause().await.unwrap(), last);
    assert!(matches!(running.status(), ProjectionStatus::Paused));
    let newer = append(&*log, &["a-3"]).await;
    let waited = running.wait_for(newer, 60 * SECOND).await;
    assert!(matches!(waited, Err(WaitError::Timeout { reached, .. }) if reached == last));
    // What is asked meanwhile is done, and it goes on resting.
    running.rebuild().await.unwrap();
    assert!(matches!(running.status(), ProjectionStatus::Paused));
    running.wait_for(Position::new(1), 60 * SECOND).await.unwrap_err();
    assert!(all(&view).is_empty());
    running.resume().await.unwrap();
    running.wait_for(newer, SECOND).await.unwrap();
    assert_eq!(all(&view), [1, 2, 3]);
    running.pause().await.unwrap();
    running.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_throttle_lets_so_many_events_through_in_a_second() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1"; 1_001]).await;
    let limit = |events| Some(NonZeroU64::new(events).unwrap());
    let options = RunnerOptions { events_per_second_max: limit(20), ..RunnerOptions::default() };
    let begun = Instant::now();
    let running =
        start_with(&log, Positions::default(), Counting::default(), options).await.unwrap();
    running.wait_for(Position::new(61), 60 * SECOND).await.unwrap();
    let waited = begun.elapsed();
    assert!(waited >= 3 * SECOND && waited < 3 * SECOND + SECOND / 5, "{waited:?}");
    running.throttle(limit(1_000)).await.unwrap();
    running.wait_for(Position::new(161), SECOND / 5).await.unwrap();
    running.throttle(limit(1)).await.unwrap();
    running.wait_for(last, 10 * SECOND).await.unwrap_err();
    running.throttle(None).await.unwrap();
    running.wait_for(last, Duration::from_millis(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_without_the_beginning_of_the_log_keeps_the_model() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let sink = Counting::default();
    let view = sink.inner.view();
    let running = start(&log, Positions::default(), sink).await;
    running.wait_for(last, SECOND).await.unwrap();
    let removed =
        headwater_core::ReadError::BelowStart { asked: Position::START, start: Position::FIRST };
    log.read_errors.lock().unwrap().push_back(removed.clone());
    let error = running.rebuild().await.unwrap_err();
    assert!(matches!(error, RebuildError::HistoryRemoved { .. }), "{error}");
    let last = append(&*log, &["a-3"]).await;
    running.wait_for(last, SECOND).await.unwrap();
    assert_eq!(all(&view), [1, 2, 3]);

    let sink = running.shutdown().await.unwrap();
    log.read_errors.lock().unwrap().push_back(removed);
    let options = RunnerOptions { begin: Begin::Rebuild, ..RunnerOptions::default() };
    let error = start_with(&log, Positions::default(), sink, options).await.unwrap_err();
    assert!(matches!(error, StartError::Rebuild(_)), "{error}");
    assert_eq!(all(&view), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_whose_reset_fails_changes_nothing() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let sink = Counting::default();
    let (view, refuse) = (sink.inner.view(), Arc::clone(&sink.refuse));
    let running = start(&log, Positions::default(), sink).await;
    running.wait_for(last, SECOND).await.unwrap();
    refuse.store(1, Ordering::SeqCst);
    assert!(matches!(running.rebuild().await, Err(RebuildError::Failed(_))));
    assert_eq!((all(&view), running.position()), (vec![1, 2], last));
    running.rebuild().await.unwrap();
    running.wait_for(last, SECOND).await.unwrap();
    assert_eq!(all(&view), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_asked_for_during_retries_happens() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let sink = Counting::default();
    let view = sink.inner.view();
    let failures = Arc::new(AtomicU32::new(2));
    let projection =
        Positions { fails_at: 2, failures: Arc::clone(&failures), ..Positions::default() };
    let running = start(&log, projection, sink).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    running.rebuild().await.unwrap();
    running.wait_for(last, 10 * SECOND).await.unwrap();
    assert_eq!(all(&view), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn waiting_in_vain_names_the_position_and_where_it_is() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let running = start(&log, Positions::default(), Counting::default()).await;
    running.wait_for(last, SECOND).await.unwrap();
    let error = running.wait_for(Position::new(7), SECOND).await.unwrap_err().to_string();
    assert!(error.contains("position 7") && error.contains("is at 2"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_saves_the_replay_and_a_damaged_one_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("positions.snapshot");
    let log = WatchedLog::new();
    let sink = || Counting { inner: MemorySink::with_snapshot(&path), ..Counting::default() };
    let last = append(&*log, &["a-1", "a-2", "a-3"]).await;
    let running = start(&log, Positions::default(), sink()).await;
    running.wait_for(last, SECOND).await.unwrap();
    running.shutdown().await.unwrap();

    let last = append(&*log, &["a-1"]).await;
    let second = sink();
    let view = second.inner.view();
    let running = start(&log, Positions::default(), second).await;
    running.wait_for(last, SECOND).await.unwrap();
    assert_eq!(running.progress().await.unwrap().applied, 1);
    assert_eq!(all(&view), [1, 2, 3, 4]);
    running.shutdown().await.unwrap();

    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let third = sink();
    let view = third.inner.view();
    let running = start(&log, Positions::default(), third).await;
    running.wait_for(last, SECOND).await.unwrap();
    assert_eq!(running.progress().await.unwrap().applied, 4);
    assert_eq!(all(&view), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_has_begun_goes_on_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("positions.snapshot");
    let log = WatchedLog::new();
    let left = dir.path().join("left.snapshot");
    let sink = |path| Counting { inner: MemorySink::with_snapshot(path), ..Counting::default() };
    let last = append(&*log, &["a-1", "a-2", "a-3"]).await;
    let running = start(&log, Positions::default(), sink(&path)).await;
    running.wait_for(last, SECOND).await.unwrap();
    running.shutdown().await.unwrap();

    for begin in [Begin::Resume, Begin::Rebuild] {
        let options = RunnerOptions { begin, ..RunnerOptions::default() };
        let running = start_with(&log, Positions::default(), sink(&path), options).await.unwrap();
        if begin == Begin::Resume {
            running.rebuild().await.unwrap();
        }
        // What a process that is killed now leaves behind.
        std::fs::copy(&path, &left).unwrap();
        running.wait_for(last, SECOND).await.unwrap();
        running.shutdown().await.unwrap();

        let second = sink(&left);
        let view = second.inner.view();
        let running = start(&log, Positions::default(), second).await;
        running.wait_for(last, SECOND).await.unwrap();
        assert_eq!(running.progress().await.unwrap().applied, 3, "{begin:?}");
        assert_eq!(all(&view), [1, 2, 3]);
        running.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_cannot_be_written_down_says_so_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("lost");
    std::fs::create_dir(&directory).unwrap();
    let inner = MemorySink::with_snapshot(directory.join("positions.snapshot"));
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-2"]).await;
    let sink = Counting { inner, ..Counting::default() };
    let view = sink.inner.view();
    let running = start(&log, Positions::default(), sink).await;
    running.wait_for(last, SECOND).await.unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let error = running.rebuild().await.unwrap_err();
    assert!(error.to_string().contains("a crash may undo it"), "{error}");
    let last = append(&*log, &["a-1"]).await;
    running.wait_for(last, SECOND).await.unwrap();
    assert_eq!(all(&view), [1, 2, 3]);
    std::fs::create_dir(&directory).unwrap();
    running.rebuild().await.unwrap();
    running.wait_for(last, SECOND).await.unwrap();
    assert_eq!(all(&view), [1, 2, 3]);
}

#[tokio::test]
async fn options_out_of_bounds_are_refused() {
    let options = RunnerOptions { batch_events: 0, ..RunnerOptions::default() };
    let log = WatchedLog::new();
    let refused = start_with(&log, Positions::default(), Counting::default(), options).await;
    assert!(refused.unwrap_err().to_string().contains("batch_events"));
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use headwater_core::MemoryLog;

    use super::*;
    use crate::group::testing::event;
    use crate::sink::{SqliteSink, SqliteTx};

    /// Keeps one row for each event: applying one twice breaks the primary key.
    #[derive(Default)]
    struct Rows {
        fails_at: Option<u64>,
        gate: Option<Gate>,
    }

    /// Says when the first event is being applied, and holds it until told to go on.
    struct Gate {
        entered: oneshot::Sender<()>,
        go_on: std::sync::mpsc::Receiver<()>,
    }

    impl Projection for Rows {
        type Sink = SqliteSink;

        fn name(&self) -> &'static str {
            "rows"
        }

        fn version(&self) -> u32 {
            1
        }

        fn selection(&self) -> Query {
            Query::all()
        }

        fn init(&mut self, tx: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
            tx.execute_batch("CREATE TABLE rows (position INTEGER PRIMARY KEY)")?;
            Ok(())
        }

        fn reset(&mut self, tx: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
            tx.execute_batch("DROP TABLE IF EXISTS rows")?;
            Ok(())
        }

        fn apply(
            &mut self,
            tx: &mut SqliteTx<'_>,
            event: &RecordedEvent,
        ) -> Result<(), ApplyError> {
            if let Some(gate) = self.gate.take() {
                gate.entered.send(()).unwrap();
                gate.go_on.recv().unwrap();
            }
            let position = event.position.get().cast_signed();
            tx.execute("INSERT INTO rows VALUES (?1)", [position])?;
            if Some(event.position.get()) == self.fails_at {
                return Err(ApplyError::message("made up"));
            }
            Ok(())
        }
    }

    async fn rows(log: &MemoryLog, sink: SqliteSink, projection: Rows) -> ProjectionHandle<Rows> {
        let options = RunnerOptions { batch_events: 4, retries: 1, ..RunnerOptions::default() };
        let log: Arc<dyn EventLog> = Arc::new(log.clone());
        ProjectionRunner::start(log, projection, sink, options).await.unwrap()
    }

    fn count(sink: &SqliteSink) -> (i64, i64) {
        let reader = sink.reader().unwrap();
        let query =
            "SELECT (SELECT count(*) FROM rows), (SELECT position FROM headwater_checkpoints)";
        reader.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn rows_and_checkpoint_agree_through_failures_restarts_and_rebuilds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.sqlite");
        let log = MemoryLog::new();
        let events = (0..10).map(|_| event("a-1", "t"));
        let last = log.append(Append::new(events)).await.unwrap().last;

        // The second batch fails at its third event.
        let failing = Rows { fails_at: Some(7), ..Rows::default() };
        let running = rows(&log, SqliteSink::open(&path).unwrap(), failing).await;
        let error = running.wait_for(last, 60 * SECOND).await.unwrap_err();
        assert!(matches!(error, WaitError::Stopped { .. }), "{error}");
        drop(running);
        let sink = SqliteSink::open(&path).unwrap();
        assert_eq!(count(&sink), (4, 4));

        let running = rows(&log, sink, Rows::default()).await;
        running.wait_for(last, SECOND).await.unwrap();
        running.rebuild().await.unwrap();
        running.wait_for(last, SECOND).await.unwrap();
        let sink = running.shutdown().await.unwrap();
        assert_eq!(count(&sink), (10, 10));
    }

    #[tokio::test]
    async fn of_two_runners_on_one_file_the_one_that_was_overtaken_stops() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.sqlite");
        let open = || SqliteSink::open(&path).unwrap();
        let log = MemoryLog::new();
        let events = (0..3).map(|_| event("a-1", "t"));
        let last = log.append(Append::new(events)).await.unwrap().last;

        // The first is dropped while it has its batch in hand, and the second starts before that
        // is committed.
        let (entered, first_entered) = oneshot::channel();
        let (go_on, held) = std::sync::mpsc::channel();
        let gate = Some(Gate { entered, go_on: held });
        let first = rows(&log, open(), Rows { gate, ..Rows::default() }).await;
        first_entered.await.unwrap();
        drop(first);
        let second = rows(&log, open(), Rows::default()).await;
        assert_eq!(second.position(), Position::START);
        go_on.send(()).unwrap();

        let error = second.wait_for(last, 60 * SECOND).await.unwrap_err();
        let cause = std::error::Error::source(&error).and_then(std::error::Error::source);
        let cause = cause.unwrap().to_string();
        assert!(cause.contains("another runner"), "{cause}");
        assert!(matches!(second.status(), ProjectionStatus::Stopped { .. }));
        assert_eq!(count(&open()), (3, 3));

        let third = rows(&log, open(), Rows::default()).await;
        third.wait_for(last, SECOND).await.unwrap();
        assert_eq!(third.progress().await.unwrap().applied, 0);

        // A rebuild takes the read model over from whoever has it.
        let options = RunnerOptions { begin: Begin::Rebuild, ..RunnerOptions::default() };
        let shared: Arc<dyn EventLog> = Arc::new(log.clone());
        let fourth =
            ProjectionRunner::start(shared, Rows::default(), open(), options).await.unwrap();
        fourth.wait_for(last, 10 * SECOND).await.unwrap();
        third.rebuild().await.unwrap();
        third.wait_for(last, 10 * SECOND).await.unwrap();
        assert_eq!(count(&open()), (3, 3));
    }
}

#[test]
fn an_event_is_applied_in_spans_that_name_it_its_trace_and_the_batch() {
    let (written, subscriber) = written();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut event = RecordedEvent::clone(&event_at(7, "k"));
    event.headers.insert(headwater_core::TRACEPARENT, parent).unwrap();
    event.correlation_id = Some(event.id.into());
    let correlation = event.id.to_string();
    let projection = Positions::default();
    let id = ProjectionId::of(&projection, &headwater_core::MemoryLog::new());
    let mut worker = Worker::new(projection, Counting::default(), id);
    let reached = (Position::new(9), None);
    tracing::subscriber::with_default(subscriber, || {
        worker.apply(&[event], reached, &std::cell::Cell::new(None)).unwrap();
    });
    let text = written.text();
    let line = text.lines().find(|line| line.ends_with("applying")).unwrap();
    let batch = ["headwater.batch{projection=positions events=1 through=9}", "headwater.apply{"];
    for part in batch.into_iter().chain(["position=7 ", parent, &correlation]) {
        assert!(line.contains(part), "{part} in {line}");
    }
}
