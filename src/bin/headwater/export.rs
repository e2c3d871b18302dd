//! `headwater export`: a whole log as lines of `CloudEvents`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;

use headwater::{ExportError, ReadOnlyStore, Transferred};

use crate::exit::{EXIT_CODES, Exit, Failure, is_damage};
use crate::interrupt::Unfinished;
use crate::output;
use crate::transfer::{self, Bar, Direction};

/// Writes a whole log as lines of JSON in `CloudEvents` form, for `headwater import` and others.
///
/// Every event with its position, revision, times, append, tags, key and headers, what retention
/// has removed, and the groups with their progress; `docs/export.md` describes the lines. It can
/// run beside a program that writes to the store: the export is the log as it was at the beginning.
/// A file has its name once it is complete and on the device. One that is interrupted by SIGINT or
/// SIGTERM leaves nothing, and ends as by the signal.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// File to make, which must not exist; standard output if it is missing or `-`
    file: Option<PathBuf>,
    /// Print one JSON object about the export; it needs a file
    #[arg(long, requires = "file")]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Some(file) = args.file.as_deref().filter(|file| *file != Path::new("-")) else {
        if args.json {
            let message = "standard output holds the export; name a file to use --json";
            return Err(Failure::Error(Exit::BadInput, message.into()));
        }
        let store = ReadOnlyStore::open(&args.dir)?;
        write(&store, io::stdout().lock())?;
        return Ok(());
    };
    if file.exists() {
        let message = format!("{} exists; remove it, or name another file", file.display());
        return Err(Failure::Error(Exit::BadInput, message.into()));
    }
    let store = ReadOnlyStore::open(&args.dir)?;
    let message = format!("the export was interrupted, and {} was not made", file.display());
    let unfinished = Unfinished::new(partial(file), message)
        .map_err(|error| Failure::because(Exit::Failed, "cannot watch for signals", error))?;
    let made = to_file(&store, &unfinished, file);
    if made.is_err() {
        // Nobody takes it for an export; it is in the way and that is all.
        let _ = unfinished.end(|partial| fs::remove_file(partial));
    }
    let made = made?;
    let mut out = output::open();
    transfer::report(&mut out, Direction::Out, &made, args.json)?;
    output::finish(out)
}

/// Returns the name that a file has until it is complete.
fn partial(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}.tmp", process::id()));
    name.into()
}

fn to_file(
    store: &ReadOnlyStore,
    unfinished: &Unfinished,
    file: &Path,
) -> Result<Transferred, Failure> {
    let partial = unfinished.path();
    let failed = |action: &str, path: &Path| {
        let message = format!("cannot {action} {}", path.display());
        move |error: io::Error| Failure::because(Exit::Failed, message, error)
    };
    let create = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
    let output = unfinished.begin(create).map_err(failed("create", partial))?;
    let made = write(store, &output)?;
    output.sync_all().map_err(failed("sync", partial))?;
    unfinished.end(|partial| {
        // Unlike a rename, this replaces nothing that has come meanwhile.
        fs::hard_link(partial, file).map_err(failed("make", file))?;
        fs::remove_file(partial).map_err(failed("remove", partial))
    })?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed("sync", parent))?;
    Ok(made)
}

fn write(store: &ReadOnlyStore, out: impl Write) -> Result<Transferred, Failure> {
    let bar = Bar::new(Direction::Out);
    let made = store.export(out, |progress| bar.show(progress));
    bar.end();
    Ok(made?)
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Read(error) => error.into(),
            ExportError::Damaged(error) => {
                let exit = if is_damage(&error) { Exit::Damaged } else { Exit::Failed };
                Self::because(
                    exit,
                    "a damaged store is not exported; see `headwater verify`",
                    error,
                )
            }
            // Whoever reads an export needs all of it.
            ExportError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                let message = "the reader went away before the export was complete";
                Self::Error(Exit::Failed, message.into())
            }
            error => {
                let source = error;
                Self::Error(Exit::Failed, Box::new(source))
            }
        }
    }
}
