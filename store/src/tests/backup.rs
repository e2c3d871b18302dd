//! Backups on disks that fail, and on one that loses power.

use std::path::{Path, PathBuf};

use headwater_core::{AppendError, Durability};
use pollster::block_on;

use super::incidents::{DISK, on_disk, payloads, stop};
use super::*;
use crate::backup::{BackupError, backup_on, restore_on};
use crate::fs::faulty::Op;
use crate::fs::sim::{Fault, SimFs, Survival};
use crate::log::Depth;
use crate::options::OpenMode;
use crate::read_only::ReadOnlyStore;
use crate::retention::{Cutoff, Passing};

const EIO: i32 = 5;
const EXDEV: i32 = 18;
const ENOSPC: i32 = 28;

/// Fills a store with segments, a group, and a removed beginning.
fn fill(store: &Store) {
    for n in 0..14 {
        store.append_blocking(append(&format!("s-{n}"), &"x".repeat(14_000))).unwrap();
    }
    let name = headwater_core::GroupName::new("g").unwrap();
    block_on(store.pin(name, Position::new(9))).unwrap();
    store.remove(Cutoff::Through(Position::new(5)), Passing::Refuse).unwrap();
}

fn rest(store: &Store) -> Vec<RecordedEvent> {
    let read = Read::forward(Query::all(), Position::new(4)).limit(100);
    store.read_blocking(&read).unwrap().events
}

fn existing() -> Options {
    Options { mode: OpenMode::Open, ..small() }
}

#[test]
fn whatever_fails_a_backup_leaves_nothing_behind_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let store = open(&fs, &dir.path().join("store"), small()).unwrap();
    fill(&store);
    // Whoever still wrote an index or a next segment would meet the failure instead.
    store.close().unwrap();
    let store = open(&fs, &dir.path().join("store"), existing()).unwrap();
    let whole = rest(&store);
    let dyn_fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let into = dir.path().join("a/b");
    for (way, errno) in [(0, EIO), (0, ENOSPC), (1, EIO), (2, ENOSPC)] {
        // Each way takes another third of the steps.
        let mut step = way;
        loop {
            fs.fail(step, errno, 1, None);
            let done = match way {
                0 => store.backup(&into),
                1 => backup_on(&dyn_fs, store.path(), &into, &mut |_| {}),
                _ => restore_on(&dyn_fs, store.path(), &into, &mut |_| {}),
            };
            let failed = fs.heal();
            let Err(error) = done else {
                assert!(!failed, "step {step} failed, and nobody noticed");
                break;
            };
            assert!(failed, "{error}");
            if errno == ENOSPC {
                assert!(matches!(error, BackupError::StorageFull { .. }), "step {step}: {error}");
            }
            // A failure of the last sync leaves the whole backup.
            let kept = into.join("STORE").exists();
            assert!(kept || !dir.path().join("a").exists(), "step {step}: {error}");
            if kept {
                assert_eq!(rest(&open(&fs, &into, existing()).unwrap()), whole);
                std::fs::remove_dir_all(dir.path().join("a")).unwrap();
            }
            step += 3;
        }
        assert!(step > 20, "{step} steps");
        assert_eq!(rest(&open(&fs, &into, existing()).unwrap()), whole);
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
    }
    store.append_blocking(append("s-1", "on")).unwrap();
    assert_eq!(rest(&store).len(), whole.len() + 1);
}

#[test]
fn the_progress_of_groups_is_taken_before_the_events() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let options = Options { durability: Durability::Os, ..small() };
    let store = open(&fs, &dir.path().join("store"), options).unwrap();
    fill(&store);
    // The removal made the groups durable; this is not yet.
    let name = headwater_core::GroupName::new("g").unwrap();
    block_on(store.pin(name, Position::new(10))).unwrap();
    fs.take_steps();
    store.backup(dir.path().join("backup")).unwrap();
    let synced = fs.take_steps().into_iter().filter(|step| step.op == Op::Sync);
    let mine =
        synced.filter_map(|step| Some(step.path.strip_prefix(store.path()).ok()?.to_owned()));
    let logs: Vec<_> = mine.filter_map(|path| path.parent().map(Path::to_owned)).collect();
    assert_eq!(logs, [Path::new("offsets"), Path::new("log")]);
}

#[test]
fn where_links_are_impossible_files_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let store = open(&fs, &dir.path().join("store"), small()).unwrap();
    fill(&store);
    let linked = store.backup(dir.path().join("linked")).unwrap();
    fs.fail(0, EXDEV, usize::MAX, Some(Op::Link));
    let copied = store.backup(dir.path().join("copied")).unwrap();
    fs.heal();
    assert!(linked.linked_bytes > 2 * 64 * 1024 && copied.linked_bytes == 0);
    // An index file may have come since.
    assert!(copied.copied_bytes >= linked.linked_bytes + linked.copied_bytes);
    let opened = open(&fs, &dir.path().join("copied"), existing()).unwrap();
    assert_eq!(rest(&opened), rest(&store));
}

#[test]
fn a_backup_that_power_cuts_short_is_no_store_and_one_that_was_done_is_whole() {
    let disk = Path::new("/disk");
    let [root, into]: [PathBuf; 2] = ["store", "backup"].map(|name| disk.join(name));
    let open = |fs: &SimFs, path: &Path| {
        let fs: Arc<dyn Fs> = Arc::new(fs.clone());
        Store::open_on(&fs, path, existing())
    };
    let mut ways = std::collections::BTreeSet::new();
    let survivals = [Survival::Nothing, Survival::Everything, Survival::Drawn(7)];
    // Each takes another third of the steps; the crash campaign takes them all.
    for (mut step, survival) in (0..).zip(survivals) {
        loop {
            let fs = SimFs::new(disk);
            let dyn_fs: Arc<dyn Fs> = Arc::new(fs.clone());
            let store = Store::open_on(&dyn_fs, &root, small()).unwrap();
            fill(&store);
            let whole = rest(&store);
            fs.fail_at(fs.steps() + step, Fault::PowerOff);
            let done = store.backup(&into);
            let was_off = fs.is_off();
            drop(store);
            fs.lose_power(survival);
            match open(&fs, &into) {
                Ok(copy) => {
                    assert_eq!(rest(&copy), whole, "{survival:?}, step {step}");
                    ways.insert("a store");
                }
                Err(error) => {
                    assert!(done.is_err(), "{survival:?}, step {step}: {error}");
                    ways.insert(match error {
                        OpenError::Unfinished { .. } => "unfinished",
                        OpenError::NotFound { .. } => "nothing",
                        _ => panic!("{survival:?}, step {step}: {error}"),
                    });
                }
            }
            assert_eq!(rest(&open(&fs, &root).unwrap()), whole, "the store is as it was");
            if !was_off {
                break;
            }
            step += 3;
        }
    }
    assert_eq!(ways.into_iter().collect::<Vec<_>>(), ["a store", "nothing", "unfinished"]);
}

#[test]
fn what_a_failed_sync_kept_from_the_device_is_backed_up_only_beside_its_writer() {
    let into = Path::new(DISK).join("backup");
    for writer_runs in [false, true] {
        let disk = SimFs::new(Path::new(DISK));
        let fs: Arc<dyn Fs> = Arc::new(disk.clone());
        let store = on_disk(&disk, Durability::Sync);
        let root = store.path().to_owned();
        store.append_blocking(append("a-1", "told")).unwrap();
        // It is written, and the sync fails.
        disk.fail_at(disk.steps() + 1, Fault::Once(EIO));
        let unknown = store.append_blocking(append("a-1", "unknown")).unwrap_err();
        assert!(matches!(unknown, AppendError::Indeterminate(_)), "{unknown}");
        if writer_runs {
            let refused = store.backup(&into).unwrap_err();
            assert!(matches!(refused, BackupError::Events(AppendError::Poisoned(_))), "{refused}");
            // It maps the segment.
            disk.pin_cache();
        } else {
            stop(&disk, &store);
            disk.kill_process();
        }
        backup_on(&fs, &root, &into, &mut |_| {}).unwrap();
        let copy = Store::open_on(&fs, &into, existing()).unwrap();
        let all = ["told", "unknown"];
        assert_eq!(payloads(&copy), all[..if writer_runs { 2 } else { 1 }]);
        drop(copy);
        stop(&disk, &store);
        disk.lose_power(Survival::Everything);
        assert_eq!(payloads(&on_disk(&disk, Durability::Sync)), ["told"]);
    }
}

#[test]
fn an_export_holds_nothing_that_the_power_takes_from_the_log() {
    let disk = SimFs::new(Path::new(DISK));
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let store = on_disk(&disk, Durability::Os);
    for n in 0..3 {
        store.append_blocking(append("a-1", &n.to_string())).unwrap();
    }
    let reader = ReadOnlyStore::open_on(&fs, store.path(), Depth::Newest).unwrap();
    let exported = reader.export(std::io::sink(), |_| {}).unwrap();
    drop(reader);
    assert_eq!(exported.events, 3);
    stop(&disk, &store);
    disk.lose_power(Survival::Nothing);
    assert_eq!(payloads(&on_disk(&disk, Durability::Os)), ["0", "1", "2"]);
}
