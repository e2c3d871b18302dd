//! `headwater verify`: reads everything and checks all that can be checked.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headwater::{Severity, VerifyDepth, VerifyOptions, VerifyReport};
use serde::Serialize;

use crate::damage::Damage;
use crate::exit::{EXIT_CODES, Exit, Failure, is_damage};
use crate::output::{self, count, rate, size};

/// Reads a whole store and checks every checksum, position, revision and link.
///
/// With --deep it checks what is derived too: that every event is found by its stream, category,
/// type, tags and append id in the index files, and nothing else; the digests of appends; and it
/// lists what lies about. Memory is bounded: about 40 bytes for each event of as many segments as
/// there are threads, and --memory for the streams, which are checked in several passes if there
/// are more. Nothing is changed, and beside a live writer it checks what was committed when it
/// began.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// Check what is derived from the log too
    #[arg(long)]
    deep: bool,
    /// How many segments to check at a time; as many as there are processors, but 4 at most
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// How much memory the streams may take
    #[arg(long, value_name = "SIZE", value_parser = crate::append::parse_size, default_value = "256MiB")]
    memory: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was found, as JSON.
#[derive(Debug, Serialize)]
struct Json<'a> {
    ok: bool,
    deep: bool,
    seconds: f64,
    #[serde(flatten)]
    report: &'a VerifyReport,
    damage: Vec<Damage>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let options = VerifyOptions {
        depth: if args.deep { VerifyDepth::Everything } else { VerifyDepth::Log },
        streams_bytes: args.memory,
        threads: args.threads.unwrap_or(VerifyOptions::default().threads),
    };
    let began = Instant::now();
    let bar = output::bar(events(&args.dir));
    let checked = headwater::verify(&args.dir, &options, &|events, _| bar.inc(events));
    bar.finish_and_clear();
    let (mut report, opening) = match checked {
        Ok(report) => (report, None),
        Err(error) if is_damage(&error) => {
            (VerifyReport::default(), Some(Damage::of_opening(&error, &args.dir)))
        }
        Err(error) => return Err(error.into()),
    };
    let is_whole = opening.is_none() && report.worst() < Some(Severity::Damage);
    let ok = is_whole && report.worst() < Some(Severity::Derived);
    let faults = std::mem::take(&mut report.faults);
    let faults = faults.iter().map(|fault| Damage::of_fault(fault, &args.dir));
    let damage: Vec<Damage> = opening.into_iter().chain(faults).collect();
    let seconds = began.elapsed().as_secs_f64();
    let mut out = output::open();
    if args.json {
        let json = Json { ok, deep: args.deep, seconds, report: &report, damage };
        output::json_line(&mut out, &json)?;
    } else {
        human(&mut out, args.deep, &report, &damage, began.elapsed())?;
        if ok {
            writeln!(out, "ok")?;
        }
    }
    output::finish(out)?;
    match (ok, is_whole) {
        (true, _) => Ok(()),
        (false, true) => Err(Failure::Told(Exit::Todo)),
        (false, false) => Err(Failure::Told(Exit::Damaged)),
    }
}

/// Returns how many events there are to check, if somebody sees a bar.
fn events(dir: &Path) -> u64 {
    if !io::stderr().is_terminal() {
        return 0;
    }
    // If it cannot be opened, checking says why.
    let store = headwater::ReadOnlyStore::open(dir);
    store.map_or(0, |store| store.head().events_since(store.start()).unwrap_or(0))
}

fn human(
    out: &mut impl Write,
    deep: bool,
    report: &VerifyReport,
    damage: &[Damage],
    took: Duration,
) -> Result<(), Failure> {
    let parts = [
        count(report.events, "event"),
        count(report.streams, "stream"),
        count(report.segments as u64, "segment"),
        count(report.groups as u64, "group"),
        size(report.bytes),
    ];
    writeln!(out, "checked   {}", parts.join(", "))?;
    if deep {
        let parts = [
            count(report.indexes as u64, "index file"),
            count(report.append_ids, "append id"),
            count(report.tails, "end of a removed stream"),
        ];
        writeln!(out, "derived   {}", parts.join(", "))?;
        let passes = count(report.passes.into(), "pass");
        writeln!(
            out,
            "speed     {}, {}/s, {passes}",
            rate(report.events, "events", took),
            size(output::per_second(report.bytes, took))
        )?;
        for kept in &report.quarantine {
            writeln!(out, "set aside quarantine/{}, {}", kept.file, size(kept.bytes))?;
        }
    }
    for fault in damage {
        fault.write(out)?;
    }
    if report.faults_left_out > 0 {
        writeln!(out, "and {} more", report.faults_left_out)?;
    }
    Ok(())
}
