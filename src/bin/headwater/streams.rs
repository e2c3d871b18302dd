//! `headwater streams`: which streams there are.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use headwater::{Category, Position, ReadOnlyStore, Revision, Timestamp, category_of};
use serde::Serialize;

use crate::exit::{EXIT_CODES, Failure};
use crate::output::{self, Align, Table, tame, time, time_short};
use crate::read::intact;

/// Lists the streams that have events in the log.
///
/// It walks over the whole log, and keeps about 120 bytes and the name of each stream that is
/// asked for in memory; --category and --prefix narrow that down. Streams of which retention has
/// left nothing are not listed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// Only streams of this category, such as order
    #[arg(long, value_name = "CATEGORY")]
    category: Option<Category>,
    /// Only streams whose names begin so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// In which order
    #[arg(long, value_enum, default_value_t = Order::Name)]
    sort: Order,
    /// The other way round
    #[arg(long)]
    reverse: bool,
    /// At most so many, after sorting
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print one JSON object per stream
    #[arg(long)]
    json: bool,
}

/// How many events pass between two looks at the progress bar.
const PROGRESS_EVENTS: u64 = 1024;

/// What streams are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    /// Their names, as bytes
    Name,
    /// How many events they have in the log, fewest first
    Events,
    /// Their first event in the log
    First,
    /// Their last event
    Last,
}

/// What is known of a stream.
#[derive(Clone, Copy, Debug)]
struct Stream {
    events: u64,
    revision: Revision,
    first: Position,
    last: Position,
    time: Timestamp,
}

/// A stream as JSON.
#[derive(Debug, Serialize)]
struct Json<'a> {
    stream: &'a str,
    events: u64,
    revision: Revision,
    first: Position,
    last: Position,
    last_commit_time: String,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let store = ReadOnlyStore::open(&args.dir)?;
    let mut streams = collect(&store, args)?;
    match args.sort {
        Order::Name => streams.sort_unstable_by(|a, b| a.0.cmp(&b.0)),
        Order::Events => {
            streams.sort_unstable_by(|a, b| (a.1.events, &a.0).cmp(&(b.1.events, &b.0)));
        }
        Order::First => streams.sort_unstable_by_key(|(_, stream)| stream.first),
        Order::Last => streams.sort_unstable_by_key(|(_, stream)| stream.last),
    }
    if args.reverse {
        streams.reverse();
    }
    streams.truncate(args.limit.unwrap_or(usize::MAX));
    let mut out = output::open();
    if args.json {
        for (name, stream) in &streams {
            output::json_line(&mut out, &json(name, stream))?;
        }
    } else {
        human(&mut out, &streams)?;
    }
    output::finish(out)?;
    intact(&store)
}

fn collect(store: &ReadOnlyStore, args: &Args) -> Result<Vec<(Box<str>, Stream)>, Failure> {
    let mut found: HashMap<Box<str>, Stream> = HashMap::new();
    let category = args.category.as_ref().map(Category::as_str);
    let mut scan = store.scan(store.start())?;
    let bar = output::bar(store.head().events_since(store.start()).unwrap_or(0));
    while let Some(event) = scan.next() {
        let event = event?;
        if event.position().get().is_multiple_of(PROGRESS_EVENTS) {
            bar.inc(PROGRESS_EVENTS);
        }
        let name = event.stream();
        let is_asked_for = category.is_none_or(|category| category_of(name) == category)
            && args.prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix));
        if !is_asked_for {
            continue;
        }
        let (position, revision, time) = (event.position(), event.revision(), event.commit_time());
        if let Some(stream) = found.get_mut(name) {
            stream.events += 1;
            (stream.revision, stream.last, stream.time) = (revision, position, time);
        } else {
            let stream = Stream { events: 1, revision, first: position, last: position, time };
            found.insert(name.into(), stream);
        }
    }
    bar.finish_and_clear();
    Ok(found.into_iter().collect())
}

fn json<'a>(name: &'a str, stream: &Stream) -> Json<'a> {
    Json {
        stream: name,
        events: stream.events,
        revision: stream.revision,
        first: stream.first,
        last: stream.last,
        last_commit_time: time(stream.time),
    }
}

fn human(out: &mut impl Write, streams: &[(Box<str>, Stream)]) -> Result<(), Failure> {
    if streams.is_empty() {
        return Ok(writeln!(out, "no streams")?);
    }
    let mut table = Table::new(&[
        ("STREAM", Align::Left),
        ("EVENTS", Align::Right),
        ("REVISION", Align::Right),
        ("FIRST", Align::Right),
        ("LAST", Align::Right),
        ("LAST COMMIT", Align::Left),
    ]);
    for (name, stream) in streams {
        table.row([
            tame(name, 80),
            stream.events.to_string(),
            stream.revision.to_string(),
            stream.first.to_string(),
            stream.last.to_string(),
            time_short(stream.time),
        ]);
    }
    Ok(table.write(out, 0)?)
}
