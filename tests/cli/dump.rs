//! `dump` on stores that are well, damaged, or hardly stores any more; and `bench`.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Place, assert_clean, event, events, run};

fn kinds(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["kind"].as_str().unwrap()).collect()
}

fn field<'a>(item: &'a Value, name: &str) -> &'a Value {
    &item["fields"][name]
}

#[test]
fn headers_frames_and_records_are_shown_as_they_are() {
    let place = Place::with(&events(1, 3));
    let dump = place.look("dump", &["--json"]);
    assert_eq!(dump.code, 0, "{dump:?}");
    assert_eq!(kinds(&dump.json()), ["store", "catalog", "catalog", "segment"]);
    let dump = place.look("dump", &["--records", "--json", "--from", "2", "--through", "2"]);
    let items = dump.json();
    let records: Vec<&Value> = items.iter().filter(|item| item["kind"] == "record").collect();
    let [record] = &records[..] else { panic!("{dump:?}") };
    let event = &place.events()[1];
    assert_eq!(field(record, "position"), &json!(2));
    assert_eq!((field(record, "stream"), field(record, "id")), (&event["stream"], &event["id"]));
    let offset = usize::try_from(record["offset"].as_u64().unwrap()).unwrap();
    let bytes = usize::try_from(record["bytes"].as_u64().unwrap()).unwrap();
    let file = fs::read(place.segment()).unwrap();
    assert_eq!(file[offset..offset + 4], u32::try_from(bytes).unwrap().to_le_bytes());
    assert_eq!(kinds(&items).last(), Some(&"zeros"));
    let human = place.look("dump", &["--frames"]);
    assert_eq!(human.code, 0, "{human:?}");
    assert!(human.out.contains("chain_word=") && !human.out.contains("INVALID"), "{human:?}");
}

#[test]
fn behind_damage_it_goes_on_at_the_next_frame() {
    let place = Place::new();
    // Each run of the program writes one frame.
    for n in 1..=4 {
        let line = event(n, "s-1");
        assert_eq!(if n == 1 { place.create(&line) } else { place.append(&line) }.code, 0);
    }
    let frames = |more: &[&str]| -> Vec<Value> {
        let args = [&["--frames", "--json"], more].concat();
        let items = place.look("dump", &args).json().into_iter();
        items.filter(|item| item["kind"] != "zeros" && item["kind"] != "index").collect()
    };
    let segment = place.segment();
    let whole = frames(&["--segment", "1"]);
    assert_eq!(kinds(&whole), ["segment", "frame", "frame", "frame", "frame"]);
    let offset = |n: usize| usize::try_from(whole[n]["offset"].as_u64().unwrap()).unwrap();
    let bytes = fs::read(&segment).unwrap();
    for (at, expected, faulty) in [
        // A body, a header, and the header block of the segment.
        (offset(2) + 100, ["segment", "frame", "frame", "frame", "frame"], 2),
        (offset(2) + 20, ["segment", "frame", "unknown", "frame", "frame"], 2),
        (200, ["segment", "frame", "frame", "frame", "frame"], 0),
    ] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(&segment, &changed).unwrap();
        let found = frames(&["--segment", "1"]);
        assert_eq!(kinds(&found), expected);
        for (n, item) in found.iter().enumerate() {
            assert_eq!(item["fault"].is_string(), n == faulty, "{item}");
        }
        let human = place.look("dump", &["--frames"]);
        assert_eq!(human.code, 4);
        assert!(human.out.contains("INVALID: "), "{human:?}");
        assert_clean(&human.err);
    }
}

#[test]
fn whatever_the_files_hold_dump_shows_it_and_does_not_fail() {
    let place = Place::with(&events(1, 300));
    for path in place.files().into_keys() {
        let right = fs::read(&path).unwrap();
        for wrong in [Vec::new(), b"x".to_vec(), vec![0xFF; right.len()]] {
            fs::write(&path, wrong).unwrap();
            let dump = place.look("dump", &["--records"]);
            let expected = if path.ends_with("LOCK") { 0 } else { 4 };
            assert_eq!(dump.code, expected, "{}: {dump:?}", path.display());
            assert_clean(&dump.err);
        }
        fs::write(&path, right).unwrap();
    }
    place.look("dump", &["--segment", "99"]).fails(2, &["nothing of that"]);
    fs::remove_file(place.path().join("STORE")).unwrap();
    let dump = place.look("dump", &["--frames"]);
    assert!(dump.code == 4 && dump.out.contains("chain_word="), "{dump:?}");
    Place::new().look("dump", &[]).fails(1, &["holds no store"]);
}

#[test]
fn bench_measures_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let bench = run(&["bench", path, "--seconds", "1", "--json"], "");
    assert_eq!(bench.code, 0, "{bench:?}");
    let report = &bench.json()[0];
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 7);
    for result in results {
        let [median, p99] = ["median_ns", "p99_ns"].map(|name| result[name].as_u64().unwrap());
        assert!(0 < median && median <= p99, "{result}");
        assert!(result["events_per_second"].as_u64().unwrap() > 0, "{result}");
    }
    assert!(report["file_system"].as_str().unwrap().len() > 1, "{report}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    run(&["bench", "/nowhere/at/all"], "").fails(1, &["cannot find /nowhere/at/all"]);
}
