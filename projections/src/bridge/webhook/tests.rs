//! Against a real HTTP server on loopback, which fails, stalls and hangs up as it is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use headwater_core::{
    Append, EventLog, EventType, GroupId, GroupLog, GroupName, MemoryLog, NewEvent, Position,
    Query, Read, RecordedEvent, StreamId, Timestamp,
};
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::group::{ConsumerGroup, GroupOptions, IdempotencyKey};
use crate::retry::Backoff;
use crate::{Bridge, BridgeOptions, FailurePolicy};

const SECOND: Duration = Duration::from_secs(1);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What arrived at the server.
#[derive(Clone, Debug)]
struct Arrived {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Arrived {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks the signature, as a receiver would.
    fn verify(&self) -> Result<(), VerifyError> {
        let verifier = WebhookVerifier::new([SigningKey::parse(SECRET).unwrap()]);
        let (id, time) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let signatures = self.header("webhook-signature");
        verifier.verify(id, time, signatures, &self.body, Timestamp::now())
    }
}

enum Reply {
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// Never answers.
    Stall,
    /// Closes the connection instead of answering.
    HangUp,
}

fn status(status: u16) -> Reply {
    Reply::Status(status, Vec::new(), "")
}

/// A server that runs until it is dropped.
struct Server {
    address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    /// How many there were.
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Server {
    /// Answers the n-th request, from 0, as `reply` says.
    async fn start(reply: impl Fn(usize, &Arrived) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let arrived: Arc<Mutex<Vec<Arrived>>> = Arc::default();
        let (seen, reply) = (Arc::clone(&arrived), Arc::new(reply));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                let service = service_fn(move |request: Request<Incoming>| {
                    answer(request, Arc::clone(&seen), Arc::clone(&reply))
                });
                serving.spawn(async move {
                    // An error is a reply that was asked for, or a client that has gone.
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, arrived, connections, _task: task }
    }

    fn url(&self) -> String {
        format!("http://{}/hooks?x=1", self.address)
    }

    fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Arrived>>>,
    reply: Arc<impl Fn(usize, &Arrived) -> Reply>,
) -> io::Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let arrived = Arrived { path: parts.uri.to_string(), headers: parts.headers, body };
    let reply = {
        let mut seen = seen.lock().unwrap();
        let reply = reply(seen.len(), &arrived);
        seen.push(arrived);
        reply
    };
    match reply {
        Reply::Status(status, headers, text) => {
            let mut response = Response::new(Full::from(text));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            Ok(response)
        }
        Reply::Stall => std::future::pending().await,
        Reply::HangUp => Err(io::Error::other("asked to hang up")),
    }
}

fn order(number: usize, key: usize) -> NewEvent {
    let stream = StreamId::new(format!("order-{key}")).unwrap();
    let data = json!({"number": number, "name": "K\u{e4}se"});
    NewEvent::json(stream, EventType::new("order.placed").unwrap(), &data).unwrap()
}

async fn recorded(event: NewEvent) -> RecordedEvent {
    let log = MemoryLog::new();
    log.append(Append::new([event])).await.unwrap();
    let read = Read::forward(Query::all(), Position::START);
    log.read(read).await.unwrap().events.remove(0)
}

fn options() -> WebhookOptions {
    let keys = vec![SigningKey::parse(SECRET).unwrap()];
    WebhookOptions { keys, timeout: 60 * SECOND, ..WebhookOptions::default() }
}

/// Gives up soon.
fn hasty() -> WebhookOptions {
    WebhookOptions { timeout: SECOND / 4, ..options() }
}

async fn send(url: &str, options: WebhookOptions, event: &RecordedEvent) -> Result<(), SendError> {
    let group = GroupId::new(7);
    let key = IdempotencyKey::new(group, event.id);
    let message = Message { event, key: &key, attempt: 1, source: "urn:uuid:log" };
    Webhook::new(url, options).unwrap().send(&message).await
}

#[tokio::test]
async fn in_structured_mode_the_whole_event_is_the_body_and_signed() {
    let server = Server::start(|_, _| status(204)).await;
    let mut event = order(1, 17);
    event
        .headers
        .insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .unwrap();
    let event = recorded(event).await;
    let headers = vec![("authorization".to_owned(), "Bearer x".to_owned())];
    send(&server.url(), WebhookOptions { headers, ..options() }, &event).await.unwrap();
    let [arrived] = &server.arrived()[..] else { panic!("one request") };
    arrived.verify().unwrap();
    assert_eq!(arrived.path, "/hooks?x=1");
    assert_eq!(arrived.header("content-type"), "application/cloudevents+json; charset=utf-8");
    assert_eq!(arrived.header("webhook-id"), format!("g7/{}", event.id));
    assert_eq!(arrived.header("authorization"), "Bearer x");
    assert!(arrived.header("traceparent").starts_with("00-0af7651916cd43dd"));
    let body: Value = serde_json::from_slice(&arrived.body).unwrap();
    assert_eq!(body["id"], event.id.to_string());
    assert_eq!(body["subject"], "order-17");
    assert_eq!(body["data"], json!({"number": 1, "name": "K\u{e4}se"}));
}

#[tokio::test]
async fn in_binary_mode_the_payload_is_the_body_and_the_attributes_are_headers() {
    let server = Server::start(|_, _| status(200)).await;
    let mut event = order(1, 17);
    event.stream = StreamId::new("order-K\u{e4}se").unwrap();
    let event = recorded(event).await;
    let options = WebhookOptions { mode: WebhookMode::Binary, ..options() };
    send(&server.url(), options, &event).await.unwrap();
    let [arrived] = &server.arrived()[..] else { panic!("one request") };
    arrived.verify().unwrap();
    assert_eq!(arrived.body, event.payload);
    assert_eq!(arrived.header("content-type"), "application/json");
    assert_eq!(arrived.header("ce-specversion"), "1.0");
    assert_eq!(arrived.header("ce-id"), event.id.to_string());
    assert_eq!(arrived.header("ce-subject"), "order-K%C3%A4se");
    assert_eq!(arrived.header("ce-source"), "urn:uuid:log");
    assert_eq!(arrived.header("ce-type"), "order.placed");
    assert_eq!(arrived.header("ce-position"), "1");
}

#[tokio::test]
async fn each_status_means_what_the_table_says() {
    let event = recorded(order(1, 1)).await;
    for code in [
        200, 202, 299, 301, 302, 304, 400, 401, 403, 404, 407, 408, 409, 410, 413, 422, 425, 429,
        500, 502, 503, 504, 599,
    ] {
        let server = Server::start(move |_, _| status(code)).await;
        let sent = send(&server.url(), options(), &event).await;
        let right = match code {
            200..=299 => sent.is_ok(),
            408 | 425 | 500 | 502 | 504 | 599 => matches!(sent, Err(SendError::Failed { .. })),
            301 | 302 | 304 | 401 | 407 | 410 | 429 | 503 => {
                matches!(sent, Err(SendError::Unavailable { .. }))
            }
            _ => matches!(sent, Err(SendError::Refused(_))),
        };
        assert!(right, "{code}: {sent:?}");
        let meanings = vec![(404..=404, StatusMeaning::Failed), (400..=499, StatusMeaning::Taken)];
        let sent = send(&server.url(), WebhookOptions { meanings, ..options() }, &event).await;
        match code {
            404 => assert!(matches!(sent, Err(SendError::Failed { .. })), "{sent:?}"),
            400..=499 => sent.unwrap(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_asks_for_time_gets_it() {
    let event = recorded(order(1, 1)).await;
    for (code, header, seconds) in
        [(503, "7", Some(7)), (429, "9999999", Some(3_600)), (429, "x", None), (500, "5", Some(5))]
    {
        let server = Server::start(move |_, _| {
            Reply::Status(code, vec![("retry-after", header.to_owned())], "busy")
        });
        let sent = send(&server.await.url(), options(), &event).await.unwrap_err();
        let (SendError::Unavailable { retry_after, .. } | SendError::Failed { retry_after, .. }) =
            &sent
        else {
            panic!("{sent:?}");
        };
        assert_eq!(*retry_after, seconds.map(Duration::from_secs), "{code} {header}");
        assert!(sent.chain().ends_with(": busy"), "{}", sent.chain());
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::start(|_, arrived| match arrived.path.as_str() {
        "/elsewhere" => status(200),
        _ => Reply::Status(307, vec![("location", "/elsewhere".to_owned())], ""),
    })
    .await;
    let event = recorded(order(1, 1)).await;
    let error = send(&server.url(), options(), &event).await.unwrap_err();
    assert!(error.chain().contains("\"/elsewhere\""), "{}", error.chain());
    assert_eq!(server.arrived().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_unavailable_and_one_that_is_silent_failed() {
    let event = recorded(order(1, 1)).await;
    // Bound and closed again: nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let sent = send(&format!("http://{free}/"), options(), &event).await;
    assert!(matches!(sent, Err(SendError::Unavailable { .. })), "{sent:?}");
    let server = Server::start(|n, _| if n == 0 { Reply::Stall } else { Reply::HangUp }).await;
    for text in ["no answer within 250ms", "the target did not take the event"] {
        let error = send(&server.url(), hasty(), &event).await.unwrap_err();
        assert!(matches!(error, SendError::Failed { .. }), "{error:?}");
        assert!(error.chain().contains(text), "{}", error.chain());
    }
    #[cfg(feature = "tls")]
    {
        // It speaks no TLS, so that no event was ever at stake.
        let url = server.url().replace("http:", "https:");
        let sent = send(&url, options(), &event).await;
        assert!(matches!(sent, Err(SendError::Unavailable { .. })), "{sent:?}");
    }
}

/// Appends events of some keys in turn and opens a group over them.
async fn log_with(events: usize, keys: usize, attempts: u32) -> (ConsumerGroup, Position) {
    let log = Arc::new(MemoryLog::new());
    let appended = log.append(Append::new((0..events).map(|n| order(n, n % keys)))).await.unwrap();
    let quick = Backoff { first: SECOND / 1_000, max: SECOND / 50 };
    let failure =
        FailurePolicy { attempts_max: Some(attempts), backoff: quick, ..FailurePolicy::default() };
    let options = GroupOptions { failure, ..GroupOptions::new(GroupName::new("hooks").unwrap()) };
    let log: Arc<dyn GroupLog> = log;
    (ConsumerGroup::open(log, options).await.unwrap(), appended.last)
}

fn quick() -> BridgeOptions {
    let backoff = Backoff { first: SECOND / 1_000, max: SECOND / 50 };
    BridgeOptions { concurrency: 8, failures_max: 5, backoff }
}

#[tokio::test]
async fn an_endpoint_that_fails_stalls_and_hangs_up_gets_every_event_in_order_of_its_key() {
    const EVENTS: usize = 120;
    // The server has an event also where it hangs up or stalls: then it comes once more.
    let server = Server::start(|n, arrived| {
        arrived.verify().unwrap();
        match n % 11 {
            2 => status(500),
            4 => Reply::HangUp,
            6 => Reply::Status(503, vec![("retry-after", "0".to_owned())], "busy"),
            8 if n < 60 => Reply::Stall,
            _ => status(204),
        }
    })
    .await;
    let (group, last) = log_with(EVENTS, 10, 50).await;
    let target = Webhook::new(&server.url(), hasty()).unwrap();
    let bridge = Bridge::start(&group, "hooks", target, quick()).await.unwrap();
    bridge.wait_for(last, 60 * SECOND).await.unwrap();
    assert_eq!(group.parked().await.unwrap(), []);
    assert_eq!(bridge.status().forwarded, EVENTS as u64);
    bridge.shutdown().await.unwrap();

    let mut ids: HashMap<String, String> = HashMap::new();
    let mut by_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut met = HashSet::new();
    for arrived in server.arrived() {
        let body: Value = serde_json::from_slice(&arrived.body).unwrap();
        let (id, webhook) = (body["id"].to_string(), arrived.header("webhook-id").to_owned());
        let same = ids.entry(id.clone()).or_insert_with(|| webhook.clone());
        assert_eq!(*same, webhook, "an event that comes again has the same id");
        let number = body["data"]["number"].as_u64().unwrap();
        let of_key = by_key.entry(body["subject"].to_string()).or_default();
        // Only the newest one of a key comes again.
        assert!(met.insert(id) || of_key.last() == Some(&number), "{number} after {of_key:?}");
        of_key.push(number);
    }
    assert_eq!(ids.len(), EVENTS);
    assert_eq!(ids.values().collect::<HashSet<_>>().len(), EVENTS);
    assert!(by_key.values().all(|numbers| numbers.is_sorted()));
    assert!(server.arrived().len() > EVENTS, "nothing came twice, so nothing was tried");
}

#[tokio::test]
async fn an_event_that_the_endpoint_refuses_is_parked_at_once_and_others_go_on() {
    let server = Server::start(|_, arrived| {
        let body: Value = serde_json::from_slice(&arrived.body).unwrap();
        if body["data"]["number"] == 3 {
            Reply::Status(422, Vec::new(), "no such customer")
        } else {
            status(200)
        }
    })
    .await;
    let (group, last) = log_with(40, 10, 50).await;
    let target = Webhook::new(&server.url(), options()).unwrap();
    let bridge = Bridge::start(&group, "hooks", target, quick()).await.unwrap();
    bridge.wait_for(last, 60 * SECOND).await.unwrap();
    let parked = group.parked().await.unwrap();
    assert_eq!(parked.len(), 1);
    assert_eq!(parked[0].first, Position::new(4));
    assert!(parked[0].cause.ends_with("422 Unprocessable Entity: no such customer"));
    // The refused one, and the other 36 that are not of its key.
    assert_eq!(server.arrived().len(), 37);
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::start(|_, _| Reply::Status(200, Vec::new(), "thank you")).await;
    let event = recorded(order(1, 1)).await;
    let webhook = Webhook::new(&server.url(), options()).unwrap();
    let key = IdempotencyKey::new(GroupId::new(7), event.id);
    let message = Message { event: &event, key: &key, attempt: 1, source: "urn:uuid:log" };
    for _ in 0..5 {
        webhook.send(&message).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}
