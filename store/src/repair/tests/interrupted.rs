//! Repairs that stop on the way, and are asked for again.

use std::collections::BTreeMap;

use super::*;
use crate::fs::faulty::{FaultyFs, Op};

const QUARANTINE: &str = "/disk/store/quarantine";

fn folder(fs: &dyn Fs, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(folder);
    let names = fs.list(folder).unwrap_or_default();
    let read = |name: String| {
        let file = fs.open(&folder.join(&name), Access::Read).unwrap();
        (name, salvage::read_whole(file.as_ref()).unwrap().0)
    };
    names.into_iter().map(read).collect()
}

/// Lets each operation of a repair fail in turn, looks what the error says, and asks again.
#[test]
fn a_repair_that_fails_at_any_operation_says_how_far_it_came_and_copies_nothing_twice() {
    let root = Path::new("/disk/store");
    let quarantine = |id, keep| Repair::QuarantineSegment { id, keep: Some(keep) };
    for (what, id, first, last) in [
        (Repair::CutTail, 5, 1, 17),
        (quarantine(3, Keep::Older), 3, 1, 8),
        (quarantine(3, Keep::Newer), 3, 13, 20),
    ] {
        let (_, fs) = damaged(id);
        let planned = repair_on(&fs, root, what, Loss::Accept, Effort::DryRun).unwrap().steps;
        repair_on(&fs, root, what, Loss::Accept, Effort::Apply).unwrap();
        let expected: Vec<String> = folder(fs.as_ref(), QUARANTINE).into_keys().collect();
        let mut furthest = 0;
        for operation in 0.. {
            let (sim, fs) = damaged(id);
            let before = folder(fs.as_ref(), "/disk/store/log");
            sim.fail_at(operation, Fault::Once(28));
            let tried = repair_on(&fs, root, what, Loss::Accept, Effort::Apply);
            if !sim.has_failed() {
                tried.unwrap();
                break;
            }
            let context = format!("{what:?}, operation {operation}");
            match tried {
                Err(RepairError::Interrupted { done, left, .. }) => {
                    furthest = furthest.max(done.len());
                    assert_eq!([&done[..], &left].concat(), planned, "{context}");
                    for step in &done {
                        assert!(is_done(fs.as_ref(), step), "{context}: {step:?}");
                    }
                }
                // The lock's text means nothing.
                Ok(_) => {}
                Err(error) => {
                    assert!(folder(fs.as_ref(), "/disk/store/log") == before, "{context}: {error}");
                    assert!(folder(fs.as_ref(), QUARANTINE).is_empty(), "{context}: {error}");
                }
            }
            sim.heal();
            let again = repair_on(&fs, root, what, Loss::Accept, Effort::Apply);
            assert!(again.is_ok(), "{context}: {again:?}");
            sim.lose_power(Survival::Nothing);
            check(&fs, root, first, last);
            let mut kept = folder(fs.as_ref(), QUARANTINE);
            if what == Repair::CutTail {
                // Zeros that were half written make it another range.
                kept.retain(|name, _| expected.contains(name));
            }
            assert!(kept.keys().eq(&expected), "{context}: {:?}", kept.keys());
            for (name, bytes) in kept.iter().filter(|(name, _)| !name.ends_with(".unreadable")) {
                let whole =
                    before.iter().find(|(segment, _)| name.contains(&segment[..])).unwrap().1;
                let is_part = whole.windows(bytes.len()).any(|part| part == bytes);
                assert!(is_part, "{context}: {name}");
            }
        }
        assert_eq!(furthest + 1, planned.len(), "each step has failed");
    }
}

/// Returns whether a step shows on the disk.
fn is_done(fs: &dyn Fs, step: &RepairStep) -> bool {
    match step {
        RepairStep::Copy { file, .. } => {
            let name = file.file_name().unwrap().to_str().unwrap();
            folder(fs, QUARANTINE).contains_key(name)
        }
        RepairStep::Cut { file, offset, bytes } => {
            let file = fs.open(file, Access::Read).unwrap();
            let mut cut = vec![1; usize::try_from(*bytes).unwrap()];
            file.read_at(&mut cut, *offset).unwrap();
            cut.iter().all(|&byte| byte == 0)
        }
        RepairStep::Remove { file } => {
            fs.open(file, Access::Read).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
        }
        _ => true,
    }
}

#[test]
fn the_lock_is_taken_once() {
    let root = Path::new("/disk/store");
    let (sim, fs) = damaged(5);
    let before = sim.locked();
    let report = repair_on(&fs, root, Repair::CutTail, Loss::Accept, Effort::Apply).unwrap();
    assert!(matches!(report.steps.last(), Some(RepairStep::SeekGroup { .. })), "{report:?}");
    assert_eq!(sim.locked() - before, 1);
    // It is free again.
    check(&fs, root, 1, 17);
}

/// As on a file system that turned read-only when its device failed.
#[test]
fn a_dry_run_needs_nothing_synced() {
    let sample = Sample::new(false);
    sample.flip(5, 3);
    let faulty = FaultyFs::default();
    faulty.fail(0, 30, usize::MAX, Some(Op::Sync));
    let fs: Arc<dyn Fs> = Arc::new(faulty.clone());
    let planned = repair_on(&fs, &sample.root, Repair::CutTail, Loss::Refuse, Effort::DryRun);
    assert_eq!(planned.unwrap().steps.len(), 3);
    let refused = repair_on(&fs, &sample.root, Repair::CutTail, Loss::Accept, Effort::Apply);
    assert!(matches!(refused, Err(RepairError::Io { action: "sync", .. })), "{refused:?}");
}

#[test]
fn a_copy_that_is_not_whole_is_made_again_under_another_name() {
    let sample = Sample::new(true);
    sample.flip(1, 1);
    let name = sample.segment(1).file_name().unwrap().to_owned();
    let before = fs::read(sample.segment(1)).unwrap();
    let folder = sample.root.join("quarantine");
    fs::create_dir(&folder).unwrap();
    // One that ends early, and one of other bytes.
    fs::write(folder.join(&name), &before[..before.len() - 1]).unwrap();
    let second = folder.join(format!("{}.2", name.display()));
    let mut other = before.clone();
    other[50_000] ^= 1;
    fs::write(&second, other).unwrap();
    let report = sample.apply(Repair::QuarantineSegment { id: 1, keep: None });
    assert_eq!(report.kept, [folder.join(format!("{}.3", name.display()))]);
    assert_eq!(fs::read(&report.kept[0]).unwrap(), before);
}
