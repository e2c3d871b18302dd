//! `headwater retention`: removes the beginning of a log, or says what would go and what went.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use headwater::{
    Cutoff, OpenMode, Options, Passing, Position, ReadOnlyStore, Removal, RetentionError,
    RetentionReport, Store,
};
use serde::Serialize;

use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::output::{self, Align, Table, count, size};

/// Says what a cutoff would remove, and removes it with --apply; without a cutoff, shows the ledger.
///
/// Whole segments go, oldest first, and never the newest. A removal goes as far as the slowest
/// consumer group has read; with --force it goes on, and the ledger names the groups that it
/// passed. What is removed cannot be brought back but from a backup.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    #[command(flatten)]
    cutoff: CutoffArgs,
    /// Remove what groups have not read
    #[arg(long, requires = "cutoff")]
    force: bool,
    /// Remove it; no other program may write to the store meanwhile
    #[arg(long, requires = "cutoff")]
    apply: bool,
    /// Print one JSON object, or one per entry of the ledger
    #[arg(long)]
    json: bool,
}

/// What may go.
#[derive(Debug, clap::Args)]
#[group(id = "cutoff", multiple = false)]
struct CutoffArgs {
    /// Everything up to a position
    #[arg(long, value_name = "POSITION")]
    through: Option<u64>,
    /// What was committed longer ago, such as 30d, 12h or 90m
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// The oldest segments, as long as the others take more than so many bytes
    #[arg(long, value_name = "BYTES")]
    keep_bytes: Option<u64>,
}

/// What was or would be removed, as JSON.
#[derive(Debug, Serialize)]
struct Json<'a> {
    applied: bool,
    removed: Option<&'a Removal>,
    held_by: Vec<HolderJson<'a>>,
}

/// A group that has not read everything, as JSON.
#[derive(Debug, Serialize)]
struct HolderJson<'a> {
    group: &'a str,
    floor: Position,
}

fn age(text: &str) -> Result<Duration, String> {
    let span: jiff::Span = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let duration = span.to_duration(days).map_err(|error| error.to_string())?;
    Duration::try_from(duration).map_err(|_| "an age is not negative".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let passing = if args.force { Passing::Force } else { Passing::Refuse };
    let cutoff = match &args.cutoff {
        CutoffArgs { through: Some(position), .. } => Cutoff::Through(Position::new(*position)),
        CutoffArgs { older_than: Some(age), .. } => Cutoff::older_than(*age),
        CutoffArgs { keep_bytes: Some(bytes), .. } => Cutoff::KeepBytes(*bytes),
        _ => return show_ledger(args),
    };
    let report = if args.apply {
        let options = Options { mode: OpenMode::Open, ..Options::default() };
        let store = Store::open(&args.dir, options)?;
        let report = store.remove(cutoff, passing)?;
        store.close().map_err(|error| {
            Failure::because(Exit::Failed, "the store was not closed well", error)
        })?;
        report
    } else {
        ReadOnlyStore::open(&args.dir)?.would_remove(cutoff, passing)?
    };
    let mut out = output::open();
    if args.json {
        let holders = report.held_by.iter();
        let held_by =
            holders.map(|(group, floor)| HolderJson { group: group.as_str(), floor: *floor });
        let held_by = held_by.collect();
        let json = Json { applied: args.apply, removed: report.removed.as_ref(), held_by };
        output::json_line(&mut out, &json)?;
    } else {
        human(&mut out, &report, args.apply)?;
    }
    output::finish(out)
}

fn human(out: &mut impl Write, report: &RetentionReport, applied: bool) -> Result<(), Failure> {
    match &report.removed {
        None => writeln!(out, "nothing to remove")?,
        Some(removal) => {
            let verb = if applied { "removed" } else { "would remove" };
            writeln!(
                out,
                "{verb} positions {} through {}: {}, {}",
                removal.first,
                removal.through,
                count(removal.segments, "segment"),
                size(removal.bytes)
            )?;
            for (group, floor) in &removal.passed {
                writeln!(out, "passing group {group}, which has read up to {floor}")?;
            }
        }
    }
    for (group, floor) in &report.held_by {
        writeln!(out, "held by group {group}, which has read up to {floor}")?;
    }
    if !applied && report.removed.is_some() {
        writeln!(out, "nothing was removed; repeat with --apply to do so")?;
    }
    Ok(())
}

fn show_ledger(args: &Args) -> Result<(), Failure> {
    let store = ReadOnlyStore::open(&args.dir)?;
    let ledger = store.ledger()?;
    let mut out = output::open();
    if args.json {
        for removal in &ledger {
            output::json_line(&mut out, removal)?;
        }
    } else if ledger.is_empty() {
        writeln!(out, "nothing was ever removed")?;
    } else {
        writeln!(out, "the log starts after position {}", store.start())?;
        let mut table = Table::new(&[
            ("REMOVED", Align::Left),
            ("FIRST", Align::Right),
            ("THROUGH", Align::Right),
            ("SEGMENTS", Align::Right),
            ("BYTES", Align::Right),
            ("PASSED", Align::Left),
        ]);
        for removal in &ledger {
            let passed: Vec<_> = removal.passed.iter().map(|(group, _)| group.as_str()).collect();
            table.row([
                output::time_short(removal.at),
                removal.first.to_string(),
                removal.through.to_string(),
                removal.segments.to_string(),
                size(removal.bytes),
                passed.join(" "),
            ]);
        }
        table.write(&mut out, 0)?;
    }
    output::finish(out)
}

impl From<RetentionError> for Failure {
    fn from(error: RetentionError) -> Self {
        match error {
            RetentionError::Read(error) => error.into(),
            error => Self::Error(Exit::Failed, Box::new(error)),
        }
    }
}
