use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{EventLog, MemoryLog, Position, Query, Read, RecordedEvent};
use proptest::prelude::*;

use super::*;
use crate::group::testing::append;
use crate::projection::{ApplyError, Projection};
use crate::runner::{Begin, ProjectionStatus, RunnerOptions};
use crate::sink::{MemorySink, MemoryTx};
use crate::wait::WaitError;

const SECOND: Duration = Duration::from_secs(1);

/// The version that made it, and the positions of each stream.
type Model = (u32, BTreeMap<String, Vec<u64>>);

/// Notes positions by stream, and its version.
#[derive(Clone, Copy)]
struct Positions(u32);

impl Projection for Positions {
    type Sink = MemorySink<Model>;

    fn name(&self) -> &'static str {
        "positions"
    }

    fn version(&self) -> u32 {
        self.0
    }

    fn selection(&self) -> Query {
        Query::all()
    }

    fn init(&mut self, tx: &mut MemoryTx<'_, Model>) -> Result<(), ApplyError> {
        tx.0 = self.0;
        Ok(())
    }

    fn reset(&mut self, tx: &mut MemoryTx<'_, Model>) -> Result<(), ApplyError> {
        **tx = Model::default();
        Ok(())
    }

    fn apply(
        &mut self,
        tx: &mut MemoryTx<'_, Model>,
        event: &RecordedEvent,
    ) -> Result<(), ApplyError> {
        tx.1.entry(event.stream.to_string()).or_default().push(event.position.get());
        Ok(())
    }
}

type Running = RunningBuild<Positions, MemoryBuilds<Model>>;

async fn start(log: &Arc<MemoryLog>, version: u32, builds: &Arc<MemoryBuilds<Model>>) -> Running {
    start_with(log, version, builds, RunnerOptions::default()).await
}

async fn start_with(
    log: &Arc<MemoryLog>,
    version: u32,
    builds: &Arc<MemoryBuilds<Model>>,
    options: RunnerOptions,
) -> Running {
    let (log, builds) = (log.clone(), Arc::clone(builds));
    RunningBuild::start(log, Positions(version), builds, options).await.unwrap()
}

fn slowly(events_per_second: u64) -> RunnerOptions {
    let limit = NonZeroU64::new(events_per_second);
    RunnerOptions { events_per_second_max: limit, ..RunnerOptions::default() }
}

/// Returns which version readers see, and how far it is.
fn seen(view: &LiveView<Model>) -> (u32, u64) {
    let view = view.view().expect("something is live");
    let model = view.get();
    let last = model.1.values().flatten().max().copied().unwrap_or(0);
    (model.0, last)
}

fn id(text: &str) -> BuildId {
    text.parse().unwrap()
}

#[test]
fn a_build_has_one_name() {
    assert_eq!(id("2.1"), BuildId { version: 2, number: 1 });
    assert_eq!(id("10.23").to_string(), "10.23");
    for wrong in ["", "2", "2.", ".1", "2.0", "02.1", "2.01", "+2.1", "2.1.1", "4294967296.1"] {
        let error = wrong.parse::<BuildId>().unwrap_err().to_string();
        assert!(error.contains("version.number"), "{error}");
    }
}

#[test]
fn a_version_runs_what_is_live_of_it_and_builds_what_is_newer() {
    for (present, live, runs, builds) in [
        ("", None, "2.1", "2.1"),
        ("1.1", Some("1.1"), "2.1", "2.1"),
        ("1.1 2.1", Some("1.1"), "2.1", "2.1"),
        ("2.1", Some("2.1"), "2.1", "2.2"),
        ("2.1 2.2", Some("2.1"), "2.1", "2.2"),
        ("2.1 2.2", Some("2.2"), "2.2", "2.3"),
        ("2.1 2.2 3.1", Some("3.1"), "2.2", "2.2"),
        // The file of the live one is lost.
        ("", Some("2.4"), "2.4", "2.5"),
    ] {
        let present: Vec<BuildId> = present.split_whitespace().map(id).collect();
        let live = live.map(id);
        let chosen = (to_run(&present, live, 2), to_build(&present, live, 2));
        assert_eq!(chosen, (id(runs), id(builds)), "{present:?}, live {live:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_build_is_live_at_once_and_the_next_when_it_is_promoted() {
    let log = Arc::new(MemoryLog::new());
    let builds = Arc::new(MemoryBuilds::new("positions"));
    let view = builds.live_view();
    assert!(view.get().is_none());
    let old = start(&log, 1, &builds).await;
    let last = append(&*log, &["a-1", "a-2", "a-1"]).await;
    old.handle().wait_for(last, SECOND).await.unwrap();
    assert_eq!(seen(&view), (1, 3));

    let new = start_with(&log, 2, &builds, slowly(1)).await;
    assert_eq!((new.build(), builds.live().unwrap()), (id("2.1"), Some(id("1.1"))));
    let error = new.promote(SECOND / 2).await.unwrap_err();
    let PromoteError::Behind { source: WaitError::Timeout { .. }, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(seen(&view), (1, 3));
    assert_eq!(new.promote(10 * SECOND).await.unwrap(), Some(id("1.1")));
    assert_eq!(seen(&view), (2, 3));
    // Again changes nothing.
    assert_eq!(new.promote(SECOND).await.unwrap(), Some(id("2.1")));
    assert_eq!(builds.list().unwrap(), [id("1.1"), id("2.1")]);
}

#[tokio::test(start_paused = true)]
async fn what_takes_over_is_not_behind_what_the_live_build_has_committed_meanwhile() {
    let log = Arc::new(MemoryLog::new());
    let builds = Arc::new(MemoryBuilds::new("positions"));
    append(&*log, &["a-1"; 10]).await;
    let old = start(&log, 1, &builds).await;
    let new = start_with(&log, 2, &builds, slowly(1)).await;
    let later = async {
        tokio::time::sleep(5 * SECOND).await;
        let last = append(&*log, &["a-1"; 5]).await;
        old.handle().wait_for(last, SECOND).await.unwrap();
    };
    let (promoted, ()) = tokio::join!(new.promote(60 * SECOND), later);
    promoted.unwrap();
    assert_eq!(seen(&builds.live_view()), (2, 15));
}

#[tokio::test(start_paused = true)]
async fn taking_over_pauses_the_one_before_and_lets_it_go_on_if_it_fails() {
    let log = Arc::new(MemoryLog::new());
    let builds = Arc::new(MemoryBuilds::new("positions"));
    let view = builds.live_view();
    append(&*log, &["a-1"; 10]).await;
    let old = start(&log, 1, &builds).await;
    let new = start_with(&log, 2, &builds, slowly(1)).await;
    // It reaches the head as it is now in time, and not what comes meanwhile.
    let later = async {
        tokio::time::sleep(5 * SECOND).await;
        append(&*log, &["a-1"; 5]).await;
    };
    let (taken, ()) = tokio::join!(new.take_over(old.handle(), 12 * SECOND), later);
    let Err(PromoteError::Behind { .. }) = taken else { panic!("{taken:?}") };
    let last = append(&*log, &["a-1"]).await;
    old.handle().wait_for(last, SECOND).await.unwrap();
    assert_eq!(seen(&view), (1, 16));

    new.take_over(old.handle(), 60 * SECOND).await.unwrap();
    assert!(matches!(old.handle().status(), ProjectionStatus::Paused));
    assert_eq!(seen(&view), (2, 16));
    let last = append(&*log, &["a-1"]).await;
    old.handle().wait_for(last, 10 * SECOND).await.unwrap_err();
    old.into_handle().shutdown().await.unwrap();
    let again = start(&log, 1, &builds).await;
    let stopped = new.into_handle();
    stopped.pause().await.unwrap();
    again.take_over(&stopped, SECOND).await.unwrap();
    assert_eq!(seen(&view), (1, 17));
    // What it had applied in its first life was still there.
    assert_eq!(again.handle().progress().await.unwrap().applied, 1);
}

#[tokio::test(start_paused = true)]
async fn a_build_that_was_begun_goes_on_where_it_was_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(MemoryBuilds::with_snapshots(dir.path(), "positions").unwrap());
    let log = Arc::new(MemoryLog::new());
    append(&*log, &["a-1"; 10]).await;
    let builds = open();
    let old = start(&log, 1, &builds).await;
    old.promote(SECOND).await.unwrap();
    let beside = async |builds: &Arc<MemoryBuilds<Model>>, options| {
        let (log, builds) = (log.clone(), Arc::clone(builds));
        RunningBuild::rebuild_beside(log, Positions(1), builds, options).await.unwrap()
    };
    let new = beside(&builds, slowly(1)).await;
    assert_eq!(new.build(), id("1.2"));
    new.handle().wait_for(Position::new(6), 60 * SECOND).await.unwrap();
    new.handle().save().await.unwrap();
    drop((old, new, builds));

    let builds = open();
    let old = start(&log, 1, &builds).await;
    assert_eq!((old.build(), builds.live().unwrap()), (id("1.1"), Some(id("1.1"))));
    // Also where everything was to begin anew.
    let options = RunnerOptions { begin: Begin::Rebuild, ..RunnerOptions::default() };
    let new = beside(&builds, options).await;
    assert_eq!(new.build(), id("1.2"));
    new.promote(SECOND).await.unwrap();
    assert_eq!(new.handle().progress().await.unwrap().applied, 4);
    drop((old, new, builds));

    let builds = open();
    assert_eq!(builds.list().unwrap(), [id("1.1"), id("1.2")]);
    let new = start(&log, 1, &builds).await;
    assert_eq!((new.build(), seen(&builds.live_view())), (id("1.2"), (1, 10)));
    assert_eq!(new.handle().progress().await.unwrap().applied, 0);
}

#[tokio::test(start_paused = true)]
async fn only_builds_that_nobody_reads_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let builds = Arc::new(MemoryBuilds::with_snapshots(dir.path(), "positions").unwrap());
    let log = Arc::new(MemoryLog::new());
    append(&*log, &["a-1"]).await;
    let old = start(&log, 1, &builds).await;
    old.handle().save().await.unwrap();
    let error = builds.remove(id("1.1")).unwrap_err();
    assert!(matches!(error, BuildError::Live { .. }), "{error}");
    let error = builds.remove(id("2.1")).unwrap_err().to_string();
    assert_eq!(error, "positions has no build 2.1; there is 1.1");
    let error = builds.make_live(id("2.1")).unwrap_err();
    assert!(matches!(error, BuildError::Unknown { .. }), "{error}");
    let new = start(&log, 2, &builds).await;
    new.promote(SECOND).await.unwrap();
    builds.remove(id("1.1")).unwrap();
    assert_eq!(builds.list().unwrap(), [id("2.1")]);
    assert!(!dir.path().join("positions-1.1.snapshot").exists());
    builds.remove(id("1.1")).unwrap_err();
}

#[test]
fn names_and_links_that_cannot_be_right_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["", "a/b", "..", "a b", "a.b", &"a".repeat(101)] {
        let error = MemoryBuilds::<Model>::with_snapshots(dir.path(), name).unwrap_err();
        assert!(matches!(error, BuildError::Name { .. }), "{error}");
    }
    let builds = MemoryBuilds::<Model>::with_snapshots(dir.path(), "positions").unwrap();
    // Files of others, and what a crash left behind.
    for other in ["positions-1.1.sqlite", "positions-x.snapshot", "others-1.1.snapshot"] {
        std::fs::write(dir.path().join(other), "").unwrap();
    }
    std::os::unix::fs::symlink("x", dir.path().join("positions.snapshot.new")).unwrap();
    assert_eq!(builds.list().unwrap(), []);
    let sink = builds.open(id("1.1")).unwrap();
    builds.make_live(id("1.1")).unwrap();
    assert_eq!(builds.live().unwrap(), Some(id("1.1")));
    drop(sink);
    let link = dir.path().join("positions.snapshot");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("others-1.1.snapshot", &link).unwrap();
    let error = builds.live().unwrap_err().to_string();
    assert!(error.contains("others-1.1.snapshot, which is no build"), "{error}");
}

#[cfg(feature = "sqlite")]
mod sqlite;

/// What may happen to the builds of a read model.
#[derive(Clone, Debug)]
enum Op {
    Append(u8),
    /// Starts this version, and stops what ran of it.
    Start(u32),
    RebuildBeside(u32),
    Promote(u32),
    /// The first takes over from the second.
    TakeOver(u32, u32),
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let version = || 1..4_u32;
    prop_oneof![
        3 => (1..20_u8).prop_map(Op::Append),
        3 => version().prop_map(Op::Start),
        2 => version().prop_map(Op::RebuildBeside),
        3 => version().prop_map(Op::Promote),
        3 => (version(), version()).prop_map(|(new, old)| Op::TakeOver(new, old)),
        1 => Just(Op::Crash),
    ]
}

/// Checks that the live build is what its version makes of the log up to where it is.
async fn check(log: &MemoryLog, view: &LiveView<Model>) -> Option<Position> {
    let (model, checkpoint) = view.view()?.get_with_checkpoint();
    let at = checkpoint.map_or(Position::START, |checkpoint| checkpoint.position);
    let all = log.read(Read::forward(Query::all(), Position::START)).await.unwrap();
    let mut expected = BTreeMap::<String, Vec<u64>>::new();
    for event in all.events.iter().filter(|event| event.position <= at) {
        expected.entry(event.stream.to_string()).or_default().push(event.position.get());
    }
    assert_eq!(model.1, expected);
    Some(at)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_promoted_is_what_a_rebuild_makes(ops in prop::collection::vec(op(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(MemoryLog::new());
        // A crash ends the runtime, and what ran in it.
        for life in ops.split(|op| matches!(op, Op::Crash)) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let builds = MemoryBuilds::with_snapshots(dir.path(), "positions").unwrap();
            runtime.block_on(live(&log, &Arc::new(builds), life));
        }
    }
}

/// Does all this to the builds of one process.
async fn live(log: &Arc<MemoryLog>, builds: &Arc<MemoryBuilds<Model>>, ops: &[Op]) {
    let mut running = BTreeMap::<u32, Running>::new();
    for op in ops {
        let before = check(log, &builds.live_view()).await;
        match *op {
            Op::Append(count) => {
                let streams = ["a-0", "a-1", "a-2"].iter().cycle();
                let streams: Vec<&str> = streams.take(count.into()).copied().collect();
                append(&**log, &streams).await;
            }
            Op::Start(version) | Op::RebuildBeside(version) => {
                if let Some(old) = running.remove(&version) {
                    old.into_handle().shutdown().await.unwrap();
                }
                let (log, builds) = (log.clone(), builds.clone());
                let projection = Positions(version);
                let options = RunnerOptions { batch_events: 7, ..RunnerOptions::default() };
                let started = match op {
                    Op::Start(_) => RunningBuild::start(log, projection, builds, options).await,
                    _ => RunningBuild::rebuild_beside(log, projection, builds, options).await,
                };
                running.insert(version, started.unwrap());
            }
            Op::Promote(version) => {
                if let Some(new) = running.get(&version) {
                    new.promote(SECOND).await.unwrap();
                    assert_eq!(builds.live().unwrap(), Some(new.build()));
                }
            }
            Op::TakeOver(new, old) if new != old => {
                if let (Some(new), Some(old)) = (running.get(&new), running.get(&old)) {
                    new.take_over(old.handle(), SECOND).await.unwrap();
                    assert_eq!(builds.live().unwrap(), Some(new.build()));
                }
                if let Some(old) = running.remove(&old) {
                    old.into_handle().shutdown().await.unwrap();
                }
            }
            Op::TakeOver(..) | Op::Crash => {}
        }
        let after = check(log, &builds.live_view()).await;
        assert!(after >= before, "readers went back from {before:?} to {after:?}");
    }
}
