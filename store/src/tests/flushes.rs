//! What an append costs, counted: writes, syncs and blocks.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use headwater_core::{
    AppendError, AppendId, Condition, Durability, EventLog, ExpectedRevision, Revision, Visibility,
};

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

/// Polls each future once, in order, and waits for those that have no answer then.
fn polled_together<F: Future + Unpin>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    let begun: Vec<_> = futures
        .into_iter()
        .map(|mut future| {
            let polled = Pin::new(&mut future).poll(&mut context);
            (future, polled)
        })
        .collect();
    let answers = begun.into_iter().map(|(future, polled)| match polled {
        Poll::Ready(answer) => answer,
        Poll::Pending => pollster::block_on(future),
    });
    answers.collect()
}

#[test]
fn appends_that_wait_together_share_a_sync() {
    let (_dir, fs, store) = opened(Durability::Sync);
    // The writer takes what it finds.
    let answers = polled_together((0..64).map(|n| store.append(append("a-1", &n.to_string()))));
    let positions: Vec<u64> =
        answers.into_iter().map(|answer| answer.unwrap().first.get()).collect();
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

/// What a frame of single-event appends takes: its header, and for each record the header, a
/// stream of 3 bytes, a type of 1 and the payload.
fn frame_bytes(payloads: &[usize]) -> usize {
    let records: usize = payloads.iter().map(|payload| 58 + 3 + 1 + payload).sum();
    (64 + records).next_multiple_of(8)
}

#[test]
fn a_durable_append_writes_one_block_more_than_it_fills_at_most() {
    let (_dir, fs, store) = opened(Durability::Sync);
    for payload in [1, 3_000, 4_000, 4_096, 10_000, 100_000, 1, 1] {
        store.append_blocking(append("a-1", &"x".repeat(payload))).unwrap();
        let steps = fs.take_steps();
        let [write, sync] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!((write.op, sync.op), (Op::Write, Op::Sync));
        // The write ends with a block, so it touches no more of them than its length tells.
        let blocks = write.bytes.div_ceil(4096);
        assert!(blocks <= frame_bytes(&[payload]).div_ceil(4096) + 1, "{blocks} for {payload}");
        assert!(write.bytes >= frame_bytes(&[payload]), "{steps:?}");
    }
}

#[test]
fn a_group_of_many_appends_is_one_write_and_one_sync() {
    let (_dir, fs, store) = opened(Durability::Sync);
    let payload = "x".repeat(500);
    for answer in polled_together((0..200).map(|_| store.append(append("a-1", &payload)))) {
        answer.unwrap();
    }
    let steps = fs.take_steps();
    let mut blocks = 0;
    for pair in steps.chunks(2) {
        assert_eq!([pair[0].op, pair[1].op], [Op::Write, Op::Sync], "{steps:?}");
        blocks += pair[0].bytes.div_ceil(4096);
    }
    let groups = steps.len() / 2;
    // Each group has a header of its own and begins in the block where the one before ended.
    let filled = (frame_bytes(&[500; 200]) + 72 * groups).div_ceil(4096);
    assert!(blocks <= filled + 2 * groups, "{blocks} blocks in {groups} groups");
}

#[test]
fn an_append_asks_the_file_system_for_nothing_but_its_write_and_its_sync() {
    let (_dir, fs, store) = opened(Durability::Os);
    let stream = StreamId::new("a-1").unwrap();
    for n in 0..20 {
        store.append_blocking(append("a-1", &n.to_string())).unwrap();
    }
    fs.take_steps();
    fs.take_looks();
    let expecting = |revision| {
        let expected = ExpectedRevision::Exact(Revision::new(revision));
        append("a-1", "x").expecting(stream.clone(), expected)
    };
    store.append_blocking(expecting(20)).unwrap();
    assert_eq!((fs.take_steps().len(), fs.take_looks()), (1, 0), "one write");
    store.append_blocking(expecting(21).synced()).unwrap();
    assert_eq!((fs.take_steps().len(), fs.take_looks()), (2, 0), "one write, one sync");
    store.append_blocking(expecting(21)).unwrap_err();
    assert_eq!((fs.take_steps().len(), fs.take_looks()), (0, 0), "a refusal asks for nothing");
}

#[test]
fn a_refusal_that_stands_waits_for_nobody() {
    let (_dir, _fs, store) = opened(Durability::Sync);
    let stream = StreamId::new("a-1").unwrap();
    store.append_blocking(append("a-1", "x")).unwrap();
    let query = headwater_core::Query::stream(stream.clone());
    let conditions = [
        Condition::stream(stream.clone(), ExpectedRevision::NoStream),
        Condition::stream(stream.clone(), ExpectedRevision::Exact(Revision::NONE)),
        Condition::no_events(query, Position::START),
    ];
    let mut context = Context::from_waker(Waker::noop());
    for condition in conditions {
        let mut refused = store.append(append("a-1", "y").under(condition));
        let Poll::Ready(refused) = refused.as_mut().poll(&mut context) else {
            panic!("it waits for the writer");
        };
        assert!(matches!(refused, Err(AppendError::Conflict(_))), "{refused:?}");
    }
    // What waits ahead may still fulfil this one.
    let ahead = store.append(append("a-1", "y"));
    let exact = ExpectedRevision::Exact(Revision::new(2));
    let behind = store.append(append("a-1", "z").expecting(stream, exact));
    for answer in polled_together([ahead, behind]) {
        answer.unwrap();
    }
}

#[test]
fn without_sync_a_segment_is_synced_once_when_the_next_one_begins() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let options = Options { durability: Durability::Os, ..small() };
    let store = open(&fs, &dir.path().join("s"), options).unwrap();
    fs.take_steps();
    for _ in 0..40 {
        store.append_blocking(append("a-1", &"x".repeat(5_000))).unwrap();
    }
    let steps = fs.take_steps();
    let segment = |step: &&Step| step.path.extension().is_some_and(|extension| extension == "seg");
    let begun: Vec<&Path> =
        steps.iter().filter(|s| s.op == Op::Rename).filter(segment).map(|s| &*s.path).collect();
    assert!(begun.len() >= 3, "{begun:?}");
    for at in 0..begun.len() {
        let syncs = steps.iter().filter(|step| step.op == Op::Sync && step.path == begun[at]);
        let sealed = usize::from(at + 1 < begun.len());
        assert_eq!(syncs.count(), sealed, "{}", begun[at].display());
    }
}

#[test]
fn the_device_begins_with_much_before_the_sync_and_now_and_then_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, payload) = (FaultyFs::default(), "x".repeat(300_000));
    let options =
        |durability| Options { durability, segment_bytes: 16 * 1024 * 1024, ..Options::default() };
    let ops = || fs.take_steps().iter().map(|step| step.op).collect::<Vec<_>>();
    let store = open(&fs, &dir.path().join("sync"), options(Durability::Sync)).unwrap();
    ops();
    for _ in 0..3 {
        store.append_blocking(append("a-1", &payload)).unwrap();
        assert_eq!(ops(), [Op::Write, Op::WriteOut, Op::Sync]);
        store.append_blocking(append("a-1", "x")).unwrap();
        assert_eq!(ops(), [Op::Write, Op::Sync]);
    }
    drop(store);
    let store = open(&fs, &dir.path().join("os"), options(Durability::Os)).unwrap();
    ops();
    for _ in 0..20 {
        store.append_blocking(append("a-1", &payload)).unwrap();
    }
    let begun = ops().iter().filter(|&&op| op == Op::WriteOut).count();
    assert_eq!(begun, 1, "6 MB, and every 4 MiB");
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
    assert_eq!(steps[1..3], first[1..3]);
    assert!(steps.iter().all(|(_, name)| name != segment), "a closed store is durable: {steps:?}");
    // Of a store that was not closed the last frame is written again, in case an old map kept it
    // in the cache.
    let steps = steps_of_opening(&killed);
    assert_eq!(steps[1..5], first[1..]);
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
