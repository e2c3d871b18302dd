//! Events on their way out: a line of JSON, or a line for people.

use std::fmt::Write as _;
use std::io::Write;

use headwater::{
    CodecId, CorrelationId, EventId, EventType, Headers, Key, Position, RecordedEvent, Revision,
    SchemaVersion, Slot, StreamId, Tag,
};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::exit::Failure;
use crate::output::{self, size, tame};
use crate::{base64, json};

/// Most characters of a payload on a line for people.
const PAYLOAD_CHARS_MAX: usize = 160;
/// Most bytes of a payload that is not JSON on a line for people.
const PAYLOAD_HEX_BYTES_MAX: usize = 24;
/// Columns grow up to here and are ragged beyond.
const COLUMN_CHARS_MAX: usize = 40;

/// Writes events one per line, in the form asked for.
#[derive(Debug)]
pub(crate) enum Printer {
    /// One JSON object per line.
    Json,
    /// Columns as wide as the widest cell so far.
    Human { position: usize, stream: usize, event_type: usize },
}

impl Printer {
    /// Makes a printer for events up to `head`.
    pub(crate) fn new(json: bool, head: Position) -> Self {
        if json {
            return Self::Json;
        }
        Self::Human { position: head.to_string().len(), stream: 0, event_type: 0 }
    }

    /// Writes a page of events.
    pub(crate) fn page(
        &mut self,
        out: &mut impl Write,
        events: &[RecordedEvent],
    ) -> Result<(), Failure> {
        match self {
            Self::Json => {
                for event in events {
                    out.write_all(line(event)?.as_bytes())?;
                    out.write_all(b"\n")?;
                }
            }
            Self::Human { position, stream, event_type } => {
                for event in events {
                    let widen = |column: &mut usize, chars: usize| {
                        *column = (*column).max(chars.min(COLUMN_CHARS_MAX));
                    };
                    widen(position, event.position.to_string().len());
                    widen(stream, place(event).chars().count());
                    widen(event_type, event.event_type.as_str().chars().count());
                }
                for event in events {
                    write!(out, "{:>position$}  ", event.position.get())?;
                    write!(out, "{}  ", output::time_short(event.commit_time))?;
                    write!(out, "{:<stream$}  ", tame(&place(event), usize::MAX))?;
                    let name = tame(event.event_type.as_str(), usize::MAX);
                    write!(out, "{name:<event_type$}  {}", payload(event))?;
                    for tag in &event.tags {
                        write!(out, "  #{}", tame(tag.as_str(), usize::MAX))?;
                    }
                    writeln!(out)?;
                }
            }
        }
        Ok(())
    }
}

/// Returns stream and revision, as in `order-17@3`.
fn place(event: &RecordedEvent) -> String {
    format!("{}@{}", event.stream, event.revision)
}

/// Returns a payload for people: JSON as it is, or the codec and the first bytes.
fn payload(event: &RecordedEvent) -> String {
    let bytes = &event.payload;
    if event.codec == CodecId::JSON
        && let Ok(text) = json::compact(bytes)
    {
        let cut = if text.chars().nth(PAYLOAD_CHARS_MAX).is_some() {
            format!(" ({})", size(bytes.len() as u64))
        } else {
            String::new()
        };
        return tame(&text, PAYLOAD_CHARS_MAX) + &cut;
    }
    let mut text = format!("<{} {}>", event.codec, size(bytes.len() as u64));
    for byte in bytes.iter().take(PAYLOAD_HEX_BYTES_MAX) {
        // Writing to a string cannot fail.
        let _ = write!(text, " {byte:02x}");
    }
    if bytes.len() > PAYLOAD_HEX_BYTES_MAX {
        text.push_str(" …");
    }
    text
}

/// An event as JSON, but for the payload. `headwater append` takes all of these fields.
#[derive(serde::Serialize)]
struct Line<'a> {
    position: Position,
    stream: &'a StreamId,
    revision: Revision,
    id: EventId,
    #[serde(rename = "type")]
    event_type: &'a EventType,
    schema_version: SchemaVersion,
    commit_time: String,
    event_time: String,
    correlation_id: Option<CorrelationId>,
    causation_id: Option<EventId>,
    tags: &'a [Tag],
    key: Option<&'a Key>,
    slot: Slot,
    headers: HeadersJson<'a>,
    codec: CodecJson,
}

/// Returns an event as one line of JSON.
fn line(event: &RecordedEvent) -> Result<String, Failure> {
    let line = Line {
        position: event.position,
        stream: &event.stream,
        revision: event.revision,
        id: event.id,
        event_type: &event.event_type,
        schema_version: event.schema_version,
        commit_time: output::time(event.commit_time),
        event_time: output::time(event.event_time),
        correlation_id: event.correlation_id,
        causation_id: event.causation_id,
        tags: &event.tags,
        key: event.key.as_ref(),
        slot: event.slot,
        headers: HeadersJson(&event.headers),
        codec: CodecJson(event.codec),
    };
    let mut text = serde_json::to_string(&line).map_err(std::io::Error::from)?;
    let data = match event.codec {
        CodecId::JSON => json::compact(&event.payload).ok(),
        _ => None,
    };
    // The payload's own text goes in, so that no number is rounded on the way.
    text.pop();
    let (name, data) = match data {
        Some(data) => ("data", data),
        None => ("data_base64", format!("\"{}\"", base64::encode(&event.payload))),
    };
    Ok(format!("{text},\"{name}\":{data}}}"))
}

/// An object, or pairs where a name stands more than once.
pub(crate) struct HeadersJson<'a>(pub(crate) &'a Headers);

impl Serialize for HeadersJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return self.0.serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The name of a codec, or the number of one that has none.
struct CodecJson(CodecId);

impl Serialize for CodecJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            CodecId::RAW | CodecId::JSON | CodecId::BINCODE => serializer.collect_str(&self.0),
            other => serializer.serialize_u8(other.get()),
        }
    }
}
