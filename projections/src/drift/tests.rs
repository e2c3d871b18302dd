use std::collections::BTreeMap;
use std::time::Duration;

use headwater_core::{MemoryLog, Query, RecordedEvent, Slot};
use serde::{Deserialize, Serialize};

use super::*;
use crate::group::testing::append;
use crate::projection::ApplyError;
use crate::runner::{ProjectionHandle, ProjectionRunner, RunnerOptions};
use crate::sink::{MemorySink, MemoryTx};

const SECOND: Duration = Duration::from_secs(1);

/// What is known of a stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Entry {
    events: Vec<u64>,
    note: Option<String>,
}

type Model = BTreeMap<String, Entry>;

/// Notes positions by stream, and wrongly where it is told to.
#[derive(Clone, Copy, Default)]
struct Notes {
    version: u32,
    forgets: u64,
}

impl Projection for Notes {
    type Sink = MemorySink<Model>;

    fn name(&self) -> &'static str {
        "notes"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn selection(&self) -> Query {
        Query::all()
    }

    fn reset(&mut self, tx: &mut MemoryTx<'_, Model>) -> Result<(), ApplyError> {
        tx.clear();
        Ok(())
    }

    fn apply(
        &mut self,
        tx: &mut MemoryTx<'_, Model>,
        event: &RecordedEvent,
    ) -> Result<(), ApplyError> {
        let position = event.position.get();
        if position != self.forgets {
            tx.entry(event.stream.to_string()).or_default().events.push(position);
        }
        Ok(())
    }
}

/// Runs it over a log to the head.
async fn run(log: &Arc<MemoryLog>, notes: Notes) -> (ProjectionHandle<Notes>, MemoryAudit<Model>) {
    let sink = MemorySink::new();
    let audit = MemoryAudit::new(sink.view());
    let options = RunnerOptions::default();
    let running = ProjectionRunner::start(log.clone(), notes, sink, options).await.unwrap();
    let head = log.head(headwater_core::Visibility::Committed).await.unwrap();
    running.wait_for(head, SECOND).await.unwrap();
    (running, audit)
}

async fn check(
    log: &Arc<MemoryLog>,
    audit: MemoryAudit<Model>,
    options: DriftOptions,
) -> DriftReport {
    check_drift(log.clone(), Notes::default(), audit, options, |_| {}).await.unwrap()
}

fn difference(place: &str, found: Option<&str>, expected: Option<&str>) -> Difference {
    let text = |side: Option<&str>| side.map(str::to_owned);
    Difference { place: place.to_owned(), found: text(found), expected: text(expected) }
}

#[tokio::test(start_paused = true)]
async fn a_read_model_is_compared_with_what_the_log_makes_of_it() {
    let log = Arc::new(MemoryLog::new());
    append(&*log, &["a-1", "b-~1", "a-1", "c-1"]).await;
    let (running, audit) = run(&log, Notes::default()).await;
    let view = audit.model.clone();
    let report = check(&log, audit, DriftOptions::default()).await;
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.position, report.applied), (Position::new(4), 4));
    // What the read model has not seen yet is no drift.
    running.pause().await.unwrap();
    append(&*log, &["d-1"]).await;
    let report = check(&log, MemoryAudit::new(view), DriftOptions::default()).await;
    assert_eq!((report.is_clean(), report.applied), (true, 4), "{report}");
    drop(running);

    let (_running, audit) = run(&log, Notes { forgets: 2, ..Notes::default() }).await;
    let report = check(&log, audit, DriftOptions::default()).await;
    let lost = difference("/b-~01", None, Some(r#"{"events":[2],"note":null}"#));
    assert_eq!((&report.differences[..], report.count), (&[lost][..], 1));
    assert!(report.to_string().starts_with("1 differences at position 5"), "{report}");

    let (_running, audit) = run(&log, Notes { forgets: 3, ..Notes::default() }).await;
    let report = check(&log, audit, DriftOptions::default()).await;
    assert_eq!(report.differences, [difference("/a-1/events/1", None, Some("3"))]);
}

#[test]
fn only_so_many_differences_are_told_and_all_are_counted() {
    let told = |found: serde_json::Value, expected: serde_json::Value, extent| {
        let mut differences = Differences::keeping(2);
        memory::compare("", Some(&found), Some(&expected), extent, &mut differences);
        (differences.kept, differences.count)
    };
    let json = |text: &str| serde_json::from_str(text).unwrap();
    let (differences, count) = told(
        json(r#"{"a": 1, "b": [1, 2], "d": {"x": 1}}"#),
        json(r#"{"a": 2, "b": [1], "c": 3, "d": {"y": 1}}"#),
        Extent::Whole,
    );
    let a = difference("/a", Some("1"), Some("2"));
    let b = difference("/b/1", Some("2"), None);
    assert_eq!((differences, count), (vec![a.clone(), b], 5));
    let (differences, count) = told(
        json(r#"{"a": 1, "b": [1, 2], "d": {"x": 1}}"#),
        json(r#"{"a": 2, "b": [1], "d": {}}"#),
        Extent::OfTheShadow,
    );
    assert_eq!((differences, count), (vec![a], 1));
    let (differences, _) = told(json("1"), json("2"), Extent::Whole);
    assert_eq!(differences[0].place, "the state");
}

#[tokio::test(start_paused = true)]
async fn a_sample_takes_the_events_of_some_keys_and_leaves_the_rest_alone() {
    let log = Arc::new(MemoryLog::new());
    let streams: Vec<String> = (0..64).map(|number| format!("a-{number}")).collect();
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    append(&*log, &streams).await;
    let half = SlotRange::new(Slot::new(0).unwrap(), Slot::new(511).unwrap()).unwrap();
    let within = |name: &&&str| half.contains(Slot::of_key(name));
    let inside = streams.iter().filter(within).count() as u64;
    // Positions are those of the streams.
    let place = |inside| {
        let index = streams.iter().position(|name| half.contains(Slot::of_key(name)) == inside);
        index.unwrap() as u64 + 1
    };
    for (forgets, count) in [(0, 0), (place(true), 1), (place(false), 0)] {
        let (_running, audit) = run(&log, Notes { forgets, ..Notes::default() }).await;
        let options = DriftOptions { sample: Some(half), ..DriftOptions::default() };
        let report = check(&log, audit, options).await;
        assert_eq!((report.applied, report.count), (inside, count), "{report}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_it_is_checked_makes_no_difference() {
    let log = Arc::new(MemoryLog::new());
    append(&*log, &["a-1"; 30]).await;
    let (running, audit) = run(&log, Notes::default()).await;
    let options =
        DriftOptions { events_per_second_max: NonZeroU64::new(10), ..DriftOptions::default() };
    let later = async {
        tokio::time::sleep(SECOND).await;
        let last = append(&*log, &["a-1", "b-1"]).await;
        running.wait_for(last, SECOND).await.unwrap();
    };
    let (report, ()) = tokio::join!(check(&log, audit, options), later);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.position, Position::new(30));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_compared_is_refused() {
    let log = Arc::new(MemoryLog::new());
    append(&*log, &["a-1"]).await;
    let (_running, audit) = run(&log, Notes { version: 2, ..Notes::default() }).await;
    let options = DriftOptions::default();
    let checked = check_drift(log.clone(), Notes::default(), audit, options.clone(), |_| {}).await;
    assert!(matches!(checked, Err(DriftError::Mismatch(CheckpointMismatch::Version { .. }))));
    let audit = MemoryAudit::new(MemorySink::<Model>::new().view());
    let checked = check_drift(log, Notes::default(), audit, options, |_| {}).await;
    assert!(matches!(checked, Err(DriftError::NoModel { .. })));
}

#[cfg(feature = "sqlite")]
mod sqlite;
