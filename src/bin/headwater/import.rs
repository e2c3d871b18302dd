//! `headwater import`: a store of what `headwater export` wrote.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use headwater::{ImportError, ImportOptions, ImportedId, Options, Store};

use crate::append::parse_size;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::output;
use crate::transfer::{self, Bar, Direction};

/// Makes a store of what `headwater export` wrote, with every position, revision, id and time as it was.
///
/// The store is there when all of it is on the device, and not before: an import that fails leaves
/// nothing, and one that is killed leaves a directory that no command opens and that the next
/// import takes. The events keep their append ids, and the groups their progress.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The export; `-` is standard input
    file: PathBuf,
    /// Directory of the new store, missing or empty
    dir: PathBuf,
    /// Make the same log again and no other one, so that checkpoints go on; write to one of the two only
    #[arg(long)]
    keep_id: bool,
    /// Size of the segments, such as 64MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    segment_bytes: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let input: Box<dyn Read + Send> = if args.file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        let file = File::open(&args.file).map_err(|error| {
            let message = format!("cannot open {}", args.file.display());
            Failure::because(Exit::Failed, message, error)
        })?;
        Box::new(file)
    };
    let mut store = Options::default();
    store.segment_bytes = args.segment_bytes.unwrap_or(store.segment_bytes);
    let id = if args.keep_id { ImportedId::Kept } else { ImportedId::New };
    let bar = Bar::new(Direction::In);
    let made = Store::import(&args.dir, input, ImportOptions { id, store }, |progress| {
        bar.show(progress);
    });
    bar.end();
    let made = made?;
    let mut out = output::open();
    transfer::report(&mut out, Direction::In, &made, args.json)?;
    output::finish(out)
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        let exit = match error {
            ImportError::Line { .. }
            | ImportError::Misplaced { .. }
            | ImportError::CutOff { .. }
            | ImportError::Digest { .. } => Exit::BadInput,
            ImportError::Target(error) => return error.into(),
            _ => Exit::Failed,
        };
        Self::Error(exit, Box::new(error))
    }
}
