//! Golden bytes: the layout of version 1. They are never regenerated; if one fails, the format
//! has changed and needs another version.

use headwater_core::{
    AppendId, CodecId, EventId, EventType, Generation, GroupChange, GroupCommit, GroupName,
    GroupState, Headers, Key, LogId, NewEvent, NewGroup, Parked, ParkedCommit, ParkedState,
    Position, Query, Revision, SchemaVersion, Slot, SlotCommit, SlotProgress, SlotRange, StreamId,
    Tag, Timestamp,
};

use super::block::BlockFault;
use super::catalog::{Catalog, LogEntry};
use super::frame::{FrameFields, FrameHeader, decode, seal};
use super::identity::Identity;
use super::metadata::AppendMark;
use super::offsets::OffsetEntry;
use super::record;
use super::segment::{LogKind, SegmentHeader, parse_file_name};
use super::{BLOCK_BYTES, Seed};

const ID: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

fn identity() -> Identity {
    Identity { id: LogId::from_bytes(ID), created: Timestamp::from_nanos(1_000) }
}

fn catalog() -> Catalog {
    let log =
        |n| LogEntry { first_segment: n, active_segment: n + 1, durable: Position::new(n + 2) };
    Catalog {
        store: LogId::from_bytes(ID),
        sequence: 7,
        epoch: 3,
        clean: true,
        events: log(10),
        offsets: log(20),
    }
}

fn segment() -> SegmentHeader {
    SegmentHeader {
        capacity_bytes: 65_536,
        store: LogId::from_bytes(ID),
        kind: LogKind::Offsets,
        id: 0x1F,
        base: Position::new(42),
        salt: 0x0123_4567_89AB_CDEF,
        created: Timestamp::from_nanos(2_000),
        previous_id: 0x1E,
        previous_word: 0xDEAD_BEEF,
        epoch: 3,
        frames_before: 99,
    }
}

fn event() -> NewEvent {
    let mut event = NewEvent::new(
        StreamId::new("order-1").unwrap(),
        EventType::new("placed").unwrap(),
        CodecId::JSON,
        "{}",
    );
    event.id = EventId::from_bytes(ID);
    event.event_time = Timestamp::from_nanos(-5);
    event.schema_version = SchemaVersion::new(2);
    event.causation_id = Some(EventId::from_bytes(ID));
    event.tags = vec![Tag::new("b").unwrap(), Tag::new("a").unwrap()];
    event.key = Some(Key::new("k").unwrap());
    let mut headers = Headers::new();
    headers.insert("h", "v").unwrap();
    event.headers = headers;
    event
}

fn frame() -> Vec<u8> {
    let seed = Seed::new(0x0123_4567_89AB_CDEF);
    let mut frame = vec![0; super::frame::HEADER_BYTES];
    let mark = AppendMark { id: AppendId::from_bytes(ID), digest: 0xAABB };
    record::encode(&mut frame, &event(), (true, true), Some(mark));
    record::finish(&mut frame[64..], Revision::new(4), Position::new(30), &seed);
    let fields = FrameFields {
        offset: 4096,
        first: Position::new(42),
        commit_seq: 100,
        commit_time: Timestamp::from_nanos(3_000),
        durable: Position::new(41),
        records: 1,
        epoch: 3,
        previous_word: 0xDEAD_BEEF,
    };
    seal(&mut frame, &fields, &seed);
    frame
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
fn the_bytes_of_blocks_are_frozen() {
    let summary = |block: Vec<u8>| {
        assert_eq!(block.len(), BLOCK_BYTES);
        (hex(&block[..104]), hex(&block[BLOCK_BYTES - 4..]))
    };
    let golden = [
        (summary(identity().encode()), include_str!("golden/identity.txt")),
        (summary(catalog().encode()), include_str!("golden/catalog.txt")),
        (summary(segment().encode()), include_str!("golden/segment.txt")),
    ];
    for ((fields, crc), expected) in golden {
        assert_eq!(format!("{fields}\n{crc}\n"), expected);
    }
}

#[test]
fn the_bytes_of_a_frame_are_frozen() {
    assert_eq!(format!("{}\n", hex(&frame())), include_str!("golden/frame.txt"));
}

#[test]
fn blocks_survive_and_no_flipped_bit_passes() {
    assert_eq!(Identity::decode(&identity().encode()), Ok(identity()));
    assert_eq!(Catalog::decode(&catalog().encode()), Ok(catalog()));
    assert_eq!(SegmentHeader::decode(&segment().encode()), Ok(segment()));
    for bit in 0..BLOCK_BYTES * 8 {
        let flipped = |mut block: Vec<u8>| {
            block[bit / 8] ^= 1 << (bit % 8);
            block
        };
        assert!(Identity::decode(&flipped(identity().encode())).is_err(), "bit {bit}");
        assert!(Catalog::decode(&flipped(catalog().encode())).is_err(), "bit {bit}");
        assert!(SegmentHeader::decode(&flipped(segment().encode())).is_err(), "bit {bit}");
    }
}

#[test]
fn short_empty_and_foreign_blocks_are_told_apart() {
    let block = identity().encode();
    for len in 0..BLOCK_BYTES {
        assert_eq!(Identity::decode(&block[..len]), Err(BlockFault::Short(len)));
    }
    assert_eq!(Identity::decode(&[0; BLOCK_BYTES]), Err(BlockFault::Unwritten));
    assert!(matches!(Identity::decode(&[0xFF; BLOCK_BYTES]), Err(BlockFault::Checksum { .. })));
    assert!(matches!(Identity::decode(&segment().encode()), Err(BlockFault::Magic { .. })));
}

#[test]
fn a_newer_version_is_named() {
    let mut block = identity().encode();
    block[8] = 2;
    let crc = crc32fast::hash(&block[..BLOCK_BYTES - 4]);
    block[BLOCK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Identity::decode(&block), Err(BlockFault::Version { found: 2, known: 1 }));
}

#[test]
fn a_frame_survives_and_no_flipped_bit_or_cut_passes() {
    let seed = Seed::new(0x0123_4567_89AB_CDEF);
    let bytes = frame();
    let (header, body): (FrameHeader, &[u8]) = decode(&bytes, &seed).unwrap();
    assert_eq!((header.first, header.last()), (Position::new(42), Position::new(42)));
    let records: Vec<_> = record::records(body, 1, &seed).collect();
    let [Ok((0, record))] = &records[..] else { panic!("{records:?}") };
    let expected = event();
    let back =
        record.to_event(header.first, header.commit_time, &mut record::Names::default()).unwrap();
    assert_eq!(
        (back.id, back.stream, back.event_type),
        (expected.id, expected.stream, expected.event_type)
    );
    assert_eq!((back.key, back.headers), (expected.key, expected.headers));
    assert_eq!((record.revision(), record.previous()), (Revision::new(4), Position::new(30)));
    let mark = AppendMark { id: AppendId::from_bytes(ID), digest: 0xAABB };
    assert_eq!(record.metadata().unwrap().append, Some(mark));

    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&flipped, &seed).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(decode(&bytes[..len], &seed).is_err(), "{len} bytes");
        let _ = record::decode(&body[..len.min(body.len())], &seed);
    }
    assert!(decode(&bytes, &Seed::new(1)).is_err(), "another segment's salt");
}

#[test]
fn names_of_segments_are_read_back_and_no_others() {
    let name = segment().file_name();
    assert_eq!(name, "00000000000000000042-0000001f.seg");
    assert_eq!(parse_file_name(&name), Some((Position::new(42), 0x1F)));
    for other in ["42-1f.seg", "00000000000000000042-0000001F.seg", "next.tmp", "x.seg", ""] {
        assert_eq!(parse_file_name(other), None, "{other}");
    }
}

fn offset_entries() -> Vec<OffsetEntry> {
    let name = GroupName::new("billing").unwrap();
    let slot = |n| Slot::new(n).unwrap();
    let progress = SlotProgress {
        floor: Position::new(9),
        settled: vec![(Position::new(11), Position::new(12))],
        generation: Generation::new(1),
        ..SlotProgress::default()
    };
    let new = NewGroup::consumer(name.clone()).select(Query::tags([Tag::new("x").unwrap()]));
    let mut state = GroupState::new(new, Position::new(3), Generation::NONE);
    state.apply(&GroupChange::Claim(vec![SlotRange::all()]));
    let commit = SlotCommit { slots: SlotRange::new(slot(1), slot(5)).unwrap(), progress };
    state.apply(&GroupChange::Commit(vec![commit.clone()].into()));
    let parked = Parked {
        first: Position::new(9),
        slot: slot(3),
        key: Some(Key::new("k").unwrap()),
        next: Position::new(9),
        through: Position::new(12),
        attempts: 5,
        since: Timestamp::from_nanos(1),
        cause: "why".to_owned(),
        state: ParkedState::Waiting,
    };
    let parked = ParkedCommit { generation: Generation::new(1), parked };
    let change = |change| OffsetEntry::Change(name.clone(), change);
    vec![
        OffsetEntry::State(state),
        change(GroupChange::Claim(vec![SlotRange::one(slot(1023))])),
        change(GroupChange::Commit(GroupCommit { slots: vec![commit], parked: vec![parked] })),
        change(GroupChange::Seek(Position::new(77))),
        change(GroupChange::Pause(true)),
        change(GroupChange::Parked(Position::new(9), ParkedState::Redriving)),
        change(GroupChange::Alter(NewGroup::share(name.clone()).shape)),
        OffsetEntry::Rename(name.clone(), GroupName::new("charging").unwrap()),
        OffsetEntry::Delete(name),
    ]
}

#[test]
fn offset_entries_survive_and_their_bytes_are_frozen() {
    let mut text = String::new();
    for entry in offset_entries() {
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        assert_eq!(OffsetEntry::decode(&bytes), Ok((entry, bytes.len())));
        for len in 0..bytes.len() {
            assert!(OffsetEntry::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        text.push_str(&hex(&bytes));
        text.push('\n');
    }
    assert_eq!(text, include_str!("golden/offsets.txt"));
}
