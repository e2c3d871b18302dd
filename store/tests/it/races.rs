//! Many writers at once: one wins where one may win, and everyone's order is kept.

use std::sync::Barrier;
use std::thread;

use headwater_core::{
    Append, AppendError, AppendId, Appended, Condition, Durability, EventLog, ExpectedRevision,
    Position, Query, Revision, Visibility,
};
use headwater_store::{Options, Store};
use pollster::block_on;

use crate::common::*;

const RACERS: usize = 8;

/// Lets all racers append at once and returns what each got.
fn race(
    store: &Store,
    append: impl Fn(usize) -> Append + Sync,
) -> Vec<Result<Appended, AppendError>> {
    let start = Barrier::new(RACERS);
    thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|n| {
                let (start, append) = (&start, &append);
                scope.spawn(move || {
                    let append = append(n);
                    start.wait();
                    store.append_blocking(append)
                })
            })
            .collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    })
}

fn assert_one_winner(results: &[Result<Appended, AppendError>], round: u64) {
    let won: Vec<Position> = results.iter().flatten().map(|done| done.first).collect();
    assert_eq!(won, [Position::new(round)], "round {round}: {results:?}");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(error.as_conflict().is_some(), "{error}");
    }
}

#[test]
fn of_racers_on_one_revision_exactly_one_wins_each_time() {
    for durability in [Durability::Sync, Durability::Os] {
        let dir = temp();
        let store = open(&dir, Options { durability, ..small() });
        for round in 1..=40 {
            let expected = match round {
                1 => ExpectedRevision::NoStream,
                _ => ExpectedRevision::Exact(Revision::new(round - 1)),
            };
            let results =
                race(&store, |n| one("a-1", &n.to_string()).expecting(stream("a-1"), expected));
            assert_one_winner(&results, round);
        }
    }
}

#[test]
fn of_racers_on_one_query_exactly_one_wins_each_time() {
    for durability in [Durability::Sync, Durability::Os] {
        let dir = temp();
        let store = open(&dir, Options { durability, ..small() });
        let query = Query::tags([tag("course:1")]);
        for round in 1..=40 {
            // Each racer writes to a stream of its own: only the tag makes them meet.
            let results = race(&store, |n| {
                let mut event = event(&format!("student-{n}"), "joined", "x");
                event.tags = vec![tag("course:1")];
                let after = Position::new(round - 1);
                Append::new([event]).under(Condition::no_events(query.clone(), after))
            });
            assert_one_winner(&results, round);
        }
    }
}

#[test]
fn writers_at_once_keep_their_order_and_their_batches() {
    const WRITERS: u64 = 6;
    const BATCHES: u64 = 60;
    for durability in [Durability::Sync, Durability::INTERVAL, Durability::Os] {
        let dir = temp();
        let store = open(&dir, Options { durability, segment_bytes: 128 * 1024, ..small() });
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let store = &store;
                scope.spawn(move || {
                    let mut last = Position::START;
                    for batch in 0..BATCHES {
                        let events = (0..3)
                            .map(|n| event(&format!("w-{writer}"), "t", &format!("{batch} {n}")));
                        let done = store.append_blocking(Append::new(events)).unwrap();
                        assert!(done.first > last && done.last.get() == done.first.get() + 2);
                        last = done.last;
                    }
                });
            }
        });
        let all = read_all(|r| store.read_blocking(r).unwrap(), &Query::all(), 1000);
        assert_eq!(all.len() as u64, WRITERS * BATCHES * 3);
        for writer in 0..WRITERS {
            let query = Query::stream(stream(&format!("w-{writer}")));
            let events = read_all(|r| store.read_blocking(r).unwrap(), &query, 7);
            let expected: Vec<String> =
                (0..BATCHES).flat_map(|b| (0..3).map(move |n| format!("{b} {n}"))).collect();
            assert_eq!(payloads(&events), expected);
            for batch in events.chunks(3) {
                let first = batch[0].position.get();
                assert_eq!(batch[2].position.get(), first + 2, "a batch is not adjacent");
            }
        }
        let times: Vec<_> = all.iter().map(|event| event.commit_time).collect();
        assert!(times.is_sorted(), "commit times never go back");
    }
}

#[test]
fn readers_see_a_dense_growing_prefix_while_writers_write() {
    let dir = temp();
    let store = open(&dir, Options { durability: Durability::Os, ..small() });
    thread::scope(|scope| {
        let writer = store.clone();
        scope.spawn(move || {
            for n in 0..2_000 {
                writer.append_blocking(one(&format!("a-{}", n % 5), &"x".repeat(200))).unwrap();
            }
        });
        for _ in 0..2 {
            let reader = store.clone();
            scope.spawn(move || {
                let mut subscription =
                    headwater_core::EventLog::subscribe(&reader, Query::all(), Position::START);
                for expected in 1..=2_000 {
                    let event = pollster::block_on(subscription.next()).unwrap();
                    assert_eq!(event.position, Position::new(expected));
                }
            });
        }
    });
}

#[test]
fn whoever_sees_an_event_finds_its_append() {
    let dir = temp();
    let store = open(&dir, Options { durability: Durability::Os, ..small() });
    let id = |n: u64| AppendId::from_name(&n.to_le_bytes());
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=5_000 {
                store.append_blocking(one("a-1", "x").with_id(id(n))).unwrap();
            }
        });
        scope.spawn(|| {
            let mut seen = 0;
            while seen < 5_000 {
                seen = block_on(store.head(Visibility::Committed)).unwrap().get();
                if seen > 0 {
                    let found = block_on(store.find_append(id(seen))).unwrap();
                    assert!(found.is_some(), "append {seen} is visible and not known");
                }
            }
        });
    });
}
