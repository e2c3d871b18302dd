//! Lines on their way in: read, digested, and joined to the appends that they were.

use std::borrow::Cow;
use std::fmt;
use std::io::{BufRead, BufReader, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use headwater_core::{
    Append, AppendId, CloudEvent, CodecId, GroupState, Headers, Key, LogId, NewEvent, Position,
    Revision, SchemaVersion, StreamId, Tag, Timestamp, limits,
};
use jiff::fmt::temporal::DateTimeParser;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::Xxh3;

use super::notes::{EndNote, GroupNote, LogNote, TailNote};
use super::{ImportError, JSON, NOTE, STEP_BYTES, VERSION};
use crate::format::tails::StreamTail;
use crate::ledger::Removal;
use crate::writer::{Committed, Standing};

/// Longest line, in bytes: the largest payload in base64, with room for the rest of the event, or
/// the largest progress of a group.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the lines hold, in this order.
#[derive(Debug)]
pub(super) enum Parcel {
    /// What stands before the events.
    Log(Box<LogLines>),
    /// Some events, and how many bytes of lines there were up to the last of them.
    Appends(Vec<(u64, Committed)>, u64),
    /// What stands behind the events. The digest was right.
    End(Box<EndLines>),
    /// Why there is no more.
    Fault(ImportError),
}

/// The lines before the events.
#[derive(Debug)]
pub(super) struct LogLines {
    pub(super) id: LogId,
    pub(super) created: Timestamp,
    pub(super) log: LogNote,
    pub(super) tails: Vec<StreamTail>,
    pub(super) ledger: Vec<Removal>,
}

/// The lines behind the events.
#[derive(Debug)]
pub(super) struct EndLines {
    pub(super) groups: Vec<GroupState>,
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

/// Reads everything and hands it over, until `deliver` returns false.
pub(super) fn read(input: impl Read, segment_bytes: u64, mut deliver: impl FnMut(Parcel) -> bool) {
    let mut lines = Lines {
        input: BufReader::with_capacity(STEP_BYTES, input),
        text: Vec::new(),
        count: 0,
        bytes: 0,
        hash: Xxh3::new(),
    };
    if let Err(error) = read_all(&mut lines, segment_bytes, &mut deliver) {
        deliver(Parcel::Fault(error));
    }
}

fn read_all(
    lines: &mut Lines<impl Read>,
    segment_bytes: u64,
    deliver: &mut impl FnMut(Parcel) -> bool,
) -> Result<(), ImportError> {
    let head = read_log(lines)?;
    let (id, log) = (head.id, head.log);
    let source = CloudEvent::source_of(id);
    if !deliver(Parcel::Log(Box::new(head))) {
        return Ok(());
    }
    let mut appends = Appends::new(segment_bytes);
    let mut reached = lines.bytes;
    for _ in 0..log.head.events_since(log.start).unwrap_or(0) {
        let taken = lines.advance().and_then(|()| appends.take(&lines.line(&source)?));
        // What comes before a fault may have one too, which is the one to tell.
        if taken.is_err() || lines.bytes - reached >= STEP_BYTES as u64 {
            reached = lines.bytes;
            if !deliver(Parcel::Appends(std::mem::take(&mut appends.done), reached)) {
                return Ok(());
            }
        }
        taken?;
    }
    let finished = appends.finish(lines.count);
    if !deliver(Parcel::Appends(appends.done, lines.bytes)) {
        return Ok(());
    }
    finished?;
    let mut groups: Vec<GroupState> = Vec::new();
    for _ in 0..log.groups {
        lines.advance()?;
        let note: GroupNote = lines.line(&source)?.note("group")?;
        let follows = groups.last().is_none_or(|last| last.definition.name < note.name);
        let state = if follows { note.state(&log) } else { Err("groups are not in order") };
        groups.push(state.map_err(|detail| lines.fault(format!("{detail}; {AGAIN}")))?);
    }
    lines.advance()?;
    let end: EndNote = lines.line(&source)?.note("end")?;
    let found = format!("{:032x}", lines.hash.digest128());
    if found != end.xxh3 {
        return Err(ImportError::Digest { found, expected: end.xxh3 });
    }
    if (Some(end.events), end.lines) != (log.head.events_since(log.start), lines.count - 1) {
        return Err(lines.fault(format!("it counts other events or lines; {AGAIN}")));
    }
    let (count, bytes) = (lines.count, lines.bytes);
    if lines.is_over()? {
        deliver(Parcel::End(Box::new(EndLines { groups, lines: count, bytes })));
        return Ok(());
    }
    let detail = "something follows the last line; give each export its own file".to_owned();
    Err(ImportError::Line { line: count + 1, detail })
}

/// Reads what stands before the events.
fn read_log(lines: &mut Lines<impl Read>) -> Result<LogLines, ImportError> {
    if lines.is_over()? {
        return Err(ImportError::CutOff { lines: 0 });
    }
    lines.advance()?;
    let line = lines.first_line()?;
    // The version first: of another one nothing else need make sense.
    let version = line.note::<VersionNote>("log")?.version;
    if version > VERSION {
        return Err(ImportError::Version { found: version, known: VERSION });
    }
    let log: LogNote = line.note("log")?;
    let id = line.json.source.0.strip_prefix("urn:uuid:").and_then(|id| id.parse::<LogId>().ok());
    let id = id.ok_or_else(|| line.fault("source is not urn:uuid: and the id of a log"))?;
    let created = line.time("time", line.json.time.as_ref())?;
    if log.head < log.start || log.head.get() > i64::MAX.unsigned_abs() {
        return Err(line.fault("the log ends before it starts"));
    }
    if log.offsets.get() > i64::MAX.unsigned_abs() {
        return Err(line.fault("the log of the groups ends beyond the last position that there is"));
    }
    if log.offsets <= Position::new(log.groups) {
        return Err(line.fault("there are more groups than their log has entries"));
    }
    if log.start == Position::START && log.tails + log.removals > 0 {
        return Err(line.fault("nothing was removed, and yet there are lines about it"));
    }
    let source = CloudEvent::source_of(id);
    let mut tails: Vec<StreamTail> = Vec::new();
    for _ in 0..log.tails {
        lines.advance()?;
        let line = lines.line(&source)?;
        let tail = StreamTail::from(line.note::<TailNote>("tail")?);
        let known = (Position::FIRST..=log.start).contains(&tail.position);
        if !known || tails.last().is_some_and(|last| last.stream >= tail.stream) {
            return Err(line.fault("the ends of removed streams are not in order"));
        }
        tails.push(tail);
    }
    let mut ledger = Vec::new();
    for _ in 0..log.removals {
        lines.advance()?;
        ledger.push(lines.line(&source)?.note("removal")?);
    }
    Ok(LogLines { id, created, log, tails, ledger })
}

/// The one member of the first line that every version has.
#[derive(Deserialize)]
struct VersionNote {
    version: u32,
}

/// What to do about a line that no export wrote.
const AGAIN: &str = "export the log again";

/// The input, line by line.
struct Lines<R> {
    input: BufReader<R>,
    /// The line that was read last, with its end.
    text: Vec<u8>,
    count: u64,
    bytes: u64,
    /// Of all lines before that one.
    hash: Xxh3,
}

impl<R: Read> Lines<R> {
    fn advance(&mut self) -> Result<(), ImportError> {
        self.hash.update(&self.text);
        self.text.clear();
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut self.text).map_err(ImportError::Input)?;
        if self.text.last() == Some(&b'\n') {
            self.count += 1;
            self.bytes += read as u64;
            return Ok(());
        }
        if read as u64 == LINE_BYTES_MAX {
            let line = self.count + 1;
            let detail = format!("it is longer than {LINE_BYTES_MAX} bytes; {AGAIN}");
            return Err(ImportError::Line { line, detail });
        }
        Err(ImportError::CutOff { lines: self.count })
    }

    fn is_over(&mut self) -> Result<bool, ImportError> {
        Ok(self.input.fill_buf().map_err(ImportError::Input)?.is_empty())
    }

    fn fault(&self, detail: String) -> ImportError {
        ImportError::Line { line: self.count, detail }
    }

    fn first_line(&self) -> Result<Line<'_>, ImportError> {
        let text = std::str::from_utf8(&self.text).map_err(|error| {
            self.fault(format!("not UTF-8 from byte {} on; {AGAIN}", error.valid_up_to()))
        })?;
        let json = serde_json::from_str(text).map_err(|error| self.fault(describe(&error)))?;
        let line = Line { number: self.count, json };
        if line.json.specversion.0 != "1.0" {
            return Err(line.fault("specversion is not 1.0"));
        }
        Ok(line)
    }

    /// Parses the line that was read last, of the log with this source.
    fn line(&self, source: &str) -> Result<Line<'_>, ImportError> {
        let line = self.first_line()?;
        if line.json.source.0 != source {
            return Err(line.fault("source is not that of the first line"));
        }
        Ok(line)
    }
}

fn describe(error: &serde_json::Error) -> String {
    // It counts lines too, and always says 1.
    let message = error.to_string();
    let message = message.replace(&format!(" at line {} column ", error.line()), " at column ");
    if error.is_data() {
        format!("not a line of an export: {message}; {AGAIN}")
    } else {
        format!("not JSON: {message}; give what `headwater export` wrote, uncompressed")
    }
}

/// A text that is copied only where it has escapes.
#[derive(Debug)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;

        impl<'de> Visitor<'de> for Borrowed {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }

        deserializer.deserialize_str(Borrowed).map(Self)
    }
}

/// Tells `"data": null` from no `data`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A line as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineJson<'a> {
    #[serde(borrow)]
    specversion: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    source: Text<'a>,
    #[serde(rename = "type", borrow)]
    event_type: Text<'a>,
    #[serde(borrow)]
    subject: Option<Text<'a>>,
    #[serde(borrow)]
    time: Option<Text<'a>>,
    #[serde(borrow)]
    position: Option<Text<'a>>,
    #[serde(borrow)]
    revision: Option<Text<'a>>,
    #[serde(borrow)]
    previous: Option<Text<'a>>,
    #[serde(borrow)]
    committime: Option<Text<'a>>,
    schemaversion: Option<u16>,
    codec: Option<u8>,
    #[serde(borrow)]
    batch: Option<Text<'a>>,
    #[serde(borrow)]
    appendid: Option<Text<'a>>,
    #[serde(borrow)]
    correlationid: Option<Text<'a>>,
    #[serde(borrow)]
    causationid: Option<Text<'a>>,
    #[serde(borrow)]
    tags: Option<Text<'a>>,
    #[serde(borrow)]
    partitionkey: Option<Text<'a>>,
    #[serde(borrow)]
    headers: Option<Text<'a>>,
    #[serde(borrow)]
    headwater: Option<Text<'a>>,
    #[serde(rename = "datacontenttype", borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    data_base64: Option<Text<'a>>,
}

/// A line and its number.
struct Line<'a> {
    number: u64,
    json: LineJson<'a>,
}

impl Line<'_> {
    fn fault(&self, detail: impl fmt::Display) -> ImportError {
        ImportError::Line { line: self.number, detail: format!("{detail}; {AGAIN}") }
    }

    /// Takes the data of a line that is no event.
    fn note<D: DeserializeOwned>(&self, kind: &'static str) -> Result<D, ImportError> {
        let found = self.json.headwater.as_ref().map_or("event", |found| &*found.0);
        if found != kind {
            let a = if found == "event" { "an event" } else { "another line" };
            return Err(
                self.fault(format!("{a} stands where a line with \"headwater\":\"{kind}\" is due"))
            );
        }
        let named = self.json.event_type.0.strip_prefix(NOTE).and_then(|t| t.strip_prefix('.'));
        let json = self.json.content.as_ref().is_none_or(|content| content.0 == JSON);
        if named != Some(kind) || !json || !self.json.id.0.starts_with(kind) {
            return Err(self.fault("its id, type or datacontenttype is not that of such a line"));
        }
        let data = self.json.data.ok_or_else(|| self.fault("it has no data"))?;
        serde_json::from_str(data.get()).map_err(|error| self.fault(format!("data: {error}")))
    }

    /// Takes an attribute that every event has.
    fn needed<'t, T>(&self, name: &str, value: Option<&'t T>) -> Result<&'t T, ImportError> {
        value.ok_or_else(|| self.fault(format!("an event has the attribute {name}")))
    }

    fn named<T, E: fmt::Display>(&self, name: &str, value: Result<T, E>) -> Result<T, ImportError> {
        value.map_err(|error| self.fault(format!("{name}: {error}")))
    }

    fn number(&self, name: &str, value: Option<&Text<'_>>) -> Result<u64, ImportError> {
        self.named(name, self.needed(name, value)?.0.parse())
    }

    fn time(&self, name: &str, value: Option<&Text<'_>>) -> Result<Timestamp, ImportError> {
        let text = &self.needed(name, value)?.0;
        let time = self.named(name, DateTimeParser::new().parse_timestamp(&**text))?;
        let nanos = self.named(name, i64::try_from(time.as_nanosecond()))?;
        Ok(Timestamp::from_nanos(nanos))
    }

    fn place(&self) -> Result<Standing, ImportError> {
        let json = &self.json;
        let previous = match &json.previous {
            Some(_) => Some(Position::new(self.number("previous", json.previous.as_ref())?)),
            None => None,
        };
        Ok(Standing {
            position: Position::new(self.number("position", json.position.as_ref())?),
            revision: Revision::new(self.number("revision", json.revision.as_ref())?),
            removed: previous,
        })
    }

    fn payload(&self) -> Result<(CodecId, Bytes), ImportError> {
        let codec = CodecId::new(*self.needed("codec", self.json.codec.as_ref())?);
        match (self.json.data, &self.json.data_base64) {
            (Some(_), None) if codec != CodecId::JSON => {
                Err(self.fault("data is JSON, and the codec is not 1"))
            }
            (Some(data), None) => Ok((codec, Bytes::copy_from_slice(data.get().as_bytes()))),
            (None, Some(text)) => {
                let bytes = self.named("data_base64", STANDARD.decode(text.0.as_bytes()))?;
                Ok((codec, bytes.into()))
            }
            _ => Err(self.fault("an event has either data or data_base64")),
        }
    }

    fn event(&self) -> Result<NewEvent, ImportError> {
        let json = &self.json;
        if json.headwater.is_some() {
            return Err(self.fault("another line stands where an event is due"));
        }
        let optional = |name, text: &Option<Text<'_>>| match text {
            Some(text) => self.named(name, uuid::Uuid::try_parse(&text.0)).map(Some),
            None => Ok(None),
        };
        let correlation = optional("correlationid", &json.correlationid)?;
        let causation = optional("causationid", &json.causationid)?;
        let subject = self.needed("subject", json.subject.as_ref())?;
        let schema_version = *self.needed("schemaversion", json.schemaversion.as_ref())?;
        let tags = json.tags.iter().flat_map(|tags| tags.0.split(' ')).map(Tag::new);
        let key = json.partitionkey.as_ref().map(|key| Key::new(&key.0)).transpose();
        let headers = match &json.headers {
            Some(text) => self.named("headers", serde_json::from_str::<Headers>(&text.0))?,
            None => Headers::new(),
        };
        let (codec, payload) = self.payload()?;
        Ok(NewEvent {
            id: self.named("id", json.id.0.parse())?,
            stream: self.named("subject", StreamId::new(&subject.0))?,
            event_type: self.named("type", headwater_core::EventType::new(&json.event_type.0))?,
            schema_version: SchemaVersion::new(schema_version),
            event_time: self.time("time", json.time.as_ref())?,
            correlation_id: correlation.map(headwater_core::CorrelationId::from_uuid),
            causation_id: causation.map(headwater_core::EventId::from_uuid),
            tags: self.named("tags", tags.collect::<Result<_, _>>())?,
            key: self.named("partitionkey", key)?,
            headers,
            codec,
            payload,
        })
    }
}

/// Events that are joined to appends.
struct Appends {
    segment_bytes: u64,
    done: Vec<(u64, Committed)>,
    open: Option<Open>,
}

/// An append whose last event has not come yet.
struct Open {
    line: u64,
    append: Append,
    time: Timestamp,
    places: Vec<Standing>,
    bytes: usize,
}

impl Appends {
    fn new(segment_bytes: u64) -> Self {
        Self { segment_bytes, done: Vec::new(), open: None }
    }

    fn take(&mut self, line: &Line<'_>) -> Result<(), ImportError> {
        let event = line.event()?;
        let place = line.place()?;
        let time = line.time("committime", line.json.committime.as_ref())?;
        let (is_first, is_last) = match line.json.batch.as_ref().map(|batch| &*batch.0) {
            None => (true, true),
            Some("first") => (true, false),
            Some("inner") => (false, false),
            Some("last") => (false, true),
            Some(_) => return Err(line.fault("batch is not first, inner or last")),
        };
        let id = line.json.appendid.as_ref().map(|id| id.0.parse::<AppendId>()).transpose();
        let id = line.named("appendid", id)?;
        if is_first != self.open.is_none() {
            return Err(line.fault("an append lacks its first or its last event"));
        }
        let open = self.open.get_or_insert_with(|| Open {
            line: line.number,
            append: Append { append_id: id, ..Append::default() },
            time,
            places: Vec::new(),
            bytes: 0,
        });
        if (time, id) != (open.time, if is_first { id } else { None }) {
            return Err(line.fault("the events of an append differ in their commit time"));
        }
        open.bytes += event.size_bytes();
        open.append.events.push(event);
        open.places.push(place);
        if open.bytes > limits::BATCH_BYTES_MAX || open.places.len() > limits::BATCH_EVENTS_MAX {
            return Err(line.fault("an append has more events or bytes than any log accepts"));
        }
        if is_last && let Some(open) = self.open.take() {
            let Open { line, append, time, places, .. } = open;
            let committed = Committed::new(append, time, places, self.segment_bytes);
            let committed = committed.map_err(|error| ImportError::Line {
                line,
                detail: format!("{error}; import it with larger segments"),
            })?;
            self.done.push((line, committed));
        }
        Ok(())
    }

    /// Makes sure that no append is incomplete; `line` is the last one.
    fn finish(&self, line: u64) -> Result<(), ImportError> {
        if self.open.is_none() {
            return Ok(());
        }
        let detail = format!("an append lacks its last event; {AGAIN}");
        Err(ImportError::Line { line, detail })
    }
}
