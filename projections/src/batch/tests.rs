use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use headwater_core::{
    Append, EventLog, GroupError, GroupLog, GroupName, GroupState, Order, Position, Query, Read,
    Slot, Timestamp,
};
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::group::testing::{
    WatchedLog, append, event, io_error, open, open_with, options, renewals,
};
use crate::group::{FailurePolicy, GroupOptions};
use crate::reactor::ReactorPhase;

const SECOND: Duration = Duration::from_secs(1);

/// What the reactors of a test saw and are to do.
#[derive(Default)]
struct Script {
    /// The positions of each call.
    calls: Mutex<Vec<Vec<u64>>>,
    /// The calls that returned `Ok`, or said so of single events, event by event.
    done: Mutex<Vec<(u64, String)>>,
    /// What fails, and how often.
    fails: Mutex<BTreeMap<u64, u32>>,
    /// Whether single events are named.
    names: bool,
    /// Whether the group is in global order.
    global: bool,
    unavailable: Mutex<u32>,
    takes: Duration,
    panics_at: u64,
    /// Keys that are worked on now, and how many batches are.
    busy: Mutex<(BTreeSet<String>, usize)>,
    most_at_once: Mutex<usize>,
}

struct Scripted(Arc<Script>);

fn position(item: &BatchItem) -> u64 {
    item.event().position.get()
}

fn key(item: &BatchItem) -> String {
    item.event().ordering_key().to_owned()
}

#[async_trait]
impl BatchReactor for Scripted {
    async fn react(&mut self, batch: &[BatchItem]) -> Result<(), BatchError> {
        let script = &self.0;
        let positions: Vec<u64> = batch.iter().map(position).collect();
        assert!(positions.is_sorted(), "a batch is in the order of the log");
        script.calls.lock().unwrap().push(positions.clone());
        let keys: BTreeSet<String> = batch.iter().map(key).collect();
        {
            let mut busy = script.busy.lock().unwrap();
            assert!(busy.0.is_disjoint(&keys), "a key is in one batch at a time");
            busy.0.extend(keys.clone());
            busy.1 += 1;
            let mut most = script.most_at_once.lock().unwrap();
            *most = busy.1.max(*most);
        }
        tokio::time::sleep(script.takes).await;
        {
            let mut busy = script.busy.lock().unwrap();
            busy.0.retain(|key| !keys.contains(key));
            busy.1 -= 1;
        }
        assert!(!positions.contains(&script.panics_at), "made up");
        let mut unavailable = script.unavailable.lock().unwrap();
        if *unavailable > 0 {
            *unavailable -= 1;
            return Err(BatchError::message("closed").not_now(60 * SECOND));
        }
        let mut fails = script.fails.lock().unwrap();
        let failed: Vec<usize> = (0..batch.len())
            .filter(|&i| fails.get(&positions[i]).is_some_and(|&n| n > 0))
            .collect();
        // An attempt counts where the event is alone, or named.
        for &index in &failed {
            if script.names || batch.len() == 1 {
                *fails.get_mut(&positions[index]).unwrap() -= 1;
            }
        }
        // Behind one that fails it leaves those of its key alone.
        let lane = |index: usize| (!script.global).then(|| key(&batch[index]));
        let held_up = |index: usize| failed.iter().any(|&f| f <= index && lane(f) == lane(index));
        let counts = |&index: &usize| failed.is_empty() || (script.names && !held_up(index));
        let handled = (0..batch.len()).filter(counts);
        let handled = handled.map(|index| (positions[index], key(&batch[index])));
        script.done.lock().unwrap().extend(handled);
        let error = BatchError::message("made up");
        match failed.is_empty() {
            true => Ok(()),
            false if script.names => Err(error.items(failed)),
            false => Err(error),
        }
    }
}

impl Script {
    fn calls(&self) -> Vec<Vec<u64>> {
        self.calls.lock().unwrap().clone()
    }

    fn done(&self) -> Vec<u64> {
        self.done.lock().unwrap().iter().map(|(position, _)| *position).collect()
    }

    fn failing(self, position: u64, times: u32) -> Self {
        self.fails.lock().unwrap().insert(position, times);
        self
    }
}

async fn start(
    group: &ConsumerGroup,
    script: &Arc<Script>,
    options: BatchOptions,
) -> ReactorHandle {
    let make = |_| Scripted(Arc::clone(script));
    BatchRunner::start(group, "b", make, 1, options).await.unwrap()
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("a-{number}")).collect()
}

async fn append_keys(log: &WatchedLog, count: usize) -> Position {
    let names = keys(count);
    append(log, &names.iter().map(String::as_str).collect::<Vec<_>>()).await
}

#[tokio::test(start_paused = true)]
async fn a_busy_key_goes_many_events_at_a_time_and_in_order() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1"; 1_000]).await;
    let group = open(&log).await;
    let script = Arc::<Script>::default();
    let reactor = start(&group, &script, BatchOptions::default()).await;
    reactor.wait_for(last, SECOND).await.unwrap();
    assert_eq!(script.calls().len(), 10);
    assert_eq!(script.done(), (1..=1_000).collect::<Vec<u64>>());
    assert_eq!(reactor.status().reacted, 1_000);
    reactor.shutdown().await.unwrap();
    assert!(log.commits.lock().unwrap().len() <= 12, "one commit for each batch");
    assert_eq!(log.state().await.floor(), last);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_in_bytes_too() {
    let log = WatchedLog::new();
    // Each event has one byte.
    let last = append_keys(&log, 20).await;
    let group = open(&log).await;
    let script = Arc::<Script>::default();
    let options = BatchOptions { bytes_max: 8, ..BatchOptions::default() };
    let reactor = start(&group, &script, options).await;
    reactor.wait_for(last, SECOND).await.unwrap();
    assert_eq!(script.calls().iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 4]);
    // So is a run of one key.
    let last = append(&*log, &["b-1"; 20]).await;
    reactor.wait_for(last, SECOND).await.unwrap();
    assert_eq!(script.calls().iter().skip(3).map(Vec::len).collect::<Vec<_>>(), [8, 8, 4]);
}

#[tokio::test(start_paused = true)]
async fn halves_of_a_failing_batch_find_the_event_that_fails() {
    let log = WatchedLog::new();
    let last = append_keys(&log, 64).await;
    let failure = FailurePolicy { attempts_max: Some(2), ..FailurePolicy::default() };
    let group = open_with(&log, GroupOptions { failure, ..options() }).await;
    let script = Arc::new(Script::default().failing(41, u32::MAX));
    let reactor = start(&group, &script, BatchOptions::default()).await;
    reactor.wait_for(last, 600 * SECOND).await.unwrap();
    // 1 + 2 log2 64 calls find it, and one more tries it again.
    let calls = script.calls();
    assert_eq!(calls.len(), 14, "{calls:?}");
    let mut done = script.done();
    done.sort_unstable();
    let others: Vec<u64> = (1..=64).filter(|&position| position != 41).collect();
    assert_eq!(done, others, "each of the others once");
    let parked = group.parked().await.unwrap();
    assert_eq!(parked.iter().map(|p| (p.first.get(), p.attempts)).collect::<Vec<_>>(), [(41, 2)]);
    let status = reactor.status();
    assert_eq!((status.reacted, status.failed), (63, 2));
    assert_eq!(status.last_failure.unwrap().attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn events_of_a_key_wait_behind_one_that_fails_and_those_before_it_are_done() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-1", "a-1", "b-1", "a-1", "a-1", "b-1"]).await;
    let group = open(&log).await;
    let script = Arc::new(Script::default().failing(3, 2));
    let reactor = start(&group, &script, BatchOptions::default()).await;
    reactor.wait_for(last, 600 * SECOND).await.unwrap();
    assert_eq!(script.done(), [1, 2, 4, 7, 3, 5, 6]);
    let status = reactor.status();
    assert_eq!((status.reacted, status.failed), (7, 2));
}

#[tokio::test(start_paused = true)]
async fn only_the_events_that_are_named_fail_and_those_of_their_keys_behind_them() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "b-1", "a-1", "b-1", "c-1"]).await;
    let group = open(&log).await;
    let script = Arc::new(Script { names: true, ..Script::default() }.failing(2, 1));
    let reactor = start(&group, &script, BatchOptions::default()).await;
    reactor.wait_for(last, 600 * SECOND).await.unwrap();
    // That event 4 did not fail does not count, since event 2 comes before it.
    assert_eq!(script.calls(), [vec![1, 2, 3, 4, 5], vec![2, 4]]);
    assert_eq!(reactor.status().reacted, 5);
}

#[tokio::test(start_paused = true)]
async fn without_halves_the_first_event_of_each_key_has_failed() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "b-1", "a-1"]).await;
    let group = open(&log).await;
    let script = Arc::new(Script::default().failing(2, 1));
    let options = BatchOptions { bisect: false, ..BatchOptions::default() };
    let reactor = start(&group, &script, options).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!((script.calls(), reactor.status().failed), (vec![vec![1, 2, 3]], 2));
    reactor.wait_for(Position::new(3), 600 * SECOND).await.unwrap();
    assert_eq!(reactor.status().reacted, 3);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_asks_for_a_later_time_is_in_no_batch_before() {
    let log = WatchedLog::new();
    let later =
        |stream| event(stream, "t").deliver_after(Timestamp::now().saturating_add(60 * SECOND));
    log.append(Append::new([event("a-1", "t"), later("a-1"), event("a-1", "t")])).await.unwrap();
    let group = open(&log).await;
    let script = Arc::<Script>::default();
    let reactor = start(&group, &script, BatchOptions::default()).await;
    reactor.wait_for(Position::new(3), 600 * SECOND).await.unwrap();
    assert_eq!(script.calls(), [vec![1], vec![2, 3]]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_its_window_or_until_it_is_full() {
    let log = WatchedLog::new();
    let group = open(&log).await;
    let script = Arc::<Script>::default();
    let options = BatchOptions { window: 5 * SECOND, size_max: 4, ..BatchOptions::default() };
    let reactor = start(&group, &script, options).await;
    tokio::time::sleep(SECOND).await;
    let begun = Instant::now();
    append(&*log, &["a-1"]).await;
    tokio::time::sleep(SECOND).await;
    append(&*log, &["b-1"]).await;
    tokio::time::sleep(SECOND).await;
    // Also what comes behind a key that is in hand goes with it.
    let last = append(&*log, &["a-1"]).await;
    reactor.wait_for(last, 60 * SECOND).await.unwrap();
    assert_eq!((script.calls(), begun.elapsed().as_secs()), (vec![vec![1, 2, 3]], 5));
    let begun = Instant::now();
    let last = append_keys(&log, 4).await;
    reactor.wait_for(last, 60 * SECOND).await.unwrap();
    assert_eq!((script.calls()[1].len(), begun.elapsed().as_secs()), (4, 0), "it is full");
}

#[tokio::test(start_paused = true)]
async fn a_window_may_be_longer_than_a_lease() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "b-1"]).await;
    let group = open(&log).await;
    let window = group.lease() * 3;
    let script = Arc::<Script>::default();
    let begun = Instant::now();
    let reactor = start(&group, &script, BatchOptions { window, ..BatchOptions::default() }).await;
    reactor.wait_for(last, 600 * SECOND).await.unwrap();
    assert_eq!((script.calls(), begun.elapsed()), (vec![vec![1, 2]], window));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_until_the_event_that_fails_is_found() {
    let log = WatchedLog::new();
    append_keys(&log, 64).await;
    let group = open(&log).await;
    let script = Script { takes: 10 * SECOND, ..Script::default() }.failing(64, u32::MAX);
    let script = Arc::new(script);
    let reactor = start(&group, &script, BatchOptions::default()).await;
    tokio::time::sleep(15 * SECOND).await;
    reactor.shutdown().await.unwrap();
    assert_eq!(script.calls().iter().map(Vec::len).collect::<Vec<_>>(), [64, 32]);
    assert_eq!(log.state().await.floor(), Position::new(32), "what went well is committed");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_to_be_had_for_now_costs_no_attempt() {
    let log = WatchedLog::new();
    let last = append_keys(&log, 3).await;
    let failure = FailurePolicy { attempts_max: Some(1), ..FailurePolicy::default() };
    let group = open_with(&log, GroupOptions { failure, ..options() }).await;
    let script = Arc::new(Script { unavailable: Mutex::new(5), ..Script::default() });
    let begun = Instant::now();
    let reactor = start(&group, &script, BatchOptions::default()).await;
    reactor.wait_for(last, 600 * SECOND).await.unwrap();
    assert_eq!((script.calls().len(), begun.elapsed().as_secs()), (6, 300));
    assert_eq!(reactor.status().failed, 0);
}

#[tokio::test(start_paused = true)]
async fn batches_are_worked_on_beside_each_other_and_a_key_by_one_of_them() {
    let log = WatchedLog::new();
    let names: Vec<String> = (0..600).map(|number| format!("a-{}", number % 6)).collect();
    let last = append(&*log, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let group = open(&log).await;
    let script = Arc::new(Script { takes: SECOND, ..Script::default() });
    // One key at a time fits into a batch of its own run.
    let options = BatchOptions { concurrency: 3, size_max: 2, ..BatchOptions::default() };
    let reactor = start(&group, &script, options).await;
    reactor.wait_for(last, 6_000 * SECOND).await.unwrap();
    assert_eq!(*script.most_at_once.lock().unwrap(), 3);
    let done = script.done.lock().unwrap().clone();
    for key in 0..6 {
        let key = format!("a-{key}");
        let of_key: Vec<u64> = done.iter().filter(|(_, k)| *k == key).map(|(p, _)| *p).collect();
        assert!(of_key.len() == 100 && of_key.is_sorted(), "{key}: {of_key:?}");
    }
    reactor.shutdown().await.unwrap();
    assert!(group.status().await.unwrap().members.is_empty());
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_while_a_batch_takes_its_time() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "b-1", "a-1"]).await;
    let group = open(&log).await;
    let takes = group.lease() * 3;
    let script = Arc::new(Script { takes, ..Script::default() });
    let reactor = start(&group, &script, BatchOptions::default()).await;
    reactor.wait_for(last, 600 * SECOND).await.unwrap();
    assert_eq!(script.calls(), [[1, 2, 3]]);
    assert!(renewals(&group) >= 2 * 8, "each run has a lease");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_the_batch_under_way_end_and_commits_it() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "a-1", "b-1"]).await;
    let group = open(&log).await;
    let script = Arc::new(Script { takes: 10 * SECOND, ..Script::default() });
    let options = BatchOptions { size_max: 2, ..BatchOptions::default() };
    let reactor = start(&group, &script, options).await;
    tokio::time::sleep(SECOND).await;
    reactor.shutdown().await.unwrap();
    assert_eq!(script.done(), [1, 3], "the first of each key go first");
    let state = log.state().await;
    let settled =
        |position| state.runs().any(|(_, progress)| progress.is_settled(Position::new(position)));
    assert!(settled(1) && settled(3));
    assert!(group.status().await.unwrap().members.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_panic_stops_the_reactor_and_names_where() {
    let log = WatchedLog::new();
    append(&*log, &["a-1", "b-1"]).await;
    let group = open(&log).await;
    let script = Arc::new(Script { panics_at: 2, ..Script::default() });
    let reactor = start(&group, &script, BatchOptions::default()).await;
    let error = reactor.wait_for(Position::new(2), 60 * SECOND).await.unwrap_err();
    assert!(error.to_string().contains("position 2"), "{error}");
    assert!(matches!(reactor.status().phase, ReactorPhase::Stopped { .. }));
    let error = reactor.shutdown().await.unwrap_err();
    assert!(error.to_string().contains("made up"), "{error}");
    // Nothing was lost: it comes again.
    let again = Arc::<Script>::default();
    let reactor = start(&group, &again, BatchOptions::default()).await;
    reactor.wait_for(Position::new(2), 600 * SECOND).await.unwrap();
    assert_eq!(again.done(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_the_log_refuses_for_now_goes_with_the_next() {
    let log = WatchedLog::new();
    let last = append(&*log, &["a-1", "a-1"]).await;
    log.commit_errors.lock().unwrap().push_back(GroupError::StorageFull(io_error()));
    let group = open(&log).await;
    let script = Arc::<Script>::default();
    let reactor = start(&group, &script, BatchOptions::default()).await;
    reactor.wait_for(last, SECOND).await.unwrap();
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(log.state().await.floor(), last);
    assert_eq!(script.calls(), [[1, 2]]);
}

#[tokio::test(start_paused = true)]
async fn commits_of_one_member_take_turns_also_where_one_takes_long() {
    let log = WatchedLog::new();
    // Two keys of one slot.
    let first = "a-0".to_owned();
    let mut others = (1..).map(|number| format!("a-{number}"));
    let other = others.find(|key| Slot::of_key(key) == Slot::of_key(&first)).unwrap();
    let last = append(&*log, &[&first, &other]).await;
    log.commit_times.lock().unwrap().push_back(10 * SECOND);
    let group = open(&log).await;
    let script = Arc::new(Script { takes: SECOND, ..Script::default() });
    let options = BatchOptions { concurrency: 2, size_max: 1, ..BatchOptions::default() };
    let reactor = start(&group, &script, options).await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!((script.done(), *script.most_at_once.lock().unwrap()), (vec![1, 2], 2));
    assert_eq!(log.state().await.floor(), last);
    reactor.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn options_that_cannot_be_meant_are_refused() {
    let group = open(&WatchedLog::new()).await;
    for (options, name) in [
        (BatchOptions { size_max: 0, ..BatchOptions::default() }, "size_max"),
        (BatchOptions { bytes_max: 0, ..BatchOptions::default() }, "bytes_max"),
        (BatchOptions { concurrency: 0, ..BatchOptions::default() }, "concurrency"),
    ] {
        let make = |_| Scripted(Arc::default());
        let error = BatchRunner::start(&group, "b", make, 1, options).await.unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(group.status().await.unwrap().members.is_empty());
}

/// One life of a reactor: how it makes batches, and after how many seconds it is killed.
#[derive(Clone, Debug)]
struct Life {
    size_max: usize,
    window: u64,
    concurrency: usize,
    bisect: bool,
    lives: Option<u64>,
}

fn life() -> impl Strategy<Value = Life> {
    (1..12_usize, 0..4_u64, 1..4_usize, any::<bool>(), 0..40_u64).prop_map(
        |(size_max, window, concurrency, bisect, lives)| Life {
            size_max,
            window,
            concurrency,
            bisect,
            lives: Some(lives),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However batches are made, whatever fails and whenever the process dies: every event is handled or
    /// parked, those of a key in order, and nothing that was committed comes again.
    #[test]
    fn whatever_fails_and_dies_every_event_is_handled_in_the_order_of_its_key(
        appended in prop::collection::vec(0..5_usize, 1..60),
        fails in prop::collection::btree_map(1..60_u64, 1..6_u32, 0..8),
        lives in prop::collection::vec(life(), 1..5),
        order in prop_oneof![3 => Just(Order::Key), 1 => Just(Order::Global)],
        names in any::<bool>(),
    ) {
        let log = WatchedLog::new();
        let streams: Vec<String> = appended.iter().map(|key| format!("a-{key}")).collect();
        let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
        let last = block_on(append(&*log, &streams));
        let world = World { log, last, order };
        let end = Life { size_max: 7, window: 0, concurrency: 2, bisect: true, lives: None };
        let (mut fails, mut done) = (fails, Vec::new());
        for life in lives.into_iter().chain([end]) {
            let committed = block_on(world.committed());
            let script = Script {
                fails: Mutex::new(fails),
                names,
                global: order == Order::Global,
                takes: SECOND,
                ..Script::default()
            };
            let script = Arc::new(script);
            // The process dies with its runtime: whatever was under way has no end.
            block_on(world.live(&life, &script));
            for call in script.calls() {
                let again: Vec<_> = call.iter().filter(|at| committed.contains(*at)).collect();
                prop_assert!(again.is_empty(), "{:?} were committed before", again);
            }
            done.extend(script.done.lock().unwrap().iter().cloned());
            fails = script.fails.lock().unwrap().clone();
        }
        block_on(world.check(&done));
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(work)
}

struct World {
    log: Arc<WatchedLog>,
    last: Position,
    order: Order,
}

impl World {
    async fn live(&self, life: &Life, script: &Arc<Script>) {
        let attempts_max = (self.order == Order::Key).then_some(3);
        let failure = FailurePolicy { attempts_max, ..FailurePolicy::default() };
        let group = GroupOptions { order: self.order, failure, ..options() };
        let group = open_with(&self.log, group).await;
        let options = BatchOptions {
            size_max: life.size_max,
            window: Duration::from_secs(life.window),
            concurrency: life.concurrency,
            bisect: life.bisect,
            ..BatchOptions::default()
        };
        let reactor = start(&group, script, options).await;
        if let Some(seconds) = life.lives {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        } else {
            reactor.wait_for(self.last, 100_000 * SECOND).await.unwrap();
            reactor.shutdown().await.unwrap();
        }
    }

    /// Returns every event, with the key that orders it.
    async fn events(&self) -> Vec<(Arc<RecordedEvent>, String)> {
        let read = Read::forward(Query::all(), Position::START);
        let events = self.log.read(read).await.unwrap().events;
        let keyed = |event: RecordedEvent| {
            let global = self.order == Order::Global;
            let key = if global { "" } else { event.ordering_key() }.to_owned();
            (Arc::new(event), key)
        };
        events.into_iter().map(keyed).collect()
    }

    /// Returns what the log knows to be settled and not parked.
    async fn committed(&self) -> BTreeSet<u64> {
        let Ok(state) = self.log.inner.group(&GroupName::new("g").unwrap()).await else {
            return BTreeSet::new();
        };
        let settled = |(event, _): &&(Arc<RecordedEvent>, String)| {
            let slot = if self.order == Order::Global { Slot::FIRST } else { event.slot };
            state.slot(slot).is_settled(event.position) && !is_parked(&state, event)
        };
        let events = self.events().await;
        events.iter().filter(settled).map(|(event, _)| event.position.get()).collect()
    }

    /// Checks that everything was handled or parked, each event after those before it.
    async fn check(&self, done: &[(u64, String)]) {
        let events = self.events().await;
        let mut handled = BTreeSet::new();
        for (at, _) in done {
            let of = |position: &u64| &events[usize::try_from(*position).unwrap() - 1].1;
            let early = (1..*at).find(|other| of(other) == of(at) && !handled.contains(other));
            assert_eq!(early, None, "it comes before {at}");
            handled.insert(*at);
        }
        let state = self.log.state().await;
        for (event, _) in events {
            let settled = handled.contains(&event.position.get()) || is_parked(&state, &event);
            assert!(settled, "{} was neither handled nor parked", event.position);
        }
    }
}

fn is_parked(state: &GroupState, event: &RecordedEvent) -> bool {
    state.parked().any(|parked| {
        let own = parked.key.as_ref().is_some_and(|key| key.as_str() == event.ordering_key());
        own && parked.next <= event.position && event.position <= parked.through
    })
}
