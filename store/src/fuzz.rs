//! Every decoder of the store, as a function over any bytes: for `tests/fuzz.rs`, and for
//! `cargo fuzz` in `fuzz/`.
//!
//! Each runs on the bytes as they are, and again with their checksums mended, since what lies
//! behind a checksum is out of reach for random bytes. None may panic, go on for ever, or ask for
//! memory that the bytes do not pay for; what decodes must be the same when it was encoded again.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use headwater_core::{
    AppendId, CodecId, EventId, EventType, Generation, GroupChange, GroupCommit, GroupName,
    GroupState, Key, LogId, NewEvent, NewGroup, Parked, ParkedCommit, ParkedState, Position, Query,
    RecordedEvent, Revision, Slot, SlotCommit, SlotProgress, SlotRange, StreamId, Tag, Timestamp,
};

use crate::format::catalog::{Catalog, LogEntry};
use crate::format::frame::{self, FrameFields, FrameHeader, HEADER_BYTES};
use crate::format::identity::Identity;
use crate::format::index::{Covered, IndexHeader, PAGE_BYTES, SECTIONS_AT};
use crate::format::metadata::AppendMark;
use crate::format::offsets::OffsetEntry;
use crate::format::record::{self, Names};
use crate::format::segment::{FRAMES_AT, LogKind, SegmentHeader, parse_file_name};
use crate::format::tails::{self, StreamTail, Tails};
use crate::format::{BLOCK_BYTES, Seed, metadata, put, u32_at};
use crate::fs::{Access, Fs, FsFile, RealFs};
use crate::index::{self, IndexFile, MemoryIndex, Terms, Walk, add_frame, build};
use crate::ledger;
use crate::offsets::{self, Groups};
use crate::recovery::{self, Rest, Tail, Walked};
use crate::segment::Segment;

/// A decoder, and what it is called.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("blocks", blocks),
    ("groups", groups),
    ("index", index),
    ("ledger", ledger),
    ("metadata", metadata),
    ("query", query),
    ("record", record),
    ("segment", segment),
    ("tails", tails),
];

/// Runs the target of a name.
///
/// # Panics
///
/// If there is none, or the decoder is wrong.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.0 == name);
    target.expect("a target of this name").1(bytes);
}

/// Entries of each kind, with lists in them.
fn group_entries() -> Vec<OffsetEntry> {
    let name_of = |name: &str| GroupName::new(name).expect("a name");
    let (name, at) = (name_of("g"), Position::new);
    let slot = Slot::of_key("k");
    let mut state = GroupState::new(NewGroup::consumer(name.clone()), at(0), Generation::new(1));
    let progress = SlotProgress {
        floor: at(2),
        settled: vec![(at(4), at(5))],
        attempts: vec![(at(3), 2)],
        generation: Generation::new(1),
    };
    let slots = vec![SlotCommit { slots: SlotRange::one(slot), progress }];
    let parked = Parked {
        first: at(2),
        slot,
        key: Key::new("k").ok(),
        next: at(2),
        through: at(5),
        attempts: 1,
        since: Timestamp::EPOCH,
        cause: "no".to_owned(),
        state: ParkedState::Waiting,
    };
    let parked = vec![ParkedCommit { generation: Generation::new(1), parked }];
    let commit = GroupChange::Commit(GroupCommit { slots, parked });
    state.apply(&commit);
    let change = |change| OffsetEntry::Change(name.clone(), change);
    vec![
        OffsetEntry::State(state),
        change(commit),
        change(GroupChange::Claim(vec![SlotRange::all()])),
        change(GroupChange::Seek(at(5))),
        change(GroupChange::Pause(true)),
        change(GroupChange::Parked(at(2), ParkedState::Redriving)),
        change(GroupChange::Alter(NewGroup::share(name.clone()).shape)),
        OffsetEntry::Rename(name.clone(), name_of("h")),
        OffsetEntry::Delete(name_of("h")),
    ]
}

/// Returns inputs to begin with, made by the encoders.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    let id = LogId::from_bytes([7; 16]);
    let event = some_event(1);
    let mut encoded = Vec::new();
    let mark = AppendMark { id: AppendId::from_bytes([3; 16]), digest: 9 };
    record::encode(&mut encoded, &event, (true, true), Some(mark));
    record::finish(&mut encoded, Revision::FIRST, Position::START, &seed());
    match name {
        "blocks" => {
            let created = Timestamp::from_nanos(1);
            let catalog = Catalog {
                store: id,
                sequence: 2,
                epoch: 1,
                clean: true,
                events: LogEntry::default(),
                offsets: LogEntry::default(),
            };
            let (segment, index) = (&fixture().0, fixture().1[..BLOCK_BYTES].to_vec());
            vec![Identity { id, created }.encode(), catalog.encode(), segment[..BLOCK_BYTES].to_vec(), index]
        }
        "groups" => {
            let mut all = Vec::new();
            for entry in group_entries() {
                entry.encode(&mut all);
            }
            vec![all]
        }
        "index" => vec![fixture().1.clone()],
        "ledger" => vec![b"{\"at\":5,\"first\":1,\"through\":9,\"segments\":1,\"bytes\":65536,\"cutoff\":{\"through\":9},\"passed\":[[\"g\",3]]}\n{\"at\":".to_vec()],
        "metadata" => {
            let mut out = Vec::new();
            metadata::encode(&mut out, &event, &event.tags.iter().collect::<Vec<_>>(), Some(mark));
            vec![out]
        }
        "query" => {
            let query = Query::stream(event.stream.clone()).or(Query::tags(event.tags.clone()));
            vec![serde_json::to_vec(&query).expect("a query has a form in JSON")]
        }
        "record" => vec![encoded],
        "segment" => {
            // A few frames, and one with zeros behind it, torn in the middle.
            let few = fixture().0[..BLOCK_BYTES + 1800].to_vec();
            let mut torn = few.clone();
            torn.resize(BLOCK_BYTES + 2600, 0);
            vec![few, torn]
        }
        "tails" => {
            let tail = |stream: &str| StreamTail {
                stream: stream.to_owned(),
                revision: Revision::FIRST,
                position: Position::FIRST,
            };
            vec![tails::encode(id, Position::new(9), &[tail("a-1"), tail("a-2"), tail("b-1")])]
        }
        other => unreachable!("there is no target {other}"),
    }
}

fn seed() -> Seed {
    Seed::new(7)
}

fn some_event(n: u8) -> NewEvent {
    let name = |prefix: &str, of: u8| format!("{prefix}-{}", n % of);
    let mut event = NewEvent::new(
        StreamId::new(name("a", 7)).expect("a name"),
        EventType::new(name("t", 3)).expect("a name"),
        CodecId::RAW,
        Bytes::from(vec![n; usize::from(n % 5)]),
    );
    event.id = EventId::from_bytes([n; 16]);
    event.event_time = Timestamp::from_nanos(n.into());
    event.tags = vec![Tag::new(name("tag", 5)).expect("a name")];
    event.headers.insert("name", "value").expect("a header");
    event
}

/// A segment of a few frames, as far as it is written, and its index file.
fn fixture() -> &'static (Vec<u8>, Vec<u8>) {
    static FIXTURE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let header = SegmentHeader {
            capacity_bytes: 64 * 1024,
            store: LogId::from_bytes([7; 16]),
            kind: LogKind::Events,
            id: 1,
            base: Position::FIRST,
            salt: 7,
            created: Timestamp::from_nanos(1),
            previous_id: 0,
            previous_word: 0,
            epoch: 1,
            frames_before: 0,
        };
        let mut file = header.encode();
        let mut memory = MemoryIndex::from(0);
        let (mut word, mut covered) = (0, None);
        for n in 0..50_u8 {
            let mut bytes = vec![0; HEADER_BYTES];
            for part in 0..3_u8 {
                let mut record = Vec::new();
                let id = AppendId::from_bytes([n; 16]);
                let mark = (part == 0).then_some(AppendMark { id, digest: n.into() });
                record::encode(
                    &mut record,
                    &some_event(n * 3 + part),
                    (part == 0, part == 2),
                    mark,
                );
                record::finish(&mut record, Revision::FIRST, Position::START, &seed());
                bytes.extend_from_slice(&record);
            }
            let fields = FrameFields {
                offset: file.len() as u64,
                first: Position::new(u64::from(n) * 3 + 1),
                commit_seq: u64::from(n) + 1,
                commit_time: Timestamp::from_nanos(i64::from(n) * 10),
                durable: Position::new(u64::from(n) * 3),
                records: 3,
                epoch: 1,
                previous_word: word,
            };
            let sealed = frame::seal(&mut bytes, &fields, &seed());
            let body = &bytes[HEADER_BYTES..];
            add_frame(&mut memory, &seed(), fields.offset, &sealed, body).expect("it was encoded");
            word = sealed.word();
            covered = Some(Covered {
                events: memory.end(),
                end: (file.len() + bytes.len()) as u64,
                last_frame: u32::try_from(file.len()).expect("small"),
                word,
                frames: fields.commit_seq,
                epoch: 1,
                commit_time: fields.commit_time,
                durable: true,
            });
            file.extend_from_slice(&bytes);
        }
        let covered = covered.expect("there are frames");
        let index = build(&header, covered, None, &[&memory]).expect("it is in memory");
        (file, index)
    })
}

/// The bytes as they are, and with the checksum of a block over the first 4,096.
fn with_mended_block(bytes: &[u8]) -> [Vec<u8>; 2] {
    let mut mended = bytes.to_vec();
    mend_block(&mut mended);
    [bytes.to_vec(), mended]
}

fn mend_block(bytes: &mut [u8]) {
    if let Some(block) = bytes.get_mut(..BLOCK_BYTES) {
        let crc = crc32fast::hash(&block[..BLOCK_BYTES - 4]);
        put(block, BLOCK_BYTES - 4, crc.to_le_bytes());
    }
}

fn blocks(bytes: &[u8]) {
    for bytes in with_mended_block(bytes) {
        if let Ok(identity) = Identity::decode(&bytes) {
            assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
        }
        if let Ok(catalog) = Catalog::decode(&bytes) {
            assert_eq!(Catalog::decode(&catalog.encode()), Ok(catalog));
        }
        if let Ok(segment) = SegmentHeader::decode(&bytes) {
            assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
            assert_eq!(parse_file_name(&segment.file_name()), Some((segment.base, segment.id)));
        }
        if let Ok(index) = IndexHeader::decode(&bytes) {
            assert_eq!(IndexHeader::decode(&index.encode()), Ok(index));
            assert!(index.sections().pages >= SECTIONS_AT);
        }
    }
    if let Some((base, id)) = std::str::from_utf8(bytes).ok().and_then(parse_file_name) {
        assert!(id > 0 || base.get() < u64::MAX || !bytes.is_empty());
    }
}

fn tails(bytes: &[u8]) {
    let mut mended = bytes.to_vec();
    if mended.len() > BLOCK_BYTES {
        let body = crc32fast::hash(&mended[BLOCK_BYTES..]);
        let len = mended.len() - BLOCK_BYTES;
        put(&mut mended, 40, (len as u64).to_le_bytes());
        put(&mut mended, 52, body.to_le_bytes());
    }
    mend_block(&mut mended);
    for bytes in [bytes, &mended] {
        let Ok(decoded) = Tails::decode(bytes) else { continue };
        let all: Vec<StreamTail> = decoded.iter().collect();
        for tail in &all {
            assert_eq!(decoded.find(&tail.stream), Some((tail.revision, tail.position)));
        }
        let again = tails::encode(decoded.store, decoded.through, &all);
        let again = Tails::decode(&again[..]).expect("it was encoded");
        assert!(again.iter().eq(all));
    }
}

fn ledger(bytes: &[u8]) {
    let (_, removals) = ledger::parse(bytes);
    let mut lines = Vec::new();
    for removal in &removals {
        serde_json::to_writer(&mut lines, removal).expect("a removal has a form in JSON");
        lines.push(b'\n');
    }
    assert_eq!(ledger::parse(&lines), (0, removals));
}

fn query(bytes: &[u8]) {
    if let Ok(query) = serde_json::from_slice::<Query>(bytes) {
        let again = serde_json::to_vec(&query).expect("a query has a form in JSON");
        assert_eq!(serde_json::from_slice::<Query>(&again).ok(), Some(query));
    }
}

/// Entries of the offsets log, behind each other, and what they make of the groups.
fn groups(bytes: &[u8]) {
    let (mut rest, mut entries) = (bytes, 0);
    while let Ok((entry, len)) = OffsetEntry::decode(rest) {
        let mut again = Vec::new();
        entry.encode(&mut again);
        if !matches!(entry, OffsetEntry::State(_)) {
            assert_eq!(again, rest[..len]);
        }
        assert_eq!(OffsetEntry::decode(&again), Ok((entry, again.len())));
        (rest, entries) = (&rest[len..], entries + 1);
    }
    let header = FrameHeader { records: entries, ..some_header() };
    let mut groups = Groups::new();
    if offsets::fold(&mut groups, &header, bytes).is_ok() {
        for state in groups.values() {
            assert!(state.runs().count() > 0);
        }
    }
}

fn some_header() -> FrameHeader {
    frame::decode_header(&fixture().0[BLOCK_BYTES..], &seed()).expect("it was encoded")
}

fn metadata(bytes: &[u8]) {
    let tags = metadata::tags(bytes).count();
    let _ = (metadata::append_mark(bytes), metadata::has_tag(bytes, "tag-1"));
    let Ok(decoded) = metadata::decode(bytes) else { return };
    assert_eq!(decoded.tags.len(), tags);
    let mut event = some_event(0);
    (event.correlation_id, event.causation_id) = (decoded.correlation_id, decoded.causation_id);
    (event.key, event.headers) = (decoded.key.clone(), decoded.headers.clone());
    let mut again = Vec::new();
    metadata::encode(&mut again, &event, &decoded.tags.iter().collect::<Vec<_>>(), decoded.append);
    assert_eq!(metadata::decode(&again), Ok(decoded));
}

fn record(bytes: &[u8]) {
    let mut mended = bytes.to_vec();
    mend_record(&mut mended, &seed());
    for bytes in [bytes, &mended] {
        if let Ok(record) = record::decode(bytes, &seed()) {
            check_record(record, Position::FIRST);
        }
        if let Ok(record) = record::decode_verified(bytes) {
            check_record(record, Position::FIRST);
        }
    }
}

/// Gives a record its checksum, and returns its length, if that lies within the bytes.
fn mend_record(bytes: &mut [u8], seed: &Seed) -> Option<usize> {
    let len = u32_at(bytes.get(..4)?, 0) as usize;
    let record = bytes.get_mut(..len).filter(|_| len >= record::HEADER_BYTES)?;
    let crc = seed.checksum(&[&record[8..]]);
    put(record, 4, crc.to_le_bytes());
    Some(len)
}

fn check_record(record: record::RecordRef<'_>, position: Position) {
    let time = Timestamp::EPOCH;
    let Ok(event) = record.to_event(position, time, &mut Names::default()) else { return };
    let (is_first, is_last) = (record.is_first_of_batch(), record.is_last_of_batch());
    let mut bytes = Vec::new();
    record::encode(&mut bytes, &new_event(&event), (is_first, is_last), record.append_mark());
    record::finish(&mut bytes, record.revision(), record.previous(), &seed());
    let again = record::decode(&bytes, &seed()).expect("it was encoded");
    let mut again = again.to_event(position, time, &mut Names::default()).expect("it was encoded");
    let mut event = event;
    event.tags.sort_unstable();
    event.tags.dedup();
    // It follows from the key or the stream.
    again.slot = event.slot;
    assert_eq!(again, event);
}

fn new_event(event: &RecordedEvent) -> NewEvent {
    NewEvent {
        id: event.id,
        stream: event.stream.clone(),
        event_type: event.event_type.clone(),
        schema_version: event.schema_version,
        event_time: event.event_time,
        correlation_id: event.correlation_id,
        causation_id: event.causation_id,
        tags: event.tags.clone(),
        key: event.key.clone(),
        headers: event.headers.clone(),
        codec: event.codec,
        payload: event.payload.clone(),
    }
}

/// How far a segment is mended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mended {
    Not,
    /// Checksums are right.
    Sums,
    /// And each frame continues the one before.
    Chain,
}

fn segment(bytes: &[u8]) {
    for how in [Mended::Not, Mended::Sums, Mended::Chain] {
        let mut bytes = bytes.to_vec();
        if how != Mended::Not {
            mend_block(&mut bytes);
        }
        let Ok(header) = SegmentHeader::decode(&bytes) else { continue };
        let seed = Seed::new(header.salt);
        if how != Mended::Not {
            mend_frames(&mut bytes, &seed, (how == Mended::Chain).then(|| Walked::before(&header)));
        }
        let (walked, tail) = walk(&bytes, &header, &seed);
        let len = bytes.len() as u64;
        assert!(walked.end <= len && walked.unproven <= walked.end);
        let Ok(Tail::Torn { from, to }) = tail else { continue };
        assert!(from == walked.end && from < to && to <= len);
        let range = usize::try_from(from).expect("short")..usize::try_from(to).expect("short");
        bytes[range].fill(0);
        assert_eq!(walk(&bytes, &header, &seed), (walked, Ok(Tail::Clean)));
    }
}

fn walk(
    bytes: &[u8],
    header: &SegmentHeader,
    seed: &Seed,
) -> (Walked, Result<Tail, recovery::Damage>) {
    let before = Walked::before(header);
    let mut memory = MemoryIndex::from(0);
    let mut refused = false;
    let walked = recovery::walk(bytes, seed, before, Rest::Look, |offset, frame, body| {
        let added = add_frame(&mut memory, seed, offset, frame, body);
        refused = added.is_err();
        for record in record::records(body, frame.records, seed).flatten() {
            check_record(record.1, frame.first);
        }
        added
    });
    assert_eq!(walked.0.next, before.next.advanced_by(memory.end().into()));
    assert!(!refused || walked.1.is_err());
    walked
}

/// Gives frames and their records their checksums, as far as lengths can be followed.
fn mend_frames(bytes: &mut [u8], seed: &Seed, mut chain: Option<Walked>) {
    let mut at = BLOCK_BYTES;
    while let Some(len) = bytes.get(at + 4..at + 8).map(|len| u32_at(len, 0) as usize) {
        let Some(frame) = at.checked_add(len).and_then(|end| bytes.get_mut(at..end)) else {
            return;
        };
        if len < HEADER_BYTES {
            return;
        }
        let mut record = HEADER_BYTES;
        while let Some(len) = mend_record(&mut frame[record..], seed) {
            record += len;
        }
        let body_crc = seed.checksum(&[&frame[HEADER_BYTES..]]);
        put(frame, 12, body_crc.to_le_bytes());
        if let Some(walked) = &chain {
            put(frame, 16, walked.next.get().to_le_bytes());
            put(frame, 24, walked.frames.wrapping_add(1).to_le_bytes());
            put(frame, 56, walked.word.to_le_bytes());
        }
        let header_crc = seed.checksum(&[&frame[..8], &frame[12..HEADER_BYTES]]);
        put(frame, 8, header_crc.to_le_bytes());
        match (frame::decode_header(frame, seed), &mut chain) {
            (Ok(header), Some(walked)) => walked.advance(&header),
            (Ok(_), None) => {}
            (Err(_), _) => return,
        }
        at += len;
    }
}

/// A file in memory.
fn memory_file(bytes: &[u8]) -> (File, PathBuf) {
    let file = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC);
    let file = File::from(file.expect("memory for a file"));
    file.write_all_at(bytes, 0).expect("memory for a file");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
}

/// An index file beside a segment that it may not fit: opened, asked everything, and built on.
fn index(bytes: &[u8]) {
    let mut mended = bytes.to_vec();
    mend_index(&mut mended);
    for bytes in [bytes, &mended] {
        let (_file, path) = memory_file(bytes);
        let (_log, log) = memory_file(&[&fixture().0[..], &[0; 1024]].concat());
        let log: Arc<dyn FsFile> = RealFs.open(&log, Access::Read).expect("it is open");
        let header = SegmentHeader::decode(&fixture().0).expect("it was encoded");
        let Ok(file) = IndexFile::open(&RealFs, &path, &header) else { continue };
        let segment = Segment::new(header, "segment".into(), log).expect("memory for a map");
        segment.publish(fixture().0.len() as u64);
        segment.adopt(Arc::new(file));
        ask(&segment);
    }
}

/// Makes an index file describe the segment of the fixture, and gives it its checksums.
fn mend_index(bytes: &mut Vec<u8>) {
    mend_block(bytes);
    let Ok(mut header) = IndexHeader::decode(bytes) else { return };
    let segment = SegmentHeader::decode(&fixture().0).expect("it was encoded");
    (header.store, header.segment) = (segment.store, segment.id);
    (header.salt, header.base) = (segment.salt, segment.base);
    let sections = header.sections();
    if sections.file_bytes > 64 * 1024 {
        return;
    }
    bytes.resize(sections.file_bytes, 0);
    let pages: Vec<u8> = bytes[SECTIONS_AT..sections.pages]
        .chunks(PAGE_BYTES)
        .flat_map(|page| crc32fast::hash(page).to_le_bytes())
        .collect();
    bytes[sections.pages..].copy_from_slice(&pages);
    header.pages_crc = crc32fast::hash(&pages);
    bytes[..BLOCK_BYTES].copy_from_slice(&header.encode());
}

/// Asks a segment everything that readers ask. Its index may be wrong: an answer is an error, or
/// about records that are there.
fn ask(segment: &Segment) {
    let event = some_event(1);
    let queries = [
        Query::all(),
        Query::stream(event.stream.clone()),
        Query::tags(event.tags.clone()).and_types([event.event_type.clone()]),
    ];
    let last = Position::new(200);
    for query in &queries {
        for walk in [Walk::Up, Walk::Down] {
            let range = (Position::FIRST, last);
            let found = segment.candidates(&Terms::of(query), range, 64, walk);
            for delta in found.map(|found| found.0).unwrap_or_default() {
                let at = segment.locate(delta);
                let _ = at.and_then(|at| segment.record(segment.position(delta), at).map(|_| ()));
            }
        }
    }
    for term in [index::stream_term("a-1"), index::identified_term(), 0, u32::MAX] {
        let _ = (segment.newest(term, u32::MAX), segment.count_after(term, Some(3)));
        let _ = segment.count_after(term, None);
    }
    for delta in [0, 1, 5, 149, 150, u32::MAX] {
        let _ = (segment.find(segment.position(delta)), segment.locate(delta));
    }
    for nanos in [i64::MIN, 0, 255, i64::MAX] {
        let _ = segment.first_after(Timestamp::from_nanos(nanos));
    }
    if let Ok(Some(frozen)) = segment.freeze(true) {
        let memory: Vec<_> = frozen.layers.frozen.iter().map(Arc::as_ref).collect();
        let _ = build(&segment.header, frozen.covered, frozen.layers.file.as_deref(), &memory);
    }
    assert!(segment.end() >= FRAMES_AT);
}
