//! Typed events: what the derive costs beside the same written by hand, and what an upcast costs.
//!
//! Written by hand means a struct for each kind, a match over kinds, and no adapter between an enum and
//! serde. Each round encodes or decodes 1,000 events of about 150 bytes of JSON (60 of bincode).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater::{
    Append, Bincode, Bytes, Codec, CodecError, Event, EventKind, EventLog, InvalidName, Json,
    MemoryLog, NewEvent, Payload, PayloadError, Position, Query, Read, RecordedEvent,
    SchemaVersion, StreamId, Tag, decode_event, encode_event,
};
use serde::{Deserialize, Serialize};

const EVENTS: u32 = 1_000;

/// What an order is about.
#[derive(Clone, Serialize, Deserialize)]
struct Line {
    sku: String,
    count: u32,
    cents: u64,
}

fn lines(n: u32) -> Vec<Line> {
    let line = |i| Line { sku: format!("shoe-{:05}", n + i), count: i + 1, cents: 4_990 };
    (0..2).map(line).collect()
}

/// The same events twice: derived, and by hand.
macro_rules! orders {
    ($codec:ident, $derived:ident, $by_hand:ident) => {
        #[derive(Event, Serialize, Deserialize)]
        #[event(codec = $codec)]
        enum $derived {
            #[event(name = "order.placed", tags("customer:{customer}", "order:{order}"))]
            Placed { order: u64, customer: u32, country: String, lines: Vec<Line> },
            #[event(name = "order.shipped", tags("order:{order}"))]
            Shipped { order: u64, parcel: String },
        }

        #[derive(Serialize, Deserialize)]
        enum $by_hand {
            Placed(Placed),
            Shipped(Shipped),
        }

        impl Event for $by_hand {
            type Codec = $codec;
            const KINDS: &'static [EventKind] =
                &[EventKind::new("order.placed", 1), EventKind::new("order.shipped", 1)];

            fn kind(&self) -> EventKind {
                match self {
                    Self::Placed(_) => Self::KINDS[0],
                    Self::Shipped(_) => Self::KINDS[1],
                }
            }

            fn tags(&self) -> Result<Vec<Tag>, InvalidName> {
                match self {
                    Self::Placed(Placed { order, customer, .. }) => Ok(vec![
                        Tag::new(format!("customer:{customer}"))?,
                        Tag::new(format!("order:{order}"))?,
                    ]),
                    Self::Shipped(Shipped { order, .. }) => {
                        Ok(vec![Tag::new(format!("order:{order}"))?])
                    }
                }
            }

            fn encode_payload(&self) -> Result<Bytes, CodecError> {
                match self {
                    Self::Placed(placed) => $codec::encode(placed),
                    Self::Shipped(shipped) => $codec::encode(shipped),
                }
            }

            fn decode_payload(payload: Payload<'_>) -> Result<Self, PayloadError> {
                match payload.kind() {
                    0 => payload.decode::<$codec, _>().map(Self::Placed),
                    _ => payload.decode::<$codec, _>().map(Self::Shipped),
                }
            }
        }

        impl $derived {
            fn some() -> Vec<Self> {
                let one = |n: u32| match n % 4 {
                    0 => Self::Shipped { order: n.into(), parcel: format!("parcel-{n:09}") },
                    _ => Self::Placed {
                        order: n.into(),
                        customer: n % 100,
                        country: "DE".into(),
                        lines: lines(n),
                    },
                };
                (0..EVENTS).map(one).collect()
            }
        }

        impl $by_hand {
            fn some() -> Vec<Self> {
                let one = |n: u32| match n % 4 {
                    0 => {
                        Self::Shipped(Shipped { order: n.into(), parcel: format!("parcel-{n:09}") })
                    }
                    _ => Self::Placed(Placed {
                        order: n.into(),
                        customer: n % 100,
                        country: "DE".into(),
                        lines: lines(n),
                    }),
                };
                (0..EVENTS).map(one).collect()
            }
        }
    };
}

#[derive(Serialize, Deserialize)]
struct Placed {
    order: u64,
    customer: u32,
    country: String,
    lines: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Shipped {
    order: u64,
    parcel: String,
}

orders!(Json, Derived, ByHand);
orders!(Bincode, HotDerived, HotByHand);

/// The fourth shape of an order: each version adds a field.
#[derive(Event, Serialize, Deserialize)]
#[event(name = "order.placed", version = 4, from(1 = V1, 2 = V2, 3 = V3))]
struct Current {
    order: u64,
    customer: u32,
    country: String,
    lines: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct V1 {
    lines: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct V2 {
    order: u64,
    lines: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct V3 {
    order: u64,
    customer: u32,
    lines: Vec<Line>,
}

impl From<V1> for V2 {
    fn from(V1 { lines }: V1) -> Self {
        Self { order: 0, lines }
    }
}

impl From<V2> for V3 {
    fn from(V2 { order, lines }: V2) -> Self {
        Self { order, customer: 0, lines }
    }
}

impl From<V3> for Current {
    fn from(V3 { order, customer, lines }: V3) -> Self {
        Self { order, customer, country: String::new(), lines }
    }
}

fn stream() -> StreamId {
    StreamId::new("order-17").expect("a name")
}

/// Events as a log gives them back.
fn recorded(events: Vec<NewEvent>) -> Vec<RecordedEvent> {
    let log = MemoryLog::new();
    pollster::block_on(async {
        log.append(Append::new(events)).await.expect("room");
        log.read(Read::forward(Query::all(), Position::START)).await.expect("a page").events
    })
}

fn encoded<E: Event>(events: &[E]) -> Vec<NewEvent> {
    events.iter().map(|event| encode_event(stream(), event).expect("a form")).collect()
}

/// Events of an older version.
fn old<T: Serialize>(version: u16, shape: impl Fn(u32) -> T) -> Vec<RecordedEvent> {
    let one = |n| {
        let payload = Json::encode(&shape(n)).expect("a form");
        let event_type = "order.placed".parse().expect("a name");
        let mut event = NewEvent::new(stream(), event_type, Json::ID, payload);
        event.schema_version = SchemaVersion::new(version);
        event
    };
    recorded((0..EVENTS).map(one).collect())
}

fn encode<E: Event>(c: &mut Criterion, name: &str, events: &[E]) {
    let mut group = c.benchmark_group("events");
    group.throughput(Throughput::Elements(EVENTS.into()));
    group.bench_function(name, |b| b.iter(|| black_box(encoded(events))));
}

fn decode<E: Event>(c: &mut Criterion, name: &str, events: &[RecordedEvent]) {
    let mut group = c.benchmark_group("events");
    group.throughput(Throughput::Elements(EVENTS.into()));
    group.bench_function(name, |b| {
        b.iter(|| {
            for event in events {
                black_box(decode_event::<E>(event).expect("the shape that was written"));
            }
        });
    });
}

fn codecs(c: &mut Criterion) {
    let (derived, by_hand) = (Derived::some(), ByHand::some());
    encode(c, "encode JSON, derived", &derived);
    encode(c, "encode JSON, by hand", &by_hand);
    let (derived, by_hand) = (recorded(encoded(&derived)), recorded(encoded(&by_hand)));
    assert!(derived.iter().zip(&by_hand).all(|(a, b)| a.payload == b.payload && a.tags == b.tags));
    decode::<Derived>(c, "decode JSON, derived", &derived);
    decode::<ByHand>(c, "decode JSON, by hand", &by_hand);

    let (derived, by_hand) = (HotDerived::some(), HotByHand::some());
    encode(c, "encode bincode, derived", &derived);
    encode(c, "encode bincode, by hand", &by_hand);
    let (derived, by_hand) = (recorded(encoded(&derived)), recorded(encoded(&by_hand)));
    assert!(derived.iter().zip(&by_hand).all(|(a, b)| a.payload == b.payload && a.tags == b.tags));
    decode::<HotDerived>(c, "decode bincode, derived", &derived);
    decode::<HotByHand>(c, "decode bincode, by hand", &by_hand);
}

fn upcasts(c: &mut Criterion) {
    let order = 17_u64;
    let current = |n| Current { order, customer: n, country: String::new(), lines: lines(n) };
    let current: Vec<_> = (0..EVENTS).map(current).collect();
    decode::<Current>(c, "upcast none", &recorded(encoded(&current)));
    let v3 = |n| V3 { order, customer: n, lines: lines(n) };
    decode::<Current>(c, "upcast once, from 3", &old(3, v3));
    decode::<V3Alone>(c, "upcast none, of what 3 holds", &old(1, v3));
    let v1 = |n| V1 { lines: lines(n) };
    decode::<Current>(c, "upcast three times, from 1", &old(1, v1));
    decode::<V1Alone>(c, "upcast none, of what 1 holds", &old(1, v1));
}

/// What an older version holds, read as it is: an upcast costs the difference.
macro_rules! alone {
    ($($name:ident { $($field:ident: $of:ty),* })*) => {
        $(
            #[derive(Event, Serialize, Deserialize)]
            #[event(name = "order.placed")]
            struct $name {
                $($field: $of),*
            }
        )*
    };
}

alone! {
    V3Alone { order: u64, customer: u32, lines: Vec<Line> }
    V1Alone { lines: Vec<Line> }
}

criterion_group!(benches, codecs, upcasts);
criterion_main!(benches);
