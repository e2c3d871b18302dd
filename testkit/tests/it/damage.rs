//! No damaged byte becomes an event.

use std::fs;
use std::path::Path;

use headwater_core::{Append, AppendId, Key};
use headwater_testkit::{DecodedEvent, decode_store};

use crate::common::*;

/// Flips bits of `file` at the given offsets, one after the other, and decodes after each.
fn flip(
    store: &Path,
    file: &Path,
    offsets: impl Iterator<Item = usize>,
    mut check: impl FnMut(usize, Option<Vec<DecodedEvent>>),
) {
    let whole = fs::read(file).unwrap();
    for at in offsets {
        for mask in [1 << (at % 8), 0xFF] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            fs::write(file, bytes).unwrap();
            check(at, decode_store(store).ok());
        }
    }
    fs::write(file, whole).unwrap();
}

/// The offsets of a header block: all of its fields, its CRC, and some of the zeros between.
fn block(start: usize) -> impl Iterator<Item = usize> {
    (0..128).chain((128..4092).step_by(61)).chain(4092..4096).map(move |at| start + at)
}

#[test]
fn a_flipped_byte_is_an_error() {
    let dir = temp();
    let store = open(&dir, small());
    let mut new = event("a-1", "t", "payload");
    new.tags = vec![tag("x"), tag("y")];
    new.key = Some(Key::new("k").unwrap());
    new.headers.insert("name", "value").unwrap();
    let append = Append::new([new, event("b-1", "t", "")]).with_id(AppendId::generate());
    store.append_blocking(append).unwrap();
    store.append_blocking(one("a-1", "again")).unwrap();
    store.close().unwrap();
    let (path, whole) = (store.path().to_owned(), agree(&store));
    drop(store);

    let segment = path.join("log/00000000000000000001-00000001.seg");
    let used = fs::read(&segment).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 16;
    assert!(used > 4096);
    flip(&path, &path.join("STORE"), block(0), |at, decoded| {
        assert_eq!(decoded, None, "byte {at} of STORE");
    });
    flip(&path, &segment, block(0).chain(4096..used), |at, decoded| {
        assert_eq!(decoded, None, "byte {at} of the segment");
    });
    // A half of the catalog may be torn: the other one still gives a lower bound.
    flip(&path, &path.join("CATALOG"), block(0).chain(block(4096)), |at, decoded| {
        assert!(decoded.is_none_or(|events| events == whole), "byte {at} of CATALOG");
    });
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).try_into().unwrap()
}

/// An offset and a length.
type Span = (usize, usize);

/// The frames of a segment, each with its records.
fn frames(bytes: &[u8]) -> Vec<(Span, Vec<Span>)> {
    let (mut at, mut frames) = (4096, Vec::new());
    while bytes[at] != 0 {
        let (mut records, mut record) = (Vec::new(), at + 64);
        for _ in 0..number(bytes, at + 48) {
            records.push((record, number(bytes, record)));
            record += number(bytes, record);
        }
        frames.push(((at, number(bytes, at + 4)), records));
        at += number(bytes, at + 4);
    }
    frames
}

/// Makes all checksums right again.
fn seal(bytes: &mut [u8], frames: &[(Span, Vec<Span>)]) {
    let salt: [u8; 8] = bytes[56..64].try_into().unwrap();
    let seeded = |parts: &[&[u8]]| crc32fast::hash(&[&salt, &*parts.concat()].concat());
    let put = |bytes: &mut [u8], at: usize, crc: u32| {
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    };
    for ((start, length), records) in frames {
        for (record, length) in records {
            let crc = seeded(&[&bytes[record + 8..record + length]]);
            put(bytes, record + 4, crc);
        }
        let crc = seeded(&[&bytes[start + 64..start + length]]);
        put(bytes, start + 12, crc);
        let crc = seeded(&[&bytes[*start..start + 8], &bytes[start + 12..start + 64]]);
        put(bytes, start + 8, crc);
    }
    let crc = crc32fast::hash(&bytes[..4092]);
    put(bytes, 4092, crc);
}

#[test]
fn damage_with_right_checksums_never_panics() {
    let dir = temp();
    let store = open(&dir, small());
    let mut new = event("a-1", "t", "payload");
    new.tags = vec![tag("x"), tag("y")];
    new.key = Some(Key::new("k").unwrap());
    new.headers.insert("name", "value").unwrap();
    store.append_blocking(Append::new([new]).with_id(AppendId::generate())).unwrap();
    store.append_blocking(one("a-1", "again")).unwrap();
    store.close().unwrap();
    let segment = store.path().join("log/00000000000000000001-00000001.seg");
    let whole = fs::read(&segment).unwrap();
    let frames = frames(&whole);
    let used = frames.last().map(|((start, length), _)| start + length).unwrap();
    let mut same = whole.clone();
    seal(&mut same, &frames);
    assert!(same == whole, "the checksums of the test are not those of the engine");

    let (mut refused, mut tries) = (0, 0);
    for at in (8..128).chain(4096..used) {
        for (width, mask) in [(1, 1), (1, 0x80), (1, 0xFF), (4, 0xFF), (8, 0xFF)] {
            let mut bytes = whole.clone();
            bytes[at..at + width].iter_mut().for_each(|byte| *byte ^= mask);
            seal(&mut bytes, &frames);
            fs::write(&segment, bytes).unwrap();
            refused += usize::from(decode_store(store.path()).is_err());
            tries += 1;
        }
    }
    assert!(refused * 10 > tries * 6, "only {refused} of {tries} were refused");
}
