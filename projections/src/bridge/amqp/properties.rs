//! What a message carries beside its body.

use headwater_core::{Attribute, CloudEvent};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::{AmqpMode, Message};

/// What the names of attributes begin with, in the binding for AMQP 1.0, to whose clients a broker
/// shows these headers as application properties.
const PREFIX: &str = "cloudEvents_";
/// Survives the broker's restart, where the queue does.
const PERSISTENT: u8 = 2;
/// More than a header frame and the properties but headers need.
const REST_BYTES_MAX: usize = 2 * 1024;

/// Returns the properties of a message.
pub(super) fn of(message: &Message<'_>, event: &CloudEvent<'_>, mode: AmqpMode) -> BasicProperties {
    let mut headers = FieldTable::default();
    if mode == AmqpMode::Binary {
        event.each_attribute(|name, value| {
            let value = match value {
                Attribute::Integer(number) => AMQPValue::LongInt(number.into()),
                text => AMQPValue::LongString(text.to_string().into()),
            };
            headers.insert(format!("{PREFIX}{name}").into(), value);
        });
    }
    for (name, value) in [("traceparent", event.trace_parent), ("tracestate", event.trace_state)] {
        if let Some(value) = value {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
    }
    let content = match mode {
        AmqpMode::Binary => event.content_type(),
        AmqpMode::Structured => "application/cloudevents+json",
    };
    let mut properties = BasicProperties::default()
        .with_content_type(content.into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(message.key.as_str().into())
        .with_headers(headers);
    if let Ok(kind) = ShortString::try_new(event.event_type) {
        properties = properties.with_type(kind);
    }
    if let Some(id) = event.correlation_id {
        properties = properties.with_correlation_id(id.to_string().into());
    }
    // Seconds, and none before 1970.
    if let Ok(seconds) = u64::try_from(event.time.as_nanos().div_euclid(1_000_000_000)) {
        properties = properties.with_timestamp(seconds);
    }
    properties
}

/// Returns how many bytes the properties take at most.
pub(super) fn size_bytes(properties: &BasicProperties) -> usize {
    const ENTRY: usize = 6;
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    let sizes = headers.map(|(name, value)| {
        let value = match value {
            AMQPValue::LongString(text) => text.as_bytes().len(),
            _ => size_of::<u64>(),
        };
        ENTRY + name.as_str().len() + value
    });
    REST_BYTES_MAX + sizes.sum::<usize>()
}
