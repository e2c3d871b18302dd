//! `repair`: making damage, reading what is said of it, following the advice, and going on.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{Place, event, events, run};

/// A store that its last writer closed, in several segments.
fn closed() -> Place {
    Place::with(&events(1, 2_000))
}

fn segments(place: &Place) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| {
        path.parent().is_some_and(|folder| folder.ends_with("log"))
            && path.extension().is_some_and(|extension| extension == "seg")
    };
    place.files().into_keys().filter(is_segment).collect()
}

/// Flips a bit in the middle of what a segment holds.
fn damage(path: &Path, indexed: bool) {
    let mut bytes = fs::read(path).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[4096 + (used - 4096) / 2] ^= 1;
    fs::write(path, bytes).unwrap();
    if !indexed {
        drop(fs::remove_file(path.with_extension("idx")));
    }
}

/// Takes the command out of a message, without the name of the program, and adds words to it.
fn advice<'a>(text: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let from = text.find("headwater repair").unwrap() + "headwater ".len();
    let end = text[from..].find(['`', '\n']).map_or(text.len(), |at| from + at);
    text[from..end].split(' ').chain(more.iter().copied()).collect()
}

#[test]
fn the_end_of_a_damaged_log_is_cut_as_the_message_says() {
    let place = closed();
    let newest = segments(&place).pop().unwrap();
    damage(&newest, false);
    let before = place.files();
    let refused = place.append(&event(9_001, "s-1"));
    refused.fails(4, &["is damaged at position", "--cut-tail`"]);

    let shown = run(&advice(&refused.err, &[]), "");
    assert_eq!(shown.code, 5, "{shown:?}");
    for words in ["would     copy ", "lost      positions ", "stream s-", "--lose-acknowledged"] {
        assert!(shown.out.contains(words), "{words:?} is not in {}", shown.out);
    }
    let same = |path: &PathBuf| path.ends_with("LOCK");
    let after = place.files();
    assert!(before.iter().all(|(path, bytes)| same(path) || &after[path] == bytes));

    run(&advice(&refused.err, &["--apply"]), "").fails(2, &["--lose-acknowledged"]);
    let done = run(&advice(&refused.err, &["--apply", "--lose-acknowledged", "--json"]), "");
    assert_eq!(done.code, 0, "{done:?}");
    let report = &done.json()[0];
    let last = report["lost"][0]["first"].as_u64().unwrap() - 1;
    assert_eq!(report["lost"][0]["last"], json!(2_000));
    let kept = fs::read(report["kept"][0].as_str().unwrap()).unwrap();
    assert!(!kept.is_empty());

    let again = run(&advice(&refused.err, &["--apply"]), "");
    assert_eq!((again.code, again.out.as_str()), (0, "nothing to repair\n"));
    assert_eq!(place.append(&event(9_001, "s-1")).acks()[0].1, last + 1);
    let verify = place.look("verify", &["--deep"]);
    assert_eq!(verify.code, 0, "{verify:?}");
    assert!(verify.out.contains("set aside quarantine/log-"), "{verify:?}");
}

#[test]
fn a_damaged_segment_is_found_named_and_taken_out() {
    let place = closed();
    let all = segments(&place);
    assert!(all.len() >= 4, "{}", all.len());
    damage(&all[1], true);
    let verify = place.look("verify", &["--deep"]);
    assert_eq!(verify.code, 4, "{verify:?}");
    let looked = place.look("repair", &[]);
    assert_eq!(looked.code, 5, "{looked:?}");
    assert!(looked.out.contains("may help  headwater repair"), "{looked:?}");
    for text in [&verify.out, &looked.out] {
        let advised = advice(text, &[]);
        assert_eq!(advised[2..], ["--quarantine-segment", "2"]);
        run(&advised, "").fails(2, &["--keep older", "--keep newer"]);
    }
    let newer = advice(&looked.out, &["--keep", "newer"]);
    let shown = run(&newer, "");
    assert_eq!(shown.code, 5, "{shown:?}");
    let done = run(&[&newer[..], &["--apply", "--lose-acknowledged"]].concat(), "");
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.out.matches("did       copy ").count(), 2, "{}", done.out);
    assert_eq!(done.out.matches("\nkept      ").count(), 2, "{}", done.out);
    let verify = place.look("verify", &["--deep"]);
    assert_eq!(verify.code, 0, "{verify:?}");
    let ledger = place.look("retention", &["--json"]);
    assert_eq!(ledger.json()[0]["quarantined"], json!(true), "{ledger:?}");
    assert_eq!(place.append(&event(9_001, "s-1")).acks()[0].1, 2_001);
    assert_eq!(place.look("repair", &[]).code, 0);
}

#[test]
fn a_damaged_index_loses_nothing_and_is_built_anew() {
    let place = closed();
    let index = segments(&place)[0].with_extension("idx");
    let right = fs::read(&index).unwrap();
    let mut wrong = right.clone();
    wrong[5_000] ^= 1;
    fs::write(&index, wrong).unwrap();
    assert_eq!(place.look("verify", &[]).code, 0);
    let verify = place.look("verify", &["--deep"]);
    assert_eq!(verify.code, 5, "{verify:?}");
    for words in ["derived   page ", "none is needed", "--reindex --apply"] {
        assert!(verify.out.contains(words), "{words:?} is not in {}", verify.out);
    }
    let report = &place.look("verify", &["--deep", "--json"]).json()[0];
    assert_eq!(
        (&report["ok"], &report["damage"][0]["severity"]),
        (&json!(false), &json!("derived"))
    );
    let shown = place.look("repair", &["--reindex"]);
    assert_eq!(shown.code, 5, "{shown:?}");
    assert_eq!(place.look("repair", &["--reindex", "--apply"]).code, 0);
    assert_eq!(fs::read(&index).unwrap(), right);
    assert_eq!(place.look("verify", &["--deep"]).code, 0);
}

#[test]
fn a_segment_that_is_not_there_cannot_be_taken_out() {
    let place = closed();
    let newest = segments(&place).len();
    for id in [newest + 1, 99] {
        let there = format!("there is no segment {id}: the log has 1 to {newest}\n");
        let id = id.to_string();
        for apply in [&[][..], &["--apply", "--lose-acknowledged"]] {
            let arguments = [&["--quarantine-segment", &id[..]], apply].concat();
            place.look("repair", &arguments).fails(2, &[&there]);
        }
    }
}

#[test]
fn a_store_that_is_open_is_not_repaired() {
    let place = closed();
    let _store = place.open();
    let pid = std::process::id().to_string();
    place.look("repair", &["--reindex", "--apply"]).fails(1, &["open for writing", &pid]);
    assert_eq!(place.look("repair", &[]).code, 0);
}
