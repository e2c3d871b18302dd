//! Damaged files: the full log, a shorter one that loses nothing acknowledged, or a refusal.

use std::fs;
use std::path::{Path, PathBuf};

use headwater_core::{Durability, Position, Query, Read, ReadError};
use headwater_store::{OpenError, Options, ReadOnlyStore, Store};
use tempfile::TempDir;

use crate::common::*;

const SEGMENT: &str = "log/00000000000000000001-00000001.seg";

/// Copies a store as a crash of its process leaves it.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_store(&entry.path(), &target);
        } else {
            let copied = fs::copy(entry.path(), target);
            // What a thread of the store was still making may have got its name meanwhile.
            let made = entry.file_name().to_string_lossy().ends_with(".tmp");
            assert!(made || copied.is_ok(), "{}: {copied:?}", entry.path().display());
        }
    }
}

/// How far apart the places are that a sweep damages. With `HEADWATER_SWEEP=all` it leaves none
/// out, which takes minutes.
fn stride(usual: usize) -> usize {
    if std::env::var_os("HEADWATER_SWEEP").is_some_and(|all| all == "all") { 1 } else { usual }
}

/// A small store with four appends, as it was when its process was killed, or closed.
struct Victim {
    dir: TempDir,
    payloads: Vec<String>,
    used: usize,
}

impl Victim {
    fn new(closed: bool) -> Self {
        let dir = temp();
        let store = open(&dir, small());
        let payloads: Vec<String> = (0..4).map(|n| format!("{n}").repeat(1 + n * 60)).collect();
        for payload in &payloads {
            store.append_blocking(one("a-1", payload)).unwrap();
        }
        if closed {
            store.close().unwrap();
        }
        copy_store(store.path(), &dir.path().join("victim"));
        let segment = fs::read(dir.path().join("victim").join(SEGMENT)).unwrap();
        let used = segment.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        Self { dir, payloads, used }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("victim")
    }

    /// Opens a copy with one file changed. Returns what the log holds, or the refusal.
    fn with(
        &self,
        file: &str,
        change: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Vec<String>, OpenError> {
        let copy = self.dir.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        copy_store(&self.path(), &copy);
        let mut bytes = fs::read(copy.join(file)).unwrap();
        change(&mut bytes);
        fs::write(copy.join(file), &bytes).unwrap();
        let result = Store::open(&copy, small()).map(|store| {
            payloads(&read_all(|r| store.read_blocking(r).unwrap(), &Query::all(), 100))
        });
        if result.is_err() {
            assert_eq!(fs::read(copy.join(file)).unwrap(), bytes, "a refusal changed {file}");
        }
        // Reading only never changes anything and never shows a wrong event.
        if let Ok(store) = ReadOnlyStore::open(&copy) {
            let found = payloads(&read_all(|r| store.read(r).unwrap(), &Query::all(), 100));
            assert_eq!(found, self.payloads[..found.len()]);
        }
        result
    }
}

#[test]
fn every_truncated_length_of_a_segment_is_refused() {
    let victim = Victim::new(false);
    let lengths = (0..victim.used).step_by(stride(97)).chain([victim.used, 65_535]);
    for len in lengths {
        let error = victim.with(SEGMENT, |bytes| bytes.truncate(len)).unwrap_err();
        assert!(matches!(error, OpenError::File { .. }), "{len} bytes: {error}");
    }
}

#[test]
fn a_flipped_bit_anywhere_gives_the_whole_log_or_a_refusal() {
    for closed in [false, true] {
        let victim = Victim::new(closed);
        for bit in (0..victim.used * 8).step_by(stride(61)) {
            let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
            // Bytes between the header's fields and its checksum count as well.
            match victim.with(SEGMENT, flip) {
                Ok(found) => panic!("closed {closed}, bit {bit} passed with {}", found.len()),
                Err(OpenError::File { .. }) => assert!(bit / 8 < 4096, "bit {bit}"),
                Err(
                    OpenError::AcknowledgedDamage { position, .. }
                    | OpenError::UnexplainedTail { position, .. },
                ) => assert!(bit / 8 >= 4096 && position >= Position::FIRST, "bit {bit}"),
                Err(error) => panic!("bit {bit}: {error}"),
            }
        }
    }
}

#[test]
fn small_files_survive_damage_or_refuse_with_their_name() {
    let victim = Victim::new(true);
    for (file, size) in [("STORE", 4096), ("CATALOG", 8192)] {
        for bit in (0..size * 8).step_by(stride(127)) {
            let flip = |bytes: &mut Vec<u8>| bytes[bit / 8] ^= 1 << (bit % 8);
            match victim.with(file, flip) {
                // One of the catalog's two blocks is enough.
                Ok(found) => assert_eq!((file, found), ("CATALOG", victim.payloads.clone())),
                Err(error) => assert!(error.to_string().contains("STORE"), "bit {bit}: {error}"),
            }
        }
        for content in [vec![], vec![0; size], vec![0xFF; size], b"x".repeat(100)] {
            let error = victim.with(file, |bytes| *bytes = content).unwrap_err();
            assert!(error.to_string().contains(file), "{error}");
        }
    }
}

#[test]
fn a_closed_store_knows_where_its_log_ended() {
    let victim = Victim::new(true);
    // Zeros from any byte of the last frame on look like a torn write, but for the catalog.
    for from in (victim.used - 200..victim.used).step_by(stride(7)) {
        let error = victim.with(SEGMENT, |bytes| bytes[from..].fill(0)).unwrap_err();
        assert!(matches!(error, OpenError::AcknowledgedDamage { .. }), "{error}");
    }
}

#[test]
fn a_torn_end_is_cut_kept_and_reported() {
    let dir = temp();
    let store = open(&dir, small());
    store.append_blocking(one("a-1", "first")).unwrap();
    let copy = dir.path().join("copy");
    copy_store(store.path(), &copy);
    let mut bytes = fs::read(copy.join(SEGMENT)).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    // Sectors behind a header that never arrived, further on than the next append reaches.
    let from = end.next_multiple_of(4096) + 4096;
    bytes[from..from + 700].fill(0x5A);
    fs::write(copy.join(SEGMENT), &bytes).unwrap();

    let reopened = Store::open(&copy, small()).unwrap();
    let report = reopened.recovery();
    assert!(!report.clean);
    let [cut] = &report.cuts[..] else { panic!("{report:?}") };
    let kept = fs::read(&cut.kept).unwrap();
    assert_eq!(kept.len() as u64, cut.bytes);
    assert!(kept.ends_with(&[0x5A; 700]));
    reopened.append_blocking(one("a-1", "second")).unwrap();
    reopened.close().unwrap();
    let again = Store::open(&copy, small()).unwrap();
    assert!(again.recovery().cuts.is_empty() && again.recovery().clean);
    let found = payloads(&read_all(|r| again.read_blocking(r).unwrap(), &Query::all(), 10));
    assert_eq!(found, ["first", "second"]);
}

/// A closed store of twenty events, and its segments, oldest first.
fn five_segments() -> (TempDir, Store, Vec<PathBuf>) {
    let dir = temp();
    let store = open(&dir, small());
    for _ in 0..20 {
        store.append_blocking(one("a-1", &"x".repeat(14_000))).unwrap();
    }
    store.close().unwrap();
    let mut names: Vec<PathBuf> =
        fs::read_dir(store.path().join("log")).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|name| name.extension().is_some_and(|extension| extension == "seg"));
    names.sort();
    assert_eq!(names.len(), 5);
    (dir, store, names)
}

#[test]
fn a_missing_segment_is_named_and_nothing_is_removed() {
    let (dir, store, names) = five_segments();
    for (id, gone) in (1..).zip(&names) {
        let copy = dir.path().join(format!("copy-{id}"));
        copy_store(store.path(), &copy);
        fs::remove_file(copy.join("log").join(gone.file_name().unwrap())).unwrap();
        let files = fs::read_dir(copy.join("log")).unwrap().count();
        let error = Store::open(&copy, small()).unwrap_err();
        assert!(
            matches!(error, OpenError::MissingSegment { id: found, .. } if found == id),
            "{error}"
        );
        assert_eq!(fs::read_dir(copy.join("log")).unwrap().count(), files);
    }
    // Another segment's bytes under the name of one.
    let copy = dir.path().join("swapped");
    copy_store(store.path(), &copy);
    let name = |at: usize| copy.join("log").join(names[at].file_name().unwrap());
    fs::copy(name(2), name(1)).unwrap();
    let reader = ReadOnlyStore::open_and_walk(&copy).unwrap();
    assert!(matches!(reader.damage(), Some(OpenError::File { .. })), "{:?}", reader.damage());
    let opened = Store::open(&copy, small()).unwrap();
    let after = |n| opened.read_blocking(&Read::forward(Query::all(), Position::new(n)).limit(4));
    assert_eq!(after(0).unwrap().events.len(), 4);
    assert!(matches!(after(4), Err(ReadError::Damaged { .. })), "{:?}", after(4));
    assert_eq!(after(8).unwrap().events.len(), 4);
    // What a stream's end is cannot be known where a part of the log is gone, if it may lie there.
    assert!(opened.append_blocking(one("a-2", "x")).is_err());
    assert!(opened.append_blocking(one("a-1", "x")).is_ok());
}

#[test]
fn damage_in_a_sealed_segment_is_an_error_of_the_read_that_meets_it() {
    let dir = temp();
    let store = open(&dir, Options { durability: Durability::Os, ..small() });
    for n in 0..20 {
        store.append_blocking(one("a-1", &format!("{n}").repeat(7_000))).unwrap();
    }
    store.close().unwrap();
    let mut bytes = fs::read(store.path().join(SEGMENT)).unwrap();
    bytes[4096 + 9_000] ^= 1;
    fs::write(store.path().join(SEGMENT), bytes).unwrap();
    let walked = ReadOnlyStore::open_and_walk(store.path()).unwrap();
    let Some(OpenError::AcknowledgedDamage { position: bad, .. }) = walked.damage() else {
        panic!("{:?}", walked.damage());
    };
    assert_eq!(walked.head(), bad.previous());
    let index = store.path().join(SEGMENT).with_extension("idx");
    for indexed in [true, false] {
        if !indexed {
            fs::remove_file(&index).unwrap();
        }
        let reader = ReadOnlyStore::open(store.path()).unwrap();
        let page = |read: Read| reader.read(&read.limit(1));
        let mut after = Position::START;
        while after.next() < *bad {
            after = page(Read::forward(Query::all(), after)).unwrap().scanned;
        }
        let error = page(Read::forward(Query::all(), after)).unwrap_err();
        assert!(
            matches!(&error, ReadError::Damaged { position, .. } if position == bad),
            "{error}"
        );
        let error = page(Read::backward(Query::all(), bad.next())).unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
        let mut scan = reader.scan(Position::START).unwrap();
        for _ in 1..bad.get() {
            assert!(scan.next().unwrap().is_ok(), "indexed {indexed}");
        }
        assert!(matches!(scan.next(), Some(Err(ReadError::Damaged { .. }))));
        assert_eq!(reader.head(), Position::new(20));
        assert_eq!(page(Read::forward(Query::all(), Position::new(15))).unwrap().events.len(), 1);
    }
}

#[test]
fn damage_under_an_open_store_is_an_error_of_the_read_that_meets_it() {
    let dir = temp();
    let store = open(&dir, small());
    for payload in ["first", "second", "third"] {
        store.append_blocking(one("a-1", payload)).unwrap();
    }
    let path = store.path().join(SEGMENT);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|window| window == b"second").unwrap();
    bytes[at] ^= 1;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at..=at], at as u64).unwrap();

    let after = |n| store.read_blocking(&Read::forward(Query::all(), Position::new(n)).limit(1));
    assert_eq!(payloads(&after(0).unwrap().events), ["first"]);
    assert_eq!(payloads(&after(2).unwrap().events), ["third"]);
    let error = after(1).unwrap_err();
    assert!(
        matches!(&error, ReadError::Damaged { position, .. } if position.get() == 2),
        "{error}"
    );
    let mut scan = store.scan(Position::START).unwrap();
    assert!(scan.next().unwrap().is_ok());
    assert!(matches!(scan.next(), Some(Err(ReadError::Damaged { .. }))));
    assert!(scan.next().is_none());
}

#[test]
fn a_reader_has_what_lies_before_a_bad_or_missing_segment() {
    let (dir, store, names) = five_segments();
    let second = names[1].file_name().unwrap();
    for kind in ["missing", "bad header"] {
        let copy = dir.path().join(kind);
        copy_store(store.path(), &copy);
        let file = copy.join("log").join(second);
        match kind {
            "missing" => fs::remove_file(file).unwrap(),
            _ => fs::write(file, vec![0xFF; 65_536]).unwrap(),
        }
        let reader = ReadOnlyStore::open_and_walk(&copy).unwrap();
        assert!(reader.damage().is_some(), "{kind}");
        assert_eq!(reader.head(), Position::new(4), "{kind}");
        let reader = ReadOnlyStore::open(&copy).unwrap();
        let first = reader.read(&Read::forward(Query::all(), Position::START).limit(4)).unwrap();
        assert_eq!(first.events.len(), 4);
        if kind == "missing" {
            assert!(Store::open(&copy, small()).is_err());
            assert_eq!(reader.head(), Position::new(4));
        } else {
            let next = reader.read(&Read::forward(Query::all(), Position::new(4)));
            assert!(matches!(next, Err(ReadError::Damaged { .. })), "{next:?}");
        }
    }
}

#[test]
fn a_reader_that_follows_tells_damage_from_the_end() {
    let dir = temp();
    let store = open(&dir, small());
    store.append_blocking(one("a-1", "first")).unwrap();
    let mut reader = ReadOnlyStore::open(store.path()).unwrap();
    store.append_blocking(one("a-1", "second")).unwrap();
    store.append_blocking(one("a-1", "third")).unwrap();
    let path = store.path().join(SEGMENT);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|window| window == b"second").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    for _ in 0..10 {
        assert_eq!(reader.refresh().unwrap(), Position::FIRST);
    }
    let damage = reader.damage().expect("a frame is not half written for that long");
    assert!(matches!(damage, OpenError::AcknowledgedDamage { .. }), "{damage}");
    // If it was a very slow writer after all, the log goes on.
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(reader.refresh().unwrap(), Position::new(3));
    assert!(reader.damage().is_none());
}
