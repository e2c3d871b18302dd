//! `headwater trace`: what one command or event caused.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use headwater::projections::{
    ConsumerGroup, FailurePolicy, GroupOptions, Hopeless, IdempotencyKey, NewTimer, ReactError,
    Reactor, ReactorOptions, ReactorRunner, TimerService, Timers, async_trait,
};
use headwater::{
    Append, AppendId, CorrelationId, Decider, Event, EventLog, ExecuteOptions, GroupName, NewEvent,
    Order, Position, Query, RecordedEvent, Schedule, Store, StreamId, Timestamp, Visibility,
    encode_event, execute,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::{Place, event, id, run_unread};

/// Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize)]
enum ShopEvent {
    #[event(name = "order.placed")]
    OrderPlaced { order: u64 },
    #[event(name = "order.paid")]
    OrderPaid { order: u64 },
    #[event(name = "payment.charged")]
    PaymentCharged { order: u64 },
    #[event(name = "order.reminded")]
    OrderReminded { order: u64 },
}

/// Whatever is asked for, happens.
struct Shop;

impl Decider for Shop {
    type Command = ShopEvent;
    type Event = ShopEvent;
    type State = ();
    type Error = Infallible;

    fn decide(&self, (): &(), command: ShopEvent) -> Result<Vec<ShopEvent>, Infallible> {
        Ok(vec![command])
    }

    fn evolve(&self, (): (), _: &ShopEvent) {}
}

fn stream(category: &str, number: u64) -> StreamId {
    StreamId::new(format!("{category}-{number}")).unwrap()
}

/// Charges what is ordered, with a reminder, and tells the order when that is done.
struct Payments {
    store: Store,
    timers: Timers,
}

#[async_trait]
impl Reactor for Payments {
    async fn react(
        &mut self,
        event: &RecordedEvent,
        key: &IdempotencyKey,
    ) -> Result<(), ReactError> {
        let options = ExecuteOptions { append_id: Some(key.append_id()), ..Default::default() };
        let options = options.caused_by(event);
        match headwater::decode_event(event)? {
            ShopEvent::OrderPlaced { order } => {
                let charge = ShopEvent::PaymentCharged { order };
                execute(&self.store, &Shop, &stream("payment", order), charge, &options).await?;
                let reminder = ShopEvent::OrderReminded { order };
                let mut reminder = encode_event(stream("order", order), &reminder)?;
                reminder.correlation_id = options.correlation_id;
                reminder.causation_id = options.causation_id;
                let timer = NewTimer::new(Schedule::Once(Timestamp::from_nanos(1)), reminder);
                self.timers.schedule(&format!("remind-{order}"), timer).await?;
            }
            ShopEvent::PaymentCharged { order } => {
                let paid = ShopEvent::OrderPaid { order };
                execute(&self.store, &Shop, &stream("order", order), paid, &options).await?;
            }
            ShopEvent::OrderPaid { .. } | ShopEvent::OrderReminded { .. } => {}
        }
        Ok(())
    }
}

/// Orders two things, and lets everything follow from that.
async fn sell(store: &Store) {
    for (order, who) in [(7_u8, "ann"), (8, "bob")] {
        let append_id = Some(AppendId::from_name(&[order]));
        let mut options = ExecuteOptions { append_id, ..Default::default() };
        options.headers.insert("user", who).unwrap();
        let order = order.into();
        let placed = ShopEvent::OrderPlaced { order };
        execute(store, &Shop, &stream("order", order), placed, &options).await.unwrap();
    }
    let log: Arc<Store> = Arc::new(store.clone());
    let group = GroupOptions {
        order: Order::Global,
        selection: Query::events::<ShopEvent>().unwrap(),
        failure: FailurePolicy { then: Hopeless::Stop, ..FailurePolicy::default() },
        ..GroupOptions::new(GroupName::new("payments").unwrap())
    };
    let group = ConsumerGroup::open(log.clone(), group).await.unwrap();
    let member =
        |_| Payments { store: store.clone(), timers: Timers::new(Arc::new(store.clone())) };
    let options = ReactorOptions::default();
    let reactor = ReactorRunner::start(&group, "payments", member, 1, options).await.unwrap();
    // 2 orders, 2 charges, 2 timers, 2 payments.
    reactor.wait_for(Position::new(8), PATIENCE).await.unwrap();
    reactor.shutdown().await.unwrap();
    group.close().await.unwrap();
    let service = tokio::spawn(TimerService::new(log).run());
    let fired = store.wait_for(Position::new(12), Visibility::Committed);
    tokio::time::timeout(PATIENCE, fired).await.unwrap().unwrap();
    service.abort();
    let _ = service.await;
}

/// Replaces what is another one each time.
fn timeless(text: &str) -> String {
    let part = |part: &str| match part {
        time if time.starts_with("20") && time.ends_with('Z') => "<time>".to_owned(),
        wait if wait.starts_with('+') => "+<wait>".to_owned(),
        rest => rest.to_owned(),
    };
    let line = |line: &str| match line.split_once(" streams, ") {
        Some((counts, _)) => format!("{counts} streams, <wait>\n"),
        None => line.split("  ").map(part).collect::<Vec<_>>().join("  ") + "\n",
    };
    text.lines().map(line).collect()
}

#[test]
fn a_command_its_reactions_and_its_timer_are_one_tree() {
    let place = Place::new();
    let store = place.open();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(sell(&store));
    store.close().unwrap();
    drop(runtime);
    let events = place.events();
    let find = |name: &str, stream: &str| -> String {
        let mut found = events.iter().filter(|e| e["type"] == name && e["stream"] == stream);
        found.next().unwrap()["id"].as_str().unwrap().to_owned()
    };
    let placed = find("order.placed", "order-7");
    let tree = place.look("trace", &[&placed]);
    assert_eq!(tree.code, 0, "{tree:?}");
    assert_eq!(
        timeless(&tree.out),
        "\
order.placed  order-7@1  position 1  <time>  user=ann  <-
├─ payment.charged  payment-7@1  position 3  +<wait>
│  └─ order.paid  order-7@2  position 7  +<wait>
├─ headwater.timer.scheduled  headwater.timer-remind-7@1  position 4  +<wait>
└─ order.reminded  order-7@3  position 9  +<wait>
5 events in 3 streams, <wait>
"
    );
    let charged = find("payment.charged", "payment-7");
    let part = place.look("trace", &[&charged, "--caused-by-only"]);
    let expected = format!(
        "\
payment.charged  payment-7@1  position 3  <time>  caused by {placed}, which is not shown  <-
└─ order.paid  order-7@2  position 7  +<wait>
2 events in 2 streams, <wait>
"
    );
    assert_eq!(timeless(&part.out), expected);
    // The command by the id of its append, and the same whole by each of its events.
    let by_append = place.look("trace", &[&AppendId::from_name(&[7]).to_string()]);
    assert_eq!(by_append.out, tree.out);
    let whole = place.look("trace", &[&find("order.reminded", "order-7")]);
    assert_eq!(whole.out.replace("  <-", ""), tree.out.replace("  <-", ""));
}

/// 1 caused 2 and 4, 2 caused 3; 5 says that it was caused by what is not there.
fn branching() -> Place {
    let event = |number: u64, cause: Option<u64>, headers: Value| {
        let flow = cause.map(|_| id(1));
        json!({"stream": format!("s-{number}"), "type": "t", "data": 0, "id": id(number),
            "causation_id": cause.map(id), "correlation_id": flow, "headers": headers})
        .to_string()
    };
    let wild = json!({"who": "\u{1b}[2J", "traceparent": "00-x"});
    let lines = [
        event(1, None, json!({})),
        event(2, Some(1), wild),
        event(3, Some(2), json!({})),
        event(4, Some(1), json!({})),
        event(5, Some(99), json!({})),
    ];
    Place::with(&lines.join("\n"))
}

#[test]
fn a_flow_in_json_has_every_event_behind_its_cause() {
    let place = branching();
    let traced = place.look("trace", &[&id(1), "--json"]);
    assert_eq!(traced.code, 0, "{traced:?}");
    let flow = &traced.json()[0];
    let events = flow["events"].as_array().unwrap();
    let found: Vec<Value> = events
        .iter()
        .map(|e| json!([e["position"], e["depth"], e["cause"], e["asked"], e["missing_cause"]]))
        .collect();
    assert_eq!(
        found,
        [
            json!([1, 0, null, true, null]),
            json!([2, 1, 1, false, null]),
            json!([3, 2, 2, false, null]),
            json!([4, 1, 1, false, null]),
            json!([5, 0, null, false, id(99)]),
        ]
    );
    assert_eq!((&flow["streams"], &flow["more"]), (&json!(5), &json!(0)));
    assert_eq!(events[1]["headers"], json!({"who": "\u{1b}[2J", "traceparent": "00-x"}));
    assert!(events[1]["after_cause_ns"].is_u64() && events[0]["after_cause_ns"].is_null());
    let names: Vec<&str> = events[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names.len(), 12, "{names:?}");
}

#[test]
fn people_see_headers_that_cannot_move_the_cursor_and_what_is_left_out() {
    let place = branching();
    let tree = place.look("trace", &[&id(3)]).out;
    let lines: Vec<&str> = tree.lines().collect();
    assert!(lines[1].ends_with("  who=\\u{1b}[2J") && !tree.contains("traceparent"), "{tree}");
    assert!(lines[2].starts_with("│  └─ t  s-3@1  position 3  +"), "{tree}");
    assert!(lines[2].ends_with("  <-"), "{tree}");
    assert!(lines[4].ends_with(&format!("caused by {}, which is not shown", id(99))), "{tree}");
    let cut = place.look("trace", &[&id(1), "--max", "2"]).out;
    assert_eq!(cut.lines().count(), 4, "{cut}");
    assert!(cut.ends_with("; and 2 more or above, see --max\n"), "{cut}");
    assert_eq!(place.look("trace", &[&id(1), "--json", "--max", "2"]).json()[0]["more"], 2);
}

#[test]
fn what_is_not_there_is_said_and_what_is_no_id_is_refused() {
    let place = branching();
    place.look("trace", &[&id(42)]).fails(2, &["nothing in the log has the id", &id(42)]);
    let wrong = place.look("trace", &["42"]);
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(wrong.err.contains("\"42\" is not a UUID"), "{wrong:?}");
    Place::new().look("trace", &[&id(1)]).fails(1, &[]);
    let (code, err) = run_unread(&["trace", place.text(), &id(1)], "");
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn tracing_beside_a_writer_sees_what_it_has_committed_and_changes_nothing() {
    let place = Place::new();
    let store = place.open();
    let flow = CorrelationId::generate();
    let event = |n: u64| {
        let name = headwater::EventType::new("t").unwrap();
        let event = NewEvent::json(stream("s", n), name, &n).unwrap();
        NewEvent { correlation_id: Some(flow), ..event }
    };
    for n in 1..=3 {
        store.append_blocking(Append::new([event(n)])).unwrap();
        let before = place.files();
        let traced = place.look("trace", &[&flow.to_string(), "--json"]);
        assert_eq!(traced.json()[0]["events"].as_array().unwrap().len() as u64, n);
        assert_eq!(place.files(), before);
    }
    let selected = place.look("read", &["--flow", &flow.to_string(), "--json"]);
    assert_eq!(selected.json().len(), 3);
    assert_eq!(place.look("read", &["--flow", &id(1), "--json"]).json().len(), 0);
    store.close().unwrap();
}

#[test]
fn a_flow_is_found_across_segments_and_without_what_retention_removed() {
    let place = Place::with("");
    let store = place.open();
    let big = |number: u64, cause: Option<u64>| {
        let name = headwater::EventType::new("t").unwrap();
        let event = NewEvent::json(stream("s", number), name, &"x".repeat(14_000)).unwrap();
        let ids = (id(number).parse().unwrap(), cause.map(|cause| id(cause).parse().unwrap()));
        NewEvent { id: ids.0, causation_id: ids.1, ..event }
    };
    // Four in a segment; each third one was caused by the third one before.
    for n in 1..=12 {
        let cause = (n % 3 == 1 && n > 1).then(|| n - 3);
        store.append_blocking(Append::new([big(n, cause)])).unwrap();
    }
    store.close().unwrap();
    let positions = |run: &crate::support::Run| -> Vec<(u64, u64)> {
        assert_eq!(run.code, 0, "{run:?}");
        let flow = &run.json()[0];
        let events = flow["events"].as_array().unwrap().iter();
        let of = |e: &Value| (e["position"].as_u64().unwrap(), e["depth"].as_u64().unwrap());
        events.map(of).collect()
    };
    for asked in [1, 7, 10] {
        let whole = place.look("trace", &[&id(asked), "--json"]);
        assert_eq!(positions(&whole), [(1, 0), (4, 1), (7, 2), (10, 3)]);
    }
    let removed = place.look("retention", &["--through", "4", "--apply"]);
    assert_eq!(removed.code, 0, "{removed:?}");
    for asked in [4, 10] {
        let rest = place.look("trace", &[&id(asked), "--json"]);
        assert_eq!(positions(&rest), [(7, 0), (10, 1)], "4 is known as a cause");
        assert_eq!(rest.json()[0]["events"][0]["missing_cause"], id(4));
    }
    place.look("trace", &[&id(1)]).fails(2, &["nothing in the log has the id"]);
}

#[test]
fn a_flow_that_damage_may_cut_short_is_shown_and_the_damage_told() {
    let place = branching();
    assert_eq!(place.append(&event(6, "s-6")).code, 0);
    let path = place.segment();
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[last - 4] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let traced = place.look("trace", &[&id(1)]);
    assert_eq!(traced.code, 4, "{traced:?}");
    assert!(traced.out.contains("\n5 events in 5 streams, "), "{traced:?}");
    // It may have been there.
    place.look("trace", &[&id(6)]).fails(4, &[]);
}
