//! `headwater parked`.

use headwater::{
    GroupChange, GroupCommit, GroupLog, GroupName, Key, NewGroup, Parked, ParkedCommit,
    ParkedState, Position, Slot, SlotRange, Timestamp,
};
use serde_json::json;

use crate::reading::shop;
use crate::support::Place;

/// A store whose group has parked a sequence and a single event.
fn shop_with_parked() -> Place {
    let place = shop();
    let store = place.open();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let name = GroupName::new("mailer").unwrap();
        store.open_group(NewGroup::consumer(name.clone())).await.unwrap();
        let generation = store.claim_slots(&name, vec![SlotRange::all()]).await.unwrap();
        let parked = |first, key: Option<&str>, through, cause: &str| ParkedCommit {
            generation,
            parked: Parked {
                first: Position::new(first),
                slot: Slot::FIRST,
                key: key.map(|key| Key::new(key).unwrap()),
                next: Position::new(first),
                through: Position::new(through),
                attempts: 20,
                since: Timestamp::EPOCH,
                cause: cause.to_owned(),
                state: ParkedState::Waiting,
            },
        };
        let parked = vec![
            parked(2, Some("order-1"), 5, "550 no such mailbox"),
            parked(3, None, 3, "not\u{1b}[31m for us"),
        ];
        let commit = GroupCommit { slots: Vec::new(), parked };
        store.change_group(&name, GroupChange::Commit(commit)).await.unwrap();
        store.change_group(&name, GroupChange::Pause(true)).await.unwrap();
    });
    store.close().unwrap();
    place
}

#[test]
fn parked_sequences_are_listed_delivered_again_and_given_up() {
    let place = shop_with_parked();
    let before = place.files();
    let listed = place.look("parked", &[]);
    assert_eq!(listed.code, 0, "{listed:?}");
    for part in ["mailer", "order-1", "550 no such mailbox", "waits", "20"] {
        assert!(listed.out.contains(part), "{part}: {listed:?}");
    }
    assert!(!listed.out.contains('\u{1b}'), "{listed:?}");
    let groups = place.look("groups", &[]).out;
    assert!(groups.contains("parked      2 sequences; `headwater parked` lists what"), "{groups}");
    assert!(groups.contains("paused      it delivers nothing until it is resumed"), "{groups}");
    assert_eq!(place.files(), before, "looking changes nothing");

    let redriven = place.look("parked", &["mailer", "--redrive", "2", "--json"]);
    assert_eq!(redriven.code, 0, "{redriven:?}");
    let states: Vec<_> = redriven.json().iter().map(|line| line["state"].clone()).collect();
    assert_eq!(states, [json!("redriving"), json!("waiting")]);
    let discarded = place.look("parked", &["mailer", "--discard", "3", "--json"]).json();
    assert_eq!(discarded.len(), 1);
    assert_eq!((&discarded[0]["group"], &discarded[0]["first"]), (&json!("mailer"), &json!(2)));
    let again = place.look("parked", &["mailer", "--discard", "3"]);
    assert_eq!(again.code, 2, "{again:?}");
    assert!(again.err.contains("has parked no sequence that begins at position 3"), "{again:?}");
    place.look("parked", &["mailer", "--discard", "2"]);
    assert_eq!(place.look("parked", &["mailer"]).out, "nothing is parked\n");
}

#[test]
fn what_is_parked_is_asked_of_groups_that_exist() {
    let place = shop_with_parked();
    let unknown = place.look("parked", &["mailman"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.err.contains("there is no group mailman"), "{unknown:?}");
    assert_eq!(place.look("parked", &["--redrive", "2"]).code, 2, "whose?");
    let all = place.look("parked", &["mailer", "--redrive-all", "--json"]).json();
    assert!(all.iter().all(|line| line["state"] == "redriving"), "{all:?}");
}
