//! Real power loss: a child process writes to ext4 or XFS on a loop device, the file system is shut
//! down under it, and mounted again. What was durable is there, and no more is damaged than a crash
//! explains.

use std::error::Error;
use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use headwater::{Durability, OpenError, ReadOnlyStore, Store};
use headwater_testkit::{Disk, DiskKind};
use serde_json::json;

use crate::child::{self, Life};
use crate::history::{History, Loss, View};
use crate::options::Options;
use crate::watch::{Child, Told};

/// After so many losses of power, a store makes place for a new one.
const LIVES: u32 = 100;

#[derive(Default)]
struct Tally {
    cycles: u64,
    opening: u64,
    acks: u64,
    lost: u64,
    cuts: u64,
    /// The oldest answer that was lost in the mode `Interval`, in nanoseconds before the cut.
    interval_lost: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let kinds = [DiskKind::Ext4, DiskKind::Xfs];
    for kind in kinds {
        let mut disk = match Disk::new(kind) {
            Ok(disk) => disk,
            Err(error) => {
                println!("SKIPPED: power loss on {kind}: {error}");
                continue;
            }
        };
        let begun = Instant::now();
        let mut tally = Tally::default();
        let mut dice = fastrand::Rng::with_seed(options.seed);
        while begun.elapsed() < options.time / 2 {
            let seed = dice.u64(..);
            let mut history = History::new(seed);
            let end = begun + options.time / 2;
            let result = one_store(&mut disk, seed, end, &mut history, &mut tally);
            if let Err(error) = result {
                let kept = keep(&disk.path().join("store"));
                let seed = options.seed;
                return Err(format!("--seed {seed}, on {kind}: {error}; see {kept}").into());
            }
            tally.acks += history.acks;
            tally.lost += history.lost;
            fs::remove_dir_all(disk.path().join("store"))?;
        }
        let summary = json!({
            "campaign": "power",
            "seed": options.seed,
            "file_system": kind.to_string(),
            "cycles": tally.cycles,
            "cycles_while_opening": tally.opening,
            "acks_checked": tally.acks,
            "acks_lost_as_the_mode_allows": tally.lost,
            "torn_ends_cut": tally.cuts,
            "oldest_loss_in_interval_mode_ms": tally.interval_lost / 1_000_000,
            "seconds": begun.elapsed().as_secs(),
        });
        println!("{summary}");
    }
    Ok(())
}

/// Copies a store off a disk that goes with the process.
pub(crate) fn keep(store: &Path) -> String {
    let copied = tempfile::Builder::new().prefix("headwater-kept-").tempdir().and_then(|kept| {
        copy(store, kept.path())?;
        Ok(kept.keep())
    });
    copied.map_or_else(|error| error.to_string(), |kept| kept.display().to_string())
}

pub(crate) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn one_store(
    disk: &mut Disk,
    seed: u64,
    end: Instant,
    history: &mut History,
    tally: &mut Tally,
) -> Result<(), Box<dyn Error>> {
    let dir = disk.path().join("store");
    let mut dice = fastrand::Rng::with_seed(seed);
    for number in 1..=LIVES {
        if Instant::now() >= end {
            break;
        }
        let life = Life::draw(seed, number, 20..2_000, &mut dice);
        let delay = match dice.u8(..4) {
            0 => dice.u64(..20_000),
            _ => dice.u64(..400_000),
        };
        let begun = Instant::now();
        let clock = move || u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let child = Child::start(&dir, life, clock)?;
        thread::sleep(Duration::from_micros(delay));
        write_back_some(&dir, &mut dice)?;
        let cut = clock();
        disk.cut_power()?;
        let (_, told) = child.kill()?;
        disk.remount()?;
        tally.cycles += 1;
        tally.opening += u64::from(!told.opened);
        check(&dir, history, &told, dice.bool(), tally)
            .map_err(|error| format!("after life {number}: {error}"))?;
        if let (Durability::Interval { .. }, Some(at)) = (life.durability, history.oldest_lost) {
            tally.interval_lost = tally.interval_lost.max(cut.saturating_sub(at));
        }
    }
    Ok(())
}

/// Lets the kernel write some pages of the store's files back, as it may at any time, and in any
/// order.
fn write_back_some(dir: &Path, dice: &mut fastrand::Rng) -> std::io::Result<()> {
    let files = |folder| fs::read_dir(dir.join(folder)).into_iter().flatten().flatten();
    let files: Vec<_> = files("log").chain(files("offsets")).map(|file| file.path()).collect();
    for path in dice.choose_multiple(files, 3) {
        // Files come and go.
        let Ok(file) = fs::File::open(path) else { continue };
        for _ in 0..dice.u8(..4) {
            let (page, pages) = (dice.u64(..16), dice.u64(1..4));
            // Asked to drop dirty pages, Linux begins to write them.
            let bytes = NonZero::new(pages * 4096);
            rustix::fs::fadvise(&file, page * 4096, bytes, rustix::fs::Advice::DontNeed)?;
        }
    }
    thread::sleep(Duration::from_micros(dice.u64(..2_000)));
    Ok(())
}

/// Looks at the store as it was left, or recovers it first.
fn check(
    dir: &Path,
    history: &mut History,
    told: &Told,
    left: bool,
    tally: &mut Tally,
) -> Result<(), String> {
    if left {
        match ReadOnlyStore::open_and_walk(dir) {
            Ok(store) => return history.check(&View::Left(Box::new(store)), told, Loss::Power),
            // A store whose creation was cut short is none yet.
            Err(OpenError::NotFound { .. }) if history.is_empty() => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let store = Store::open(dir, child::options(told.life.durability));
    let store = store.map_err(|error| error.to_string())?;
    tally.cuts += store.recovery().cuts.len() as u64;
    history.check(&View::Recovered(store.clone()), told, Loss::Power)?;
    store.close().map_err(|error| error.to_string())
}
