//! Index files: their answers are those of a walk over the log, and they are never trusted.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use headwater_core::{
    Append, AppendId, Category, Condition, CorrelationId, Direction, Durability, EventId, EventLog,
    EventType, ExpectedRevision, Position, Query, Read, ReadError, RecordedEvent, Revision,
    StreamId, Timestamp, Visibility,
};
use headwater_store::{Cutoff, Follower, Options, Passing, ReadOnlyStore, Store};
use pollster::block_on;
use proptest::prelude::*;

use crate::common::*;
use crate::damage::copy_store;

/// The index files of a store, oldest first.
fn index_files(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "idx")).collect();
    files.sort();
    files
}

fn types() -> [EventType; 3] {
    ["opened", "changed", "closed"].map(|name| EventType::new(name).unwrap())
}

fn flow(n: usize) -> CorrelationId {
    CorrelationId::from_bytes([u8::try_from(n).unwrap(); 16])
}

/// Queries of every kind over what [`fill`] appends.
fn queries() -> Vec<Query> {
    let [opened, changed, _] = types();
    let category = |name| Query::category(Category::new(name).unwrap());
    vec![
        Query::all(),
        Query::stream(stream("order-7")),
        Query::stream(stream("order-none")),
        category("user"),
        Query::types([opened.clone()]),
        Query::types([opened.clone(), changed.clone()]),
        Query::tags([tag("t:3")]),
        Query::flows([flow(3)]),
        Query::flows([flow(4), flow(7), flow(99)]).and_types([changed.clone()]),
        Query::tags([tag("t:3")]).and_types([changed]),
        Query::tags([tag("t:1"), tag("t:2")]).or(category("user").and_types([opened])),
    ]
}

/// Appends `count` events of 40 streams in batches of every size.
fn fill(store: &Store, count: usize) {
    let mut n = 0;
    while n < count {
        let batch = (n * 7) % 13 + 1;
        let events = (0..batch).map(|_| {
            n += 1;
            let category = if n.is_multiple_of(5) { "user" } else { "order" };
            let name = format!("{category}-{}", (n * 31) % 20);
            let mut new = event(&name, types()[n % 3].as_str(), &"x".repeat((n * 17) % 300));
            // Of the fourth part of the events the cause alone is known.
            new.correlation_id = (!n.is_multiple_of(4)).then(|| flow(n % 10));
            new.causation_id =
                n.is_multiple_of(2).then(|| EventId::from_bytes(*flow(n % 9).as_bytes()));
            new.tags = vec![tag(&format!("t:{}", n % 6)), tag(&format!("t:{}", n % 4))];
            new
        });
        let append = Append::new(events.collect::<Vec<_>>());
        store.append_blocking(append.with_id(AppendId::generate())).unwrap();
    }
}

/// Compares every way to ask with a walk over everything.
fn agrees(read: impl Fn(&Read) -> Result<headwater_core::Page, ReadError> + Copy) {
    let all = read_all(|r| read(r).unwrap(), &Query::all(), 1000);
    for query in queries() {
        let mut expected: Vec<RecordedEvent> =
            all.iter().filter(|event| query.matches(*event)).cloned().collect();
        for limit in [3, 200] {
            assert_eq!(read_all(|r| read(r).unwrap(), &query, limit), expected, "{query:?}");
        }
        expected.reverse();
        assert_eq!(read_back(|r| read(r).unwrap(), &query, 7), expected, "{query:?}");
    }
}

fn filled() -> (tempfile::TempDir, Store) {
    let dir = temp();
    let store = open(&dir, small());
    fill(&store, 1_500);
    (dir, store)
}

#[test]
fn an_indexed_store_answers_like_a_walk() {
    let (_dir, store) = filled();
    agrees(|read| store.read_blocking(read));
    store.close().unwrap();
    let files = index_files(store.path());
    assert!(files.len() > 3, "{files:?}");
    let one = Options { open_segments: 1, ..small() };
    for options in [small(), one] {
        let again = Store::open(store.path(), options).unwrap();
        agrees(|read| again.read_blocking(read));
    }
    let reader = ReadOnlyStore::open(store.path()).unwrap();
    agrees(|read| reader.read(read));
}

#[test]
fn opening_reads_no_sealed_log_and_its_index_alone_answers() {
    let (dir, store) = filled();
    let head = block_on(store.head(Visibility::Committed)).unwrap();
    store.close().unwrap();
    let copy = dir.path().join("copy");
    copy_store(store.path(), &copy);
    // Everything in the sealed segments but their headers is destroyed.
    for index in index_files(&copy) {
        let segment = index.with_extension("seg");
        let mut bytes = fs::read(&segment).unwrap();
        bytes[4096..].fill(0xEE);
        fs::write(&segment, bytes).unwrap();
    }
    let opened = Store::open(&copy, small()).unwrap();
    assert_eq!(block_on(opened.head(Visibility::Committed)).unwrap(), head);
    let first = opened.read_blocking(&Read::forward(Query::all(), Position::START));
    assert!(matches!(first, Err(ReadError::Damaged { .. })), "{first:?}");
    let last = opened.read_blocking(&Read::backward(Query::all(), Position::MAX).limit(1));
    assert_eq!(last.unwrap().events[0].position, head);
}

/// The types of all events in the order in which they first appeared, by a walk.
fn walked_types(store: &Store) -> Vec<EventType> {
    let start = block_on(store.start()).unwrap();
    let read = |read: &Read| match read.direction {
        Direction::After(after) if after < start => {
            store.read_blocking(&Read::forward(Query::all(), start)).unwrap()
        }
        _ => store.read_blocking(read).unwrap(),
    };
    let mut found = Vec::new();
    for event in read_all(read, &Query::all(), 1_000) {
        if !found.contains(&event.event_type) {
            found.push(event.event_type);
        }
    }
    found
}

#[test]
fn the_types_of_a_log_are_those_that_a_walk_finds() {
    let dir = temp();
    let store = open(&dir, small());
    let check = |store: &Store, count: usize| {
        let found = block_on(store.event_types()).unwrap();
        assert_eq!((found.len(), &found), (count, &walked_types(store)));
    };
    check(&store, 0);
    let rare = |n: usize| {
        let event = event("user-rare", &format!("rare.{n}"), "x");
        block_on(store.append(Append::new([event]))).unwrap();
    };
    for n in 0..200 {
        fill(&store, 20);
        if n % 3 == 0 {
            rare(n);
        }
    }
    rare(200);
    check(&store, 3 + 67 + 1);
    let follower = Follower::open(store.path()).unwrap();
    assert_eq!(block_on(follower.event_types()).unwrap(), walked_types(&store));
    store.remove(Cutoff::Through(Position::new(2_000)), Passing::Refuse).unwrap();
    let left = walked_types(&store);
    assert!((20..60).contains(&left.len()), "{}", left.len());
    check(&store, left.len());
    store.close().unwrap();
    let again = Store::open(store.path(), small()).unwrap();
    check(&again, left.len());
}

#[test]
fn a_type_with_more_events_than_are_crossed_out_at_a_time_is_listed_once() {
    let dir = temp();
    let store = open(&dir, Options { durability: Durability::Os, ..Options::default() });
    let many = |name: &str, count: usize| {
        let events = (0..count).map(|_| event("order-1", name, ""));
        block_on(store.append(Append::new(events))).unwrap();
    };
    for _ in 0..14 {
        many("common", 10_000);
    }
    many("rare", 1);
    many("common", 10);
    let names = block_on(store.event_types()).unwrap();
    assert_eq!(names, ["common", "rare"].map(|name| EventType::new(name).unwrap()));
}

#[test]
fn types_that_are_known_are_not_looked_for_in_the_log() {
    let (dir, store) = filled();
    store.close().unwrap();
    let copy = dir.path().join("copy");
    copy_store(store.path(), &copy);
    // The first segment has an event of each type. Of the others all but the headers is destroyed.
    for index in &index_files(&copy)[1..] {
        let segment = index.with_extension("seg");
        let mut bytes = fs::read(&segment).unwrap();
        bytes[4096..].fill(0xEE);
        fs::write(&segment, bytes).unwrap();
    }
    let opened = Store::open(&copy, small()).unwrap();
    let found = block_on(opened.event_types()).unwrap();
    assert_eq!(found, [1, 2, 0].map(|n| types()[n].clone()));
}

#[test]
fn a_bad_index_file_is_built_anew_and_never_believed() {
    let (dir, store) = filled();
    let expected = read_all(|r| store.read_blocking(r).unwrap(), &Query::all(), 1000);
    store.close().unwrap();
    let files = index_files(store.path());
    let (first, second) = (files[0].file_name().unwrap(), files[1].file_name().unwrap());
    let good = fs::read(&files[0]).unwrap();
    let foreign = fs::read(&files[1]).unwrap();
    let mut newer = good.clone();
    newer[8] = 9;
    let changes: Vec<(String, Vec<u8>)> = (0..good.len())
        .step_by(211)
        .map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            (format!("byte {at}"), bytes)
        })
        .chain([
            ("empty".to_owned(), Vec::new()),
            ("zeros".to_owned(), vec![0; good.len()]),
            ("ones".to_owned(), vec![0xFF; good.len()]),
            ("short".to_owned(), good[..good.len() - 1].to_vec()),
            ("long".to_owned(), [&good[..], &[0; 8]].concat()),
            ("of another segment".to_owned(), foreign),
            ("of another version".to_owned(), newer),
        ])
        .collect();
    let copy = dir.path().join("copy");
    copy_store(store.path(), &copy);
    for (what, bytes) in changes {
        let path = copy.join("log").join(first);
        fs::write(&path, &bytes).unwrap();
        // A reader changes nothing.
        let reader = ReadOnlyStore::open(&copy).unwrap();
        agrees(|read| reader.read(read));
        assert_eq!(fs::read(&path).unwrap(), bytes, "{what}");
        let opened = Store::open(&copy, small()).unwrap();
        let found = read_all(|r| opened.read_blocking(r).unwrap(), &Query::all(), 1000);
        assert_eq!(found, expected, "{what}");
        agrees(|read| opened.read_blocking(read));
    }
    // One of the version that listed no flows.
    let mut old = good.clone();
    assert_eq!(old[..8], *b"HWINDEX2");
    old[7] = b'1';
    let crc = crc32fast::hash(&old[..4092]);
    old[4092..4096].copy_from_slice(&crc.to_le_bytes());
    fs::write(copy.join("log").join(first), old).unwrap();
    let opened = Store::open(&copy, small()).unwrap();
    agrees(|read| opened.read_blocking(read));
    drop(opened);
    assert_eq!(fs::read(copy.join("log").join(first)).unwrap(), good, "of the version before");
    // An index of the same segment in another life of the store.
    fs::write(copy.join("log").join(second), fs::read(&files[1]).unwrap()).unwrap();
    fs::remove_file(copy.join("log").join(first)).unwrap();
    let opened = Store::open(&copy, small()).unwrap();
    agrees(|read| opened.read_blocking(read));
    assert_eq!(fs::read(copy.join("log").join(first)).unwrap(), good, "the same bytes again");
}

#[test]
fn the_newest_segment_is_indexed_when_the_store_is_closed() {
    let dir = temp();
    let store = open(&dir, Options { segment_bytes: 16 << 20, ..small() });
    for _ in 0..4 {
        fill(&store, 4_000);
    }
    store.close().unwrap();
    assert_eq!(index_files(store.path()).len(), 1);
    let copy = dir.path().join("copy");
    copy_store(store.path(), &copy);
    // Walked from the end of what the file covers: what lies before is not looked at.
    let segment = index_files(&copy)[0].with_extension("seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8192] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let opened = Store::open(&copy, small()).unwrap();
    let first = opened.read_blocking(&Read::forward(Query::all(), Position::START));
    assert!(matches!(first, Err(ReadError::Damaged { .. })), "{first:?}");

    let again = open(&dir, Options { segment_bytes: 16 << 20, ..small() });
    fill(&again, 500);
    agrees(|read| again.read_blocking(read));
    // Behind the file there is something in memory, and both go into the next file.
    let before = fs::read(&index_files(again.path())[0]).unwrap();
    let big = "x".repeat(3 << 20);
    for _ in 0..5 {
        again.append_blocking(one("big-1", &big)).unwrap();
    }
    again.close().unwrap();
    let after = fs::read(&index_files(again.path())[0]).unwrap();
    assert!(after.len() > before.len(), "{} and {} bytes", before.len(), after.len());
    let last = Store::open(store.path(), small()).unwrap();
    agrees(|read| last.read_blocking(read));
}

#[test]
fn an_append_id_is_found_in_sealed_segments_and_forgotten_beyond_the_window() {
    let dir = temp();
    let store = open(&dir, small());
    let id = |n: u32| AppendId::from_name(&n.to_le_bytes());
    let append = |n: u32| {
        let events = [event("a-1", "t", &"x".repeat(3_000)), event("a-2", "t", &n.to_string())];
        Append::new(events).with_id(id(n))
    };
    for n in 0..60 {
        store.append_blocking(append(n)).unwrap();
    }
    store.close().unwrap();
    assert!(index_files(store.path()).len() > 1);
    for window in [0_u8, 1, 30, 59, 60, 200] {
        let store = open(&dir, Options { idempotency_window: window.into(), ..small() });
        for n in 0..60 {
            let found = block_on(store.find_append(id(n))).unwrap();
            let first = u64::from(2 * n + 1);
            let expected = (60 - n <= window.into()).then_some((first, first + 1, true));
            let found = found.map(|done| (done.first.get(), done.last.get(), done.deduplicated));
            assert_eq!(found, expected, "{n} of the newest {window}");
        }
        store.close().unwrap();
    }
}

/// Two streams that the index cannot tell apart. It knows names by 32 bits: among some hundred
/// thousand, two are alike.
fn colliding() -> (String, String) {
    let mut seen = HashMap::new();
    (0..1_000_000_u32)
        .find_map(|n| {
            let hash = xxhash_rust::xxh3::xxh3_64_with_seed(format!("s-{n}").as_bytes(), 1) >> 32;
            seen.insert(hash, n).map(|other| (format!("s-{other}"), format!("s-{n}")))
        })
        .expect("the birthday paradox")
}

#[test]
fn a_stream_that_lost_its_beginning_is_noticed_behind_much_of_another() {
    let dir = temp();
    let options = Options { segment_bytes: 4 * 1024 * 1024, ..small() };
    let store = open(&dir, options);
    let (a, b) = colliding();
    store.append_blocking(one(&b, "removed")).unwrap();
    // More than a page looks at before it hands back what it has.
    for _ in 0..150 {
        store.append_blocking(one(&a, &"x".repeat(128 * 1024))).unwrap();
    }
    store.append_blocking(one(&b, "kept")).unwrap();
    store.remove(Cutoff::Through(Position::new(40)), Passing::Force).unwrap();
    let start = block_on(store.start()).unwrap();
    assert!(start > Position::START && start < Position::new(41), "{start}");
    let read = Read::forward(Query::stream(stream(&b)), Position::START);
    let error = store.read_blocking(&read).unwrap_err();
    assert!(matches!(error, ReadError::BelowStart { .. }), "{error}");
}

#[test]
fn names_whose_hashes_collide_keep_their_own_events() {
    let dir = temp();
    let store = open(&dir, small());
    let (a, b) = colliding();
    let revision = |store: &Store, name: &str| block_on(store.stream_revision(&stream(name)));
    for n in 0..200_usize {
        let append = one(&a, &"x".repeat(500 + n));
        store.append_blocking(append).unwrap();
    }
    assert_eq!(revision(&store, &b).unwrap(), Revision::NONE);
    let absent = Condition::stream(stream(&b), ExpectedRevision::NoStream);
    store.append_blocking(one(&b, "mine").under(absent)).unwrap();
    store.append_blocking(one(&a, "yours")).unwrap();
    for store in [&store, &{
        store.close().unwrap();
        open(&dir, small())
    }] {
        assert_eq!(revision(store, &a).unwrap().get(), 201);
        assert_eq!(revision(store, &b).unwrap().get(), 1);
        let query = Query::stream(stream(&b));
        let found = read_all(|r| store.read_blocking(r).unwrap(), &query, 10);
        assert_eq!(payloads(&found), ["mine"]);
    }
}

#[test]
fn a_moment_is_found_in_every_segment() {
    let (dir, store) = filled();
    let check = |store: &Store| {
        let all = read_all(|r| store.read_blocking(r).unwrap(), &Query::all(), 1000);
        let last = |time: Timestamp| {
            let before = all.iter().rev().find(|event| event.commit_time <= time);
            before.map_or(Position::START, |event| event.position)
        };
        let nanos = all.iter().map(|event| event.commit_time.as_nanos());
        for time in nanos.flat_map(|nanos| [nanos - 1, nanos, nanos + 1]).chain([0, i64::MAX]) {
            let time = Timestamp::from_nanos(time);
            assert_eq!(store.position_at(time).unwrap(), last(time), "{time:?}");
        }
    };
    check(&store);
    store.close().unwrap();
    check(&open(&dir, small()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn postings_of_any_shape_come_back(gaps in prop::collection::vec(
        prop_oneof![6 => Just(1_usize), 3 => 2..40_usize, 1 => 100..400_usize], 1..60))
    {
        let dir = temp();
        let store = open(&dir, Options { segment_bytes: 1 << 20, ..small() });
        let (mut rare, mut n) = (Vec::new(), 0);
        for gap in gaps {
            let events: Vec<_> = (0..gap).map(|at| {
                let name = if at == 0 { "rare-1" } else { "often-1" };
                event(name, "t", "x")
            }).collect();
            rare.push(n + 1);
            n += gap as u64;
            store.append_blocking(Append::new(events)).unwrap();
        }
        // Seals the segment.
        for _ in 0..6 {
            store.append_blocking(one("big-1", &"x".repeat(200_000))).unwrap();
        }
        store.close().unwrap();
        prop_assert!(!index_files(store.path()).is_empty());
        let store = open(&dir, small());
        let query = Query::stream(StreamId::new("rare-1").unwrap());
        let positions = |events: Vec<RecordedEvent>| -> Vec<u64> {
            events.iter().map(|event| event.position.get()).collect()
        };
        let page = |r: &Read| store.read_blocking(r).unwrap();
        prop_assert_eq!(&positions(read_all(page, &query, 2)), &rare);
        rare.reverse();
        prop_assert_eq!(&positions(read_back(page, &query, 5)), &rare);
        let category = Query::category(Category::new("often").unwrap());
        prop_assert_eq!(read_all(page, &category, 50).len() as u64, n - rare.len() as u64);
    }
}

#[test]
fn the_newest_segment_is_indexed_on_the_way_and_believed_only_where_it_was_durable() {
    for durability in [Durability::Sync, Durability::Os] {
        let dir = temp();
        let store = open(&dir, Options { segment_bytes: 8 << 20, durability, ..small() });
        let big = "x".repeat(100_000);
        let mut n = 0;
        while index_files(store.path()).is_empty() {
            n += 1;
            assert!(n < 1_000_000, "half of a segment, and nothing of its index is in a file");
            if n > 40 {
                // Half of the segment: the thread that writes the file has had its cue.
                std::thread::yield_now();
                continue;
            }
            store.append_blocking(one(&format!("a-{}", n % 5), &big)).unwrap();
            fill(&store, 20);
        }
        agrees(|read| store.read_blocking(read));
        // Killed, and the part that the file covers damaged.
        let killed = dir.path().join("killed");
        copy_store(store.path(), &killed);
        agrees(|read| Store::open(&killed, small()).unwrap().read_blocking(read));
        let copy = dir.path().join("copy");
        copy_store(store.path(), &copy);
        let segment = index_files(&copy)[0].with_extension("seg");
        let mut bytes = fs::read(&segment).unwrap();
        bytes[8192] ^= 1;
        fs::write(&segment, bytes).unwrap();
        let opened = Store::open(&copy, small());
        assert_eq!(opened.is_ok(), durability == Durability::Sync, "{durability:?}");
    }
}
