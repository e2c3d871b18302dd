//! Older shapes, step by step to the one of today.

use std::num::ParseIntError;

use headwater_core::{
    Bincode, Codec, CodecId, DecodeError, Event, EventKind, Json, RecordedEvent, SchemaVersion,
    decode_event,
};
use serde::{Deserialize, Serialize};

use crate::derive::{new, recorded};

#[derive(Serialize, Deserialize)]
struct PriceV1 {
    price: String,
}

#[derive(Serialize, Deserialize)]
struct PriceV2 {
    cents: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Price {
    cents: u64,
    currency: String,
}

impl TryFrom<PriceV1> for PriceV2 {
    type Error = ParseIntError;

    fn try_from(old: PriceV1) -> Result<Self, ParseIntError> {
        Ok(Self { cents: old.price.parse::<u64>()? * 100 })
    }
}

impl From<PriceV2> for Price {
    fn from(old: PriceV2) -> Self {
        Self { cents: old.cents, currency: "USD".into() }
    }
}

#[derive(Serialize, Deserialize)]
struct RenamedV2(String);

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(crate = headwater_core)]
enum Item {
    #[event(name = "item.priced", formerly = "price", version = 3, from(1 = PriceV1, 2 = PriceV2))]
    Priced(Price),
    #[event(name = "item.renamed", version = 3, oldest = 2, from(2 = RenamedV2))]
    Renamed { name: String, by: Option<String> },
    #[event(name = "item.gone")]
    Gone,
    #[event(name = "item.valued", version = 3, from(1 = PriceV1, 2 = PriceV2))]
    Valued(Box<Price>),
}

impl From<RenamedV2> for Item {
    fn from(RenamedV2(name): RenamedV2) -> Self {
        if name.is_empty() { Self::Gone } else { Self::Renamed { name, by: None } }
    }
}

#[derive(Serialize, Deserialize)]
struct CountedV1(u8);

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(crate = headwater_core, codec = Bincode, name = "counted", version = 4)]
#[event(from(3 = CountedV3, 1 = CountedV1, 2 = CountedV2))]
struct Counted {
    from: u8,
    to: u16,
}

#[derive(Serialize, Deserialize)]
struct CountedV2 {
    to: u8,
}

#[derive(Serialize, Deserialize)]
struct CountedV3 {
    to: u16,
}

impl From<CountedV1> for CountedV2 {
    fn from(CountedV1(to): CountedV1) -> Self {
        Self { to }
    }
}

impl From<CountedV2> for CountedV3 {
    fn from(CountedV2 { to }: CountedV2) -> Self {
        Self { to: to.into() }
    }
}

impl From<CountedV3> for Counted {
    fn from(CountedV3 { to }: CountedV3) -> Self {
        Self { from: 1, to }
    }
}

/// An event of an older version.
fn old(kind: EventKind, name: &str, version: u16, codec: CodecId, payload: &[u8]) -> RecordedEvent {
    let mut event = new(&Item::Gone);
    assert!(kind.names().any(|known| known == name), "{name}");
    event.event_type = name.parse().unwrap();
    event.schema_version = SchemaVersion::new(version);
    event.codec = codec;
    event.payload = payload.to_vec().into();
    recorded([event]).remove(0)
}

fn json<T: Serialize>(kind: EventKind, version: u16, old_shape: &T) -> RecordedEvent {
    old(kind, kind.name, version, CodecId::JSON, &Json::encode(old_shape).unwrap())
}

#[test]
fn each_older_version_goes_through_every_step_behind_it() {
    let priced = |cents| Item::Priced(Price { cents, currency: "USD".into() });
    let v1 = json(Item::PRICED, 1, &PriceV1 { price: "7".into() });
    assert_eq!(decode_event::<Item>(&v1).unwrap(), priced(700));
    let v2 = json(Item::PRICED, 2, &PriceV2 { cents: 50 });
    assert_eq!(decode_event::<Item>(&v2).unwrap(), priced(50));
    let v3 = json(Item::PRICED, 3, &Price { cents: 1, currency: "USD".into() });
    assert_eq!(decode_event::<Item>(&v3).unwrap(), priced(1));
    let v1 = json(Item::VALUED, 1, &PriceV1 { price: "7".into() });
    let valued = Item::Valued(Box::new(Price { cents: 700, currency: "USD".into() }));
    assert_eq!(decode_event::<Item>(&v1).unwrap(), valued);
    let v2 = json(Item::RENAMED, 2, &RenamedV2("lamp".into()));
    assert_eq!(decode_event::<Item>(&v2).unwrap(), Item::Renamed { name: "lamp".into(), by: None });
}

#[test]
fn an_older_version_under_an_older_name_and_in_another_codec_is_read_as_well() {
    let payload = Bincode::encode(&PriceV1 { price: "3".into() }).unwrap();
    let event = old(Item::PRICED, "price", 1, CodecId::BINCODE, &payload);
    let item = decode_event::<Item>(&event).unwrap();
    assert_eq!(item, Item::Priced(Price { cents: 300, currency: "USD".into() }));
}

#[test]
fn a_struct_is_made_of_its_older_shapes_too() {
    for version in 1..=3 {
        let event = old(Counted::KIND, "counted", version, CodecId::BINCODE, &[9]);
        assert_eq!(decode_event::<Counted>(&event).unwrap(), Counted { from: 1, to: 9 });
    }
}

#[test]
fn what_an_upcaster_refuses_is_an_error_with_version_and_cause() {
    let event = json(Item::PRICED, 1, &PriceV1 { price: "a lot".into() });
    let error = decode_event::<Item>(&event).unwrap_err();
    let DecodeError::Upcast { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.to_string(), "schema version 1 cannot be made the next one");
    let cause = std::error::Error::source(source).unwrap().to_string();
    assert!(cause.contains("invalid digit"), "{cause}");
}

#[test]
fn an_upcaster_that_makes_another_kind_is_found_out() {
    let error = decode_event::<Item>(&json(Item::RENAMED, 2, &RenamedV2(String::new())));
    let DecodeError::Upcast { source, .. } = error.unwrap_err() else { panic!() };
    let text = source.to_string();
    assert!(text.contains("made item.gone of item.renamed"), "{text}");
}

#[test]
fn versions_that_are_not_read_are_named_with_what_to_do() {
    let error = |kind, version| {
        let event = json(kind, version, &PriceV2 { cents: 1 });
        decode_event::<Item>(&event).unwrap_err().to_string()
    };
    let newer = error(Item::PRICED, 4);
    assert!(newer.contains("version 4, and this program reads versions 1 through 3"), "{newer}");
    assert!(newer.contains("deploy a program that knows it"), "{newer}");
    let older = error(Item::RENAMED, 1);
    assert!(older.contains("reads versions 2 through 3; give the program its shape"), "{older}");
    assert!(older.contains("from(1 = ...)"), "{older}");
}

#[test]
fn a_damaged_older_payload_is_the_codecs_error() {
    let event = json(Item::PRICED, 2, &"no struct");
    let error = decode_event::<Item>(&event).unwrap_err();
    assert!(matches!(error, DecodeError::Codec { .. }), "{error}");
}
