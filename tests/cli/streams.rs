//! `streams`: which there are.

use serde_json::{Value, json};

use crate::support::{Place, event};

/// Five events: b-1 (2), a-1 (1), a-2 (2).
fn place() -> Place {
    let streams = ["b-1", "a-2", "a-1", "a-2", "b-1"];
    let lines: String = (1..).zip(streams).map(|(n, stream)| event(n, stream)).collect();
    Place::with(&lines)
}

fn names(place: &Place, more: &[&str]) -> Vec<String> {
    let run = place.look("streams", &[&["--json"], more].concat());
    assert_eq!(run.code, 0, "{run:?}");
    run.json().iter().map(|line| line["stream"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn streams_are_listed_with_where_they_begin_and_end() {
    let place = place();
    let lines: Vec<Value> = place.look("streams", &["--json"]).json();
    let last = &place.events()[4]["commit_time"];
    assert_eq!(
        lines[2],
        json!({"stream": "b-1", "events": 2, "revision": 2, "first": 1, "last": 5,
            "last_commit_time": last})
    );
    let human = place.look("streams", &[]);
    assert_eq!((human.code, human.out.lines().count()), (0, 4), "{human:?}");
    let heading = "STREAM  EVENTS  REVISION  FIRST  LAST  LAST COMMIT\n";
    assert!(human.out.starts_with(heading), "{human:?}");
}

#[test]
fn streams_are_selected_and_sorted() {
    let place = place();
    assert_eq!(names(&place, &[]), ["a-1", "a-2", "b-1"]);
    assert_eq!(names(&place, &["--category", "a"]), ["a-1", "a-2"]);
    assert_eq!(names(&place, &["--prefix", "b-"]), ["b-1"]);
    assert_eq!(names(&place, &["--sort", "first"]), ["b-1", "a-2", "a-1"]);
    assert_eq!(names(&place, &["--sort", "last", "--reverse"]), ["b-1", "a-2", "a-1"]);
    assert_eq!(names(&place, &["--sort", "events", "--limit", "1"]), ["a-1"]);
    let none = place.look("streams", &["--prefix", "c"]);
    assert_eq!((none.code, none.out.as_str()), (0, "no streams\n"));
}
