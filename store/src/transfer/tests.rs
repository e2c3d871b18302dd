//! Reading lines without writing them anywhere: no damage of an export passes.

use headwater_core::{Append, CodecId, EventType, NewEvent, StreamId};

use super::ImportError;
use super::lines::{Parcel, read};
use crate::handle::Store;
use crate::options::Options;
use crate::read_only::ReadOnlyStore;

/// A small export: two appends, one of them of three events.
fn lines() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 64 * 1024, ..Options::default() };
    let store = Store::open(dir.path(), options).unwrap();
    let (stream, event_type) = (StreamId::new("a-1").unwrap(), EventType::new("t").unwrap());
    let raw = || NewEvent::new(stream.clone(), event_type.clone(), CodecId::RAW, "\0x");
    store.append_blocking(Append::new([raw(), raw(), raw()])).unwrap();
    let json = NewEvent::json(stream.clone(), event_type.clone(), &"x").unwrap();
    store.append_blocking(Append::new([json])).unwrap();
    store.close().unwrap();
    let mut lines = Vec::new();
    ReadOnlyStore::open(dir.path()).unwrap().export(&mut lines, |_| {}).unwrap();
    lines
}

/// Reads lines, and returns whether they came to their end.
fn outcome(lines: &[u8]) -> Result<(), ImportError> {
    let mut outcome = None;
    read(lines, Options::default().segment_bytes, |parcel| {
        match parcel {
            Parcel::End(_) => outcome = Some(Ok(())),
            Parcel::Fault(error) => outcome = Some(Err(error)),
            Parcel::Log(_) | Parcel::Appends(..) => {}
        }
        true
    });
    outcome.unwrap()
}

#[test]
fn every_truncation_of_an_export_is_refused() {
    let lines = lines();
    outcome(&lines).unwrap();
    for len in 0..lines.len() {
        let whole = lines[..len].split(|&byte| byte == b'\n').count() as u64 - 1;
        let cut = outcome(&lines[..len]);
        assert!(
            matches!(cut, Err(ImportError::CutOff { lines }) if lines == whole),
            "{len}: {cut:?}"
        );
    }
}

#[test]
fn every_changed_bit_of_an_export_is_noticed() {
    let lines = lines();
    for at in 0..lines.len() {
        for bit in 0..8 {
            let mut changed = lines.clone();
            changed[at] ^= 1 << bit;
            outcome(&changed).expect_err("a changed bit is noticed");
        }
    }
}
