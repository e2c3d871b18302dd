//! Making damage, seeing it refused, and repairing it.

mod interrupted;
mod unreadable;

use std::fs;

use headwater_core::{
    Append, CodecId, EventLog, EventType, GroupLog, NewEvent, NewGroup, Query, Read, Revision,
    SlotCommit, SlotProgress, SlotRange, StreamId,
};
use tempfile::TempDir;

use super::*;
use crate::error::OpenError;
use crate::fs::Access;
use crate::fs::sim::{Fault, SimFs, Survival};
use crate::handle::Store;
use crate::ledger::Removal;
use crate::options::{OpenMode, Options};
use crate::sync::block_on;
use crate::tests::copy_store;
use crate::verify::{Severity, verify_on};

const EVENTS: u64 = 20;

fn append(n: u64) -> Append {
    let stream = StreamId::new(format!("a-{}", n % 3)).unwrap();
    let payload = format!("{n} {}", "x".repeat(14_000));
    let event_type = EventType::new("t").unwrap();
    Append::new([NewEvent::new(stream, event_type, CodecId::RAW, payload)])
}

fn options() -> Options {
    Options { segment_bytes: 64 * 1024, mode: OpenMode::OpenOrCreate, ..Options::default() }
}

fn name() -> GroupName {
    GroupName::new("g").unwrap()
}

/// A store of twenty events in five segments of four, and a group that has read all of it.
fn fill(fs: &Arc<dyn Fs>, root: &Path) -> Store {
    let store = Store::open_on(fs, root, options()).unwrap();
    let group = block_on(store.open_group(NewGroup::consumer(name()))).unwrap();
    for n in 0..EVENTS {
        store.append_blocking(append(n)).unwrap();
    }
    let claimed = block_on(store.claim_slots(&name(), vec![SlotRange::all()])).unwrap();
    assert!(claimed > group.generation);
    let progress = SlotProgress {
        floor: Position::new(EVENTS),
        settled: Vec::new(),
        generation: claimed,
        ..SlotProgress::default()
    };
    let commit = SlotCommit { slots: SlotRange::all(), progress };
    block_on(store.commit_slots(&name(), vec![commit])).unwrap();
    store
}

struct Sample {
    _dir: TempDir,
    root: PathBuf,
    fs: Arc<dyn Fs>,
}

impl Sample {
    fn new(closed: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        let (live, root) = (dir.path().join("live"), dir.path().join("s"));
        let store = fill(&fs, &live);
        if closed {
            store.close().unwrap();
        }
        copy_store(&live, &root);
        Self { _dir: dir, root, fs }
    }

    fn segment(&self, id: u64) -> PathBuf {
        let base = Position::new((id - 1) * 4 + 1);
        self.root.join("log").join(crate::format::segment::file_name(base, id))
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.segment(id)).unwrap();
        change(&mut bytes);
        fs::write(self.segment(id), bytes).unwrap();
    }

    /// Flips a bit in the payload of the event with a number inside a segment.
    fn flip(&self, id: u64, event: usize) {
        self.change(id, |bytes| bytes[4096 + event * 14_136 + 300] ^= 1);
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push((path.clone(), fs::read(path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    fn dry(&self, what: Repair) -> Result<RepairReport, RepairError> {
        let before = self.files();
        let report = repair_on(&self.fs, &self.root, what, Loss::Refuse, Effort::DryRun);
        assert!(self.files() == before, "a dry run changed something");
        report
    }

    /// Repairs, after a dry run that says the same; and once more, which finds nothing to do.
    fn apply(&self, what: Repair) -> RepairReport {
        let planned = self.dry(what).unwrap();
        if planned.loses_acknowledged() {
            let before = self.files();
            let refused = repair_on(&self.fs, &self.root, what, Loss::Refuse, Effort::Apply);
            assert!(matches!(refused, Err(RepairError::LosesAcknowledged)), "{refused:?}");
            let lock = self.root.join("LOCK");
            let same = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<(PathBuf, Vec<u8>)> {
                files.into_iter().filter(|(path, _)| *path != lock).collect()
            };
            assert!(same(self.files()) == same(before));
        }
        let report = repair_on(&self.fs, &self.root, what, Loss::Accept, Effort::Apply).unwrap();
        assert!(report.applied);
        assert_eq!((&report.steps, &report.lost), (&planned.steps, &planned.lost));
        let again = repair_on(&self.fs, &self.root, what, Loss::Refuse, Effort::Apply).unwrap();
        assert_eq!(again.steps, []);
        let report_of_verify = self.verify();
        assert_eq!(report_of_verify.faults, [], "after {what:?}");
        report
    }

    fn verify(&self) -> crate::VerifyReport {
        let mut report =
            verify_on(&self.fs, &self.root, &VerifyOptions::default(), &|_, _| {}).unwrap();
        report.faults.retain(|fault| fault.severity > Severity::Note);
        report
    }

    fn refused(&self) -> String {
        Store::open_on(&self.fs, &self.root, options()).unwrap_err().to_string()
    }
}

/// Opens a repaired store, checks which of the events it holds, and appends to it.
fn check(fs: &Arc<dyn Fs>, root: &Path, first: u64, last: u64) {
    let store = Store::open_on(fs, root, options()).unwrap();
    let read = Read::forward(Query::all(), Position::new(first - 1)).limit(100);
    let page = store.read_blocking(&read).unwrap();
    let found: Vec<u64> = page.events.iter().map(|event| event.position.get()).collect();
    assert_eq!(found, (first..=last).collect::<Vec<_>>());
    for event in &page.events {
        let n = event.position.get() - 1;
        assert_eq!(event.payload, append(n).events[0].payload);
    }
    let group = block_on(store.group(&name())).unwrap();
    assert!(group.floor() <= Position::new(last), "{}", group.floor());
    let appended = store.append_blocking(append(last)).unwrap();
    assert_eq!(appended.first.get(), last + 1);
    store.close().unwrap();
}

#[test]
fn an_end_that_no_crash_explains_is_cut_and_kept() {
    let sample = Sample::new(false);
    sample.flip(5, 3);
    let refused = sample.refused();
    let command = format!("`headwater repair {} --cut-tail`", sample.root.display());
    assert!(refused.contains(&command), "{refused}");
    let before = fs::read(sample.segment(5)).unwrap();
    let report = sample.apply(Repair::CutTail);
    let [
        RepairStep::Cut { offset, bytes, .. },
        RepairStep::EndLog { log: "log", last },
        RepairStep::SeekGroup { .. },
    ] = &report.steps[..]
    else {
        panic!("{report:#?}")
    };
    assert_eq!(last.get(), 19);
    let [lost] = &report.lost[..] else { panic!("{report:?}") };
    // It was acknowledged, and no later frame was written to say so.
    assert_eq!((lost.first.get(), lost.last.get(), lost.acknowledged), (20, 20, true));
    let range = usize::try_from(*offset).unwrap()..usize::try_from(offset + bytes).unwrap();
    assert_eq!(fs::read(&report.kept[0]).unwrap(), before[range]);
    check(&sample.fs, &sample.root, 1, 19);
}

#[test]
fn acknowledged_events_are_only_cut_if_that_is_accepted() {
    for closed in [false, true] {
        let sample = Sample::new(closed);
        let index = sample.segment(5).with_extension("idx");
        drop(fs::remove_file(index));
        sample.flip(5, 1);
        assert!(sample.refused().contains("acknowledged events are lost"));
        let report = sample.apply(Repair::CutTail);
        let [lost] = &report.lost[..] else { panic!("{report:?}") };
        assert_eq!((lost.first.get(), lost.last.get(), lost.acknowledged), (18, 20, true));
        // The damaged one is one frame of one record.
        assert_eq!(lost.readable, 2);
        assert_eq!(lost.streams, [("a-0".to_owned(), 1), ("a-1".to_owned(), 1)]);
        check(&sample.fs, &sample.root, 1, 17);
    }
}

#[test]
fn an_end_that_is_gone_lowers_what_the_catalog_says() {
    let sample = Sample::new(true);
    sample.change(5, |bytes| bytes[4096 + 14_136..].fill(0));
    drop(fs::remove_file(sample.segment(5).with_extension("idx")));
    let report = sample.apply(Repair::CutTail);
    assert!(matches!(report.steps[0], RepairStep::EndLog { .. }), "{report:?}");
    assert!(report.kept.is_empty() && report.loses_acknowledged());
    check(&sample.fs, &sample.root, 1, 17);
}

#[test]
fn progress_of_groups_is_cut_like_a_log() {
    let sample = Sample::new(false);
    let name = crate::format::segment::file_name(Position::FIRST, 1);
    let path = sample.root.join("offsets").join(name);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(sample.refused().contains("no crash explains"));
    let report = sample.apply(Repair::CutTail);
    assert!(matches!(report.steps[1], RepairStep::EndLog { log: "offsets", .. }), "{report:?}");
    check(&sample.fs, &sample.root, 1, 20);
}

#[test]
fn the_end_of_a_log_that_is_well_is_left_alone_and_damage_elsewhere_is_named() {
    let sample = Sample::new(true);
    assert_eq!(sample.dry(Repair::CutTail).unwrap(), RepairReport::default());
    sample.flip(2, 1);
    let elsewhere = sample.dry(Repair::CutTail).unwrap_err();
    assert!(elsewhere.to_string().contains("--quarantine-segment 2"), "{elsewhere}");
}

#[test]
fn a_segment_is_taken_out_with_those_on_one_side() {
    let quarantine = |id, keep| Repair::QuarantineSegment { id, keep };
    for (id, keep, first, last) in [
        (1, None, 5, 20),
        (5, None, 1, 16),
        (3, Some(Keep::Older), 1, 8),
        (3, Some(Keep::Newer), 13, 20),
    ] {
        let sample = Sample::new(true);
        sample.flip(id, 1);
        let before = fs::read(sample.segment(id)).unwrap();
        let report = sample.apply(quarantine(id, keep));
        let name = sample.segment(id).file_name().unwrap().to_owned();
        let kept = report.kept.iter().find(|path| path.file_name() == Some(&name)).unwrap();
        assert_eq!(fs::read(kept).unwrap(), before);
        let [lost] = &report.lost[..] else { panic!("{report:?}") };
        let lines = ledger_of(&sample);
        if first > 1 {
            assert_eq!((lost.first.get(), lost.last.get()), (1, first - 1));
            let [line] = &lines[..] else { panic!("{lines:?}") };
            assert!(line.quarantined && line.through == lost.last);
        } else {
            assert_eq!((lost.first.get(), lost.last.get()), (last + 1, 20));
            assert!(lines.is_empty());
        }
        assert_eq!(lost.readable, lost.last.get() - lost.first.get());
        check(&sample.fs, &sample.root, first, last);
    }
}

fn ledger_of(sample: &Sample) -> Vec<Removal> {
    crate::ledger::read(sample.fs.as_ref(), &sample.root).unwrap()
}

#[test]
fn streams_of_which_nothing_is_left_go_on_where_they_ended() {
    let sample = Sample::new(true);
    let store = Store::open_on(&sample.fs, &sample.root, options()).unwrap();
    let lonely = NewEvent { stream: StreamId::new("b-1").unwrap(), ..append(0).events[0].clone() };
    store.append_blocking(Append::new([lonely.clone()])).unwrap();
    store.append_blocking(append(0)).unwrap();
    for n in 0..6 {
        store.append_blocking(append(n)).unwrap();
    }
    store.close().unwrap();
    // Segment 6 begins with position 21, the lonely one.
    sample.flip(6, 1);
    sample.apply(Repair::QuarantineSegment { id: 6, keep: Some(Keep::Newer) });
    let store = Store::open_on(&sample.fs, &sample.root, options()).unwrap();
    store.append_blocking(Append::new([lonely])).unwrap();
    let stream = StreamId::new("b-1").unwrap();
    assert_eq!(block_on(store.stream_revision(&stream)).unwrap(), Revision::new(2));
    store.close().unwrap();
    assert_eq!(sample.verify().faults, []);
}

#[test]
fn a_missing_segment_is_taken_for_one_that_is_out() {
    for (keep, first, last) in [(Keep::Older, 1, 8), (Keep::Newer, 13, 20)] {
        let sample = Sample::new(true);
        fs::remove_file(sample.segment(3)).unwrap();
        let refused = sample.refused();
        assert!(refused.contains("--quarantine-segment 3`"), "{refused}");
        sample.apply(Repair::QuarantineSegment { id: 3, keep: Some(keep) });
        check(&sample.fs, &sample.root, first, last);
    }
}

#[test]
fn what_cannot_be_taken_out_is_refused_with_the_reason() {
    let sample = Sample::new(true);
    let dry = |id, keep| sample.dry(Repair::QuarantineSegment { id, keep });
    assert!(matches!(dry(3, None), Err(RepairError::Between { id: 3 })));
    assert!(matches!(dry(1, Some(Keep::Older)), Err(RepairError::NothingLeft { id: 1 })));
    assert!(matches!(dry(5, Some(Keep::Newer)), Err(RepairError::NothingLeft { id: 5 })));
    for id in [0, 6, 9] {
        let none = dry(id, None).unwrap_err().to_string();
        assert_eq!(none, format!("there is no segment {id}: the log has 1 to 5"));
    }
    sample.flip(2, 1);
    let ends = dry(3, Some(Keep::Older));
    assert!(matches!(ends, Err(RepairError::EdgeDamaged { id: 2, .. })), "{ends:?}");
}

#[test]
fn the_newest_segment_may_hold_what_was_acknowledged() {
    // The last writer was killed: neither the catalog nor a later segment says what was durable.
    let sample = Sample::new(false);
    let report = sample.apply(Repair::QuarantineSegment { id: 5, keep: None });
    let [lost] = &report.lost[..] else { panic!("{report:?}") };
    assert_eq!((lost.first.get(), lost.last.get(), lost.acknowledged), (17, 20, true));
    // A header alone holds nothing; a file that was cut off may have held anything.
    for (bytes, acknowledged) in [(64 * 1024, false), (1000, true), (0, true)] {
        let sample = Sample::new(false);
        sample.change(5, |content| {
            content[4096..].fill(0);
            content.truncate(bytes);
        });
        let planned = sample.dry(Repair::QuarantineSegment { id: 5, keep: None }).unwrap();
        assert_eq!(planned.loses_acknowledged(), acknowledged, "{bytes} bytes");
    }
}

#[test]
fn a_store_that_is_open_is_not_repaired() {
    let sample = Sample::new(true);
    let store = Store::open_on(&sample.fs, &sample.root, options()).unwrap();
    let refused = repair_on(&sample.fs, &sample.root, Repair::Reindex, Loss::Accept, Effort::Apply);
    assert!(matches!(refused, Err(RepairError::Open(OpenError::Locked { .. }))), "{refused:?}");
    drop(store);
    let nothing =
        repair_on(&sample.fs, &sample.root.join("x"), Repair::Reindex, Loss::Accept, Effort::Apply);
    assert!(matches!(nothing, Err(RepairError::Open(OpenError::NotFound { .. }))));
    assert!(!sample.root.join("x").exists());
}

#[test]
fn index_files_are_built_anew() {
    let sample = Sample::new(true);
    for (id, content) in [(1, None), (2, Some(b"x".to_vec())), (3, Some(Vec::new()))] {
        let path = sample.segment(id).with_extension("idx");
        match content {
            None => fs::remove_file(path).unwrap(),
            Some(bytes) => fs::write(path, bytes).unwrap(),
        }
    }
    let report = sample.apply(Repair::Reindex);
    assert_eq!(report.steps.len(), 3, "{report:?}");
    assert_eq!(sample.verify().indexes, 4);
    check(&sample.fs, &sample.root, 1, 20);
}

#[test]
fn any_number_of_index_files_is_built_anew_with_few_files_open() {
    let sim = SimFs::new(Path::new("/disk"));
    let fs: Arc<dyn Fs> = Arc::new(sim.clone());
    let root = Path::new("/disk/store");
    let store = fill(&fs, root);
    for n in EVENTS..100 {
        store.append_blocking(append(n)).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let log = root.join("log");
    let files = fs.list(&log).unwrap().into_iter().map(|name| log.join(name));
    let indexes: Vec<_> = files.filter(|file| file.extension() == Some("idx".as_ref())).collect();
    assert_eq!(indexes.len(), 24);
    for index in indexes {
        fs.remove(&index).unwrap();
    }
    sim.set_handles(Some(12));
    let report = repair_on(&fs, root, Repair::Reindex, Loss::Refuse, Effort::Apply).unwrap();
    // The newest needs none.
    assert_eq!(report.steps.len(), 24);
    sim.set_handles(None);
    let verified = verify_on(&fs, root, &VerifyOptions::default(), &|_, _| {}).unwrap();
    assert_eq!((verified.indexes, verified.faults), (24, Vec::new()));
}

/// Damages a store on a simulated disk, and takes the power away at every operation of its repair.
/// Makes a store on a simulated disk, damages an event of a segment, and a sector of it.
fn damaged(id: u64) -> (SimFs, Arc<dyn Fs>) {
    let sim = SimFs::new(Path::new("/disk"));
    let fs: Arc<dyn Fs> = Arc::new(sim.clone());
    let root = Path::new("/disk/store");
    fill(&fs, root).close().unwrap();
    let base = Position::new((id - 1) * 4 + 1);
    let path = root.join("log").join(crate::format::segment::file_name(base, id));
    let file = fs.open(&path, Access::Write).unwrap();
    file.write_at(b"damage", 4096 + 14_136 + 300).unwrap();
    file.sync().unwrap();
    drop(fs.remove(&path.with_extension("idx")));
    sim.spoil(&path, (4096 + 2 * 14_136 + 5_000) / 512);
    sim.lose_power(Survival::Everything);
    (sim, fs)
}

#[test]
fn a_repair_that_loses_power_at_any_operation_is_finished_by_another() {
    let quarantine = |id, keep| Repair::QuarantineSegment { id, keep: Some(keep) };
    for (what, id, first, last) in [
        (Repair::CutTail, 5, 1, 17),
        (quarantine(3, Keep::Older), 3, 1, 8),
        (quarantine(3, Keep::Newer), 3, 13, 20),
    ] {
        let mut step = 0;
        loop {
            let survival = match step % 4 {
                0 => Survival::Nothing,
                1 => Survival::Everything,
                seed => Survival::Drawn(step * 4 + seed),
            };
            let (sim, fs) = damaged(id);
            let root = Path::new("/disk/store");
            sim.fail_at(step, Fault::PowerOff);
            let first_try = repair_on(&fs, root, what, Loss::Accept, Effort::Apply);
            let came = sim.is_off();
            assert!(came || first_try.is_ok(), "{first_try:?}");
            sim.lose_power(survival);
            let again = repair_on(&fs, root, what, Loss::Accept, Effort::Apply);
            assert!(again.is_ok(), "{what:?}, step {step}: {again:?}");
            let report = verify_on(&fs, root, &VerifyOptions::default(), &|_, _| {}).unwrap();
            // A torn block of the catalog is replaced by the next writer.
            assert!(report.worst() < Some(Severity::Damage), "step {step}: {:?}", report.faults);
            check(&fs, root, first, last);
            if !came {
                assert!(step > 10, "{what:?} has more steps than {step}");
                break;
            }
            step += 1;
        }
    }
}
