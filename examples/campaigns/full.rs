//! A disk that is full at any point: a store is opened and written to while so many pages are free,
//! is refused what does not fit, and goes on where it was once there is space.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use headwater::{
    Append, AppendError, CodecId, Durability, EventLog, EventType, GroupLog, NewEvent, NewGroup,
    OpenError, Position, SlotCommit, SlotProgress, SlotRange, Store, StreamId, Visibility,
};
use headwater_testkit::{Ballast, Disk, DiskError, DiskKind, MemoryDisk};
use pollster::block_on;
use serde_json::json;

use crate::child::{self, group};
use crate::options::Options;

const DISK_BYTES: u64 = 16 * 1024 * 1024;
/// How many pages are free at most, which is room for a few segments and for the groups.
const PAGES_MAX: u64 = 1_300;
/// How many appends a store takes at most; more than fit.
const APPENDS: u64 = 10_000;

#[derive(Default)]
struct Tally {
    points: u64,
    not_opened: u64,
    refused: u64,
    acks: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let memory = MemoryDisk::new(DISK_BYTES);
    report("tmpfs", memory.as_ref().map(MemoryDisk::path), options)?;
    let image = tempfile::NamedTempFile::new()?;
    image.as_file().set_len(DISK_BYTES)?;
    let disk = Disk::new_on(DiskKind::Ext4, image.path());
    let path = disk.as_ref().map(Disk::path);
    report("ext4", path.as_ref().map(std::path::PathBuf::as_path).map_err(|error| *error), options)
}

fn report(
    name: &str,
    path: Result<&Path, &DiskError>,
    options: &Options,
) -> Result<(), Box<dyn Error>> {
    let path = match path {
        Ok(path) => path,
        Err(error) => {
            println!("SKIPPED: a full {name}: {error}");
            return Ok(());
        }
    };
    let mut tally = Tally::default();
    let begun = Instant::now();
    let mut dice = fastrand::Rng::with_seed(options.seed);
    let mut points: Vec<u64> = (0..PAGES_MAX).collect();
    dice.shuffle(&mut points);
    for pages in points {
        if begun.elapsed() > options.time / 2 {
            break;
        }
        let result = fill(path, pages, &mut tally);
        result.map_err(|error| format!("{name} with {pages} pages: {error}"))?;
        fs::remove_dir_all(path.join("store"))?;
    }
    let summary = json!({
        "campaign": "full",
        "seed": options.seed,
        "file_system": name,
        "points": tally.points,
        "points_planned": PAGES_MAX,
        "points_at_which_the_store_was_not_opened": tally.not_opened,
        "points_at_which_an_append_was_refused": tally.refused,
        "acks_checked": tally.acks,
        "seconds": begun.elapsed().as_secs(),
    });
    println!("{summary}");
    Ok(())
}

fn append(number: u64) -> Append {
    let stream = StreamId::new(format!("s-{}", number % 3)).expect("letters and numbers");
    let payload =
        format!("{number} {}", "x".repeat(usize::try_from(number * 37 % 2_900).unwrap_or(0)));
    let kind = EventType::new("sent").expect("a word");
    Append::new([NewEvent::new(stream, kind, CodecId::RAW, payload)])
}

/// Fills one store.
fn fill(path: &Path, pages: u64, tally: &mut Tally) -> Result<(), Box<dyn Error>> {
    let dir = path.join("store");
    let durability = [Durability::Sync, Durability::INTERVAL, Durability::Os]
        [usize::try_from(pages % 3).expect("less than three")];
    let mut ballast = Some(Ballast::leaving(path, pages * 4096)?);
    tally.points += 1;
    let store = match Store::open(&dir, child::options(durability)) {
        Ok(store) => store,
        Err(OpenError::StorageFull { .. }) => {
            tally.not_opened += 1;
            ballast = None;
            Store::open(&dir, child::options(durability))?
        }
        Err(error) => return Err(error.into()),
    };
    let mut number = 0;
    let mut acks = Vec::new();
    while ballast.is_some() {
        match store.append_blocking(append(number)) {
            Ok(done) => acks.push(done.first),
            Err(AppendError::StorageFull(_)) => break,
            Err(error) => return Err(error.into()),
        }
        number += 1;
        if number == APPENDS {
            return Err("the disk is never full".into());
        }
        if number % 100 == 0 {
            // The groups may find no space either, and disturb nobody.
            let _ = commit(&store);
        }
    }
    tally.refused += u64::from(ballast.is_some());
    check(&store, &acks)?;
    // Whoever filled the disk makes room.
    drop(ballast);
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match store.append_blocking(append(number)) {
            Ok(done) => break acks.push(done.first),
            // The file system may give space back a little later.
            Err(AppendError::StorageFull(_)) if Instant::now() < until => {}
            Err(error) => return Err(format!("with space again: {error}").into()),
        }
    }
    commit(&store)?;
    check(&store, &acks)?;
    store.close()?;
    let store = Store::open(&dir, child::options(durability))?;
    check(&store, &acks)?;
    tally.acks += acks.len() as u64;
    Ok(store.close()?)
}

fn commit(store: &Store) -> Result<(), Box<dyn Error>> {
    block_on(store.open_group(NewGroup::consumer(group())))?;
    let generation = block_on(store.claim_slots(&group(), vec![SlotRange::all()]))?;
    let floor = block_on(store.head(Visibility::Committed))?;
    let progress = SlotProgress { floor, generation, ..SlotProgress::default() };
    Ok(block_on(
        store.commit_slots(&group(), vec![SlotCommit { slots: SlotRange::all(), progress }]),
    )?)
}

/// The log is what was acknowledged, and nothing else.
fn check(store: &Store, acks: &[Position]) -> Result<(), Box<dyn Error>> {
    let mut scan = store.scan(Position::START)?;
    for (number, position) in (0..).zip(acks) {
        let event = scan.next().ok_or_else(|| format!("{position} is gone"))??;
        let sent = append(number);
        if event.position() != *position || event.payload() != sent.events[0].payload {
            return Err(format!("{position} holds something else").into());
        }
    }
    if scan.next().is_some() {
        return Err("there is more than was acknowledged".into());
    }
    Ok(())
}
