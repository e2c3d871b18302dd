//! `headwater tail`: the newest events, and those that come.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use headwater::{Position, ReadOnlyStore};

use crate::event::Printer;
use crate::exit::{EXIT_CODES, Failure};
use crate::output;
use crate::read::{Walk, intact};
use crate::selection::Selection;

/// How long to wait before looking again where the system tells of no change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Prints the newest events, and with --follow those that come as they are committed.
///
/// With --follow it runs until it is interrupted or nobody reads its output any more.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// How many of the newest events to begin with
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10)]
    lines: u64,
    /// Go on with new events as they are committed
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    selection: Selection,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut store = ReadOnlyStore::open(&args.dir)?;
    let query = args.selection.query();
    let mut seen = store.head();
    let newest = Walk {
        query: query.clone(),
        after: store.start(),
        before: Position::MAX,
        backward: true,
        limit: args.lines,
    };
    let mut events = Vec::new();
    newest.pages(&store, |page| {
        events.extend(page);
        Ok(())
    })?;
    events.reverse();
    let mut out = output::open();
    let mut printer = Printer::new(args.json, seen);
    printer.page(&mut out, &events)?;
    out.flush()?;
    drop(events);
    intact(&store)?;
    if !args.follow {
        return Ok(());
    }
    let changes = store.changes()?;
    loop {
        let head = store.refresh()?;
        if head == seen {
            intact(&store)?;
            changes.wait(LOOK_AGAIN);
            continue;
        }
        let fresh = Walk {
            query: query.clone(),
            after: seen,
            before: Position::MAX,
            backward: false,
            limit: u64::MAX,
        };
        fresh.pages(&store, |page| {
            printer.page(&mut out, &page)?;
            Ok(out.flush()?)
        })?;
        seen = head;
    }
}
