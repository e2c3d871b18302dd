//! Stores and events that the benchmarks share.

#![allow(dead_code, reason = "each benchmark uses some of it")]

use std::path::Path;

use headwater::{
    Append, CodecId, Durability, EventType, Headers, NewEvent, Options, Store, StreamId, Tag,
};
use tempfile::TempDir;

/// How many streams the events go around.
pub(crate) const STREAMS: u64 = 10_000;

/// Opens a store of its own.
pub(crate) fn open(durability: Durability) -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = open_at(&dir.path().join("store"), durability);
    (dir, store)
}

/// Opens the store in a directory.
pub(crate) fn open_at(path: &Path, durability: Durability) -> Store {
    let options = Options { durability, ..Options::default() };
    Store::open(path, options).expect("a store")
}

/// A stream's name: 16 bytes.
pub(crate) fn stream(n: u64) -> StreamId {
    StreamId::new(format!("stream-{n:09}")).expect("a name")
}

/// A tag's name: 10 bytes.
pub(crate) fn tag(n: u64) -> Tag {
    Tag::new(format!("tag:{n:06}")).expect("a name")
}

/// An event with 256 bytes of payload, 18 of metadata and a type of 14 bytes.
pub(crate) fn event(stream: StreamId) -> NewEvent {
    let event_type = EventType::new("something.done").expect("a name");
    let mut event = NewEvent::new(stream, event_type, CodecId::RAW, vec![0xA5; 256]);
    let mut headers = Headers::new();
    headers.insert("trace", "4bf92f3577b34").expect("a header");
    event.headers = headers;
    event
}

/// The `n`th append of so many events, spread over all streams.
pub(crate) fn batch(n: u64, events: u64) -> Append {
    Append::new((n * events..(n + 1) * events).map(|n| event(stream(n % STREAMS))))
}
