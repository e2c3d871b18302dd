//! Repairs where the device does not give all of a file.

use super::*;

const DISK: &str = "/disk";

/// A store of twenty events on a simulated disk.
struct Spotted {
    sim: SimFs,
    fs: Arc<dyn Fs>,
    root: PathBuf,
}

impl Spotted {
    fn new() -> Self {
        let sim = SimFs::new(Path::new(DISK));
        let fs: Arc<dyn Fs> = Arc::new(sim.clone());
        let root = Path::new(DISK).join("store");
        fill(&fs, &root).close().unwrap();
        Self { sim, fs, root }
    }

    fn segment(&self, id: u64) -> PathBuf {
        let base = Position::new((id - 1) * 4 + 1);
        self.root.join("log").join(crate::format::segment::file_name(base, id))
    }

    /// Makes the sector unreadable that a byte of a segment lies in.
    fn spoil(&self, id: u64, byte: u64) {
        self.sim.spoil(&self.segment(id), byte / 512);
    }

    fn read(&self, path: &Path) -> Vec<u8> {
        crate::fs::read_file(self.fs.as_ref(), path).unwrap()
    }

    fn ask(&self, what: Repair, loss: Loss, effort: Effort) -> Result<RepairReport, RepairError> {
        repair_on(&self.fs, &self.root, what, loss, effort)
    }

    /// Repairs, after a dry run that says the same, and if it loses something, a refusal.
    fn apply(&self, what: Repair) -> RepairReport {
        let planned = self.ask(what, Loss::Refuse, Effort::DryRun).unwrap();
        if planned.loses_acknowledged() {
            let refused = self.ask(what, Loss::Refuse, Effort::Apply);
            assert!(matches!(refused, Err(RepairError::LosesAcknowledged)), "{refused:?}");
        }
        let done = self.ask(what, Loss::Accept, Effort::Apply).unwrap();
        assert_eq!(done.steps, planned.steps);
        assert_eq!((&done.lost, &done.unreadable), (&planned.lost, &planned.unreadable));
        let again = self.ask(what, Loss::Refuse, Effort::Apply).unwrap();
        assert_eq!(again.steps, []);
        done
    }

    fn refused(&self) -> OpenError {
        Store::open_on(&self.fs, &self.root, options()).unwrap_err()
    }
}

/// Where an event begins in its segment, by its number there.
const fn at(event: u64) -> u64 {
    4096 + event * 14_136
}

#[test]
fn a_segment_is_taken_out_without_what_the_device_does_not_give() {
    // In a payload, in two blocks, in the header, and behind the last frame.
    for (spots, readable, blocks) in [
        (&[at(1) + 5_000][..], 11, &[20_480][..]),
        (&[at(1) + 5_000, at(3) + 9_000], 10, &[20_480, 53_248]),
        (&[7], 8, &[0]),
        (&[at(4) + 2_000], 12, &[61_440]),
    ] {
        let disk = Spotted::new();
        let before = disk.read(&disk.segment(3));
        for &byte in spots {
            disk.spoil(3, byte);
        }
        let report = disk.apply(Repair::QuarantineSegment { id: 3, keep: Some(Keep::Newer) });
        let [lost] = &report.lost[..] else { panic!("{report:?}") };
        assert_eq!((lost.first.get(), lost.last.get()), (1, 12));
        assert_eq!(lost.readable, readable, "{spots:?}");
        let [unreadable] = &report.unreadable[..] else { panic!("{report:?}") };
        let holes: Vec<_> = blocks.iter().map(|&block| block..block + 4096).collect();
        assert_eq!((&unreadable.file, &unreadable.ranges), (&disk.segment(3), &holes));
        assert_eq!(unreadable.bytes, holes.len() as u64 * 4096);

        let kept = &report.kept[2];
        let mut expected = before;
        for hole in &holes {
            let range = usize::try_from(hole.start).unwrap()..usize::try_from(hole.end).unwrap();
            expected[range].fill(0);
        }
        assert!(disk.read(kept) == expected, "the copy has everything else");
        let text = disk.read(&PathBuf::from(format!("{}.unreadable", kept.display())));
        let text = String::from_utf8(text).unwrap();
        for hole in &holes {
            assert!(text.contains(&format!("{} to {}\n", hole.start, hole.end - 1)), "{text}");
        }
        check(&disk.fs, &disk.root, 13, 20);
    }
}

#[test]
fn an_end_that_the_device_does_not_give_is_cut() {
    // In a payload and in a frame's header.
    for (byte, first) in [(at(1) + 5_000, 18), (at(1) + 8, 17)] {
        let disk = Spotted::new();
        disk.spoil(5, byte);
        let refused = disk.refused();
        assert!(matches!(refused, OpenError::Unreadable { .. }), "{refused:?}");
        assert!(refused.to_string().contains("--cut-tail`"), "{refused}");
        let report = disk.apply(Repair::CutTail);
        let [lost] = &report.lost[..] else { panic!("{report:?}") };
        assert_eq!((lost.first.get(), lost.last.get(), lost.readable), (first, 20, 2));
        let block = byte / 4096 * 4096;
        let [hole] = &report.unreadable[0].ranges[..] else { panic!("{report:?}") };
        assert_eq!(*hole, block..block + 4096);
        check(&disk.fs, &disk.root, 1, first - 1);
    }
}

#[test]
fn zeros_that_the_device_does_not_give_are_no_loss_and_no_frame() {
    // Behind the last frame there never was anything.
    let disk = Spotted::new();
    disk.spoil(5, at(4) + 2_000);
    // Opening looks there where the store was not closed.
    let catalog = |disk: &Spotted| Repairer::new(&disk.fs, &disk.root).unwrap().catalog;
    let file = crate::catalog::CatalogFile::open(disk.fs.as_ref(), &disk.root, catalog(&disk));
    file.unwrap().update(|catalog| catalog.clean = false).unwrap();
    assert!(disk.refused().to_string().contains("--cut-tail`"));
    let planned = disk.ask(Repair::CutTail, Loss::Refuse, Effort::Apply).unwrap();
    assert!(matches!(planned.steps[..], [RepairStep::Cut { offset: 61_440, bytes: 4096, .. }]));
    assert!(planned.lost.is_empty());
    check(&disk.fs, &disk.root, 1, 20);

    // A payload of zeros has the right checksum where zeros stand for what is not there.
    let disk = Spotted::new();
    let store = Store::open_on(&disk.fs, &disk.root, options()).unwrap();
    let event = NewEvent { payload: vec![0; 14_000].into(), ..append(0).events[0].clone() };
    store.append_blocking(Append::new([event])).unwrap();
    store.close().unwrap();
    disk.spoil(6, at(0) + 8_000);
    let report = disk.apply(Repair::CutTail);
    assert_eq!((report.lost[0].first.get(), report.lost[0].readable), (21, 1));
    check(&disk.fs, &disk.root, 1, 20);
}

#[test]
fn progress_of_groups_that_the_device_does_not_give_is_cut() {
    let disk = Spotted::new();
    let name = crate::format::segment::file_name(Position::FIRST, 1);
    disk.sim.spoil(&disk.root.join("offsets").join(name), 8);
    assert!(disk.refused().to_string().contains("--cut-tail`"));
    let report = disk.apply(Repair::CutTail);
    assert!(matches!(report.steps[1], RepairStep::EndLog { log: "offsets", .. }), "{report:?}");
    let store = Store::open_on(&disk.fs, &disk.root, options()).unwrap();
    assert!(block_on(store.groups()).unwrap().is_empty());
    store.close().unwrap();
}

#[test]
fn a_segment_that_becomes_the_end_is_cleared_of_spots_where_nothing_was() {
    let older = Repair::QuarantineSegment { id: 3, keep: Some(Keep::Older) };
    let disk = Spotted::new();
    disk.spoil(2, at(4) + 2_000);
    let report = disk.apply(older);
    assert!(matches!(report.steps[3], RepairStep::Cut { offset: 61_440, .. }), "{report:?}");
    check(&disk.fs, &disk.root, 1, 8);

    for byte in [at(1) + 300, 7] {
        let disk = Spotted::new();
        disk.spoil(2, byte);
        let refused = disk.ask(older, Loss::Accept, Effort::Apply);
        let is_end = matches!(refused, Err(RepairError::EdgeDamaged { id: 2, edge: "end", .. }));
        assert!(is_end, "{refused:?}");
    }
    let disk = Spotted::new();
    disk.spoil(4, 7);
    let newer = Repair::QuarantineSegment { id: 3, keep: Some(Keep::Newer) };
    let refused = disk.ask(newer, Loss::Accept, Effort::Apply);
    let is_first =
        matches!(refused, Err(RepairError::EdgeDamaged { id: 4, edge: "beginning", .. }));
    assert!(is_first, "{refused:?}");
}

#[test]
fn another_segment_that_cannot_be_read_is_another_repair() {
    let disk = Spotted::new();
    disk.spoil(4, at(1) + 300);
    disk.apply(Repair::QuarantineSegment { id: 2, keep: Some(Keep::Newer) });
    disk.apply(Repair::QuarantineSegment { id: 4, keep: Some(Keep::Newer) });
    check(&disk.fs, &disk.root, 17, 20);
}

#[test]
fn a_file_that_a_backup_shares_is_cut_where_it_is_the_stores() {
    let disk = Spotted::new();
    let shared = Path::new(DISK).join("shared");
    disk.fs.link(&disk.segment(5), &shared).unwrap();
    disk.spoil(5, at(1) + 5_000);
    disk.apply(Repair::CutTail);
    check(&disk.fs, &disk.root, 1, 17);
    let file = disk.fs.open(&shared, Access::Read).unwrap();
    let mut bytes = [0; 64];
    file.read_at(&mut bytes, at(3)).unwrap();
    assert_eq!(&bytes[..4], b"HWF1");
    file.read_at(&mut bytes, at(1) + 5_000).unwrap_err();
}
