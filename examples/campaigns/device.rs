//! Failing devices: writes that fail below ext4 and XFS while a child process appends, and blocks
//! that cannot be read.
//!
//! A loop device over a file system that is full will not do for the first: it calls a write done
//! that found space for its beginning alone (seen with Linux 6.18 over tmpfs), so a sync is lied to.

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use headwater::{Append, CodecId, Durability, EventType, NewEvent, Store, StreamId};
use headwater_testkit::DiskKind;
use rustix::fs::Advice;
use serde_json::json;

use crate::calls::tool;
use crate::child::{self, Life};
use crate::history::{History, Loss, View};
use crate::options::Options;
use crate::power::keep;
use crate::tape::{self, Device};
use crate::watch::{Child, Told};

/// Not ext4 without its journal: it forgets a failed write of a directory as it forgets one of a
/// file, and a directory cannot be dropped from the cache to look what the device has.
const KINDS: [DiskKind; 2] = [DiskKind::Ext4, DiskKind::Xfs];
/// How many lives one disk sees.
const LIVES: u32 = 12;

#[derive(Default)]
struct Tally {
    cycles: u64,
    failed: u64,
    writes: u64,
    reopened: u64,
    acks: u64,
    lost: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut dice = fastrand::Rng::with_seed(options.seed);
    for kind in KINDS {
        let begun = Instant::now();
        let mut tally = Tally::default();
        while begun.elapsed() < options.time / 2 {
            let seed = dice.u64(..);
            let end = begun + options.time / 2;
            match one_disk(kind, seed, end, &mut tally) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    return Err(format!("--seed {}, {kind}: {error}", options.seed).into());
                }
            }
        }
        if tally.cycles == 0 {
            continue;
        }
        let summary = json!({
            "campaign": "device: failed write-back",
            "seed": options.seed,
            "file_system": kind.to_string(),
            "cycles": tally.cycles,
            "failed_writes_of_the_device": tally.writes,
            "cycles_in_which_the_process_was_told": tally.failed,
            "reopened_on_the_same_mount": tally.reopened,
            "acks_checked": tally.acks,
            "acks_lost_as_the_mode_allows": tally.lost,
            "seconds": begun.elapsed().as_secs(),
        });
        println!("{summary}");
    }
    read_errors()
}

/// Returns `false` if this machine has no such disk.
fn one_disk(
    kind: DiskKind,
    seed: u64,
    end: Instant,
    tally: &mut Tally,
) -> Result<bool, Box<dyn Error>> {
    let Some((tape, _device, mut disk)) = tape::under(kind, "failed write-back") else {
        return Ok(false);
    };
    let dir = disk.path().join("store");
    let mut history = History::new(seed);
    let mut dice = fastrand::Rng::with_seed(seed);
    for number in 1..=LIVES {
        if Instant::now() >= end {
            break;
        }
        let life = Life::draw(seed, number, 50..600, &mut dice);
        let durability = life.durability;
        let mut child = Child::start(&dir, life, || 0)?;
        thread::sleep(Duration::from_millis(dice.u64(..300)));
        let before = tape.failed();
        tape.set_failing(true);
        let until = Instant::now() + Duration::from_millis(dice.u64(..1_000));
        while Instant::now() < until && !child.has_ended()? {
            thread::sleep(Duration::from_millis(5));
        }
        // In half of the cycles the process goes on for a while over a device that works again.
        if dice.bool() {
            tape.set_failing(false);
            thread::sleep(Duration::from_millis(dice.u64(..200)));
        }
        let (_, told) = child.kill()?;
        tape.set_failing(false);
        tape.forget();
        tally.cycles += 1;
        tally.failed += u64::from(!told.failed.is_empty());
        tally.writes += tape.failed() - before;
        let context = |error: String| {
            let kept = keep(&dir);
            let failed = &told.failed;
            format!("after life {number}, {durability:?}, {failed:?}: {error}; see {kept}")
        };
        // First on the same mount: the cache may hold what the device never got.
        let mut known = &told;
        let nothing = Told::nothing(life);
        if let Ok(store) = Store::open(&dir, child::options(durability)) {
            history
                .check(&View::Recovered(store.clone()), known, Loss::Power)
                .map_err(|error| context(format!("on the same mount: {error}")))?;
            store.close()?;
            tally.reopened += 1;
            known = &nothing;
        }
        disk.remount()?;
        let store = Store::open(&dir, child::options(durability))
            .map_err(|error| context(error.to_string()))?;
        history.check(&View::Recovered(store.clone()), known, Loss::Power).map_err(context)?;
        store.close()?;
    }
    tally.acks += history.acks;
    tally.lost += history.lost;
    Ok(true)
}

/// Sees how the program ends when blocks of the log cannot be read.
fn read_errors() -> Result<(), Box<dyn Error>> {
    let under = tape::under(DiskKind::Ext4, "blocks that cannot be read");
    let Some((tape, device, mut disk)) = under else { return Ok(()) };
    let dir = disk.path().join("store");
    fill(&dir)?;
    let log = fs::read_dir(dir.join("log"))?.flatten().map(|entry| entry.path());
    let mut segments: Vec<_> =
        log.filter(|path| path.extension() == Some("seg".as_ref())).collect();
    segments.sort();
    let victim = &segments[segments.len() / 2];
    let Some(block) = first_block(victim) else {
        println!("SKIPPED: blocks that cannot be read: filefrag does not say where they are");
        return Ok(());
    };
    // A few blocks in the middle of a segment, which is 64 KiB.
    tape.spoil(block + 4..block + 8);
    disk.remount()?;
    let mut ends = serde_json::Map::new();
    for arguments in [
        &["verify"][..],
        &["read", "--json"],
        &["read", "--json", "--stream", "s-1"],
        &["read", "--json", "--backward"],
        &["stat"],
        &["append"],
    ] {
        let (end, output) = run_tool(&dir, &device, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).replace('\n', "; ");
        ends.insert(arguments.join(" "), format!("{end}: {said}").into());
    }
    println!("{}", json!({ "campaign": "device: blocks that cannot be read", "ends": ends }));

    // The segment goes with those before it.
    let id = (segments.len() / 2 + 1).to_string();
    let take_out = ["repair", "--quarantine-segment", &id, "--keep", "newer"];
    let middle = repair(&dir, &device, &take_out)?;
    // The newest one is cut.
    let newest = segments.last().ok_or("there are segments")?;
    let block = first_block(newest).ok_or("filefrag said where the others are")?;
    tape.spoil(block + 2..block + 4);
    disk.remount()?;
    let (end, _) = run_tool(&dir, &device, &["append"])?;
    if end != "exit 4" {
        return Err(format!("append to an end that cannot be read: {end}").into());
    }
    let end = repair(&dir, &device, &["repair", "--cut-tail"])?;
    disk.remount()?;
    for command in ["verify", "append"] {
        let (end, output) = run_tool(&dir, &device, &[command])?;
        if end != "exit 0" {
            return Err(format!("{command} after the repairs: {end}, {output:?}").into());
        }
    }
    let campaign = "device: repair of what cannot be read";
    println!("{}", json!({ "campaign": campaign, "segment": middle, "end": end }));
    Ok(())
}

/// Carries out a repair, and returns what it could not save.
fn repair(
    dir: &Path,
    device: &Device,
    arguments: &[&str],
) -> Result<serde_json::Value, Box<dyn Error>> {
    let apply = [arguments, &["--apply", "--lose-acknowledged", "--json"]].concat();
    let (end, output) = run_tool(dir, device, &apply)?;
    if end != "exit 0" {
        return Err(format!("{apply:?} ended with {end}: {output:?}").into());
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let unreadable = report["unreadable"].clone();
    if unreadable.as_array().is_none_or(Vec::is_empty) {
        return Err(format!("{apply:?} found nothing that it could not read: {report}").into());
    }
    Ok(unreadable)
}

/// Runs the program with nothing in the cache, and returns how it ended, which was in good order.
fn run_tool(
    dir: &Path,
    device: &Device,
    arguments: &[&str],
) -> Result<(String, Output), Box<dyn Error>> {
    forget(dir)?;
    rustix::fs::fadvise(&File::open(device.path())?, 0, None, Advice::DontNeed)?;
    let mut command = Command::new(tool()?);
    command.arg(arguments[0]).arg(dir).args(&arguments[1..]);
    let output = command.stdin(Stdio::null()).output()?;
    let end = match (output.status.code(), output.status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code().is_none() || said.contains("panicked") {
        return Err(format!("{arguments:?} ended with {end}: {said}").into());
    }
    Ok((end, output))
}

/// Makes a closed store of some twenty segments.
fn fill(dir: &Path) -> Result<(), Box<dyn Error>> {
    let store = Store::open(dir, child::options(Durability::Os))?;
    for number in 0..800 {
        let stream = StreamId::new(format!("s-{}", number % 5))?;
        let payload = vec![b'x'; 1_500];
        let event = NewEvent::new(stream, EventType::new("sent")?, CodecId::RAW, payload);
        store.append_blocking(Append::new([event]))?;
    }
    Ok(store.close()?)
}

/// The block of the device on which a file begins.
fn first_block(path: &Path) -> Option<u64> {
    let output = Command::new("filefrag").args(["-b4096", "-v"]).arg(path).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().find(|line| line.trim_start().starts_with("0:"));
    let physical = first?.split(':').nth(2)?.split('.').next()?;
    physical.trim().parse().ok()
}

/// Drops the files of a store from the page cache.
fn forget(dir: &Path) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            forget(&path)?;
        } else {
            rustix::fs::fadvise(&File::open(path)?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
