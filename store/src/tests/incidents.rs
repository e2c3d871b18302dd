//! What has happened to others, made to happen here. `docs/incidents.md` says where it did.

use std::fs;
use std::path::PathBuf;

use headwater_core::{
    AppendError, Durability, EventLog, GroupLog, GroupName, NewGroup, ReadError, Revision,
    Visibility,
};
use pollster::block_on;

use super::*;
use crate::catalog;
use crate::fs::Access;
use crate::fs::sim::{Dice, Fault, SimFs, Survival};
use crate::retention::{Cutoff, Passing};

pub(super) const DISK: &str = "/disk";
const EIO: i32 = 5;

pub(super) fn home() -> PathBuf {
    Path::new(DISK).join("store")
}

pub(super) fn on_disk(disk: &SimFs, durability: Durability) -> Store {
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    Store::open_on(&fs, &home(), Options { durability, ..small() }).unwrap()
}

/// Lets go of a store that can do nothing any more.
pub(super) fn stop(disk: &SimFs, store: &Store) {
    disk.stop();
    store.close().unwrap_or_default();
    disk.heal();
}

pub(super) fn payloads(store: &Store) -> Vec<String> {
    all(store).iter().map(|e| String::from_utf8(e.payload.to_vec()).unwrap()).collect()
}

/// A closed store of some segments in a directory, and its files.
fn closed_store(dir: &Path) -> (PathBuf, Vec<PathBuf>) {
    let path = dir.join("s");
    let store = Store::open(&path, Options { durability: Durability::Os, ..small() }).unwrap();
    for n in 0..18 {
        let text = format!("{n} {}", "x".repeat(14_000));
        store.append_blocking(append(["a-1", "b-2", "c-3"][n % 3], &text)).unwrap();
    }
    let name = headwater_core::GroupName::new("g").unwrap();
    block_on(store.pin(name, Position::new(4))).unwrap();
    store.remove(Cutoff::Through(Position::new(4)), Passing::Refuse).unwrap();
    store.close().unwrap();
    let mut files = Vec::new();
    for dir in [path.clone(), path.join("log"), path.join("offsets")] {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.is_file()));
    }
    files.sort();
    (path, files)
}

fn read_all(store: &Store) -> Result<Vec<RecordedEvent>, ReadError> {
    let start = block_on(store.start())?;
    let mut events = Vec::new();
    let mut after = start;
    loop {
        let page = store.read_blocking(&Read::forward(Query::all(), after).limit(3))?;
        events.extend(page.events);
        after = page.scanned;
        if page.done {
            return Ok(events);
        }
    }
}

#[test]
fn every_acknowledged_append_outlives_the_power() {
    let disk = SimFs::new(Path::new(DISK));
    let mut acknowledged = Vec::new();
    for n in 0..40 {
        let store = on_disk(&disk, Durability::Sync);
        assert_eq!(payloads(&store), acknowledged);
        let text = format!("{n} {}", "x".repeat(n * 200));
        store.append_blocking(append("a-1", &text)).unwrap();
        acknowledged.push(text);
        stop(&disk, &store);
        disk.lose_power(Survival::Nothing);
    }
}

#[test]
fn what_recovery_showed_outlives_the_power() {
    // Whether or not a sync failed before, and whether or not the cache could be dropped.
    for (fails, pinned) in [(false, false), (false, true), (true, false), (true, true)] {
        let disk = SimFs::new(Path::new(DISK));
        let store = on_disk(&disk, Durability::Os);
        for n in 0..5 {
            store.append_blocking(append("a-1", &n.to_string())).unwrap();
        }
        if fails {
            disk.fail_at(disk.steps(), Fault::Once(EIO));
            store.flush().unwrap_err();
        }
        stop(&disk, &store);
        disk.kill_process();
        if pinned {
            disk.pin_cache();
        }
        let store = on_disk(&disk, Durability::Os);
        let shown = payloads(&store);
        assert_eq!(shown.len(), if fails && !pinned { 0 } else { 5 });
        stop(&disk, &store);
        disk.lose_power(Survival::Nothing);
        assert_eq!(payloads(&on_disk(&disk, Durability::Os)), shown, "{fails} {pinned}");
    }
}

#[test]
fn a_shorter_group_over_a_failed_longer_one_leaves_nothing_of_it() {
    for survival in [Survival::Everything].into_iter().chain((0..20).map(Survival::Drawn)) {
        let disk = SimFs::new(Path::new(DISK));
        let store = on_disk(&disk, Durability::Sync);
        store.append_blocking(append("a-1", "first")).unwrap();
        // The write comes to its half.
        disk.fail_at(disk.steps(), Fault::Once(EIO));
        let failed = store.append_blocking(append("a-1", &"long ".repeat(2_000)));
        assert!(matches!(failed, Err(AppendError::Indeterminate(_))));
        stop(&disk, &store);
        disk.lose_power(survival);
        for n in 0..3 {
            let store = on_disk(&disk, Durability::Sync);
            store.append_blocking(append("a-1", &format!("short {n}"))).unwrap();
            stop(&disk, &store);
            disk.lose_power(Survival::Nothing);
        }
        let store = on_disk(&disk, Durability::Sync);
        assert_eq!(payloads(&store), ["first", "short 0", "short 1", "short 2"]);
        let mut scan = store.scan(Position::START).unwrap();
        for _ in 0..4 {
            scan.next().unwrap().unwrap();
        }
        assert!(scan.next().is_none());
    }
}

#[test]
fn frames_of_another_segment_behind_the_end_are_not_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, files) = closed_store(dir.path());
    let segments: Vec<_> = files
        .iter()
        .filter(|file| file.starts_with(path.join("log")) && file.extension().unwrap() == "seg")
        .collect();
    let (older, newest) = (segments[0], segments[segments.len() - 1]);
    let mut bytes = fs::read(newest).unwrap();
    let end = (bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1).next_multiple_of(8);
    let stale = fs::read(older).unwrap();
    bytes[end..end + 20_000].copy_from_slice(&stale[4096..24_096]);
    fs::write(newest, bytes).unwrap();
    let error = Store::open(&path, small()).unwrap_err();
    assert!(matches!(error, OpenError::UnexplainedTail { .. }), "{error}");
}

#[test]
fn a_log_that_lost_a_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, files) = closed_store(dir.path());
    let segments = files.iter().filter(|file| file.extension().is_some_and(|end| end == "seg"));
    for gone in segments {
        let bytes = fs::read(gone).unwrap();
        fs::remove_file(gone).unwrap();
        let error = Store::open(&path, small()).unwrap_err();
        assert!(matches!(error, OpenError::MissingSegment { .. }), "{error}");
        fs::write(gone, bytes).unwrap();
    }
    assert_eq!(read_all(&Store::open(&path, small()).unwrap()).unwrap().len(), 14);
}

#[test]
fn damage_in_any_segment_is_met_by_whoever_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, files) = closed_store(dir.path());
    let is_log = |file: &&PathBuf| {
        file.starts_with(path.join("log")) && file.extension().is_some_and(|end| end == "seg")
    };
    let segments: Vec<_> = files.iter().filter(is_log).collect();
    assert!(segments.len() > 3);
    for segment in segments {
        let whole = fs::read(segment).unwrap();
        let mut bytes = whole.clone();
        bytes[4096 + 9_000] ^= 1;
        fs::write(segment, bytes).unwrap();
        // The newest one is walked when the store is opened.
        if let Ok(store) = Store::open(&path, small()) {
            let error = read_all(&store).unwrap_err();
            assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
            assert_eq!(block_on(store.head(Visibility::Committed)).unwrap(), Position::new(18));
            drop(store);
        }
        fs::write(segment, whole).unwrap();
    }
}

#[test]
fn a_disk_that_fills_up_anywhere_loses_nothing_and_goes_on_with_more_space() {
    let mut refused = 0;
    for budget in (150_000..460_000).step_by(5_000) {
        let disk = SimFs::new(Path::new(DISK));
        let store = on_disk(&disk, Durability::Sync);
        disk.set_space(Some(budget));
        let mut told = Vec::new();
        let mut poisoned = false;
        for n in 0..24 {
            if n == 16 {
                disk.set_space(None);
            }
            let text = format!("{n} {}", "x".repeat(14_000));
            match store.append_blocking(append(["a-1", "b-2"][n % 2], &text)) {
                Ok(_) => told.push(text),
                Err(AppendError::StorageFull(_) | AppendError::NoSegment(_)) => refused += 1,
                Err(_) => poisoned = true,
            }
        }
        assert!(!poisoned, "with room for {budget} bytes");
        for store in [&store, &on_disk_again(&disk, &store)] {
            assert_eq!(payloads(store), told);
            let mut ends = std::collections::HashMap::new();
            for event in all(store) {
                let end: &mut u64 = ends.entry(event.stream.clone()).or_default();
                *end += 1;
                assert_eq!(event.revision.get(), *end, "a refused append burns no revision");
            }
        }
    }
    assert!(refused > 100, "{refused} appends were refused");
}

/// A remount under an open store, as after an error of the device.
#[test]
fn a_file_system_that_turns_read_only_is_named_and_loses_nothing() {
    const EROFS: i32 = 30;
    let names_it = |error: &dyn std::error::Error| {
        let cause = error.source().expect("the system's word");
        assert_eq!(cause.to_string(), "Read-only file system (os error 30)", "under {error}");
    };
    let fs = |disk: &SimFs| -> Arc<dyn Fs> { Arc::new(disk.clone()) };
    for operation in 0.. {
        let disk = SimFs::new(Path::new(DISK));
        let store = on_disk(&disk, Durability::Sync);
        disk.fail_at(disk.steps() + operation, Fault::Always(EROFS));
        let mut told = Vec::new();
        let mut refused = None;
        for n in 0..12 {
            let text = format!("{n} {}", "x".repeat(14_000));
            match store.append_blocking(append("a-1", &text)) {
                Ok(_) => told.push(text),
                Err(error) => {
                    names_it(&error);
                    let first = refused.get_or_insert_with(|| error.clone());
                    // Nothing is written after what may have been written.
                    if matches!(first, AppendError::Indeterminate(_)) && n > told.len() {
                        assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
                    }
                }
            }
        }
        assert_eq!(payloads(&store), told, "reads go on");
        if refused.is_none() {
            assert!(operation > 30, "{operation}");
            break;
        }
        store.close().unwrap_or_default();
        drop(store);
        names_it(&Store::open_on(&fs(&disk), &home(), small()).unwrap_err());
        disk.heal();
        let again = payloads(&on_disk(&disk, Durability::Sync));
        assert_eq!(again[..told.len()], told);
        assert!(again.len() <= told.len() + 1, "at most the one that may have been written");
    }
}

fn on_disk_again(disk: &SimFs, store: &Store) -> Store {
    store.close().unwrap();
    disk.lose_power(Survival::Nothing);
    on_disk(disk, Durability::Sync)
}

#[test]
fn without_files_to_open_nothing_is_lost() {
    for max in 0..30 {
        let disk = SimFs::new(Path::new(DISK));
        let store = on_disk(&disk, Durability::Sync);
        store.append_blocking(append("a-1", "first")).unwrap();
        store.close().unwrap();
        drop(store);
        disk.set_handles(Some(max));
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let mut told = vec!["first".to_owned()];
        if let Ok(store) = Store::open_on(&fs, &home(), small()) {
            for n in 0..12 {
                let text = format!("{n} {}", "x".repeat(14_000));
                match store.append_blocking(append("a-1", &text)) {
                    Ok(_) => told.push(text),
                    Err(error) => assert!(matches!(error, AppendError::NoSegment(_)), "{error}"),
                }
            }
            disk.set_handles(None);
            store.append_blocking(append("a-1", "last")).unwrap();
            told.push("last".to_owned());
            stop(&disk, &store);
        }
        disk.set_handles(None);
        disk.kill_process();
        assert_eq!(payloads(&on_disk(&disk, Durability::Sync)), told, "{max} files");
    }
}

#[test]
fn an_index_file_that_outlived_its_events_is_not_believed() {
    let mut lost = 0;
    for seed in 0..16 {
        let disk = SimFs::new(Path::new(DISK));
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let options =
            Options { segment_bytes: 4 << 20, durability: Durability::Os, ..Options::default() };
        let store = Store::open_on(&fs, &home(), options.clone()).unwrap();
        for n in 0..10 {
            store.append_blocking(append("a-1", &format!("{n} {}", "x".repeat(150_000)))).unwrap();
        }
        let written = payloads(&store);
        let index = home().join("log/00000000000000000001-00000001.idx");
        fs.open(&index, Access::Read).expect("it is written on the way");
        stop(&disk, &store);
        disk.lose_power(Survival::Drawn(seed));
        let store = Store::open_on(&fs, &home(), options).unwrap();
        let there = payloads(&store);
        assert_eq!(there, written[..there.len()]);
        lost += usize::from(there.len() < written.len());
        let query = Query::stream(StreamId::new("a-1").unwrap());
        let found = store.read_blocking(&Read::forward(query, Position::START)).unwrap();
        assert_eq!(found.events.len(), there.len());
    }
    assert!(lost > 5, "the power took something {lost} times");
}

#[test]
fn an_index_of_another_future_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 4 << 20, ..small() };
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    let store = Store::open(&one, options.clone()).unwrap();
    store.append_blocking(append("a-1", "both")).unwrap();
    store.close().unwrap();
    copy_store(&one, &other);
    // From here on they differ, in the same segment.
    for (path, stream) in [(&one, "b-1"), (&other, "c-1")] {
        let store = Store::open(path, options.clone()).unwrap();
        for _ in 0..8 {
            store.append_blocking(append(stream, &"x".repeat(200_000))).unwrap();
        }
        store.close().unwrap();
    }
    let index = "log/00000000000000000001-00000001.idx";
    fs::copy(one.join(index), other.join(index)).unwrap();
    let store = Store::open(&other, options).unwrap();
    let count = |stream: &str| {
        let query = Query::stream(StreamId::new(stream).unwrap());
        store.read_blocking(&Read::forward(query, Position::START)).unwrap().events.len()
    };
    assert_eq!((count("a-1"), count("b-1"), count("c-1")), (1, 0, 8));
}

#[test]
fn a_changed_byte_of_an_index_changes_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (path, files) = closed_store(dir.path());
    let answers = |store: &Store| -> Vec<Vec<Position>> {
        let start = block_on(store.start()).unwrap();
        ["a-1", "b-2", "c-3", "d-4"]
            .map(|stream| {
                let query = Query::stream(StreamId::new(stream).unwrap());
                let read = Read::backward(query, Position::MAX);
                let events = store.read_blocking(&read).unwrap().events;
                assert!(events.iter().all(|event| event.position > start));
                events.iter().map(|event| event.position).collect()
            })
            .into()
    };
    let right = answers(&Store::open(&path, small()).unwrap());
    let index = files.iter().find(|file| file.extension().is_some_and(|end| end == "idx")).unwrap();
    let whole = fs::read(index).unwrap();
    let behind = (4096..whole.len()).step_by(3);
    for at in (0..4096).step_by(97).chain(behind) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x11;
        fs::write(index, bytes).unwrap();
        assert_eq!(answers(&Store::open(&path, small()).unwrap()), right, "byte {at}");
    }
}

#[test]
fn any_file_may_be_empty_short_or_garbage_and_no_event_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (path, files) = closed_store(dir.path());
    let right = read_all(&Store::open(&path, small()).unwrap()).unwrap();
    let mut dice = Dice(28);
    for file in &files {
        let whole = fs::read(file).unwrap();
        let mut noise = || (0..whole.len()).map(|_| dice.roll(256).to_le_bytes()[0]).collect();
        let contents: [Vec<u8>; 5] = [
            Vec::new(),
            whole[..whole.len() / 2].to_vec(),
            vec![0; whole.len()],
            vec![0xFF; whole.len()],
            noise(),
        ];
        for content in contents {
            let copy = tempfile::tempdir().unwrap();
            copy_store(&path, copy.path());
            fs::write(copy.path().join(file.strip_prefix(&path).unwrap()), &content).unwrap();
            // An error is an answer; a wrong event is not.
            let Ok(store) = Store::open(copy.path(), small()) else { continue };
            let Ok(events) = read_all(&store) else { continue };
            assert_eq!(events, right, "{} of {} bytes", file.display(), content.len());
        }
    }
}

#[test]
fn what_is_not_ours_stays_and_what_is_damaged_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut files) = closed_store(dir.path());
    for foreign in ["log/notes.txt", "log/00000000000000000001.seg", "README"] {
        fs::write(path.join(foreign), "mine").unwrap();
        files.push(path.join(foreign));
    }
    drop(Store::open(&path, small()).unwrap());
    let catalog = fs::read(path.join(catalog::FILE_NAME)).unwrap();
    for size in [0, 100, catalog.len()] {
        fs::write(path.join(catalog::FILE_NAME), vec![0xAA; size]).unwrap();
        Store::open(&path, small()).unwrap_err();
        for file in &files {
            assert!(file.exists(), "{} is gone", file.display());
        }
    }
    fs::write(path.join(catalog::FILE_NAME), catalog).unwrap();
    assert_eq!(read_all(&Store::open(&path, small()).unwrap()).unwrap().len(), 14);
}

#[test]
fn where_streams_ended_outlives_their_removal_and_the_power() {
    let disk = SimFs::new(Path::new(DISK));
    for round in 0..4 {
        let store = on_disk(&disk, Durability::Sync);
        for earlier in 0..round {
            let stream = StreamId::new(format!("lone-{earlier}")).unwrap();
            let revision = block_on(store.stream_revision(&stream)).unwrap();
            assert_eq!(revision.get(), 1, "{stream} after {round} removals");
        }
        store.append_blocking(append(&format!("lone-{round}"), "only")).unwrap();
        for _ in 0..6 {
            store.append_blocking(append("a-1", &"x".repeat(14_000))).unwrap();
        }
        let head = block_on(store.head(Visibility::Committed)).unwrap();
        let removed = store.remove(Cutoff::Through(head), Passing::Force).unwrap().removed;
        assert!(removed.is_some());
        stop(&disk, &store);
        disk.lose_power(Survival::Nothing);
    }
}

#[test]
fn what_power_loss_can_take_holds_up_no_stream_that_was_removed() {
    let disk = SimFs::new(Path::new(DISK));
    let store = on_disk(&disk, Durability::Os);
    store.append_blocking(append("lone-1", "durable once the segment is full")).unwrap();
    for _ in 0..6 {
        store.append_blocking(append("a-1", &"x".repeat(14_000))).unwrap();
    }
    // In the newest segment, and in the cache alone.
    store.append_blocking(append("lone-1", "lost")).unwrap();
    let head = block_on(store.head(Visibility::Committed)).unwrap();
    assert!(store.remove(Cutoff::Through(head), Passing::Force).unwrap().removed.is_some());
    stop(&disk, &store);
    disk.lose_power(Survival::Nothing);
    let store = on_disk(&disk, Durability::Os);
    let head = block_on(store.head(Visibility::Committed)).unwrap();
    assert_eq!(head, block_on(store.start()).unwrap(), "only what was durable is there");
    let stream = StreamId::new("lone-1").unwrap();
    assert_eq!(block_on(store.stream_revision(&stream)).unwrap(), Revision::FIRST);
}

#[test]
fn a_removal_goes_no_further_than_groups_are_after_the_power_is_lost() {
    let disk = SimFs::new(Path::new(DISK));
    let store = on_disk(&disk, Durability::Os);
    for _ in 0..7 {
        store.append_blocking(append("a-1", &"x".repeat(14_000))).unwrap();
    }
    let head = block_on(store.head(Visibility::Committed)).unwrap();
    let name = GroupName::new("g").unwrap();
    block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
    block_on(store.seek_group(&name, head)).unwrap();
    let removed = store.remove(Cutoff::Through(head), Passing::Refuse).unwrap().removed;
    let start = removed.expect("the group has read all of it").through;
    stop(&disk, &store);
    disk.lose_power(Survival::Nothing);
    let store = on_disk(&disk, Durability::Os);
    let floor = block_on(store.group(&name)).unwrap().floor();
    assert!(floor >= start, "the group is at {floor}, and the log starts after {start}");
}

#[test]
fn each_opening_has_a_newer_epoch() {
    let disk = SimFs::new(Path::new(DISK));
    let mut epochs = Vec::new();
    for kills in [false, true, false, true] {
        let store = on_disk(&disk, Durability::Sync);
        let read = catalog::read(&disk, &home(), store.id()).unwrap();
        epochs.push(read.epoch);
        if kills {
            stop(&disk, &store);
            disk.lose_power(Survival::Nothing);
        }
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}

#[test]
fn a_catalog_that_lost_its_newest_block_is_the_one_before() {
    let disk = SimFs::new(Path::new(DISK));
    let store = on_disk(&disk, Durability::Sync);
    store.append_blocking(append("a-1", "first")).unwrap();
    store.close().unwrap();
    drop(store);
    let before = catalog::read(&disk, &home(), identity(&disk)).unwrap();
    for byte in [100, 4096 + 100] {
        let damaged = disk.clone();
        damaged.rot(&home().join(catalog::FILE_NAME), byte * 8);
        let read = catalog::read(&damaged, &home(), identity(&disk)).unwrap();
        assert!(read.sequence + 1 >= before.sequence, "{} of {}", read.sequence, before.sequence);
        damaged.rot(&home().join(catalog::FILE_NAME), byte * 8);
    }
}

fn identity(disk: &SimFs) -> headwater_core::LogId {
    crate::open::identity(disk, &home()).unwrap().id
}
