//! `headwater repair`: what can be kept of a damaged store that has no backup.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use headwater::{
    Effort, Fault, Keep, Loss, Lost, Remedy, Repair, RepairError, RepairReport, RepairStep,
    Severity, Unreadable, VerifyOptions,
};
use serde::Serialize;

use crate::damage::Damage;
use crate::exit::{EXIT_CODES, Exit, Failure, complain, is_damage};
use crate::output::{self, count, size, tame};

/// Ranges that cannot be read are shown up to this many.
const RANGES_SHOWN: usize = 20;

const ORDER: &str = "\
A backup is better than a repair. Without one: copy the directory; run `headwater repair DIR`, which
says what is damaged and which repair may help; run that repair, which only says what it would do;
read what would be lost; run it again with --apply.

Whatever stops counting is copied to quarantine/ in the store before it is touched, and stays there
until somebody removes it. Blocks that the device does not give are zeros in the copy; a text beside
it says which. A repair that was interrupted says how far it came, and is finished by running it
again. Consumer groups are set back by the repair itself.

Where the log ends earlier than before, positions and revisions are given anew, to other events. A
projection that had seen the old ones refuses to run once the log has grown to its checkpoint again
and until then, since its checkpoint is beyond the head; rebuild it. Nothing else notices: who
keeps positions elsewhere must start over from before the cut.

Where the log begins later than before (--keep newer), the streams go on with the revision behind
the last one that could be read. If the last events of a stream were in what could not be read, and
nothing of it is behind, their revisions are given anew, to other events. Who expects a revision of
such a stream, or keeps one elsewhere, must load it again.

";

/// Says what is damaged, and repairs it where there is no backup.
///
/// Without --apply nothing is changed: it says what it would do, and what would be lost.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("{ORDER}{EXIT_CODES}"), after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    #[command(flatten)]
    what: What,
    /// Which segments stay, where there are some on both sides
    #[arg(long, value_enum, requires = "quarantine_segment")]
    keep: Option<Side>,
    /// Do it; no other program may write to the store meanwhile
    #[arg(long, requires = "what")]
    apply: bool,
    /// Accept that events are lost that were acknowledged, or may have been
    #[arg(long, requires = "apply")]
    lose_acknowledged: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is repaired.
#[derive(Debug, clap::Args)]
#[group(id = "what", multiple = false)]
struct What {
    /// Cut off the end of the log that does not validate
    #[arg(long)]
    cut_tail: bool,
    /// Take a segment out that is damaged or missing, with all that are older or newer
    #[arg(long, value_name = "ID")]
    quarantine_segment: Option<u64>,
    /// Build index files anew that are missing, damaged, or do not agree with the log
    #[arg(long)]
    reindex: bool,
}

/// Which side stays.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Side {
    /// The log ends before the segment
    Older,
    /// The log begins behind the segment
    Newer,
}

/// What a look at the store found, as JSON.
#[derive(Debug, Serialize)]
struct Found {
    damage: Vec<Damage>,
    repairs: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let what = match &args.what {
        What { cut_tail: true, .. } => Repair::CutTail,
        What { reindex: true, .. } => Repair::Reindex,
        What { quarantine_segment: Some(id), .. } => {
            let keep = args.keep.map(|side| match side {
                Side::Older => Keep::Older,
                Side::Newer => Keep::Newer,
            });
            Repair::QuarantineSegment { id: *id, keep }
        }
        _ => return look(args),
    };
    let loss = if args.lose_acknowledged { Loss::Accept } else { Loss::Refuse };
    let effort = if args.apply { Effort::Apply } else { Effort::DryRun };
    let spinner = output::spinner(if args.apply { "repairing" } else { "looking" });
    let repaired = headwater::repair(&args.dir, what, loss, effort);
    spinner.finish_and_clear();
    let report = repaired.map_err(|error| tell_how_far(&error).unwrap_or_else(|| error.into()))?;
    let mut out = output::open();
    if args.json {
        output::json_line(&mut out, &report)?;
    } else {
        human(&mut out, &report)?;
    }
    output::finish(out)?;
    let is_left = !report.applied && !report.steps.is_empty();
    if is_left { Err(Failure::Told(Exit::Todo)) } else { Ok(()) }
}

/// Says what was done and what was not, where a repair stopped on the way.
fn tell_how_far(error: &RepairError) -> Option<Failure> {
    let RepairError::Interrupted { done, left, .. } = error else { return None };
    complain(&format!("error: {error}"), error.source());
    let did = done.iter().map(|step| ("did      ", step));
    for (word, step) in did.chain(left.iter().map(|step| ("not done ", step))) {
        complain(&format!("{word} {}", describe(step)), None);
    }
    Some(Failure::Told(Exit::Failed))
}

/// Says what is damaged and what may help.
fn look(args: &Args) -> Result<(), Failure> {
    let spinner = output::spinner("checking");
    let checked = headwater::verify(&args.dir, &VerifyOptions::default(), &|_, _| {});
    spinner.finish_and_clear();
    let (damage, mut remedies): (Vec<Damage>, Vec<Remedy>) = match checked {
        Ok(report) => {
            let is_bad = |f: &&Fault| f.remedy.is_some() || f.severity == Severity::Damage;
            let bad: Vec<_> = report.faults.iter().filter(is_bad).collect();
            let damage = bad.iter().map(|fault| Damage::of_fault(fault, &args.dir)).collect();
            (damage, bad.iter().filter_map(|fault| fault.remedy).collect())
        }
        Err(error) if is_damage(&error) => {
            let damage = vec![Damage::of_opening(&error, &args.dir)];
            (damage, error.remedy().into_iter().collect())
        }
        Err(error) => return Err(error.into()),
    };
    remedies.sort_unstable();
    remedies.dedup();
    let repairs = remedies.iter().map(|remedy| remedy.command(&args.dir)).collect();
    let found = Found { damage, repairs };
    let mut out = output::open();
    if args.json {
        output::json_line(&mut out, &found)?;
    } else {
        for damage in &found.damage {
            damage.write(&mut out)?;
        }
        for command in &found.repairs {
            writeln!(out, "may help  {command}")?;
        }
        if found.damage.is_empty() {
            writeln!(out, "nothing to repair")?;
        }
    }
    output::finish(out)?;
    match (&found.damage[..], &found.repairs[..]) {
        ([], _) => Ok(()),
        // No repair helps, only a backup.
        (_, []) => Err(Failure::Told(Exit::Damaged)),
        _ => Err(Failure::Told(Exit::Todo)),
    }
}

fn human(out: &mut impl Write, report: &RepairReport) -> Result<(), Failure> {
    if report.steps.is_empty() {
        return Ok(writeln!(out, "nothing to repair")?);
    }
    let verb = if report.applied { "did  " } else { "would" };
    for step in &report.steps {
        writeln!(out, "{verb}     {}", describe(step))?;
    }
    for lost in &report.lost {
        write_lost(out, lost)?;
    }
    for unreadable in &report.unreadable {
        write_unreadable(out, unreadable)?;
    }
    for kept in &report.kept {
        writeln!(out, "kept      {}", kept.display())?;
    }
    if !report.applied {
        let accept = if report.loses_acknowledged() { " --lose-acknowledged" } else { "" };
        writeln!(out, "nothing was changed; to do it, add --apply{accept}")?;
    }
    Ok(())
}

fn describe(step: &RepairStep) -> String {
    let show = |path: &Path| path.display().to_string();
    match step {
        RepairStep::Cut { file, offset, bytes } => format!(
            "copy {} at byte {offset} of {} to quarantine/, and make them zeros",
            size(*bytes),
            show(file)
        ),
        RepairStep::Copy { file, bytes } => {
            format!("copy {} ({}) to quarantine/", show(file), size(*bytes))
        }
        RepairStep::EndLog { log, last } => {
            format!("note in the catalog that {log}/ ends with position {last}")
        }
        RepairStep::BeginLog { after } => {
            format!(
                "note in TAILS, LEDGER and the catalog that the log begins after position {after}"
            )
        }
        RepairStep::Remove { file } => format!("remove {} and its index", show(file)),
        RepairStep::Reindex { file, detail } => format!("build {} anew: {detail}", show(file)),
        RepairStep::SeekGroup { group, to } => {
            format!("set group {group} back to position {to}; it meets what comes after again")
        }
    }
}

fn write_lost(out: &mut impl Write, lost: &Lost) -> Result<(), Failure> {
    let what = if lost.log == "offsets" { "entries of groups' progress" } else { "positions" };
    let how = match (lost.log, lost.acknowledged) {
        (_, false) => "never acknowledged as durable",
        (_, true) => "acknowledged as durable, or may have been",
    };
    writeln!(out, "lost      {what} {} through {}, {how}", lost.first, lost.last)?;
    writeln!(out, "          {} of them can be read in what is kept", lost.readable)?;
    for (stream, events) in &lost.streams {
        writeln!(out, "          stream {}: {}", tame(stream, 80), count(*events, "event"))?;
    }
    if lost.streams_left_out > 0 {
        writeln!(out, "          and {}", count(lost.streams_left_out, "more stream"))?;
    }
    Ok(())
}

fn write_unreadable(out: &mut impl Write, unreadable: &Unreadable) -> Result<(), Failure> {
    let Unreadable { file, bytes, ranges } = unreadable;
    writeln!(out, "unread    {} of {}", size(*bytes), file.display())?;
    for range in ranges.iter().take(RANGES_SHOWN) {
        writeln!(out, "          bytes {} to {}", range.start, range.end - 1)?;
    }
    if let Some(more @ 1..) = ranges.len().checked_sub(RANGES_SHOWN) {
        writeln!(
            out,
            "          and {}, as the text beside the copy says",
            count(more as u64, "more range")
        )?;
    }
    Ok(())
}

impl From<RepairError> for Failure {
    fn from(error: RepairError) -> Self {
        let exit = match error {
            RepairError::Open(error) => return error.into(),
            RepairError::LosesAcknowledged
            | RepairError::NoSegment { .. }
            | RepairError::Between { .. } => Exit::BadInput,
            RepairError::Elsewhere { .. }
            | RepairError::NothingLeft { .. }
            | RepairError::EdgeDamaged { .. } => Exit::Damaged,
            _ => Exit::Failed,
        };
        Self::Error(exit, Box::new(error))
    }
}
