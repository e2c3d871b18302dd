//! Events on their way in: lines of JSON on standard input.

use std::fmt;
use std::io::{self, BufRead, Read};

use headwater::{
    Append, AppendId, CodecId, CorrelationId, EventId, EventType, ExpectedRevision, Key, NewEvent,
    Revision, SchemaVersion, StreamId, Tag, Timestamp,
};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::{base64, json};

/// Longest line, in bytes: the largest payload, with room for escapes and names.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A parcel of lines is handed over when it holds about this many bytes.
const PARCEL_BYTES: usize = 256 * 1024;

/// A line of input.
#[derive(Debug)]
pub(crate) struct Line {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// What it holds.
    pub(crate) content: Content,
}

/// What a line of input holds.
#[derive(Debug)]
pub(crate) enum Content {
    /// An event to append.
    Event(Box<Prepared>),
    /// Something else: what is wrong, and what to do.
    Bad(String),
    /// Nothing, because reading failed.
    Unreadable(io::Error),
}

/// An event that is ready to be appended.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The identity of the event.
    pub(crate) id: EventId,
    /// The append. It has an append id if the input gave the event its id.
    pub(crate) append: Append,
    /// Whether it expects something of its stream.
    pub(crate) is_conditional: bool,
}

/// Reads lines until the end, and hands them over in parcels: as soon as no further line is there
/// already. Ends early when `deliver` returns false.
pub(crate) fn read_lines(mut input: impl Read, mut deliver: impl FnMut(Vec<Line>) -> bool) {
    let mut reader = io::BufReader::with_capacity(256 * 1024, &mut input);
    let (mut parcel, mut parcel_bytes) = (Vec::new(), 0);
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        let content = match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut text) {
            Ok(0) => break,
            Ok(read) if read as u64 == LINE_BYTES_MAX && text.last() != Some(&b'\n') => {
                let detail = format!(
                    "the line is longer than {LINE_BYTES_MAX} bytes; put each event on its own line"
                );
                // The rest belongs to the same line.
                reader.skip_until(b'\n').map_or_else(Content::Unreadable, |_| Content::Bad(detail))
            }
            Ok(_) if text.iter().all(u8::is_ascii_whitespace) => continue,
            Ok(_) => match parse(&text) {
                Ok(prepared) => Content::Event(Box::new(prepared)),
                Err(detail) => Content::Bad(detail),
            },
            Err(error) => Content::Unreadable(error),
        };
        let is_last = matches!(content, Content::Unreadable(_));
        parcel.push(Line { number, content });
        parcel_bytes += text.len();
        // Another read might block, and what is here must not wait for it.
        let may_block = !reader.buffer().contains(&b'\n');
        if may_block || parcel_bytes >= PARCEL_BYTES || is_last {
            if !deliver(std::mem::take(&mut parcel)) || is_last {
                return;
            }
            parcel_bytes = 0;
        }
    }
    if !parcel.is_empty() {
        deliver(parcel);
    }
}

/// A line as JSON. Beside the fields of an event in the making it takes those that
/// `headwater read --json` prints.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineJson {
    stream: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default, deserialize_with = "present")]
    data: Option<Value>,
    data_base64: Option<String>,
    codec: Option<Value>,
    id: Option<String>,
    tags: Option<Vec<String>>,
    expected: Option<Value>,
    metadata: Option<MetadataJson>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    event_time: Option<String>,
    key: Option<String>,
    schema_version: Option<u16>,
    headers: Option<HeadersJson>,
    #[serde(rename = "position", default)]
    _position: IgnoredAny,
    #[serde(rename = "revision", default)]
    _revision: IgnoredAny,
    #[serde(rename = "commit_time", default)]
    _commit_time: IgnoredAny,
    #[serde(rename = "slot", default)]
    _slot: IgnoredAny,
}

/// What travels beside the payload.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetadataJson {
    correlation_id: Option<String>,
    causation_id: Option<String>,
    event_time: Option<String>,
    key: Option<String>,
    schema_version: Option<u16>,
    headers: Option<HeadersJson>,
}

/// Tells `"data": null` from no `data`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Makes an event of a line, or says what is wrong with it and what to do.
fn parse(line: &[u8]) -> Result<Prepared, String> {
    let text = std::str::from_utf8(line)
        .map_err(|error| format!("not UTF-8 from byte {} on; convert it", error.valid_up_to()))?;
    let mut given: LineJson = serde_json::from_str(text).map_err(|error| describe(&error))?;
    let stream = StreamId::new(&given.stream).map_err(|error| format!("stream: {error}"))?;
    let event_type = EventType::new(&given.event_type).map_err(|error| format!("type: {error}"))?;
    let (codec, payload) = payload(text, &given)?;
    let mut event = NewEvent::new(stream.clone(), event_type, codec, payload);
    if let Some(id) = &given.id {
        event.id = id.parse().map_err(|error| format!("id: {error}"))?;
    }
    for tag in given.tags.take().unwrap_or_default() {
        event.tags.push(Tag::new(&tag).map_err(|error| format!("tags: {error}"))?);
    }
    metadata(&mut event, &mut given)?;
    let expected = expected(given.expected.as_ref())?;
    let id = event.id;
    let mut append = Append::new([event]);
    let is_conditional = expected != ExpectedRevision::Any;
    if is_conditional {
        append = append.expecting(stream, expected);
    }
    if given.id.is_some() {
        append = append.with_id(AppendId::from_name(id.as_bytes()));
    }
    append.check().map_err(|error| error.to_string())?;
    Ok(Prepared { id, append, is_conditional })
}

/// Says what is wrong with a line that is not such an object.
fn describe(error: &serde_json::Error) -> String {
    let message = error.to_string();
    // It counts lines too, and always says 1.
    let message = message.replace(&format!(" at line {} column ", error.line()), " at column ");
    if error.is_data() {
        format!("not an event: {message}; see `headwater append --help` for the fields")
    } else {
        format!("not JSON: {message}; write each event as one JSON object on one line")
    }
}

/// Takes the payload: JSON in its own text, or bytes in base64.
fn payload(text: &str, given: &LineJson) -> Result<(CodecId, Vec<u8>), String> {
    let codec = match &given.codec {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if name == "json" => Some(CodecId::JSON),
        Some(Value::String(name)) if name == "raw" => Some(CodecId::RAW),
        Some(Value::String(name)) if name == "bincode" => Some(CodecId::BINCODE),
        Some(Value::Number(number)) => {
            let number = number.as_u64().and_then(|number| u8::try_from(number).ok());
            Some(CodecId::new(number.ok_or("codec: its number does not fit; use 0 to 255")?))
        }
        Some(_) => {
            return Err("codec: use \"json\", \"raw\", \"bincode\" or a number to 255".to_owned());
        }
    };
    match (&given.data, &given.data_base64) {
        (Some(_), None) if codec.unwrap_or(CodecId::JSON) == CodecId::JSON => {
            let data = json::member(text, "data").ok_or("data: not found in the line")?;
            Ok((CodecId::JSON, data.into_bytes()))
        }
        (Some(_), None) => {
            Err("codec: data is JSON; leave the codec away, or give data_base64".to_owned())
        }
        (None, Some(data)) => {
            let bytes = base64::decode(data)
                .ok_or("data_base64: not base64; use the standard alphabet with padding")?;
            Ok((codec.unwrap_or(CodecId::RAW), bytes))
        }
        (None, None) => {
            Err("missing field `data`; give it any JSON value, null for none".to_owned())
        }
        (Some(_), Some(_)) => {
            Err("data and data_base64 are both given; leave one of them away".to_owned())
        }
    }
}

/// Takes what travels beside the payload, from `metadata` or from the line itself.
fn metadata(event: &mut NewEvent, given: &mut LineJson) -> Result<(), String> {
    fn one<T>(name: &str, inner: Option<T>, outer: Option<T>) -> Result<Option<T>, String> {
        match (inner, outer) {
            (Some(_), Some(_)) => {
                Err(format!("{name} is given twice; leave it in metadata or beside it"))
            }
            (inner, outer) => Ok(inner.or(outer)),
        }
    }
    let inner = given.metadata.take().unwrap_or_default();
    let correlation = one("correlation_id", inner.correlation_id, given.correlation_id.take())?
        .map(|id| id.parse::<CorrelationId>());
    event.correlation_id = correlation.transpose().map_err(|e| format!("correlation_id: {e}"))?;
    let causation = one("causation_id", inner.causation_id, given.causation_id.take())?
        .map(|id| id.parse::<EventId>());
    event.causation_id = causation.transpose().map_err(|e| format!("causation_id: {e}"))?;
    if let Some(text) = one("event_time", inner.event_time, given.event_time.take())? {
        event.event_time = time(&text)?;
    }
    let key = one("key", inner.key, given.key.take())?.map(Key::new);
    event.key = key.transpose().map_err(|error| format!("key: {error}"))?;
    if let Some(version) = one("schema_version", inner.schema_version, given.schema_version)? {
        event.schema_version = SchemaVersion::new(version);
    }
    if let Some(headers) = one("headers", inner.headers, given.headers.take())? {
        for (name, value) in headers.0 {
            event.headers.insert(name, value).map_err(|error| format!("headers: {error}"))?;
        }
    }
    Ok(())
}

fn time(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text.parse().map_err(|error| {
        format!("event_time: {error}; write it as RFC 3339, such as 2026-01-31T12:00:00Z")
    })?;
    let nanos = i64::try_from(time.as_nanosecond())
        .map_err(|_| format!("event_time: {text} is out of range; use the years 1678 to 2261"))?;
    Ok(Timestamp::from_nanos(nanos))
}

fn expected(given: Option<&Value>) -> Result<ExpectedRevision, String> {
    match given {
        None | Some(Value::Null) => return Ok(ExpectedRevision::Any),
        Some(Value::String(word)) => match word.as_str() {
            "any" => return Ok(ExpectedRevision::Any),
            "no_stream" => return Ok(ExpectedRevision::NoStream),
            "exists" => return Ok(ExpectedRevision::Exists),
            _ => {}
        },
        Some(Value::Number(number)) => {
            if let Some(number) = number.as_u64() {
                return Ok(ExpectedRevision::Exact(Revision::new(number)));
            }
        }
        Some(_) => {}
    }
    Err("expected: use \"any\", \"no_stream\", \"exists\" or the revision as a number".to_owned())
}

/// Headers as an object, or as pairs where a name stands more than once; in order.
struct HeadersJson(Vec<(String, String)>);

impl<'de> Deserialize<'de> for HeadersJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = HeadersJson;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers: an object of texts, or a list of pairs of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeadersJson, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = map.next_entry()? {
                    headers.push(header);
                }
                Ok(HeadersJson(headers))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<HeadersJson, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = seq.next_element()? {
                    headers.push(header);
                }
                Ok(HeadersJson(headers))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: &str) -> String {
        parse(line.as_bytes()).unwrap_err()
    }

    #[test]
    fn no_bytes_make_reading_panic_and_each_line_is_an_event_or_bad() {
        let corpus = tempfile::tempdir().unwrap();
        let lines = concat!(
            r#"{"stream":"a-1","type":"t","data":{"n":1.50,"s":"\u00e9"},"tags":["x","y"]}"#,
            "\n\n",
            r#"{"stream":"a-1","type":"t","data_base64":"AP8K","codec":"raw","expected":3,"#,
            r#""id":"00000000-0000-7000-8000-000000000001","metadata":{"key":"k","schema_version":7,"#,
            r#""event_time":"2024-05-01T12:00:00.5Z","headers":{"a":"b"}}}"#,
            "\n",
            r#"{"stream":"a-1","type":"t","data":null,"position":4,"revision":2,"slot":9,"#,
            r#""commit_time":"2024-05-01T12:00:00Z","headers":[["a","b"],["a","c"]]}"#,
        );
        std::fs::write(corpus.path().join("lines"), lines).unwrap();
        let run = headwater_testkit::mutation::run(corpus.path(), |bytes| {
            let mut met = 0;
            read_lines(bytes, |parcel| {
                for line in parcel {
                    met += 1;
                    if let Content::Event(prepared) = line.content {
                        prepared.append.check().unwrap();
                    }
                }
                true
            });
            let is_blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);
            let written = bytes.split(|&byte| byte == b'\n').filter(|line| !is_blank(line));
            assert_eq!(met, written.count());
        });
        assert!(run.mutations > 20, "{} mutations", run.mutations);
    }

    #[test]
    fn the_smallest_event_has_a_fresh_id_and_expects_nothing() {
        let line = br#"{"stream":"a-1","type":"t","data":{ "n": 1.50 }}"#;
        let prepared = parse(line).unwrap();
        assert_eq!(&prepared.append.events[0].payload[..], br#"{"n":1.50}"#);
        assert_eq!(prepared.append.append_id, None);
        assert!(!prepared.is_conditional && prepared.append.condition.is_none());
    }

    #[test]
    fn every_field_arrives() {
        let line = r#"{"stream":"a-1","type":"t","data":null,
            "id":"0190163d-8694-739b-aea5-966c26f8ad91","tags":["x","y"],"expected":7,
            "metadata":{"correlation_id":"0190163d-8694-739b-aea5-966c26f8ad92",
            "causation_id":"0190163d-8694-739b-aea5-966c26f8ad93",
            "event_time":"2026-01-31T12:00:00.5+01:00","key":"k","schema_version":3,
            "headers":{"z":"1","a":"2"}}}"#;
        let prepared = parse(line.as_bytes()).unwrap();
        let event = &prepared.append.events[0];
        assert_eq!(event.id.to_string(), "0190163d-8694-739b-aea5-966c26f8ad91");
        assert_eq!(prepared.append.append_id, Some(AppendId::from_name(event.id.as_bytes())));
        assert_eq!(&event.payload[..], b"null");
        assert_eq!(event.tags.len(), 2);
        assert!(event.correlation_id.is_some() && event.causation_id.is_some());
        assert_eq!(event.event_time.as_nanos(), 1_769_857_200_500_000_000);
        assert_eq!(event.ordering_key(), "k");
        assert_eq!(event.schema_version.get(), 3);
        assert_eq!(event.headers.iter().collect::<Vec<_>>(), [("z", "1"), ("a", "2")]);
        assert!(prepared.is_conditional);
    }

    #[test]
    fn each_fault_names_its_field_and_a_remedy() {
        for (line, words) in [
            ("{", "not JSON: EOF while parsing an object at column 1; write each"),
            ("[1]", "not an event"),
            (r#"{"stream":"a-1","type":"t"}"#, "missing field `data`; give it"),
            (r#"{"type":"t","data":1}"#, "missing field `stream`"),
            (r#"{"stream":"a-1","type":"t","data":1,"tag":[]}"#, "unknown field `tag`"),
            (r#"{"stream":"a","type":"t","data":1}"#, "stream: stream id \"a\" has no hyphen"),
            (r#"{"stream":"a-1","type":"t t","data":1}"#, "type: event type \"t t\" has"),
            (r#"{"stream":"a-1","type":"t","data":1,"tags":[""]}"#, "tags: tag \"\" is empty"),
            (r#"{"stream":"a-1","type":"t","data":1,"id":"7"}"#, "id: \"7\" is not a UUID"),
            (r#"{"stream":"a-1","type":"t","data":1,"expected":-1}"#, "expected: use"),
            (r#"{"stream":"a-1","type":"t","data":1,"expected":"some"}"#, "expected: use"),
            (r#"{"stream":"a-1","type":"t","data":1,"event_time":"now"}"#, "RFC 3339"),
            (r#"{"stream":"a-1","type":"t","data":1,"data_base64":""}"#, "both given"),
            (r#"{"stream":"a-1","type":"t","data_base64":"?"}"#, "not base64"),
            (r#"{"stream":"a-1","type":"t","data":1,"codec":"raw"}"#, "codec: data is JSON"),
            (
                r#"{"stream":"a-1","type":"t","data":1,"key":"k","metadata":{"key":"k"}}"#,
                "key is given twice",
            ),
        ] {
            assert!(fault(line).contains(words), "{line}: {}", fault(line));
        }
        assert!(parse(b"\xff").unwrap_err().contains("not UTF-8"));
    }

    #[test]
    fn lines_keep_their_numbers_and_blank_ones_count() {
        let mut seen = Vec::new();
        let text = "\n{\"stream\":\"a-1\",\"type\":\"t\",\"data\":1}\n \r\nx";
        read_lines(text.as_bytes(), |parcel| {
            seen.extend(
                parcel
                    .into_iter()
                    .map(|line| (line.number, matches!(line.content, Content::Event(_)))),
            );
            true
        });
        assert_eq!(seen, [(2, true), (4, false)]);
    }
}
