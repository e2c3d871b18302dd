//! What an append costs, counted: writes, syncs and blocks.

use headwater_core::{AppendId, Durability, EventLog, Visibility};

use super::*;
use crate::fs::faulty::{Op, Step};

fn opened(durability: Durability) -> (tempfile::TempDir, FaultyFs, Store) {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let options = Options { durability, segment_bytes: 1024 * 1024, ..Options::default() };
    let store = open(&fs, &dir.path().join("s"), options).unwrap();
    fs.take_steps();
    (dir, fs, store)
}

#[test]
fn a_durable_append_is_one_write_and_one_sync() {
    let (_dir, fs, store) = opened(Durability::Sync);
    for n in 0..10 {
        store.append_blocking(append("a-1", &n.to_string())).unwrap();
        let steps = fs.take_steps();
        let ops: Vec<Op> = steps.iter().map(|step| step.op).collect();
        assert_eq!(ops, [Op::Write, Op::Sync]);
        assert!(steps[0].bytes <= 2 * 4096, "{steps:?}");
    }
}

#[test]
fn appends_that_wait_together_share_a_sync() {
    let (_dir, fs, store) = opened(Durability::Sync);
    let appends: Vec<_> = (0..64).map(|n| store.append(append("a-1", &n.to_string()))).collect();
    let mut appends: Vec<_> = appends.into_iter().map(Box::pin).collect();
    // Each is queued when it is polled first; the writer takes what it finds.
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    for future in &mut appends {
        let _ = future.as_mut().poll(&mut context);
    }
    let mut positions = Vec::new();
    for mut future in appends {
        loop {
            if let std::task::Poll::Ready(done) = future.as_mut().poll(&mut context) {
                positions.push(done.unwrap().first.get());
                break;
            }
            std::thread::yield_now();
        }
    }
    assert_eq!(positions, (1..=64).collect::<Vec<_>>(), "the queue kept its order");
    let syncs = fs.take_steps().iter().filter(|step| step.op == Op::Sync).count();
    assert!(syncs < 32, "{syncs} syncs for 64 appends");
}

#[test]
fn without_sync_there_is_no_flush_between_rolls() {
    let (_dir, fs, store) = opened(Durability::Os);
    for n in 0..100 {
        store.append_blocking(append("a-1", &n.to_string())).unwrap();
    }
    let steps = fs.take_steps();
    assert_eq!(steps.len(), 100);
    assert!(steps.iter().all(|step| step.op == Op::Write), "{steps:?}");
    store.append_blocking(append("a-1", "x").synced()).unwrap();
    assert_eq!(fs.take_steps().len(), 2);
}

#[test]
fn a_segment_is_established_in_the_order_that_a_crash_cannot_break() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let options = Options { durability: Durability::Os, ..small() };
    let store = open(&fs, &dir.path().join("s"), options).unwrap();
    fs.take_steps();
    let payload = "x".repeat(15_000);
    for _ in 0..5 {
        store.append_blocking(append("a-1", &payload)).unwrap();
    }
    let steps = fs.take_steps();
    let name = |step: &Step| step.path.file_name().unwrap().to_string_lossy().into_owned();
    let first = "00000000000000000001-00000001.seg";
    let second = "00000000000000000005-00000002.seg";
    let of = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
    let sync_old = of(&|s| s.op == Op::Sync && name(s) == first);
    let renamed = of(&|s| s.op == Op::Rename && name(s) == second);
    let spare_sync =
        steps[..renamed].iter().rposition(|s| s.op == Op::Sync && name(s) == "next.tmp").unwrap();
    let spare_write =
        steps[..renamed].iter().rposition(|s| s.op == Op::Write && name(s) == "next.tmp").unwrap();
    let dir_sync = renamed + steps[renamed..].iter().position(|s| s.op == Op::SyncDir).unwrap();
    let write_new = of(&|s| s.op == Op::Write && name(s) == second);
    assert!(sync_old < renamed, "the old segment is durable before the new one has a name");
    assert!(spare_write < spare_sync && spare_sync < renamed);
    assert!(renamed < dir_sync && dir_sync < write_new);
}

/// What opening a store does to its files, by kind and file name.
fn steps_of_opening(path: &Path) -> Vec<(Op, String)> {
    let fs = FaultyFs::default();
    let store = open(&fs, path, small()).unwrap();
    assert_eq!(all(&store).len(), 2);
    let name = |step: &Step| step.path.file_name().unwrap().to_string_lossy().into_owned();
    fs.take_steps().iter().map(|step| (step.op, name(step))).collect()
}

#[test]
fn opening_looks_at_the_device_and_makes_durable_what_it_finds() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let (path, killed) = (dir.path().join("s"), dir.path().join("killed"));
    let store = open(&fs, &path, small()).unwrap();
    store.append_blocking(append("a-1", "x")).unwrap();
    store.append_blocking(append("a-1", "y")).unwrap();
    super::copy_store(&path, &killed);
    drop(store);

    let segment = "00000000000000000001-00000001.seg";
    let of = |op, name: &str| (op, name.to_owned());
    // Names first: a crash may have come between one and the sync of its directory. Then the
    // bytes: after a failed sync the cache holds some that the device does not.
    let first = [
        of(Op::SyncDir, "s"),
        of(Op::SyncDir, dir.path().file_name().unwrap().to_str().unwrap()),
        of(Op::SyncDir, "log"),
        of(Op::Sync, segment),
        of(Op::Evict, segment),
    ];
    let steps = steps_of_opening(&path);
    assert_eq!(steps[..5], first);
    assert!(!steps.contains(&of(Op::Write, segment)), "a closed store is durable: {steps:?}");
    // Of a store that was not closed the last frame is written again, in case an old map kept it
    // in the cache.
    let steps = steps_of_opening(&killed);
    assert_eq!(steps[5..7], [of(Op::Write, segment), of(Op::Sync, segment)], "{steps:?}");
}

#[test]
fn a_repeated_append_that_asks_for_a_sync_gets_it() {
    let (_dir, fs, store) = opened(Durability::Os);
    let id = AppendId::generate();
    let first = store.append_blocking(append("a-1", "x").with_id(id)).unwrap();
    fs.take_steps();
    let again = store.append_blocking(append("a-1", "x").with_id(id).synced()).unwrap();
    assert!(again.deduplicated && again.last == first.last);
    let ops: Vec<Op> = fs.take_steps().iter().map(|step| step.op).collect();
    assert_eq!(ops, [Op::Sync]);
    assert_eq!(pollster::block_on(store.head(Visibility::Durable)).unwrap(), first.last);
}
