mod steps;
mod views;
mod world;

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use pollster::block_on;
use proptest::prelude::*;
use serde::Deserialize;

use self::world::{Unsteady, Worn};
use super::*;
use crate::append::AppendError;
use crate::codec::{Bincode, Json};
use crate::kind::{EventKind, encode_event};
use crate::log::ReadError;
use crate::position::Revision;
use crate::shape::{Body, Field, TypeUse};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Added(u8);

impl Event for Added {
    type Codec = Json;
    const KINDS: &'static [EventKind] = &[EventKind::new("added", 1)];

    fn kind(&self) -> EventKind {
        Self::KINDS[0]
    }
}

/// Knows every event that it folded, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tally {
    count: u64,
    digest: u64,
}

impl Tally {
    fn fold(&mut self, value: u8, version: u32) {
        self.count += 1;
        self.digest = self.digest.wrapping_mul(31).wrapping_add(u64::from(value) + 7);
        self.digest = self.digest.rotate_left(version);
    }
}

/// A fold in two versions.
#[derive(Clone, Copy, Debug)]
struct Tallying<const VERSION: u32>;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("not at {0}")]
struct Refused(u64);

impl<const VERSION: u32> Decider for Tallying<VERSION> {
    type Command = Vec<u8>;
    type Event = Added;
    type State = Tally;
    type Error = Refused;

    fn decide(&self, state: &Tally, values: Vec<u8>) -> Result<Vec<Added>, Refused> {
        if state.digest % 5 == 4 && values.len() != 1 {
            return Err(Refused(state.digest));
        }
        Ok(values.into_iter().map(|v| Added(v ^ state.digest.to_le_bytes()[0])).collect())
    }

    fn evolve(&self, mut state: Tally, event: &Added) -> Tally {
        state.fold(event.0, VERSION);
        state
    }
}

impl<const VERSION: u32> Snapshotted for Tallying<VERSION> {
    type Codec = Bincode;
    const NAME: &'static str = "tally";
    const VERSION: u32 = VERSION;
}

fn stream(n: u8) -> StreamId {
    StreamId::new(format!("tally-{n}")).unwrap()
}

fn snapshots(store: &Unsteady, every_events: u64) -> Snapshots {
    let policy = SnapshotPolicy { every_events, load_time: Duration::MAX };
    Snapshots::with_policy(Arc::new(store.clone()), policy)
}

fn load(log: &Worn, snapshots: &Snapshots, n: u8) -> (Loaded<Tally>, Origin) {
    block_on(snapshots.load(log, &Tallying::<1>, &stream(n))).unwrap()
}

fn run(
    log: &Worn,
    snapshots: &Snapshots,
    values: Vec<u8>,
) -> Result<Executed<Tally, Added>, ExecuteError<Refused>> {
    let (stream, options) = (stream(1), ExecuteOptions::default());
    block_on(snapshots.execute(log, &Tallying::<1>, &stream, values, &options))
}

/// Why all events of the first stream were read.
fn reason(log: &Worn, snapshots: &Snapshots) -> NoSnapshot {
    let (loaded, origin) = load(log, snapshots, 1);
    let plain = block_on(crate::load(log, &Tallying::<1>, &stream(1))).unwrap();
    assert_eq!((loaded.state, loaded.revision), (plain.state, plain.revision));
    match origin {
        Origin::Replay(reason) => reason,
        Origin::Snapshot(position) => panic!("the snapshot up to {position} was used"),
    }
}

/// A log with ten events of one stream, and snapshots with one of them after the eighth.
fn eight_of_ten() -> (Worn, Unsteady, Snapshots) {
    let (log, store) = (Worn::new(3), Unsteady::default());
    let often = snapshots(&store, 1);
    (1..=8).for_each(|value| log.add(&stream(1), &[value]));
    load(&log, &often, 1);
    log.add(&stream(1), &[9, 10]);
    (log, store.clone(), snapshots(&store, u64::MAX))
}

#[test]
fn a_command_reads_what_is_behind_the_snapshot_and_one_event_more() {
    let (log, store) = (Worn::new(1_000), Unsteady::default());
    let snapshots = snapshots(&store, 10);
    let mut read = Vec::new();
    for value in 0..45 {
        run(&log, &snapshots, vec![value]).unwrap();
        read.push(log.take_read());
    }
    // The tenth load finds ten events and leaves a snapshot of them. Reading begins at the last one.
    let first = 0..=10;
    let later = (0..3).flat_map(|_| 2..=11).chain(2..=5);
    assert_eq!(read, first.chain(later).collect::<Vec<_>>());
    assert_eq!(store.saved(), 4);
    // Without snapshots it is all of them.
    block_on(crate::load(&log, &Tallying::<1>, &stream(1))).unwrap();
    assert_eq!(log.take_read(), 45);
}

#[test]
fn a_snapshot_is_taken_of_what_was_slow_to_load_and_of_nothing_twice() {
    let (log, store) = (Worn::new(3), Unsteady::default());
    let policy = SnapshotPolicy { every_events: u64::MAX, load_time: Duration::ZERO };
    let snapshots = Snapshots::with_policy(Arc::new(store.clone()), policy);
    load(&log, &snapshots, 1);
    assert_eq!(store.saved(), 0, "of no events");
    log.add(&stream(1), &[1]);
    for _ in 0..3 {
        load(&log, &snapshots, 1);
        assert_eq!(store.saved(), 1);
    }
    log.add(&stream(1), &[2]);
    load(&log, &snapshots, 1);
    assert_eq!(store.saved(), 2);
}

#[test]
fn a_command_that_lost_the_race_leaves_nothing_of_its_own_in_a_snapshot() {
    let (log, store) = (Worn::new(3), Unsteady::default());
    let often = snapshots(&store, 1);
    log.add(&stream(1), &[1, 2]);
    *log.rivals.lock().unwrap() = vec![3, 4, 5];
    let done = run(&log, &often, vec![9]).unwrap();
    assert_eq!((done.attempts, done.state.count, store.saved()), (4, 6, 4));
    let plain = || block_on(crate::load(&log, &Tallying::<1>, &stream(1))).unwrap().state;
    assert_eq!(done.state, plain());
    // A last attempt that is lost leaves the state that it had read.
    *log.rivals.lock().unwrap() = vec![6; 20];
    let error = run(&log, &often, vec![9]).unwrap_err();
    assert!(matches!(error, ExecuteError::Contended { attempts: 16, .. }), "{error}");
    for n in 0..store.saved() {
        let (key, bytes) = store.any(n).unwrap();
        store.put(key, bytes);
        let (loaded, origin) = load(&log, &often, 1);
        assert_eq!((loaded.state, origin.is_snapshot()), (plain(), true), "snapshot {n}");
    }
}

#[test]
fn a_snapshot_is_taken_of_what_a_refused_command_loaded() {
    let (log, store) = (Worn::new(3), Unsteady::default());
    let snapshots = snapshots(&store, 10);
    log.add(&stream(1), &[0; 12]);
    let load = || block_on(crate::load(&log, &Tallying::<1>, &stream(1))).unwrap().state;
    while load().digest % 5 != 4 {
        log.add(&stream(1), &[0]);
    }
    assert!(matches!(run(&log, &snapshots, vec![]), Err(ExecuteError::Rejected(Refused(_)))));
    assert_eq!(store.saved(), 1);
}

#[test]
fn a_snapshot_that_fits_is_used_and_goes_on_to_the_same_state() {
    let (log, _, snapshots) = eight_of_ten();
    let (loaded, origin) = load(&log, &snapshots, 1);
    assert!(matches!(origin, Origin::Snapshot(position) if position.get() == 8), "{origin:?}");
    assert_eq!((loaded.state.count, loaded.revision), (10, Revision::new(10)));
    log.lose_after(8);
    let (loaded, origin) = load(&log, &snapshots, 1);
    assert!(origin.is_snapshot());
    assert_eq!((loaded.state.count, loaded.revision), (8, Revision::new(8)));
}

#[test]
fn a_log_that_lost_its_end_is_told_apart_before_and_after_it_has_grown() {
    let (log, _, snapshots) = eight_of_ten();
    // Reading begins before the eighth event, which is where the log ends.
    log.lose_after(7);
    let missing = reason(&log, &snapshots);
    assert!(matches!(missing, NoSnapshot::Diverged { found: None, .. }), "{missing}");
    log.lose_after(6);
    let beyond = reason(&log, &snapshots);
    assert!(matches!(beyond, NoSnapshot::Log(ReadError::BeyondHead { .. })), "{beyond}");
    log.add(&stream(1), &[7, 80]);
    let other = reason(&log, &snapshots);
    assert!(matches!(other, NoSnapshot::Diverged { found: Some(_), .. }), "{other}");
    log.lose_after(7);
    log.add(&stream(2), &[1]);
    log.add(&stream(1), &[2]);
    let elsewhere = reason(&log, &snapshots);
    assert!(matches!(elsewhere, NoSnapshot::Diverged { found: None, .. }), "{elsewhere}");
}

#[test]
fn a_snapshot_of_another_log_is_not_found() {
    let (log, _, snapshots) = eight_of_ten();
    let copy = Worn { id: LogId::generate(), inner: Mutex::new(log.inner()), ..Worn::new(3) };
    assert!(matches!(reason(&copy, &snapshots), NoSnapshot::Absent));
}

#[test]
fn a_store_that_fails_is_one_without_snapshots() {
    let (log, store, snapshots) = eight_of_ten();
    store.0.loses.store(true, Ordering::Relaxed);
    assert!(matches!(reason(&log, &snapshots), NoSnapshot::Store(_)));
    store.0.refuses.store(true, Ordering::Relaxed);
    let done = run(&log, &self::snapshots(&store, 1), vec![1]).unwrap();
    assert_eq!(done.state.count, 11);
}

#[test]
fn what_was_cleared_is_gone_and_comes_again() {
    let (log, _, snapshots) = eight_of_ten();
    block_on(snapshots.clear()).unwrap();
    assert!(matches!(reason(&log, &snapshots), NoSnapshot::Absent));
}

/// The same fold, with something about it changed.
macro_rules! changed {
    ($name:ident, $version:literal, $state:ty, $codec:ty, $shape:expr) => {
        struct $name;

        impl Decider for $name {
            type Command = ();
            type Event = Added;
            type State = $state;
            type Error = std::convert::Infallible;

            fn decide(&self, _: &$state, (): ()) -> Result<Vec<Added>, Self::Error> {
                Ok(Vec::new())
            }

            fn evolve(&self, mut state: $state, event: &Added) -> $state {
                state.fold(event.0, 1);
                state
            }
        }

        impl Snapshotted for $name {
            type Codec = $codec;
            const NAME: &'static str = "tally";
            const VERSION: u32 = $version;
            const SHAPE: Option<TypeShape> = $shape;
        }
    };
}

/// Has one more field.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Longer {
    tally: Tally,
    more: String,
}

impl Longer {
    fn fold(&mut self, value: u8, version: u32) {
        self.tally.fold(value, version);
        self.more.push('+');
    }
}

const fn of(name: &'static str) -> TypeUse {
    TypeUse { name, parts: &[] }
}

const COUNT: Field = Field { name: "count", of: of("u64"), serde: "" };
const DIGEST: Field = Field { name: "digest", of: of("u64"), serde: "" };

changed!(InJson, 1, Tally, Json, None);
changed!(InAnotherShape, 1, Longer, Bincode, None);
changed!(InTheNextVersion, 2, Longer, Bincode, None);
changed!(
    Described,
    1,
    Tally,
    Bincode,
    Some(TypeShape { serde: "", body: Body::Struct(&[COUNT, DIGEST]) })
);

fn reason_of<D>(log: &Worn, snapshots: &Snapshots, decider: &D) -> NoSnapshot
where
    D: Decider<Event = Added, State: Serialize + DeserializeOwned> + Snapshotted,
{
    match block_on(snapshots.load(log, decider, &stream(1))).unwrap() {
        (_, Origin::Replay(reason)) => reason,
        (_, Origin::Snapshot(position)) => panic!("the snapshot up to {position} was used"),
    }
}

#[test]
fn a_fold_that_is_another_one_reads_all_events_and_says_why() {
    let (log, _, snapshots) = eight_of_ten();
    let version = reason_of(&log, &snapshots, &Tallying::<2>);
    assert!(matches!(version, NoSnapshot::Version { stored: 1, given: 2 }), "{version}");
    let codec = reason_of(&log, &snapshots, &InJson);
    assert!(matches!(codec, NoSnapshot::Codec { .. }), "{codec}");
    let shape = reason_of(&log, &snapshots, &Described);
    assert!(matches!(shape, NoSnapshot::Shape { stored: 0, .. }), "{shape}");
    let bytes = reason_of(&log, &snapshots, &InAnotherShape);
    assert!(matches!(bytes, NoSnapshot::Decode(_)), "{bytes}");
    // Nothing is decoded before its version is known.
    let version = reason_of(&log, &snapshots, &InTheNextVersion);
    assert!(matches!(version, NoSnapshot::Version { .. }), "{version}");
    assert!(load(&log, &snapshots, 1).1.is_snapshot());
}

#[test]
fn a_new_version_takes_the_place_of_the_old() {
    let (log, store, _) = eight_of_ten();
    let often = snapshots(&store, 1);
    let fold = |version: &str| match version {
        "1" => block_on(often.load(&log, &Tallying::<1>, &stream(1))).unwrap().1.is_snapshot(),
        _ => block_on(often.load(&log, &Tallying::<2>, &stream(1))).unwrap().1.is_snapshot(),
    };
    assert_eq!(["1", "2", "2", "1", "1"].map(fold), [true, false, true, false, true]);
    assert_eq!(store.0.kept.lock().unwrap().len(), 1);
}

#[test]
fn comparing_finds_a_fold_that_was_changed_and_kept_its_version() {
    let (log, store, snapshots) = eight_of_ten();
    let compare = || block_on(snapshots.compare(&log, &Tallying::<1>, &stream(1))).unwrap();
    assert!(matches!(compare(), Comparison::Same(position) if position.get() == 8));
    let (key, bytes) = store.any(0).unwrap();
    let identity = identity_of_stream::<Tallying<1>>(log.id, &stream(1));
    let (mark, _) = identity.decode(&bytes).unwrap();
    let state = Bincode::encode(&Tally { count: 8, digest: 8 }).unwrap();
    store.put(key, identity.encode(mark, &state));
    let found = compare();
    assert!(matches!(found, Comparison::Different { through } if through.get() == 8), "{found:?}");
    log.lose_after(6);
    assert!(matches!(compare(), Comparison::NoSnapshot(NoSnapshot::Log(_))));
    block_on(snapshots.clear()).unwrap();
    assert!(matches!(compare(), Comparison::NoSnapshot(NoSnapshot::Absent)));
}
