//! Following a store that somebody else writes.

use std::thread;

use headwater_core::{AppendError, EventLog, Position, Query, Read, ReadError, Visibility};
use headwater_store::{Cutoff, Follower, Options, Passing};
use pollster::block_on;

use crate::common::*;

#[test]
fn a_follower_sees_everything_live_and_in_order_over_many_segments() {
    let dir = temp();
    let store = open(&dir, small());
    store.append_blocking(one("a-1", "0")).unwrap();
    let follower = Follower::open(store.path()).unwrap();
    assert_eq!(follower.id(), store.id());
    let writer = thread::spawn({
        let store = store.clone();
        move || {
            for n in 1..300 {
                let payload = format!("{n} {}", "x".repeat(n * 7 % 3000));
                store.append_blocking(one(&format!("a-{}", n % 7), &payload)).unwrap();
            }
        }
    });
    let mut live = follower.subscribe(Query::all(), Position::START);
    for n in 0..300_u64 {
        let event = block_on(live.next()).unwrap();
        assert_eq!(event.position.get(), n + 1);
        let payload = String::from_utf8(event.payload.to_vec()).unwrap();
        assert_eq!(payload.split(' ').next(), Some(n.to_string().as_str()));
    }
    writer.join().unwrap();
    assert!(store.ledger().unwrap().is_empty());
    let everything = |log: &dyn EventLog| {
        block_on(log.read(Read::forward(Query::all(), Position::START).limit(1000))).unwrap()
    };
    assert_eq!(everything(&follower), everything(&store));
    for n in 0..7 {
        let name = stream(&format!("a-{n}"));
        let revision = block_on(follower.stream_revision(&name)).unwrap();
        assert_eq!(revision, block_on(store.stream_revision(&name)).unwrap());
    }
    let refused = block_on(follower.append(one("a-1", "x"))).unwrap_err();
    assert!(matches!(refused, AppendError::ReadOnly));
}

#[test]
fn a_follower_of_an_empty_store_sees_its_first_event() {
    let dir = temp();
    let store = open(&dir, small());
    let follower = Follower::open(store.path()).unwrap();
    let waiting = thread::spawn({
        let follower = follower.clone();
        move || block_on(follower.wait_for(Position::FIRST, Visibility::Committed))
    });
    store.append_blocking(one("a-1", "first")).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), Position::FIRST);
    // The writer comes and goes, and the follower stays.
    store.close().unwrap();
    let again = open(&dir, small());
    again.append_blocking(one("a-1", "second")).unwrap();
    let second = Position::new(2);
    assert!(block_on(follower.wait_for(second, Visibility::Committed)).unwrap() >= second);
    drop(follower);
}

#[test]
fn retention_moves_the_start_of_a_follower_too() {
    let dir = temp();
    let store = open(&dir, Options { segment_bytes: 64 * 1024, ..small() });
    for _ in 0..12 {
        store.append_blocking(one("a-1", &"x".repeat(14_000))).unwrap();
    }
    let follower = Follower::open(store.path()).unwrap();
    store.remove(Cutoff::Through(Position::new(4)), Passing::Refuse).unwrap();
    let head = store.append_blocking(one("a-1", "x")).unwrap().last;
    block_on(follower.wait_for(head, Visibility::Committed)).unwrap();
    assert_eq!(block_on(follower.start()).unwrap(), Position::new(4));
    let below = Read::forward(Query::all(), Position::new(2));
    let error = block_on(follower.read(below)).unwrap_err();
    assert!(matches!(error, ReadError::BelowStart { .. }), "{error}");
}
