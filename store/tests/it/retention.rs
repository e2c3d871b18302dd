//! Removing the beginning of the log.

use std::fs;
use std::path::Path;
use std::time::Duration;

use headwater_core::{
    Append, AppendError, Condition, EventLog, ExpectedRevision, GroupLog, GroupName, NewGroup,
    Position, Query, Read, ReadError, Revision, SlotCommit, SlotProgress, SlotRange, Start,
    Timestamp,
};
use headwater_store::{Cutoff, OpenError, Options, Passing, ReadOnlyStore, Retention, Store};
use pollster::block_on;

use crate::common::*;
use crate::damage::copy_store;

/// A store of 24 events in six segments: `old-1` has only the first two, `long-1` every third.
fn six_segments() -> (tempfile::TempDir, Store) {
    let dir = temp();
    let store = open(&dir, small());
    for n in 1..=24 {
        let name = match n {
            1 | 2 => "old-1".to_owned(),
            n if n % 3 == 0 => "long-1".to_owned(),
            n => format!("new-{n}"),
        };
        store.append_blocking(one(&name, &"x".repeat(14_000))).unwrap();
    }
    (dir, store)
}

fn files(store: &Path, extension: &str) -> usize {
    let entries = fs::read_dir(store.join("log")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|found| found == extension)).count()
}

fn through(position: u64) -> Cutoff {
    Cutoff::Through(Position::new(position))
}

fn revision(store: &Store, name: &str) -> Revision {
    block_on(store.stream_revision(&stream(name))).unwrap()
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

#[test]
fn whole_segments_go_and_everything_else_stays() {
    let (dir, store) = six_segments();
    let all = read_all(|r| store.read_blocking(r).unwrap(), &Query::all(), 100);
    let would = store.would_remove(through(11), Passing::Refuse).unwrap().removed.unwrap();
    assert_eq!(
        (would.first, would.through, would.segments),
        (Position::FIRST, Position::new(8), 2)
    );
    assert_eq!(files(store.path(), "seg"), 6, "a dry run removes nothing");

    let report = store.remove(through(11), Passing::Refuse).unwrap();
    let removed = report.removed.unwrap();
    assert_eq!((removed.through, report.held_by), (Position::new(8), vec![]));
    assert_eq!(files(store.path(), "seg"), 4);
    let check = |store: &Store| {
        assert_eq!(block_on(store.start()).unwrap(), Position::new(8));
        let mut rest = Vec::new();
        let mut after = Position::new(8);
        while after < Position::new(24) {
            let page = store.read_blocking(&Read::forward(Query::all(), after).limit(5)).unwrap();
            (rest, after) = ([rest, page.events].concat(), page.scanned);
        }
        assert_eq!(rest, all[8..]);
        let back = read_back(|r| store.read_blocking(r).unwrap(), &Query::all(), 5);
        assert_eq!(back.len(), 16);
        // Below the start is an error that says where it is.
        for after in [0, 3, 7] {
            let read = Read::forward(Query::all(), Position::new(after));
            let error = store.read_blocking(&read).unwrap_err();
            assert!(
                matches!(error, ReadError::BelowStart { start, .. } if start == Position::new(8)),
                "{error}"
            );
            assert!(matches!(store.scan(Position::new(after)), Err(ReadError::BelowStart { .. })));
        }
        let below = Read::backward(Query::all(), Position::new(8));
        assert!(matches!(store.read_blocking(&below), Err(ReadError::BelowStart { .. })));
        let mut scan = store.scan(Position::new(8)).unwrap();
        assert_eq!(scan.next().unwrap().unwrap().position(), Position::new(9));
        // A stream that lost nothing can be loaded whole, one that lost a part cannot.
        let load = |name: &str| {
            let read = Read::forward(Query::stream(stream(name)), Position::START);
            store.read_blocking(&read).map(|page| page.events.len())
        };
        assert_eq!(load("new-10").unwrap(), 1);
        assert_eq!(load("never-1").unwrap(), 0);
        for lost in ["long-1", "old-1", "new-4"] {
            assert!(matches!(load(lost), Err(ReadError::BelowStart { .. })), "{lost}");
        }
        // Revisions go on, also where nothing of a stream is left.
        assert_eq!(revision(store, "old-1"), Revision::new(2));
        assert_eq!(revision(store, "new-4"), Revision::FIRST);
        assert_eq!(revision(store, "long-1"), Revision::new(8));
        assert_eq!(revision(store, "never-1"), Revision::NONE);
    };
    check(&store);
    let killed = dir.path().join("killed");
    copy_store(store.path(), &killed);
    store.close().unwrap();
    assert_eq!((files(store.path(), "seg"), files(store.path(), "idx")), (4, 3));
    for path in [store.path(), &killed] {
        check(&Store::open(path, small()).unwrap());
    }
    let again = open(&dir, small());
    assert_eq!(again.ledger().unwrap(), [removed]);
    let reader = ReadOnlyStore::open(store.path()).unwrap();
    assert_eq!(reader.ledger().unwrap(), again.ledger().unwrap());
    let absent = Condition::stream(stream("old-1"), ExpectedRevision::NoStream);
    assert!(again.append_blocking(one("old-1", "x").under(absent)).is_err());
    let third = Condition::stream(stream("old-1"), ExpectedRevision::Exact(Revision::new(2)));
    again.append_blocking(one("old-1", "x").under(third)).unwrap();
    assert_eq!(revision(&again, "old-1"), Revision::new(3));
    // A second removal remembers the streams of the first.
    again.remove(through(20), Passing::Refuse).unwrap();
    assert_eq!(revision(&again, "new-4"), Revision::FIRST);
    assert_eq!(revision(&again, "new-11"), Revision::FIRST);
    assert_eq!(revision(&again, "old-1"), Revision::new(3));
    assert_eq!(again.ledger().unwrap().len(), 2);
}

#[test]
fn the_newest_segment_never_goes() {
    let (_dir, store) = six_segments();
    let report = store.remove(Cutoff::Through(Position::MAX), Passing::Force).unwrap();
    assert_eq!(report.removed.unwrap().through, Position::new(20));
    assert_eq!(store.remove(Cutoff::KeepBytes(0), Passing::Force).unwrap().removed, None);
    let condition = Condition::no_events(Query::all(), Position::new(5));
    let error = store.append_blocking(one("a-1", "x").under(condition)).unwrap_err();
    assert!(matches!(error, AppendError::Check(_)), "nobody knows: {error}");
}

#[test]
fn age_is_the_logs_own_and_size_counts_files() {
    let (_dir, store) = six_segments();
    let ninth = store.read_blocking(&Read::forward(Query::all(), Position::new(8)).limit(1));
    let time = ninth.unwrap().events[0].commit_time;
    let of = |cutoff| store.would_remove(cutoff, Passing::Refuse).unwrap().removed;
    assert_eq!(of(Cutoff::Before(time)).unwrap().through, Position::new(8));
    assert_eq!(of(Cutoff::Before(Timestamp::from_nanos(5))), None);
    assert_eq!(of(Cutoff::older_than(Duration::from_secs(3600))), None);
    assert_eq!(of(Cutoff::older_than(Duration::ZERO)).unwrap().through, Position::new(20));
    assert_eq!(of(Cutoff::KeepBytes(3 * 65_536)).unwrap().through, Position::new(12));
    assert_eq!(of(Cutoff::KeepBytes(3 * 65_536 - 1)).unwrap().through, Position::new(16));
    assert_eq!(of(Cutoff::KeepBytes(u64::MAX)), None);
}

#[test]
fn a_removal_goes_as_far_as_the_slowest_group_unless_forced() {
    let (_dir, store) = six_segments();
    block_on(store.pin(group("audit"), Position::new(9))).unwrap();
    block_on(store.open_group(NewGroup::consumer(group("ahead")).start(Start::End))).unwrap();
    let report = store.remove(through(20), Passing::Refuse).unwrap();
    assert_eq!(report.removed.unwrap().through, Position::new(8));
    assert_eq!(report.held_by, [(group("audit"), Position::new(9))]);
    let report = store.remove(through(20), Passing::Refuse).unwrap();
    assert_eq!((report.removed, report.held_by.len()), (None, 1));

    block_on(store.pin(group("audit"), Position::new(13))).unwrap();
    let report = store.remove(through(20), Passing::Refuse).unwrap();
    assert_eq!(report.removed.unwrap().through, Position::new(12));
    let report = store.remove(through(20), Passing::Force).unwrap();
    let removed = report.removed.unwrap();
    assert_eq!(removed.through, Position::new(16 + 4));
    assert_eq!(removed.passed, [(group("audit"), Position::new(13))]);
    block_on(store.unpin(&group("audit"))).unwrap();
    // What is left for a new group begins where the log starts.
    let state = block_on(store.open_group(NewGroup::consumer(group("late")))).unwrap();
    assert_eq!(state.floor(), Position::new(20));
}

#[test]
fn retention_follows_the_groups_by_itself() {
    let dir = temp();
    let retention = Retention { max_bytes: Some(2 * 65_536), ..Retention::default() };
    let store = open(&dir, Options { retention, ..small() });
    let name = group("g");
    block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
    let generation = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    let big = "x".repeat(14_000);
    for _ in 0..24 {
        store.append_blocking(one("a-1", &big)).unwrap();
    }
    assert_eq!(block_on(store.start()).unwrap(), Position::START, "the group has read nothing");
    let progress = SlotProgress { floor: Position::new(24), generation, ..SlotProgress::default() };
    let commit = SlotCommit { slots: SlotRange::all(), progress };
    block_on(store.commit_slots(&name, vec![commit])).unwrap();
    for _ in 0..4 {
        store.append_blocking(one("a-1", &big)).unwrap();
    }
    // Closing waits for whoever removes.
    store.close().unwrap();
    let store = open(&dir, Options { retention, ..small() });
    store.close().unwrap();
    assert!(block_on(store.start()).unwrap() >= Position::new(16));
    assert!(files(store.path(), "seg") <= 3);
}

#[test]
fn files_that_were_removed_and_come_back_are_removed_again() {
    let (dir, store) = six_segments();
    store.close().unwrap();
    let before = dir.path().join("before");
    copy_store(store.path(), &before);
    let store = open(&dir, small());
    store.remove(through(8), Passing::Refuse).unwrap();
    store.close().unwrap();
    // The crash came before the directory was synced.
    copy_store(&before.join("log"), &store.path().join("log"));
    let again = open(&dir, small());
    assert_eq!(files(again.path(), "seg"), 4);
    assert_eq!(block_on(again.start()).unwrap(), Position::new(8));
}

#[test]
fn a_missing_or_damaged_file_of_tails_is_named() {
    let (dir, store) = six_segments();
    store.remove(through(8), Passing::Refuse).unwrap();
    store.close().unwrap();
    let path = store.path().join("TAILS");
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(37) {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        fs::write(&path, bytes).unwrap();
        let store = open(&dir, small());
        let error = block_on(store.stream_revision(&stream("old-1"))).unwrap_err();
        assert!(
            matches!(&error, ReadError::Damaged { file, .. } if file.ends_with("TAILS")),
            "{error}"
        );
        let refused = store.append_blocking(Append::new([event("new-99", "t", "x")])).unwrap_err();
        assert!(matches!(refused, AppendError::Check(_)), "{refused}");
        assert_eq!(revision(&store, "long-1"), Revision::new(8), "it is in the log");
    }
    fs::write(&path, "").unwrap();
    let opened = open(&dir, small());
    assert!(block_on(opened.stream_revision(&stream("old-1"))).is_err());
    drop(opened);
    fs::remove_file(&path).unwrap();
    let error = Store::open(store.path(), small()).unwrap_err();
    assert!(matches!(&error, OpenError::Io { path, .. } if path.ends_with("TAILS")), "{error}");
}
