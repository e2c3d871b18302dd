//! Records: one event each, one behind the other in the body of a frame.

use bytes::Bytes;
use headwater_core::{
    CodecId, CorrelationId, EventId, EventType, NewEvent, Position, RecordedEvent, Revision,
    SchemaVersion, Selectable, Slot, StreamId, Tag, Timestamp,
};

use super::metadata::{self, AppendMark, Metadata, MetadataFault};
use super::{Seed, array, i64_at, put, u16_at, u32_at, u64_at};

/// Bytes of a record header.
pub(crate) const HEADER_BYTES: usize = 58;

const CRC_AT: usize = 4;
const REVISION_AT: usize = 8;
const PREVIOUS_AT: usize = 16;

const FLAG_FIRST: u8 = 1;
const FLAG_LAST: u8 = 2;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordFault {
    #[error("only {0} bytes are left for a record")]
    Truncated(usize),
    #[error("its length {0} is impossible")]
    Length(u32),
    #[error("it has the wrong checksum")]
    Checksum,
    #[error("its flags {0:#04x} are unknown")]
    Flags(u8),
    #[error("slot {0} does not exist")]
    Slot(u16),
    #[error("its stream or type is not a name")]
    Name,
    #[error(transparent)]
    Metadata(#[from] MetadataFault),
}

/// Appends the record of an event to `out`, complete but for revision, back-link and checksum,
/// which [`finish`] fills in.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    event: &NewEvent,
    (first, last): (bool, bool),
    append: Option<AppendMark>,
) {
    let start = out.len();
    let stream = event.stream.as_str();
    let event_type = event.event_type.as_str();
    out.resize(start + HEADER_BYTES, 0);
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(event_type.as_bytes());
    let metadata_at = out.len();
    metadata::encode(out, event, &sorted(&event.tags), append);
    let metadata_len = u16::try_from(out.len() - metadata_at).expect("limits bound the metadata");
    out.extend_from_slice(&event.payload);
    let len = u32::try_from(out.len() - start).expect("limits bound an event");
    let header = &mut out[start..start + HEADER_BYTES];
    let name_len = |name: &str| [u8::try_from(name.len()).expect("limits bound the names")];
    put(header, 0, len.to_le_bytes());
    put(header, 24, *event.id.as_bytes());
    put(header, 40, event.event_time.as_nanos().to_le_bytes());
    put(header, 48, metadata_len.to_le_bytes());
    put(header, 50, event.schema_version.get().to_le_bytes());
    put(header, 52, event.slot().get().to_le_bytes());
    put(header, 54, [event.codec.get()]);
    put(header, 55, [(u8::from(first) * FLAG_FIRST) | (u8::from(last) * FLAG_LAST)]);
    put(header, 56, name_len(event_type));
    put(header, 57, name_len(stream));
}

fn sorted(tags: &[Tag]) -> Vec<&Tag> {
    let mut tags: Vec<&Tag> = tags.iter().collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// Fills in what only the writer knows of a record.
pub(crate) fn finish(record: &mut [u8], revision: Revision, previous: Position, seed: &Seed) {
    put(record, REVISION_AT, revision.get().to_le_bytes());
    put(record, PREVIOUS_AT, previous.get().to_le_bytes());
    let crc = seed.checksum(&[&record[REVISION_AT..]]);
    put(record, CRC_AT, crc.to_le_bytes());
}

/// Returns the name of the stream in a record that [`encode`] made.
pub(crate) fn stream_name(record: &[u8]) -> &[u8] {
    &record[HEADER_BYTES..HEADER_BYTES + usize::from(record[57])]
}

/// A record where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordRef<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) stream: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) metadata: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// Reads the record at the beginning of `bytes`, checksum first.
pub(crate) fn decode<'a>(bytes: &'a [u8], seed: &Seed) -> Result<RecordRef<'a>, RecordFault> {
    parse(bytes, Some(seed))
}

/// Reads the record at the beginning of `bytes`, which lie in a frame whose checksum was right:
/// the record's own would say nothing more.
pub(crate) fn decode_verified(bytes: &[u8]) -> Result<RecordRef<'_>, RecordFault> {
    parse(bytes, None)
}

fn parse<'a>(bytes: &'a [u8], seed: Option<&Seed>) -> Result<RecordRef<'a>, RecordFault> {
    if bytes.len() < HEADER_BYTES {
        return Err(RecordFault::Truncated(bytes.len()));
    }
    let len = u32_at(bytes, 0);
    let size = len as usize;
    if size < HEADER_BYTES || size > bytes.len() {
        return Err(RecordFault::Length(len));
    }
    let bytes = &bytes[..size];
    if let Some(seed) = seed
        && seed.checksum(&[&bytes[REVISION_AT..]]) != u32_at(bytes, CRC_AT)
    {
        return Err(RecordFault::Checksum);
    }
    let flags = bytes[55];
    if flags & !(FLAG_FIRST | FLAG_LAST) != 0 {
        return Err(RecordFault::Flags(flags));
    }
    let slot = u16_at(bytes, 52);
    Slot::new(slot).ok_or(RecordFault::Slot(slot))?;
    let lens = [bytes[57].into(), bytes[56].into(), usize::from(u16_at(bytes, 48))];
    if HEADER_BYTES + lens.iter().sum::<usize>() > size {
        return Err(RecordFault::Length(len));
    }
    // Both names at once: looking at a text has a price of its own.
    let (names, rest) = bytes[HEADER_BYTES..].split_at(lens[0] + lens[1]);
    let names = std::str::from_utf8(names).ok().and_then(|names| names.split_at_checked(lens[0]));
    let (stream, event_type) = names.ok_or(RecordFault::Name)?;
    let (metadata, payload) = rest.split_at(lens[2]);
    Ok(RecordRef { bytes, stream, event_type, metadata, payload })
}

impl<'a> RecordRef<'a> {
    pub(crate) fn revision(&self) -> Revision {
        Revision::new(u64_at(self.bytes, REVISION_AT))
    }

    /// Position of the stream's event before, [`Position::START`] for its first.
    pub(crate) fn previous(&self) -> Position {
        Position::new(u64_at(self.bytes, PREVIOUS_AT))
    }

    pub(crate) fn id(&self) -> EventId {
        EventId::from_bytes(array(self.bytes, 24))
    }

    pub(crate) fn event_time(&self) -> Timestamp {
        Timestamp::from_nanos(i64_at(self.bytes, 40))
    }

    pub(crate) fn schema_version(&self) -> SchemaVersion {
        SchemaVersion::new(u16_at(self.bytes, 50))
    }

    pub(crate) fn slot(&self) -> Slot {
        Slot::new(u16_at(self.bytes, 52)).expect("decoding checked the slot")
    }

    pub(crate) fn codec(&self) -> CodecId {
        CodecId::new(self.bytes[54])
    }

    pub(crate) fn is_first_of_batch(&self) -> bool {
        self.bytes[55] & FLAG_FIRST != 0
    }

    pub(crate) fn is_last_of_batch(&self) -> bool {
        self.bytes[55] & FLAG_LAST != 0
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        metadata::tags(self.metadata)
    }

    /// Returns what the first record of an append says of its id.
    pub(crate) fn append_mark(&self) -> Option<AppendMark> {
        if self.is_first_of_batch() { metadata::append_mark(self.metadata) } else { None }
    }

    pub(crate) fn metadata(&self) -> Result<Metadata, MetadataFault> {
        metadata::decode(self.metadata)
    }

    /// Copies the record into an event of its own; `names` are those of the events before.
    pub(crate) fn to_event(
        self,
        position: Position,
        commit_time: Timestamp,
        names: &mut Names,
    ) -> Result<RecordedEvent, RecordFault> {
        let metadata = self.metadata()?;
        Ok(RecordedEvent {
            position,
            stream: names.stream(self.stream)?,
            revision: self.revision(),
            id: self.id(),
            event_type: names.event_type(self.event_type)?,
            schema_version: self.schema_version(),
            commit_time,
            event_time: self.event_time(),
            correlation_id: metadata.correlation_id,
            causation_id: metadata.causation_id,
            tags: metadata.tags,
            key: metadata.key,
            slot: self.slot(),
            headers: metadata.headers,
            codec: self.codec(),
            payload: Bytes::copy_from_slice(self.payload),
        })
    }
}

/// The names of the last event: the next one often has the same, and shares them then.
#[derive(Debug, Default)]
pub(crate) struct Names {
    stream: Option<StreamId>,
    event_type: Option<EventType>,
}

impl Names {
    fn stream(&mut self, name: &str) -> Result<StreamId, RecordFault> {
        match &self.stream {
            Some(last) if last.as_str() == name => Ok(last.clone()),
            _ => {
                let stream = StreamId::new(name).map_err(|_| RecordFault::Name)?;
                Ok(self.stream.insert(stream).clone())
            }
        }
    }

    fn event_type(&mut self, name: &str) -> Result<EventType, RecordFault> {
        match &self.event_type {
            Some(last) if last.as_str() == name => Ok(last.clone()),
            _ => {
                let event_type = EventType::new(name).map_err(|_| RecordFault::Name)?;
                Ok(self.event_type.insert(event_type).clone())
            }
        }
    }
}

impl Selectable for RecordRef<'_> {
    fn stream(&self) -> &str {
        self.stream
    }

    fn event_type(&self) -> &str {
        self.event_type
    }

    fn has_tag(&self, tag: &str) -> bool {
        metadata::has_tag(self.metadata, tag)
    }

    fn flow(&self) -> Option<CorrelationId> {
        metadata::flow(self.metadata)
    }
}

/// Goes through the records of a frame body. The count comes from the frame header; what is left
/// behind the last record is padding.
pub(crate) fn records<'a>(
    body: &'a [u8],
    count: u32,
    seed: &'a Seed,
) -> impl Iterator<Item = Result<(usize, RecordRef<'a>), RecordFault>> {
    let mut at = 0;
    (0..count).map_while(move |_| {
        let record = decode(body.get(at..)?, seed);
        let start = at;
        at = match &record {
            Ok(record) => at + record.bytes.len(),
            Err(_) => usize::MAX,
        };
        Some(record.map(|record| (start, record)))
    })
}
