//! The store and the in-memory log, driven by the same operations, compared in everything that
//! can be read. Closing and killing are operations like others.

use std::path::PathBuf;

use headwater_core::{
    Append, AppendError, AppendId, Appended, Condition, CorrelationId, Durability, EventId,
    EventLog, EventType, ExpectedRevision, MemoryLog, Position, Query, Read, RecordedEvent,
    Revision, StreamId, Tag, Visibility,
};
use headwater_store::{Options, Preallocation, Store};
use pollster::block_on;
use proptest::prelude::*;

use crate::common::*;
use crate::damage::copy_store;

#[derive(Clone, Debug)]
enum Operation {
    Append {
        events: Vec<(u8, u8, u8, u8, usize)>,
        expected: Option<(u8, Expectation)>,
        none_since: Option<(u8, u8)>,
        id: Option<u8>,
    },
    Flush,
    Close,
    Kill,
}

#[derive(Clone, Copy, Debug)]
enum Expectation {
    NoStream,
    Exists,
    Actual,
    Wrong,
}

fn operation() -> impl Strategy<Value = Operation> {
    let event = (0..5_u8, 0..3_u8, 0..8_u8, 0..6_u8, prop_oneof![0..50_usize, 3_000..5_000_usize]);
    let expectation = prop_oneof![
        Just(Expectation::NoStream),
        Just(Expectation::Exists),
        Just(Expectation::Actual),
        Just(Expectation::Wrong)
    ];
    let append = (
        prop::collection::vec(event, 1..4),
        prop::option::of((0..5_u8, expectation)),
        prop::option::of((0..4_u8, 0..5_u8)),
        prop::option::of(0..6_u8),
    );
    prop_oneof![
        20 => append.prop_map(|(events, expected, none_since, id)| {
            Operation::Append { events, expected, none_since, id }
        }),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Close),
        1 => Just(Operation::Kill),
    ]
}

fn stream_of(n: u8) -> StreamId {
    stream(["a-1", "a-2", "b-1", "b-2", "c-1"][usize::from(n)])
}

fn type_of(n: u8) -> &'static str {
    ["opened", "moved", "closed"][usize::from(n)]
}

fn flow_of(n: u8) -> CorrelationId {
    CorrelationId::from_bytes([n + 1; 16])
}

/// Correlation and causation id: none, either, or both.
fn flow_ids(n: u8) -> (Option<CorrelationId>, Option<EventId>) {
    let cause = Some(EventId::from_bytes([1; 16]));
    match n {
        0 | 1 => (None, None),
        2 | 3 => (Some(flow_of(n - 2)), None),
        4 => (None, cause),
        _ => (Some(flow_of(1)), cause),
    }
}

/// Tags by bit, so that events share some of them.
fn tags_of(bits: u8) -> Vec<Tag> {
    (0..3).filter(|bit| bits & (1 << bit) != 0).map(|bit| tag(&format!("t{bit}"))).collect()
}

/// The store, where it lies, and how often it was killed.
struct Subject {
    dir: tempfile::TempDir,
    options: Options,
    store: Store,
    lives: usize,
}

impl Subject {
    fn new(durability: Durability) -> Self {
        let dir = temp();
        let preallocation = Preallocation::Sparse;
        let options = Options { durability, preallocation, ..small() };
        let store = Store::open(dir.path().join("0"), options.clone()).unwrap();
        Self { dir, options, store, lives: 0 }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(self.lives.to_string())
    }

    fn close(&mut self) {
        self.store.close().unwrap();
        self.store = Store::open(self.path(), self.options.clone()).unwrap();
        assert!(self.store.recovery().clean);
    }

    /// Goes on with what a killed process would have left.
    fn kill(&mut self) {
        let old = self.path();
        self.lives += 1;
        copy_store(&old, &self.path());
        self.store = Store::open(self.path(), self.options.clone()).unwrap();
        assert!(!self.store.recovery().clean);
        assert!(self.store.recovery().cuts.is_empty());
    }
}

fn comparable(result: Result<Appended, AppendError>) -> Result<Appended, String> {
    result.map_err(|error| error.to_string())
}

/// Everything but the commit time, which each log takes from the clock.
fn without_time(events: Vec<RecordedEvent>) -> Vec<RecordedEvent> {
    let zero = headwater_core::Timestamp::EPOCH;
    events.into_iter().map(|event| RecordedEvent { commit_time: zero, ..event }).collect()
}

fn queries() -> Vec<Query> {
    let category = |name: &str| Query::category(headwater_core::Category::new(name).unwrap());
    let event_type = |n| EventType::new(type_of(n)).unwrap();
    let mut queries = vec![
        Query::all(),
        category("a"),
        category("b").and_types([event_type(1)]),
        Query::types([event_type(0), event_type(2)]),
        Query::tags([tag("t0"), tag("t2")]),
        Query::tags([tag("t1")]).or(Query::stream(stream_of(4))),
        Query::tags([tag("missing")]),
        Query::flows([flow_of(0)]),
        Query::flows([flow_of(1), flow_of(2)]).and_tags([tag("t1")]),
    ];
    queries.extend((0..5).map(|n| Query::stream(stream_of(n))));
    queries
}

fn compare(store: &Store, model: &MemoryLog, limit: usize) {
    for query in queries() {
        let read = |r: &Read| store.read_blocking(r).unwrap();
        let model_read = |r: &Read| block_on(model.read(r.clone())).unwrap();
        let expected = without_time(read_all(model_read, &query, 1_000));
        assert_eq!(without_time(read_all(read, &query, limit)), expected, "{query:?}");
        let mut backward = without_time(read_back(read, &query, limit));
        backward.reverse();
        assert_eq!(backward, expected, "{query:?} backward");
    }
    for n in 0..5 {
        let revision = |log: &dyn EventLog| block_on(log.stream_revision(&stream_of(n))).unwrap();
        assert_eq!(revision(store), revision(model));
    }
    let mut scan = store.scan(Position::START).unwrap();
    let mut scanned = Vec::new();
    while let Some(event) = scan.next() {
        scanned.push(event.unwrap().to_event().unwrap());
    }
    let all = read_all(|r| block_on(model.read(r.clone())).unwrap(), &Query::all(), 1_000);
    assert_eq!(without_time(scanned), without_time(all));
}

fn run(durability: Durability, operations: Vec<Operation>, limit: usize) {
    let mut subject = Subject::new(durability);
    let model = MemoryLog::new();
    let mut seen_ids = Vec::new();
    for operation in operations {
        match operation {
            Operation::Append { events, expected, none_since, id } => {
                let events = events.into_iter().map(|(s, t, tags, flow, size)| {
                    let mut event = event(stream_of(s).as_str(), type_of(t), &"x".repeat(size));
                    event.tags = tags_of(tags);
                    (event.correlation_id, event.causation_id) = flow_ids(flow);
                    event
                });
                let mut append = Append::new(events);
                if let Some((s, expectation)) = expected {
                    let actual = block_on(model.stream_revision(&stream_of(s))).unwrap();
                    let expected = match expectation {
                        Expectation::NoStream => ExpectedRevision::NoStream,
                        Expectation::Exists => ExpectedRevision::Exists,
                        Expectation::Actual => ExpectedRevision::Exact(actual),
                        Expectation::Wrong => {
                            ExpectedRevision::Exact(Revision::new(actual.get() + 1))
                        }
                    };
                    append = append.expecting(stream_of(s), expected);
                }
                if let Some((bit, back)) = none_since {
                    let head = block_on(model.head(Visibility::Committed)).unwrap();
                    let after = Position::new(head.get().saturating_sub(back.into()));
                    let query = match bit {
                        3 => Query::flows([flow_of(0)]),
                        bit => Query::tags([tag(&format!("t{bit}"))]),
                    };
                    let condition: Condition = append.condition.clone();
                    append = append.under(condition.and_no_events(query, after));
                }
                append.append_id = id.map(|n| AppendId::from_name(&[n]));
                seen_ids.extend(append.append_id);
                let expected = comparable(block_on(model.append(append.clone())));
                let found = comparable(subject.store.append_blocking(append));
                assert_eq!(found, expected);
            }
            Operation::Flush => drop(subject.store.flush().unwrap()),
            Operation::Close => subject.close(),
            Operation::Kill => subject.kill(),
        }
    }
    compare(&subject.store, &model, limit);
    subject.kill();
    subject.close();
    compare(&subject.store, &model, limit);
    for id in seen_ids {
        let find = |log: &dyn EventLog| block_on(log.find_append(id)).unwrap();
        assert_eq!(find(&subject.store), find(&model));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_and_the_reference_log_agree(
        durability in prop_oneof![
            Just(Durability::Sync),
            Just(Durability::INTERVAL),
            Just(Durability::Os)
        ],
        operations in prop::collection::vec(operation(), 1..60),
        limit in 1..20_usize,
    ) {
        run(durability, operations, limit);
    }
}
