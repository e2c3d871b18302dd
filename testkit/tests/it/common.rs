//! What the tests share.

use std::path::Path;

use headwater_core::{
    Append, CodecId, EventType, NewEvent, Position, Query, Read, RecordedEvent, StreamId, Tag,
};
use headwater_store::{Options, Store};
use headwater_testkit::{DecodedEvent, decode_store};
use tempfile::TempDir;

/// Options for small stores that roll often.
pub(crate) fn small() -> Options {
    Options { segment_bytes: 64 * 1024, ..Options::default() }
}

pub(crate) fn temp() -> TempDir {
    tempfile::tempdir().expect("the system has a place for temporary files")
}

pub(crate) fn open(dir: &TempDir, options: Options) -> Store {
    Store::open(dir.path().join("store"), options).unwrap()
}

pub(crate) fn tag(name: &str) -> Tag {
    Tag::new(name).unwrap()
}

pub(crate) fn event(stream: &str, event_type: &str, payload: impl Into<Vec<u8>>) -> NewEvent {
    let (stream, event_type) =
        (StreamId::new(stream).unwrap(), EventType::new(event_type).unwrap());
    NewEvent::new(stream, event_type, CodecId::RAW, payload.into())
}

pub(crate) fn one(stream: &str, payload: impl Into<Vec<u8>>) -> Append {
    Append::new([event(stream, "t", payload)])
}

/// Everything the engine reads, page by page.
pub(crate) fn read_all(store: &Store) -> Vec<RecordedEvent> {
    let (mut after, mut events) = (Position::START, Vec::new());
    loop {
        let page = store.read_blocking(&Read::forward(Query::all(), after).limit(50)).unwrap();
        after = page.scanned;
        events.extend(page.events);
        if page.done {
            return events;
        }
    }
}

/// Decodes the store and compares every field of every event with what the engine reads.
pub(crate) fn agree(store: &Store) -> Vec<DecodedEvent> {
    let decoded = decode(store.path());
    let events: Vec<_> = decoded.iter().map(|d| d.event.clone()).collect();
    assert_eq!(events, read_all(store));
    decoded
}

pub(crate) fn decode(path: &Path) -> Vec<DecodedEvent> {
    decode_store(path).unwrap_or_else(|error| panic!("{error}"))
}
