//! Exporting a log and importing it again: nothing that can be asked of it has another answer.

use std::path::Path;

use headwater_core::{
    Append, AppendId, CodecId, CorrelationId, Durability, EventId, EventLog, EventType, Generation,
    GroupLog, GroupName, Headers, Key, NewEvent, NewGroup, Position, Query, RecordedEvent,
    SchemaVersion, Slot, SlotCommit, SlotProgress, SlotRange, Start, StreamId, Timestamp,
};
use headwater_store::{
    Cutoff, ExportError, ImportError, ImportOptions, ImportedId, OpenError, OpenMode, Options,
    Passing, Preallocation, ReadOnlyStore, Store, Transferred,
};
use pollster::block_on;
use proptest::prelude::*;

use crate::common::{event, one, stream, tag, temp};
use crate::damage::copy_store;

/// Small segments that cost little.
fn small() -> Options {
    let (durability, preallocation) = (Durability::Os, Preallocation::Sparse);
    Options { segment_bytes: 64 * 1024, durability, preallocation, ..Options::default() }
}

/// Something to do to a store.
#[derive(Clone, Debug)]
enum Operation {
    Append { events: Vec<Shape>, id: Option<u8> },
    Group(u8, Progress),
    Remove(u8, bool),
    Close,
}

/// What a group does.
#[derive(Clone, Copy, Debug)]
enum Progress {
    Open { from_start: bool },
    Claim(u16, u16),
    Commit(u16, u16, u8),
    Seek(u8),
    Delete,
}

/// What an event is made of, by number.
#[derive(Clone, Debug)]
struct Shape {
    stream: u8,
    payload: u8,
    bulk: usize,
    tags: u8,
    beside: u8,
    schema: u16,
    time: i64,
}

fn operation() -> impl Strategy<Value = Operation> {
    let shape = (
        0..6_u8,
        0..18_u8,
        prop_oneof![5 => 0..40_usize, 1 => 2_000..9_000_usize],
        0..8_u8,
        any::<u8>(),
        prop_oneof![Just(1), any::<u16>()],
        prop_oneof![
            Just(0),
            any::<i64>(),
            1_700_000_000_000_000_000..1_800_000_000_000_000_000_i64
        ],
    );
    let shape = shape.prop_map(|(stream, payload, bulk, tags, beside, schema, time)| Shape {
        stream,
        payload,
        bulk,
        tags,
        beside,
        schema,
        time,
    });
    let slots = || (0..1024_u16, 0..1024_u16);
    let progress = prop_oneof![
        any::<bool>().prop_map(|from_start| Progress::Open { from_start }),
        slots().prop_map(|(a, b)| Progress::Claim(a.min(b), a.max(b))),
        (slots(), any::<u8>()).prop_map(|((a, b), to)| Progress::Commit(a.min(b), a.max(b), to)),
        any::<u8>().prop_map(Progress::Seek),
        Just(Progress::Delete),
    ];
    prop_oneof![
        24 => (prop::collection::vec(shape, 1..4), prop::option::of(0..12_u8))
            .prop_map(|(events, id)| Operation::Append { events, id }),
        6 => (0..3_u8, progress).prop_map(|(group, progress)| Operation::Group(group, progress)),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(to, force)| Operation::Remove(to, force)),
        1 => Just(Operation::Close),
    ]
}

/// Payloads of all kinds: JSON that stands in a line as it is, JSON that would not come out the
/// same, what only says that it is JSON, and bytes.
const PAYLOADS: [(u8, &[u8]); 18] = [
    (1, b"{\"a\":1.10,\"z\":[12345678901234567890123, 1e999 ],\"a\":null}"),
    (1, b"null"),
    (1, b"\"\\u00e9 \\\\ \\\" \xc3\xa9 \xe2\x80\xa8\""),
    (1, b" 1"),
    (1, b"1 "),
    (1, b"[1,\n2]"),
    (1, b"[1,\t2]"),
    (1, b""),
    (1, b"{"),
    (1, b"\"\xff\""),
    (1, b"\"\\ud800\""),
    (1, b"1 2"),
    (0, b""),
    (0, b"\x00\xff\n"),
    (0, b"{}"),
    (2, b"\x01\x02"),
    (200, b"{}"),
    (255, b"\"x\""),
];

fn streams() -> [StreamId; 6] {
    ["a-1", "a-2", "b-\"quoted\"", "b-\u{e9}\u{1f600}", "c-1-2-3", "d-4"].map(stream)
}

fn group_name(n: u8) -> GroupName {
    GroupName::new(["g", "g\"2", "h"][usize::from(n)]).unwrap()
}

fn event_of(shape: &Shape) -> NewEvent {
    let (codec, payload) = PAYLOADS[usize::from(shape.payload)];
    let mut payload = payload.to_vec();
    match codec {
        // Still the JSON that it was, or was not.
        1 if shape.bulk > 0 && payload.first() == Some(&b'{') && payload.len() > 1 => {
            payload.splice(1..1, format!("\"bulk\":\"{}\",", "x".repeat(shape.bulk)).into_bytes());
        }
        1 => {}
        _ => payload.extend((0..shape.bulk).map(|n| n.to_le_bytes()[0])),
    }
    let stream = streams()[usize::from(shape.stream)].clone();
    let event_type =
        EventType::new(["t", "order.placed", "\\\"\u{1F40D}"][shape.bulk % 3].replace('\\', "b"));
    let mut event = NewEvent::new(stream, event_type.unwrap(), CodecId::new(codec), payload);
    event.schema_version = SchemaVersion::new(shape.schema);
    event.event_time = Timestamp::from_nanos(shape.time);
    let bit = |n: u8| shape.beside & (1 << n) != 0;
    event.tags = (0..3)
        .filter(|n| shape.tags & (1 << n) != 0)
        .map(|n| tag(["x:1", "\"", "\u{e9}"][n]))
        .collect();
    event.correlation_id = bit(0).then(CorrelationId::generate);
    event.causation_id = bit(1).then(EventId::generate);
    event.key = bit(2).then(|| Key::new("k\"1").unwrap());
    let mut headers = Headers::new();
    for (n, (name, value)) in
        [("traceparent", "00-1"), (" ", ""), ("a\n", "\u{7f}\"\\\u{0}"), ("a\n", "2")]
            .into_iter()
            .enumerate()
    {
        if bit(3 + u8::try_from(n).unwrap()) {
            headers.insert(name, value).unwrap();
        }
    }
    event.headers = headers;
    event
}

/// Does something to a store, whatever comes of it.
fn work(store: &mut Store, path: &Path, operation: &Operation) {
    let head = block_on(store.head(headwater_core::Visibility::Committed)).unwrap();
    let share = |to: u8| Position::new(head.get() * u64::from(to) / 255);
    match operation {
        Operation::Append { events, id } => {
            let mut append = Append::new(events.iter().map(event_of));
            append.append_id = id.map(|id| AppendId::from_name(&[id]));
            let _ = store.append_blocking(append);
        }
        Operation::Group(group, progress) => {
            let name = group_name(*group);
            let range =
                |a, b| SlotRange::new(Slot::new(a).unwrap(), Slot::new(b).unwrap()).unwrap();
            let state = block_on(store.group(&name)).ok();
            match (progress, state) {
                (Progress::Open { from_start }, _) => {
                    let start = if *from_start { Start::Beginning } else { Start::End };
                    let selection =
                        Query::stream(streams()[2].clone()).or(Query::tags([tag("x:1")]));
                    let _ = block_on(
                        store.open_group(NewGroup::consumer(name).select(selection).start(start)),
                    );
                }
                (Progress::Claim(a, b), _) => {
                    let _ = block_on(store.claim_slots(&name, vec![range(*a, *b)]));
                }
                (Progress::Commit(a, b, to), Some(state)) => {
                    let generation = state.slot(Slot::new(*a).unwrap()).generation;
                    let floor = share(*to);
                    let settled = match head.events_since(floor) {
                        Some(3..) => vec![(floor.advanced_by(2), head)],
                        _ => Vec::new(),
                    };
                    let progress =
                        SlotProgress { floor, settled, generation, ..SlotProgress::default() };
                    let commit = SlotCommit { slots: range(*a, *b), progress };
                    let _ = block_on(store.commit_slots(&name, vec![commit]));
                }
                (Progress::Seek(to), _) => {
                    let _ = block_on(store.seek_group(&name, share(*to)));
                }
                (Progress::Delete, _) => {
                    let _ = block_on(store.delete_group(&name));
                }
                (Progress::Commit(..), None) => {}
            }
        }
        Operation::Remove(to, force) => {
            let passing = if *force { Passing::Force } else { Passing::Refuse };
            store.remove(Cutoff::Through(share(*to)), passing).unwrap();
        }
        Operation::Close => {
            store.close().unwrap();
            *store = Store::open(path, small()).unwrap();
        }
    }
}

fn export(path: &Path) -> Vec<u8> {
    let mut lines = Vec::new();
    ReadOnlyStore::open(path).unwrap().export(&mut lines, |_| {}).unwrap();
    lines
}

fn import(path: &Path, lines: &[u8], id: ImportedId) -> Result<Transferred, ImportError> {
    let options = ImportOptions { id, store: small() };
    Store::import(path, std::io::Cursor::new(lines.to_vec()), options, |_| {})
}

/// Every event of a store, with the position of its stream's event before.
fn events(store: &ReadOnlyStore) -> Vec<(RecordedEvent, Position)> {
    let mut scan = store.scan(store.start()).unwrap();
    let mut events = Vec::new();
    while let Some(event) = scan.next() {
        let event = event.unwrap();
        events.push((event.to_event().unwrap(), event.previous()));
    }
    events
}

/// Makes sure that two stores have the same answers.
fn same(old: &Path, new: &Path) {
    let (a, b) = (ReadOnlyStore::open(old).unwrap(), ReadOnlyStore::open_and_walk(new).unwrap());
    assert!(b.damage().is_none() && b.groups_damage().is_none());
    assert!(b.is_clean());
    assert_eq!((a.start(), a.head()), (b.start(), b.head()));
    let events = events(&a);
    assert_eq!(events, self::events(&b));
    assert_eq!(a.groups(), b.groups());
    assert_eq!(a.ledger().unwrap(), b.ledger().unwrap());
    assert_eq!(a.last_commit_time(), b.last_commit_time());
    for (event, _) in &events {
        for nanos in [-1, 0, 1] {
            let time = Timestamp::from_nanos(event.commit_time.as_nanos() + nanos);
            assert_eq!(a.position_at(time).unwrap(), b.position_at(time).unwrap());
        }
    }
    for stream in streams() {
        assert_eq!(a.stream_revision(&stream).unwrap(), b.stream_revision(&stream).unwrap());
    }
}

/// Makes sure that two stores go on the same way.
fn goes_on(old: &Path, new: &Path) {
    let [a, b] = [old, new].map(|path| Store::open(path, small()).unwrap());
    assert!(b.recovery().clean && !b.recovery().created);
    for id in 0..12 {
        let id = AppendId::from_name(&[id]);
        assert_eq!(block_on(a.find_append(id)).unwrap(), block_on(b.find_append(id)).unwrap());
    }
    for (n, stream) in (0..).zip(streams()) {
        let new = || {
            NewEvent::new(
                stream.clone(),
                EventType::new("more").unwrap(),
                CodecId::RAW,
                vec![n; 9_000],
            )
        };
        let append = || Append::new([new()]);
        let [done_a, done_b] = [&a, &b].map(|store| store.append_blocking(append()).unwrap());
        assert_eq!(done_a, done_b);
        let [end_a, end_b] =
            [&a, &b].map(|store| block_on(store.stream_revision(&stream)).unwrap());
        assert_eq!(end_a, end_b);
    }
    for n in 0..3 {
        // A group that comes anew gets no generation that one of its name had.
        let open = |store: &Store| {
            let _ = block_on(store.delete_group(&group_name(n)));
            let opened = store.open_group(NewGroup::consumer(group_name(n)).start(Start::End));
            block_on(opened).unwrap().generation
        };
        let (a, b) = (open(&a), open(&b));
        assert!(b > Generation::NONE);
        assert_eq!(a, b);
    }
    a.close().unwrap();
    b.close().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn an_import_is_the_log_that_was_exported(operations in prop::collection::vec(operation(), 0..90)) {
        let dir = temp();
        let old = dir.path().join("old");
        let mut store = Store::open(&old, small()).unwrap();
        for operation in &operations {
            work(&mut store, &old, operation);
        }
        // Beside the writer too.
        let beside = export(&old);
        store.close().unwrap();
        let lines = export(&old);
        prop_assert_eq!(&beside, &lines);

        let (clone, same_log) = (dir.path().join("clone"), dir.path().join("same"));
        let made = import(&clone, &lines, ImportedId::New).unwrap();
        prop_assert_ne!(made.log, made.into);
        import(&same_log, &lines, ImportedId::Kept).unwrap();
        same(&old, &clone);
        same(&old, &same_log);
        prop_assert_eq!(&export(&same_log), &lines);
        goes_on(&old, &same_log);
    }
}

/// A log with everything that an export has a line for: 3 lines before the events, 8 events, and a
/// group and the end behind them.
fn small_log(dir: &Path) -> Vec<u8> {
    let mut store = Store::open(dir, small()).unwrap();
    for _ in 0..4 {
        let fills = event("gone-1", "t", &"x".repeat(15_200));
        store.append_blocking(Append::new([fills])).unwrap();
    }
    for (name, count) in [("a-1", 3), ("a-2", 2), ("a-1", 1)] {
        let events = (0..count).map(|_| event(name, "t", "x"));
        let id = AppendId::from_name(&[count]);
        let append = Append::new(events).with_id(id);
        store.append_blocking(append).unwrap();
        let json = NewEvent::json(stream("j-1"), EventType::new("t").unwrap(), &[1, 2]).unwrap();
        if count > 1 {
            store.append_blocking(Append::new([json])).unwrap();
        }
    }
    work(&mut store, dir, &Operation::Remove(255, true));
    work(&mut store, dir, &Operation::Group(0, Progress::Open { from_start: true }));
    store.close().unwrap();
    export(dir)
}

/// Makes sure that lines are refused, and that nothing is left of them.
fn refused(dir: &Path, lines: &[u8]) -> ImportError {
    let path = dir.join("refused");
    let error = import(&path, lines, ImportedId::Kept).expect_err("these are not the lines");
    // Missing as before, or with the file that locks.
    let left: Vec<_> = std::fs::read_dir(&path).into_iter().flatten().collect();
    let left: Vec<_> = left.into_iter().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty() || left == ["LOCK"], "{error}: {left:?}");
    let opened = Store::open(&path, Options { mode: OpenMode::Open, ..small() });
    assert!(matches!(opened, Err(OpenError::NotFound { .. })), "{opened:?}");
    error
}

fn split(lines: &[u8]) -> Vec<Vec<u8>> {
    lines.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
}

#[test]
fn a_truncated_export_is_refused_and_leaves_nothing() {
    let dir = temp();
    let lines = small_log(&dir.path().join("old"));
    assert_eq!(split(&lines).len(), 13);
    let mut end = 0;
    for (whole, line) in (0..).zip(split(&lines)) {
        for len in [end, end + 1, end + line.len() / 2, end + line.len() - 1] {
            let error = refused(dir.path(), &lines[..len]);
            assert!(
                matches!(error, ImportError::CutOff { lines } if lines == whole),
                "{len}: {error}"
            );
        }
        end += line.len();
    }
    import(&dir.path().join("refused"), &lines, ImportedId::Kept).unwrap();
}

#[test]
fn a_line_that_is_missing_repeated_or_moved_is_named() {
    let dir = temp();
    let lines = split(&small_log(&dir.path().join("old")));
    let line_of = |error: &ImportError| match *error {
        ImportError::Line { line, .. } | ImportError::Misplaced { line, .. } => line,
        _ => 0,
    };
    for at in 0..lines.len() {
        let mut missing = lines.clone();
        missing.remove(at);
        let error = refused(dir.path(), &missing.concat());
        let is_last = at + 1 == lines.len();
        assert!(line_of(&error) == at as u64 + 1 || is_last, "{at} is missing: {error}");
        let mut repeated = lines.clone();
        repeated.insert(at, lines[at].clone());
        let error = refused(dir.path(), &repeated.concat());
        assert_eq!(line_of(&error), at as u64 + 2, "{at} is repeated: {error}");
        if !is_last {
            let mut moved = lines.clone();
            moved.swap(at, at + 1);
            let error = refused(dir.path(), &moved.concat());
            assert!(line_of(&error).abs_diff(at as u64 + 1) <= 1, "{at} is moved: {error}");
        }
    }
    let both = [lines.concat(), lines.concat()].concat();
    assert_eq!(line_of(&refused(dir.path(), &both)), lines.len() as u64 + 1);
}

#[test]
fn a_log_that_lost_where_its_streams_ended_is_not_exported() {
    let dir = temp();
    small_log(dir.path());
    std::fs::remove_file(dir.path().join("TAILS")).unwrap();
    let store = ReadOnlyStore::open(dir.path()).unwrap();
    let error = store.export(std::io::sink(), |_| {}).unwrap_err();
    assert!(
        matches!(&error, ExportError::Damaged(OpenError::Io { path, .. }) if path.ends_with("TAILS")),
        "{error:?}"
    );
}

#[test]
fn a_group_that_no_import_would_take_is_not_exported() {
    let dir = temp();
    small_log(dir.path());
    let before = temp();
    copy_store(dir.path(), before.path());
    let store = Store::open(dir.path(), small()).unwrap();
    store.append_blocking(one("a-1", "the group reads it")).unwrap();
    let generation = block_on(store.claim_slots(&group_name(0), vec![SlotRange::all()])).unwrap();
    let [floor, first, last] = [5, 7, 13].map(Position::new);
    let progress =
        SlotProgress { floor, settled: vec![(first, last)], generation, ..SlotProgress::default() };
    let commit = SlotCommit { slots: SlotRange::all(), progress };
    block_on(store.commit_slots(&group_name(0), vec![commit])).unwrap();
    store.close().unwrap();
    // The log comes back without it, and the groups stay as they are.
    for name in ["CATALOG", "log"] {
        let (from, to) = (before.path().join(name), dir.path().join(name));
        if from.is_dir() {
            copy_store(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
    let store = ReadOnlyStore::open(dir.path()).unwrap();
    assert_eq!(store.head(), Position::new(12));
    let error = store.export(std::io::sink(), |_| {}).unwrap_err();
    let ExportError::Damaged(error) = error else { panic!("{error:?}") };
    assert!(error.to_string().contains("offsets cannot be read: group g"), "{error}");
}

/// Replaces one text by another in a line, and signs the whole anew.
fn changed(lines: &[u8], line: usize, from: &str, to: &str) -> Vec<u8> {
    let mut lines = split(lines);
    let text = String::from_utf8(lines[line].clone()).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    lines[line] = text.replacen(from, to, 1).into_bytes();
    let end = lines.pop().unwrap();
    let digest = xxhash_rust::xxh3::xxh3_128(&lines.concat());
    let mut end: serde_json::Value = serde_json::from_slice(&end).unwrap();
    end["data"]["xxh3"] = format!("{digest:032x}").into();
    lines.push(format!("{end}\n").into_bytes());
    lines.concat()
}

#[test]
fn a_line_that_no_export_writes_is_refused_with_its_number_and_the_remedy() {
    let dir = temp();
    let lines = small_log(&dir.path().join("old"));
    import(&dir.path().join("signed"), &changed(&lines, 5, "\"id\"", "\"id\""), ImportedId::New)
        .unwrap();
    for (line, from, to, words) in [
        (0, "\"version\":1", "\"version\":2", "version 2, and this program reads up to 1"),
        (0, "\"version\":1", "\"version\":\"x\"", "line 1: data: invalid type"),
        (0, "urn:uuid:", "urn:x:", "line 1: source is not urn:uuid:"),
        (0, "\"start\":4,", "\"start\":100,", "line 1: the log ends before it starts"),
        (0, "\"offsets\":2", "\"offsets\":1", "line 1: there are more groups"),
        (
            0,
            "\"offsets\":2",
            "\"offsets\":18446744073709551615",
            "line 1: the log of the groups ends beyond",
        ),
        (0, "\"start\":4,", "\"start\":0,", "line 1: nothing was removed"),
        (1, "\"position\":4", "\"position\":5", "line 2: the ends of removed streams"),
        (4, "\"1.0\"", "\"0.3\"", "line 5: specversion is not 1.0"),
        (4, "urn:uuid:", "urn:uuid:0", "line 5: source is not that of the first line"),
        (
            4,
            "\"codec\"",
            "\"extra\":1,\"codec\"",
            "line 5: not a line of an export: unknown field `extra`",
        ),
        (4, "\"codec\":0", "\"codec\":256", "line 5: not a line of an export: invalid value"),
        (4, ",\"codec\":0", "", "line 5: an event has the attribute codec"),
        (4, "\"position\":\"6\"", "\"position\":\"-6\"", "line 5: position: invalid digit"),
        (
            4,
            "\"position\":\"6\"",
            "\"position\":6",
            "line 5: not a line of an export: invalid type",
        ),
        (4, "\"data_base64\":\"eA==\"", "\"data_base64\":\"eA=\"", "line 5: data_base64: "),
        (4, "\"data_base64\":\"eA==\"", "\"data_base64\":\"eB==\"", "line 5: data_base64: "),
        (
            4,
            "\"data_base64\":\"eA==\"",
            "\"data\":null",
            "line 5: data is JSON, and the codec is not 1",
        ),
        (4, ",\"data_base64\":\"eA==\"", "", "line 5: an event has either data or data_base64"),
        (4, "\"subject\":\"a-1\"", "\"subject\":\"a 1\"", "line 5: subject: "),
        (4, "\"time\":\"2", "\"time\":\"x", "line 5: time: "),
        (4, "\"inner\"", "\"middle\"", "line 5: batch is not first, inner or last"),
        (4, "\"inner\"", "\"first\"", "line 5: an append lacks its first or its last event"),
        (4, "\"committime\":\"20", "\"committime\":\"21", "line 5: the events of an append differ"),
        (
            4,
            "\"revision\":\"2\"",
            "\"revision\":\"3\"",
            "line 5: revision 3 of stream a-1 stands where 2 is due",
        ),
        (
            4,
            "\"revision\"",
            "\"previous\":\"2\",\"revision\"",
            "line 5: stream a-1 cannot go on from position 2",
        ),
        (6, "\"committime\":\"20", "\"committime\":\"19", "line 7: it was committed earlier"),
        (8, "\"last\"", "\"inner\"", "line 10: an append lacks its"),
        (10, "\"revision\":\"4\"", "\"revision\":\"1\"", "line 11: revision 1 of stream a-1"),
        (11, "\"generation\":1", "\"generation\":2", "line 12: its generation lies beyond"),
        (11, "\"generation\":1}]", "\"generation\":2}]", "line 12: a run has a gen"),
        (11, "\"floor\":4", "\"floor\":13", "line 12: a run has settled what lies beyond"),
        (11, "\"settled\":[]", "\"settled\":[[13,13]]", "line 12: a run has settled what lies be"),
        (11, "\"settled\":[]", "\"settled\":[[4,5]]", "line 12: what a run has settled is not"),
        (11, "\"settled\":[]", "\"settled\":[[7,6]]", "line 12: what a run has settled is not"),
        (11, "\"settled\":[]", "\"settled\":[[9,9],[6,7]]", "line 12: what a run has settled is"),
        (11, "\"settled\":[]", "\"settled\":[[6,7],[7,9]]", "line 12: what a run has settled is"),
        (11, "[0,1023]", "[0,1022]", "line 12: the runs do not reach to the last slot"),
        (11, "[0,1023]", "[1,1023]", "line 12: the runs of slots have a hole or overlap"),
        (11, "[0,1023]", "[0,1024]", "line 12: data: slot 1024 does not exist"),
    ] {
        let error = refused(dir.path(), &changed(&lines, line, from, to)).to_string();
        assert!(error.contains(words), "{from} as {to}: {error}");
        let remedy = ["again", "use a newer program"].iter().any(|remedy| error.contains(remedy));
        assert!(remedy, "{error}");
    }
    for (input, words) in [
        (&b""[..], "cut off behind line 0"),
        (b"\n", "line 1: not JSON"),
        (b"\x1f\x8b\x08\n", "line 1: not UTF-8 from byte 1 on"),
        (b"{\"stream\":\"a-1\"}\n", "line 1: not a line of an export"),
    ] {
        let error = refused(dir.path(), input).to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn an_import_needs_a_place_of_its_own() {
    let dir = temp();
    let old = dir.path().join("old");
    let lines = small_log(&old);
    let error = import(&old, &lines, ImportedId::New).unwrap_err();
    assert!(matches!(error, ImportError::Target(OpenError::Exists { .. })), "{error}");
    assert_eq!(export(&old), lines);
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("thesis.txt"), "x").unwrap();
    let error = import(&other, &lines, ImportedId::New).unwrap_err();
    assert!(matches!(error, ImportError::Target(OpenError::NotAStore { .. })), "{error}");
    assert_eq!(std::fs::read(other.join("thesis.txt")).unwrap(), b"x");
}
