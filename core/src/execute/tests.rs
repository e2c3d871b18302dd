use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use pollster::block_on;
use serde::{Deserialize, Serialize};

use super::*;
use crate::append::Durability;
use crate::codec::Json;
use crate::id::LogId;
use crate::kind::EventKind;
use crate::log::{Page, Visibility};
use crate::memory::MemoryLog;
use crate::subscription::Subscription;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Counted {
    Up(u32),
}

impl Event for Counted {
    type Codec = Json;
    const KINDS: &'static [EventKind] = &[EventKind::new("counter.up", 1)];

    fn kind(&self) -> EventKind {
        Self::KINDS[0]
    }
}

/// Counts up to 100; 0 asks for nothing.
#[derive(Debug)]
struct Counter;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{0} is enough")]
struct Enough(u32);

impl Decider for Counter {
    type Command = u32;
    type Event = Counted;
    type State = u32;
    type Error = Enough;

    fn decide(&self, state: &u32, by: u32) -> Result<Vec<Counted>, Enough> {
        match by {
            0 => Ok(Vec::new()),
            by if state + by > 100 => Err(Enough(*state)),
            by => Ok(vec![Counted::Up(by)]),
        }
    }

    fn evolve(&self, state: u32, event: &Counted) -> u32 {
        let Counted::Up(by) = event;
        state + by
    }
}

fn stream() -> StreamId {
    StreamId::new("counter-1").unwrap()
}

fn run(
    log: &dyn EventLog,
    by: u32,
    options: &ExecuteOptions,
) -> Result<Executed<u32, Counted>, ExecuteError<Enough>> {
    block_on(execute(log, &Counter, &stream(), by, options))
}

/// A log in which another writer comes first, a number of times, between reading and appending.
#[derive(Debug)]
struct Contended {
    inner: MemoryLog,
    left: AtomicU32,
}

impl Contended {
    fn times(times: u32) -> Self {
        Self { inner: MemoryLog::new(), left: AtomicU32::new(times) }
    }
}

#[async_trait]
impl EventLog for Contended {
    fn id(&self) -> LogId {
        self.inner.id()
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
            let first = encode_event(stream(), &Counted::Up(1)).unwrap();
            self.inner.append(Append::new([first])).await?;
        }
        self.inner.append(append).await
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        self.inner.find_append(id).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.inner.read(read.limit(2)).await
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        self.inner.head(visibility).await
    }

    async fn wait_for(&self, at: Position, v: Visibility) -> Result<Position, ReadError> {
        self.inner.wait_for(at, v).await
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        Subscription::new(Arc::new(self.inner.clone()), query, after)
    }
}

#[test]
fn a_command_sees_what_the_ones_before_it_did() {
    let log = Contended::times(0);
    let options = ExecuteOptions::default();
    for n in 1..=7 {
        let done = run(&log, 10, &options).unwrap();
        assert_eq!((done.state, done.events, done.attempts), (10 * n, vec![Counted::Up(10)], 1));
    }
    let loaded = block_on(load(&log, &Counter, &stream())).unwrap();
    assert_eq!((loaded.state, loaded.revision), (70, Revision::new(7)));
}

#[test]
fn a_command_that_lost_the_race_is_decided_again_on_what_came_first() {
    let log = Contended::times(3);
    let done = run(&log, 10, &ExecuteOptions::default()).unwrap();
    assert_eq!((done.state, done.attempts), (13, 4));
    assert_eq!(done.appended.unwrap().first, Position::new(4));
}

#[test]
fn a_command_that_always_loses_gives_up_and_names_the_conflict() {
    let log = Contended::times(u32::MAX);
    let options = ExecuteOptions { attempts_max: 3, ..ExecuteOptions::default() };
    let error = run(&log, 10, &options).unwrap_err();
    assert!(matches!(&error, ExecuteError::Contended { attempts: 3, .. }), "{error}");
    assert_eq!(error.effect(), Effect::None);
}

#[test]
fn a_refused_command_and_one_without_events_append_nothing() {
    let log = MemoryLog::new();
    let options = ExecuteOptions::default();
    let idle = run(&log, 0, &options).unwrap();
    assert_eq!((idle.appended, idle.events), (None, Vec::new()));
    let error = run(&log, 101, &options).unwrap_err();
    assert!(matches!(error, ExecuteError::Rejected(Enough(0))), "{error}");
    assert_eq!(block_on(log.head(Visibility::Committed)).unwrap(), Position::START);
}

#[test]
fn a_repeated_request_returns_the_first_result_whatever_it_would_mean_now() {
    let log = MemoryLog::new();
    let id = Some(AppendId::from_name(b"request 1"));
    let options = ExecuteOptions { append_id: id, ..ExecuteOptions::default() };
    let first = run(&log, 60, &options).unwrap().appended.unwrap();
    // Decided anew it would be too much.
    let again = run(&log, 60, &options).unwrap();
    assert_eq!(again.appended, Some(Appended { deduplicated: true, ..first }));
    assert_eq!((again.state, again.events), (60, Vec::new()));
}

#[test]
fn events_carry_what_the_options_say() {
    let log = MemoryLog::new();
    let cause = EventId::generate();
    let mut headers = Headers::new();
    headers.insert("traceparent", "00-1-2-3").unwrap();
    let options = ExecuteOptions {
        correlation_id: Some(cause.into()),
        causation_id: Some(cause),
        event_time: Some(Timestamp::from_nanos(7)),
        headers: headers.clone(),
        ..ExecuteOptions::default()
    };
    run(&log, 1, &options).unwrap();
    let page = block_on(log.read(Read::forward(Query::all(), Position::START))).unwrap();
    let event = &page.events[0];
    assert_eq!((event.correlation_id, event.causation_id), (Some(cause.into()), Some(cause)));
    assert_eq!((event.event_time, &event.headers), (Timestamp::from_nanos(7), &headers));
}

#[test]
fn an_event_that_is_not_the_deciders_stops_the_command() {
    let log = MemoryLog::new();
    let other = crate::name::EventType::new("counter.reset").unwrap();
    let foreign = crate::event::NewEvent::json(stream(), other, &1).unwrap();
    block_on(log.append(Append::new([foreign]))).unwrap();
    let error = run(&log, 1, &ExecuteOptions::default()).unwrap_err();
    assert!(matches!(error, ExecuteError::Decode(DecodeError::UnknownType { .. })), "{error}");
}
