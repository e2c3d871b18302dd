//! `headwater tail --follow`: beside a writer, across segments, and across writers.

use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::Value;

use crate::support::{Live, Place, event, events};

fn number(line: &str) -> u64 {
    let event: Value = serde_json::from_str(line).unwrap();
    event["data"].as_u64().unwrap()
}

#[test]
fn new_events_are_shown_as_they_are_committed() {
    let place = Place::with(&events(1, 3));
    let live = Live::start(&["tail", place.text(), "--follow", "--json", "-n", "2"]);
    assert_eq!([number(&live.line()), number(&live.line())], [2, 3]);
    for next in 4..=6 {
        // A writer comes and goes each time.
        assert_eq!(place.append(&event(next, "s-1")).code, 0);
        assert_eq!(number(&live.line()), next);
    }
}

#[test]
fn following_goes_on_into_new_segments_without_a_gap() {
    let place = Place::with("");
    let live = Live::start(&["tail", place.text(), "--follow", "--json"]);
    let args = ["append", place.text(), "--segment-bytes", "64KiB"];
    assert_eq!(crate::support::run(&args, &events(1, 2000)).code, 0);
    for expected in 1..=2000 {
        assert_eq!(number(&live.line()), expected);
    }
}

#[test]
fn following_passes_over_what_is_not_selected() {
    let place = Place::with(&events(1, 10));
    let args = ["tail", place.text(), "--follow", "--json", "--stream", "s-2"];
    let live = Live::start(&args);
    assert_eq!([number(&live.line()), number(&live.line())], [2, 7]);
    assert_eq!(place.append(&events(11, 18)).code, 0);
    assert_eq!([number(&live.line()), number(&live.line())], [12, 17]);
}

#[test]
fn following_ends_with_damage_and_does_not_wait_for_ever() {
    let place = Place::with(&events(1, 3));
    let live = Live::start(&["tail", place.text(), "--follow", "--json", "-n", "1"]);
    assert_eq!(number(&live.line()), 3);
    let stat = &place.look("stat", &["--json"]).json()[0];
    let used = usize::try_from(stat["segments"][0]["used_bytes"].as_u64().unwrap()).unwrap();
    // In place: a file that is written anew is empty for a moment, and somebody follows it.
    let segment = fs::OpenOptions::new().write(true).open(place.segment()).unwrap();
    segment.write_all_at(&[0xa5; 512], used as u64).unwrap();
    assert_eq!(live.end(), 4);
}
