//! `headwater retention`.

use headwater::{Append, EventType, GroupName, NewEvent, Position, StreamId};
use serde_json::json;

use crate::support::Place;

/// Twelve events in three segments, and a group that has read the first seven.
fn trimmed() -> Place {
    let place = Place::with("");
    let store = place.open();
    for n in 1..=12 {
        let stream = StreamId::new(format!("s-{n}")).unwrap();
        let event_type = EventType::new("t").unwrap();
        let new = NewEvent::json(stream, event_type, &"x".repeat(14_000)).unwrap();
        store.append_blocking(Append::new([new])).unwrap();
    }
    let name = GroupName::new("slow").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.pin(name, Position::new(7))).unwrap();
    store.close().unwrap();
    place
}

#[test]
fn retention_is_shown_first_and_goes_no_further_than_the_slowest_group() {
    let place = trimmed();
    let before = place.files();
    let shown = place.look("retention", &["--through", "100"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert_eq!(
        shown.out,
        "would remove positions 1 through 4: 1 segment, 64 KiB\n\
         held by group slow, which has read up to 7\n\
         nothing was removed; repeat with --apply to do so\n"
    );
    assert_eq!(place.files(), before, "a dry run changes nothing");
    assert_eq!(place.look("retention", &[]).out, "nothing was ever removed\n");

    let applied = place.look("retention", &["--through", "100", "--apply", "--json"]);
    assert_eq!(applied.code, 0, "{applied:?}");
    let applied = applied.json();
    assert_eq!(applied[0]["applied"], true);
    assert_eq!(applied[0]["removed"]["through"], 4);
    assert_eq!(applied[0]["held_by"], json!([{"group": "slow", "floor": 7}]));

    let positions: Vec<u64> =
        place.events().iter().map(|event| event["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (5..=12).collect::<Vec<_>>());
    let below = place.look("read", &["--after", "2"]);
    assert_eq!(below.code, 2, "{below:?}");
    assert!(below.err.contains("the log starts after position 4"), "{below:?}");
    assert_eq!(place.look("tail", &["-n", "100", "--json"]).json().len(), 8);
    assert_eq!(place.look("verify", &[]).code, 0);

    let forced = place.look("retention", &["--through", "100", "--force", "--apply"]);
    assert!(forced.out.contains("passing group slow, which has read up to 7"), "{forced:?}");
    let ledger = place.look("retention", &["--json"]).json();
    assert_eq!(ledger.len(), 2);
    assert_eq!(ledger[1]["passed"], json!([["slow", 7]]));
    assert!(place.look("retention", &[]).out.starts_with("the log starts after position 8\n"));
}

#[test]
fn a_cutoff_that_is_none_is_refused() {
    let place = trimmed();
    for args in [
        &["--older-than", "yesterday"][..],
        &["--older-than", "-3d"],
        &["--through", "x"],
        &["--keep-bytes", "1", "--through", "2"],
        &["--apply"],
        &["--force"],
    ] {
        let run = place.look("retention", args);
        assert_eq!(run.code, 2, "{args:?}: {run:?}");
    }
    let young = place.look("retention", &["--older-than", "30d"]);
    assert_eq!((young.code, young.out.as_str()), (0, "nothing to remove\n"));
}
