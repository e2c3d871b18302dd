use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use headwater_core::{EventType, MemoryLog, TraceContext};

use super::*;
use crate::group::testing::{WatchedLog, event};
use crate::group::testing::{event_at, io_error, options};
use crate::group::{ConsumerGroup, GroupOptions, IdempotencyKey};
use crate::reactor::{ReactError, Reactor, ReactorHandle, ReactorOptions, ReactorRunner};

const SECOND: Duration = Duration::from_secs(1);

/// Answers with the request's payload, and remembers what it was asked.
#[derive(Clone, Default)]
struct Echo {
    asked: Arc<Mutex<Vec<u64>>>,
    fails: Arc<AtomicUsize>,
    refuses: bool,
}

#[async_trait]
impl Responder for Echo {
    async fn respond(
        &mut self,
        request: &RecordedEvent,
        _: &IdempotencyKey,
    ) -> Result<Answer, ReactError> {
        self.asked.lock().unwrap().push(request.position.get());
        if self.fails.load(Ordering::SeqCst) > 0 {
            self.fails.fetch_sub(1, Ordering::SeqCst);
            return Err(ReactError::message("made up"));
        }
        let answered = EventType::new("answered")?;
        if self.refuses {
            return Ok(Answer::failure(answered, "out of stock"));
        }
        let answer = Answer::new(answered, request.codec, request.payload.clone());
        Ok(answer.with(event("fact-1", "happened")))
    }
}

fn category() -> Category {
    Category::new("answer").unwrap()
}

async fn requests(log: &Arc<WatchedLog>) -> Requests {
    Requests::start(log.clone(), category()).await.unwrap()
}

fn asking(number: usize) -> NewEvent {
    let mut request = event(&format!("ask-{number}"), "asked");
    request.payload = number.to_string().into();
    request
}

async fn respond(log: &Arc<WatchedLog>, echo: &Echo) -> (ConsumerGroup, ReactorHandle) {
    let selection = Query::types([EventType::new("asked").unwrap()]);
    let options = GroupOptions { selection, ..options() };
    let group = ConsumerGroup::open(log.clone(), options).await.unwrap();
    let make = |_| Responding::new(log.clone(), echo.clone());
    let options = ReactorOptions::default();
    let handle = ReactorRunner::start(&group, "echo", make, 2, options).await.unwrap();
    (group, handle)
}

async fn count(log: &MemoryLog, query: Query) -> usize {
    log.read(Read::forward(query, Position::START)).await.unwrap().events.len()
}

#[tokio::test(start_paused = true)]
async fn many_requests_are_answered_each_its_own_way() {
    let log = WatchedLog::new();
    let echo = Echo::default();
    let _running = respond(&log, &echo).await;
    let requests = requests(&log).await;
    let asks = (0..200).map(|number| {
        let requests = requests.clone();
        tokio::spawn(async move { (number, requests.request(asking(number), SECOND).await) })
    });
    for ask in asks.collect::<Vec<_>>() {
        let (number, reply) = ask.await.unwrap();
        let reply = reply.unwrap();
        assert_eq!(reply.event.payload, number.to_string());
        assert_eq!(reply.failure(), None);
    }
    assert_eq!(requests.inner.replies.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reply_names_its_request() {
    let log = WatchedLog::new();
    let _running = respond(&log, &Echo::default()).await;
    let requests = requests(&log).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let asked = asking(1).traced(&trace);
    let reply = requests.request(asked.clone(), SECOND).await.unwrap();
    assert_eq!(TraceContext::from_headers(&reply.event.headers), Some(trace));
    assert_eq!(reply.event.causation_id, Some(asked.id));
    assert_eq!(reply.event.correlation_id, Some(asked.id.into()));
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_is_found_by_the_correlation_id_after_a_restart_too() {
    let log = WatchedLog::new();
    let first = requests(&log).await;
    let error = first.request(asking(1), SECOND).await.unwrap_err();
    let RequestError::Timeout { correlation_id, .. } = error else { panic!("{error}") };
    assert_eq!(first.inner.replies.waiting(), 0, "who gave up holds nothing");
    assert_eq!(first.find(correlation_id).await.unwrap(), None);
    drop(first);

    let echo = Echo::default();
    let (group, _handle) = respond(&log, &echo).await;
    group.wait_for(Position::FIRST, SECOND).await.unwrap();
    // The reply came before anybody of this life listened.
    let second = requests(&log).await;
    assert_eq!(second.wait(correlation_id, SECOND).await.unwrap().event.payload, "1");
    assert!(second.find(correlation_id).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_reply_between_looking_and_listening_is_not_missed() {
    let log = WatchedLog::new();
    let requests = requests(&log).await;
    let sent = requests.send(asking(1)).await.unwrap();
    let waits = requests.wait(sent.correlation_id, SECOND);
    // The reply is appended before the wait is polled at all, and the listener has passed it.
    let mut reply = event(sent.reply_to.as_str(), "answered");
    reply.payload = "yes".into();
    log.append(Append::new([reply])).await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(waits.await.unwrap().event.payload, "yes");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_again_is_answered_once() {
    let log = WatchedLog::new();
    let echo = Echo::default();
    let requests = requests(&log).await;
    let sent = requests.send(asking(1)).await.unwrap();
    let page = log.read(Read::forward(Query::all(), Position::START)).await.unwrap();
    let request = &page.events[0];
    let key = IdempotencyKey::new(headwater_core::GroupId::new(1), request.id);
    let mut responding = Responding::new(log.clone(), echo.clone());
    responding.react(request, &key).await.unwrap();
    responding.react(request, &key).await.unwrap();
    assert_eq!(echo.asked.lock().unwrap().len(), 1, "the handler is not asked again");
    // Two that have the request at once: the second finds out by its append.
    let answer = Answer::new(EventType::new("answered").unwrap(), request.codec, "other");
    let answer = answer.with(event("fact-1", "happened"));
    responding.reply(request, sent.reply_to.clone(), answer).await.unwrap();
    assert_eq!(count(&log.inner, Query::stream(sent.reply_to)).await, 1);
    let facts = Query::stream(StreamId::new("fact-1").unwrap());
    assert_eq!(count(&log.inner, facts).await, 1, "what it brought about is there once");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_a_reply_and_what_may_pass_is_tried_again() {
    let log = WatchedLog::new();
    let echo = Echo { refuses: true, ..Echo::default() };
    echo.fails.store(2, Ordering::SeqCst);
    let _running = respond(&log, &echo).await;
    let requests = requests(&log).await;
    let reply = requests.request(asking(1), 60 * SECOND).await.unwrap();
    assert_eq!(reply.failure(), Some("out of stock"));
    assert_eq!(echo.asked.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_sent_once_for_its_correlation_id() {
    let log = WatchedLog::new();
    let requests = requests(&log).await;
    let mut request = asking(1);
    request.correlation_id = Some(CorrelationId::generate());
    let sent = requests.send(request.clone()).await.unwrap();
    assert_eq!(requests.send(request.clone()).await.unwrap(), sent);
    request.payload = "another".into();
    let reused = requests.send(request.clone()).await;
    assert!(matches!(reused, Err(RequestError::Append(_))), "{reused:?}");
    request.headers.insert(REPLY_TO, "elsewhere-1").unwrap();
    let elsewhere = requests.send(request).await;
    assert!(matches!(elsewhere, Err(RequestError::HasReplyTo { .. })), "{elsewhere:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_no_request_fails() {
    let log = WatchedLog::new();
    let mut responding = Responding::new(log, Echo::default());
    let stray = event_at(1, "k");
    let key = IdempotencyKey::new(headwater_core::GroupId::new(1), stray.id);
    assert!(responding.react(&stray, &key).await.unwrap_err().to_string().contains("reply-to"));
}

#[tokio::test(start_paused = true)]
async fn listening_goes_on_after_reads_that_failed() {
    let log = WatchedLog::new();
    let requests = requests(&log).await;
    let sent = requests.send(asking(1)).await.unwrap();
    let waits = tokio::spawn({
        let requests = requests.clone();
        async move { requests.wait(sent.correlation_id, 60 * SECOND).await }
    });
    while requests.inner.replies.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    log.read_errors.lock().unwrap().extend([ReadError::Io(io_error()), ReadError::Io(io_error())]);
    log.append(Append::new([event(sent.reply_to.as_str(), "answered")])).await.unwrap();
    assert!(waits.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_the_log_can_be_read_no_more() {
    let log = WatchedLog::new();
    let requests = requests(&log).await;
    let sent = requests.send(asking(1)).await.unwrap();
    let waits = tokio::spawn({
        let requests = requests.clone();
        async move { requests.wait(sent.correlation_id, 60 * SECOND).await }
    });
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    log.read_errors.lock().unwrap().push_back(ReadError::Closed);
    log.append(Append::new([event("other-1", "t")])).await.unwrap();
    let error = waits.await.unwrap().unwrap_err();
    assert!(matches!(error, RequestError::Read(ReadError::Closed)), "{error}");
    let error = requests.wait(sent.correlation_id, SECOND).await.unwrap_err();
    assert!(matches!(error, RequestError::Read(ReadError::Closed)), "{error}");
}
