//! `headwater read`: events by position, in either direction.

use std::path::PathBuf;

use headwater::{
    Direction, OpenError, Position, Query, Read, ReadError, ReadOnlyStore, RecordedEvent,
};

use crate::event::Printer;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::output;
use crate::selection::Selection;

/// Prints events, oldest first unless asked otherwise.
///
/// With --json each event is one JSON object on its own line, in a form that `headwater append`
/// accepts: what the target gives anew (position, revision, commit time, slot) is ignored there.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    #[command(flatten)]
    selection: Selection,
    /// Only events after this position, which must lie in the log; everything there is by default
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// Only events before this position
    #[arg(long, value_name = "POSITION")]
    before: Option<u64>,
    /// Newest first
    #[arg(long)]
    backward: bool,
    /// At most so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let store = ReadOnlyStore::open(&args.dir)?;
    let (after, head) = (args.after.map_or(store.start(), Position::new), store.head());
    if after > head {
        return Err(ReadError::BeyondHead { asked: after, head }.into());
    }
    let before = args.before.map_or(Position::MAX, Position::new);
    let walk = Walk {
        query: args.selection.query(),
        after,
        before,
        backward: args.backward,
        limit: args.limit.unwrap_or(u64::MAX),
    };
    let mut out = output::open();
    let mut printer = Printer::new(args.json, head);
    let count = walk.pages(&store, |events| printer.page(&mut out, &events))?;
    output::finish(out)?;
    // The damage cuts the log short; whoever got all they asked for is not concerned.
    let satisfied = count == walk.limit && !walk.backward || before <= head.next();
    if satisfied { Ok(()) } else { intact(&store) }
}

/// Fails if the events end before some damage, so that nobody takes that for the end of the log.
pub(crate) fn intact(store: &ReadOnlyStore) -> Result<(), Failure> {
    none(store.damage())
}

/// Fails if the events or the progress of the groups are cut short by damage.
pub(crate) fn intact_with_groups(store: &ReadOnlyStore) -> Result<(), Failure> {
    intact(store).and_then(|()| none(store.groups_damage()))
}

fn none(damage: Option<&OpenError>) -> Result<(), Failure> {
    match damage {
        Some(damage) => Err(Failure::Error(Exit::Damaged, Box::new(damage.clone()))),
        None => Ok(()),
    }
}

/// A range of events to go through, page by page.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Which events.
    pub(crate) query: Query,
    /// After this position.
    pub(crate) after: Position,
    /// Before this position.
    pub(crate) before: Position,
    /// Whether to begin at the newest.
    pub(crate) backward: bool,
    /// At most so many events.
    pub(crate) limit: u64,
}

impl Walk {
    /// Hands over the events page by page, and returns how many there were.
    pub(crate) fn pages(
        &self,
        store: &ReadOnlyStore,
        mut each: impl FnMut(Vec<RecordedEvent>) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let mut count = 0;
        let mut from = if self.backward {
            Direction::Before(self.before)
        } else {
            Direction::After(self.after)
        };
        while count < self.limit {
            let room = usize::try_from(self.limit - count).unwrap_or(usize::MAX);
            let read = Read { direction: from, ..Read::forward(self.query.clone(), self.after) }
                .limit(room.min(Read::LIMIT));
            let mut page = store.read(&read)?;
            page.events.retain(|e| e.position > self.after && e.position < self.before);
            count += page.events.len() as u64;
            each(page.events)?;
            let past = if self.backward {
                page.scanned <= self.after.next()
            } else {
                page.scanned.next() >= self.before
            };
            if page.done || past {
                break;
            }
            from = if self.backward {
                Direction::Before(page.scanned)
            } else {
                Direction::After(page.scanned)
            };
        }
        Ok(count)
    }
}
