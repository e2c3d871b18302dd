//! A log on its way out.

use std::io::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headwater_core::{CodecId, LogId, Position, ReadError, StreamId, Timestamp};
use jiff::fmt::temporal::DateTimePrinter;
use serde::Serialize;
use serde::de::IgnoredAny;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::notes::{EndNote, GroupNote, LogNote, TailNote};
use super::{ExportError, JSON, NOTE, STEP_BYTES, TransferProgress, Transferred, VERSION};
use crate::error::OpenError;
use crate::format::metadata::{self, Entry};
use crate::format::segment::LogKind;
use crate::read_only::ReadOnlyStore;
use crate::scan::EventRef;
use crate::tails;

impl ReadOnlyStore {
    /// Writes the whole log as lines of `CloudEvents`, with the progress of its groups, as it was
    /// when this was opened or [refreshed](Self::refresh): a writer may go on meanwhile.
    /// [`Store::import`](crate::Store::import) makes a store of them. `progress` is told now and then.
    ///
    /// The output needs no buffer. What is written was made durable in the log before, but for what
    /// [`backup`](crate::backup) says of a writer whose sync has failed.
    ///
    /// # Errors
    ///
    /// [`ExportError`]; what was written then lacks its last line, and no import takes it.
    ///
    /// # Complexity
    ///
    /// Linear in the size of the log, in memory that does not depend on it.
    pub fn export(
        &self,
        out: impl Write,
        mut progress: impl FnMut(&TransferProgress),
    ) -> Result<Transferred, ExportError> {
        if let Some(damage) = self.damage().or(self.groups_damage()) {
            return Err(ExportError::Damaged(damage.clone()));
        }
        // So that the power takes nothing from the log that another one has then.
        if let Some(active) = &self.log.active {
            active.file.sync().map_err(|error| ReadError::Io(Arc::new(error)))?;
        }
        let (start, head) = (self.start(), self.head());
        let mut lines = Lines::new(out, self.id());
        let tails = self.view().tails().all(start)?;
        if start > Position::START {
            let dir = self.dir();
            tails::require(dir.fs.as_ref(), &dir.root).map_err(ExportError::Damaged)?;
        }
        // The file may know of removals that came later.
        let tails = || tails.iter().filter(|tail| tail.position <= start);
        let mut ledger = self.ledger()?;
        ledger.retain(|removal| removal.through <= start);
        let log = LogNote {
            version: VERSION,
            start,
            head,
            tails: tails().count() as u64,
            removals: ledger.len() as u64,
            groups: self.groups().len() as u64,
            offsets: self.next_offset(),
        };
        for group in self.groups() {
            GroupNote::from(group).state(&log).map_err(|detail| {
                let path = self.dir().root.join(LogKind::Offsets.folder());
                let detail = format!("group {}: {detail}", group.definition.name);
                ExportError::Damaged(OpenError::File { path, detail })
            })?;
        }
        lines.note("log", "log", Some(self.created()), &log)?;
        for tail in tails() {
            let stream = StreamId::new(&tail.stream);
            let stream = stream.map_err(|error| ReadError::Engine(Arc::new(error)))?;
            let note = TailNote { stream, revision: tail.revision, position: tail.position };
            lines.note("tail", &format!("tail {}", tail.stream), None, &note)?;
        }
        for (number, removal) in (1..).zip(&ledger) {
            lines.note("removal", &format!("removal {number}"), None, removal)?;
        }
        let mut events = 0;
        let total = head.events_since(start).unwrap_or(0);
        let mut told = 0;
        let mut scan = self.scan(start)?;
        while let Some(event) = scan.next() {
            lines.event(&event?, start)?;
            events += 1;
            if lines.bytes() - told >= STEP_BYTES as u64 {
                told = lines.bytes();
                progress(&TransferProgress { events, events_total: total, bytes: told });
            }
        }
        for group in self.groups() {
            let id = format!("group {}", group.definition.name);
            lines.note("group", &id, None, &GroupNote::from(group))?;
        }
        let (lines, bytes) = lines.finish(events)?;
        progress(&TransferProgress { events, events_total: total, bytes });
        let groups = self.groups().len() as u64;
        let (log, into) = (self.id(), self.id());
        Ok(Transferred { log, into, start, head, events, groups, lines, bytes })
    }
}

/// Lines on their way out.
struct Lines<W> {
    out: W,
    buffer: Vec<u8>,
    /// Of everything before the buffer.
    hash: Xxh3,
    written: u64,
    count: u64,
    log: LogId,
    /// The member `source` of each line.
    source: String,
    event_time: LastTime,
    commit_time: LastTime,
    tags: String,
}

/// A line that is no event.
#[derive(Serialize)]
struct NoteLine<'a, D> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    headwater: &'static str,
    datacontenttype: &'static str,
    data: &'a D,
}

impl<W: Write> Lines<W> {
    fn new(out: W, log: LogId) -> Self {
        Self {
            out,
            buffer: Vec::with_capacity(2 * STEP_BYTES),
            hash: Xxh3::new(),
            written: 0,
            count: 0,
            log,
            source: format!(",\"source\":\"{}\"", source(log)),
            event_time: LastTime::default(),
            commit_time: LastTime::default(),
            tags: String::new(),
        }
    }

    /// How many bytes there are so far.
    fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn note<D: Serialize>(
        &mut self,
        kind: &'static str,
        id: &str,
        time: Option<Timestamp>,
        data: &D,
    ) -> Result<(), ExportError> {
        let line = NoteLine {
            specversion: "1.0",
            id,
            source: source(self.log),
            event_type: format!("{NOTE}.{kind}"),
            time: time.map(|time| rfc3339(time).to_string()),
            headwater: kind,
            datacontenttype: JSON,
            data,
        };
        let written = serde_json::to_writer(&mut self.buffer, &line);
        written.map_err(|error| ExportError::Write(error.into()))?;
        self.end_line()
    }

    fn event(&mut self, event: &EventRef<'_>, start: Position) -> Result<(), ExportError> {
        let record = *event.record();
        let out = &mut self.buffer;
        out.extend_from_slice(b"{\"specversion\":\"1.0\"");
        put_uuid(out, "id", event.id().as_uuid());
        out.extend_from_slice(self.source.as_bytes());
        put_text(out, "type", record.event_type);
        put_text(out, "subject", record.stream);
        self.event_time.put(out, "time", event.event_time());
        put_number(out, "position", event.position().get());
        put_number(out, "revision", event.revision().get());
        if (Position::FIRST..=start).contains(&event.previous()) {
            put_number(out, "previous", event.previous().get());
        }
        self.commit_time.put(out, "committime", event.commit_time());
        put_integer(out, "schemaversion", event.schema_version().get());
        put_integer(out, "codec", event.codec().get().into());
        match (record.is_first_of_batch(), record.is_last_of_batch()) {
            (true, true) => {}
            (true, false) => put_text(out, "batch", "first"),
            (false, false) => put_text(out, "batch", "inner"),
            (false, true) => put_text(out, "batch", "last"),
        }
        self.metadata(event, record.metadata)?;
        self.payload(event.codec(), record.payload);
        self.end_line()
    }

    fn metadata(&mut self, event: &EventRef<'_>, metadata: &[u8]) -> Result<(), ExportError> {
        let out = &mut self.buffer;
        let (tags, mut headers) = (&mut self.tags, Vec::new());
        tags.clear();
        for entry in metadata::each(metadata) {
            match entry.map_err(|fault| event.damaged(&fault))? {
                Entry::Correlation(id) => put_uuid(out, "correlationid", id.as_uuid()),
                Entry::Causation(id) => put_uuid(out, "causationid", id.as_uuid()),
                Entry::Append(mark) => put_uuid(out, "appendid", mark.id.as_uuid()),
                Entry::Tag(tag) => {
                    if !tags.is_empty() {
                        tags.push(' ');
                    }
                    tags.push_str(tag);
                }
                Entry::Key(key) => put_text(out, "partitionkey", key),
                Entry::Header(name, value) => headers.push((name, value)),
            }
        }
        if !tags.is_empty() {
            put_text(out, "tags", tags);
        }
        if !headers.is_empty() {
            let pairs = serde_json::to_string(&headers);
            put_text(out, "headers", &pairs.map_err(|error| ExportError::Write(error.into()))?);
        }
        Ok(())
    }

    fn payload(&mut self, codec: CodecId, payload: &[u8]) {
        let out = &mut self.buffer;
        let is_json = codec == CodecId::JSON;
        let content = if is_json { JSON } else { "application/octet-stream" };
        put_text(out, "datacontenttype", content);
        if is_json && is_plain_json(payload) {
            put_name(out, "data");
            out.extend_from_slice(payload);
        } else {
            put_name(out, "data_base64");
            out.push(b'"');
            let at = out.len();
            let len = base64::encoded_len(payload.len(), true).expect("payloads fit memory");
            out.resize(at + len, 0);
            let encoded = STANDARD.encode_slice(payload, &mut out[at..]);
            encoded.expect("there is room for it");
            out.push(b'"');
        }
        out.push(b'}');
    }

    fn end_line(&mut self) -> Result<(), ExportError> {
        self.buffer.push(b'\n');
        self.count += 1;
        if self.buffer.len() < STEP_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), ExportError> {
        self.hash.update(&self.buffer);
        self.out.write_all(&self.buffer).map_err(ExportError::Write)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the last line, and returns how many lines and bytes there are.
    fn finish(mut self, events: u64) -> Result<(u64, u64), ExportError> {
        self.flush()?;
        let xxh3 = format!("{:032x}", self.hash.digest128());
        let end = EndNote { events, lines: self.count, xxh3 };
        self.note("end", "end", None, &end)?;
        self.flush()?;
        self.out.flush().map_err(ExportError::Write)?;
        Ok((self.count, self.written))
    }
}

/// Returns the source of a log's events.
pub(super) fn source(log: LogId) -> String {
    format!("urn:uuid:{log}")
}

/// The last time that was written, and its text: times in a row are often the same.
#[derive(Default)]
struct LastTime(Timestamp, Vec<u8>);

impl LastTime {
    fn put(&mut self, out: &mut Vec<u8>, name: &str, time: Timestamp) {
        let Self(last, text) = self;
        if *last != time || text.is_empty() {
            *last = time;
            text.clear();
            let printed = DateTimePrinter::new().print_timestamp(&rfc3339(time), &mut *text);
            printed.expect("a vector takes everything");
        }
        put_name(out, name);
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    }
}

fn rfc3339(time: Timestamp) -> jiff::Timestamp {
    let inside = jiff::Timestamp::from_nanosecond(time.as_nanos().into());
    inside.expect("jiff's years go beyond ours, which end in 2262")
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

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn put_text(out: &mut Vec<u8>, name: &str, text: &str) {
    put_name(out, name);
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("a vector takes everything");
    }
}

fn put_uuid(out: &mut Vec<u8>, name: &str, id: &Uuid) {
    put_text(out, name, id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
}

/// Writes a number that may be too large for the integers of `CloudEvents`.
fn put_number(out: &mut Vec<u8>, name: &str, number: u64) {
    put_name(out, name);
    write!(out, "\"{number}\"").expect("a vector takes everything");
}

fn put_integer(out: &mut Vec<u8>, name: &str, number: u16) {
    put_name(out, name);
    write!(out, "{number}").expect("a vector takes everything");
}
