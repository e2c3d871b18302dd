//! `headwater append`: events from standard input, acknowledged on standard output.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, Thread};

use clap::ValueEnum;
use headwater::{Durability, OpenMode, Options, Store};

use crate::exit::{EXIT_CODES, Exit, Failure, complain};
use crate::input::{Line, read_lines};
use crate::output::{self, count};
use crate::pipeline::{Ending, Manner, Pipeline};

/// How many parcels of lines may wait between the reader and the writer.
const PARCELS: usize = 4;

const INPUT: &str = "\
Input, one JSON object per line:
  stream       category, hyphen, id, such as \"order-17\"
  type         name of the event type, such as \"order.placed\"
  data         any JSON; kept as it is written, but for white space between tokens
  id           UUID of the event; makes the line idempotent: if it was appended before (among the
               last 100,000 such events), it is acknowledged again with its first position
  tags         list of labels
  expected     \"any\" (default), \"no_stream\", \"exists\", or the revision the stream must be at
  metadata     object with any of correlation_id, causation_id (UUIDs), event_time (RFC 3339), key,
               schema_version (number), headers (object of texts)
Lines of `headwater read --json` are accepted too, with data_base64 and codec for other payloads.

Output, one line per event and in the order of the input:
  ACK <event id> <position>
written once the event is as durable as --durability says. Events of a stream keep their order.

A line that cannot be appended ends the command after everything before it is acknowledged, and
nothing behind it is appended; where the disk fails and recovers at once, some of the lines behind
it that were under way may be. To be that exact, a line with `expected`, or with an id that was
appended before, waits for those before it, and those behind wait for it; with --keep-going they do
not, and such input goes faster.

";

/// Appends events from standard input, one JSON object per line.
///
/// Many appends are under way at a time, so that they share syncs. Whatever ends this program,
/// nothing that was acknowledged is lost, within what --durability promises.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("{INPUT}{EXIT_CODES}"), after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// What an acknowledged event survives
    #[arg(long, value_enum, default_value_t = Survives::Sync)]
    durability: Survives,
    /// Create the store if the directory is missing or empty
    #[arg(long)]
    create: bool,
    /// Size of new segments, such as 64KiB or 1GiB; an event takes a quarter of it at most
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    segment_bytes: Option<u64>,
    /// Go on after lines that cannot be appended; the exit code is that of the first one
    #[arg(long)]
    keep_going: bool,
    /// Print each acknowledgement as a JSON object
    #[arg(long)]
    json: bool,
}

/// What an acknowledged event survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Survives {
    /// Power loss
    Sync,
    /// A crash of this program; power loss but for the last 100 ms or 1 MiB
    Interval,
    /// A crash of this program
    Os,
}

impl From<Survives> for Durability {
    fn from(survives: Survives) -> Self {
        match survives {
            Survives::Sync => Self::Sync,
            Survives::Interval => Self::INTERVAL,
            Survives::Os => Self::Os,
        }
    }
}

/// Reads a number of bytes with an optional unit.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err("the unit is unknown; use KiB, MiB or GiB, or none for bytes".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not a number of bytes".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let defaults = Options::default();
    let options = Options {
        mode: if args.create { OpenMode::OpenOrCreate } else { OpenMode::Open },
        durability: args.durability.into(),
        segment_bytes: args.segment_bytes.unwrap_or(defaults.segment_bytes),
        ..defaults
    };
    let manner = Manner { keep_going: args.keep_going, json: args.json };
    let store = Store::open(&args.dir, options)?;
    for cut in &store.recovery().cuts {
        let (bytes, kept) = (count(cut.bytes, "byte"), cut.kept.display());
        complain(
            &format!(
                "note: the last writer stopped in the middle of a write; {bytes} that were never \
                 acknowledged as durable are kept in {kept}"
            ),
            None,
        );
    }
    let lines = read_in_background()?;
    let ending = Pipeline::new(&store, manner, output::open()).run(&lines);
    let closed = store.close();
    summarize(&ending, args.keep_going);
    if let Some(exit) = ending.exit {
        return Err(Failure::Told(exit));
    }
    closed.map_err(|error| Failure::Error(Exit::Failed, Box::new(error)))
}

/// Says what became of the input, if it did not all go well.
fn summarize(ending: &Ending, keep_going: bool) {
    if ending.exit.is_none() {
        return;
    }
    let acknowledged = count(ending.acknowledged, "event");
    if ending.unanswered > 0 {
        let unanswered = count(ending.unanswered, "more event");
        complain(
            &format!(
                "note: {unanswered} had been read and got no acknowledgement; give events an id, \
                 and the whole input can be sent again"
            ),
            None,
        );
    }
    let refused = count(ending.refused, "line");
    let end = if keep_going { "" } else { ", and stopped there" };
    complain(&format!("note: acknowledged {acknowledged}, refused {refused}{end}"), None);
}

/// Starts to read standard input, and returns where its lines come out. This thread is unparked
/// when there are some, and at the end.
fn read_in_background() -> Result<mpsc::Receiver<Vec<Line>>, Failure> {
    let (sender, lines) = mpsc::sync_channel(PARCELS);
    let feed = Feed { sender: Some(sender), reader: thread::current() };
    let reading = thread::Builder::new().name("headwater-input".to_owned()).spawn(move || {
        read_lines(io::stdin().lock(), |parcel| feed.deliver(parcel));
    });
    // It is not joined: after a bad line it may still wait for input that never comes.
    reading.map_err(|error| Failure::because(Exit::Failed, "cannot start a thread", error))?;
    Ok(lines)
}

/// The reader's end of the channel: whatever happens to it, the other end wakes up.
struct Feed {
    sender: Option<SyncSender<Vec<Line>>>,
    reader: Thread,
}

impl Feed {
    fn deliver(&self, parcel: Vec<Line>) -> bool {
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send(parcel).is_ok());
        self.reader.unpark();
        sent
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.sender = None;
        self.reader.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_units() {
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("1 g"), Ok(1 << 30));
        for text in ["", "x", "1KB", "-1", "99999999999G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
