//! What the bytes of a store say, as far as they say anything: for people who look for the
//! trouble, and programs that help them.
//!
//! Nothing is believed because of another: each header, frame and record is shown with what is
//! wrong with it, and behind one that is wrong the next that is right is looked for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{Position, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::catalog;
use crate::error::OpenError;
use crate::format::catalog::{Catalog, LogEntry};
use crate::format::frame::{self, FrameHeader, HEADER_BYTES};
use crate::format::identity::Identity;
use crate::format::index::IndexHeader;
use crate::format::offsets::OffsetEntry;
use crate::format::record;
use crate::format::segment::{FRAMES_AT, LogKind, SegmentHeader, parse_file_name};
use crate::format::tails::Tails;
use crate::format::{BLOCK_BYTES, Seed, is_zero, u64_at};
use crate::fs::{Access, Fs, RealFs, read_file};
use crate::index::{IndexFile, Walk};
use crate::open::{Found, STORE_FILE, exists, look};
use crate::recovery::Walked;
use crate::tails;

/// How much is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// The header blocks of all files.
    #[default]
    Headers,
    /// The frames too.
    Frames,
    /// The frames and what they hold, and the entries of the other files.
    Records,
}

/// What of a store is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpOptions {
    /// How much.
    pub detail: Detail,
    /// Only this segment of the log of events, and its index file.
    pub segment: Option<u64>,
    /// Only frames that hold this position or a later one.
    pub from: Position,
    /// Only frames that hold this position or an earlier one.
    pub through: Position,
}

impl Default for DumpOptions {
    fn default() -> Self {
        let (from, through) = (Position::START, Position::MAX);
        Self { detail: Detail::Headers, segment: None, from, through }
    }
}

/// Something in a file: a header, a frame, a record, bytes that are none of these.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DumpItem {
    /// The file.
    pub file: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// What it is.
    pub kind: &'static str,
    /// What is wrong with it.
    pub fault: Option<String>,
    /// What it says, under the names of `docs/format.md`.
    pub fields: Map<String, Value>,
}

/// Shows what the files of a store hold, in order, until `show` fails.
///
/// # Errors
///
/// [`OpenError`] if there is no store and no log of one; the error of `show`. A file that cannot be read
/// is shown with the reason.
///
/// # Complexity
///
/// Linear in what is shown; frames are looked for in all of a segment.
pub fn dump<E: From<OpenError>>(
    path: impl AsRef<Path>,
    options: &DumpOptions,
    mut show: impl FnMut(&DumpItem) -> Result<(), E>,
) -> Result<(), E> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let root = path.as_ref();
    match look(fs.as_ref(), root) {
        Ok(Found::Nothing { state }) => {
            return Err(OpenError::NotFound { path: root.to_owned(), state }.into());
        }
        // What lost its identity may have its log.
        Err(error) if !exists(fs.as_ref(), &root.join(LogKind::Events.folder()))? => {
            return Err(error.into());
        }
        _ => {}
    }
    let mut dump = Dump { fs, options: *options, show: &mut show };
    if options.segment.is_none() {
        dump.small_files(root)?;
    }
    for kind in [LogKind::Events, LogKind::Offsets] {
        if options.segment.is_none() || kind == LogKind::Events {
            dump.folder(&root.join(kind.folder()), kind)?;
        }
    }
    Ok(())
}

struct Dump<'a, E> {
    fs: Arc<dyn Fs>,
    options: DumpOptions,
    show: &'a mut dyn FnMut(&DumpItem) -> Result<(), E>,
}

fn time(time: Timestamp) -> Value {
    json!(time.as_nanos())
}

fn fields(value: Value) -> Map<String, Value> {
    if let Value::Object(fields) = value { fields } else { Map::new() }
}

impl<E> Dump<'_, E> {
    fn item(
        &mut self,
        file: &Path,
        (offset, bytes): (usize, usize),
        kind: &'static str,
        found: Result<Value, String>,
    ) -> Result<(), E> {
        let (fields, fault) = match found {
            Ok(value) => (fields(value), None),
            Err(fault) => (Map::new(), Some(fault)),
        };
        let (offset, bytes) = (offset as u64, bytes as u64);
        (self.show)(&DumpItem { file: file.to_owned(), offset, bytes, kind, fault, fields })
    }

    /// Shows something that is wrong and says something all the same.
    fn faulty(
        &mut self,
        file: &Path,
        (offset, bytes): (usize, usize),
        kind: &'static str,
        (value, fault): (Value, Option<String>),
    ) -> Result<(), E> {
        let (offset, bytes) = (offset as u64, bytes as u64);
        let (file, fields) = (file.to_owned(), fields(value));
        (self.show)(&DumpItem { file, offset, bytes, kind, fault, fields })
    }

    fn small_files(&mut self, root: &Path) -> Result<(), E> {
        let path = root.join(STORE_FILE);
        let found = self.read(&path).and_then(|bytes| {
            let identity = Identity::decode(&bytes).map_err(|fault| fault.to_string())?;
            Ok(json!({"store": identity.id, "created": time(identity.created)}))
        });
        self.item(&path, (0, BLOCK_BYTES), "store", found)?;
        let path = root.join(catalog::FILE_NAME);
        let bytes = self.read(&path);
        for at in [0, BLOCK_BYTES] {
            let found = bytes.clone().and_then(|bytes| {
                let block = bytes.get(at..).unwrap_or_default();
                Catalog::decode(block).map(|block| say_catalog(&block)).map_err(|f| f.to_string())
            });
            self.item(&path, (at, BLOCK_BYTES), "catalog", found)?;
        }
        let path = root.join(tails::FILE_NAME);
        match self.fs.open(&path, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            _ => self.tails(&path),
        }
    }

    fn tails(&mut self, path: &Path) -> Result<(), E> {
        let decoded = self
            .read(path)
            .and_then(|bytes| Tails::decode(bytes).map_err(|fault| fault.to_string()));
        let found = match &decoded {
            Ok(tails) => Ok(json!({"store": tails.store, "through": tails.through})),
            Err(fault) => Err(fault.clone()),
        };
        self.item(path, (0, BLOCK_BYTES), "tails", found)?;
        if self.options.detail < Detail::Records {
            return Ok(());
        }
        for tail in decoded.iter().flat_map(Tails::iter) {
            let value = json!({
                "stream": tail.stream, "revision": tail.revision, "position": tail.position,
            });
            self.item(path, (BLOCK_BYTES, 0), "tail", Ok(value))?;
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        read_file(self.fs.as_ref(), path).map_err(|error| format!("it cannot be read: {error}"))
    }

    fn folder(&mut self, folder: &Path, kind: LogKind) -> Result<(), E> {
        let mut names: Vec<(u64, String)> = self
            .fs
            .list(folder)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|name| parse_file_name(&name).map(|(_, id)| (id, name)))
            .filter(|(id, _)| self.options.segment.is_none_or(|wanted| wanted == *id))
            .collect();
        names.sort_unstable();
        for (_, name) in names {
            self.segment(&folder.join(name), kind)?;
        }
        Ok(())
    }

    fn segment(&mut self, path: &Path, kind: LogKind) -> Result<(), E> {
        // A copy, since a writer may be at work, and the file may be of any size.
        let bytes = match self.read(path) {
            Ok(bytes) => bytes,
            Err(fault) => return self.item(path, (0, 0), "segment", Err(fault)),
        };
        let decoded = SegmentHeader::decode(&bytes);
        let found = match &decoded {
            Ok(header) => Ok(say_segment(header)),
            Err(fault) => Err(fault.to_string()),
        };
        self.item(path, (0, BLOCK_BYTES.min(bytes.len())), "segment", found)?;
        if self.options.detail > Detail::Headers && bytes.len() > BLOCK_BYTES {
            // Where the header is damaged, its salt may still be right: the frames tell.
            let salt = decoded.as_ref().map_or_else(|_| u64_at(&bytes, 56), |header| header.salt);
            self.frames(path, kind, &bytes, decoded.as_ref().ok(), &Seed::new(salt))?;
        }
        let index = path.with_extension("idx");
        match (decoded, self.fs.open(&index, Access::Read)) {
            (Ok(header), Ok(_)) => self.index(&index, &header),
            _ => Ok(()),
        }
    }

    fn frames(
        &mut self,
        path: &Path,
        kind: LogKind,
        bytes: &[u8],
        header: Option<&SegmentHeader>,
        seed: &Seed,
    ) -> Result<(), E> {
        let mut at = usize::try_from(FRAMES_AT).expect("a block");
        let mut walked = header.map(Walked::before);
        while at < bytes.len() {
            let rest = &bytes[at..];
            match frame::decode(rest, seed) {
                Ok((frame, body)) => {
                    let fault = walked.as_ref().and_then(|walked| walked.disorder(&frame));
                    self.frame(path, kind, (at, &frame, body), fault, seed)?;
                    let mut next = walked.unwrap_or(Walked::START);
                    next.advance(&frame);
                    walked = Some(next);
                    at += frame.bytes as usize;
                }
                Err(_) if is_zero(rest) => {
                    return self.item(path, (at, rest.len()), "zeros", Ok(json!({})));
                }
                Err(fault) => {
                    let header = frame::decode_header(rest, seed).ok();
                    let behind = crate::repair::survey::frames(bytes, at + 8, seed).next();
                    let next = behind.map_or(bytes.len(), |(next, _)| next);
                    let fault = Some(fault.to_string());
                    if let Some(frame) = header {
                        let end = bytes.len().min(at + frame.bytes as usize);
                        let body = &bytes[(at + HEADER_BYTES).min(end)..end];
                        self.frame(path, kind, (at, &frame, body), fault, seed)?;
                        at = if next < end { next } else { end.next_multiple_of(8) };
                    } else {
                        self.faulty(path, (at, next - at), "unknown", (json!({}), fault))?;
                        at = next;
                    }
                    // What comes next follows something that is not known.
                    walked = None;
                }
            }
        }
        Ok(())
    }

    fn frame(
        &mut self,
        path: &Path,
        kind: LogKind,
        (at, frame, body): (usize, &FrameHeader, &[u8]),
        fault: Option<String>,
        seed: &Seed,
    ) -> Result<(), E> {
        let DumpOptions { detail, from, through, .. } = self.options;
        if kind == LogKind::Events && (frame.last() < from || frame.first > through) {
            return Ok(());
        }
        let value = json!({
            "first": frame.first, "last": frame.last(), "records": frame.records,
            "frame": frame.commit_seq, "commit_time": time(frame.commit_time),
            "durable": frame.durable, "epoch": frame.epoch,
            "header_crc": format!("{:08x}", frame.header_crc),
            "body_crc": format!("{:08x}", frame.body_crc),
            "chain_word": format!("{:08x}", frame.word()),
            "previous_word": format!("{:08x}", frame.previous_word),
            "zero_sectors": frame.zero_sectors,
        });
        self.faulty(path, (at, frame.bytes as usize), "frame", (value, fault))?;
        match (detail, kind) {
            (Detail::Records, LogKind::Events) => {
                self.records(path, at + HEADER_BYTES, frame, body, seed)
            }
            (Detail::Records, LogKind::Offsets) => {
                self.entries(path, at + HEADER_BYTES, frame, body)
            }
            _ => Ok(()),
        }
    }

    fn records(
        &mut self,
        path: &Path,
        start: usize,
        frame: &FrameHeader,
        body: &[u8],
        seed: &Seed,
    ) -> Result<(), E> {
        let (mut at, mut position) = (0, frame.first);
        for _ in 0..frame.records {
            let bytes = body.get(at..).unwrap_or_default();
            let (found, fault) = match record::decode(bytes, seed) {
                Ok(record) => (Some(record), None),
                // What it says may be wrong, and its length as well.
                Err(fault) => (record::decode_verified(bytes).ok(), Some(fault.to_string())),
            };
            let (value, len) = match &found {
                Some(record) => (say_record(position, record), record.bytes.len()),
                None => (json!({"position": position}), bytes.len()),
            };
            let wanted = (self.options.from..=self.options.through).contains(&position);
            if wanted {
                self.faulty(path, (start + at, len), "record", (value, fault))?;
            }
            if found.is_none() {
                break;
            }
            (at, position) = (at + len, position.next());
        }
        Ok(())
    }

    fn entries(
        &mut self,
        path: &Path,
        start: usize,
        frame: &FrameHeader,
        body: &[u8],
    ) -> Result<(), E> {
        let mut at = 0;
        for _ in 0..frame.records {
            let rest = body.get(at..).unwrap_or_default();
            match OffsetEntry::decode(rest) {
                Ok((entry, len)) => {
                    self.item(path, (start + at, len), "entry", Ok(say_entry(&entry)))?;
                    at += len;
                }
                Err(fault) => {
                    let place = (start + at, rest.len());
                    return self.item(path, place, "entry", Err(fault.to_string()));
                }
            }
        }
        Ok(())
    }

    fn index(&mut self, path: &Path, segment: &SegmentHeader) -> Result<(), E> {
        let block = self.read(path).map(|mut bytes| {
            bytes.truncate(BLOCK_BYTES);
            bytes
        });
        let found = block.and_then(|block| {
            let header = IndexHeader::decode(&block).map_err(|fault| fault.to_string())?;
            Ok(say_index(&header))
        });
        let is_right = found.is_ok();
        self.item(path, (0, BLOCK_BYTES), "index", found)?;
        if !is_right {
            return Ok(());
        }
        let opened = IndexFile::open(self.fs.as_ref(), path, segment);
        let index = match opened.and_then(|index| {
            index.verify_pages().map_err(|fault| fault.to_string())?;
            Ok(index)
        }) {
            Ok(index) => index,
            Err(fault) => return self.item(path, (BLOCK_BYTES, 0), "sections", Err(fault)),
        };
        if self.options.detail < Detail::Records {
            return Ok(());
        }
        for entry in 0..index.header().entries {
            let mut deltas = Vec::new();
            let found = index.entry(entry).and_then(|list| {
                list.collect((0, u32::MAX), usize::MAX, Walk::Up, &mut deltas)?;
                index.term(entry)
            });
            let found = match found {
                Ok(term) => Ok(json!({"term": format!("{term:08x}"), "events": deltas})),
                Err(fault) => Err(fault.to_string()),
            };
            self.item(path, (BLOCK_BYTES, 0), "term", found)?;
        }
        Ok(())
    }
}

fn say_catalog(catalog: &Catalog) -> Value {
    let log = |entry: &LogEntry| {
        json!({
            "first_segment": entry.first_segment, "active_segment": entry.active_segment,
            "durable": entry.durable,
        })
    };
    json!({
        "store": catalog.store, "sequence": catalog.sequence, "epoch": catalog.epoch,
        "closed": catalog.clean, "events": log(&catalog.events), "offsets": log(&catalog.offsets),
    })
}

fn say_segment(header: &SegmentHeader) -> Value {
    json!({
        "size": header.capacity_bytes, "store": header.store, "log": header.kind.folder(),
        "segment": header.id, "base": header.base, "salt": format!("{:016x}", header.salt),
        "created": time(header.created), "previous_segment": header.previous_id,
        "previous_word": format!("{:08x}", header.previous_word), "epoch": header.epoch,
        "frames_before": header.frames_before,
    })
}

fn say_record(position: Position, record: &record::RecordRef<'_>) -> Value {
    let mut value = json!({
        "position": position, "stream": record.stream, "revision": record.revision(),
        "previous": record.previous(), "id": record.id(), "type": record.event_type,
        "schema_version": record.schema_version(), "event_time": time(record.event_time()),
        "slot": record.slot(), "codec": record.codec().get(),
        "first_of_append": record.is_first_of_batch(), "last_of_append": record.is_last_of_batch(),
        "metadata_bytes": record.metadata.len(), "payload_bytes": record.payload.len(),
    });
    match record.metadata() {
        Ok(metadata) => {
            if let Some(mark) = metadata.append {
                value["append_id"] = json!(mark.id);
                value["digest"] = json!(format!("{:016x}", mark.digest));
            }
            if !metadata.tags.is_empty() {
                value["tags"] = json!(metadata.tags);
            }
            if let Some(key) = metadata.key {
                value["key"] = json!(key);
            }
        }
        Err(fault) => value["metadata"] = json!(fault.to_string()),
    }
    value
}

fn say_entry(entry: &OffsetEntry) -> Value {
    match entry {
        OffsetEntry::State(state) => json!({
            "entry": "state", "group": state.definition.name, "id": state.definition.id,
            "start": state.definition.start, "generation": state.generation,
            "paused": state.paused, "shape": state.definition.shape,
            "floor": state.floor(), "runs": state.runs().count(),
        }),
        OffsetEntry::Change(group, change) => {
            json!({"entry": "change", "group": group, "change": change})
        }
        OffsetEntry::Rename(group, to) => json!({"entry": "rename", "group": group, "to": to}),
        OffsetEntry::Delete(group) => json!({"entry": "delete", "group": group}),
    }
}

fn say_index(header: &IndexHeader) -> Value {
    let covered = &header.covered;
    json!({
        "store": header.store, "segment": header.segment, "base": header.base,
        "salt": format!("{:016x}", header.salt), "events": covered.events, "end": covered.end,
        "last_frame": covered.last_frame, "chain_word": format!("{:08x}", covered.word),
        "frames": covered.frames, "epoch": covered.epoch,
        "commit_time": time(covered.commit_time), "durable": covered.durable,
        "moments": header.moments, "terms": header.entries,
        "postings_bytes": header.postings_bytes, "bucket_bits": header.bucket_bits,
    })
}
