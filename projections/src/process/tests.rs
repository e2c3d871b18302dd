use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{
    Append, Category, Effect, EventId, EventKind, EventLog, EventType, Json, NewEvent, Position,
    Query, Read, StreamId, TraceContext,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::group::testing::{WatchedLog, event, open_with, options};
use crate::group::{ConsumerGroup, FailurePolicy, GroupOptions};
use crate::reactor::{ReactorHandle, ReactorOptions, ReactorRunner};
use crate::timer::{TimerService, Timers};

const SECOND: Duration = Duration::from_secs(1);
const INPUTS: [&str; 4] = ["order.placed", "payment.received", "order.overdue", "order.broken"];

/// What was done for an order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Did {
    Ask {},
    NotePayment {},
    Cancel {},
}

impl Event for Did {
    type Codec = Json;

    const KINDS: &'static [EventKind] = &[
        EventKind::new("billing.asked", 1),
        EventKind::new("billing.paid", 1),
        EventKind::new("billing.cancelled", 1),
    ];

    fn kind(&self) -> EventKind {
        match self {
            Self::Ask {} => Self::KINDS[0],
            Self::NotePayment {} => Self::KINDS[1],
            Self::Cancel {} => Self::KINDS[2],
        }
    }
}

#[derive(Default)]
struct Known {
    asked: bool,
    paid: bool,
    cancelled: bool,
}

/// Asks for the payment of each order, ships what is paid, and cancels what is not.
struct Billing {
    patience: Duration,
}

impl ProcessManager for Billing {
    type Event = Did;
    type State = Known;

    fn name(&self) -> &'static str {
        "billing"
    }

    fn instance(&self, event: &RecordedEvent) -> Result<Option<String>, ReactError> {
        let id = event.stream.id();
        Ok((id != "nobody").then(|| id.to_owned()))
    }

    fn react(&self, known: &Known, event: &RecordedEvent) -> Result<Reaction<Did>, ReactError> {
        let order = event.stream.id();
        let ship = || issue("shipping", order, "shipping.requested");
        let due = event.commit_time.saturating_add(self.patience);
        Ok(match event.event_type.as_str() {
            "order.placed" if known.asked => Reaction::none(),
            "order.placed" => {
                let asked = Reaction::note(Did::Ask {})
                    .issue(issue("payment", order, "payment.requested"))
                    .at("overdue", due, issue("order", order, "order.overdue"));
                if known.paid { asked.issue(ship()).cancel("overdue") } else { asked }
            }
            "payment.received" if known.asked && !known.paid => {
                Reaction::note(Did::NotePayment {}).issue(ship()).cancel("overdue")
            }
            "payment.received" => Reaction::note(Did::NotePayment {}),
            "order.overdue" if !known.paid && !known.cancelled => {
                Reaction::note(Did::Cancel {}).issue(issue("order", order, "order.cancelled"))
            }
            "order.broken" => Reaction::none().issue(ship()),
            _ => Reaction::none(),
        })
    }

    fn evolve(&self, known: Known, note: &Did) -> Known {
        match note {
            Did::Ask {} => Known { asked: true, ..known },
            Did::NotePayment {} => Known { paid: true, ..known },
            Did::Cancel {} => Known { cancelled: true, ..known },
        }
    }
}

fn issue(category: &str, id: &str, event_type: &str) -> NewEvent {
    let stream = StreamId::of(&Category::new(category).unwrap(), id).unwrap();
    NewEvent::json(stream, EventType::new(event_type).unwrap(), &()).unwrap()
}

fn selection() -> GroupOptions {
    let types = INPUTS.map(|name| EventType::new(name).unwrap());
    GroupOptions {
        selection: Query::types(types),
        lease: SECOND,
        failure: FailurePolicy::never(),
        ..options()
    }
}

async fn run(
    log: &Arc<WatchedLog>,
    members: usize,
    patience: Duration,
) -> (ConsumerGroup, ReactorHandle) {
    let group = open_with(log, selection()).await;
    let make = |_| Managing::new(log.clone(), Billing { patience });
    let options = ReactorOptions::default();
    let running = ReactorRunner::start(&group, "billing", make, members, options).await.unwrap();
    (group, running)
}

async fn place(log: &WatchedLog, events: Vec<NewEvent>) -> Position {
    log.append(Append::new(events)).await.unwrap().last
}

async fn all(log: &WatchedLog) -> Vec<RecordedEvent> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map_or(Position::START, |event: &RecordedEvent| event.position);
        let page = log.inner.read(Read::forward(Query::all(), after)).await.unwrap();
        all.extend(page.events);
        if page.done {
            return all;
        }
    }
}

/// Returns the types of the events in the log, without those of timers.
async fn types(log: &WatchedLog) -> Vec<String> {
    let types = all(log).await.into_iter().map(|event| event.event_type.to_string());
    types.filter(|name| !name.starts_with("headwater.")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_reaction_is_one_append_with_its_cause_its_flow_and_its_trace() {
    let log = WatchedLog::new();
    let (_group, running) = run(&log, 1, 3_600 * SECOND).await;
    let context: TraceContext =
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let placed = event("order-1", "order.placed").traced(&context);
    let last = place(&log, vec![placed, event("order-nobody", "order.placed")]).await;
    running.wait_for(last, SECOND).await.unwrap();
    let all = all(&log).await;
    let made: Vec<(&str, &str)> =
        all[2..].iter().map(|e| (e.stream.as_str(), e.event_type.as_str())).collect();
    assert_eq!(
        made,
        [
            ("billing-1", "billing.asked"),
            ("payment-1", "payment.requested"),
            ("headwater.timer-billing-1-overdue", "headwater.timer.scheduled"),
        ]
    );
    for event in &all[2..] {
        assert_eq!(event.causation_id, Some(all[0].id));
        assert_eq!(event.correlation_id, Some(all[0].id.into()));
        assert_eq!(TraceContext::from_headers(&event.headers).as_ref(), Some(&context));
        assert_eq!(event.commit_time, all[2].commit_time);
    }
    let timer = Timers::new(log.clone()).get("billing-1-overdue").await.unwrap().unwrap();
    assert_eq!(timer.next, all[0].commit_time.saturating_add(3_600 * SECOND));

    let last = place(&log, vec![event("payment-1", "payment.received")]).await;
    running.wait_for(last, SECOND).await.unwrap();
    assert_eq!(types(&log).await[5..], ["billing.paid", "shipping.requested"]);
    assert_eq!(Timers::new(log.clone()).get("billing-1-overdue").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_is_an_event_of_the_same_flow() {
    let log = WatchedLog::new();
    // It is due at once.
    let (_group, running) = run(&log, 1, Duration::ZERO).await;
    let service = tokio::spawn(TimerService::new(log.clone()).run());
    let first = place(&log, vec![event("order-1", "order.placed")]).await;
    running.wait_for(first, SECOND).await.unwrap();
    let cancelled = log.wait_for(Position::new(7), headwater_core::Visibility::Committed);
    cancelled.await.unwrap();
    service.abort();
    let all = all(&log).await;
    let types: Vec<&str> = all[1..].iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types[..3], ["billing.asked", "payment.requested", "headwater.timer.scheduled"]);
    assert!(
        types[3..5].contains(&"order.overdue") && types[3..5].contains(&"headwater.timer.fired")
    );
    assert_eq!(types[5..], ["billing.cancelled", "order.cancelled"]);
    assert!(all.iter().skip(1).all(|event| event.correlation_id == Some(all[0].id.into())
        || event.event_type.as_str() == "headwater.timer.fired"));
    let overdue = all.iter().find(|event| event.event_type.as_str() == "order.overdue").unwrap();
    assert_eq!(overdue.causation_id, Some(all[3].id));
}

#[tokio::test(start_paused = true)]
async fn what_leaves_no_note_is_refused() {
    let log = WatchedLog::new();
    let managing = Managing::new(log.clone(), Billing { patience: SECOND });
    place(&log, vec![event("order-1", "order.broken")]).await;
    let broken = all(&log).await.remove(0);
    let error = managing.handle(&broken).await.unwrap_err().to_string();
    assert!(error.contains("billing-1") && error.contains("at position 1"), "{error}");
    assert_eq!(types(&log).await, ["order.broken"]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_others_change_meanwhile_is_read_again() {
    let log = WatchedLog::new();
    place(&log, vec![event("order-1", "order.placed"), event("payment-1", "payment.received")])
        .await;
    let (all, make) =
        (all(&log).await, || Managing::new(log.clone(), Billing { patience: SECOND }));
    let (first, second) = (make(), make());
    // Both read before either appends.
    let barrier = Arc::new(tokio::sync::Barrier::new(2));
    *log.append_barrier.lock().unwrap() = Some(barrier);
    let (first, second) = tokio::join!(first.handle(&all[0]), second.handle(&all[1]));
    first.unwrap();
    second.unwrap();
    let mut types = types(&log).await.split_off(2);
    types.sort();
    let expected = ["billing.asked", "billing.paid", "payment.requested", "shipping.requested"];
    assert_eq!(types, expected);
}

#[tokio::test(start_paused = true)]
async fn a_timer_of_the_same_name_takes_the_place_of_the_one_before() {
    let log = WatchedLog::new();
    let make = |patience| Managing::new(log.clone(), Again { patience, name: "overdue" });
    place(&log, vec![event("order-1", "order.placed"), event("order-1", "order.placed")]).await;
    let (all, timers) = (all(&log).await, Timers::new(log.clone()));
    for (event, patience) in all.iter().zip([60 * SECOND, 3_600 * SECOND]) {
        make(patience).handle(event).await.unwrap();
        let timer = timers.get("again-1-overdue").await.unwrap().unwrap();
        assert_eq!(timer.next, event.commit_time.saturating_add(patience));
    }
    assert_eq!(timers.list().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_name_of_a_timer_that_two_processes_could_have_is_refused() {
    let log = WatchedLog::new();
    place(&log, vec![event("order-1", "order.placed")]).await;
    let placed = all(&log).await.remove(0);
    for name in ["", "2-overdue"] {
        let managing = Managing::new(log.clone(), Again { patience: SECOND, name });
        let error = managing.handle(&placed).await.unwrap_err().to_string();
        assert!(error.contains(&format!("{name:?}")) && error.contains("hyphens"), "{error}");
    }
    assert_eq!(types(&log).await, ["order.placed"]);
}

/// Waits anew each time.
struct Again {
    patience: Duration,
    name: &'static str,
}

impl ProcessManager for Again {
    type Event = Did;
    type State = ();

    fn name(&self) -> &'static str {
        "again"
    }

    fn instance(&self, event: &RecordedEvent) -> Result<Option<String>, ReactError> {
        Ok(Some(event.stream.id().to_owned()))
    }

    fn react(&self, (): &(), event: &RecordedEvent) -> Result<Reaction<Did>, ReactError> {
        let due = event.commit_time.saturating_add(self.patience);
        let overdue = issue("order", event.stream.id(), "order.overdue");
        Ok(Reaction::note(Did::Ask {}).at(self.name, due, overdue))
    }

    fn evolve(&self, (): (), _: &Did) {}
}

/// What goes wrong on the way.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The next append so many appends later fails, and was or was not written.
    Append(u8, Effect),
    /// Others take the group over, while those before may be in the middle of something.
    TakeOver(u16),
}

fn fault() -> impl Strategy<Value = Fault> {
    let effect = prop_oneof![Just(Effect::None), Just(Effect::Unknown)];
    prop_oneof![
        (0..6_u8, effect).prop_map(|(later, effect)| Fault::Append(later, effect)),
        (0..3_000_u16).prop_map(Fault::TakeOver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_event_has_its_effect_once_whatever_fails_and_is_delivered_again(
        orders in prop::collection::vec((0..5_u8, any::<bool>()), 1..30),
        members in 1..4_usize,
        faults in prop::collection::vec(fault(), 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let log = WatchedLog::new();
            let inputs = orders.iter().map(|&(order, paid)| {
                let [category, what] =
                    if paid { ["payment", "payment.received"] } else { ["order", "order.placed"] };
                event(&format!("{category}-{order}"), what)
            });
            let last = place(&log, inputs.collect()).await;
            let (mut running, mut before) = (run(&log, members, 3_600 * SECOND).await, Vec::new());
            for fault in faults {
                match fault {
                    Fault::Append(later, effect) => {
                        let mut errors = log.append_errors.lock().unwrap();
                        errors.extend((0..later).map(|_| None));
                        errors.push_back(Some(effect));
                    }
                    Fault::TakeOver(millis) => {
                        tokio::time::sleep(Duration::from_millis(millis.into())).await;
                        // What those before have acked and not committed comes again.
                        before.push(std::mem::replace(
                            &mut running,
                            run(&log, members, 3_600 * SECOND).await,
                        ));
                    }
                }
            }
            running.1.wait_for(last, 600 * SECOND).await.unwrap();
            check(&all(&log).await, &orders);
        });
    }
}

/// Checks that each order that was placed was asked for once, and shipped once if it was paid too.
fn check(all: &[RecordedEvent], orders: &[(u8, bool)]) {
    let mut causes = BTreeMap::<(EventId, &str), u64>::new();
    let count = |category: &str, order: u8, event_type: &str| {
        let of = |event: &&RecordedEvent| {
            event.stream.as_str() == format!("{category}-{order}")
                && event.event_type.as_str() == event_type
        };
        all.iter().filter(of).count()
    };
    for order in 0..5 {
        let (placed, paid) = (orders.contains(&(order, false)), orders.contains(&(order, true)));
        let payments = orders.iter().filter(|input| **input == (order, true)).count();
        assert_eq!(count("payment", order, "payment.requested"), usize::from(placed));
        assert_eq!(count("shipping", order, "shipping.requested"), usize::from(placed && paid));
        assert_eq!(count("billing", order, "billing.paid"), payments);
    }
    for event in all.iter().filter(|event| event.stream.category() == "billing") {
        let cause = event.causation_id.expect("a note has a cause");
        *causes.entry((cause, event.event_type.as_str())).or_default() += 1;
    }
    assert!(causes.values().all(|&count| count == 1), "{causes:?}");
}
