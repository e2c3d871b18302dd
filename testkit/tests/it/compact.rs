//! A whole reader of a store's events, written from `docs/format.md` alone, to show that the format
//! is small enough to read in any language: only CRC-32 comes from elsewhere. It panics on damage,
//! and also where a crash left bytes behind the end, which a writer would cut off.

#![expect(clippy::cast_possible_truncation, reason = "what is cast has at most 32 bits")]

use std::{collections::BTreeSet, collections::HashMap, fs, path::Path};

use headwater_core::{Append, AppendId, CorrelationId, Key, SchemaVersion, Timestamp};

use crate::common::{event, open, read_all, small, tag, temp};

#[derive(Debug, PartialEq)]
struct Event {
    ints: [u64; 6], // Position, revision, previous in the stream, schema version, slot, codec.
    times: [i64; 2], // Commit, event.
    ids: [Option<[u8; 16]>; 4], // Event; then by kind: correlation, causation, append.
    names: [String; 2], // Stream, event type.
    tags: Vec<String>,
    key: Option<String>,
    headers: Vec<[String; 2]>,
    payload: Vec<u8>,
}

fn int(b: &[u8], at: usize, size: usize) -> u64 {
    b[at..at + size].iter().rev().fold(0, |int, byte| int << 8 | u64::from(*byte))
}

fn crc(parts: &[&[u8]]) -> u64 {
    crc32fast::hash(&parts.concat()).into()
}

/// The block at the start of `b`, unless its checksum is wrong.
fn block<'a>(b: &'a [u8], magic: &[u8], flags: u64) -> Option<&'a [u8]> {
    let b = b.get(..4096).filter(|b| crc(&[&b[..4092]]) == int(b, 4092, 4))?;
    assert_eq!((&b[..8], int(b, 8, 2), int(b, 10, 2) & !flags), (magic, 1, 0), "magic, version");
    Some(b)
}

fn read(store: &Path) -> Vec<Event> {
    let file = |name: &str| fs::read(store.join(name)).unwrap();
    let (identity, catalog) = (file("STORE"), file("CATALOG"));
    let store_id = &block(&identity, b"HWSTORE1", 0).expect("STORE is whole")[16..32];
    let halves = catalog.chunks(4096).filter_map(|half| block(half, b"HWCATLG1", 1));
    let catalog = halves.max_by_key(|b| int(b, 32, 8)).expect("half of CATALOG is whole");
    assert_eq!(&catalog[16..32], store_id, "the store of CATALOG");
    let (first, mut durable) = (int(catalog, 48, 8).max(1), int(catalog, 64, 8));
    let names = fs::read_dir(store.join("log")).unwrap();
    let names = names.filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let id = |name: &str| u64::from_str_radix(name.strip_suffix(".seg")?.get(21..)?, 16).ok();
    let names: BTreeSet<_> = names.filter(|name| id(name) >= Some(first)).collect();

    // Where the log goes on: position, frames so far, chain word and epoch of the last of them.
    let (mut next, mut events) = ([1, 0, 0, 0], Vec::new());
    for (id, name) in (first..).zip(&names) {
        let b = file(&format!("log/{name}"));
        let h = block(&b, b"HWSEG001", 0).expect("the segment's header is whole");
        let start = [int(h, 48, 8), int(h, 96, 8), int(h, 80, 4), int(h, 84, 4)];
        next = if id == first && id > 1 { start } else { next };
        assert_eq!((&next[..3], name), (&start[..3], &format!("{:020}-{id:08x}.seg", start[0])));
        let fields = [int(h, 32, 8), int(h, 40, 8), int(h, 72, 8), int(h, 12, 4) * 4096];
        assert_eq!((fields, &h[16..32]), ([0, id, id - 1, b.len() as u64], store_id), "{name}");
        let (salt, mut at) = (&h[56..64], 4096);
        while let Some(h) = b.get(at..at + 64).filter(|h| **h != [0; 64]) {
            assert_eq!(crc(&[salt, &h[..8], &h[12..]]), int(h, 8, 4), "header at {at} of {name}");
            let (f, count) = (&b[at..at + int(h, 4, 4) as usize], int(h, 48, 4));
            assert_eq!(crc(&[salt, &f[64..]]), int(h, 12, 4), "body at {at} of {name}");
            assert_eq!((&h[..4], int(h, 60, 2)), (&b"HWF1"[..], 0), "magic number and flags");
            let (frame, epoch) = ([int(h, 16, 8), int(h, 24, 8) - 1, int(h, 56, 4)], int(h, 52, 4));
            assert_eq!((&next[..3], epoch.max(next[3])), (&frame[..], epoch), "frame at {at}");
            let mut body = &f[64..];
            for position in next[0]..next[0] + count {
                let (r, rest) = body.split_at(int(body, 0, 4) as usize);
                events.push(record(r, salt, position, int(h, 32, 8).cast_signed()));
                body = rest;
            }
            let chain = int(h, 8, 4) as u32 ^ (int(h, 12, 4) as u32).rotate_left(16);
            next = [next[0] + count, next[1] + 1, chain.into(), epoch];
            (at, durable) = (at + f.len(), durable.max(int(h, 40, 8)));
        }
        assert!(b[at..].iter().all(|byte| *byte == 0), "bytes behind the end of {name}");
    }
    assert!(next[0] > durable, "acknowledged events are gone");
    events
}

fn record(r: &[u8], salt: &[u8], position: u64, commit_time: i64) -> Event {
    assert_eq!((crc(&[salt, &r[8..]]), r[55] & !3), (int(r, 4, 4), 0), "record {position}");
    let text = |b: &[u8]| str::from_utf8(b).unwrap().to_owned();
    let (stream, rest) = r[58..].split_at(r[57].into());
    let (event_type, rest) = rest.split_at(r[56].into());
    let (mut metadata, payload) = rest.split_at(int(r, 48, 2) as usize);
    let ints = [position, int(r, 8, 8), int(r, 16, 8), int(r, 50, 2), int(r, 52, 2), r[54].into()];
    let times = [commit_time, int(r, 40, 8).cast_signed()];
    let names = [stream, event_type].map(text);
    let mut ids = [r[24..40].try_into().ok(), None, None, None];
    let (mut tags, mut key, mut headers) = (Vec::new(), None, Vec::new());
    while !metadata.is_empty() {
        let (value, rest) = metadata[3..].split_at(int(metadata, 1, 2) as usize);
        match metadata[0] {
            kind @ 1..=3 => ids[usize::from(kind)] = value[..16].try_into().ok(),
            4 => tags.push(text(value)),
            5 => key = Some(text(value)),
            6 => headers.push(<[_; 2]>::from(value[1..].split_at(value[0].into())).map(text)),
            kind => panic!("metadata of kind {kind}"),
        }
        metadata = rest;
    }
    Event { ints, times, ids, names, tags, key, headers, payload: payload.to_vec() }
}

#[test]
fn under_150_lines_read_what_the_engine_reads() {
    let (dir, mut append_ids) = (temp(), Vec::new());
    for opening in 0..3 {
        let store = open(&dir, small());
        for n in 0..60_u16 {
            let mut new = event(&format!("s-{}", n % 7), "t", vec![opening; usize::from(n) * 60]);
            new.schema_version = SchemaVersion::new(n * 999);
            new.event_time = Timestamp::from_nanos(-5);
            new.correlation_id = (n % 3 == 0).then(CorrelationId::generate);
            new.causation_id = (n % 4 == 0).then_some(new.id);
            new.key = (n % 5 == 0).then(|| Key::new("ä").unwrap());
            new.tags = (0..n % 3).map(|i| tag(&i.to_string())).collect();
            let [(), ()] = ["ü", ""].map(|value| new.headers.insert("name", value).unwrap());
            let append_id = (n % 2 == 0).then(AppendId::generate);
            let append = Append::new([new, event("other-1", "u", "")]);
            store.append_blocking(Append { append_id, ..append }).unwrap();
            append_ids.extend([append_id.map(|id| *id.as_bytes()), None]);
        }
        let mut last = HashMap::new();
        let expected = read_all(&store).into_iter().zip(&append_ids).map(|(e, append)| {
            let (position, slot) = (e.position.get(), e.slot.get().into());
            let previous = last.insert(e.stream.clone(), position).unwrap_or(0);
            let (version, codec) = (e.schema_version.get().into(), e.codec.get().into());
            let ints = [position, e.revision.get(), previous, version, slot, codec];
            let times = [e.commit_time, e.event_time].map(Timestamp::as_nanos);
            let (id, correlation) = (*e.id.as_bytes(), e.correlation_id.map(|id| *id.as_bytes()));
            let ids = [Some(id), correlation, e.causation_id.map(|id| *id.as_bytes()), *append];
            let names = [e.stream.to_string(), e.event_type.to_string()];
            let tags = e.tags.iter().map(ToString::to_string).collect();
            let key = e.key.map(|key| key.to_string());
            let headers = e.headers.iter().map(|(n, v)| [n.to_owned(), v.to_owned()]).collect();
            Event { ints, times, ids, names, tags, key, headers, payload: e.payload.to_vec() }
        });
        assert_eq!(read(store.path()), expected.collect::<Vec<_>>());
    }
    assert!(fs::read_dir(dir.path().join("store/log")).unwrap().count() > 8, "many segments");
}
