//! `headwater bench`: what this machine's device is good for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headwater::{
    Append, CodecId, Durability, EventType, NewEvent, OpenMode, Options, Query, QueryItem, Read,
    Store, StreamId,
};
use serde::Serialize;

use crate::exit::{EXIT_CODES, Exit, Failure, complain};
use crate::output::{self, Align, Table, per_second};

const PAYLOAD_BYTES: usize = 256;
/// The file that the device is measured with, filled with zeros before.
const BARE_BYTES: u64 = 16 * 1024 * 1024;
/// What one durable append of an event writes, about.
const BARE_WRITE: [u8; 448] = [0x5A; 448];
const STREAMS: u64 = 1_000;
/// Nothing is measured less often than this, whatever the time.
const ROUNDS_MIN: usize = 20;
const PARTS: u32 = 7;

/// Measures the device under a directory: its syncs, and appends, replay and loads on it.
///
/// It writes into a directory of its own below DIR, some hundred megabytes, and removes it at the
/// end. Other work on the machine shows in the results.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// A directory on the device, such as the one where stores are to be
    dir: PathBuf,
    /// About how long to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was measured, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    directory: PathBuf,
    file_system: String,
    device: String,
    kernel: String,
    processors: usize,
    payload_bytes: usize,
    results: Vec<Measured>,
}

/// One path.
#[derive(Debug, Serialize)]
struct Measured {
    what: &'static str,
    /// What an acknowledgement survives: power loss, or only the end of the process.
    durability: &'static str,
    rounds: usize,
    median_ns: u64,
    p99_ns: u64,
    events_per_second: u64,
}

/// A directory that goes when its measuring does.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            complain(&format!("warning: cannot remove {}", self.0.display()), Some(&error));
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let dir = fs::canonicalize(&args.dir).map_err(|error| {
        Failure::because(Exit::Failed, format!("cannot find {}", args.dir.display()), error)
    })?;
    let scratch = Scratch(dir.join(format!("headwater-bench-{}", std::process::id())));
    fs::create_dir(&scratch.0).map_err(|error| {
        Failure::because(Exit::Failed, format!("cannot write to {}", dir.display()), error)
    })?;
    let (file_system, device) = mounted(&dir);
    if matches!(file_system.as_str(), "tmpfs" | "ramfs") {
        complain(
            "warning: this is memory, and its syncs do nothing; measure where stores are",
            None,
        );
    }
    let part = Duration::from_secs(args.seconds.into()) / PARTS;
    let spinner = output::spinner("measuring");
    let measured = measure(&scratch.0, part);
    spinner.finish_and_clear();
    let results = measured
        .map_err(|error| Failure::Error(Exit::Failed, format!("cannot measure: {error}").into()))?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let report = Report {
        directory: dir,
        file_system,
        device,
        kernel: kernel.trim().to_owned(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        payload_bytes: PAYLOAD_BYTES,
        results,
    };
    drop(scratch);
    let mut out = output::open();
    if args.json {
        output::json_line(&mut out, &report)?;
    } else {
        human(&mut out, &report)?;
    }
    output::finish(out)
}

/// Returns the file system that a directory is on, and its device.
fn mounted(dir: &Path) -> (String, String) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?.replace("\\040", " "), words.next()?))
    });
    let holding = fields.filter(|(_, point, _)| dir.starts_with(point));
    match holding.max_by_key(|(_, point, _)| point.len()) {
        Some((device, _, kind)) => (kind.to_owned(), device.to_owned()),
        None => ("unknown".to_owned(), "unknown".to_owned()),
    }
}

type Anything<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn measure(scratch: &Path, part: Duration) -> Anything<Vec<Measured>> {
    let mut results = vec![bare(&scratch.join("bare"), part)?];
    for (durability, name) in [(Durability::Sync, "power loss"), (Durability::Os, "process end")] {
        let root = scratch.join(format!("store-{}", results.len()));
        let options = Options { mode: OpenMode::Create, durability, ..Options::default() };
        let store = Store::open(&root, options)?;
        results.push(append(&store, ("append 1 event", name), 1, part)?);
        results.push(append(&store, ("append 1,000 events", name), 1_000, part)?);
        if durability == Durability::Os {
            results.push(replay(&store, part)?);
            results.push(load(&store, part)?);
        }
        store.close()?;
        fs::remove_dir_all(&root)?;
    }
    Ok(results)
}

/// Repeats something for a while, and sorts how long it took each time.
fn repeat(
    (what, durability): (&'static str, &'static str),
    part: Duration,
    mut once: impl FnMut(u64) -> Anything<u64>,
) -> Anything<Measured> {
    let began = Instant::now();
    let (mut times, mut events) = (Vec::new(), 0);
    while times.len() < ROUNDS_MIN || began.elapsed() < part {
        let from = Instant::now();
        events += once(times.len() as u64)?;
        times.push(u64::try_from(from.elapsed().as_nanos()).unwrap_or(u64::MAX));
        // A round may take seconds.
        if began.elapsed() > part * 3 {
            break;
        }
    }
    let took = began.elapsed();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let events_per_second = per_second(events, took);
    let (rounds, median_ns, p99_ns) = (times.len(), at(50), at(99));
    Ok(Measured { what, durability, rounds, median_ns, p99_ns, events_per_second })
}

/// The least that a durable append can take: one write into blocks that exist, and one sync.
fn bare(path: &Path, part: Duration) -> Anything<Measured> {
    let file: File = OpenOptions::new().write(true).create_new(true).open(path)?;
    let zeros = vec![0; 64 * 1024];
    for at in (0..BARE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    let measured = repeat(("write and sync, bare", "power loss"), part, |round| {
        let slots = BARE_BYTES / BARE_WRITE.len() as u64;
        file.write_all_at(&BARE_WRITE, round % slots * BARE_WRITE.len() as u64)?;
        file.sync_data()?;
        Ok(1)
    });
    fs::remove_file(path)?;
    measured
}

fn event(number: u64) -> Anything<NewEvent> {
    // Scattered, so that neighbours in the log are of different streams.
    let stream = StreamId::new(format!("bench-{}", number.wrapping_mul(7_919) % STREAMS))?;
    Ok(NewEvent::new(stream, EventType::new("measured")?, CodecId::RAW, vec![0x42; PAYLOAD_BYTES]))
}

fn append(
    store: &Store,
    names: (&'static str, &'static str),
    events: u64,
    part: Duration,
) -> Anything<Measured> {
    repeat(names, part, |round| {
        let batch = (0..events).map(|n| event(round * events + n));
        store.append_blocking(Append::new(batch.collect::<Anything<Vec<_>>>()?))?;
        Ok(events)
    })
}

fn replay(store: &Store, part: Duration) -> Anything<Measured> {
    repeat(("replay everything", "-"), part, |_| {
        let mut scan = store.scan(headwater::Position::START)?;
        let (mut events, mut sum) = (0, 0_u64);
        while let Some(event) = scan.next() {
            let touched = event?.payload().iter().fold(0_u8, |sum, byte| sum ^ byte);
            (events, sum) = (events + 1, sum + u64::from(touched));
        }
        std::hint::black_box(sum);
        Ok(events)
    })
}

fn load(store: &Store, part: Duration) -> Anything<Measured> {
    repeat(("load 10 events of a stream", "-"), part, |round| {
        let stream = event(round)?.stream;
        let query = Query::item(QueryItem { streams: vec![stream], ..QueryItem::default() });
        let read = Read::backward(query, headwater::Position::MAX).limit(10);
        Ok(store.read_blocking(&read)?.events.len() as u64)
    })
}

fn micros(nanos: u64) -> String {
    format!("{}.{} µs", nanos / 1_000, nanos / 100 % 10)
}

fn human(out: &mut impl Write, report: &Report) -> Result<(), Failure> {
    let show = |out: &mut dyn Write| -> io::Result<()> {
        writeln!(out, "directory    {}", report.directory.display())?;
        writeln!(out, "file system  {} on {}", report.file_system, report.device)?;
        writeln!(out, "kernel       {}, {} processors", report.kernel, report.processors)?;
        writeln!(out, "payload      {} bytes an event", report.payload_bytes)
    };
    show(out)?;
    let mut table = Table::new(&[
        ("WHAT", Align::Left),
        ("SURVIVES", Align::Left),
        ("ROUNDS", Align::Right),
        ("MEDIAN", Align::Right),
        ("P99", Align::Right),
        ("EVENTS/S", Align::Right),
    ]);
    for row in &report.results {
        table.row([
            row.what.to_owned(),
            row.durability.to_owned(),
            row.rounds.to_string(),
            micros(row.median_ns),
            micros(row.p99_ns),
            row.events_per_second.to_string(),
        ]);
    }
    Ok(table.write(out, 0)?)
}
