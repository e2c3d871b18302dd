//! Decisions that rest on several views.

use super::steps::{Step, happen, step};
use super::*;
use crate::decision::{Decision, View, load_views};
use crate::name::InvalidName;

/// What was added to some of the streams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Seen<const VERSION: u32> {
    streams: Vec<u8>,
    tally: Tally,
}

impl<const VERSION: u32> Seen<VERSION> {
    fn of(streams: impl IntoIterator<Item = u8>) -> Self {
        Self { streams: streams.into_iter().collect(), tally: Tally::default() }
    }
}

impl<const VERSION: u32> View for Seen<VERSION> {
    type Event = Added;

    fn query(&self) -> Result<Query, InvalidName> {
        let queries = self.streams.iter().map(|n| Query::stream(stream(*n)));
        Ok(queries.reduce(Query::or).unwrap_or_default())
    }

    fn apply(&mut self, event: &Added) {
        self.tally.fold(event.0, VERSION);
    }
}

impl<const VERSION: u32> Snapshotted for Seen<VERSION> {
    type Codec = Bincode;
    const NAME: &'static str = "seen";
    const VERSION: u32 = VERSION;
}

/// Adds what depends on one stream and on both.
#[derive(Clone, Debug)]
struct Mix<const VERSION: u32> {
    on: u8,
    values: Vec<u8>,
}

impl<const VERSION: u32> Decision for Mix<VERSION> {
    type Views = (Seen<VERSION>, Seen<VERSION>);
    type Event = Added;
    type Error = Refused;

    fn views(&self) -> Self::Views {
        (Seen::of([self.on]), Seen::of([0, 1]))
    }

    fn decide(&self, (one, both): &Self::Views) -> Result<Vec<Added>, Refused> {
        let digest = one.tally.digest ^ both.tally.digest;
        if digest % 5 == 4 {
            return Err(Refused(digest));
        }
        Ok(self.values.iter().map(|v| Added(v ^ digest.to_le_bytes()[0])).collect())
    }

    fn stream(&self, event: &Added) -> Result<StreamId, InvalidName> {
        Ok(stream(event.0 % 2))
    }
}

fn both(log: &Worn, snapshots: &Snapshots) -> (u64, u64, Vec<Origin>) {
    let views = (Seen::<1>::of([0]), Seen::<1>::of([0, 1]));
    let (known, origins) = block_on(snapshots.load_views(log, views.clone())).unwrap();
    let plain = block_on(load_views(log, views)).unwrap();
    assert_eq!(known.views(), plain.views());
    assert_eq!(known.seen(), plain.seen());
    let (one, both) = known.into_views();
    (one.tally.count, both.tally.count, origins)
}

#[test]
fn each_view_begins_at_its_own_snapshot_and_all_end_at_one_moment() {
    let (log, store) = (Worn::new(1_000), Unsteady::default());
    let often = snapshots(&store, 4);
    log.add(&stream(0), &[1, 2, 3]);
    log.add(&stream(1), &[4, 5]);
    let (_, _, origins) = both(&log, &often);
    assert_eq!(store.saved(), 1, "{origins:?}");
    log.add(&stream(0), &[6]);
    log.take_read();
    let views = (Seen::<1>::of([0]), Seen::<1>::of([0, 1]));
    let (_, origins) = block_on(often.load_views(&log, views.clone())).unwrap();
    assert!(matches!(&origins[..], [Origin::Replay(NoSnapshot::Absent), Origin::Snapshot(_)]));
    assert_eq!(log.take_read(), 4 + 2, "four of one stream, and the last and the new one of both");
    // The first view has one as well now. Somebody appends when the end is fixed.
    *log.intruder.lock().unwrap() = Some((stream(0), 7));
    let (known, origins) = block_on(often.load_views(&log, views)).unwrap();
    assert!(origins.iter().all(Origin::is_snapshot), "{origins:?}");
    let (one, both) = known.views();
    assert_eq!((one.tally.count, both.tally.count, known.seen().get()), (4, 6, 6));
    let late = encode_event(stream(1), &Added(8)).unwrap();
    let refused = block_on(log.append(known.append([late]))).unwrap_err();
    assert!(matches!(refused, AppendError::Conflict(_)), "{refused}");
}

#[test]
fn views_that_ask_something_else_have_snapshots_of_their_own() {
    let (log, store) = (Worn::new(3), Unsteady::default());
    let often = snapshots(&store, 1);
    log.add(&stream(0), &[1, 2, 3]);
    log.add(&stream(1), &[4, 5]);
    let load = |views: Seen<1>| block_on(often.load_views(&log, views)).unwrap();
    for n in [0, 1] {
        assert!(!load(Seen::of([n])).1[0].is_snapshot());
    }
    for (n, count) in [(0, 3), (1, 2)] {
        let (known, origins) = load(Seen::of([n]));
        assert!(origins[0].is_snapshot());
        assert_eq!(known.views().tally.count, count);
    }
    // The same question with another beginning.
    let mut begun = Seen::of([0]);
    begun.tally.count = 100;
    let (known, origins) = load(begun);
    assert!(!origins[0].is_snapshot());
    assert_eq!(known.views().tally.count, 103);
}

#[test]
fn a_view_of_a_new_version_reads_all_events() {
    let (log, store) = (Worn::new(3), Unsteady::default());
    let often = snapshots(&store, 1);
    log.add(&stream(0), &[1, 2, 3]);
    block_on(often.load_views(&log, Seen::<1>::of([0]))).unwrap();
    let (_, origins) = block_on(often.load_views(&log, Seen::<2>::of([0]))).unwrap();
    let [Origin::Replay(reason)] = &origins[..] else { panic!("{origins:?}") };
    assert!(matches!(reason, NoSnapshot::Version { stored: 1, given: 2 }), "{reason}");
}

/// Counts what was added to one stream, which it does not keep.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Count<const ON: u8>(u64);

impl<const ON: u8> View for Count<ON> {
    type Event = Added;

    fn query(&self) -> Result<Query, InvalidName> {
        Ok(Query::stream(stream(ON)))
    }

    fn apply(&mut self, _: &Added) {
        self.0 += 1;
    }
}

impl<const ON: u8> Snapshotted for Count<ON> {
    type Codec = Json;
    const NAME: &'static str = "count";
    const VERSION: u32 = 1;
}

#[test]
fn a_view_whose_query_was_changed_reads_all_events() {
    let (log, store) = (Worn::new(3), Unsteady::default());
    let often = snapshots(&store, 1);
    log.add(&stream(1), &[4, 5]);
    log.add(&stream(0), &[1, 2, 3]);
    block_on(often.load_views(&log, Count::<0>(0))).unwrap();
    let (known, origins) = block_on(often.load_views(&log, Count::<1>(0))).unwrap();
    assert!(matches!(&origins[..], [Origin::Replay(NoSnapshot::Absent)]), "{origins:?}");
    assert_eq!(known.views().0, 2);
    assert!(block_on(often.load_views(&log, Count::<0>(0))).unwrap().1[0].is_snapshot());
}

#[test]
fn a_snapshot_beyond_what_a_follower_has_is_not_used() {
    let (log, store) = (Worn::new(3), Unsteady::default());
    let often = snapshots(&store, 1);
    log.add(&stream(0), &[1, 2, 3, 4]);
    block_on(often.load_views(&log, Seen::<1>::of([0]))).unwrap();
    log.lose_after(3);
    let (known, origins) = block_on(often.load_views(&log, Seen::<1>::of([0]))).unwrap();
    let [Origin::Replay(NoSnapshot::Log(error))] = &origins[..] else { panic!("{origins:?}") };
    assert!(matches!(error, ReadError::BeyondHead { .. }), "{error}");
    assert_eq!(known.views().tally.count, 3);
}

#[test]
fn everything_with_snapshots_can_be_spawned() {
    fn spawned<F: Future + Send>(_: F) {}
    let (log, store) = (Worn::new(3), Unsteady::default());
    let (often, stream, options) = (snapshots(&store, 1), stream(0), ExecuteOptions::default());
    spawned(often.load(&log, &Tallying::<1>, &stream));
    spawned(often.execute(&log, &Tallying::<1>, &stream, vec![1], &options));
    spawned(often.compare(&log, &Tallying::<1>, &stream));
    spawned(often.load_views(&log, Count::<0>(0)));
    spawned(often.decide(&log, &Mix::<1> { on: 0, values: vec![1] }, &options));
}

/// Decides with and without snapshots, and compares.
fn compare<const VERSION: u32>(log: &Worn, snapshots: &Snapshots, on: u8, values: Vec<u8>) {
    let decision = Mix::<VERSION> { on, values };
    let known = block_on(load_views(log, decision.views())).unwrap();
    let expected = decision.decide(known.views());
    let decided = block_on(snapshots.decide(log, &decision, &ExecuteOptions::default()));
    match (decided, expected) {
        (Ok(decided), Ok(events)) => {
            assert_eq!((&decided.views, decided.events), (known.views(), events));
        }
        (Err(ExecuteError::Rejected(refused)), Err(expected)) => assert_eq!(refused, expected),
        (outcome, expected) => panic!("{outcome:?}, and without snapshots {expected:?}"),
    }
    let (found, _) = block_on(snapshots.load_views(log, decision.views())).unwrap();
    let known = block_on(load_views(log, decision.views())).unwrap();
    assert_eq!((found.views(), found.seen()), (known.views(), known.seen()));
}

proptest! {
    /// The same as of streams: snapshots of views never show but in time.
    #[test]
    fn snapshots_of_views_never_show_but_in_time(
        steps in proptest::collection::vec(step(), 0..60),
        every_events in 1..6_u64,
        page in 1..5_usize,
    ) {
        let (log, store) = (Worn::new(page), Unsteady::default());
        let snapshots = snapshots(&store, every_events);
        for step in steps {
            match step {
                Step::Command { on, values, newer: false } => compare::<1>(&log, &snapshots, on, values),
                Step::Command { on, values, newer: true } => compare::<2>(&log, &snapshots, on, values),
                step => happen(&log, &store, &snapshots, step),
            }
        }
    }
}
