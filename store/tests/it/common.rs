//! What the tests share.

use headwater_core::{
    Append, CodecId, EventType, NewEvent, Page, Position, Query, Read, RecordedEvent, StreamId, Tag,
};
use headwater_store::{Options, Store};
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

pub(crate) fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

pub(crate) fn tag(name: &str) -> Tag {
    Tag::new(name).unwrap()
}

pub(crate) fn event(stream_name: &str, event_type: &str, payload: &str) -> NewEvent {
    let event_type = EventType::new(event_type).unwrap();
    NewEvent::new(stream(stream_name), event_type, CodecId::RAW, payload.to_owned())
}

pub(crate) fn one(stream_name: &str, payload: &str) -> Append {
    Append::new([event(stream_name, "t", payload)])
}

/// Everything a query selects, page by page.
pub(crate) fn read_all(
    mut page: impl FnMut(&Read) -> Page,
    query: &Query,
    limit: usize,
) -> Vec<RecordedEvent> {
    let (mut after, mut events) = (Position::START, Vec::new());
    loop {
        let next = page(&Read::forward(query.clone(), after).limit(limit));
        assert!(next.done || next.scanned > after, "a page that is not the last goes on");
        after = next.scanned;
        events.extend(next.events);
        if next.done {
            return events;
        }
    }
}

/// Everything a query selects, from the end to the beginning.
pub(crate) fn read_back(
    mut page: impl FnMut(&Read) -> Page,
    query: &Query,
    limit: usize,
) -> Vec<RecordedEvent> {
    let (mut before, mut events) = (Position::MAX, Vec::new());
    loop {
        let next = page(&Read::backward(query.clone(), before).limit(limit));
        assert!(next.done || next.scanned < before, "a page that is not the last goes on");
        before = next.scanned;
        events.extend(next.events);
        if next.done {
            return events;
        }
    }
}

pub(crate) fn payloads(events: &[RecordedEvent]) -> Vec<String> {
    events.iter().map(|e| String::from_utf8(e.payload.to_vec()).unwrap()).collect()
}
