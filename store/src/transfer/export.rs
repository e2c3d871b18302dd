//! A log on its way out.

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use headwater_core::{CloudEvent, CloudEventJson, LogId, Position, ReadError, StreamId, Timestamp};
use serde::Serialize;
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
    /// The attribute `source` of each line.
    source: String,
    json: CloudEventJson,
    tags: String,
}

/// A line that is no event.
#[derive(Serialize)]
struct NoteLine<'a, D> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
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
            source: CloudEvent::source_of(log),
            json: CloudEventJson::default(),
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
            source: &self.source,
            event_type: format!("{NOTE}.{kind}"),
            time: time.map(|time| time.to_string()),
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
        let (mut correlation_id, mut causation_id, mut append_id) = (None, None, None);
        let (mut partition_key, mut headers) = (None, Vec::new());
        let tags = &mut self.tags;
        tags.clear();
        for entry in metadata::each(record.metadata) {
            match entry.map_err(|fault| event.damaged(&fault))? {
                Entry::Correlation(id) => correlation_id = Some(id),
                Entry::Causation(id) => causation_id = Some(id),
                Entry::Append(mark) => append_id = Some(mark.id),
                Entry::Tag(tag) => {
                    if !tags.is_empty() {
                        tags.push(' ');
                    }
                    tags.push_str(tag);
                }
                Entry::Key(key) => partition_key = Some(key),
                Entry::Header(name, value) => headers.push((name, value)),
            }
        }
        let headers = if headers.is_empty() {
            Cow::default()
        } else {
            let pairs = serde_json::to_string(&headers);
            pairs.map_err(|error| ExportError::Write(error.into()))?.into()
        };
        let removed = Position::FIRST..=start;
        let event = CloudEvent {
            id: event.id(),
            source: &self.source,
            event_type: record.event_type,
            subject: record.stream,
            time: event.event_time(),
            position: event.position(),
            revision: event.revision(),
            previous: Some(event.previous()).filter(|previous| removed.contains(previous)),
            commit_time: event.commit_time(),
            schema_version: event.schema_version(),
            codec: event.codec(),
            batch: match (record.is_first_of_batch(), record.is_last_of_batch()) {
                (true, true) => None,
                (true, false) => Some("first"),
                (false, false) => Some("inner"),
                (false, true) => Some("last"),
            },
            correlation_id,
            causation_id,
            append_id,
            partition_key,
            tags: Cow::Borrowed(tags),
            headers,
            trace_parent: None,
            trace_state: None,
            payload: record.payload,
        };
        self.json.put(&event, &mut self.buffer);
        self.end_line()
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
