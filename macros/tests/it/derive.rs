//! Names, versions, tags, keys, codecs and payloads of derived events.

use std::collections::BTreeSet;

use headwater_core::{
    Append, Bincode, CodecError, CodecId, DecodeError, Event, EventLog, EventType, InvalidName,
    MemoryLog, NewEvent, Position, Query, Read, RecordedEvent, SchemaVersion, StreamId,
    decode_event, encode_event,
};
use pollster::block_on;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Day(u32);

impl Day {
    fn month(self) -> u32 {
        self.0 / 100
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    sku: String,
}

#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum OrderEvent {
    #[event(name = "order.placed", formerly("order_placed", "placed"), tags("month:{day.month()}"))]
    Placed {
        #[event(tag = "order:{}", key)]
        order: u64,
        day: Day,
        #[event(tag = "coupon:{}")]
        coupon: Option<String>,
        #[serde(rename = "lines")]
        items: Vec<Line>,
    },
    #[event(name = "order.noted", tags("line:{0.sku}"), key = "{0.sku}:{{}}")]
    Noted(Line),
    #[event(name = "order.moved", version = 3, oldest = 3, key = "{1}-{0}")]
    Moved(u32, #[event(tag)] String),
    #[event(name = "order.shut")]
    Shut,
}

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(crate = headwater_core, codec = Bincode, name = "seen", version = 2, oldest = 2)]
struct Seen {
    #[event(tag = "by:{}")]
    by: BTreeSet<u8>,
    r#type: u8,
}

pub(crate) fn new<E: Event>(event: &E) -> NewEvent {
    encode_event(StreamId::new("order-1").unwrap(), event).unwrap()
}

/// The events as a log gives them back.
pub(crate) fn recorded(events: impl IntoIterator<Item = NewEvent>) -> Vec<RecordedEvent> {
    let log = MemoryLog::new();
    block_on(log.append(Append::new(events))).unwrap();
    block_on(log.read(Read::forward(Query::all(), Position::START))).unwrap().events
}

fn orders() -> Vec<OrderEvent> {
    let line = |sku: &str| Line { sku: sku.into() };
    let placed = |coupon| OrderEvent::Placed {
        order: 17,
        day: Day(1103),
        coupon,
        items: vec![line("a"), line("b")],
    };
    vec![
        placed(Some("ten".into())),
        placed(None),
        OrderEvent::Noted(line("c")),
        OrderEvent::Moved(4, "north".into()),
        OrderEvent::Shut,
    ]
}

#[test]
fn every_kind_of_variant_survives_and_is_called_what_it_is_called_in_the_log() {
    let events = recorded(orders().iter().map(new));
    let names: Vec<_> = events.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(names, ["order.placed", "order.placed", "order.noted", "order.moved", "order.shut"]);
    assert_eq!(events[3].schema_version, SchemaVersion::new(3));
    for (event, order) in events.iter().zip(orders()) {
        assert_eq!(event.codec, CodecId::JSON);
        assert_eq!(decode_event::<OrderEvent>(event).unwrap(), order);
    }
}

#[test]
fn a_payload_is_what_the_variant_holds_and_knows_no_rust_name() {
    let payloads: Vec<_> = orders()
        .iter()
        .map(|event| String::from_utf8(new(event).payload.to_vec()).unwrap())
        .collect();
    assert_eq!(
        payloads,
        [
            r#"{"order":17,"day":1103,"coupon":"ten","lines":[{"sku":"a"},{"sku":"b"}]}"#,
            r#"{"order":17,"day":1103,"coupon":null,"lines":[{"sku":"a"},{"sku":"b"}]}"#,
            r#"{"sku":"c"}"#,
            r#"[4,"north"]"#,
            "{}",
        ]
    );
}

#[test]
fn fields_become_tags_and_keys() {
    let of = |event: &OrderEvent| {
        let event = new(event);
        let tags: Vec<_> = event.tags.iter().map(|tag| tag.as_str().to_owned()).collect();
        (tags.join(" "), event.key.map(|key| key.as_str().to_owned()))
    };
    let all: Vec<_> = orders().iter().map(of).collect();
    let expected = [
        ("month:11 order:17 coupon:ten", Some("17")),
        ("month:11 order:17", Some("17")),
        ("line:c", Some("c:{}")),
        ("north", Some("north-4")),
        ("", None),
    ];
    assert_eq!(all, expected.map(|(tags, key)| (tags.to_owned(), key.map(str::to_owned))));
}

#[test]
fn the_value_of_a_field_that_is_no_tag_is_an_error_that_names_it() {
    let moved = OrderEvent::Moved(4, "far north".into());
    let error: InvalidName = moved.tags().unwrap_err();
    assert!(error.to_string().contains("far north"), "{error}");
    assert!(encode_event(StreamId::new("order-1").unwrap(), &moved).is_err());
}

#[test]
fn a_struct_is_one_kind_with_the_codec_it_asks_for() {
    let seen = Seen { by: [3, 4].into(), r#type: 9 };
    let event = &recorded([new(&seen)])[0];
    assert_eq!((event.codec, event.schema_version), (CodecId::BINCODE, SchemaVersion::new(2)));
    assert_eq!(event.payload[..], [2, 3, 4, 9]);
    let tags: Vec<_> = event.tags.iter().map(AsRef::as_ref).collect();
    assert_eq!(tags, ["by:3", "by:4"]);
    assert_eq!(decode_event::<Seen>(event).unwrap(), seen);
}

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(crate = headwater_core, codec = Bincode)]
enum Hot {
    #[event(name = "hot.shut")]
    Shut,
    #[event(name = "hot.counted")]
    Counted { by: u8 },
    #[event(name = "hot.pair")]
    Pair(u8, u8),
    #[event(name = "hot.one")]
    One(u8),
}

#[test]
fn bincode_stores_no_variant_either() {
    let events = [Hot::Shut, Hot::Counted { by: 7 }, Hot::Pair(1, 2), Hot::One(5)];
    let recorded = recorded(events.iter().map(new));
    let payloads: Vec<_> = recorded.iter().map(|event| event.payload.to_vec()).collect();
    assert_eq!(payloads, [vec![], vec![7], vec![1, 2], vec![5]]);
    for (recorded, event) in recorded.iter().zip(events) {
        assert_eq!(decode_event::<Hot>(recorded).unwrap(), event);
    }
}

#[test]
fn what_a_variant_without_fields_was_given_later_is_left_alone() {
    let mut event = new(&OrderEvent::Shut);
    event.payload = r#"{"by":"ann","why":[1,2]}"#.into();
    assert_eq!(decode_event::<OrderEvent>(&recorded([event])[0]).unwrap(), OrderEvent::Shut);
}

#[test]
fn events_under_old_names_are_found_and_read() {
    let mut old = new(&orders()[0]);
    old.event_type = EventType::new("order_placed").unwrap();
    let (old, other) = (recorded([old]).remove(0), recorded([new(&orders()[4])]).remove(0));
    assert_eq!(decode_event::<OrderEvent>(&old).unwrap(), orders()[0]);

    let query = Query::events::<OrderEvent>().unwrap();
    assert!(query.matches(&old) && query.matches(&other));
    let placed = Query::types(OrderEvent::PLACED.types().unwrap());
    assert!(placed.matches(&old) && !placed.matches(&other));
    assert_eq!(Seen::KIND, Seen::KINDS[0]);
}

#[derive(Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum Awkward {
    #[event(name = "a", tags("{type}", "{payload.len()}"), key = "{tags.len()}")]
    HTTPFailed {
        #[event(tag = "tag:{}")]
        tags: Vec<u8>,
        #[event(tag = "value:{}")]
        value: u8,
        r#type: u8,
        payload: String,
    },
    #[event(name = "b")]
    V2Made,
}

#[test]
fn fields_may_have_the_names_that_the_derive_uses_itself() {
    let event = Awkward::HTTPFailed { tags: vec![1, 2], value: 3, r#type: 4, payload: "x".into() };
    let event = new(&event);
    let tags: Vec<_> = event.tags.iter().map(AsRef::as_ref).collect();
    assert_eq!(tags, ["4", "1", "tag:1", "tag:2", "value:3"]);
    assert_eq!(event.key.unwrap().as_str(), "2");
    assert_eq!((Awkward::HTTP_FAILED.name, Awkward::V2_MADE.name), ("a", "b"));
}

/// What serde can be told of fields, and what looks like an event within one.
#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
#[serde(rename_all_fields = "camelCase", deny_unknown_fields)]
enum Told {
    #[event(name = "told.named")]
    Named {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        some_note: Option<String>,
        #[serde(with = "as_text")]
        big_number: u64,
        inner: Inner,
    },
    #[event(name = "told.flat")]
    #[serde(rename_all = "UPPERCASE")]
    Flat {
        first: u8,
        #[serde(skip)]
        cached: u8,
    },
    #[event(name = "told.inner")]
    Inner(Inner),
    #[event(name = "told.maybe")]
    Maybe(Option<Inner>),
    #[event(name = "told.unit")]
    Unit(()),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Inner {
    A,
    B(Box<Inner>),
    C { a: Vec<Inner> },
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference over")]
    pub(super) fn serialize<S: Serializer>(number: &u64, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[test]
fn what_serde_is_told_of_fields_counts_and_enums_within_are_left_alone() {
    let inner = Inner::C { a: vec![Inner::A, Inner::B(Box::new(Inner::A))] };
    let told = [
        Told::Named { some_note: None, big_number: 1 << 60, inner: Inner::B(Box::new(Inner::A)) },
        Told::Flat { first: 3, cached: 0 },
        Told::Inner(inner.clone()),
        Told::Maybe(None),
        Told::Maybe(Some(inner)),
        Told::Unit(()),
    ];
    let events = recorded(told.iter().map(new));
    let payloads: Vec<_> =
        events.iter().map(|event| str::from_utf8(&event.payload).unwrap()).collect();
    assert_eq!(
        payloads,
        [
            r#"{"bigNumber":"1152921504606846976","inner":{"B":"A"}}"#,
            r#"{"FIRST":3}"#,
            r#"{"C":{"a":["A",{"B":"A"}]}}"#,
            "null",
            r#"{"C":{"a":["A",{"B":"A"}]}}"#,
            "null",
        ]
    );
    for (event, told) in events.iter().zip(&told) {
        assert_eq!(&decode_event::<Told>(event).unwrap(), told);
    }
    let mut unknown = new(&told[1]);
    unknown.payload = r#"{"FIRST":3,"second":4}"#.into();
    let error = decode_event::<Told>(&recorded([unknown])[0]).unwrap_err();
    let DecodeError::Codec { source: CodecError::Decode { source, .. }, .. } = error else {
        panic!("{error}");
    };
    assert!(source.to_string().contains("unknown field `second`"), "{source}");
}
