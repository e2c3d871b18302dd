//! Every moment of a device: a child process writes to ext4 or XFS over a device that records each
//! write and flush. Its record is played up to many moments, with any sectors of what was not
//! flushed, and each of these disks is mounted and its store checked.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use headwater::{OpenError, ReadOnlyStore, Store};
use headwater_testkit::{Disk, DiskKind};
use serde_json::json;

use crate::child::{self, Life};
use crate::history::{History, Loss, View};
use crate::options::Options;
use crate::tape;
use crate::watch::{Child, Told};

/// How many lives one device sees, and how many moments of each are looked at.
const LIVES: u32 = 4;
const MOMENTS: usize = 25;

#[derive(Default)]
struct Tally {
    lives: u64,
    entries: u64,
    moments: u64,
    acks: u64,
    lost: u64,
    cuts: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut dice = fastrand::Rng::with_seed(options.seed);
    for kind in [DiskKind::Ext4, DiskKind::Xfs] {
        let begun = Instant::now();
        let end = begun + options.time / 2;
        let mut tally = Tally::default();
        while Instant::now() < end {
            let seed = dice.u64(..);
            match one_device(kind, seed, end, &mut tally) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    return Err(format!("--seed {}, {kind}: {error}", options.seed).into());
                }
            }
        }
        if tally.lives == 0 {
            continue;
        }
        let summary = json!({
            "campaign": "record",
            "seed": options.seed,
            "file_system": kind.to_string(),
            "lives": tally.lives,
            "writes_and_flushes": tally.entries,
            "moments_mounted_and_checked": tally.moments,
            "acks_checked": tally.acks,
            "acks_lost_as_the_mode_allows": tally.lost,
            "torn_ends_cut": tally.cuts,
            "seconds": begun.elapsed().as_secs(),
        });
        println!("{summary}");
    }
    Ok(())
}

/// Returns `false` if this machine has no such device.
fn one_device(
    kind: DiskKind,
    seed: u64,
    end: Instant,
    tally: &mut Tally,
) -> Result<bool, Box<dyn Error>> {
    let Some((tape, _device, mut disk)) = tape::under(kind, "the record of a device") else {
        return Ok(false);
    };
    let mut history = History::new(seed);
    let mut dice = fastrand::Rng::with_seed(seed);
    let home = tempfile::Builder::new().prefix("headwater-record-").tempdir()?;
    let image = home.path().join("image");
    for number in 1..=LIVES {
        let life = Life::draw(seed, number, 20..400, &mut dice);
        let durability = life.durability;
        let dir = disk.path().join("store");
        let begin = tape.len();
        let clock = tape.clone();
        let child = Child::start(&dir, life, move || clock.len())?;
        thread::sleep(Duration::from_millis(dice.u64(10..400)));
        let (_, heard) = child.kill_and_listen()?;
        let (from, until) = (begin, tape.len());
        tally.lives += 1;
        tally.entries += until - from;
        for _ in 0..MOMENTS {
            if Instant::now() >= end {
                return Ok(true);
            }
            let moment = dice.u64(from..=until);
            tape.play(moment, &mut dice, &image)?;
            let told = Told::of(life, &heard, moment)?;
            let mut there = history.clone();
            (there.acks, there.lost) = (0, 0);
            let result = mounted(kind, &image, &told, &mut there, dice.bool(), tally);
            if let Err(error) = result {
                let (image, home) = (image.display(), home.keep());
                let place = format!("life {number}, {durability:?}, entry {moment} of {until}");
                drop(home);
                return Err(format!("store {seed}, {place}: {error}; see {image}").into());
            }
            tally.moments += 1;
            tally.acks += there.acks;
            tally.lost += there.lost;
            fs::remove_file(&image)?;
        }
        // The process died, and the disk goes on; unmounting writes everything down.
        let told = Told::of(life, &heard, u64::MAX)?;
        check(&dir, &mut history, &told, Loss::Process, dice.bool(), tally)?;
        disk.remount()?;
    }
    Ok(true)
}

/// Mounts a disk as the loss of power left it, and checks its store.
fn mounted(
    kind: DiskKind,
    image: &Path,
    told: &Told,
    history: &mut History,
    left: bool,
    tally: &mut Tally,
) -> Result<(), String> {
    let disk = Disk::open(kind, image).map_err(|error| error.to_string())?;
    check(&disk.path().join("store"), history, told, Loss::Power, left, tally)
}

/// Looks at the store as it was left, and recovers it.
fn check(
    dir: &Path,
    history: &mut History,
    told: &Told,
    loss: Loss,
    left: bool,
    tally: &mut Tally,
) -> Result<(), String> {
    if left {
        match ReadOnlyStore::open_and_walk(dir) {
            Ok(store) => return history.check(&View::Left(Box::new(store)), told, loss),
            // A store whose creation was cut short is none yet.
            Err(OpenError::NotFound { .. }) if history.is_empty() => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let store = Store::open(dir, child::options(told.life.durability));
    let store = store.map_err(|error| error.to_string())?;
    tally.cuts += store.recovery().cuts.len() as u64;
    history.check(&View::Recovered(store.clone()), told, loss)?;
    store.close().map_err(|error| error.to_string())
}
