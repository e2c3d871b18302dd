//! What a store measures, through the facade.

use std::collections::BTreeMap;

use headwater_core::{Append, AppendError, EventType, ExpectedRevision, NewEvent, StreamId};
use headwater_store::{Options, Store};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};

fn batch(events: usize, payload: usize) -> Append {
    let event = |_| {
        let (stream, event_type) = (StreamId::new("a-1").unwrap(), EventType::new("t").unwrap());
        NewEvent::json(stream, event_type, &"x".repeat(payload)).unwrap()
    };
    Append::new((0..events).map(event))
}

#[test]
fn frames_syncs_segments_and_refusals_are_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let dir = tempfile::tempdir().unwrap();
    let id = metrics::with_local_recorder(&recorder, || {
        let options = Options { segment_bytes: 64 * 1024, ..Options::default() };
        let store = Store::open(dir.path(), options).unwrap();
        for _ in 0..3 {
            store.append_blocking(batch(2, 10)).unwrap();
        }
        // What stands whatever comes is refused before the writer, and what may change, by it.
        let stream = StreamId::new("a-1").unwrap();
        let expecting = |expected| batch(1, 10).expecting(stream.clone(), expected);
        for expected in
            [ExpectedRevision::NoStream, ExpectedRevision::Exact(headwater_core::Revision::new(9))]
        {
            let refused = store.append_blocking(expecting(expected)).unwrap_err();
            assert!(matches!(refused, AppendError::Conflict(_)));
        }
        // More than a segment holds.
        for _ in 0..5 {
            store.append_blocking(batch(3, 5_000)).unwrap();
        }
        store.close().unwrap();
        store.append_blocking(batch(1, 10)).unwrap_err();
        headwater_core::EventLog::id(&store).to_string()
    });
    let document = include_str!("../../../docs/metrics.md");
    let documented = document.lines().filter(|line| line.starts_with("| `headwater_store_"));
    let all = snapshotter.snapshot().into_vec();
    assert_eq!(documented.count(), all.len());
    let mut values = BTreeMap::new();
    for (key, _, help, value) in all {
        let name = key.key().name().strip_prefix("headwater_store_").unwrap().to_owned();
        assert!(help.is_some(), "{name} is not described");
        let labels: Vec<_> = key.key().labels().map(|l| (l.key(), l.value())).collect();
        assert_eq!(labels, [("store", id.as_str())]);
        assert!(document.contains(&format!("| `headwater_store_{name}`")), "{name}");
        match value {
            DebugValue::Counter(value) => values.insert(name, value),
            DebugValue::Gauge(value) => {
                assert_eq!((name.as_str(), value.into_inner()), ("head", 21.0));
                None
            }
            DebugValue::Histogram(took) => values.insert(name, took.len() as u64),
        };
    }
    assert!(values.remove("bytes_total").is_some_and(|bytes| bytes > 75_000));
    let expected = [
        ("conflicts_total", 2),
        ("events_total", 21),
        ("failures_total", 0),
        ("frames_total", 8),
        ("segments_total", 1),
        ("sync_seconds", 8),
        ("syncs_total", 8),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(values, BTreeMap::from(expected));
}

#[test]
fn a_store_that_is_opened_again_says_where_its_head_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    store.append_blocking(batch(3, 10)).unwrap();
    store.close().unwrap();

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        Store::open(dir.path(), Options::default()).unwrap().close().unwrap();
    });
    let all = snapshotter.snapshot().into_vec().into_iter();
    let heads: Vec<_> = all
        .filter(|(key, ..)| key.key().name() == "headwater_store_head")
        .map(|(.., value)| value)
        .collect();
    assert_eq!(heads, [DebugValue::Gauge(3.0.into())]);
}

#[test]
fn an_append_id_with_other_content_counts_as_a_failure_and_a_repeat_does_not() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let dir = tempfile::tempdir().unwrap();
    metrics::with_local_recorder(&recorder, || {
        let store = Store::open(dir.path(), Options::default()).unwrap();
        let id = headwater_core::AppendId::from_name(b"a");
        store.append_blocking(batch(1, 10).with_id(id)).unwrap();
        assert!(store.append_blocking(batch(1, 10).with_id(id)).unwrap().deduplicated);
        store.append_blocking(batch(2, 10).with_id(id)).unwrap_err();
        store.close().unwrap();
    });
    let all = snapshotter.snapshot().into_vec().into_iter();
    let failures: Vec<_> = all
        .filter(|(key, ..)| key.key().name() == "headwater_store_failures_total")
        .map(|(.., value)| value)
        .collect();
    assert_eq!(failures, [DebugValue::Counter(1)]);
}
