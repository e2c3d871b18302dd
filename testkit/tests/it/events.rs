//! What the engine writes decodes to what it reads.

use std::fs;
use std::path::Path;

use headwater_core::{
    Append, AppendId, CodecId, Durability, Headers, Key, SchemaVersion, Timestamp,
};
use headwater_store::Options;
use headwater_testkit::decode_store;

use crate::common::*;

#[test]
fn a_new_store_decodes_to_nothing() {
    let dir = temp();
    let store = open(&dir, small());
    assert!(agree(&store).is_empty());
    store.close().unwrap();
    assert!(agree(&store).is_empty());
}

#[test]
fn the_whole_envelope_decodes() {
    let dir = temp();
    let mut new = event("order-1-2", "order.placed", "payload");
    new.tags = vec![tag("b"), tag("ä"), tag("a"), tag("b"), tag("B")];
    new.key = Some(Key::new("customer-7").unwrap());
    new.correlation_id = Some(new.id.into());
    new.causation_id = Some(new.id);
    new.schema_version = SchemaVersion::new(513);
    new.codec = CodecId::new(200);
    new.event_time = Timestamp::from_nanos(-5);
    let mut headers = Headers::new();
    for (name, value) in [("z", "1"), ("a", ""), ("z", "ü"), (&"n".repeat(64), "x")] {
        headers.insert(name, value).unwrap();
    }
    new.headers = headers;
    let id = AppendId::generate();

    let store = open(&dir, small());
    let more = event("order-1-2", "order.paid", "");
    store.append_blocking(Append::new([new.clone(), more]).with_id(id)).unwrap();
    store.append_blocking(one("order-1-2", "alone")).unwrap();
    let decoded = agree(&store);
    assert_eq!(decoded[0].event.headers, new.headers);
    assert_eq!(decoded[0].event.tags, [tag("B"), tag("a"), tag("b"), tag("ä")]);
    let appends: Vec<_> = decoded.iter().map(|d| (d.append_id, d.ends_append)).collect();
    assert_eq!(appends, [(Some(id), false), (None, true), (None, true)]);
}

#[test]
fn a_key_that_is_the_stream_id_decodes() {
    let dir = temp();
    let mut new = event("a-1", "t", "x");
    new.key = Some(Key::new("a-1").unwrap());
    let store = open(&dir, small());
    store.append_blocking(Append::new([new])).unwrap();
    agree(&store);
}

#[test]
fn every_codec_and_schema_version_decodes() {
    let dir = temp();
    let store = open(&dir, small());
    for codec in 0..=255 {
        let mut new = event("a-1", "t", "x");
        new.codec = CodecId::new(codec);
        new.schema_version = SchemaVersion::new(u16::from(codec) * 257);
        store.append_blocking(Append::new([new])).unwrap();
    }
    assert_eq!(agree(&store).len(), 256);
}

#[test]
fn a_log_over_many_segments_and_openings_decodes() {
    for durability in [Durability::Sync, Durability::INTERVAL, Durability::Os] {
        let dir = temp();
        let options = Options { durability, ..small() };
        for opening in 0..5 {
            let store = open(&dir, options.clone());
            agree(&store);
            for n in 0..40_usize {
                let payload = "x".repeat(n * 97 % 4000);
                let mut append = Append::new((0..=n % 4).map(|i| {
                    event(&format!("s-{}", (n * 7 + i) % 11), "t", format!("{opening} {payload}"))
                }));
                if n % 3 == 0 {
                    append = append.with_id(AppendId::generate());
                }
                store.append_blocking(append).unwrap();
            }
            agree(&store);
            if opening % 2 == 0 {
                store.close().unwrap();
            }
            agree(&store);
        }
        let segments = fs::read_dir(dir.path().join("store/log")).unwrap().count();
        assert!(segments > 8, "{segments} segments and indexes");
    }
}

#[test]
fn payloads_of_zeros_decode() {
    let dir = temp();
    let store = open(&dir, small());
    for length in (0..2600).step_by(13) {
        store.append_blocking(one("zero-1", vec![0; length])).unwrap();
    }
    assert_eq!(agree(&store).len(), 200);
}

#[test]
fn appends_from_many_threads_share_frames_and_decode() {
    let dir = temp();
    let store = open(&dir, small());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..50 {
                    let events = (0..=n % 3).map(|i| event(&format!("s-{i}"), "t", "x"));
                    let append =
                        Append::new(events.chain([event(&format!("t-{thread}"), "t", "")]));
                    store.append_blocking(append.with_id(AppendId::generate())).unwrap();
                }
            });
        }
    });
    assert_eq!(agree(&store).iter().filter(|d| d.ends_append).count(), 400);
}

#[test]
fn the_largest_records_fill_segments_to_the_end() {
    let dir = temp();
    let store = open(&dir, small());
    for length in 15_900..=16_000 {
        store.append_blocking(one("a-1", vec![7; length])).unwrap();
    }
    assert_eq!(agree(&store).len(), 101);
}

#[test]
fn frames_of_megabytes_decode() {
    let dir = temp();
    let store = open(&dir, Options { segment_bytes: 16 << 20, ..small() });
    for n in 0..4_u8 {
        let events = (0..3).map(|i| event(&format!("a-{i}"), "t", vec![n; 1_000_000]));
        store.append_blocking(Append::new(events).with_id(AppendId::generate())).unwrap();
    }
    assert_eq!(agree(&store).len(), 12);
}

/// Copies the files of a store that is still open, as a crash would leave them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

#[test]
fn a_recovered_store_decodes() {
    let (dir, crashed) = (temp(), temp());
    let store = open(&dir, Options { durability: Durability::Os, ..small() });
    for n in 0..10 {
        store.append_blocking(one(&format!("a-{}", n % 3), "x")).unwrap();
    }
    copy(store.path(), &crashed.path().join("store"));
    let reopened = open(&crashed, small());
    assert_eq!(agree(&reopened).len(), 10);
    reopened.append_blocking(one("a-1", "y")).unwrap();
    assert_eq!(agree(&reopened).len(), 11);
    reopened.close().unwrap();
    drop(reopened);

    // The header of the last frame never reached the device, its body did.
    let (torn, name) = (temp(), "store/log/00000000000000000001-00000001.seg");
    copy(store.path(), &torn.path().join("store"));
    let segment = torn.path().join(name);
    let mut bytes = fs::read(&segment).unwrap();
    let last = bytes.windows(4).rposition(|magic| magic == b"HWF1").unwrap();
    bytes[last..last + 64].fill(0);
    fs::write(&segment, bytes).unwrap();
    assert!(decode_store(&torn.path().join("store")).is_err());
    let reopened = open(&torn, small());
    assert_eq!(agree(&reopened).len(), 9);
    reopened.append_blocking(one("a-0", "z")).unwrap();
    assert_eq!(agree(&reopened).len(), 10);
}
