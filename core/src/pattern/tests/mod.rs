//! Patterns against what `EventBridge` documents, and against a matcher that was written without
//! looking at ours.

mod faults;
mod naive;
mod properties;
mod semantics;

use serde_json::Value;

use super::*;
use crate::codec::CodecId;
use crate::event::NewEvent;
use crate::name::{EventType, StreamId};

fn pattern(json: &Value) -> EventPattern {
    EventPattern::parse(&json.to_string()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// An event with this payload, byte for byte.
fn event_of(codec: CodecId, payload: &str) -> NewEvent {
    let stream = StreamId::new("order-17").unwrap();
    let event_type = EventType::new("order.placed").unwrap();
    NewEvent::new(stream, event_type, codec, payload.to_owned())
}

fn event(data: &Value) -> NewEvent {
    event_of(CodecId::JSON, &data.to_string())
}
