//! Snapshots of streams beside a store that goes back, or loses its beginning.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{
    Append, Bincode, Decider, Event, EventKind, Json, LoadError, Loaded, MemorySnapshots,
    NoSnapshot, Origin, Position, ReadError, Revision, SnapshotPolicy, Snapshots, Snapshotted,
    encode_event, load,
};
use headwater_store::{Cutoff, Options, Passing, Store, restore};
use pollster::block_on;
use serde::{Deserialize, Serialize};

use crate::common::*;

#[derive(Serialize, Deserialize)]
struct Noted {
    number: u64,
    padding: String,
}

impl Event for Noted {
    type Codec = Json;
    const KINDS: &'static [EventKind] = &[EventKind::new("noted", 1)];

    fn kind(&self) -> EventKind {
        Self::KINDS[0]
    }
}

/// Keeps the numbers.
struct Noting;

impl Decider for Noting {
    type Command = ();
    type Event = Noted;
    type State = Vec<u64>;
    type Error = Infallible;

    fn decide(&self, _: &Vec<u64>, (): ()) -> Result<Vec<Noted>, Infallible> {
        Ok(Vec::new())
    }

    fn evolve(&self, mut numbers: Vec<u64>, event: &Noted) -> Vec<u64> {
        numbers.push(event.number);
        numbers
    }
}

impl Snapshotted for Noting {
    type Codec = Bincode;
    const NAME: &'static str = "noting";
    const VERSION: u32 = 1;
}

fn add(store: &Store, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let noted = Noted { number, padding: "x".repeat(14_000) };
        let event = encode_event(stream("notes-1"), &noted).unwrap();
        store.append_blocking(Append::new([event])).unwrap();
    }
}

/// Takes a snapshot of the stream as it is, and no other.
fn one_snapshot(store: &Store) -> Snapshots {
    let kept = Arc::new(MemorySnapshots::default());
    let policy = |every_events| SnapshotPolicy { every_events, load_time: Duration::MAX };
    let first = Snapshots::with_policy(Arc::clone(&kept) as _, policy(1));
    block_on(first.load(store, &Noting, &stream("notes-1"))).unwrap();
    Snapshots::with_policy(kept, policy(u64::MAX))
}

fn loaded(snapshots: &Snapshots, store: &Store) -> Result<(Loaded<Vec<u64>>, Origin), LoadError> {
    block_on(snapshots.load(store, &Noting, &stream("notes-1")))
}

#[test]
fn a_restored_store_does_not_fit_snapshots_of_what_it_lost() {
    let dir = temp();
    let store = open(&dir, small());
    add(&store, 1..=10);
    let early = one_snapshot(&store);
    add(&store, 11..=20);
    let into = dir.path().join("backup");
    store.backup(&into).unwrap();
    add(&store, 21..=30);
    let late = one_snapshot(&store);
    assert!(loaded(&late, &store).unwrap().1.is_snapshot());
    store.close().unwrap();

    let to = dir.path().join("restored");
    restore(&into, &to, |_| {}).unwrap();
    let restored = Store::open(&to, Options::default()).unwrap();
    let (state, origin) = loaded(&late, &restored).unwrap();
    assert_eq!(state.state, (1..=20).collect::<Vec<_>>());
    let Origin::Replay(NoSnapshot::Log(ReadError::BeyondHead { .. })) = origin else {
        panic!("{origin:?}");
    };
    add(&restored, 101..=120);
    let (state, origin) = loaded(&late, &restored).unwrap();
    let grown: Vec<u64> = (1..=20).chain(101..=120).collect();
    assert_eq!((&state.state, state.revision), (&grown, Revision::new(40)));
    let Origin::Replay(NoSnapshot::Diverged { position, found: Some(_), .. }) = origin else {
        panic!("{origin:?}");
    };
    assert_eq!(position, Position::new(30));
    // What it has in common with the log that was lost is still good.
    let (state, origin) = loaded(&early, &restored).unwrap();
    assert_eq!((&state.state, origin.is_snapshot()), (&grown, true));
}

#[test]
fn a_snapshot_stands_for_what_retention_removed_as_long_as_its_last_event_is_there() {
    let dir = temp();
    let store = open(&dir, small());
    add(&store, 1..=10);
    let snapshots = one_snapshot(&store);
    add(&store, 11..=30);
    let through = |position| Cutoff::Through(Position::new(position));
    store.remove(through(8), Passing::Refuse).unwrap();
    let plain = block_on(load(&store, &Noting, &stream("notes-1"))).unwrap_err();
    assert!(matches!(plain, LoadError::Read(ReadError::BelowStart { .. })), "{plain}");
    let (state, origin) = loaded(&snapshots, &store).unwrap();
    assert_eq!((state.state, origin.is_snapshot()), ((1..=30).collect(), true));
    store.remove(through(20), Passing::Refuse).unwrap();
    let gone = loaded(&snapshots, &store).unwrap_err();
    assert!(matches!(gone, LoadError::Read(ReadError::BelowStart { .. })), "{gone}");
}
