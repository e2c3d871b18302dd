//! What the tests of groups share.

use std::sync::Arc;

use headwater_core::{
    Append, CodecId, EventId, EventLog, EventType, GroupName, Headers, Key, MemoryLog, NewEvent,
    Position, RecordedEvent, Revision, SchemaVersion, Slot, StreamId, Timestamp,
};

use super::{ConsumerGroup, GroupOptions};

/// Makes a recorded event of a key.
pub(crate) fn event_at(position: u64, key: &str) -> Arc<RecordedEvent> {
    Arc::new(RecordedEvent {
        position: Position::new(position),
        stream: StreamId::new("a-1").unwrap(),
        revision: Revision::new(position),
        id: EventId::generate(),
        event_type: EventType::new("t").unwrap(),
        schema_version: SchemaVersion::FIRST,
        commit_time: Timestamp::EPOCH,
        event_time: Timestamp::EPOCH,
        correlation_id: None,
        causation_id: None,
        tags: Vec::new(),
        key: Some(Key::new(key).unwrap()),
        slot: Slot::of_key(key),
        headers: Headers::new(),
        codec: CodecId::RAW,
        payload: Vec::new().into(),
    })
}

/// Makes events at these positions, each with a key of its own.
pub(crate) fn slot_events(positions: &[u64]) -> Vec<Arc<RecordedEvent>> {
    let event = |&position: &u64| event_at(position, &format!("key-{position}"));
    positions.iter().map(event).collect()
}

/// Makes an event of a stream, which is also its key.
pub(crate) fn event(stream: &str, event_type: &str) -> NewEvent {
    let stream = StreamId::new(stream).unwrap();
    NewEvent::new(
        stream,
        EventType::new(event_type).unwrap(),
        CodecId::RAW,
        "x",
    )
}

/// Appends one event to each of these streams.
pub(crate) async fn append(log: &MemoryLog, streams: &[&str]) -> Position {
    let events = streams.iter().map(|stream| event(stream, "t"));
    log.append(Append::new(events)).await.unwrap().last
}

pub(crate) fn options() -> GroupOptions {
    GroupOptions::new(GroupName::new("g").unwrap())
}

pub(crate) async fn open(log: &MemoryLog) -> ConsumerGroup {
    ConsumerGroup::open(Arc::new(log.clone()), options())
        .await
        .unwrap()
}
