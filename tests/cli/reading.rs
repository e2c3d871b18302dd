//! `read`, `tail`, `groups`, `stat` and `verify` on a store that is well.

use std::fs;
use std::path::PathBuf;

use headwater::{
    GroupLog, GroupName, NewGroup, Position, Query, Slot, SlotCommit, SlotProgress, SlotRange,
    Start,
};
use serde_json::{Value, json};

use crate::support::{Place, Run, assert_clean, events, id, run_unread};

/// Six events: order-1 (3), order-2 (2), cart-1 (1).
pub(crate) fn shop() -> Place {
    let event = |stream: &str, kind: &str, tags: &[&str]| {
        json!({"stream": stream, "type": kind, "data": {"of": stream}, "tags": tags}).to_string()
    };
    let lines = [
        event("order-1", "placed", &["ann", "vip"]),
        event("order-2", "placed", &["bob"]),
        event("cart-1", "opened", &["ann"]),
        event("order-1", "paid", &["ann", "vip"]),
        event("order-2", "cancelled", &["bob", "vip"]),
        event("order-1", "shipped", &["ann"]),
    ];
    Place::with(&lines.join("\n"))
}

fn positions(run: &Run) -> Vec<u64> {
    assert_eq!(run.code, 0, "{run:?}");
    run.json().iter().map(|event| event["position"].as_u64().unwrap()).collect()
}

#[test]
fn read_selects_as_asked() {
    let place = shop();
    for (args, expected) in [
        (&[][..], &[1, 2, 3, 4, 5, 6][..]),
        (&["--stream", "order-1"], &[1, 4, 6]),
        (&["--stream", "order-9"], &[]),
        (&["--category", "order"], &[1, 2, 4, 5, 6]),
        (&["--type", "placed", "--type", "paid"], &[1, 2, 4]),
        (&["--tag", "ann", "--tag", "vip"], &[1, 4]),
        (&["--category", "order", "--tag", "vip", "--after", "1"], &[4, 5]),
        (&["--after", "2", "--before", "5"], &[3, 4]),
        (&["--after", "6"], &[]),
        (&["--limit", "2"], &[1, 2]),
        (&["--after", "1", "--limit", "2"], &[2, 3]),
        (&["--backward"], &[6, 5, 4, 3, 2, 1]),
        (&["--backward", "--limit", "2"], &[6, 5]),
        (&["--backward", "--before", "5", "--after", "2"], &[4, 3]),
        (&["--backward", "--before", "1"], &[]),
        (&["--backward", "--stream", "order-2", "--limit", "1"], &[5]),
    ] {
        let read = place.look("read", &[args, &["--json"]].concat());
        assert_eq!(positions(&read), expected, "{args:?}");
    }
}

#[test]
fn read_goes_through_many_pages_in_both_directions() {
    let place = Place::new();
    let run = place.create(&events(1, 2500));
    assert_eq!(run.code, 0, "{run:?}");
    let all: Vec<u64> = (1..=2500).collect();
    assert_eq!(positions(&place.look("read", &["--json"])), all);
    let back = place.look("read", &["--json", "--backward"]);
    assert_eq!(positions(&back), all.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!(positions(&place.look("read", &["--json", "--limit", "1001"])).len(), 1001);
    let tail = place.look("tail", &["--json", "-n", "1200"]);
    assert_eq!(positions(&tail), all[1300..]);
}

#[test]
fn reading_beyond_the_head_is_refused_with_the_head() {
    let place = shop();
    for args in [&["--after", "7"][..], &["--after", "7", "--backward"]] {
        place.look("read", args).fails(2, &["position 7", "head of the log, which is 6"]);
    }
    place.look("read", &["--backward", "--before", "9"]).fails(2, &["position 9"]);
}

#[test]
fn an_event_in_json_has_every_field() {
    let place = shop();
    let event = &place.look("read", &["--json", "--limit", "1"]).json()[0];
    let names: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "position",
        "stream",
        "revision",
        "id",
        "type",
        "schema_version",
        "commit_time",
        "event_time",
        "correlation_id",
        "causation_id",
        "tags",
        "key",
        "slot",
        "headers",
        "codec",
        "data",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(event["data"], json!({"of": "order-1"}));
    assert_eq!(event["slot"], 118);
}

#[test]
fn people_see_straight_columns() {
    let place = shop();
    let read = place.look("read", &[]);
    let lines: Vec<&str> = read.out.lines().collect();
    assert!(lines[0].starts_with("1  2"), "{}", lines[0]);
    assert!(lines[0].ends_with("Z  order-1@1  placed     {\"of\":\"order-1\"}  #ann  #vip"));
    assert!(lines[2].ends_with("Z  cart-1@1   opened     {\"of\":\"cart-1\"}  #ann"));
    let raw = json!({"stream": "b-1", "type": "t", "data_base64": "AP8Q"}).to_string();
    let place = Place::with(&raw);
    assert!(place.look("read", &[]).out.ends_with("b-1@1  t  <raw 3 B> 00 ff 10\n"));
    let long = json!({"stream": "b-1", "type": "t", "data": "\u{202e}x".repeat(4000)}).to_string();
    let place = Place::with(&long);
    let read = place.look("read", &[]).out;
    assert!(read.contains("\\u{202e}x") && read.ends_with("… (15.6 KiB)\n"), "{read}");
}

#[test]
fn tail_ends_with_the_newest() {
    let place = shop();
    assert_eq!(positions(&place.look("tail", &["--json"])), [1, 2, 3, 4, 5, 6]);
    assert_eq!(positions(&place.look("tail", &["--json", "-n", "2"])), [5, 6]);
    assert_eq!(positions(&place.look("tail", &["--json", "-n", "0"])), [0; 0]);
    let tail = place.look("tail", &["--json", "-n", "2", "--category", "order", "--tag", "ann"]);
    assert_eq!(positions(&tail), [4, 6]);
}

/// A store of six events, with a group that has settled some of them.
fn shop_with_group() -> Place {
    let place = shop();
    let store = place.open();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let name = GroupName::new("mailer").unwrap();
        let selection = Query::types([headwater::EventType::new("placed").unwrap()]);
        store
            .open_group(
                NewGroup::consumer(name.clone())
                    .select(selection)
                    .start(Start::After(Position::new(1))),
            )
            .await
            .unwrap();
        let generation = store.claim_slots(&name, vec![SlotRange::all()]).await.unwrap();
        let slot = |number| Slot::new(number).unwrap();
        let progress = SlotProgress {
            floor: Position::new(2),
            settled: vec![(Position::new(4), Position::new(5))],
            generation,
            ..SlotProgress::default()
        };
        let slots = SlotRange::new(slot(0), slot(511)).unwrap();
        store.commit_slots(&name, vec![SlotCommit { slots, progress }]).await.unwrap();
        let all = GroupName::new("archive").unwrap();
        store.open_group(NewGroup::consumer(all).start(Start::End)).await.unwrap();
    });
    store.close().unwrap();
    place
}

#[test]
fn many_runs_of_slots_are_counted_and_listed_when_asked_for() {
    let place = shop();
    let store = place.open();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let name = GroupName::new("mailer").unwrap();
        store.open_group(NewGroup::consumer(name.clone())).await.unwrap();
        let generation = store.claim_slots(&name, vec![SlotRange::all()]).await.unwrap();
        let commits = (0..10).map(|n| {
            let slots = SlotRange::one(Slot::new(2 * n).unwrap());
            let floor = Position::new(3);
            SlotCommit {
                slots,
                progress: SlotProgress {
                    floor,
                    settled: vec![],
                    generation,
                    ..SlotProgress::default()
                },
            }
        });
        store.commit_slots(&name, commits.collect()).await.unwrap();
    });
    store.close().unwrap();
    let groups = place.look("groups", &[]).out;
    assert!(groups.contains("20 runs with floors up to 3; --slots lists them"), "{groups}");
    assert_eq!(place.look("groups", &["--slots"]).out.lines().count(), 5 + 1 + 20);
}

#[test]
fn groups_show_floor_lag_and_slots() {
    let place = shop_with_group();
    let mailer = &place.look("groups", &["--json"]).json()[1];
    // How many frames the events lie in depends on how many of them were waiting.
    let bytes = mailer["lag_bytes"].as_u64().unwrap();
    assert!(bytes > 5 * 40, "{bytes}");
    let expected = format!(
        "\
archive
  floor       6
  lag         0 events, 0 B
  generation  4
  selection   everything
  SLOTS   FLOOR  GENERATION  SETTLED ABOVE
  0-1023      6           4  -
mailer
  floor       1
  lag         5 events, {bytes} B
  generation  2
  selection   type placed
  SLOTS     FLOOR  GENERATION  SETTLED ABOVE
  0-511         2           2  4-5
  512-1023      1           2  -
"
    );
    let groups = place.look("groups", &[]);
    assert_eq!((groups.code, groups.out.as_str()), (0, expected.as_str()));
    assert_eq!(
        mailer,
        &json!({
            "name": "mailer", "floor": 1, "kind": "consumer", "order": "key", "parked": 0, "paused": false, "lag": 5, "lag_bytes": bytes, "generation": 2, "start": 1,
            "selection": [{"types": ["placed"]}],
            "runs": [
                {"first_slot": 0, "last_slot": 511, "floor": 2, "settled": [[4, 5]],
                 "generation": 2},
                {"first_slot": 512, "last_slot": 1023, "floor": 1, "settled": [],
                 "generation": 2},
            ],
        })
    );
    assert_eq!(shop().look("groups", &[]).out, "no consumer groups\n");
}

#[test]
fn stat_shows_what_a_store_is() {
    let place = shop_with_group();
    let stat = &place.look("stat", &["--json"]).json()[0];
    assert_eq!((&stat["head"], &stat["clean"]), (&json!(6), &json!(true)));
    assert_eq!(stat["damage"], Value::Null);
    assert_eq!(stat["segments"][0]["events"], 6);
    assert_eq!(stat["segments"][0]["capacity_bytes"], 65_536);
    assert_eq!(stat["groups"][1], json!({"name": "mailer", "floor": 1, "lag": 5}));
    let human = place.look("stat", &[]);
    assert_eq!(human.code, 0);
    let id = stat["id"].as_str().unwrap();
    let file = stat["segments"][0]["file"].as_str().unwrap();
    for words in [
        &format!("store     {id}\n"),
        "created   20",
        "head      6\n",
        "closed    yes\n",
        "of 64 KiB used\n",
        file,
        "  mailer       1  5 events\n",
        "damage    none found\n",
    ] {
        assert!(human.out.contains(words), "{words:?} is not in {}", human.out);
    }
}

#[test]
fn damage_in_the_progress_of_groups_is_theirs_alone() {
    let place = shop_with_group();
    let is_log = |path: &PathBuf| path.parent().is_some_and(|dir| dir.ends_with("offsets"));
    let mut logs: Vec<_> = place.files().into_iter().filter(|(path, _)| is_log(path)).collect();
    let (log, mut bytes) = logs.remove(0);
    // In the first frame, behind the header of the segment and its own.
    bytes[4096 + 70] ^= 1;
    fs::write(&log, bytes).unwrap();

    assert_eq!(positions(&place.look("read", &["--json"])), [1, 2, 3, 4, 5, 6]);
    assert_eq!(positions(&place.look("tail", &["--json"])), [1, 2, 3, 4, 5, 6]);
    let file = log.to_str().unwrap();
    for more in [&[][..], &["--json"]] {
        let groups = place.look("groups", more);
        groups.fails(4, &[file]);
        assert!(!groups.out.contains("no consumer groups"), "{groups:?}");
        place.look("stat", more).fails(4, &[file]);
    }
    let stat = &place.look("stat", &["--json"]).json()[0];
    assert_eq!((&stat["damage"], &stat["groups_damage"]["file"]), (&Value::Null, &json!(file)));
    let verify = place.look("verify", &["--json"]);
    let report = &verify.json()[0];
    assert_eq!((verify.code, &report["ok"], &report["events"]), (4, &json!(false), &json!(6)));
    assert_eq!((&report["damage"][0]["file"], &report["damage"][1]), (&json!(file), &Value::Null));
    for command in ["stat", "verify"] {
        let human = place.look(command, &[]);
        assert_eq!(human.code, 4, "{human:?}");
        for words in ["damage    in the progress of the groups: ", file, "not concerned"] {
            assert!(human.out.contains(words), "{words:?} is not in {}", human.out);
        }
        assert!(!human.out.contains("none found") && !human.out.contains("\nok"), "{}", human.out);
    }
}

#[test]
fn verify_counts_what_it_checked_and_says_ok() {
    let place = shop_with_group();
    let verify = place.look("verify", &[]);
    assert_eq!((verify.code, verify.err.as_str()), (0, ""));
    let counts = "checked   6 events, 3 streams, 1 segment, 2 groups, ";
    assert!(verify.out.starts_with(counts) && verify.out.ends_with("\nok\n"), "{}", verify.out);
    let report = &place.look("verify", &["--json"]).json()[0];
    assert_eq!((&report["ok"], &report["events"]), (&json!(true), &json!(6)));
}

#[test]
fn verify_follows_streams_across_segments() {
    let place = Place::with(&events(1, 2000));
    let report = &place.look("verify", &["--json"]).json()[0];
    assert!(report["segments"].as_u64().unwrap() > 1, "{report}");
    assert_eq!((&report["ok"], &report["events"]), (&json!(true), &json!(2000)));
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let place = Place::with(&events(1, 2000));
    for command in ["stat", "tail", "read", "groups", "verify"] {
        for more in [&[][..], &["--json"]] {
            let (code, err) = run_unread(&[&[command, place.text()], more].concat(), "");
            assert_eq!((code, err.as_str()), (0, ""), "{command}");
        }
    }
    let (_, err) = run_unread(&["read", "--help"], "");
    assert_clean(&err);
    assert_eq!(place.events()[0]["id"], id(1));
}
