//! `kill -9` while appending: what was acknowledged is there, and sending again completes it.

use std::io::Write;
use std::thread;

use crate::support::{Live, Place, ack, events, id};

/// How many events are sent; more than are appended before the kill.
const EVENTS: u64 = 20_000;

fn kill_after(acks_read: usize, durability: &str) {
    let place = Place::new();
    let args = [
        "append",
        place.text(),
        "--create",
        "--segment-bytes",
        "256KiB",
        "--durability",
        durability,
    ];
    let mut live = Live::start(&args);
    let mut stdin = live.child.stdin.take().unwrap();
    // The input ends when the program does.
    let feeder = thread::spawn(move || drop(stdin.write_all(events(1, EVENTS).as_bytes())));
    let mut acks: Vec<String> = (0..acks_read).map(|_| live.line()).collect();
    acks.extend(live.kill());
    feeder.join().unwrap();
    let acked: Vec<(String, u64)> = acks.iter().map(|line| ack(line)).collect();

    let found = place.events();
    assert!(found.len() >= acked.len(), "{} of {} are left", found.len(), acked.len());
    for (at, (id, position)) in acked.iter().enumerate() {
        assert_eq!(*position, at as u64 + 1, "after {acks_read} acks");
        assert_eq!(
            (found[at]["id"].as_str(), found[at]["position"].as_u64()),
            (Some(id.as_str()), Some(*position))
        );
    }
    assert_eq!(place.look("verify", &[]).code, 0);

    // Sending everything again gives every event once, in the first places.
    let again = place.append(&events(1, EVENTS));
    assert_eq!(again.code, 0, "{}", again.err);
    assert_eq!(again.acks()[..acked.len()], acked);
    let found = place.events();
    assert_eq!(found.len() as u64, EVENTS);
    assert!(found.iter().zip(1..).all(|(event, number)| event["id"] == id(number)));
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    for acks_read in [1, 700, 5000] {
        kill_after(acks_read, "sync");
    }
}

#[test]
fn a_kill_while_the_store_is_created_leaves_nothing_in_the_way() {
    for _ in 0..20 {
        let place = Place::new();
        drop(Live::start(&["append", place.text(), "--create", "--segment-bytes", "64KiB"]).kill());
        let again = place.create(&events(1, 9));
        assert_eq!((again.code, again.acks().len()), (0, 9), "{again:?}");
        assert_eq!(place.look("verify", &[]).code, 0);
    }
}

#[test]
fn without_sync_it_survives_a_kill_as_well() {
    kill_after(3000, "os");
    kill_after(3000, "interval");
}
