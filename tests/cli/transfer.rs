//! `headwater export` and `headwater import`.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use headwater::{Append, EventType, GroupName, NewEvent, Options, Position, Store, StreamId};
use serde_json::{Value, json};

use crate::support::{Live, Place, command, event, events, id, run, run_unread};

/// A store with a group, events of all kinds, and a line of input that is longer than a segment's block.
fn filled() -> Place {
    let place = Place::with(&events(1, 50));
    let lines = [
        json!({"stream": "b-1", "type": "raw", "data_base64": "AP8K", "codec": "raw", "key": "k"}),
        json!({"stream": "b-1", "type": "t", "data": {"n": 1.10, "s": "\u{e9}\n"}, "tags": ["y", "x"],
               "headers": {"traceparent": "00-1"}, "correlation_id": id(1), "causation_id": id(2),
               "schema_version": 7, "event_time": "1969-12-31T23:59:59.999999999Z"}),
        json!({"stream": "b-2", "type": "t", "data": "x".repeat(9_000)}),
    ];
    let lines = lines.map(|line| format!("{line}\n")).concat();
    assert_eq!(place.append(&lines).code, 0);
    let store = place.open();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.pin(GroupName::new("g").unwrap(), Position::new(7))).unwrap();
    store.close().unwrap();
    place
}

#[test]
fn an_export_makes_the_same_log_again() {
    let (place, other) = (filled(), Place::new());
    let before = place.files();
    let exported = place.look("export", &[]);
    assert_eq!((exported.code, exported.err.as_str()), (0, ""), "{exported:?}");
    assert_eq!(place.files(), before, "exporting changes nothing");
    let lines = exported.json();
    assert_eq!(lines.len(), 53 + 3);
    for line in &lines {
        assert_eq!(line["specversion"], "1.0");
        assert_eq!(line["source"], lines[0]["source"]);
        assert!(line["id"].is_string() && line["type"].is_string(), "{line}");
        for name in line.as_object().unwrap().keys() {
            let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            assert!(plain || name == "data_base64", "{name}");
        }
    }
    let with = &lines[52];
    assert_eq!((&with["tags"], &with["schemaversion"]), (&"x y".into(), &7.into()));
    assert_eq!(with["headers"], r#"[["traceparent","00-1"]]"#);
    assert_eq!((&with["position"], &with["revision"]), (&"52".into(), &"2".into()));
    assert_eq!(with["time"], "1969-12-31T23:59:59.999999999Z");
    assert_eq!(lines[51]["partitionkey"], "k");
    assert!(exported.out.contains(r#""data":{"n":1.1,"s":"é\n"}"#), "{}", lines[52]);

    let imported = run(&["import", "-", other.text(), "--json"], &exported.out);
    assert_eq!(imported.code, 0, "{imported:?}");
    let report = &imported.json()[0];
    assert_eq!((&report["events"], &report["lines"]), (&53.into(), &56.into()));
    assert_ne!(report["log"], report["imported_as"]);
    assert_eq!(other.events(), place.events());
    assert_eq!(other.look("groups", &["--json"]).json(), place.look("groups", &["--json"]).json());
    assert_eq!(other.look("verify", &[]).code, 0);

    // What was appended once is not appended again.
    let again = other.append(&event(3, "s-3"));
    assert_eq!(again.acks(), [(id(3), 3)], "{again:?}");
}

#[test]
fn a_file_is_there_when_it_is_complete_and_not_before() {
    let (place, other) = (filled(), Place::new());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log.ndjson");
    let name = file.to_str().unwrap();
    let exported = place.look("export", &[name, "--json"]);
    assert_eq!(exported.code, 0, "{exported:?}");
    let report = &exported.json()[0];
    assert_eq!(report["bytes"], fs::metadata(&file).unwrap().len());
    assert_eq!(fs::read_to_string(&file).unwrap(), place.look("export", &["-"]).out);
    place.look("export", &[name]).fails(2, &["exists", "name another file"]);
    let nowhere = dir.path().join("none/log.ndjson");
    place.look("export", &[nowhere.to_str().unwrap()]).fails(1, &["cannot create", "caused by: "]);
    place.look("export", &["--json", "-"]).fails(2, &["name a file"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half done is left");

    let imported = run(&["import", name, other.text(), "--keep-id"], "");
    assert_eq!(imported.code, 0, "{imported:?}");
    assert!(imported.out.contains("imported  53 events, 1 group, 56 lines"), "{}", imported.out);
    assert!(imported.out.contains("the same log"), "{}", imported.out);
    assert_eq!(other.look("export", &[]).out, fs::read_to_string(&file).unwrap());
}

#[test]
fn an_export_that_is_told_to_end_leaves_no_file() {
    // Large enough that the signal comes long before the end.
    let place = Place::new();
    let store = Store::open(place.path(), Options::default()).unwrap();
    let payload = json!("x".repeat(100_000));
    for _ in 0..300 {
        let stream = StreamId::new("s-1").unwrap();
        let event = NewEvent::json(stream, EventType::new("t").unwrap(), &payload).unwrap();
        store.append_blocking(Append::new([event])).unwrap();
    }
    store.close().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log.ndjson");
    for (signal, number) in [("INT", 2), ("TERM", 15)] {
        let child = command(&["export", place.text(), file.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id().to_string();
        let partial = dir.path().join(format!("log.ndjson.{pid}.tmp"));
        while fs::metadata(&partial).map_or(0, |file| file.len()) == 0 {
            std::thread::yield_now();
        }
        let told = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(told.success());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.signal(), Some(number), "{ended:?}");
        let said = String::from_utf8(ended.stderr).unwrap();
        let expected =
            format!("error: the export was interrupted, and {} was not made\n", file.display());
        assert_eq!(said, expected);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing half done is left");
    }
}

#[test]
fn what_is_no_export_makes_no_store() {
    let (place, other) = (filled(), Place::new());
    let lines = place.look("export", &[]).out;
    let line = |n: usize| lines.lines().nth(n - 1).unwrap();
    let without = |n: usize| lines.replace(&format!("{}\n", line(n)), "");
    let newer = lines.replacen("\"version\":1", "\"version\":9", 1);
    let unknown = lines.replacen("\"position\":\"5\"", "\"shade\":\"blue\",\"position\":\"5\"", 1);
    let base64 = lines.replacen("AP8K", "AP8", 1);
    let twice = lines.replacen(line(9), &format!("{}\n{}", line(9), line(9)), 1);
    let moved = lines.replacen(line(9), "HERE", 1).replacen(line(10), line(9), 1).replacen(
        "HERE",
        line(10),
        1,
    );
    let edited = lines.replacen("\"type\":\"counted\"", "\"type\":\"edited\"", 1);
    let long = format!("{}\n{}\n", line(1), "x".repeat(65 << 20));
    for (input, code, words) in [
        ("", 2, &["cut off behind line 0", "export the log again"][..]),
        (&events(1, 3), 2, &["line 1: not a line of an export", "unknown field"]),
        (&newer, 1, &["version 9", "use a newer program"]),
        (&unknown, 2, &["line 6: ", "unknown field `shade`", "export the log again"]),
        (&base64, 2, &["line 52: data_base64: ", "export the log again"]),
        (&without(9), 2, &["line 9: position 9 stands where 8 is due", "export the log again"]),
        (&twice, 2, &["line 10: position 8 stands where 9 is due"]),
        (&moved, 2, &["line 9: position 9 stands where 8 is due"]),
        (&without(56), 2, &["cut off behind line 55", "copy the whole file"]),
        (lines.trim_end(), 2, &["cut off behind line 55"]),
        (&format!("{lines}{lines}"), 2, &["line 57: something follows the last line"]),
        (&edited, 2, &["digest", "export the log again"]),
        (&long, 2, &["line 2: it is longer than 67108864 bytes"]),
    ] {
        let refused = run(&["import", "-", other.text()], input);
        refused.fails(code, words);
        assert_eq!(refused.out, "");
        let left: Vec<_> = other.files_if_any();
        assert!(left.is_empty(), "{left:?}");
    }
    run(&["import", "/nowhere", other.text()], "").fails(1, &["cannot open /nowhere"]);
    run(&["import", "-", place.text()], &lines).fails(1, &["holds a store already"]);
    assert_eq!(run(&["import", "-", other.text()], &lines).code, 0);
    assert_eq!(other.events(), place.events());
}

#[test]
fn an_import_that_was_killed_is_known_for_it_and_can_be_repeated() {
    let (place, other) = (filled(), Place::new());
    let lines = place.look("export", &[]).out;
    let mut child = command(&["import", "-", other.text()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // All but the end, so that it waits for more.
    let mut input = child.stdin.take().unwrap();
    input.write_all(&lines.as_bytes()[..lines.len() - 10]).unwrap();
    input.flush().unwrap();
    let note = other.path().join("IMPORT");
    while !note.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the import waits");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let words = ["holds an import that was not finished", "import into it again"];
    for command in ["stat", "read", "export", "verify"] {
        other.look(command, &[]).fails(1, &words);
    }
    run(&["append", other.text(), "--create"], &event(1, "s-1")).fails(1, &words);
    let imported = run(&["import", "-", other.text()], &lines);
    assert_eq!(imported.code, 0, "{imported:?}");
    assert_eq!(other.events(), place.events());
}

#[test]
fn an_export_beside_a_writer_is_whole_and_one_that_nobody_reads_fails() {
    let (place, other) = (filled(), Place::new());
    let mut writer = Live::start(&["append", place.text()]);
    let mut input = writer.child.stdin.take().unwrap();
    input.write_all(event(60, "s-0").as_bytes()).unwrap();
    assert!(writer.line().starts_with("ACK "));
    let exported = place.look("export", &[]);
    assert_eq!(exported.code, 0, "{exported:?}");
    let head = |line: &Value| line["data"]["head"].clone();
    assert_eq!(head(&exported.json()[0]), 54);
    assert_eq!(run(&["import", "-", other.text()], &exported.out).code, 0);
    drop(input);
    assert_eq!(writer.end(), 0);

    let (code, err) = run_unread(&["export", place.text()], "");
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("went away before the export was complete"), "{err}");
}
