//! Appending, reading back, reopening.

use headwater_core::{
    AppendError, AppendId, Appended, Condition, Conflict, Durability, EventLog, ExpectedRevision,
    Headers, Key, Position, Query, Read, ReadError, Revision, Visibility,
};
use headwater_store::{OpenError, OpenMode, Options, ReadOnlyStore, Store};

use crate::common::*;

#[test]
fn an_event_comes_back_with_its_whole_envelope() {
    let dir = temp();
    let mut new = event("order-1", "order.placed", "payload");
    new.tags = vec![tag("b"), tag("a"), tag("b")];
    new.key = Some(Key::new("customer-7").unwrap());
    new.correlation_id = Some(new.id.into());
    new.causation_id = Some(new.id);
    let mut headers = Headers::new();
    headers.insert("traceparent", "00-1-2-3").unwrap();
    new.headers = headers;

    let store = open(&dir, small());
    store.append_blocking(headwater_core::Append::new([new.clone()])).unwrap();
    store.close().unwrap();
    let store = open(&dir, small());
    let page = store.read_blocking(&Read::forward(Query::all(), Position::START)).unwrap();
    let [event] = &page.events[..] else { panic!("{page:?}") };

    assert_eq!((event.position, event.revision), (Position::FIRST, Revision::FIRST));
    assert_eq!((event.id, event.event_time), (new.id, new.event_time));
    assert_eq!(event.tags, [tag("a"), tag("b")]);
    assert_eq!(event.slot, new.slot());
    assert_eq!((&event.key, &event.headers), (&new.key, &new.headers));
    assert_eq!(event.correlation_id, new.correlation_id);
    assert_eq!(event.causation_id, new.causation_id);
    assert_eq!(event.payload, new.payload);
    assert!(event.commit_time >= new.event_time);
}

#[test]
fn a_log_over_many_segments_reads_the_same_after_reopening() {
    let dir = temp();
    let store = open(&dir, small());
    let payload = "x".repeat(900);
    for n in 0..300 {
        let append = one(&format!("a-{}", n % 7), &format!("{n} {payload}"));
        store.append_blocking(append).unwrap();
    }
    let before = read_all(|r| store.read_blocking(r).unwrap(), &Query::all(), 64);
    assert_eq!(before.len(), 300);
    store.close().unwrap();
    let store = open(&dir, small());
    assert!(store.recovery().clean && store.recovery().segments > 4, "{:?}", store.recovery());
    assert_eq!(read_all(|r| store.read_blocking(r).unwrap(), &Query::all(), 7), before);
    let query = Query::stream(stream("a-3"));
    let forward = read_all(|r| store.read_blocking(r).unwrap(), &query, 5);
    let mut backward = read_back(|r| store.read_blocking(r).unwrap(), &query, 4);
    backward.reverse();
    assert_eq!(forward, backward);
    let revisions: Vec<u64> = forward.iter().map(|e| e.revision.get()).collect();
    assert_eq!(revisions, (1..=43).collect::<Vec<_>>());

    let mut scan = store.scan(Position::new(10)).unwrap();
    let mut at = 10;
    while let Some(event) = scan.next() {
        let event = event.unwrap();
        assert_eq!(event.to_event().unwrap(), before[at]);
        at += 1;
    }
    assert_eq!(at, 300);
}

#[test]
fn a_condition_is_checked_against_the_group_being_written() {
    let dir = temp();
    let store = open(&dir, small());
    let first = |p: &str| one("a-1", p).expecting(stream("a-1"), ExpectedRevision::NoStream);
    store.append_blocking(first("1")).unwrap();
    let error = store.append_blocking(first("2")).unwrap_err();
    assert!(matches!(error.as_conflict(), Some(Conflict::Stream { .. })), "{error}");
    let none = Condition::no_events(Query::stream(stream("a-1")), Position::START);
    let error = store.append_blocking(one("b-1", "3").under(none)).unwrap_err();
    assert!(matches!(error.as_conflict(), Some(Conflict::Query { .. })), "{error}");
    let done = store.append_blocking(one("b-1", "4")).unwrap();
    assert_eq!(done.first, Position::new(2), "a refused append burned a number");
}

#[test]
fn an_append_id_is_remembered_across_reopening() {
    let dir = temp();
    let id = AppendId::generate();
    let store = open(&dir, small());
    let first = store.append_blocking(one("a-1", "1").with_id(id)).unwrap();
    store.append_blocking(one("a-1", "2")).unwrap();
    store.close().unwrap();
    let store = open(&dir, small());
    let again = store.append_blocking(one("a-1", "1").with_id(id)).unwrap();
    assert_eq!(again, Appended { deduplicated: true, ..first });
    let error = store.append_blocking(one("a-1", "other").with_id(id)).unwrap_err();
    assert!(matches!(error, AppendError::AppendIdReused { .. }), "{error}");
}

#[test]
fn the_idempotency_window_forgets_the_oldest_first() {
    let dir = temp();
    let store = open(&dir, Options { idempotency_window: 2, ..small() });
    let ids: Vec<AppendId> = (0..3).map(|_| AppendId::generate()).collect();
    for id in &ids {
        store.append_blocking(one("a-1", "x").with_id(*id)).unwrap();
    }
    let again = |id| store.append_blocking(one("a-1", "x").with_id(id)).unwrap().deduplicated;
    assert!(again(ids[2]) && again(ids[1]));
    assert!(!again(ids[0]));
}

#[test]
fn a_second_writer_is_refused_with_the_process_id_of_the_first() {
    let dir = temp();
    let store = open(&dir, small());
    let error = Store::open(store.path(), small()).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, OpenError::Locked { pid: found, .. } if found == pid), "{error}");
    store.close().unwrap();
    assert!(Store::open(store.path(), small()).is_ok());
}

#[test]
fn opening_tells_missing_empty_and_foreign_directories_apart() {
    let dir = temp();
    let path = dir.path().join("store");
    let must_exist = Options { mode: OpenMode::Open, ..small() };
    let error = Store::open(&path, must_exist.clone()).unwrap_err();
    assert!(matches!(error, OpenError::NotFound { state: "missing", .. }), "{error}");
    std::fs::create_dir(&path).unwrap();
    let error = Store::open(&path, must_exist.clone()).unwrap_err();
    assert!(matches!(error, OpenError::NotFound { state: "empty", .. }), "{error}");
    std::fs::write(path.join("notes.txt"), "hello").unwrap();
    for options in [must_exist, small()] {
        let error = Store::open(&path, options).unwrap_err();
        assert!(
            matches!(&error, OpenError::NotAStore { detail, .. } if detail.contains("notes.txt"))
        );
    }
    std::fs::remove_file(path.join("notes.txt")).unwrap();
    Store::open(&path, small()).unwrap().close().unwrap();
    let error = Store::open(&path, Options { mode: OpenMode::Create, ..small() }).unwrap_err();
    assert!(matches!(error, OpenError::Exists { .. }), "{error}");
}

#[test]
fn a_store_that_lost_its_identity_is_refused_and_kept() {
    let dir = temp();
    let store = open(&dir, small());
    store.append_blocking(one("a-1", "1")).unwrap();
    store.close().unwrap();
    let path = store.path().to_owned();
    std::fs::remove_file(path.join("STORE")).unwrap();
    let error = Store::open(&path, small()).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    assert_eq!(std::fs::read_dir(path.join("log")).unwrap().count(), 1, "a segment was removed");
}

#[test]
fn every_durability_mode_keeps_what_was_closed() {
    for durability in [Durability::Sync, Durability::INTERVAL, Durability::Os] {
        let dir = temp();
        let store = open(&dir, Options { durability, ..small() });
        for n in 0..50 {
            store.append_blocking(one("a-1", &n.to_string())).unwrap();
        }
        let synced = store.append_blocking(one("a-1", "synced").synced()).unwrap();
        let durable = pollster::block_on(store.head(Visibility::Durable)).unwrap();
        assert_eq!(durable, synced.last, "{durability:?}");
        store.append_blocking(one("a-1", "last")).unwrap();
        assert_eq!(store.flush().unwrap(), Position::new(52));
        store.close().unwrap();
        let store = open(&dir, small());
        let all = read_all(|r| store.read_blocking(r).unwrap(), &Query::all(), 10);
        assert_eq!(all.len(), 52, "{durability:?}");
    }
}

#[test]
fn a_closed_store_takes_no_appends_and_still_reads() {
    let dir = temp();
    let store = open(&dir, small());
    store.append_blocking(one("a-1", "1")).unwrap();
    store.close().unwrap();
    store.close().unwrap();
    let error = store.append_blocking(one("a-1", "2")).unwrap_err();
    assert!(matches!(error, AppendError::Closed), "{error}");
    let read = Read::forward(Query::all(), Position::START);
    assert_eq!(store.read_blocking(&read).unwrap().events.len(), 1);
    let error = pollster::block_on(store.wait_for(Position::new(2), Visibility::Committed));
    assert!(matches!(error, Err(ReadError::Closed)), "{error:?}");
}

#[test]
fn a_reader_beside_the_writer_sees_a_growing_prefix() {
    let dir = temp();
    let store = open(&dir, small());
    let payload = "y".repeat(3000);
    store.append_blocking(one("a-1", &payload)).unwrap();
    let mut reader = ReadOnlyStore::open(store.path()).unwrap();
    assert_eq!(reader.head(), Position::FIRST);
    for n in 2..=60 {
        store.append_blocking(one("a-1", &payload)).unwrap();
        if n % 10 == 0 {
            assert_eq!(reader.refresh().unwrap(), Position::new(n));
        }
    }
    assert!(reader.segments().unwrap().len() > 2, "{:?}", reader.segments());
    assert!(reader.damage().is_none());
    let all = read_all(|r| reader.read(r).unwrap(), &Query::all(), 9);
    assert_eq!(all, read_all(|r| store.read_blocking(r).unwrap(), &Query::all(), 50));
}

#[test]
fn an_oversized_batch_names_the_limit_of_the_segment() {
    let dir = temp();
    let store = open(&dir, small());
    let error = store.append_blocking(one("a-1", &"z".repeat(20_000))).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, AppendError::Invalid(_)) && text.contains("16256"), "{text}");
    assert!(store.append_blocking(one("a-1", &"z".repeat(16_000))).is_ok());
}

#[test]
fn readers_of_durable_events_wait_for_the_sync() {
    let dir = temp();
    let store = open(&dir, Options { durability: Durability::Os, ..small() });
    let head = |visibility| pollster::block_on(store.head(visibility)).unwrap();
    store.append_blocking(one("a-1", "1")).unwrap();
    assert_eq!(head(Visibility::Committed), Position::FIRST);
    assert_eq!(head(Visibility::Durable), Position::START);
    let read = Read::forward(Query::all(), Position::START).visible(Visibility::Durable);
    let page = store.read_blocking(&read).unwrap();
    assert!(page.events.is_empty() && page.done);
    let back = Read::backward(Query::all(), Position::MAX).visible(Visibility::Durable);
    assert!(store.read_blocking(&back).unwrap().events.is_empty());
    store.flush().unwrap();
    assert_eq!(store.read_blocking(&read).unwrap().events.len(), 1);
    assert_eq!(store.read_blocking(&back).unwrap().events.len(), 1);
}

#[test]
fn each_writer_has_an_epoch_of_its_own() {
    let dir = temp();
    for epoch in 1..4 {
        let store = open(&dir, small());
        let reader = ReadOnlyStore::open(store.path()).unwrap();
        assert_eq!((reader.epoch(), reader.is_clean()), (epoch, false));
        store.close().unwrap();
        assert!(ReadOnlyStore::open(store.path()).unwrap().is_clean());
    }
}

#[test]
fn closing_makes_durable_what_others_wait_for() {
    let dir = temp();
    let store = open(&dir, Options { durability: Durability::Os, ..small() });
    store.append_blocking(one("a-1", "1")).unwrap();
    let waiter = store.clone();
    let waiting = std::thread::spawn(move || {
        pollster::block_on(waiter.wait_for(Position::FIRST, Visibility::Durable))
    });
    store.close().unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), Position::FIRST);
}

#[test]
fn an_interval_beyond_the_clock_is_as_good_as_never() {
    let dir = temp();
    let every = std::time::Duration::MAX;
    let durability = Durability::Interval { every, bytes: 1_000 };
    let store = open(&dir, Options { durability, ..small() });
    store.append_blocking(one("a-1", "1")).unwrap();
    let durable = store.append_blocking(one("a-1", &"x".repeat(2_000))).unwrap().last;
    // Enough bytes have come together.
    pollster::block_on(store.wait_for(durable, Visibility::Durable)).unwrap();
    store.close().unwrap();
}

#[test]
fn a_reader_beside_the_writer_knows_what_is_durable() {
    let dir = temp();
    let store = open(&dir, Options { durability: Durability::Os, ..small() });
    store.append_blocking(one("a-1", "1").synced()).unwrap();
    store.append_blocking(one("a-1", "2")).unwrap();
    let mut reader = ReadOnlyStore::open(store.path()).unwrap();
    let durable = Read::forward(Query::all(), Position::START).visible(Visibility::Durable);
    // The second frame says that the first is durable, and nobody says so of the second.
    assert_eq!(reader.read(&durable).unwrap().events.len(), 1);
    store.append_blocking(one("a-1", "3").synced()).unwrap();
    store.append_blocking(one("a-1", "4")).unwrap();
    assert_eq!(reader.refresh().unwrap(), Position::new(4));
    assert_eq!(reader.read(&durable).unwrap().events.len(), 3);
}

#[test]
fn the_bytes_between_positions_are_those_on_disk() {
    let dir = temp();
    let store = open(&dir, small());
    let wide = "x".repeat(1_000);
    for number in 0..400 {
        let payload = &wide[..(number * 37) % 1_000];
        store.append_blocking(one(&format!("a-{number}"), payload)).unwrap();
    }
    let between = |after: u64, through: u64| {
        let (after, through) = (Position::new(after), Position::new(through));
        pollster::block_on(store.bytes_between(after, through)).unwrap().unwrap()
    };
    let frames: u64 = ReadOnlyStore::open(store.path())
        .unwrap()
        .segments()
        .unwrap()
        .iter()
        .map(|segment| segment.used_bytes - 4_096)
        .sum();
    assert_eq!(between(0, 400), frames);
    assert_eq!((between(7, 7), between(9, 7)), (0, 0));
    for cut in 1..400 {
        assert_eq!(between(0, cut) + between(cut, 400), frames, "cut at {cut}");
        assert!(between(cut - 1, cut) > (cut - 1) * 37 % 1_000, "event {cut}");
    }
    let beyond = pollster::block_on(store.bytes_between(Position::START, Position::new(401)));
    assert!(matches!(beyond, Err(ReadError::BeyondHead { .. })), "{beyond:?}");
}
