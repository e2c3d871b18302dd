//! Errors at every operation: what was acknowledged stays, what failed is told apart.

use headwater_core::{
    AppendError, Durability, Effect, EventLog, ExpectedRevision, GroupError, GroupLog, GroupName,
    NewGroup, Slot, SlotCommit, SlotProgress, SlotRange, Visibility,
};
use pollster::block_on;

use super::*;
use crate::fs::RealFs;
use crate::fs::faulty::Op;
use crate::retention::{Cutoff, Passing};
use crate::writer::{Inline, Request};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

fn acknowledged(acked: &[String], store: &Store) {
    let events = all(store);
    let found: Vec<String> =
        events.iter().map(|e| String::from_utf8(e.payload.to_vec()).unwrap()).collect();
    assert!(found.len() >= acked.len(), "{} of {} acknowledged", found.len(), acked.len());
    assert_eq!(&found[..acked.len()], acked);
    let positions: Vec<u64> = events.iter().map(|e| e.position.get()).collect();
    assert_eq!(positions, (1..=events.len() as u64).collect::<Vec<_>>());
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_store_is_reopened() {
    for n in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fs = FaultyFs::default();
        let store = open(&fs, &path, small()).unwrap();
        let mut acked = Vec::new();
        fs.fail(n, EIO, 1, Some(Op::Sync));
        let error = loop {
            assert!(acked.len() <= n, "the failed sync was not noticed");
            let payload = format!("{}", acked.len());
            match store.append_blocking(append("a-1", &payload)) {
                Ok(_) => acked.push(payload),
                Err(error) => break error,
            }
        };
        assert_eq!(acked.len(), n);
        assert!(matches!(error, AppendError::Indeterminate(_)), "{error}");
        assert_eq!(error.effect(), Effect::Unknown);
        assert!(fs.heal());
        // The device works again, but what is dirty is not known any more.
        let error = store.append_blocking(append("a-1", "later")).unwrap_err();
        assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
        assert_eq!(error.effect(), Effect::None);
        assert_eq!(all(&store).len(), acked.len(), "reads see what was acknowledged");
        let head = block_on(store.head(Visibility::Committed)).unwrap();
        assert_eq!(head.get(), acked.len() as u64, "and so does the head");
        assert!(store.close().is_err());
        let store = open(&fs, &path, small()).unwrap();
        assert!(!store.recovery().clean);
        acknowledged(&acked, &store);
        store.append_blocking(append("a-1", "again")).unwrap();
    }
}

#[test]
fn a_failed_write_is_indeterminate_and_poisons_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = FaultyFs::default();
    let store = open(&fs, &path, small()).unwrap();
    store.append_blocking(append("a-1", "0")).unwrap();
    fs.fail(0, EIO, 1, Some(Op::Write));
    let error = store.append_blocking(append("a-1", "1")).unwrap_err();
    assert!(matches!(error, AppendError::Indeterminate(_)), "{error}");
    let error = store.append_blocking(append("a-1", "2")).unwrap_err();
    assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
    drop(store);
    fs.heal();
    acknowledged(&["0".to_owned()], &open(&fs, &path, small()).unwrap());
}

#[test]
fn after_a_panic_of_whoever_writes_nothing_is_written_until_the_store_is_reopened() {
    for op in [Op::Write, Op::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fs = FaultyFs::default();
        let store = open(&fs, &path, small()).unwrap();
        store.append_blocking(append("a-1", "0")).unwrap();
        fs.panic_at(op);
        // The caller's own thread writes here.
        let write = || store.append_blocking(append("a-1", "1"));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).unwrap_err();
        fs.take_steps();
        for _ in 0..2 {
            for answer in [
                store.append_blocking(append("a-1", "2")),
                block_on(EventLog::append(&store, append("b-1", "3"))),
            ] {
                let error = answer.unwrap_err();
                assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
            }
        }
        let error = store.flush().unwrap_err();
        assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
        assert_eq!(fs.take_steps(), []);
        assert_eq!(all(&store).len(), 1, "reads see what was acknowledged");
        assert!(store.close().is_err());
        let store = open(&fs, &path, small()).unwrap();
        assert!(!store.recovery().clean);
        acknowledged(&["0".to_owned()], &store);
        store.append_blocking(append("a-1", "again")).unwrap();
    }
}

#[test]
fn who_shares_a_write_with_one_that_panics_is_told_that_nobody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let store = open(&fs, &dir.path().join("s"), small()).unwrap();
    let mut answers = Vec::new();
    let requests = ["a-1", "b-1"].map(|stream| {
        let mut request = Request::new(append(stream, "0"), 64 * 1024).unwrap();
        answers.push(request.ask());
        request
    });
    fs.panic_at(Op::Sync);
    let write = || store.writer().write_together(requests.into());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).unwrap_err();
    for mut answer in answers {
        let error = answer.try_recv().unwrap().answer.unwrap_err();
        assert!(matches!(error, AppendError::Indeterminate(_)), "{error}");
        assert_eq!(error.effect(), Effect::Unknown);
    }
}

#[test]
fn a_commit_that_panics_is_indeterminate_and_no_other_is_written() {
    for op in [Op::Write, Op::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fs = FaultyFs::default();
        let store = open(&fs, &path, small()).unwrap();
        let name = GroupName::new("g").unwrap();
        block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
        fs.panic_at(op);
        let error = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap_err();
        assert!(matches!(error, GroupError::Indeterminate(_)), "{error}");
        fs.take_steps();
        let later = block_on(store.seek_group(&name, Position::START)).unwrap_err();
        assert_eq!(later.effect(), Effect::None, "{later}");
        assert_eq!(fs.take_steps(), []);
        store.append_blocking(append("a-1", "on")).unwrap();
        assert!(store.close().is_err());
        let store = open(&fs, &path, small()).unwrap();
        assert!(!store.recovery().clean);
        block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    }
}

#[test]
fn what_the_device_will_not_begin_with_poisons_the_writer_like_a_failed_sync() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = FaultyFs::default();
    let options = || Options { segment_bytes: 4 * 1024 * 1024, ..Options::default() };
    let store = open(&fs, &path, options()).unwrap();
    store.append_blocking(append("a-1", "0")).unwrap();
    fs.fail(0, EIO, 1, Some(Op::WriteOut));
    let error = store.append_blocking(append("a-1", &"x".repeat(300_000))).unwrap_err();
    assert!(matches!(error, AppendError::Indeterminate(_)), "{error}");
    assert_eq!(all(&store).len(), 1);
    let error = store.append_blocking(append("a-1", "2")).unwrap_err();
    assert!(matches!(error, AppendError::Poisoned(_)), "{error}");
    drop(store);
    assert!(fs.heal());
    acknowledged(&["0".to_owned()], &open(&fs, &path, options()).unwrap());
}

/// Appends until the first segment is full, then lets every operation of the roll fail in turn.
#[test]
fn a_roll_that_fails_at_any_step_loses_nothing() {
    for errno in [EIO, ENOSPC, EROFS] {
        for step in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s");
            let fs = FaultyFs::default();
            let store = open(&fs, &path, small()).unwrap();
            let mut acked = Vec::new();
            let payload = |n: usize| format!("{n:06}{}", "x".repeat(14_000));
            // Short of half, so that no thread prepares the spare behind our back.
            for n in 0..2 {
                store.append_blocking(append("a-1", &payload(n))).unwrap();
                acked.push(payload(n));
            }
            fs.take_steps();
            fs.fail(step, errno, usize::MAX, None);
            for n in 2..7 {
                match store.append_blocking(append("a-1", &payload(n))) {
                    Ok(_) => acked.push(payload(n)),
                    Err(_) => break,
                }
            }
            acknowledged(&acked, &store);
            drop(store);
            fs.heal();
            let store = open(&fs, &path, small()).unwrap();
            acknowledged(&acked, &store);
            let stored = all(&store).len();
            store.append_blocking(append("a-1", "after")).unwrap();
            assert_eq!(all(&store).len(), stored + 1);
            if acked.len() == 7 {
                assert!(step > 10, "the roll has more steps than {step}");
                break;
            }
        }
    }
}

#[test]
fn a_full_disk_is_read_only_and_heals_when_space_returns() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = FaultyFs::default();
    let store = open(&fs, &path, small()).unwrap();
    let payload = "x".repeat(15_000);
    // A full disk refuses new files; what is zero-filled ahead can still be written.
    fs.fail(0, ENOSPC, usize::MAX, Some(Op::Create));
    let mut acked = 0;
    let error = loop {
        assert!(acked < 10, "the full disk was not noticed");
        match store.append_blocking(append("a-1", &payload)) {
            Ok(_) => acked += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::StorageFull(_)), "{error}");
    assert_eq!((error.effect(), acked), (Effect::None, 4));
    let error = store.append_blocking(append("a-1", &payload)).unwrap_err();
    assert!(matches!(error, AppendError::StorageFull(_)), "{error}");
    assert_eq!(all(&store).len(), 4);
    assert!(store.append_blocking(append("a-1", "short")).is_ok(), "there is room in the segment");
    fs.heal();
    assert_eq!(store.append_blocking(append("a-1", &payload)).unwrap().last, Position::new(6));
    store.close().unwrap();
    assert_eq!(all(&open(&fs, &path, small()).unwrap()).len(), 6);
}

#[test]
fn creating_a_store_can_fail_at_any_step_and_be_done_again() {
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fs = FaultyFs::default();
        fs.fail(step, EIO, usize::MAX, None);
        let first = open(&fs, &path, small());
        let failed = first.is_err();
        drop(first);
        fs.heal();
        let store = open(&fs, &path, small()).unwrap();
        store.append_blocking(append("a-1", "x")).unwrap();
        if !failed {
            assert!(step > 10, "creation has more steps than {step}");
            break;
        }
    }
}

#[test]
fn a_poisoned_store_says_so_before_it_says_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let store = open(&fs, &dir.path().join("s"), small()).unwrap();
    let stream = headwater_core::StreamId::new("a-1").unwrap();
    store.append_blocking(append("a-1", "x")).unwrap();
    let stale = || append("a-1", "y").expecting(stream.clone(), ExpectedRevision::NoStream);
    let refused = store.append_blocking(stale());
    assert!(matches!(refused, Err(AppendError::Conflict(_))), "{refused:?}");
    fs.fail(0, 5, 1, Some(Op::Sync));
    store.append_blocking(append("a-1", "z")).unwrap_err();
    // In the caller's thread, and through the queue.
    let refused = [store.append_blocking(stale()), pollster::block_on(store.append(stale()))];
    for refused in refused {
        assert!(matches!(refused, Err(AppendError::Poisoned(_))), "{refused:?}");
    }
    store.close().unwrap_err();
    let refused = pollster::block_on(store.append(stale()));
    assert!(matches!(refused, Err(AppendError::Closed)), "{refused:?}");
}

#[test]
fn an_append_that_passed_the_queue_before_closing_is_not_written_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let fs = FaultyFs::default();
    let options = Options { durability: Durability::Os, ..small() };
    let store = open(&fs, &path, options.clone()).unwrap();
    let request = Request::new(append("a-1", "late"), 64 * 1024).unwrap();
    store.close().unwrap();
    fs.take_steps();
    // The directory may be another writer's by now.
    let Inline::Done { answer, .. } = store.writer().try_write(request) else {
        panic!("nobody else has the writer")
    };
    assert!(matches!(answer, Err(AppendError::Closed)));
    assert!(matches!(store.flush(), Err(AppendError::Closed)));
    assert_eq!(fs.take_steps(), []);
}

#[test]
fn recovery_can_fail_at_any_step_and_be_done_again() {
    let whole = tempfile::tempdir().unwrap();
    let source = whole.path().join("s");
    let fs = FaultyFs::default();
    let store = open(&fs, &source, small()).unwrap();
    for n in 0..3 {
        store.append_blocking(append("a-1", &n.to_string())).unwrap();
    }
    let copy = |to: &Path| {
        copy_store(&source, to);
        // The beginning of a frame that a crash tore.
        let segment = to.join("log/00000000000000000001-00000001.seg");
        let mut bytes = std::fs::read(&segment).unwrap();
        let last = bytes.iter().rposition(|&byte| byte != 0).unwrap().next_multiple_of(8);
        let torn = last.next_multiple_of(512) + 512;
        bytes[torn..torn + 100].fill(0xAB);
        std::fs::write(&segment, bytes).unwrap();
    };
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        copy(&path);
        let fs = FaultyFs::default();
        fs.fail(step, EIO, usize::MAX, None);
        let failed = open(&fs, &path, small()).is_err();
        fs.heal();
        let store = open(&fs, &path, small()).unwrap();
        acknowledged(&["0", "1", "2"].map(str::to_owned), &store);
        let kept = std::fs::read_dir(path.join("quarantine")).unwrap().count();
        assert!(kept >= 1, "what was cut is kept");
        if !failed {
            assert!(step > 5, "recovery has more steps than {step}");
            break;
        }
    }
}

#[test]
fn a_full_disk_does_not_hold_back_what_became_durable() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let options = Options { durability: Durability::Os, ..small() };
    let store = open(&fs, &dir.path().join("s"), options).unwrap();
    // From the beginning, or the next segment might be made ahead.
    fs.fail(0, ENOSPC, usize::MAX, Some(Op::Create));
    let payload = "x".repeat(15_000);
    for _ in 0..4 {
        store.append_blocking(append("a-1", &payload)).unwrap();
    }
    // Going over to another segment syncs the old one before it finds no space.
    let error = store.append_blocking(append("a-1", &payload)).unwrap_err();
    assert!(matches!(error, AppendError::StorageFull(_)), "{error}");
    let durable = pollster::block_on(store.head(Visibility::Durable)).unwrap();
    assert_eq!(durable, Position::new(4));
    assert_eq!(store.flush().unwrap(), durable);
}

#[test]
fn a_segment_of_offsets_goes_only_when_the_catalog_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (path, killed) = (dir.path().join("s"), dir.path().join("killed"));
    let fs = FaultyFs::default();
    let store = open(&fs, &path, small()).unwrap();
    for n in 0..2 {
        store.append_blocking(append("a-1", &n.to_string())).unwrap();
    }
    let name = GroupName::new("g").unwrap();
    block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
    let generation = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    fs.fail_file("CATALOG", EIO);
    let mut steps = 0;
    let rolled = || {
        let mut names = RealFs.list(&path.join("offsets")).unwrap().into_iter();
        names.any(|name| name.ends_with("-00000002.seg"))
    };
    while !rolled() {
        assert!(steps < 2_000, "the offsets log never went over to another segment");
        steps += 1;
        let commits = (0..1024).step_by(2).map(|n| {
            let slots = SlotRange::one(Slot::new(n).unwrap());
            let settled = vec![(Position::new(1 + steps % 2), Position::new(1 + steps % 2))];
            SlotCommit {
                slots,
                progress: SlotProgress { settled, generation, ..SlotProgress::default() },
            }
        });
        block_on(store.commit_slots(&name, commits.collect())).unwrap();
    }
    let expected = block_on(store.groups()).unwrap();
    copy_store(&path, &killed);
    let reopened = open(&FaultyFs::default(), &killed, small()).unwrap();
    assert_eq!(block_on(reopened.groups()).unwrap(), expected);
}

#[test]
fn a_full_disk_is_asked_before_it_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let store = open(&fs, &dir.path().join("s"), small()).unwrap();
    fs.say_free(10_000);
    let payload = "x".repeat(15_000);
    for _ in 0..4 {
        store.append_blocking(append("a-1", &payload)).unwrap();
    }
    fs.take_steps();
    let error = store.append_blocking(append("a-1", &payload)).unwrap_err();
    assert!(matches!(error, AppendError::StorageFull(_)), "{error}");
    // An index may be written meanwhile.
    let begun = fs.take_steps().iter().filter(|step| step.path.ends_with("next.tmp")).count();
    assert_eq!(begun, 0, "no file was begun");
}

#[test]
fn a_segment_without_events_hides_no_moment_and_nothing_younger_goes() {
    for skip in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let fs = FaultyFs::default();
        let store = open(&fs, &path, small()).unwrap();
        let payload = "x".repeat(15_000);
        for _ in 0..4 {
            store.append_blocking(append("a-1", &payload)).unwrap();
        }
        // The next one goes into another segment, and may come no further than that.
        fs.fail(skip, EIO, usize::MAX, Some(Op::Write));
        let done = store.append_blocking(append("a-1", &payload)).is_ok();
        drop(store);
        fs.heal();
        let store = open(&fs, &path, small()).unwrap();
        let events = all(&store);
        for event in &events {
            let last = events.iter().rfind(|other| other.commit_time <= event.commit_time).unwrap();
            assert_eq!(store.position_at(event.commit_time).unwrap(), last.position, "{skip}");
        }
        let older = Cutoff::Before(events[0].commit_time);
        assert_eq!(store.would_remove(older, Passing::Force).unwrap().removed, None, "{skip}");
        if done {
            assert!(skip > 1, "a roll writes more often than {skip} times");
            break;
        }
    }
}
