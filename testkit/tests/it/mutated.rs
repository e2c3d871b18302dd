//! The decoder over bytes that went wrong in many places at a time.

use std::fs;

use headwater_core::{GroupName, Position};
use headwater_testkit::{decode_groups, decode_store, mutation};

use crate::common::*;

#[test]
fn no_bytes_make_the_decoder_panic_or_give_what_nobody_wrote() {
    let dir = temp();
    let store = open(&dir, small());
    for n in 0..9_u8 {
        store.append_blocking(one(["a-1", "b-1"][usize::from(n % 2)], vec![n; 400])).unwrap();
    }
    let name = GroupName::new("g").unwrap();
    pollster::block_on(store.pin(name, Position::new(4))).unwrap();
    store.close().unwrap();
    let (path, whole) = (store.path().to_owned(), agree(&store));
    drop(store);
    let segment = "00000000000000000001-00000001.seg";
    for name in ["STORE", "CATALOG", &format!("log/{segment}"), &format!("offsets/{segment}")] {
        let (file, corpus) = (path.join(name), tempfile::tempdir().unwrap());
        let before = fs::read(&file).unwrap();
        fs::write(corpus.path().join("whole"), &before).unwrap();
        let run = mutation::run(corpus.path(), |bytes| {
            fs::write(&file, bytes).unwrap();
            if let Ok(decoded) = decode_store(&path) {
                assert!(whole.starts_with(&decoded), "{decoded:?}");
            }
            let _ = decode_groups(&path);
        });
        fs::write(&file, before).unwrap();
        assert!(run.mutations >= 100, "{name}: {} mutations", run.mutations);
    }
    assert_eq!(decode(&path), whole);
}
