//! `headwater dump`: what the bytes of a store say.

use std::io::Write;
use std::path::PathBuf;

use headwater::{Detail, DumpItem, DumpOptions, Position};
use serde_json::Value;

use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::output::{self, tame};

/// Shows headers, frames, records and entries, byte by byte, whether the store is well or not.
///
/// What does not validate is marked, and behind it the next header that is right is looked for.
/// The fields are those of docs/format.md; times are nanoseconds since 1970-01-01 UTC. Ends with
/// exit code 4 if anything did not validate.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// Show frames too
    #[arg(long)]
    frames: bool,
    /// Show frames and what they hold, terms of index files, and entries of TAILS
    #[arg(long)]
    records: bool,
    /// Only this segment of the events, by its id in decimal digits
    #[arg(long, value_name = "ID")]
    segment: Option<u64>,
    /// Only frames with this position or later ones
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Only frames with this position or earlier ones
    #[arg(long, value_name = "POSITION")]
    through: Option<u64>,
    /// Print one JSON object per item
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let detail = match (args.records, args.frames) {
        (true, _) => Detail::Records,
        (false, true) => Detail::Frames,
        (false, false) => Detail::Headers,
    };
    let options = DumpOptions {
        detail,
        segment: args.segment,
        from: args.from.map_or(Position::START, Position::new),
        through: args.through.map_or(Position::MAX, Position::new),
    };
    let mut out = output::open();
    let (mut file, mut shown, mut faults) = (PathBuf::new(), 0_u64, 0_u64);
    headwater::dump(&args.dir, &options, |item| {
        shown += 1;
        faults += u64::from(item.fault.is_some());
        if args.json {
            return output::json_line(&mut out, item);
        }
        if item.file != file {
            file.clone_from(&item.file);
            writeln!(out, "{}", file.display())?;
        }
        human(&mut out, item)
    })?;
    output::finish(out)?;
    match (shown, faults) {
        (0, _) => {
            let error = "there is nothing of that to show; `headwater stat` lists the segments";
            Err(Failure::Error(Exit::BadInput, error.into()))
        }
        (_, 0) => Ok(()),
        _ => Err(Failure::Told(Exit::Damaged)),
    }
}

fn human(out: &mut impl Write, item: &DumpItem) -> Result<(), Failure> {
    write!(out, "  {:>10} {:>9}  {:8}", item.offset, item.bytes, item.kind)?;
    if let Some(fault) = &item.fault {
        write!(out, "  INVALID: {fault}")?;
    }
    for (name, value) in &item.fields {
        match value {
            Value::String(text) => write!(out, "  {name}={}", tame(text, 300))?,
            other => write!(out, "  {name}={other}")?,
        }
    }
    Ok(writeln!(out)?)
}
