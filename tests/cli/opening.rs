//! Directories that hold no store, somebody else's, a newer one, or a damaged one.

use std::fs;

use headwater::{EventLog, Position, Visibility};
use serde_json::json;

use crate::support::{Place, event, events, run};

const READERS: [&str; 5] = ["stat", "tail", "read", "groups", "verify"];
const ALL: [&str; 8] = ["stat", "tail", "read", "groups", "verify", "append", "streams", "repair"];
/// Those that are not about one whole store.
const OTHERS: [&str; 3] = ["retention", "dump", "bench"];

#[test]
fn every_help_documents_the_exit_codes() {
    for command in ALL.into_iter().chain(OTHERS) {
        for help in ["--help", "-h"] {
            let run = run(&[command, help], "");
            assert_eq!(run.code, 0, "{run:?}");
            assert!(run.out.contains("Exit codes:") && run.out.contains("--json"), "{run:?}");
        }
    }
}

#[test]
fn a_bad_command_line_has_its_own_exit_code() {
    for args in [
        &["frobnicate"][..],
        &["read"],
        &["read", "x", "--limit", "0"],
        &["read", "x", "--stream", "nohyphen"],
        &["append", "x", "--segment-bytes", "many"],
        &["append", "x", "--create", "--segment-bytes", "1KiB"],
    ] {
        let run = run(args, "");
        run.fails(2, &[]);
    }
}

#[test]
fn a_missing_directory_is_no_store_and_is_not_created() {
    let place = Place::new();
    for command in ALL {
        place.look(command, &[]).fails(1, &[place.text(), "it is missing", "create a store"]);
    }
    assert!(!place.path().exists());
}

#[test]
fn an_empty_directory_is_no_store_and_stays_empty() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    for command in ALL {
        place.look(command, &[]).fails(1, &["it is empty", "mounted"]);
    }
    assert!(place.files().is_empty());
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    fs::write(place.path().join("letter.txt"), "dear").unwrap();
    for command in ALL {
        place.look(command, &[]).fails(1, &["is not a store", "letter.txt"]);
    }
    place.create(&event(1, "s-1")).fails(1, &["is not a store"]);
    assert_eq!(place.files().len(), 1);
}

#[test]
fn a_second_writer_is_refused_with_the_first_ones_process_id() {
    let place = Place::with(&event(1, "s-1"));
    let store = place.open();
    let pid = std::process::id();
    place.append(&event(2, "s-1")).fails(1, &[&format!("by process {pid};"), "close it there"]);
    store.close().unwrap();
    assert_eq!(place.append(&event(2, "s-1")).code, 0);
}

#[test]
fn readers_stand_beside_a_live_writer_and_change_nothing() {
    let place = Place::with(&events(1, 10));
    let store = place.open();
    let write = |number| {
        let line: serde_json::Value = serde_json::from_str(&event(number, "s-1")).unwrap();
        let event = headwater::NewEvent::json(
            headwater::StreamId::new("s-1").unwrap(),
            headwater::EventType::new("counted").unwrap(),
            &line["data"],
        );
        store.append_blocking(headwater::Append::new([event.unwrap()])).unwrap()
    };
    write(11);
    let before = place.files();
    for command in READERS {
        let run = place.look(command, &["--json"]);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{command}");
    }
    assert_eq!(place.events().len(), 11);
    let stat = place.look("stat", &[]);
    assert!(stat.out.contains("closed    no: a writer has it open"), "{}", stat.out);
    assert!(before == place.files(), "a reader changed the store");
    assert_eq!(write(12).last, Position::new(12));
    assert_eq!(place.events().len(), 12);
    store.close().unwrap();
    assert_eq!(place.open().recovery().cuts, []);
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let place = Place::with(&event(1, "s-1"));
    let file = place.path().join("STORE");
    let mut bytes = fs::read(&file).unwrap();
    bytes[8..10].copy_from_slice(&9_u16.to_le_bytes());
    let end = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    for command in ALL {
        let run = place.look(command, &[]);
        run.fails(1, &["STORE", "format version 9", "reads up to 1", "use a newer program"]);
    }
}

#[test]
fn a_store_without_its_identity_is_damaged() {
    let place = Place::with(&event(1, "s-1"));
    let file = place.path().join("STORE");
    let mut bytes = fs::read(&file).unwrap();
    bytes[20] ^= 1;
    fs::write(&file, bytes).unwrap();
    place.append("").fails(4, &["STORE", "checksum", "restore"]);
    let verify = place.look("verify", &[]);
    assert_eq!(verify.code, 4, "{verify:?}");
    assert!(verify.out.contains("file      ") && verify.out.contains("STORE"), "{verify:?}");
}

/// A closed store of 200 events, with a flipped byte in the middle of its log.
fn damaged() -> Place {
    // Several runs, so that there are several frames.
    let place = Place::with(&events(1, 50));
    for hundred in [51, 101, 151] {
        assert_eq!(place.append(&events(hundred, hundred + 49)).code, 0);
    }
    let stat = &place.look("stat", &["--json"]).json()[0];
    let used = usize::try_from(stat["segments"][0]["used_bytes"].as_u64().unwrap()).unwrap();
    let segment = place.segment();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = usize::midpoint(4096, used);
    bytes[middle] ^= 0x10;
    fs::write(segment, bytes).unwrap();
    place
}

#[test]
fn verify_names_file_position_offset_and_remedy_of_damage() {
    let place = damaged();
    let verify = place.look("verify", &[]);
    assert_eq!(verify.code, 4, "{verify:?}");
    let segment = place.segment();
    let name = segment.to_str().unwrap();
    for words in ["damage    ", name, "\nposition  ", "\noffset    ", "\nremedy    ", "backup"] {
        assert!(verify.out.contains(words), "{words} is not in {}", verify.out);
    }
    assert!(!verify.out.contains("\nok"), "{}", verify.out);
    let report = &place.look("verify", &["--json"]).json()[0];
    assert_eq!((&report["ok"], &report["damage"][0]["file"]), (&json!(false), &json!(name)));
    let position = report["damage"][0]["position"].as_u64().unwrap();
    assert_eq!(report["events"].as_u64().unwrap(), position - 1);
    assert!((2..200).contains(&position), "{report}");
}

#[test]
fn append_refuses_a_damaged_store_and_changes_nothing() {
    let place = damaged();
    let before = place.files();
    place.append(&event(999, "s-1")).fails(4, &["is damaged at position", "restore from a backup"]);
    let after = place.files();
    // The lock names who tried last.
    for (path, bytes) in before.iter().filter(|(path, _)| !path.ends_with("LOCK")) {
        assert!(&after[path] == bytes, "{} changed", path.display());
    }
}

#[test]
fn readers_show_what_is_before_the_damage_and_do_not_pass_it_off_as_all() {
    let place = damaged();
    let read = place.look("read", &["--json"]);
    read.fails(4, &["is damaged at position"]);
    let count = read.out.lines().count();
    assert!((1..200).contains(&count), "{count} events");
    assert_eq!(place.look("read", &["--limit", "1"]).code, 0);
    assert_eq!(place.look("read", &["--before", "2"]).code, 0);
    place.look("read", &["--backward", "--limit", "1"]).fails(4, &["is damaged at position"]);
    place.look("tail", &["-n", "1"]).fails(4, &["is damaged at position"]);
    let stat = place.look("stat", &[]);
    stat.fails(4, &["is damaged at position"]);
    assert!(stat.out.contains("damage    ") && stat.out.contains("remedy    "), "{stat:?}");
}

#[test]
fn a_new_store_has_a_head_of_zero_to_every_reader() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(pollster_free(store.head(Visibility::Committed)), Position::START);
    for command in READERS {
        let run = place.look(command, &[]);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{command}");
    }
    store.close().unwrap();
    assert!(place.look("verify", &[]).out.ends_with("ok\n"));
}

/// Waits for a result that needs no runtime's help.
fn pollster_free<T, E: std::fmt::Debug>(future: impl Future<Output = Result<T, E>>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(future).unwrap()
}
