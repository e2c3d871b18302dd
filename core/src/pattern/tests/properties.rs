//! Random patterns and events.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use super::*;
use crate::id::{CorrelationId, EventId};
use crate::name::{Key, Tag};
use crate::position::SchemaVersion;
use crate::time::Timestamp;

const TEXTS: [&str; 8] = ["", "a", "ab", "B", "aB", "x*y", "10.0.0.1", "11.0.0.1"];
const KEYS: [&str; 3] = ["a", "b", "c"];
const TYPES: [&str; 3] = ["a.x", "a.y", "b.x"];
const STREAMS: [&str; 3] = ["cat-1", "cat-2", "dog-1"];
const FLOWS: [&str; 2] =
    ["9f0c2ab1-7d5e-4c4b-8a6f-0d6c1f7f3a10", "018f0000-0000-7000-8000-000000000001"];
const TAGS: [&str; 3] = ["a", "ab", "B"];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        select(&[0.0, 1.0, 1.5, 2.0][..]).prop_map(Value::from),
        (0..3).prop_map(Value::from),
        select(&TEXTS[..]).prop_map(Value::from),
    ]
}

fn data() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            2 => vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => btree_map(select(&KEYS[..]), inner, 0..4).prop_map(object),
        ]
    })
}

fn object<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Value {
    fields.into_iter().map(|(key, value)| (key.into(), value)).collect::<Map<_, _>>().into()
}

fn text_test() -> impl Strategy<Value = (&'static str, Value)> {
    let text = || select(&TEXTS[1..]);
    prop_oneof![
        (select(&["prefix", "suffix", "equals-ignore-case"][..]), text())
            .prop_map(|(operator, text)| (operator, json!(text))),
        (select(&["prefix", "suffix"][..]), text())
            .prop_map(|(operator, text)| (operator, json!({"equals-ignore-case": text}))),
        select(&["*", "a*", "*b", "*a*", "a*B", r"x\*y", r"x\**", "ab", ""][..])
            .prop_map(|text| ("wildcard", json!(text))),
    ]
}

fn text_matcher(texts: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => select(texts).prop_map(Value::from),
        2 => text_test().prop_map(|(operator, argument)| object([(operator, argument)])),
        1 => vec(select(texts), 1..3).prop_map(|texts| json!({"anything-but": texts})),
        1 => text_test().prop_map(|(operator, argument)| json!({"anything-but": object([(operator, argument)])})),
        1 => Just(json!({"exists": true})),
    ]
}

fn range() -> impl Strategy<Value = Value> {
    let number = || select(&[0.0_f64, 1.0, 1.5, 2.0][..]);
    prop_oneof![
        (select(&["=", "<", "<=", ">", ">="][..]), number()).prop_map(|(op, n)| json!([op, n])),
        (number(), number(), any::<bool>(), any::<bool>()).prop_map(|(a, b, low, high)| {
            let (low, high) = (if low { ">=" } else { ">" }, if high { "<=" } else { "<" });
            json!([low, a.min(b), high, a.max(b)])
        }),
    ]
}

fn matcher() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => scalar(),
        4 => text_matcher(&TEXTS),
        1 => scalar().prop_map(|value| json!({"anything-but": value})),
        1 => vec(scalar(), 1..4).prop_map(|values| json!({"anything-but": values})),
        2 => range().prop_map(|range| json!({"numeric": range})),
        1 => select(&["10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0"][..]).prop_map(|n| json!({"cidr": n})),
        2 => any::<bool>().prop_map(|exists| json!({"exists": exists})),
    ]
}

/// What is asked of a field of the payload, which is itself called `data`.
fn asked() -> impl Strategy<Value = Value> {
    let list = vec(matcher(), 1..4).prop_map(Value::from);
    list.prop_recursive(3, 16, 3, |inner| fields(select(&KEYS[..]), inner))
}

/// An object of fields, with an `$or` now and then.
fn fields(
    key: impl Strategy<Value = &'static str> + Clone + 'static,
    asked: impl Strategy<Value = Value> + Clone + 'static,
) -> BoxedStrategy<Value> {
    let plain = btree_map(key, asked, 1..3).prop_map(object).boxed();
    let with_or = (plain.clone(), vec(plain.clone(), 2..4)).prop_map(|(mut fields, branches)| {
        fields["$or"] = branches.into();
        fields
    });
    prop_oneof![3 => plain, 1 => with_or].boxed()
}

/// Named fields of the event; strategies cannot depend on the key, so this is a pair.
fn metadata() -> impl Strategy<Value = (&'static str, Value)> {
    let list = |texts| vec(text_matcher(texts), 1..3).prop_map(Value::from);
    let absent = || Just(json!([{"exists": false}]));
    prop_oneof![
        2 => (Just("type"), list(&TYPES)),
        2 => (Just("stream"), list(&STREAMS)),
        1 => (Just("stream"), select(&["cat-", "cat", "dog-1"][..]).prop_map(|p| json!([{"prefix": p}]))),
        1 => (Just("category"), list(&["cat", "dog"])),
        2 => (Just("tags"), list(&TAGS)),
        1 => (Just("tags"), absent()),
        1 => (Just("partitionkey"), prop_oneof![list(&["k", "l"]), absent()]),
        2 => (Just("correlationid"), prop_oneof![list(&FLOWS), Just(json!([{"exists": true}])), absent()]),
        1 => (Just("causationid"), prop_oneof![Just(json!([{"prefix": "0"}])), absent()]),
        1 => (Just("schemaversion"), prop_oneof![range().prop_map(|r| json!([{"numeric": r}])), (0..3).prop_map(|v| json!([v]))]),
        1 => (Just("time"), Just(json!([{"prefix": "1970"}]))),
        2 => (Just("headers"), fields(select(&["h", "i"][..]), prop_oneof![list(&["a", "b"]), absent()].boxed())),
        5 => (Just("data"), asked()),
    ]
}

fn event_pattern() -> impl Strategy<Value = Value> {
    let plain = || vec(metadata(), 1..4).prop_map(object);
    let or = option::weighted(0.3, vec(plain(), 2..4));
    (plain(), or).prop_map(|(mut fields, or)| {
        if let Some(branches) = or {
            fields["$or"] = branches.into();
        }
        fields
    })
}

fn random_event() -> impl Strategy<Value = NewEvent> {
    let names = (select(&STREAMS[..]), select(&TYPES[..]), subsequence(&TAGS[..], 0..=3));
    let payload = (select(&[0, 1, 1, 1, 1, 1, 1][..]), data(), option::weighted(0.05, 1..4_usize));
    let rest = (
        option::of(select(&["k", "l"][..])),
        (option::of(select(&FLOWS[..])), any::<bool>()),
        0..3_u16,
        vec((select(&["h", "i"][..]), select(&["a", "b"][..])), 0..3),
        0..2_i64,
    );
    (names, payload, rest).prop_map(|(names, (codec, data, cut), rest)| {
        let mut json = data.to_string();
        if let Some(cut) = cut {
            json.truncate(json.len().saturating_sub(cut));
        }
        let mut event = NewEvent::new(
            StreamId::new(names.0).unwrap(),
            EventType::new(names.1).unwrap(),
            CodecId::new(codec),
            json,
        );
        event.tags = names.2.into_iter().map(|tag| Tag::new(tag).unwrap()).collect();
        event.key = rest.0.map(|key| Key::new(key).unwrap());
        event.correlation_id = rest.1.0.map(|id| CorrelationId::from_uuid(id.parse().unwrap()));
        event.causation_id = rest.1.1.then(EventId::generate);
        event.schema_version = SchemaVersion::new(rest.2);
        for (name, value) in rest.3 {
            event.headers.insert(name, value).unwrap();
        }
        event.event_time = Timestamp::from_millis(rest.4 * 60_000_000_000);
        event
    })
}

/// The same object with its keys the other way around, in all of it, and with other white space.
fn rewritten(json: &Value) -> String {
    match json {
        Value::Object(fields) => {
            let fields = fields.iter().rev();
            let fields: Vec<_> = fields
                .map(|(key, value)| format!("{}:\t{}", json!(key), rewritten(value)))
                .collect();
            format!("{{\n{} }}", fields.join(" ,"))
        }
        // The arguments of a range have an order.
        Value::Array(list)
            if list.first().is_some_and(|first| {
                matches!(first.as_str(), Some("=" | "<" | "<=" | ">" | ">="))
            }) =>
        {
            json.to_string()
        }
        Value::Array(list) => {
            let items: Vec<_> = list.iter().rev().map(rewritten).collect();
            format!("[ {}]", items.join("\n,"))
        }
        other => other.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn it_agrees_with_a_matcher_that_is_written_from_the_documentation(
        json in event_pattern(),
        events in vec(random_event(), 8),
    ) {
        match EventPattern::parse(&json.to_string()) {
            Ok(pattern) => for event in &events {
                prop_assert_eq!(pattern.matches(event), naive::matches(&json, event), "{:?}", event);
            },
            Err(error) => {
                let contradiction = matches!(
                    error.fault,
                    PatternFault::NeverMatches(
                        NeverMatches::Contradiction { .. } | NeverMatches::EmptyRange { .. }
                        | NeverMatches::ImpossibleValue { .. }
                    )
                );
                prop_assert!(contradiction, "{}", error);
                if matches!(error.fault, PatternFault::NeverMatches(NeverMatches::Contradiction { .. })) {
                    for event in &events {
                        prop_assert!(!naive::matches(&json, event), "{}: {:?}", error, event);
                    }
                }
            }
        }
    }

    #[test]
    fn whatever_matches_is_found_by_the_query(
        json in event_pattern(),
        events in vec(random_event(), 8),
    ) {
        if let Ok(pattern) = EventPattern::parse(&json.to_string()) {
            for event in &events {
                let (matches, found) = (pattern.matches(event), pattern.query().matches(event));
                prop_assert!(!matches || found, "{:?} misses {:?}", pattern.query(), event);
            }
        }
    }

    #[test]
    fn a_pattern_survives_its_text_and_equals_itself_however_it_is_written(json in event_pattern()) {
        if let Ok(pattern) = EventPattern::parse(&json.to_string()) {
            prop_assert_eq!(&EventPattern::parse(&pattern.to_string()).unwrap(), &pattern);
            prop_assert_eq!(&EventPattern::parse(&rewritten(&json)).unwrap(), &pattern);
            let stored = serde_json::to_string(&pattern).unwrap();
            prop_assert_eq!(&stored, pattern.as_str());
            prop_assert_eq!(serde_json::from_str::<EventPattern>(&stored).unwrap(), pattern);
        }
    }

    #[test]
    fn numbers_survive_the_canonical_text(numbers in vec(any::<f64>().prop_filter("finite", |n| n.is_finite()), 1..5)) {
        let pattern = pattern(&json!({"data": {"x": numbers}}));
        prop_assert_eq!(&EventPattern::parse(&pattern.to_string()).unwrap(), &pattern);
        for number in numbers {
            let event = event(&json!({"x": number}));
            prop_assert!(pattern.matches(&event));
        }
    }

    #[test]
    fn no_text_makes_it_panic(json in event_pattern(), at in any::<prop::sample::Index>(), with in ".{0,3}") {
        let text = json.to_string();
        let mut at = at.index(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let changed = format!("{}{with}{}", &text[..at], text[at..].chars().skip(1).collect::<String>());
        if let Err(error) = EventPattern::parse(&changed) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_payload_makes_it_panic(json in event_pattern(), payload in vec(any::<u8>(), 0..40), data in data(), at in any::<prop::sample::Index>()) {
        if let Ok(pattern) = EventPattern::parse(&json.to_string()) {
            let mut event = event(&json!(null));
            event.payload = payload.into();
            pattern.matches(&event);
            let mut bytes = data.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 0x15;
            event.payload = bytes.into();
            pattern.matches(&event);
        }
    }
}
