//! Backing up and restoring through the public surface.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use headwater_core::{
    EventLog, GroupLog, GroupName, NewGroup, Position, Query, Read, RecordedEvent, Revision,
    SlotCommit, SlotProgress, SlotRange, Visibility,
};
use headwater_store::{
    BackupError, BackupProgress, Cutoff, OpenError, OpenMode, Options, Passing, ReadOnlyStore,
    Retention, Store, backup, restore,
};
use pollster::block_on;

use crate::common::*;

/// An event that says where it lies.
fn append(store: &Store, position: u64) {
    let name = format!("s-{}", position % 3);
    let payload = format!("{position} {}", "x".repeat(6_000));
    let done = store.append_blocking(one(&name, &payload)).unwrap();
    assert_eq!(done.last, Position::new(position));
}

fn filled(dir: &tempfile::TempDir, events: u64) -> Store {
    let store = open(dir, small());
    for position in 1..=events {
        append(&store, position);
    }
    store
}

fn existing() -> Options {
    Options { mode: OpenMode::Open, ..small() }
}

fn events(store: &Store) -> Vec<RecordedEvent> {
    let mut after = block_on(store.start()).unwrap();
    let mut events = Vec::new();
    loop {
        let page = store.read_blocking(&Read::forward(Query::all(), after)).unwrap();
        events.extend(page.events);
        after = page.scanned;
        if page.done {
            return events;
        }
    }
}

fn head(store: &Store) -> Position {
    block_on(store.head(Visibility::Committed)).unwrap()
}

fn group() -> GroupName {
    GroupName::new("g").unwrap()
}

/// Lets a group have read everything.
fn commit_group(store: &Store) {
    block_on(store.open_group(NewGroup::consumer(group()))).unwrap();
    let generation = block_on(store.claim_slots(&group(), vec![SlotRange::all()])).unwrap();
    let progress = SlotProgress { floor: head(store), generation, ..SlotProgress::default() };
    let commit = SlotCommit { slots: SlotRange::all(), progress };
    block_on(store.commit_slots(&group(), vec![commit])).unwrap();
}

/// Every file below a directory but the lock, with its inode and its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::metadata(&path).unwrap();
            if meta.is_dir() {
                left.push(path);
            } else if !path.ends_with("LOCK") {
                let name = path.strip_prefix(dir).unwrap().to_owned();
                found.insert(name, (meta.ino(), fs::read(&path).unwrap()));
            }
        }
    }
    found
}

fn none(_: BackupProgress) {}

#[test]
fn a_backup_is_the_log_as_it_was_and_shares_what_never_changes() {
    let dir = temp();
    let store = filled(&dir, 40);
    commit_group(&store);
    let into = dir.path().join("some/where/backup");
    let report = store.backup(&into).unwrap();
    let all = events(&store);
    append(&store, 41);
    commit_group(&store);

    assert_eq!((report.start, report.head), (Position::START, Position::new(40)));
    assert_eq!((report.id, report.groups), (EventLog::id(&store), 1));
    let (mine, copy) = (files(store.path()), files(&into));
    let shared: Vec<_> = copy.iter().filter(|(name, (ino, _))| mine[*name].0 == *ino).collect();
    let shared_bytes: usize = shared.iter().map(|(_, (_, bytes))| bytes.len()).sum();
    assert_eq!(report.linked_bytes, shared_bytes as u64);
    let segments = |suffix: &str| {
        let named = |name: &&PathBuf| {
            name.starts_with("log") && name.extension().is_some_and(|found| found == suffix)
        };
        copy.keys().filter(named).count()
    };
    assert_eq!(segments("seg"), report.segments);
    let linked = shared.iter().filter(|(name, _)| name.extension().is_some_and(|e| e == "seg"));
    assert_eq!(linked.count(), report.segments - 1, "all but the newest");
    assert!(report.segments > 3 && segments("idx") >= report.segments - 2);

    let verified = ReadOnlyStore::open_and_walk(&into).unwrap();
    assert!(verified.damage().is_none() && verified.groups_damage().is_none());
    assert_eq!(verified.groups()[0].floor(), Position::new(40));
    let opened = Store::open(&into, existing()).unwrap();
    assert_eq!(events(&opened), all);
    assert!(opened.recovery().cuts.is_empty());
    // What is written to the one does not show in the other.
    append(&opened, 41);
    assert!(!events(&opened)[40].payload.is_empty());
    for position in 42..60 {
        append(&opened, position);
    }
    opened.remove(Cutoff::Through(Position::new(30)), Passing::Force).unwrap();
    opened.close().unwrap();
    assert_eq!(events(&store)[..40], all);
    let after = files(store.path());
    // An index may be on its way into its file.
    let written = |name: &&PathBuf| name.extension().is_none_or(|extension| extension == "seg");
    for name in mine.keys().filter(written) {
        assert!(after[name] == mine[name], "{} is as it was", name.display());
    }
}

/// Ends a thread that runs beside a test, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn backups_beside_appends_rolls_and_retention_are_pieces_of_the_log() {
    let dir = temp();
    let retention = Retention { max_bytes: Some(256 * 1024), ..Retention::default() };
    let store = open(&dir, Options { retention, ..small() });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| {
            let mut position = 0;
            while !stop.load(Ordering::Relaxed) {
                position += 1;
                append(&store, position);
                if position.is_multiple_of(5) {
                    commit_group(&store);
                }
            }
        });
        let _stop = Stop(&stop);
        let mut last = Position::START;
        for n in 0..30 {
            let into = dir.path().join(format!("backup-{n}"));
            while head(&store) < last.advanced_by(20) {
                assert!(!appending.is_finished());
                std::thread::yield_now();
            }
            let before = head(&store);
            let report = if n % 2 == 0 {
                store.backup(&into).unwrap()
            } else {
                match backup(store.path(), &into, none) {
                    Err(BackupError::Overtaken { .. }) => continue,
                    done => done.unwrap(),
                }
            };
            assert!(report.head >= before, "it holds what was committed before");
            last = report.head;
            let copy = Store::open(&into, existing()).unwrap();
            assert_eq!((block_on(copy.start()).unwrap(), head(&copy)), (report.start, last));
            let all = events(&copy);
            assert_eq!(last.events_since(report.start), Some(all.len() as u64));
            for (at, event) in (report.start.get() + 1..).zip(&all) {
                assert!(event.payload.starts_with(format!("{at} ").as_bytes()), "position {at}");
            }
            let floor = block_on(copy.group(&group())).unwrap().floor();
            assert!(floor <= last, "the group has read up to {floor}");
            // Streams go on where they ended, whatever was removed.
            for (rest, name) in (0..).zip(["s-0", "s-1", "s-2"]) {
                let revision = block_on(copy.stream_revision(&stream(name))).unwrap();
                let count = (1..=last.get()).filter(|position| position % 3 == rest).count();
                assert_eq!(revision, Revision::new(count as u64), "{name} in {report:?}");
            }
            copy.close().unwrap();
            fs::remove_dir_all(&into).unwrap();
        }
    });
    assert!(block_on(store.start()).unwrap() > Position::START, "retention was at work");
}

#[test]
fn a_restored_store_goes_on_and_its_backup_stays_as_it_is() {
    let dir = temp();
    let store = filled(&dir, 40);
    commit_group(&store);
    store.remove(Cutoff::Through(Position::new(25)), Passing::Refuse).unwrap();
    let start = block_on(store.start()).unwrap();
    let into = dir.path().join("backup");
    store.backup(&into).unwrap();
    let all = events(&store);
    append(&store, 41);
    store.close().unwrap();

    let kept = files(&into);
    let to = dir.path().join("restored");
    let mut told = Vec::new();
    let report = restore(&into, &to, |progress| told.push(progress)).unwrap();
    assert_eq!((report.start, report.head), (start, Position::new(40)));
    assert_eq!((report.id, report.groups, report.linked_bytes), (EventLog::id(&store), 1, 0));
    let end = told.last().unwrap();
    assert!(end.done_bytes == end.total_bytes && end.total_bytes > 0, "{end:?}");
    assert!(told.windows(2).all(|pair| pair[0].done_bytes <= pair[1].done_bytes));

    let restored = Store::open(&to, existing()).unwrap();
    assert_eq!((EventLog::id(&restored), events(&restored)), (EventLog::id(&store), all));
    assert_eq!(block_on(restored.group(&group())).unwrap().floor(), Position::new(40));
    assert_eq!(restored.ledger().unwrap(), store.ledger().unwrap());
    for position in 41..60 {
        append(&restored, position);
    }
    restored.close().unwrap();
    assert_eq!(files(&into), kept, "the backup is as it was");
    assert!(files(&to).values().all(|(ino, _)| kept.values().all(|(other, _)| ino != other)));
}

#[test]
fn a_segment_that_is_written_on_is_shared_with_nobody() {
    let dir = temp();
    let store = filled(&dir, 3);
    store.close().unwrap();
    let mut segments = fs::read_dir(store.path().join("log")).unwrap();
    let newest = segments.next().unwrap().unwrap().path();
    let other = dir.path().join("other");
    fs::hard_link(&newest, &other).unwrap();
    let before = fs::read(&other).unwrap();
    append(&open(&dir, existing()), 4);
    assert_eq!(fs::read(&other).unwrap(), before);
}

#[test]
fn a_backup_can_be_backed_up_and_so_can_a_store_with_nothing_in_it() {
    let dir = temp();
    let store = filled(&dir, 20);
    let [first, second, empty] = ["first", "second", "empty"].map(|name| dir.path().join(name));
    store.backup(&first).unwrap();
    let report = backup(&first, &second, none).unwrap();
    assert_eq!(report.head, Position::new(20));
    store.close().unwrap();
    assert_eq!(events(&Store::open(&second, existing()).unwrap()), events(&store));
    let error = store.backup(dir.path().join("late")).unwrap_err();
    assert!(matches!(error, BackupError::Events(_)), "{error}");
    assert!(!dir.path().join("late").exists());

    let other = temp();
    let report = open(&other, small()).backup(&empty).unwrap();
    assert_eq!((report.head, report.segments, report.groups), (Position::START, 1, 0));
    let opened = Store::open(&empty, existing()).unwrap();
    append(&opened, 1);
}

#[test]
fn a_destination_that_holds_something_is_refused_and_left_alone() {
    let dir = temp();
    let store = filled(&dir, 1);
    let into = dir.path().join("into");
    fs::create_dir(&into).unwrap();
    fs::write(into.join("notes"), "mine").unwrap();
    for error in [
        store.backup(&into).unwrap_err(),
        backup(store.path(), &into, none).unwrap_err(),
        restore(store.path(), &into, none).unwrap_err(),
    ] {
        assert!(
            matches!(&error, BackupError::NotEmpty { found, .. } if found == "notes"),
            "{error}"
        );
    }
    assert_eq!(fs::read(into.join("notes")).unwrap(), b"mine");
    let file = into.join("notes");
    assert!(matches!(store.backup(&file).unwrap_err(), BackupError::Open(OpenError::Io { .. })));
    let error = store.backup(store.path()).unwrap_err();
    assert!(matches!(error, BackupError::NotEmpty { .. }), "{error}");
    fs::remove_file(&file).unwrap();
    store.backup(&into).unwrap();
}

#[test]
fn one_that_was_interrupted_is_no_store_and_says_so() {
    let dir = temp();
    let store = filled(&dir, 20);
    let into = dir.path().join("into");
    store.backup(&into).unwrap();
    fs::rename(into.join("STORE"), into.join("UNFINISHED")).unwrap();
    let unfinished = |error: &OpenError| matches!(error, OpenError::Unfinished { .. });
    let error = Store::open(&into, small()).unwrap_err();
    assert!(unfinished(&error) && error.to_string().contains("remove the directory"), "{error}");
    assert!(unfinished(&ReadOnlyStore::open(&into).unwrap_err()));
    for error in
        [store.backup(&into).unwrap_err(), restore(&into, dir.path().join("to"), none).unwrap_err()]
    {
        assert!(matches!(&error, BackupError::Open(open) if unfinished(open)), "{error}");
    }
}

#[test]
fn a_missing_file_of_tails_is_named() {
    let dir = temp();
    let store = filled(&dir, 40);
    store.remove(Cutoff::Through(Position::new(10)), Passing::Force).unwrap();
    let (tails, into) = (store.path().join("TAILS"), dir.path().join("backup"));
    let older = fs::read(&tails).unwrap();
    store.remove(Cutoff::Through(Position::new(25)), Passing::Force).unwrap();
    let newest = fs::read(&tails).unwrap();
    fs::remove_file(&tails).unwrap();
    let beside = || backup(store.path(), &into, none);
    for error in [store.backup(&into).unwrap_err(), beside().unwrap_err()] {
        assert!(
            matches!(&error, BackupError::Open(OpenError::Io { path, .. }) if *path == tails),
            "{error:?}"
        );
    }
    fs::write(&tails, &newest[..newest.len() / 2]).unwrap();
    for error in [store.backup(&into).unwrap_err(), beside().unwrap_err()] {
        assert!(
            matches!(&error, BackupError::Open(OpenError::File { path, .. }) if *path == tails),
            "{error:?}"
        );
    }
    fs::write(&tails, older).unwrap();
    let error = store.backup(&into).unwrap_err();
    assert!(error.to_string().contains("TAILS cannot be read: it does not reach"), "{error}");
    assert!(!into.exists());
    fs::write(&tails, newest).unwrap();
    store.backup(&into).unwrap();
    Store::open(&into, existing()).unwrap();
}

#[test]
fn what_is_damaged_is_not_restored() {
    let dir = temp();
    let store = filled(&dir, 40);
    commit_group(&store);
    store.remove(Cutoff::Through(Position::new(15)), Passing::Force).unwrap();
    let into = dir.path().join("backup");
    store.backup(&into).unwrap();
    let to = dir.path().join("to");
    let names: Vec<PathBuf> = files(&into).into_keys().collect();
    let is_copied = |name: &&PathBuf| name.extension().is_none_or(|extension| extension == "seg");
    for name in names.iter().filter(is_copied).filter(|name| !name.ends_with("LEDGER")) {
        let path = into.join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        // Both blocks of the catalog, the header of a segment or what a frame holds.
        for at in (100..bad.len().min(8_192)).step_by(4_096) {
            bad[at] ^= 1;
        }
        // A file of its own, since others share the old one.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bad).unwrap();
        let error = restore(&into, &to, none).unwrap_err();
        let told = matches!(error, BackupError::Open(_) | BackupError::Read(_));
        assert!(told && !to.exists(), "{}: {error}", name.display());
        fs::write(&path, good).unwrap();
    }
    restore(&into, &to, none).unwrap();
}
