//! Decodes the events of a store by `docs/format.md` alone, and checks all that it says of them.
//!
//! [`walk`] reads what lies around the records; here are the records.

use std::collections::HashMap;
use std::path::Path;

use headwater_core::{
    AppendId, CodecId, CorrelationId, EventId, EventType, Headers, Key, Position, RecordedEvent,
    Revision, SchemaVersion, Slot, StreamId, Tag, Timestamp,
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::fields::{Check, DecodeStoreError, Fields, crc, ensure};
use crate::log::{Frame, walk};

/// An event, and what its record says beyond it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedEvent {
    /// The event as readers of the store see it.
    pub event: RecordedEvent,
    /// The id of its append, in the first event of an append that has one.
    pub append_id: Option<AppendId>,
    /// Whether it is the last event of its append.
    pub ends_append: bool,
}

/// Decodes all events of the store in `dir`, in the order of their positions.
///
/// # Errors
///
/// [`DecodeStoreError`] for whatever `docs/format.md` does not allow, and for a log that a crash
/// left torn: nothing is repaired here, and nothing before the fault is returned.
pub fn decode_store(dir: &Path) -> Result<Vec<DecodedEvent>, DecodeStoreError> {
    let mut records = Records::default();
    walk(dir, 0, &mut |frame, body| records.frame(frame, body))?;
    Ok(records.events)
}

/// The records up to some place, and what those to come must agree with.
#[derive(Default)]
struct Records {
    events: Vec<DecodedEvent>,
    /// Revision and position of the newest event of each stream.
    streams: HashMap<StreamId, (u64, u64)>,
    /// The digest of the append being read and what it should be in the end.
    digest: Option<(Xxh3, Option<u64>)>,
}

impl Records {
    fn frame(&mut self, frame: &Frame, body: &mut Fields<'_>) -> Check<()> {
        for position in (frame.position..).take(frame.records as usize) {
            let [length] = Fields(body.0).u32s()?;
            self.record(frame, position, Fields(body.take(length)?))?;
        }
        ensure(self.digest.is_none(), "an append ends with its frame")
    }

    fn record(&mut self, frame: &Frame, position: u64, mut fields: Fields<'_>) -> Check<()> {
        let [_length, sum] = fields.u32s()?;
        ensure(crc(&[&frame.salt, fields.0]) == sum, "CRC of a record")?;
        let ([revision, before], id) = (fields.u64s()?, fields.get(EventId::from_bytes)?);
        let event_time = fields.get(i64::from_le_bytes)?;
        let [entries, schema, slot] = fields.u16s()?;
        let [codec, flags, type_length, stream_length] = fields.get(|bytes: [u8; 4]| bytes)?;
        let (stream, event_type) = (fields.text(stream_length)?, fields.text(type_length)?);
        let (entries, payload) = (Fields(fields.take(entries)?), fields.0);
        let mut decoded = DecodedEvent {
            event: RecordedEvent {
                position: Position::new(position),
                stream: StreamId::new(stream).map_err(|_| "name of a stream")?,
                revision: Revision::new(revision),
                id,
                event_type: EventType::new(event_type).map_err(|_| "name of an event type")?,
                schema_version: SchemaVersion::new(schema),
                commit_time: Timestamp::from_nanos(frame.commit_time),
                event_time: Timestamp::from_nanos(event_time),
                correlation_id: None,
                causation_id: None,
                tags: Vec::new(),
                key: None,
                slot: Slot::new(slot).ok_or("slot of a record")?,
                headers: Headers::new(),
                codec: CodecId::new(codec),
                payload: payload.to_vec().into(),
            },
            append_id: None,
            ends_append: flags & 2 != 0,
        };
        let expected = metadata(entries, &mut decoded)?;
        let event = &decoded.event;
        let hash = xxh3_64(event.ordering_key().as_bytes());
        ensure(hash % 1024 == u64::from(slot), "slot of a key")?;
        ensure(flags & !3 == 0, "unknown flag of a record")?;
        ensure((flags & 1 != 0) == self.digest.is_none(), "an append begins where one ended")?;
        ensure(flags & 1 != 0 || expected.is_none(), "an append id stands in the first record")?;
        let (digest, _) = self.digest.get_or_insert_with(|| (Xxh3::new(), expected));
        let parts: [&[u8]; 5] =
            [stream.as_bytes(), event_type.as_bytes(), &schema.to_le_bytes(), &[codec], payload];
        for part in parts {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        if let Some((digest, expected)) = self.digest.take_if(|_| decoded.ends_append) {
            ensure(expected.is_none_or(|e| e == digest.digest()), "digest of an append")?;
        }
        let base = self.events.first().map_or(position, |first| first.event.position.get());
        let link = self.streams.insert(event.stream.clone(), (revision, position));
        let removed = (revision > 1) == (before > 0) && before < base;
        let follows = |(r, p): (u64, u64)| r.checked_add(1) == Some(revision) && p == before;
        ensure(revision > 0 && link.map_or(removed, follows), "link to the event before")?;
        self.events.push(decoded);
        Ok(())
    }
}

/// Reads the metadata into the event, and returns the digest that stands beside an append id.
fn metadata(mut entries: Fields<'_>, decoded: &mut DecodedEvent) -> Check<Option<u64>> {
    let (event, mut digest) = (&mut decoded.event, None);
    while !entries.0.is_empty() {
        let ([kind], [length]) = (entries.get(|kind: [u8; 1]| kind)?, entries.u16s()?);
        let mut value = Fields(entries.take(length)?);
        let wrong = match kind {
            1 => event.correlation_id.replace(value.get(CorrelationId::from_bytes)?).is_some(),
            2 => event.causation_id.replace(value.get(EventId::from_bytes)?).is_some(),
            3 => {
                decoded.append_id = Some(value.get(AppendId::from_bytes)?);
                digest.replace(value.get(u64::from_le_bytes)?).is_some()
            }
            4 => {
                event.tags.push(Tag::new(value.text(length)?).map_err(|_| "name of a tag")?);
                false
            }
            5 => {
                let key = Key::new(value.text(length)?).map_err(|_| "name of a key")?;
                event.key.replace(key).is_some()
            }
            6 => {
                let [name_length] = value.get(|length: [u8; 1]| length)?;
                let (name, text) = (value.text(name_length)?, value.text(value.0.len())?);
                event.headers.insert(name, text).is_err()
            }
            _ => return Err("unknown kind of metadata"),
        };
        ensure(!wrong && value.0.is_empty(), "an entry of the metadata")?;
    }
    ensure(event.tags.is_sorted_by(|a, b| a.as_str() < b.as_str()), "order of tags")?;
    Ok(digest)
}
