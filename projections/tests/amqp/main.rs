//! The bridge to AMQP against a real RabbitMQ, which is also killed in the middle.

mod broker;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_core::{
    Append, CodecId, CorrelationId, EventLog, EventType, GroupLog, GroupName, MemoryLog, NewEvent,
    Position, StreamId,
};
use headwater_projections::amqp::{Amqp, AmqpMode, AmqpOptions, Route};
use headwater_projections::{
    Backoff, Bridge, BridgeHandle, BridgeOptions, BridgePhase, ConsumerGroup, FailurePolicy,
    GroupOptions,
};
use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

use self::broker::Broker;

const SECOND: Duration = Duration::from_secs(1);
/// How long a story may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

type Story = fn(&mut Broker) -> Result<(), Failed>;

/// Names each story as its function is named.
macro_rules! stories {
    ($($story:ident),* $(,)?) => { [$((stringify!($story), |broker| run($story(broker)))),*] };
}

fn main() {
    // They share one broker, which takes seconds to start.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let script = broker::installed();
    if script.is_none() {
        eprintln!("SKIPPED: the bridge to AMQP was not tested, for there is no RabbitMQ here.");
        eprintln!("SKIPPED: to test it: apt-get install rabbitmq-server (as root)");
    }
    let broker: Arc<Mutex<Option<Broker>>> = Arc::default();
    let stories: [(&str, Story); 7] = stories![
        a_message_carries_what_the_event_has,
        a_structured_message_is_the_whole_event,
        a_message_that_no_queue_takes_is_an_error_until_one_does,
        an_exchange_that_is_not_there_fails_its_messages_and_no_others,
        a_message_that_is_too_large_is_parked_at_once,
        a_queue_that_is_full_makes_the_bridge_wait,
        a_broker_that_is_killed_in_the_middle_gets_every_event_in_order,
    ];
    let trials = stories.map(|(name, story)| {
        let (broker, script) = (Arc::clone(&broker), script.clone());
        let told = move || {
            let script = script.ok_or("there is no RabbitMQ here")?;
            let mut broker = broker.lock().unwrap_or_else(PoisonError::into_inner);
            if broker.is_none() {
                *broker = Some(Broker::start(script)?);
            }
            story(broker.as_mut().expect("it was just started"))
        };
        Trial::test(name, told).with_ignored_flag(broker::installed().is_none())
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    // Before the process ends, which drops nothing.
    drop(broker.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit();
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn run(story: impl Future<Output = Outcome>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let told = runtime.block_on(async { tokio::time::timeout(PATIENCE, story).await });
    Ok(told.map_err(|_| format!("it took longer than {PATIENCE:?}"))??)
}

/// A client beside the bridge, which makes queues and empties them.
struct Client {
    _connection: Connection,
    channel: Channel,
}

impl Client {
    async fn new(broker: &Broker) -> Result<Self, lapin::Error> {
        let connection =
            Connection::connect(&broker.uri(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self { _connection: connection, channel })
    }

    async fn queue(&self, name: &str, arguments: FieldTable) -> Result<(), lapin::Error> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await.map(drop)
    }

    /// Takes everything out of a queue.
    async fn empty(&self, name: &str) -> Result<Vec<BasicGetMessage>, lapin::Error> {
        let mut messages = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self.channel.basic_get(name.into(), options).await? {
            messages.push(message);
        }
        Ok(messages)
    }
}

fn order(number: usize, key: usize) -> NewEvent {
    let stream = StreamId::new(format!("order-{key}")).expect("it is a name");
    let placed = EventType::new("order.placed").expect("it is a name");
    NewEvent::json(stream, placed, &json!({"number": number})).expect("it has a form in JSON")
}

/// A log with these events, a group over it that gives up after so many attempts, and a bridge.
async fn bridge(
    events: impl IntoIterator<Item = NewEvent>,
    attempts: u32,
    target: Amqp,
) -> Result<(BridgeHandle, Position), Box<dyn std::error::Error>> {
    let log = Arc::new(MemoryLog::new());
    let last = log.append(Append::new(events)).await?.last;
    let backoff = Backoff { first: SECOND / 100, max: SECOND / 5 };
    let failure =
        FailurePolicy { attempts_max: Some(attempts), backoff, ..FailurePolicy::default() };
    let options = GroupOptions { failure, ..GroupOptions::new(GroupName::new("bridge")?) };
    let log: Arc<dyn GroupLog> = log;
    let group = ConsumerGroup::open(log, options).await?;
    let options = BridgeOptions { backoff, ..BridgeOptions::default() };
    Ok((Bridge::start(&group, "amqp", target, options).await?, last))
}

async fn a_message_carries_what_the_event_has(broker: &Broker) -> Outcome {
    let client = Client::new(broker).await?;
    client.queue("properties", FieldTable::default()).await?;
    let mut event = order(1, 17);
    event.correlation_id = Some(CorrelationId::generate());
    event
        .headers
        .insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")?;
    let (id, correlation) = (event.id.to_string(), event.correlation_id.map(|id| id.to_string()));
    let bytes = NewEvent { codec: CodecId::RAW, payload: vec![0, 255].into(), ..order(2, 18) };
    let route = |_: &_| Route::queue("properties");
    let target = Amqp::new(&broker.uri(), route, AmqpOptions::default())?;
    let (bridge, last) = bridge([event, bytes], 1, target).await?;
    bridge.wait_for(last, PATIENCE).await?;
    let mut messages = client.empty("properties").await?;
    messages.sort_by_key(|message| message.delivery.data.len());
    let [bytes, message] = &messages[..] else { panic!("{} messages", messages.len()) };
    let properties = &message.delivery.properties;
    let text = |short: &Option<lapin::types::ShortString>| short.as_ref().map(ToString::to_string);
    assert_eq!(message.delivery.data, br#"{"number":1}"#);
    assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert!(text(properties.message_id()).is_some_and(|key| key.ends_with(&format!("/{id}"))));
    assert_eq!(text(properties.kind()).as_deref(), Some("order.placed"));
    assert_eq!(text(properties.correlation_id()), correlation);
    assert!(properties.timestamp().is_some());
    let headers = properties.headers().as_ref().expect("there are headers").inner();
    let header = |name: &str| match headers.get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(header("cloudEvents_id"), id);
    assert_eq!(header("cloudEvents_subject"), "order-17");
    assert_eq!(header("cloudEvents_position"), "1");
    assert_eq!(header("cloudEvents_schemaversion"), "Some(LongInt(1))");
    assert!(header("traceparent").starts_with("00-0af7651916cd43dd"));
    assert_eq!(bytes.delivery.data, [0, 255]);
    let content = text(bytes.delivery.properties.content_type());
    assert_eq!(content.as_deref(), Some("application/octet-stream"));
    Ok(bridge.shutdown().await?)
}

async fn a_structured_message_is_the_whole_event(broker: &Broker) -> Outcome {
    let client = Client::new(broker).await?;
    client.queue("structured", FieldTable::default()).await?;
    let options = AmqpOptions { mode: AmqpMode::Structured, ..AmqpOptions::default() };
    let target = Amqp::new(&broker.uri(), |_| Route::queue("structured"), options)?;
    let (bridge, last) = bridge([order(7, 1)], 1, target).await?;
    bridge.wait_for(last, PATIENCE).await?;
    let messages = client.empty("structured").await?;
    let body: Value = serde_json::from_slice(&messages[0].delivery.data)?;
    assert_eq!((&body["subject"], &body["data"]), (&json!("order-1"), &json!({"number": 7})));
    Ok(bridge.shutdown().await?)
}

async fn a_message_that_no_queue_takes_is_an_error_until_one_does(broker: &Broker) -> Outcome {
    let client = Client::new(broker).await?;
    client.queue("routable", FieldTable::default()).await?;
    // Every second event goes where nobody is, beside those that somebody takes.
    let route = |event: &headwater_core::RecordedEvent| {
        Route::queue(if event.position.get().is_multiple_of(2) { "routable" } else { "made-later" })
    };
    let target = Amqp::new(&broker.uri(), route, AmqpOptions::default())?;
    let events: Vec<NewEvent> = (0..40).map(|n| order(n, n)).collect();
    let (bridge, last) = bridge(events, 1_000, target).await?;
    let mut status = bridge.watch();
    status.wait_for(|now| now.failed >= 20 && now.forwarded == 20).await?;
    let said = bridge.status().last_failure.expect("there was one").error;
    let said = format!("{said:?}");
    assert!(said.contains("NO_ROUTE") && said.contains("made-later"), "{said}");
    client.queue("made-later", FieldTable::default()).await?;
    bridge.wait_for(last, PATIENCE).await?;
    for queue in ["routable", "made-later"] {
        let messages = client.empty(queue).await?;
        let ids: HashSet<_> =
            messages.iter().map(|message| message.delivery.properties.message_id()).collect();
        assert_eq!((messages.len(), ids.len()), (20, 20), "{queue}");
    }
    Ok(bridge.shutdown().await?)
}

async fn an_exchange_that_is_not_there_fails_its_messages_and_no_others(
    broker: &Broker,
) -> Outcome {
    let client = Client::new(broker).await?;
    client.queue("there", FieldTable::default()).await?;
    let route = |event: &headwater_core::RecordedEvent| match event.position.get() {
        3 => Route::new("no-such-exchange", "x"),
        4 => Route::new("", "x".repeat(256)),
        _ => Route::queue("there"),
    };
    let target = Amqp::new(&broker.uri(), route, AmqpOptions::default())?;
    let events: Vec<NewEvent> = (0..10).map(|n| order(n, n)).collect();
    let (bridge, last) = bridge(events, 3, target).await?;
    bridge.wait_for(last, PATIENCE).await?;
    let parked = bridge.group().parked().await?;
    let causes: Vec<_> = parked.iter().map(|one| (one.first.get(), one.cause.clone())).collect();
    assert!(
        matches!(&causes[..], [(3, missing), (4, long)]
        if missing.contains("NOT_FOUND") && long.contains("255")),
        "{causes:?}"
    );
    let status = bridge.status();
    assert_eq!((status.forwarded, status.failed, status.refused), (8, 3, 1));
    assert_eq!(client.empty("there").await?.len(), 8);
    Ok(bridge.shutdown().await?)
}

async fn a_message_that_is_too_large_is_parked_at_once(broker: &Broker) -> Outcome {
    let client = Client::new(broker).await?;
    client.queue("large", FieldTable::default()).await?;
    let payload = vec![b'x'; 2 * broker::MESSAGE_BYTES_MAX].into();
    let body = NewEvent { codec: CodecId::RAW, payload, ..order(1, 1) };
    let mut headers = order(2, 2);
    // In JSON each of these takes six bytes, and all of them are more than a frame.
    headers.headers.insert("x", "\u{1}".repeat(30 * 1024))?;
    let target = Amqp::new(&broker.uri(), |_| Route::queue("large"), AmqpOptions::default())?;
    let events = [body, headers].into_iter().chain((3..20).map(|n| order(n, n)));
    let (bridge, last) = bridge(events, 1_000, target).await?;
    bridge.wait_for(last, PATIENCE).await?;
    let parked = bridge.group().parked().await?;
    let causes: Vec<_> = parked.iter().map(|one| (one.first.get(), one.cause.clone())).collect();
    assert!(
        matches!(&causes[..], [(1, body), (2, headers)]
        if body.contains("PRECONDITION") && headers.contains("frame")),
        "{causes:?}"
    );
    assert_eq!(bridge.status().unavailable, 0);
    assert_eq!(client.empty("large").await?.len(), 17);
    Ok(bridge.shutdown().await?)
}

async fn a_queue_that_is_full_makes_the_bridge_wait(broker: &Broker) -> Outcome {
    let client = Client::new(broker).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(5));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    client.queue("small", arguments).await?;
    let target = Amqp::new(&broker.uri(), |_| Route::queue("small"), AmqpOptions::default())?;
    let events: Vec<NewEvent> = (0..30).map(|n| order(n, n)).collect();
    let (bridge, last) = bridge(events, 1, target).await?;
    let mut status = bridge.watch();
    let mut ids = HashSet::new();
    while bridge.group().floor() < last {
        tokio::select! {
            changed = status.changed() => changed?,
            done = bridge.wait_for(last, PATIENCE) => done?,
        }
        if matches!(bridge.status().phase, BridgePhase::Waiting { .. }) {
            for message in client.empty("small").await? {
                ids.insert(message.delivery.properties.message_id().clone());
            }
        }
    }
    for message in client.empty("small").await? {
        ids.insert(message.delivery.properties.message_id().clone());
    }
    assert_eq!(ids.len(), 30);
    assert_eq!(bridge.group().parked().await?, []);
    assert!(bridge.status().unavailable > 0, "the queue was never full");
    Ok(bridge.shutdown().await?)
}

async fn a_broker_that_is_killed_in_the_middle_gets_every_event_in_order(
    broker: &mut Broker,
) -> Outcome {
    const EVENTS: usize = 4_000;
    const KEYS: usize = 100;
    Client::new(broker).await?.queue("orders", FieldTable::default()).await?;
    let target = Amqp::new(&broker.uri(), |_| Route::queue("orders"), AmqpOptions::default())?;
    let events: Vec<NewEvent> = (0..EVENTS).map(|n| order(n, n % KEYS)).collect();
    // One attempt: that the broker is gone costs none.
    let (bridge, last) = bridge(events, 1, target).await?;
    let mut status = bridge.watch();
    for forwarded in [400, 1_600] {
        status.wait_for(|now| now.forwarded >= forwarded).await?;
        broker.kill();
        let at = bridge.status().forwarded;
        assert!(at < EVENTS as u64, "it was over before the broker was killed");
        status.wait_for(|now| matches!(now.phase, BridgePhase::Waiting { .. })).await?;
        broker.restart()?;
    }
    bridge.wait_for(last, PATIENCE).await?;
    assert_eq!(bridge.group().parked().await?, []);
    bridge.shutdown().await?;

    let messages = Client::new(broker).await?.empty("orders").await?;
    let mut ids: HashMap<String, String> = HashMap::new();
    let mut by_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in &messages {
        let properties = &message.delivery.properties;
        let headers = properties.headers().as_ref().expect("there are headers").inner();
        let text = |name: &str| format!("{:?}", headers[name]);
        let key = properties.message_id().as_ref().expect("there is one").to_string();
        let same = ids.entry(text("cloudEvents_id")).or_insert_with(|| key.clone());
        assert_eq!(*same, key, "an event that comes again has the same id");
        let body: Value = serde_json::from_slice(&message.delivery.data)?;
        let number = body["number"].as_u64().expect("it has a number");
        let of_key = by_key.entry(text("cloudEvents_subject")).or_default();
        if !of_key.contains(&number) {
            of_key.push(number);
        }
    }
    assert_eq!(ids.len(), EVENTS, "events were lost");
    assert_eq!(ids.values().collect::<HashSet<_>>().len(), EVENTS);
    assert!(by_key.values().all(|numbers| numbers.is_sorted()), "the order of a key was broken");
    println!("{} messages for {EVENTS} events", messages.len());
    Ok(())
}
