//! Timers over the store itself.

#![cfg(feature = "projections")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use headwater::projections::{NewTimer, TimerService, Timers};
use headwater::{
    EventLog, EventType, NewEvent, Options, Position, Query, Read, Schedule, Store, StreamId,
    Timestamp,
};

fn event(stream: &str) -> NewEvent {
    let event_type = EventType::new("reminder.due").unwrap();
    NewEvent::json(StreamId::new(stream).unwrap(), event_type, &17).unwrap()
}

/// Runs a service until there is an event in the stream.
async fn serve_until(store: &Arc<Store>, stream: &str) {
    let query = Query::stream(StreamId::new(stream).unwrap());
    let mut there = store.subscribe(query, Position::START);
    tokio::select! {
        error = TimerService::new(store.clone()).run() => panic!("{error}"),
        event = there.next() => drop(event.unwrap()),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_fired_before_the_store_was_closed_does_not_fire_again() {
    let dir = tempfile::tempdir().unwrap();
    for round in ["out-1", "out-2", "out-3"] {
        let store = Arc::new(Store::open(dir.path(), Options::default()).unwrap());
        let timers = Timers::new(store.clone());
        let once = NewTimer::new(Schedule::Once(Timestamp::EPOCH), event("out-once"));
        if round == "out-1" {
            timers.schedule("once", once).await.unwrap();
        }
        // It is due later than the other one.
        timers.deliver_after(Duration::ZERO, event(round)).await.unwrap();
        serve_until(&store, round).await;
        store.close().unwrap();
    }
    let store = Store::open(dir.path(), Options::default()).unwrap();
    for stream in ["out-once", "out-1", "out-2", "out-3"] {
        let query = Query::stream(StreamId::new(stream).unwrap());
        let page = store.read(Read::forward(query, Position::START)).await.unwrap();
        assert_eq!(page.events.len(), 1, "{stream}");
    }
}
