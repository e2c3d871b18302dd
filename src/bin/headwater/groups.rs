//! `headwater groups`: how far the consumer groups are.

use std::io::Write;
use std::path::PathBuf;

use headwater::{GroupKind, GroupState, Order, Position, ReadOnlyStore};
use serde::Serialize;

use crate::exit::{EXIT_CODES, Failure};
use crate::output::{self, Align, Table, count};
use crate::read::intact_with_groups;
use crate::selection::describe;

/// Shows each consumer group: its floor, its lag, what it selects, and the progress of its slots.
///
/// Everything up to the floor is settled. The lag counts the log's events after it, whether the
/// group selects them or not.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// List the progress of the slots, however many runs of equal ones there are
    #[arg(long)]
    slots: bool,
    /// Print one JSON object per group
    #[arg(long)]
    json: bool,
}

/// More runs of slots than this are only counted, unless asked for.
const RUNS_SHOWN: usize = 8;

/// A group as JSON.
#[derive(Debug, Serialize)]
struct GroupJson<'a> {
    name: &'a str,
    floor: Position,
    lag: Option<u64>,
    lag_bytes: Option<u64>,
    generation: u64,
    start: Position,
    paused: bool,
    #[serde(flatten)]
    shape: &'a headwater::GroupShape,
    parked: usize,
    runs: Vec<RunJson<'a>>,
}

/// Neighbouring slots that are equally far, as JSON.
#[derive(Debug, Serialize)]
struct RunJson<'a> {
    first_slot: u16,
    last_slot: u16,
    floor: Position,
    settled: &'a [(Position, Position)],
    generation: u64,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let store = ReadOnlyStore::open(&args.dir)?;
    let mut out = output::open();
    for group in store.groups() {
        if args.json {
            output::json_line(&mut out, &json(group, &store))?;
        } else {
            human(&mut out, group, &store, args.slots)?;
        }
    }
    if store.groups().is_empty() && store.groups_damage().is_none() && !args.json {
        writeln!(out, "no consumer groups")?;
    }
    output::finish(out)?;
    intact_with_groups(&store)
}

/// Returns the lag in words.
pub(crate) fn lag(group: &GroupState, head: Position) -> String {
    match head.events_since(group.floor()) {
        Some(lag) => count(lag, "event"),
        None => "beyond the head".to_owned(),
    }
}

/// Returns how many bytes of the log lie behind the floor of a group. What cannot be read is the
/// matter of `verify`.
fn lag_bytes(group: &GroupState, store: &ReadOnlyStore) -> Option<u64> {
    store.bytes_between(group.floor(), store.head()).ok()
}

fn json<'a>(group: &'a GroupState, store: &ReadOnlyStore) -> GroupJson<'a> {
    let runs = group.runs().map(|(slots, progress)| RunJson {
        first_slot: slots.first().get(),
        last_slot: slots.last().get(),
        floor: progress.floor,
        settled: &progress.settled,
        generation: progress.generation.get(),
    });
    GroupJson {
        name: group.definition.name.as_str(),
        floor: group.floor(),
        lag: store.head().events_since(group.floor()),
        lag_bytes: lag_bytes(group, store),
        generation: group.generation.get(),
        start: group.definition.start,
        paused: group.paused,
        shape: &group.definition.shape,
        parked: group.parked().len(),
        runs: runs.collect(),
    }
}

fn human(
    out: &mut impl Write,
    group: &GroupState,
    store: &ReadOnlyStore,
    slots: bool,
) -> Result<(), Failure> {
    writeln!(out, "{}", group.definition.name)?;
    writeln!(out, "  floor       {}", group.floor())?;
    let bytes = lag_bytes(group, store).map_or(String::new(), |b| format!(", {}", output::size(b)));
    writeln!(out, "  lag         {}{bytes}", lag(group, store.head()))?;
    writeln!(out, "  generation  {}", group.generation)?;
    let shape = &group.definition.shape;
    let kind = match (shape.kind, shape.order) {
        (GroupKind::Consumer, Order::Key) => None,
        (GroupKind::Consumer, _) => Some("consumer, in global order"),
        (GroupKind::Share, Order::Key) => Some("share, in the order of keys"),
        (GroupKind::Share, _) => Some("share"),
    };
    if let Some(kind) = kind {
        writeln!(out, "  kind        {kind}")?;
    }
    writeln!(out, "  selection   {}", describe(&shape.selection))?;
    if let Some(pattern) = &shape.pattern {
        writeln!(out, "  pattern     {pattern}")?;
    }
    if group.paused {
        writeln!(out, "  paused      it delivers nothing until it is resumed")?;
    }
    if group.parked().len() > 0 {
        let sequences = count(group.parked().len() as u64, "sequence");
        writeln!(out, "  parked      {sequences}; `headwater parked` lists what")?;
    }
    let runs = group.runs().count();
    if runs > RUNS_SHOWN && !slots {
        let furthest = group.runs().map(|(_, progress)| progress.floor).max().unwrap_or_default();
        let floors = format!("with floors up to {furthest}");
        writeln!(out, "  slots       {runs} runs {floors}; --slots lists them")?;
        return Ok(());
    }
    let mut table = Table::new(&[
        ("SLOTS", Align::Left),
        ("FLOOR", Align::Right),
        ("GENERATION", Align::Right),
        ("SETTLED ABOVE", Align::Left),
    ]);
    for (slots, progress) in group.runs() {
        let settled = match progress.settled.as_slice() {
            [] => "-".to_owned(),
            [(first, last)] => format!("{first}-{last}"),
            [(first, _), .., (_, last)] => {
                format!("{} ranges in {first}-{last}", progress.settled.len())
            }
        };
        table.row([
            format!("{}-{}", slots.first(), slots.last()),
            progress.floor.to_string(),
            progress.generation.to_string(),
            settled,
        ]);
    }
    Ok(table.write(out, 2)?)
}
