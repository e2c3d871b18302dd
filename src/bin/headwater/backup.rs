//! `headwater backup` and `headwater restore`: copies of a store.

use std::io::Write;
use std::path::{Path, PathBuf};

use headwater::{BackupError, BackupProgress, BackupReport, LogId, Position};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::output::{self, count, size};

/// Backs up a store, also while another program writes to it.
///
/// On the same file system the files of sealed segments are shared by hard links: that protects
/// from mistakes, and not from a disk that fails. Elsewhere they are copied. The backup is a store
/// of its own: every command that reads works on it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// Directory for the backup, missing or empty
    into: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Makes a store of a backup, after checking every frame of it.
///
/// The backup stays as it is. The store keeps the log's identity, and so do the positions that are
/// given again: read models that are ahead of the backup refuse to go on, and must be rebuilt.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RestoreArgs {
    /// Directory of the backup
    backup: PathBuf,
    /// Directory for the store, missing or empty
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was made, as JSON.
#[derive(Debug, Serialize)]
struct Json {
    id: LogId,
    start: Position,
    head: Position,
    segments: usize,
    groups: usize,
    linked_bytes: u64,
    copied_bytes: u64,
}

/// Runs `headwater backup`.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let bar = bar();
    let made = headwater::backup(&args.dir, &args.into, |progress| show(&bar, progress));
    bar.finish_and_clear();
    tell("backed up", &made?, &args.into, args.json)
}

/// Runs `headwater restore`.
pub(crate) fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let bar = bar();
    let made = headwater::restore(&args.backup, &args.dir, |progress| show(&bar, progress));
    bar.finish_and_clear();
    tell("restored", &made?, &args.dir, args.json)
}

/// A bar on standard error, if that is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{bar:40} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, progress: BackupProgress) {
    bar.set_length(progress.total_bytes);
    bar.set_position(progress.done_bytes);
}

fn tell(verb: &str, report: &BackupReport, into: &Path, json: bool) -> Result<(), Failure> {
    let BackupReport { id, start, head, groups, segments, linked_bytes, copied_bytes } = *report;
    let mut out = output::open();
    if json {
        let json = Json { id, start, head, segments, groups, linked_bytes, copied_bytes };
        output::json_line(&mut out, &json)?;
    } else {
        let segments = count(segments as u64, "segment");
        let groups = count(groups as u64, "group");
        writeln!(out, "{verb} positions {} through {head}: {segments}, {groups}", start.next())?;
        writeln!(out, "linked {}, copied {}", size(linked_bytes), size(copied_bytes))?;
        writeln!(out, "in {}", into.display())?;
    }
    output::finish(out)
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Open(error) => error.into(),
            BackupError::Read(error) => error.into(),
            BackupError::NotEmpty { .. } => Self::Error(Exit::BadInput, Box::new(error)),
            error => Self::Error(Exit::Failed, Box::new(error)),
        }
    }
}
