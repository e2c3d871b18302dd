//! The stories: a few threads each, and what must hold whatever the scheduler does.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use headwater_core::{
    Append, AppendError, AppendId, Appended, Durability, EventLog, ExpectedRevision, GroupError,
    GroupLog, GroupName, NewGroup, Position, Query, Read, ReadError, Revision, Start, Visibility,
};
use shuttle::thread::{self, JoinHandle};

use crate::handle::Store;
use crate::options::Options;
use crate::retention::Retention;
use crate::sync::block_on;
use crate::world::{World, all_after, assert_dense, large, one, small, stream};

/// A story with its name, and in how many schedules it is told by default.
type Told = (&'static str, usize, fn());

pub(crate) const ALL: &[Told] = &[
    ("readers_see_a_dense_prefix_that_grows", 1000, readers_see_a_dense_prefix_that_grows),
    ("a_reader_meets_a_new_segment", 1000, a_reader_meets_a_new_segment),
    (
        "a_reader_goes_on_while_segments_open_and_close",
        300,
        a_reader_goes_on_while_segments_open_and_close,
    ),
    (
        "an_index_moves_into_its_file_under_its_readers",
        40,
        an_index_moves_into_its_file_under_its_readers,
    ),
    ("history_becomes_live_without_a_gap", 1000, history_becomes_live_without_a_gap),
    ("of_racers_exactly_one_wins", 1000, of_racers_exactly_one_wins),
    (
        "appends_keep_the_order_of_their_first_poll",
        1000,
        appends_keep_the_order_of_their_first_poll,
    ),
    ("who_stops_waiting_disturbs_nobody", 1000, who_stops_waiting_disturbs_nobody),
    (
        "closing_answers_everybody_and_loses_nothing",
        1000,
        closing_answers_everybody_and_loses_nothing,
    ),
    ("retention_and_groups_end_with_the_store", 300, retention_and_groups_end_with_the_store),
    (
        "what_is_full_goes_before_the_store_is_closed",
        300,
        what_is_full_goes_before_the_store_is_closed,
    ),
    ("closing_waits_for_no_backup", 300, closing_waits_for_no_backup),
];

/// Lets a thread do something with a store. (Not `thread::scope`: shuttle's wakes its caller out of
/// whatever else that waits for.)
fn beside<T: Send + 'static>(
    store: &Store,
    act: impl FnOnce(&Store) -> T + Send + 'static,
) -> JoinHandle<T> {
    let store = store.clone();
    thread::spawn(move || act(&store))
}

/// Appends through the queue.
fn append(store: &Store, append: Append) -> Result<Appended, AppendError> {
    block_on(EventLog::append(store, append))
}

fn head(store: &Store, visibility: Visibility) -> Position {
    block_on(store.head(visibility)).unwrap()
}

/// Polls a future once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Two writers, one of which needs no thread, and a reader.
///
/// Catches: the watermark before the index or before the segment's own mark; the durable mark
/// before the committed one; a head that goes back; an answer before the event is there.
fn readers_see_a_dense_prefix_that_grows() {
    let store = World::new().open(Options { durability: Durability::Os, ..small() });
    let inline = beside(&store, |store| {
        for n in 0..2 {
            let done = store.append_blocking(one("a-1", &n.to_string())).unwrap();
            assert!(done.last <= head(store, Visibility::Committed));
        }
    });
    let queued = beside(&store, |store| {
        for n in 0..2 {
            let done = append(store, one("b-1", &n.to_string()).synced()).unwrap();
            assert!(done.last <= head(store, Visibility::Durable));
        }
    });
    let mut seen = Position::START;
    for _ in 0..3 {
        let durable = head(&store, Visibility::Durable);
        let committed = head(&store, Visibility::Committed);
        assert!(durable <= committed && seen <= committed, "{durable} {seen} {committed}");
        let events = all_after(&store, Position::START);
        assert_dense(Position::START, &events);
        assert!(events.len() as u64 >= committed.get(), "{} of {committed}", events.len());
        let of_a = events.iter().filter(|event| event.stream.as_str() == "a-1").count();
        let revision = block_on(store.stream_revision(&stream("a-1"))).unwrap();
        assert!(revision >= Revision::new(of_a as u64));
        let query = Query::stream(stream("a-1"));
        let page = store.read_blocking(&Read::forward(query, Position::START)).unwrap();
        assert!(page.events.len() >= of_a && page.scanned >= committed);
        seen = Position::new(events.len() as u64);
    }
    inline.join().unwrap();
    queued.join().unwrap();
    store.close().unwrap();
}

/// A writer that goes over to another segment, and a reader.
///
/// Catches: a reader that takes the list of segments before the watermark; a watermark that covers
/// what the list does not have.
fn a_reader_meets_a_new_segment() {
    let store = World::new().open(Options { durability: Durability::Os, ..small() });
    for n in 0..4 {
        store.append_blocking(large("a-1", &n.to_string())).unwrap();
    }
    let writer = beside(&store, |store| {
        store.append_blocking(large("a-1", "4")).unwrap();
    });
    let events = all_after(&store, Position::START);
    assert_dense(Position::START, &events);
    let committed = head(&store, Visibility::Committed).get();
    assert!((4..=committed).contains(&(events.len() as u64)), "{} events", events.len());
    writer.join().unwrap();
    store.close().unwrap();
}

/// A writer that fills two segments, and readers for whom one sealed segment is open at most.
///
/// Catches: a segment that is closed or opened under its reader, or that does not know its
/// successor; the index of a sealed segment adopted before it covers everything.
fn a_reader_goes_on_while_segments_open_and_close() {
    let options = Options { durability: Durability::Os, open_segments: 1, ..small() };
    let store = World::new().open(options);
    let writer = beside(&store, |store| {
        for n in 0..9 {
            store.append_blocking(large("a-1", &n.to_string())).unwrap();
        }
    });
    let scanner = beside(&store, |store| {
        for _ in 0..2 {
            let mut scan = store.scan(Position::START).unwrap();
            let mut next = Position::FIRST;
            while let Some(event) = scan.next() {
                assert_eq!(event.unwrap().position(), next);
                next = next.next();
            }
        }
    });
    for _ in 0..2 {
        let events = all_after(&store, Position::START);
        assert_dense(Position::START, &events);
        let end = block_on(store.stream_revision(&stream("a-1"))).unwrap();
        assert!(end >= Revision::new(events.len() as u64));
        for (at, event) in events.iter().enumerate() {
            assert!(event.payload.starts_with(at.to_string().as_bytes()));
        }
    }
    writer.join().unwrap();
    scanner.join().unwrap();
    store.close().unwrap();
}

/// A large segment, of which the index is filed while it is written and read.
///
/// Catches: an index file adopted in place of what it does not cover; a layer that is dropped or
/// counted twice.
fn an_index_moves_into_its_file_under_its_readers() {
    let options = Options { durability: Durability::Os, segment_bytes: 4 * 1024 * 1024, ..small() };
    let store = World::new().open(options);
    let writer = beside(&store, |store| {
        let megabyte = ".".repeat(1024 * 1024 - 1024);
        for n in 0..3 {
            store.append_blocking(one("a-1", &megabyte)).unwrap();
            store.append_blocking(one("a-2", &n.to_string())).unwrap();
        }
    });
    let query = Query::stream(stream("a-2"));
    for _ in 0..3 {
        let committed = head(&store, Visibility::Committed);
        let page = store.read_blocking(&Read::forward(query.clone(), Position::START)).unwrap();
        assert!(page.events.len() as u64 >= committed.get() / 2, "of {committed}: {page:?}");
        for (at, event) in page.events.iter().enumerate() {
            assert_eq!(event.position.get(), 2 * (at as u64 + 1));
        }
        let back = store.read_blocking(&Read::backward(query.clone(), Position::MAX)).unwrap();
        assert!(back.events.len() >= page.events.len());
    }
    writer.join().unwrap();
    store.close().unwrap();
}

/// Subscribers that begin in history, one of them for durable events, and a writer.
///
/// Catches: a wake-up that is lost between looking and waiting; waiters told before the marks.
fn history_becomes_live_without_a_gap() {
    let store = World::new().open(Options { durability: Durability::Os, ..small() });
    store.append_blocking(one("a-1", "0")).unwrap();
    let subscribers = [Visibility::Committed, Visibility::Durable].map(|visibility| {
        beside(&store, move |store| {
            let mut events = store.subscribe(Query::all(), Position::START).visible(visibility);
            for n in 1..=4 {
                assert_eq!(block_on(events.next()).unwrap().position, Position::new(n));
            }
        })
    });
    let waiter = beside(&store, |store| {
        for n in 1..=4 {
            let at = Position::new(n);
            let reached = block_on(store.wait_for(at, Visibility::Committed)).unwrap();
            assert!(at <= reached && reached <= head(store, Visibility::Committed));
        }
    });
    for n in 1..3 {
        store.append_blocking(one("a-1", &n.to_string())).unwrap();
    }
    append(&store, one("a-1", "3").synced()).unwrap();
    for subscriber in subscribers {
        subscriber.join().unwrap();
    }
    waiter.join().unwrap();
    store.close().unwrap();
}

/// Racers on one revision, inline and through the queue, and twins with one append id.
///
/// Catches: a condition that is checked outside of the writer's lock, against an older state.
fn of_racers_exactly_one_wins() {
    let store = World::new().open(small());
    let first = || one("a-1", "0").expecting(stream("a-1"), ExpectedRevision::NoStream);
    let id = AppendId::generate();
    let racers = [
        beside(&store, move |store| store.append_blocking(first())),
        beside(&store, move |store| append(store, first())),
        beside(&store, move |store| append(store, first())),
    ];
    let twins = [
        beside(&store, move |store| store.append_blocking(one("b-1", "0").with_id(id))),
        beside(&store, move |store| append(store, one("b-1", "0").with_id(id))),
    ];
    let answers = racers.map(|racer| racer.join().unwrap());
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(error.as_conflict().is_some(), "{error}");
    }
    assert_eq!(answers.iter().flatten().count(), 1);
    let [one, other] = twins.map(|twin| twin.join().unwrap().unwrap());
    assert_eq!(one.first, other.first);
    let events = all_after(&store, Position::START);
    assert_dense(Position::START, &events);
    assert_eq!(events.len(), 2);
    store.close().unwrap();
}

/// A caller that polls an append and makes another while the first waits.
///
/// Catches: an inline append that overtakes what the writer's thread has in hand.
fn appends_keep_the_order_of_their_first_poll() {
    let store = World::new().open(small());
    let other = beside(&store, |store| append(store, one("b-1", "0")).unwrap());
    let mut waits = pin!(EventLog::append(&store, one("a-1", "0")));
    let polled = poll(waits.as_mut());
    let second = store.append_blocking(one("a-1", "1")).unwrap();
    let first = match polled {
        Poll::Ready(done) => done.unwrap(),
        Poll::Pending => block_on(waits).unwrap(),
    };
    assert!(first.last < second.first, "{first:?} {second:?}");
    other.join().unwrap();
    store.close().unwrap();
}

/// A caller that gives up its place while others wait behind it.
///
/// Catches: a place that is given up after the writer took it, and takes somebody else's; a wake-up
/// that was meant for others and goes with it.
fn who_stops_waiting_disturbs_nobody() {
    let store = World::new().open(small());
    let gives_up = beside(&store, |store| {
        let mut given_up = pin!(EventLog::append(store, one("a-1", "given up")));
        let _ = poll(given_up.as_mut());
    });
    let stays = beside(&store, |store| append(store, one("a-1", "stays")).unwrap());
    let here = append(&store, one("a-1", "here")).unwrap();
    let there = stays.join().unwrap();
    gives_up.join().unwrap();
    let events = all_after(&store, Position::START);
    assert_dense(Position::START, &events);
    for (done, payload) in [(here, "here"), (there, "stays")] {
        let event = &events[usize::try_from(done.first.get()).unwrap() - 1];
        assert_eq!(&event.payload[..], payload.as_bytes());
    }
    store.close().unwrap();
}

/// Everybody is busy when the store is closed, the power goes, and it is opened again.
///
/// Catches: an append that nobody answers, or that is acknowledged after the last sync; a waiter or a
/// subscriber that is not told; threads that wait for each other.
fn closing_answers_everybody_and_loses_nothing() {
    let world = World::new();
    let store = world.open(Options { durability: Durability::Os, ..small() });
    let appenders = [
        beside(&store, |store| store.append_blocking(one("a-1", "0"))),
        beside(&store, |store| append(store, one("b-1", "0").synced())),
    ];
    let waiter =
        beside(&store, |store| block_on(store.wait_for(Position::new(2), Visibility::Durable)));
    let subscriber = beside(&store, |store| {
        let mut events = store.subscribe(Query::all(), Position::START);
        for n in 1.. {
            match block_on(events.next()) {
                Ok(event) => assert_eq!(event.position, Position::new(n)),
                Err(error) => return assert!(matches!(error, ReadError::Closed), "{error}"),
            }
        }
    });
    store.close().unwrap();
    let end = head(&store, Visibility::Committed);
    let mut done = Vec::new();
    for answer in appenders.map(|appender| appender.join().unwrap()) {
        match answer {
            Ok(appended) => done.push(appended.last),
            Err(error) => assert!(matches!(error, AppendError::Closed), "{error}"),
        }
    }
    match waiter.join().unwrap() {
        Ok(position) => assert_eq!(position, Position::new(2)),
        Err(error) => assert!(matches!(error, ReadError::Closed), "{error}"),
    }
    subscriber.join().unwrap();
    let late = append(&store, one("a-1", "late")).unwrap_err();
    assert!(matches!(late, AppendError::Closed), "{late}");
    assert_eq!(head(&store, Visibility::Committed), end);
    drop(store);
    world.lose_power();
    let store = world.open(small());
    let events = all_after(&store, Position::START);
    done.sort_unstable();
    assert!(events.iter().map(|event| event.position).eq(done));
    assert_eq!(head(&store, Visibility::Durable), end);
}

/// Retention follows a group while segments fill, and the store is closed in the middle.
///
/// Catches: a retention thread that sleeps when the store closes; an operation of a group without
/// an answer; a removal that passes the group, or that a reader meets half done.
fn retention_and_groups_end_with_the_store() {
    let world = World::new();
    let retention = Retention { max_bytes: Some(64 * 1024), ..Retention::default() };
    let store = world.open(Options { durability: Durability::Os, retention, ..small() });
    let name = GroupName::new("g").unwrap();
    block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
    let writer = beside(&store, |store| {
        (0..6).find_map(|n| store.append_blocking(large("a-1", &n.to_string())).err())
    });
    let group = name.clone();
    let seeker = beside(&store, move |store| {
        let read = head(store, Visibility::Committed);
        block_on(store.seek_group(&group, read)).map(|_| read)
    });
    let start = block_on(store.start()).unwrap();
    match store.read_blocking(&Read::forward(Query::all(), start)) {
        Ok(page) => assert_dense(start, &page.events),
        Err(error) => assert!(matches!(error, ReadError::BelowStart { .. }), "{error}"),
    }
    store.close().unwrap();
    if let Some(error) = writer.join().unwrap() {
        assert!(matches!(error, AppendError::Closed), "{error}");
    }
    let read = match seeker.join().unwrap() {
        Ok(read) => read,
        Err(error) => {
            assert!(matches!(error, GroupError::Closed), "{error}");
            Position::START
        }
    };
    assert!(block_on(store.start()).unwrap() <= read);
    let late = block_on(store.delete_group(&name)).unwrap_err();
    assert!(matches!(late, GroupError::Closed), "{late}");
    drop(store);
    let store = world.open(small());
    let start = block_on(store.start()).unwrap();
    assert_dense(start, &all_after(&store, start));
}

/// Segments fill up, and the store is closed at once.
///
/// Catches: a retention thread that begins, or wakes, after the store was closed, and removes
/// nothing.
fn what_is_full_goes_before_the_store_is_closed() {
    let world = World::new();
    let retention = Retention { max_bytes: Some(64 * 1024), ..Retention::default() };
    let store = world.open(Options { durability: Durability::Os, retention, ..small() });
    for n in 0..5 {
        store.append_blocking(large("a-1", &n.to_string())).unwrap();
    }
    store.close().unwrap();
    assert_eq!(block_on(store.start()).unwrap(), Position::new(4));
}

/// The store is closed while somebody copies it, and retention waits for that.
///
/// Catches: closing, or a retention thread, that waits for a backup to end.
fn closing_waits_for_no_backup() {
    let world = World::new();
    let retention = Retention { max_bytes: Some(64 * 1024), ..Retention::default() };
    let store = world.open(Options { durability: Durability::Os, retention, ..small() });
    let copies = store.keeper().turn.take();
    for n in 0..5 {
        store.append_blocking(large("a-1", &n.to_string())).unwrap();
    }
    store.close().unwrap();
    assert_eq!(block_on(store.start()).unwrap(), Position::START);
    drop(copies);
    drop(store);
    let store = world.open(Options { retention, ..small() });
    store.close().unwrap();
    assert_eq!(block_on(store.start()).unwrap(), Position::new(4));
}
