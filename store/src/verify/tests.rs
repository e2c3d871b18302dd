//! What is wrong in every way that checksums do not show, and what is said of it.

use std::fs;
use std::path::PathBuf;

use headwater_core::{
    Append, AppendId, CodecId, Durability, EventType, GroupLog, GroupName, NewEvent, NewGroup,
    StreamId, Tag,
};
use pollster::block_on;
use tempfile::TempDir;

use super::*;
use crate::format::block;
use crate::format::frame::{FrameFields, HEADER_BYTES, decode, seal};
use crate::format::index::{IndexHeader, PAGE_BYTES, SECTIONS_AT};
use crate::format::record;
use crate::format::segment::{FRAMES_AT, SegmentHeader};
use crate::format::{BLOCK_BYTES, Seed, put, u32_at};
use crate::handle::Store;
use crate::retention::{Cutoff, Passing};

fn event(stream: &str, payload: &str) -> NewEvent {
    let stream = StreamId::new(stream).unwrap();
    let event_type = EventType::new("t").unwrap();
    let tags = ["red", "big"].map(|tag| Tag::new(tag).unwrap()).to_vec();
    NewEvent { tags, ..NewEvent::new(stream, event_type, CodecId::RAW, payload.to_owned()) }
}

fn small() -> Options {
    Options { segment_bytes: 64 * 1024, durability: Durability::Os, ..Options::default() }
}

/// A closed store: appends of one and of two events, with ids, over some streams and segments.
struct Sample {
    _dir: TempDir,
    root: PathBuf,
}

impl Sample {
    fn new(appends: u64, bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let store = Store::open(&root, small()).unwrap();
        for n in 0..appends {
            let payload = format!("{n} {}", "x".repeat(bytes));
            let first = event(&format!("a-{}", n % 3), &payload);
            let mut events = vec![first];
            if n % 2 == 1 {
                events.push(event(&format!("b-{n}"), &payload));
            }
            store.append_blocking(Append::new(events).with_id(AppendId::generate())).unwrap();
        }
        let name = GroupName::new("g").unwrap();
        block_on(store.open_group(NewGroup::consumer(name))).unwrap();
        store.close().unwrap();
        Self { _dir: dir, root }
    }

    fn segments(&self) -> Vec<PathBuf> {
        self.files("seg")
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let names = fs::read_dir(self.root.join("log")).unwrap();
        let mut files: Vec<PathBuf> = names
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .collect();
        files.sort();
        files
    }

    fn verify(&self) -> VerifyReport {
        self.verify_with(&VerifyOptions::default())
    }

    fn verify_with(&self, options: &VerifyOptions) -> VerifyReport {
        verify(&self.root, options, &|_, _| {}).unwrap()
    }

    #[track_caller]
    fn finds(&self, severity: Severity, words: &str) {
        let report = self.verify();
        let found = report.faults.iter();
        let found = found.filter(|fault| fault.severity == severity);
        assert!(
            found.clone().any(|fault| fault.detail.contains(words)),
            "{words:?} is not in {:#?}",
            report.faults
        );
        assert_eq!(report.worst(), Some(severity), "{:#?}", report.faults);
    }

    /// Changes the only segment and makes all checksums right again.
    fn rewrite(&self, frames: impl Fn(u64, &mut FrameFields), records: impl Fn(u64, &mut Vec<u8>)) {
        let [path] = &self.segments()[..] else { panic!("one segment") };
        let mut file = fs::read(path).unwrap();
        let header = SegmentHeader::decode(&file[..BLOCK_BYTES]).unwrap();
        let seed = Seed::new(header.salt);
        let mut out = file[..BLOCK_BYTES].to_vec();
        let (mut at, mut word) = (BLOCK_BYTES, 0);
        while let Ok((header, body)) = decode(&file[at..], &seed) {
            let mut frame = vec![0; HEADER_BYTES];
            let found = record::records(body, header.records, &seed);
            for (position, found) in (header.first.get()..).zip(found) {
                let mut bytes = found.unwrap().1.bytes.to_vec();
                records(position, &mut bytes);
                let crc = seed.checksum(&[&bytes[8..]]);
                put(&mut bytes, 4, crc.to_le_bytes());
                frame.extend(bytes);
            }
            let mut fields = FrameFields {
                offset: out.len() as u64,
                first: header.first,
                commit_seq: header.commit_seq,
                commit_time: header.commit_time,
                durable: header.durable,
                records: header.records,
                epoch: header.epoch,
                previous_word: word,
            };
            frames(header.commit_seq, &mut fields);
            word = seal(&mut frame, &fields, &seed).word();
            out.extend(frame);
            at += header.bytes as usize;
        }
        file[..at].fill(0);
        file[..out.len()].copy_from_slice(&out);
        fs::write(path, file).unwrap();
        // It was of the other bytes.
        self.files("idx").into_iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}

#[test]
fn a_whole_store_has_no_fault_and_everything_is_counted() {
    let sample = Sample::new(300, 300);
    let report = sample.verify();
    assert_eq!(report.faults, []);
    assert_eq!(report.events, 450);
    assert_eq!((report.head, report.start), (Position::new(450), Position::START));
    assert_eq!(report.streams, 3 + 150);
    assert_eq!(report.append_ids, 300);
    assert_eq!(report.segments, sample.segments().len());
    // What is in the newest segment is little, and not worth a file.
    assert!(report.segments > 2 && report.indexes == report.segments - 1, "{report:?}");
    assert_eq!((report.groups, report.passes), (1, 1));
    for threads in [1, 2, 3, 7] {
        let options = VerifyOptions { threads, streams_bytes: 0, ..VerifyOptions::default() };
        let again = sample.verify_with(&options);
        assert!(again.passes > 4, "{again:?}");
        assert_eq!(VerifyReport { passes: 1, ..again }, report);
    }
    let options = VerifyOptions { depth: VerifyDepth::Log, ..VerifyOptions::default() };
    let again = sample.verify_with(&options);
    assert_eq!(again, VerifyReport { indexes: 0, ..report });
}

#[test]
fn nothing_and_a_store_that_was_never_closed_have_no_fault() {
    let sample = Sample::new(0, 0);
    assert_eq!(sample.verify().faults, []);
    let store = Store::open(&sample.root, small()).unwrap();
    for n in 0..500 {
        let append = Append::new([event("a-1", &format!("{n} {}", "x".repeat(700)))]);
        store.append_blocking(append).unwrap();
        if n % 100 == 0 {
            let report = sample.verify();
            assert!(report.worst() < Some(Severity::Derived), "{:?}", report.faults);
            assert_eq!(report.events, n + 1);
        }
    }
}

#[test]
fn a_store_without_its_beginning_has_no_fault() {
    let sample = Sample::new(300, 300);
    let store = Store::open(&sample.root, small()).unwrap();
    store.remove(Cutoff::Through(Position::new(200)), Passing::Force).unwrap();
    // A stream of which nothing is left goes on.
    store.append_blocking(Append::new([event("b-1", "again")])).unwrap();
    store.close().unwrap();
    let report = sample.verify();
    assert!(report.start > Position::START && report.tails > 10, "{report:?}");
    let [fault] = &report.faults[..] else { panic!("{:?}", report.faults) };
    assert!(fault.severity == Severity::Note && fault.detail.contains("group g"), "{fault:?}");

    fs::remove_file(sample.root.join("LEDGER")).unwrap();
    sample.finds(Severity::Note, "nothing of what was removed");
    fs::write(sample.root.join("LEDGER"), "{\"at\":").unwrap();
    sample.finds(Severity::Note, "1 of its lines are torn");
    let mut tails = fs::read(sample.root.join("TAILS")).unwrap();
    // The first stream by name ended with another revision.
    let at = BLOCK_BYTES + u32_at(&tails, BLOCK_BYTES) as usize;
    put(&mut tails, at, 7_u64.to_le_bytes());
    let crc = crc32fast::hash(&tails[BLOCK_BYTES..]);
    put(&mut tails, 52, crc.to_le_bytes());
    reseal(&mut tails);
    fs::write(sample.root.join("TAILS"), &tails).unwrap();
    sample.finds(Severity::Damage, "by TAILS the stream ended");
    fs::remove_file(sample.root.join("TAILS")).unwrap();
    sample.finds(Severity::Damage, "it is missing, and the log begins behind");
}

/// Makes the checksum of a header block right.
fn reseal(file: &mut [u8]) {
    let crc = crc32fast::hash(&file[..BLOCK_BYTES - 4]);
    put(file, BLOCK_BYTES - 4, crc.to_le_bytes());
}

#[test]
fn records_that_checksums_call_right_are_checked_for_what_they_say() {
    type Change = fn(&mut Vec<u8>);
    // The seventh event is the first of an append of two, on stream a-2; the eighth its last.
    let cases: [(u64, Change, &str); 9] = [
        (5, |r| put(r, 8, 9_u64.to_le_bytes()), "revision 9 of stream a-0"),
        (5, |r| put(r, 16, 2_u64.to_le_bytes()), "links back to position 2"),
        (5, |r| put(r, 16, 5_u64.to_le_bytes()), "links back to 5"),
        (1, |r| put(r, 8, 2_u64.to_le_bytes()), "revision 2 and links back to 0"),
        (5, |r| r[52] ^= 1, "its key belongs in"),
        (6, |r| r[55] = 0, "ends with no frame"),
        (2, |r| r[55] = 3, "belongs to no append"),
        (5, |r| *r.last_mut().unwrap() ^= 1, "another digest"),
        (5, |r| r.swap(58 + 3 + 1 + 27 + 3, 58 + 3 + 1 + 27 + 9), "stands where it must not"),
    ];
    for (position, change, words) in cases {
        let sample = Sample::new(8, 20);
        sample.rewrite(|_, _| {}, |_, _| {});
        assert!(sample.verify().worst() <= Some(Severity::Note), "{:?}", sample.verify());
        sample.rewrite(
            |_, _| {},
            |at, record| {
                if at == position {
                    change(record);
                }
            },
        );
        sample.finds(Severity::Damage, words);
    }
}

#[test]
fn frames_that_checksums_call_right_are_checked_for_what_they_say() {
    type Change = fn(&mut FrameFields);
    let cases: [(Change, &str); 2] = [
        (|f| f.commit_time = headwater_core::Timestamp::EPOCH, "its commit time goes back"),
        (|f| f.durable = f.first, "durable"),
    ];
    for (change, words) in cases {
        let sample = Sample::new(8, 20);
        sample.rewrite(
            |at, fields| {
                if at == 4 {
                    change(fields);
                }
            },
            |_, _| {},
        );
        sample.finds(Severity::Damage, words);
    }
}

/// Changes bytes behind the block of an index and makes all its checksums right.
fn change_index(path: &PathBuf, change: impl FnOnce(&IndexHeader, &mut [u8])) {
    let mut file = fs::read(path).unwrap();
    let header = IndexHeader::decode(&file).unwrap();
    change(&header, &mut file);
    let pages = header.sections().pages;
    let table: Vec<u8> = file[SECTIONS_AT..pages]
        .chunks(PAGE_BYTES)
        .flat_map(|page| crc32fast::hash(page).to_le_bytes())
        .collect();
    file[pages..].copy_from_slice(&table);
    put(&mut file, 112, crc32fast::hash(&table).to_le_bytes());
    reseal(&mut file);
    assert!(block::check(&file, *b"HWINDEX2", 1).is_ok());
    fs::write(path, file).unwrap();
}

#[test]
fn every_byte_of_an_index_that_is_not_what_it_should_be_is_noticed() {
    let sample = Sample::new(200, 300);
    let path = sample.files("idx").remove(0);
    let bytes = fs::read(&path).unwrap();
    let header = IndexHeader::decode(&bytes).unwrap();
    let sections = header.sections();
    // What pads the postings to a multiple of four means nothing.
    let end = sections.postings + header.postings_bytes as usize;
    for at in (SECTIONS_AT..end).step_by(29) {
        // The last bits of a list fill a byte, and mean nothing.
        let flip = if at < sections.postings { 1 << (at % 8) } else { 0xFF };
        change_index(&path, |_, file| file[at] ^= flip);
        let report = sample.verify();
        assert_eq!(report.worst(), Some(Severity::Derived), "byte {at}: {:?}", report.faults);
        assert_eq!(report.faults[0].remedy, Some(Remedy::Reindex));
        fs::write(&path, &bytes).unwrap();
    }
    // A wrong page checksum, another segment's index, and none.
    let mut torn = bytes.clone();
    torn[sections.entries] ^= 1;
    fs::write(&path, torn).unwrap();
    sample.finds(Severity::Derived, "wrong checksum");
    fs::copy(&sample.files("idx")[1], &path).unwrap();
    sample.finds(Severity::Derived, "another segment");
    fs::remove_file(&path).unwrap();
    sample.finds(Severity::Note, "no index");
}

#[test]
fn damage_ends_neither_the_check_nor_what_lies_behind() {
    let sample = Sample::new(300, 300);
    let whole = sample.verify();
    let segments = sample.segments();
    let second = &segments[1];
    let mut bytes = fs::read(second).unwrap();
    let at = usize::try_from(FRAMES_AT).unwrap() + 20_000;
    bytes[at] ^= 1;
    fs::write(second, &bytes).unwrap();
    let report = sample.verify();
    let [fault] = &report.faults[..] else { panic!("{:#?}", report.faults) };
    assert_eq!((&fault.file, fault.severity), (second, Severity::Damage));
    assert_eq!(fault.remedy, Some(Remedy::QuarantineSegment(2)));
    assert!(report.events > whole.events / 2 && report.events < whole.events);
    assert_eq!(report.segments, whole.segments);

    bytes.fill(0xFF);
    fs::write(second, &bytes).unwrap();
    assert_eq!(sample.verify().faults.len(), 1, "{:#?}", sample.verify().faults);
    fs::remove_file(second).unwrap();
    let report = sample.verify();
    let [fault] = &report.faults[..] else { panic!("{:#?}", report.faults) };
    assert!(fault.detail.contains("segment 2 is missing"), "{fault:?}");
    assert_eq!(report.segments, whole.segments - 1);
}

#[test]
fn segments_that_do_not_join_are_noticed() {
    let (one, other) = (Sample::new(300, 300), Sample::new(300, 300));
    // The same store at another time, as it were: only the random parts differ.
    let [from, to] = [&other, &one].map(|sample| sample.segments().remove(1));
    let mut bytes = fs::read(from).unwrap();
    let store = SegmentHeader::decode(&fs::read(&to).unwrap()).unwrap().store;
    put(&mut bytes, 16, *store.as_bytes());
    reseal(&mut bytes);
    fs::write(&to, bytes).unwrap();
    one.finds(Severity::Damage, "does not continue the segment before");
}

#[test]
fn what_is_no_file_of_the_store_is_listed() {
    let sample = Sample::new(4, 10);
    fs::write(sample.root.join("notes.txt"), "x").unwrap();
    fs::write(sample.root.join("log").join("next.tmp"), "x").unwrap();
    fs::create_dir(sample.root.join("quarantine")).unwrap();
    fs::write(sample.root.join("quarantine").join("cut.bin"), "xyz").unwrap();
    let report = sample.verify();
    let details: Vec<&str> = report.faults.iter().map(|fault| &*fault.detail).collect();
    assert_eq!(details.len(), 2, "{details:?}");
    assert!(details[0].contains("in the making") && details[1].contains("not a file"));
    assert_eq!(report.quarantine, [Quarantined { file: "cut.bin".to_owned(), bytes: 3 }]);
    assert_eq!(report.worst(), Some(Severity::Note));
}

#[test]
fn a_torn_block_of_the_catalog_is_noticed_and_heals() {
    let sample = Sample::new(4, 10);
    let path = sample.root.join("CATALOG");
    let mut bytes = fs::read(&path).unwrap();
    let newest = (0..2).max_by_key(|at| crate::format::u64_at(&bytes, at * BLOCK_BYTES + 32));
    bytes[(1 - newest.unwrap()) * BLOCK_BYTES + 50] ^= 1;
    fs::write(&path, bytes).unwrap();
    sample.finds(Severity::Derived, "torn or damaged");
    Store::open(&sample.root, small()).unwrap().close().unwrap();
    assert_eq!(sample.verify().faults, []);
}
