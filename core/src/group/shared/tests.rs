use pollster::block_on;
use proptest::prelude::*;

use super::*;
use crate::append::Append;
use crate::codec::CodecId;
use crate::event::NewEvent;
use crate::group::{GroupKind, MemoryJournal, SlotCommit, SlotProgress, SlotRange, WorkerId};
use crate::memory::MemoryLog;
use crate::name::{EventType, StreamId};
use crate::slot::Slot;

fn name() -> GroupName {
    GroupName::new("mail").unwrap()
}

fn log(events: usize) -> Arc<MemoryLog> {
    let log = MemoryLog::new();
    let event = |_| {
        let stream = StreamId::new("a-1").unwrap();
        NewEvent::new(stream, EventType::new("t").unwrap(), CodecId::RAW, "x")
    };
    if events > 0 {
        block_on(log.append(Append::new((0..events).map(event)))).unwrap();
    }
    Arc::new(log)
}

fn open(log: &Arc<MemoryLog>, journal: &MemoryJournal) -> Result<SharedGroups, GroupError> {
    let events: Arc<dyn EventLog> = Arc::<MemoryLog>::clone(log);
    block_on(SharedGroups::open(events, Arc::new(journal.clone())))
}

fn commit(generation: Generation, floor: u64) -> GroupChange {
    let progress = SlotProgress::beginning_at(Position::new(floor), generation);
    GroupChange::Commit(vec![SlotCommit { slots: SlotRange::all(), progress }].into())
}

#[test]
fn what_one_process_changes_the_others_know() {
    let (log, journal) = (log(10), MemoryJournal::new());
    let (here, there) = (open(&log, &journal).unwrap(), open(&log, &journal).unwrap());
    block_on(here.open_group(NewGroup::consumer(name()))).unwrap();
    let error = block_on(there.open_group(NewGroup::share(name()))).unwrap_err();
    assert!(matches!(error, GroupError::Differs { .. }), "{error}");
    let join = || WorkerChange::Join { name: "w".to_owned(), members: 1 };
    block_on(here.change_workers(&name(), join())).unwrap();
    let group = block_on(there.change_workers(&name(), join())).unwrap();
    assert_eq!(group.workers.iter().count(), 2);
    let claim = |worker| WorkerChange::Claim {
        worker: WorkerId::new(worker),
        slots: vec![SlotRange::one(Slot::FIRST)],
    };
    let claimed = block_on(here.change_workers(&name(), claim(1))).unwrap();
    assert_eq!(claimed.state.slot(Slot::FIRST).generation, claimed.state.generation);
    let error = block_on(there.change_workers(&name(), claim(2))).unwrap_err();
    assert!(matches!(error, GroupError::SlotTaken { .. }), "{error}");
    block_on(there.rename_group(&name(), GroupName::new("post").unwrap())).unwrap();
    let error = block_on(here.group(&name())).unwrap_err();
    assert!(matches!(error, GroupError::Unknown(_)), "{error}");
    let post = block_on(here.group(&GroupName::new("post").unwrap())).unwrap();
    assert_eq!(post.definition.id, group.state.definition.id);
    block_on(here.delete_group(&post.definition.name)).unwrap();
    assert!(block_on(there.groups()).unwrap().is_empty());
}

#[test]
fn who_commits_what_another_has_taken_over_is_fenced_also_where_it_does_not_know_yet() {
    let (log, journal) = (log(10), MemoryJournal::new());
    let (here, there) = (open(&log, &journal).unwrap(), open(&log, &journal).unwrap());
    block_on(here.open_group(NewGroup::consumer(name()))).unwrap();
    let mine = block_on(here.claim_slots(&name(), vec![SlotRange::all()])).unwrap();
    block_on(here.change_group(&name(), commit(mine, 3))).unwrap();
    let theirs = block_on(there.claim_slots(&name(), vec![SlotRange::all()])).unwrap();
    assert!(theirs > mine);
    let error = block_on(here.change_group(&name(), commit(mine, 5))).unwrap_err();
    assert!(matches!(error, GroupError::Fenced { .. }), "{error}");
    assert_eq!(block_on(there.group(&name())).unwrap().floor(), Position::new(3));
}

#[test]
fn a_journal_of_another_log_is_refused_and_so_is_one_that_is_none() {
    let journal = MemoryJournal::new();
    open(&log(1), &journal).unwrap();
    let error = open(&log(1), &journal).unwrap_err();
    assert!(matches!(error, GroupError::ForeignJournal { .. }), "{error}");
    let journal = MemoryJournal::new();
    block_on(journal.append(Version::NONE, "no entry".into())).unwrap();
    let error = open(&log(1), &journal).unwrap_err();
    assert!(matches!(error, GroupError::Journal(JournalError::Damaged(_))), "{error}");
}

#[test]
fn positions_lie_inside_the_log() {
    let groups = open(&log(10), &MemoryJournal::new()).unwrap();
    let beyond = NewGroup::consumer(name()).start(Position::new(11).into());
    let error = block_on(groups.open_group(beyond)).unwrap_err();
    assert!(matches!(error, GroupError::OutsideLog { .. }), "{error}");
    block_on(groups.open_group(NewGroup::consumer(name()))).unwrap();
    let mine = block_on(groups.claim_slots(&name(), vec![SlotRange::all()])).unwrap();
    let error = block_on(groups.change_group(&name(), commit(mine, 11))).unwrap_err();
    assert!(matches!(error, GroupError::OutsideLog { .. }), "{error}");
}

#[test]
fn a_process_that_comes_late_begins_with_a_snapshot() {
    let (log, journal) = (log(10), MemoryJournal::new());
    let here = open(&log, &journal).unwrap();
    let behind = open(&log, &journal).unwrap();
    let group = NewGroup { start: Position::new(2).into(), ..NewGroup::share(name()) };
    block_on(here.open_group(group)).unwrap();
    let join = WorkerChange::Join { name: "w".to_owned(), members: 1 };
    block_on(here.change_workers(&name(), join)).unwrap();
    let beat = || WorkerChange::Beat { worker: WorkerId::new(1), members: 1 };
    for _ in 0..SNAPSHOT_ENTRIES {
        block_on(here.change_workers(&name(), beat())).unwrap();
    }
    let read = block_on(journal.read(Version::NONE)).unwrap();
    assert_eq!(read.snapshot.map(|(version, _)| version.get()), Some(SNAPSHOT_ENTRIES));
    let late = open(&log, &journal).unwrap();
    let known = block_on(here.shared_group(&name())).unwrap();
    assert_eq!(known.state.definition.shape.kind, GroupKind::Share);
    assert_eq!(block_on(late.shared_group(&name())).unwrap(), known);
    assert_eq!(block_on(behind.shared_group(&name())).unwrap(), known);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever processes change in turn, each of them, and one that reads only the snapshot, know
    /// the same as a log that has the groups to itself.
    #[test]
    fn every_process_folds_what_one_log_would_have(
        steps in prop::collection::vec((0..3usize, 0..5u8, 0..1024u16, 0..1024u16, 0..11u64), 1..40),
    ) {
        let (log, journal) = (log(10), MemoryJournal::new());
        let processes: Vec<_> = (0..3).map(|_| open(&log, &journal).unwrap()).collect();
        block_on(log.open_group(NewGroup::consumer(name()))).unwrap();
        block_on(processes[0].open_group(NewGroup::consumer(name()))).unwrap();
        for (process, what, one, other, floor) in steps {
            let slot = |number| Slot::new(number).unwrap();
            let slots = SlotRange::new(slot(one.min(other)), slot(one.max(other))).unwrap();
            let current = block_on(log.group(&name())).unwrap().slot(slots.first()).generation;
            let change = match what {
                0 | 1 => GroupChange::Claim(vec![slots]),
                2 | 3 => {
                    let progress = SlotProgress::beginning_at(Position::new(floor), current);
                    GroupChange::Commit(vec![SlotCommit { slots, progress }].into())
                }
                _ => GroupChange::Seek(Position::new(floor)),
            };
            let alone = block_on(log.change_group(&name(), change.clone()));
            let shared = block_on(processes[process].change_group(&name(), change));
            prop_assert_eq!(alone.map_err(|e| e.to_string()), shared.map_err(|e| e.to_string()));
        }
        let alone = block_on(log.group(&name())).unwrap();
        for process in &processes {
            prop_assert_eq!(&block_on(process.group(&name())).unwrap(), &alone);
        }
        let written = block_on(processes[0].folded.lock()).write().unwrap();
        let version = block_on(processes[0].folded.lock()).version;
        block_on(journal.compact(version, written)).unwrap();
        let late = open(&log, &journal).unwrap();
        prop_assert_eq!(&block_on(late.group(&name())).unwrap(), &alone);
    }
}
