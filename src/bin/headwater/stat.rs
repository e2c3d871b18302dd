//! `headwater stat`: what a store is and how full.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use headwater::{LogId, Position, ReadOnlyStore, SegmentSummary};
use serde::Serialize;

use crate::damage::Damage;
use crate::exit::{EXIT_CODES, Failure};
use crate::groups::lag;
use crate::output::{self, Align, Table, count, size};
use crate::read::intact_with_groups;

/// Shows what a store is: identity, head, segments, consumer groups, damage.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A store as JSON.
#[derive(Debug, Serialize)]
struct StatJson<'a> {
    id: LogId,
    created: String,
    head: Position,
    last_commit_time: Option<String>,
    clean: bool,
    epoch: u32,
    segments: Vec<SegmentJson>,
    groups: Vec<GroupJson<'a>>,
    quarantine_files: usize,
    damage: Option<Damage>,
    groups_damage: Option<Damage>,
}

/// A segment as JSON.
#[derive(Debug, Serialize)]
struct SegmentJson {
    file: String,
    base: Position,
    events: u32,
    used_bytes: u64,
    capacity_bytes: u64,
}

/// A consumer group as JSON, in short: `headwater groups` has the rest.
#[derive(Debug, Serialize)]
struct GroupJson<'a> {
    name: &'a str,
    floor: Position,
    lag: Option<u64>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let store = ReadOnlyStore::open(&args.dir)?;
    let mut out = output::open();
    if args.json {
        output::json_line(&mut out, &json(&store, &args.dir)?)?;
    } else {
        human(&mut out, &store, &args.dir)?;
    }
    output::finish(out)?;
    intact_with_groups(&store)
}

fn json<'a>(store: &'a ReadOnlyStore, dir: &Path) -> Result<StatJson<'a>, Failure> {
    let segment = |segment: SegmentSummary| SegmentJson {
        file: segment.file,
        base: segment.base,
        events: segment.events,
        used_bytes: segment.used_bytes,
        capacity_bytes: segment.capacity_bytes,
    };
    let groups = store.groups().iter().map(|group| GroupJson {
        name: group.definition.name.as_str(),
        floor: group.floor(),
        lag: store.head().events_since(group.floor()),
    });
    Ok(StatJson {
        id: store.id(),
        created: output::time(store.created()),
        head: store.head(),
        last_commit_time: store.last_commit_time().map(output::time),
        clean: store.is_clean(),
        epoch: store.epoch(),
        segments: store.segments()?.into_iter().map(segment).collect(),
        groups: groups.collect(),
        quarantine_files: quarantined(dir),
        damage: store.damage().map(|error| Damage::of_opening(error, dir)),
        groups_damage: store.groups_damage().map(|error| Damage::of_groups(error, dir)),
    })
}

fn human(out: &mut impl Write, store: &ReadOnlyStore, dir: &Path) -> Result<(), Failure> {
    let head = store.head();
    let closed = if store.is_clean() {
        "yes"
    } else {
        "no: a writer has it open, or the last one stopped without closing it"
    };
    writeln!(out, "store     {}", store.id())?;
    writeln!(out, "created   {}", output::time_short(store.created()))?;
    writeln!(out, "head      {head}")?;
    match store.last_commit_time() {
        Some(time) => {
            writeln!(out, "last      {} ({})", output::time_short(time), output::ago(time))?;
        }
        None => writeln!(out, "last      no events yet")?,
    }
    writeln!(out, "closed    {closed}")?;
    writeln!(out, "opened    {} to write", count(store.epoch().into(), "time"))?;
    let segments = store.segments()?;
    let used = segments.iter().map(|segment| segment.used_bytes).sum();
    let capacity = segments.iter().map(|segment| segment.capacity_bytes).sum();
    writeln!(out, "segments  {}, {} of {} used", segments.len(), size(used), size(capacity))?;
    if !segments.is_empty() {
        let mut table = Table::new(&[
            ("FILE", Align::Left),
            ("FIRST", Align::Right),
            ("EVENTS", Align::Right),
            ("USED", Align::Right),
            ("CAPACITY", Align::Right),
        ]);
        for segment in segments {
            table.row([
                segment.file,
                segment.base.to_string(),
                segment.events.to_string(),
                size(segment.used_bytes),
                size(segment.capacity_bytes),
            ]);
        }
        table.write(out, 2)?;
    }
    writeln!(out, "groups    {}", store.groups().len())?;
    if !store.groups().is_empty() {
        let mut table =
            Table::new(&[("NAME", Align::Left), ("FLOOR", Align::Right), ("LAG", Align::Right)]);
        for group in store.groups() {
            let name = group.definition.name.to_string();
            table.row([name, group.floor().to_string(), lag(group, head)]);
        }
        table.write(out, 2)?;
    }
    let kept = quarantined(dir);
    if kept > 0 {
        let files = count(kept as u64, "file");
        writeln!(out, "set aside {files} in quarantine/, by recovery or a repair")?;
    }
    let events = store.damage().map(|error| Damage::of_opening(error, dir));
    let groups = store.groups_damage().map(|error| Damage::of_groups(error, dir));
    if events.is_none() && groups.is_none() {
        writeln!(out, "damage    none found")?;
    }
    events.iter().chain(&groups).try_for_each(|damage| damage.write(out))
}

/// Counts what recovery and repairs have kept.
fn quarantined(dir: &Path) -> usize {
    // None is the usual case, and no reason to fail.
    fs::read_dir(dir.join("quarantine")).map_or(0, Iterator::count)
}
