//! An import that the disk interrupts: there is no store, or there is all of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{
    Append, AppendId, CodecId, EventLog, EventType, GroupLog, GroupName, NewEvent, NewGroup,
    Position, Query, Read, RecordedEvent, Start, StreamId,
};
use pollster::block_on;

use super::import::import;
use super::{ImportError, ImportOptions, ImportedId};
use crate::error::OpenError;
use crate::fs::Fs;
use crate::fs::faulty::{FaultyFs, Op};
use crate::fs::sim::{Fault, SimFs, Survival};
use crate::handle::Store;
use crate::open::{self, Found};
use crate::options::Options;
use crate::read_only::ReadOnlyStore;
use crate::retention::{Cutoff, Passing};
use crate::verify::{VerifyOptions, verify};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn small() -> Options {
    Options { segment_bytes: 64 * 1024, ..Options::default() }
}

fn root() -> PathBuf {
    Path::new("/disk").join("store")
}

/// Lines of a log of two segments that has lost another one, with a group.
fn lines() -> (Vec<u8>, Vec<RecordedEvent>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small()).unwrap();
    for n in 0..12_u8 {
        let stream = StreamId::new(format!("a-{}", n % 3)).unwrap();
        let event_type = EventType::new("t").unwrap();
        let event = NewEvent::new(stream, event_type, CodecId::RAW, "x".repeat(14_000));
        let append = Append::new([event]).with_id(AppendId::from_name(&[n]));
        store.append_blocking(append).unwrap();
    }
    block_on(store.open_group(NewGroup::consumer(GroupName::new("g").unwrap()).start(Start::End)))
        .unwrap();
    store.remove(Cutoff::Through(Position::new(7)), Passing::Force).unwrap();
    let start = block_on(store.start()).unwrap();
    let read = Read::forward(Query::all(), start);
    let events = store.read_blocking(&read).unwrap().events;
    assert_eq!((start, events.len()), (Position::new(4), 8));
    store.close().unwrap();
    let mut lines = Vec::new();
    ReadOnlyStore::open(dir.path()).unwrap().export(&mut lines, |_| {}).unwrap();
    (lines, events)
}

fn import_on(fs: &SimFs, lines: &[u8]) -> Result<(), ImportError> {
    import_at(&(Arc::new(fs.clone()) as Arc<dyn Fs>), &root(), lines)
}

fn import_at(fs: &Arc<dyn Fs>, root: &Path, lines: &[u8]) -> Result<(), ImportError> {
    let options = ImportOptions { id: ImportedId::Kept, store: small() };
    let lines = std::io::Cursor::new(lines.to_vec());
    import(fs, root, lines, options, |_| {}).map(|_| ())
}

/// Makes sure that there is no store, or all of it, and returns whether there is.
fn all_or_none(fs: &SimFs, events: &[RecordedEvent]) -> bool {
    all_or_none_at(&(Arc::new(fs.clone()) as Arc<dyn Fs>), &root(), events)
}

fn all_or_none_at(fs: &Arc<dyn Fs>, root: &Path, events: &[RecordedEvent]) -> bool {
    if open::look(fs.as_ref(), root).unwrap() != Found::Store {
        return false;
    }
    let store = Store::open_on(fs, root, small()).unwrap();
    assert!(store.recovery().clean);
    let read = Read::forward(Query::all(), Position::new(4));
    assert_eq!(store.read_blocking(&read).unwrap().events, events);
    assert_eq!(block_on(store.groups()).unwrap().len(), 1);
    assert!(block_on(store.find_append(AppendId::from_name(&[9]))).unwrap().is_some());
    true
}

#[test]
fn an_import_that_loses_power_anywhere_is_no_store() {
    let (lines, events) = lines();
    for step in 0.. {
        let drawn = Survival::Drawn(step);
        let survival =
            [Survival::Nothing, Survival::Everything, drawn][usize::try_from(step % 3).unwrap()];
        let fs = SimFs::new(Path::new("/disk"));
        fs.fail_at(step, Fault::PowerOff);
        let imported = import_on(&fs, &lines);
        if imported.is_ok() && !fs.is_off() {
            assert!(step > 60, "an import takes more operations than {step}");
            return;
        }
        fs.lose_power(survival);
        let there = all_or_none(&fs, &events);
        assert!(there || imported.is_err(), "step {step}: what was imported is gone");
        if !there {
            // What is left is no hindrance.
            import_on(&fs, &lines).unwrap();
            assert!(all_or_none(&fs, &events));
        }
    }
}

#[test]
fn an_import_that_fails_anywhere_leaves_nothing_that_opens() {
    let (lines, events) = lines();
    for step in 0.. {
        let fs = SimFs::new(Path::new("/disk"));
        fs.fail_at(step, Fault::Once(ENOSPC));
        match import_on(&fs, &lines) {
            Ok(()) if fs.steps() <= step => return,
            Ok(()) => assert!(all_or_none(&fs, &events)),
            Err(error) => {
                let full = matches!(error, ImportError::StorageFull(_));
                let opening = matches!(error, ImportError::Target(OpenError::StorageFull { .. }));
                assert!(full || opening, "step {step}: {error:?}");
                if !all_or_none(&fs, &events) {
                    import_on(&fs, &lines).unwrap();
                    assert!(all_or_none(&fs, &events));
                }
            }
        }
    }
}

#[test]
fn an_import_whose_store_cannot_be_removed_leaves_it_whole() {
    let (lines, events) = lines();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let faulty = FaultyFs::default();
    let fs: Arc<dyn Fs> = Arc::new(faulty.clone());
    import_at(&fs, &root, &lines).unwrap();
    let steps = faulty.take_steps();
    std::fs::remove_dir_all(&root).unwrap();
    // The sync of the directory behind the name STORE fails, and so does what comes next.
    let named = steps.iter().position(|step| step.path.ends_with("STORE")).unwrap();
    let synced = steps[named..].iter().position(|step| step.op == Op::SyncDir).unwrap();
    faulty.fail(named + synced, EIO, 2, None);
    let error = import_at(&fs, &root, &lines).unwrap_err();
    assert!(faulty.heal(), "{error}");
    assert!(all_or_none_at(&fs, &root, &events), "{error}");
}

#[test]
fn a_note_that_a_crash_left_in_a_whole_store_is_known_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path(), small()).unwrap().close().unwrap();
    let note = dir.path().join(open::IMPORT_FILE);
    std::fs::write(&note, "").unwrap();
    let report = verify(dir.path(), &VerifyOptions::default(), &|_, _| {}).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    assert!(note.exists());
    Store::open(dir.path(), small()).unwrap().close().unwrap();
    assert!(!note.exists());
}
