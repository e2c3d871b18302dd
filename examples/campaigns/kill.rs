//! The kill loop: a child process is killed at a random moment, also while it opens and recovers
//! the store, and what it was told is compared with what is there.

use std::error::Error;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use headwater::{ReadOnlyStore, Store};
use serde_json::json;

use crate::child::{self, Life};
use crate::history::{History, Loss, View};
use crate::options::Options;
use crate::watch::{Child, Told};

/// How often a child is looked at.
const GLANCE: Duration = Duration::from_millis(1);
/// After so many lives, a store makes place for a new one.
const LIVES: u32 = 400;

#[derive(Default)]
struct Tally {
    cycles: u64,
    kills: u64,
    opening: u64,
    closed: u64,
    stores: u64,
    acks: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut dice = fastrand::Rng::with_seed(options.seed);
    while begun.elapsed() < options.time {
        let seed = dice.u64(..);
        let home = tempfile::Builder::new().prefix("headwater-kill-").tempdir()?;
        let mut history = History::new(seed);
        tally.stores += 1;
        let result = one_store(home.path(), seed, begun + options.time, &mut history, &mut tally);
        tally.acks += history.acks;
        if let Err(error) = result {
            let left = home.keep();
            let (seed, left) = (options.seed, left.display());
            return Err(format!("--seed {seed}, store {seed}: {error}; see {left}").into());
        }
    }
    let hours = begun.elapsed().as_secs_f64() / 3600.0;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_hour = (tally.cycles as f64 / hours).round();
    let summary = json!({
        "campaign": "kill",
        "seed": options.seed,
        "stores": tally.stores,
        "cycles": tally.cycles,
        "kills": tally.kills,
        "kills_while_opening": tally.opening,
        "closed_before_the_kill": tally.closed,
        "acks_checked": tally.acks,
        "cycles_per_hour": per_hour,
    });
    println!("{summary}");
    Ok(())
}

/// Kills the processes of one store, again and again.
fn one_store(
    home: &Path,
    seed: u64,
    end: Instant,
    history: &mut History,
    tally: &mut Tally,
) -> Result<(), Box<dyn Error>> {
    let dir = home.join("store");
    let mut dice = fastrand::Rng::with_seed(seed);
    for number in 1..=LIVES {
        if Instant::now() >= end {
            break;
        }
        let life = Life::draw(seed, number, 20..2_000, &mut dice);
        let delay = match dice.u8(..4) {
            0 => dice.u64(..15_000),
            _ => dice.u64(..250_000),
        };
        let mut child = Child::start(&dir, life, || 0)?;
        let until = Instant::now() + Duration::from_micros(delay);
        while Instant::now() < until && !child.has_ended()? {
            thread::sleep(GLANCE.min(until.saturating_duration_since(Instant::now())));
        }
        let (status, told) = child.kill()?;
        tally.cycles += 1;
        tally.kills += u64::from(status.code().is_none());
        tally.opening += u64::from(!told.opened);
        tally.closed += u64::from(told.closed);
        let ended_well = status.code().is_none_or(|code| code == 0) && told.failed.is_empty();
        if !ended_well {
            return Err(format!("life {number} ended with {status}: {:?}", told.failed).into());
        }
        check(&dir, history, &told, dice.bool())
            .map_err(|error| format!("after life {number}: {error}"))?;
    }
    Ok(())
}

/// Looks at the store as it was left, or recovers it first.
fn check(dir: &Path, history: &mut History, told: &Told, left: bool) -> Result<(), String> {
    if left {
        match ReadOnlyStore::open_and_walk(dir) {
            Ok(store) => return history.check(&View::Left(Box::new(store)), told, Loss::Process),
            // A store whose creation was cut short is none yet.
            Err(headwater::OpenError::NotFound { .. }) if history.is_empty() => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let store = Store::open(dir, child::options(told.life.durability));
    let store = store.map_err(|error| error.to_string())?;
    history.check(&View::Recovered(store.clone()), told, Loss::Process)?;
    store.close().map_err(|error| error.to_string())
}
