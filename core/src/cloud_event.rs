//! Events in the form of `CloudEvents` 1.0, in which they leave for other programs.
//!
//! One mapping for everything that goes out: the lines of an export (`docs/export.md` has the
//! table of attributes) and the messages of bridges.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::fmt::temporal::DateTimePrinter;
use serde::de::IgnoredAny;
use uuid::Uuid;

use crate::codec::CodecId;
use crate::event::RecordedEvent;
use crate::id::{AppendId, CorrelationId, EventId, LogId};
use crate::name::{Key, Tag};
use crate::position::{Position, Revision, SchemaVersion};
use crate::time::Timestamp;
use crate::trace::TRACEPARENT;

/// The version of the specification.
const SPECVERSION: &str = "1.0";

/// An event with the attributes that it has in `CloudEvents` 1.0. `docs/export.md` describes each.
#[derive(Clone, Debug)]
pub struct CloudEvent<'a> {
    /// `id`; with `source` it is unique for ever.
    pub id: EventId,
    /// `source`: the log, as [`source`](Self::source_of) says it.
    pub source: &'a str,
    /// `type`.
    pub event_type: &'a str,
    /// `subject`: the stream.
    pub subject: &'a str,
    /// `time`: when it happened by the producer's clock.
    pub time: Timestamp,
    /// `position` in the log.
    pub position: Position,
    /// `revision` in the stream.
    pub revision: Revision,
    /// `previous`: position of the stream's event before. Only exports have it.
    pub previous: Option<Position>,
    /// `committime`.
    pub commit_time: Timestamp,
    /// `schemaversion`: the shape of the payload.
    pub schema_version: SchemaVersion,
    /// `codec`: how the payload is encoded; `datacontenttype` follows from it.
    pub codec: CodecId,
    /// `batch`: its place in its append. Only exports have it.
    pub batch: Option<&'static str>,
    /// `correlationid`.
    pub correlation_id: Option<CorrelationId>,
    /// `causationid`.
    pub causation_id: Option<EventId>,
    /// `appendid`. Only exports have it.
    pub append_id: Option<AppendId>,
    /// `partitionkey`: the ordering key, if the producer gave one.
    pub partition_key: Option<&'a str>,
    /// `tags`, with a space between two; none if empty.
    pub tags: Cow<'a, str>,
    /// `headers`: all of them as a list of pairs in JSON; none if empty.
    pub headers: Cow<'a, str>,
    /// `traceparent`, of the extension for distributed tracing. Exports have it in `headers` only.
    pub trace_parent: Option<&'a str>,
    /// `tracestate`, likewise.
    pub trace_state: Option<&'a str>,
    /// The payload.
    pub payload: &'a [u8],
}

/// The value of an attribute. Its text is what `CloudEvents` calls the canonical string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// A text.
    Text(&'a str),
    /// A UUID, which is a text.
    Uuid(Uuid),
    /// A number that may be too large for the integers of `CloudEvents`, and is a text there.
    Number(u64),
    /// An integer.
    Integer(u16),
    /// A time.
    Time(Timestamp),
}

impl fmt::Display for Attribute<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Uuid(id) => id.as_hyphenated().fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Time(time) => time.fmt(f),
        }
    }
}

impl<'a> CloudEvent<'a> {
    /// Returns the `source` of a log's events.
    pub fn source_of(log: LogId) -> String {
        format!("urn:uuid:{log}")
    }

    /// Gives an event of the log with this [`source`](Self::source_of) its form.
    ///
    /// # Complexity
    ///
    /// Linear in the size of tags and headers; the payload is borrowed.
    pub fn new(event: &'a RecordedEvent, source: &'a str) -> Self {
        let tags: Vec<&str> = event.tags.iter().map(Tag::as_str).collect();
        let headers = if event.headers.is_empty() {
            String::new()
        } else {
            serde_json::to_string(&event.headers).expect("texts have a form in JSON")
        };
        Self {
            id: event.id,
            source,
            event_type: event.event_type.as_str(),
            subject: event.stream.as_str(),
            time: event.event_time,
            position: event.position,
            revision: event.revision,
            previous: None,
            commit_time: event.commit_time,
            schema_version: event.schema_version,
            codec: event.codec,
            batch: None,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            append_id: None,
            partition_key: event.key.as_ref().map(Key::as_str),
            tags: tags.join(" ").into(),
            headers: headers.into(),
            trace_parent: event.headers.get(TRACEPARENT),
            trace_state: event.headers.get("tracestate"),
            payload: &event.payload,
        }
    }

    /// Returns the media type of the payload, the attribute `datacontenttype`.
    pub fn content_type(&self) -> &'static str {
        if self.codec == CodecId::JSON { "application/json" } else { "application/octet-stream" }
    }

    /// Shows all attributes but `datacontenttype`, which some protocols carry elsewhere, and the
    /// data. What is empty or was not given is left out.
    pub fn each_attribute(&self, mut show: impl FnMut(&'static str, Attribute<'_>)) {
        let mut given = |name, value: Option<Attribute<'_>>| {
            if let Some(value) = value {
                show(name, value);
            }
        };
        let text = |text: &'a str| Some(Attribute::Text(text));
        let some = |text: Option<&'a str>| text.map(Attribute::Text);
        given("specversion", text(SPECVERSION));
        given("id", Some(Attribute::Uuid(*self.id.as_uuid())));
        given("source", text(self.source));
        given("type", text(self.event_type));
        given("subject", text(self.subject));
        given("time", Some(Attribute::Time(self.time)));
        given("position", Some(Attribute::Number(self.position.get())));
        given("revision", Some(Attribute::Number(self.revision.get())));
        given("previous", self.previous.map(|position| Attribute::Number(position.get())));
        given("committime", Some(Attribute::Time(self.commit_time)));
        given("schemaversion", Some(Attribute::Integer(self.schema_version.get())));
        given("codec", Some(Attribute::Integer(self.codec.get().into())));
        given("batch", some(self.batch));
        given("correlationid", self.correlation_id.map(|id| Attribute::Uuid(*id.as_uuid())));
        given("causationid", self.causation_id.map(|id| Attribute::Uuid(*id.as_uuid())));
        given("appendid", self.append_id.map(|id| Attribute::Uuid(*id.as_uuid())));
        given("partitionkey", some(self.partition_key));
        given("traceparent", some(self.trace_parent));
        given("tracestate", some(self.trace_state));
        for (name, packed) in [("tags", &self.tags), ("headers", &self.headers)] {
            given(name, Some(Attribute::Text(packed)).filter(|_| !packed.is_empty()));
        }
    }
}

/// Writes events in the structured JSON form of `CloudEvents`, one after the other.
#[derive(Debug, Default)]
pub struct CloudEventJson {
    event_time: LastTime,
    commit_time: LastTime,
}

impl CloudEventJson {
    /// Puts an event behind what is in `out`, as one line without its end.
    ///
    /// A payload that is JSON, and comes out the same, stands in `data`; any other one stands in
    /// `data_base64`.
    pub fn put(&mut self, event: &CloudEvent<'_>, out: &mut Vec<u8>) {
        let mut separator = b'{';
        event.each_attribute(|name, value| {
            put_name(out, separator, name);
            separator = b',';
            match value {
                Attribute::Text(text) => put_text(out, text),
                Attribute::Uuid(id) => {
                    put_text(out, id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
                }
                Attribute::Integer(_) => {
                    write!(out, "{value}").expect("a vector takes everything");
                }
                Attribute::Number(_) => {
                    write!(out, "\"{value}\"").expect("a vector takes everything");
                }
                Attribute::Time(time) if name == "time" => self.event_time.put(out, time),
                Attribute::Time(time) => self.commit_time.put(out, time),
            }
        });
        put_name(out, separator, "datacontenttype");
        put_text(out, event.content_type());
        if event.codec == CodecId::JSON && is_plain_json(event.payload) {
            put_name(out, b',', "data");
            out.extend_from_slice(event.payload);
        } else {
            put_name(out, b',', "data_base64");
            put_base64(out, event.payload);
        }
        out.push(b'}');
    }
}

/// The last time that was written, and its text: times in a row are often the same.
#[derive(Debug, Default)]
struct LastTime(Timestamp, Vec<u8>);

impl LastTime {
    fn put(&mut self, out: &mut Vec<u8>, time: Timestamp) {
        let Self(last, text) = self;
        if *last != time || text.is_empty() {
            *last = time;
            text.clear();
            let inside = jiff::Timestamp::from_nanosecond(time.as_nanos().into());
            let inside = inside.expect("jiff's years go beyond ours, which end in 2262");
            let printed = DateTimePrinter::new().print_timestamp(&inside, &mut *text);
            printed.expect("a vector takes everything");
        }
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    }
}

/// Returns whether a payload can stand in a line as it is, and is the same when it is taken out:
/// JSON without white space but spaces, and those inside.
fn is_plain_json(payload: &[u8]) -> bool {
    let (Some(first), Some(last)) = (payload.first(), payload.last()) else { return false };
    *first != b' '
        && *last != b' '
        && payload.iter().all(|&byte| byte >= b' ')
        && std::str::from_utf8(payload)
            .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn put_name(out: &mut Vec<u8>, separator: u8, name: &str) {
    out.extend_from_slice(&[separator, b'"']);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("a vector takes everything");
    }
}

fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let at = out.len();
    let len = base64::encoded_len(bytes.len(), true).expect("payloads fit memory");
    out.resize(at + len, 0);
    let encoded = STANDARD.encode_slice(bytes, &mut out[at..]);
    encoded.expect("there is room for it");
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::event::NewEvent;
    use crate::metadata::Headers;
    use crate::name::{EventType, StreamId};
    use crate::slot::Slot;

    fn event(codec: CodecId, payload: &str) -> RecordedEvent {
        let (stream, event_type) = (StreamId::new("order-17"), EventType::new("placed"));
        let new = NewEvent::new(stream.unwrap(), event_type.unwrap(), codec, payload.to_owned());
        RecordedEvent {
            position: Position::new(7),
            stream: new.stream,
            revision: Revision::new(3),
            id: "0190a0a0-0000-7000-8000-000000000001".parse().unwrap(),
            event_type: new.event_type,
            schema_version: SchemaVersion::FIRST,
            commit_time: Timestamp::from_millis(1_500),
            event_time: Timestamp::EPOCH,
            correlation_id: None,
            causation_id: None,
            tags: Vec::new(),
            key: None,
            slot: Slot::of_key("order-17"),
            headers: Headers::new(),
            codec,
            payload: new.payload,
        }
    }

    fn json(event: &RecordedEvent) -> String {
        let mut out = Vec::new();
        CloudEventJson::default().put(&CloudEvent::new(event, "urn:x"), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_has_its_coordinates_and_leaves_out_what_it_was_not_given() {
        let text = json(&event(CodecId::JSON, r#"{"b": 1.50,"a":[]}"#));
        assert_eq!(
            text,
            concat!(
                r#"{"specversion":"1.0","id":"0190a0a0-0000-7000-8000-000000000001","source":"urn:x","#,
                r#""type":"placed","subject":"order-17","time":"1970-01-01T00:00:00Z","position":"7","#,
                r#""revision":"3","committime":"1970-01-01T00:00:01.5Z","schemaversion":1,"codec":1,"#,
                r#""datacontenttype":"application/json","data":{"b": 1.50,"a":[]}}"#
            )
        );
    }

    #[test]
    fn everything_that_travels_along_becomes_an_attribute() {
        let mut event = event(CodecId::RAW, "\u{0}x");
        let id = event.id;
        event.causation_id = Some(id);
        event.tags = ["a:1", "b"].map(|tag| Tag::new(tag).unwrap()).to_vec();
        event.key = Some(Key::new("k\"x").unwrap());
        event.headers.insert("traceparent", "00-ab-cd-01").unwrap();
        event.headers.insert("x", "\u{e4}").unwrap();
        let value: Value = serde_json::from_str(&json(&event)).unwrap();
        assert_eq!(value["causationid"], id.to_string());
        assert_eq!(value["tags"], "a:1 b");
        assert_eq!(value["partitionkey"], "k\"x");
        assert_eq!(value["traceparent"], "00-ab-cd-01");
        assert_eq!(value["tracestate"], Value::Null);
        let headers: Value = serde_json::from_str(value["headers"].as_str().unwrap()).unwrap();
        assert_eq!(headers, json!([["traceparent", "00-ab-cd-01"], ["x", "\u{e4}"]]));
        assert_eq!(value["datacontenttype"], "application/octet-stream");
        assert_eq!(value["data_base64"], "AHg=");
    }

    #[test]
    fn json_that_would_not_come_out_the_same_goes_as_bytes() {
        for payload in ["", " 1", "1 ", "{\n}", "{", "\"\u{7f}\"x"] {
            let text = json(&event(CodecId::JSON, payload));
            assert!(text.contains("\"data_base64\""), "{text}");
        }
    }
}
