//! Work on a simulated disk that loses power at every operation, and what must hold afterwards,
//! whatever became of what was not synced.
//!
//! After each crash the store is opened, checked against everything that was asked of it,
//! sometimes loses power again while it recovers, and goes on. A failure names its seed.

mod lies;
mod model;
mod progress;
mod small;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_core::Durability;

use crate::error::OpenError;
use crate::fs::Fs;
use crate::fs::sim::{Dice, Fault, SimFs, Survival};
use crate::handle::Store;
use crate::options::Options;

use model::Model;
use work::Mix;

const DISK: &str = "/disk";

fn root() -> PathBuf {
    Path::new(DISK).join("store")
}

fn options(durability: Durability) -> Options {
    Options { segment_bytes: 64 * 1024, durability, ..Options::default() }
}

fn open(fs: &SimFs, durability: Durability) -> Result<Store, OpenError> {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    Store::open_on(&fs, &root(), options(durability))
}

/// Stops everything in the middle, and lets go of a store that can do nothing any more. What was
/// still to go wrong does not.
fn crash(fs: &SimFs, store: &mut Store) {
    fs.stop();
    store.close().unwrap_or_default();
    fs.heal();
}

/// Counts what a campaign did.
#[derive(Debug)]
struct Tally {
    began: Instant,
    /// Places in workloads where something went wrong.
    points: u64,
    /// Stores that were checked after a crash.
    states: u64,
    /// What went wrong first, by kind.
    faults: BTreeMap<&'static str, u64>,
    /// Crashes in recovery.
    nested: u64,
    /// Backups that were begun.
    backups: u64,
}

impl Tally {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            points: 0,
            states: 0,
            faults: BTreeMap::new(),
            nested: 0,
            backups: 0,
        }
    }

    fn count(&mut self, fault: Fault) {
        let kind = match fault {
            Fault::PowerOff => "crash",
            Fault::Once(EIO) => "EIO once",
            Fault::Always(EIO) => "EIO",
            Fault::Once(_) => "ENOSPC once",
            Fault::Always(_) => "EROFS",
            Fault::LostWrite => "lost write",
            Fault::MisdirectedWrite => "misdirected write",
        };
        *self.faults.entry(kind).or_default() += 1;
    }

    /// Says what was done, and fails if it was less than so many states.
    fn report(&self, name: &str, floor: u64) {
        let seconds = self.began.elapsed().as_secs().max(1);
        let faults: Vec<String> =
            self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!(
            "{name}: {} crash points, {} states, {} crashes in recovery, {} backups, faults: {}; {seconds} s, {} states/s",
            self.points,
            self.states,
            self.nested,
            self.backups,
            faults.join(", "),
            self.states / seconds,
        );
        assert!(self.states >= floor, "{name}: {} states are less than {floor}", self.states);
    }
}

/// Where a run goes wrong first.
#[derive(Clone, Copy, Debug)]
struct Place {
    seed: u64,
    durability: Durability,
    step: u64,
    fault: Fault,
    survival: Survival,
}

/// One run: work until something goes wrong, look what is left, and go on. Returns whether it came
/// so far, and the digest of everything that was done.
fn run(place: Place, tally: &mut Tally) -> (bool, u64) {
    let Place { seed, durability, step, fault, survival } = place;
    let fs = SimFs::new(Path::new(DISK));
    fs.fail_at(step, fault);
    tally.count(fault);
    let mut dice = Dice(seed);
    let mix = if seed.is_multiple_of(2) { Mix::Log } else { Mix::Everything };
    let mut model = Model::new();
    let mut reached = false;
    for round in 0..3_u64 {
        match open(&fs, durability) {
            Ok(mut store) => {
                // What opening can do without may have met the end already.
                if round > 0 && !fs.is_off() {
                    fs.calmly(|| model.check(&store));
                    tally.states += 1;
                }
                let mut goes_on = true;
                while goes_on && dice.roll(13) > 0 {
                    goes_on = model.work(&mut store, &fs, durability, work::draw(&mut dice, mix));
                }
                reached |= round == 0 && fs.steps() > step;
                crash(&fs, &mut store);
            }
            Err(error) => {
                assert!(fs.is_off() || fs.has_failed(), "{error}");
                reached |= round == 0;
            }
        }
        if dice.roll(2) == 0 {
            // First only the process dies, and somebody looks before the power goes.
            model.process_dies(&fs);
            fs.kill_process();
            if dice.roll(2) == 0 {
                fs.pin_cache();
            }
            let mut store = open(&fs, durability).unwrap();
            model.check(&store);
            tally.states += 1;
            crash(&fs, &mut store);
        }
        fs.lose_power(survival);
        model.unseen = true;
        // While it recovers, the power may go again.
        for again in 0..dice.roll(3) {
            fs.fail_at(dice.roll(12), Fault::PowerOff);
            drop(open(&fs, durability));
            tally.nested += u64::from(fs.is_off());
            fs.lose_power(Survival::Drawn(seed ^ again));
        }
        // The next round goes out somewhere later.
        fs.fail_at(5 + dice.roll(60), Fault::PowerOff);
    }
    fs.lose_power(survival);
    let mut store = open(&fs, durability).unwrap();
    model.check(&store);
    model.check_backups(&fs);
    tally.backups += model.backups.len() as u64;
    crash(&fs, &mut store);
    fs.lose_power(Survival::Nothing);
    // A second recovery is the first one.
    let store = open(&fs, durability).unwrap();
    assert_eq!(store.recovery().cuts, []);
    model.check(&store);
    tally.states += 2;
    (reached, fs.trace())
}

const DURABILITIES: [Durability; 3] = [
    Durability::Sync,
    Durability::Interval { every: Duration::from_secs(3600), bytes: 20_000 },
    Durability::Os,
];

fn survivals(seed: u64) -> [Survival; 4] {
    [
        Survival::Nothing,
        Survival::Everything,
        Survival::Drawn(seed),
        Survival::Drawn(seed.wrapping_mul(31)),
    ]
}

/// Does something, and says where if it fails.
fn at<T>(place: impl std::fmt::Debug, work: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(panic) => {
            eprintln!("{place:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Every operation of one workload, or one in `stride`, as the one that goes wrong, each with so
/// many outcomes.
fn sweep(seed: u64, stride: u64, faults: &[Fault], outcomes: usize, tally: &mut Tally) {
    for durability in DURABILITIES {
        let mut step = seed % stride;
        let mut reached = true;
        while reached {
            reached = false;
            tally.points += 1;
            for &fault in faults {
                for survival in survivals(seed ^ step).into_iter().take(outcomes) {
                    let place = Place { seed, durability, step, fault, survival };
                    reached |= at(place, || run(place, tally).0);
                }
            }
            step += stride;
        }
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// Errors of the system, after which the process dies or the power goes.
const ERRORS: [Fault; 4] =
    [Fault::Once(EIO), Fault::Always(EIO), Fault::Once(ENOSPC), Fault::Always(EROFS)];

#[test]
fn a_store_keeps_its_promises_wherever_the_power_goes() {
    let mut tally = Tally::new();
    for seed in 1..5 {
        sweep(seed, 41, &[Fault::PowerOff], 4, &mut tally);
    }
    tally.report("a slice of random work", 400);
    assert!(tally.nested > 20, "{tally:?}");
}

#[test]
fn a_store_keeps_its_promises_after_an_error_of_any_operation() {
    let mut tally = Tally::new();
    sweep(2, 301, &ERRORS, 2, &mut tally);
    tally.report("a slice of errors", 100);
}

#[test]
fn the_same_seed_leaves_the_same_trace() {
    let survival = Survival::Drawn(9);
    for durability in DURABILITIES {
        let (fault, step) = (Fault::PowerOff, 90);
        let traced =
            |seed| run(Place { seed, durability, step, fault, survival }, &mut Tally::new()).1;
        assert_eq!(traced(3), traced(3));
        assert_ne!(traced(3), traced(4));
    }
}

/// A campaign as long as one likes: `HEADWATER_CRASH_SEED` and `HEADWATER_CRASH_SECONDS`.
#[test]
#[ignore = "runs as long as it is told"]
fn crash_campaign() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first = number("HEADWATER_CRASH_SEED", 1);
    let seconds = number("HEADWATER_CRASH_SECONDS", 60);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut tally = Tally::new();
    let mut seed = first;
    while Instant::now() < end {
        sweep(seed, 7, &[Fault::PowerOff], 4, &mut tally);
        sweep(seed, 23, &ERRORS, 4, &mut tally);
        lies::sweep(seed, &mut tally);
        seed += 1;
    }
    tally.report(&format!("random work, seeds {first} to {}", seed - 1), 50 * seconds);
}
