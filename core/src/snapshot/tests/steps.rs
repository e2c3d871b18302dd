//! Anything may happen between and around commands.

use super::*;

/// What happens between and around commands.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Command {
        on: u8,
        values: Vec<u8>,
        newer: bool,
    },
    /// Somebody else appends.
    Other {
        on: u8,
        values: Vec<u8>,
    },
    Flip(usize, usize),
    Cut(usize, usize),
    /// An older snapshot is back.
    Back(usize),
    /// A snapshot lies under the key of another.
    Swap(usize, usize),
    Lose(u64),
    Clear,
    Store {
        loses: bool,
        refuses: bool,
    },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let on = 0..2_u8;
    let values = || proptest::collection::vec(any::<u8>(), 0..4);
    let some = proptest::collection::vec(any::<u8>(), 1..4);
    let n = 0..1_000_usize;
    prop_oneof![
        12 => (on.clone(), values(), prop::bool::weighted(0.2))
            .prop_map(|(on, values, newer)| Step::Command { on, values, newer }),
        3 => (on, some).prop_map(|(on, values)| Step::Other { on, values }),
        1 => (n.clone(), n.clone()).prop_map(|(n, bit)| Step::Flip(n, bit)),
        1 => (n.clone(), n.clone()).prop_map(|(n, at)| Step::Cut(n, at)),
        3 => n.clone().prop_map(Step::Back),
        2 => (n.clone(), n).prop_map(|(n, m)| Step::Swap(n, m)),
        3 => (0..4_u64).prop_map(Step::Lose),
        1 => Just(Step::Clear),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(loses, refuses)| Step::Store { loses, refuses }),
    ]
}

/// Runs a command with and without snapshots, and compares.
fn compare<const VERSION: u32>(log: &Worn, snapshots: &Snapshots, on: u8, values: &[u8]) {
    let (decider, stream) = (Tallying::<VERSION>, stream(on));
    let before = block_on(crate::load(log, &decider, &stream)).unwrap();
    let expected = decider.decide(&before.state, values.to_vec());
    let options = ExecuteOptions::default();
    let run = snapshots.execute(log, &decider, &stream, values.to_vec(), &options);
    match (block_on(run), expected) {
        (Ok(done), Ok(events)) => {
            let after = block_on(crate::load(log, &decider, &stream)).unwrap();
            assert_eq!((done.state, done.events, done.attempts), (after.state, events, 1));
        }
        (Err(ExecuteError::Rejected(refused)), Err(expected)) => assert_eq!(refused, expected),
        (outcome, expected) => panic!("{outcome:?}, and without snapshots {expected:?}"),
    }
    let (loaded, _) = block_on(snapshots.load(log, &decider, &stream)).unwrap();
    let after = block_on(crate::load(log, &decider, &stream)).unwrap();
    assert_eq!((loaded.state, loaded.revision), (after.state, after.revision));
}

pub(super) fn happen(log: &Worn, store: &Unsteady, snapshots: &Snapshots, step: Step) {
    match step {
        Step::Command { on, values, newer: false } => compare::<1>(log, snapshots, on, &values),
        Step::Command { on, values, newer: true } => compare::<2>(log, snapshots, on, &values),
        Step::Other { on, values } => log.add(&stream(on), &values),
        Step::Flip(n, bit) => store.change(n, |bytes| {
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }),
        Step::Cut(n, at) => store.change(n, |bytes| bytes.truncate(at % bytes.len())),
        Step::Back(n) => {
            if let Some((key, bytes)) = store.any(n) {
                store.put(key, bytes);
            }
        }
        Step::Swap(n, m) => {
            if let (Some((key, _)), Some((_, bytes))) = (store.any(n), store.any(m)) {
                store.put(key, bytes);
            }
        }
        Step::Lose(events) => log.lose_after(log.last().saturating_sub(events)),
        Step::Clear => block_on(snapshots.clear()).unwrap(),
        Step::Store { loses, refuses } => {
            store.0.loses.store(loses, Ordering::Relaxed);
            store.0.refuses.store(refuses, Ordering::Relaxed);
        }
    }
}

proptest! {
    /// Whatever becomes of snapshots and of the log between commands: states and results are those of
    /// all events.
    #[test]
    fn snapshots_never_show_but_in_time(
        steps in proptest::collection::vec(step(), 0..60),
        every_events in 1..6_u64,
        page in 1..5_usize,
    ) {
        let (log, store) = (Worn::new(page), Unsteady::default());
        let snapshots = snapshots(&store, every_events);
        for step in steps {
            happen(&log, &store, &snapshots, step);
        }
    }
}
