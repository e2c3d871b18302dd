//! Matching event patterns, beside a matcher that parses each payload into a `serde_json::Value`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater::{EventPattern, EventType, NewEvent, StreamId, Tag};
use serde_json::{Value, json};

const EVENTS: u64 = 10_000;

/// Orders with about 430 bytes of JSON, of which one has the customer that is looked for.
fn events() -> Vec<NewEvent> {
    let event = |n: u64| {
        let items: Vec<_> = (0..4_u32)
            .map(|i| json!({"sku": format!("shoe-{:05}", (n * 7 + u64::from(i)) % 9_999), "price": 10.5 + f64::from(i), "count": i + 1}))
            .collect();
        let data = json!({
            "customer": {"id": format!("customer-{n:06}"), "country": "DE", "vip": n.is_multiple_of(10)},
            "total": n % 1_000,
            "items": items,
            "note": "please ring twice and leave the parcel with the neighbours",
            "address": {"street": "Long Street 17", "city": "Ulm", "zip": "89073"},
        });
        let stream = StreamId::new(format!("order-{n}")).expect("a name");
        let name = if n.is_multiple_of(10) { "order.placed" } else { "order.changed" };
        let event_type = EventType::new(name).expect("a name");
        let mut event = NewEvent::json(stream, event_type, &data).expect("JSON");
        event.tags = vec![Tag::new(format!("customer:{}", n % 1_000)).expect("a name")];
        event
    };
    (0..EVENTS).map(event).collect()
}

/// What a filter costs that is written by hand over `Value`.
fn by_value(events: &[NewEvent], test: impl Fn(&Value) -> bool) -> usize {
    let matches = |event: &&NewEvent| {
        let data: Value = serde_json::from_slice(&event.payload).expect("JSON");
        test(&data)
    };
    events.iter().filter(matches).count()
}

fn patterns(c: &mut Criterion) {
    let events = events();
    let mut group = c.benchmark_group("pattern");
    group.throughput(Throughput::Elements(EVENTS));
    let mut each = |name: &str, expected: usize, pattern: &Value| {
        let pattern: EventPattern = pattern.to_string().parse().expect("a pattern");
        group.bench_function(name, |b| {
            b.iter(|| {
                let found = events.iter().filter(|event| pattern.matches(*event)).count();
                assert_eq!(black_box(found), expected);
            });
        });
    };
    each(
        "metadata alone",
        1,
        &json!({"type": ["order.placed"], "tags": ["customer:10", "x"], "stream": [{"suffix": "-5010"}]}),
    );
    each(
        "a text of the payload that one event has",
        1,
        &json!({"data": {"customer": {"id": ["customer-004711"]}}}),
    );
    each(
        "numbers of the payload that one event has",
        1,
        &json!({"data": {"total": [711], "items": {"price": [{"numeric": [">", 13, "<", 14]}]}, "customer": {"id": [{"wildcard": "*4*1*"}]}}}),
    );
    each(
        "metadata decides for nine of ten, the payload for the others",
        1,
        &json!({"type": ["order.placed"], "data": {"total": [710], "customer": {"id": [{"suffix": "4710"}]}}}),
    );
    group.bench_function("the same text by serde_json::Value", |b| {
        b.iter(|| {
            let test = |data: &Value| data["customer"]["id"] == "customer-004711";
            assert_eq!(black_box(by_value(&events, test)), 1);
        });
    });
    group.bench_function("the same numbers by serde_json::Value", |b| {
        b.iter(|| {
            let test = |data: &Value| {
                let price =
                    |item: &Value| item["price"].as_f64().is_some_and(|p| p > 13.0 && p < 14.0);
                let id = data["customer"]["id"].as_str().unwrap_or_default();
                data["total"] == 711
                    && data["items"].as_array().is_some_and(|items| items.iter().any(price))
                    && id.split_once('4').is_some_and(|(_, rest)| rest.contains('1'))
            };
            assert_eq!(black_box(by_value(&events, test)), 1);
        });
    });
    group.finish();
}

criterion_group!(benches, patterns);
criterion_main!(benches);
