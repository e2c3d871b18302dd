//! `headwater parked`: what groups have set aside, and what becomes of it.

use std::io::Write;
use std::path::{Path, PathBuf};

use headwater::{
    GroupChange, GroupLog, GroupName, GroupState, OpenMode, Options, Parked, ParkedState, Position,
    ReadOnlyStore, Store,
};
use serde::Serialize;

use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::output::{self, Align, Table, tame, time_short};
use crate::read::intact_with_groups;

/// Lists the sequences that a group has parked: what failed, how often, and why. Without a group,
/// those of all groups.
///
/// With --redrive their events are delivered again, in order, before newer ones of their key;
/// with --discard they count as settled. That is for stores that no program has open: a running
/// program does the same with its own group.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// The group
    group: Option<GroupName>,
    /// Deliver the sequence again that began with the event at this position
    #[arg(long, value_name = "POSITION", requires = "group", conflicts_with = "discard")]
    redrive: Vec<u64>,
    /// Deliver everything again that waits
    #[arg(long, requires = "group", conflicts_with_all = ["redrive", "discard"])]
    redrive_all: bool,
    /// Give the sequence up that began with the event at this position
    #[arg(long, value_name = "POSITION", requires = "group")]
    discard: Vec<u64>,
    /// Print one JSON object per sequence
    #[arg(long)]
    json: bool,
}

/// A parked sequence as JSON.
#[derive(Debug, Serialize)]
struct Json<'a> {
    group: &'a GroupName,
    #[serde(flatten)]
    parked: &'a Parked,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(group) = &args.group {
        change(args, group)?;
    }
    show(args)
}

/// Does what was asked for, if anything was.
fn change(args: &Args, group: &GroupName) -> Result<(), Failure> {
    let mut changes: Vec<(Position, ParkedState)> = Vec::new();
    let redriven = args.redrive.iter().map(|&at| (Position::new(at), ParkedState::Redriving));
    changes.extend(redriven);
    changes.extend(args.discard.iter().map(|&at| (Position::new(at), ParkedState::Done)));
    if args.redrive_all {
        let store = ReadOnlyStore::open(&args.dir)?;
        let state = find(&store, group, &args.dir)?;
        let waits = |parked: &&Parked| parked.state == ParkedState::Waiting;
        let first = state.parked().filter(waits).map(|p| (p.first, ParkedState::Redriving));
        changes.extend(first);
    }
    if changes.is_empty() {
        return Ok(());
    }
    let options = Options { mode: OpenMode::Open, ..Options::default() };
    let store = Store::open(&args.dir, options)?;
    for (first, state) in changes {
        let change = GroupChange::Parked(first, state);
        pollster::block_on(store.change_group(group, change)).map_err(|error| {
            Failure::because(Exit::BadInput, format!("nothing was done at position {first}"), error)
        })?;
    }
    store
        .close()
        .map_err(|error| Failure::because(Exit::Failed, "the store was not closed well", error))
}

fn find<'a>(
    store: &'a ReadOnlyStore,
    group: &GroupName,
    dir: &Path,
) -> Result<&'a GroupState, Failure> {
    let found = store.groups().iter().find(|state| state.definition.name == *group);
    found.ok_or_else(|| {
        let hint = format!("`headwater groups {}` lists those there are", dir.display());
        Failure::Error(Exit::BadInput, format!("there is no group {group}; {hint}").into())
    })
}

fn show(args: &Args) -> Result<(), Failure> {
    let store = ReadOnlyStore::open(&args.dir)?;
    let groups: Vec<&GroupState> = match &args.group {
        Some(group) => vec![find(&store, group, &args.dir)?],
        None => store.groups().iter().collect(),
    };
    let mut out = output::open();
    let mut table = Table::new(&[
        ("GROUP", Align::Left),
        ("FIRST", Align::Right),
        ("KEY", Align::Left),
        ("NEXT", Align::Right),
        ("THROUGH", Align::Right),
        ("ATTEMPTS", Align::Right),
        ("SINCE", Align::Left),
        ("STATE", Align::Left),
        ("CAUSE", Align::Left),
    ]);
    let mut sequences = 0;
    for state in groups {
        let group = &state.definition.name;
        for parked in state.parked() {
            sequences += 1;
            if args.json {
                output::json_line(&mut out, &Json { group, parked })?;
                continue;
            }
            table.row([
                group.to_string(),
                parked.first.to_string(),
                parked.key.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                parked.next.to_string(),
                parked.through.to_string(),
                parked.attempts.to_string(),
                time_short(parked.since),
                match parked.state {
                    ParkedState::Waiting => "waits".to_owned(),
                    _ => "is delivered again".to_owned(),
                },
                tame(&parked.cause, 80),
            ]);
        }
    }
    if !args.json {
        if sequences > 0 {
            table.write(&mut out, 0)?;
        } else {
            writeln!(out, "nothing is parked")?;
        }
    }
    output::finish(out)?;
    intact_with_groups(&store)
}
