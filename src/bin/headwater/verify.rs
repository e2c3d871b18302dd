//! `headwater verify`: reads everything and checks all that can be checked.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use headwater::{OpenError, Position, ReadError, ReadOnlyStore, RecordedEvent, Revision, Slot};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::exit::{EXIT_CODES, Exit, Failure, is_damage};
use crate::output::{self, count, size};

const REMEDY: &str = "keep a copy of the directory, then restore it from a backup; until then \
    `headwater read` gives everything before the damage";
const GROUPS_REMEDY: &str = "keep a copy of the directory, then restore it from a backup; the \
    events are not concerned, and `headwater read` gives them";

/// How many events pass between two looks at the progress bar.
const PROGRESS_EVENTS: u64 = 1024;

/// Reads a whole store and checks every checksum, position, revision and link.
///
/// Two passes: over the frames of each segment and the chain that joins them, then over each
/// event. Memory grows with the number of streams. Beside a live writer it checks what was
/// committed when it began.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was found, as JSON.
#[derive(Debug, Default, Serialize)]
struct Report {
    ok: bool,
    head: Position,
    events: u64,
    streams: usize,
    segments: usize,
    used_bytes: u64,
    groups: usize,
    clean: bool,
    damage: Option<Damage>,
    groups_damage: Option<Damage>,
}

/// Where a store is damaged, and what to do.
#[derive(Debug, Serialize)]
pub(crate) struct Damage {
    file: Option<PathBuf>,
    position: Option<Position>,
    offset: Option<u64>,
    detail: String,
    remedy: &'static str,
}

impl Damage {
    /// Takes the damage from what opening said.
    pub(crate) fn of_opening(error: &OpenError) -> Self {
        let (file, place, detail) = match error {
            OpenError::AcknowledgedDamage { path, position, offset, detail }
            | OpenError::UnexplainedTail { path, position, offset, detail } => {
                (Some(path.clone()), Some((*position, *offset)), detail.clone())
            }
            OpenError::File { path, detail } => (Some(path.clone()), None, detail.clone()),
            OpenError::MissingSegment { path, .. } => (Some(path.clone()), None, error.to_string()),
            _ => (None, None, error.to_string()),
        };
        Self {
            file,
            position: place.map(|(position, _)| position),
            offset: place.map(|(_, offset)| offset),
            detail,
            remedy: REMEDY,
        }
    }

    /// Takes the damage of the groups' progress from what opening said.
    pub(crate) fn of_groups(error: &OpenError) -> Self {
        let damage = Self::of_opening(error);
        let detail = format!("in the progress of the groups: {}", damage.detail);
        // The position is one of their own log, where nobody could look it up.
        Self { detail, position: None, remedy: GROUPS_REMEDY, ..damage }
    }

    /// Takes the damage from what reading said.
    fn of_reading(error: &ReadError) -> Option<Self> {
        let ReadError::Damaged { position, file, offset, detail } = error else {
            return None;
        };
        Some(Self {
            file: Some(file.into()),
            position: Some(*position),
            offset: Some(*offset),
            detail: detail.clone(),
            remedy: REMEDY,
        })
    }

    /// An event that is whole and does not belong where it stands.
    fn of_event(event: &RecordedEvent, detail: String) -> Self {
        let position = Some(event.position);
        Self { file: None, position, offset: None, detail, remedy: REMEDY }
    }

    /// Writes the damage for people.
    pub(crate) fn write(&self, out: &mut impl Write) -> Result<(), Failure> {
        writeln!(out, "damage    {}", self.detail)?;
        if let Some(file) = &self.file {
            writeln!(out, "file      {}", file.display())?;
        }
        if let Some(position) = self.position {
            writeln!(out, "position  {position}")?;
        }
        if let Some(offset) = self.offset {
            writeln!(out, "offset    {offset}")?;
        }
        Ok(writeln!(out, "remedy    {}", self.remedy)?)
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    // Bars are drawn on standard error, and only if that is a terminal.
    let opening = ProgressBar::new_spinner().with_message("checking frames");
    opening.enable_steady_tick(Duration::from_millis(100));
    let opened = ReadOnlyStore::open_and_walk(&args.dir);
    opening.finish_and_clear();
    let report = match opened {
        Ok(store) => check(&store)?,
        Err(error) if is_damage(&error) => {
            Report { damage: Some(Damage::of_opening(&error)), ..Report::default() }
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = output::open();
    if args.json {
        output::json_line(&mut out, &report)?;
    } else {
        human(&mut out, &report)?;
    }
    output::finish(out)?;
    if report.ok { Ok(()) } else { Err(Failure::Told(Exit::Damaged)) }
}

fn human(out: &mut impl Write, report: &Report) -> Result<(), Failure> {
    let parts = [
        count(report.events, "event"),
        count(report.streams as u64, "stream"),
        count(report.segments as u64, "segment"),
        count(report.groups as u64, "group"),
        size(report.used_bytes),
    ];
    writeln!(out, "checked   {}", parts.join(", "))?;
    if report.ok {
        writeln!(out, "ok")?;
    }
    report.damage.iter().chain(&report.groups_damage).try_for_each(|damage| damage.write(out))
}

/// Goes through every event of a store.
fn check(store: &ReadOnlyStore) -> Result<Report, Failure> {
    let segments = store.segments()?;
    let mut report = Report {
        head: store.head(),
        segments: segments.len(),
        used_bytes: segments.iter().map(|segment| segment.used_bytes).sum(),
        groups: store.groups().len(),
        clean: store.is_clean(),
        groups_damage: store.groups_damage().map(Damage::of_groups),
        ..Report::default()
    };
    let removed = segments.first().map_or(Position::START, |segment| segment.base.previous());
    let bar = ProgressBar::new(store.head().events_since(removed).unwrap_or(0));
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} events  {per_sec}  {eta}")
    {
        bar.set_style(style);
    }
    let mut ends = Ends { removed, last: removed, streams: HashMap::new() };
    let mut scan = store.scan(removed)?;
    while let Some(next) = scan.next() {
        let checked = next.and_then(|event| {
            let previous = event.previous();
            event.to_event().map(|event| ends.check(&event, previous))
        });
        match checked {
            Ok(None) => report.events += 1,
            Ok(Some(damage)) => {
                report.damage = Some(damage);
                break;
            }
            Err(error) => match Damage::of_reading(&error) {
                Some(damage) => {
                    report.damage = Some(damage);
                    break;
                }
                None => return Err(error.into()),
            },
        }
        if report.events.is_multiple_of(PROGRESS_EVENTS) {
            bar.set_position(report.events);
        }
    }
    bar.finish_and_clear();
    report.streams = ends.streams.len();
    if report.damage.is_none() {
        report.damage = store.damage().map(Damage::of_opening);
    }
    if report.damage.is_none() && ends.last != report.head {
        return Err(Failure::Error(
            Exit::Failed,
            format!("the walk ended at position {}, and the head is {}", ends.last, report.head)
                .into(),
        ));
    }
    report.ok = report.damage.is_none() && report.groups_damage.is_none();
    Ok(report)
}

/// Where the log and each of its streams ends, as far as the walk has come.
#[derive(Debug)]
struct Ends {
    /// Up to here retention has removed events, so that streams may begin in their middle.
    removed: Position,
    last: Position,
    streams: HashMap<String, (Revision, Position)>,
}

impl Ends {
    /// Checks that an event follows what came before it, and takes it in.
    fn check(&mut self, event: &RecordedEvent, previous: Position) -> Option<Damage> {
        let damage = |detail| Some(Damage::of_event(event, detail));
        if event.position != self.last.next() {
            return damage(format!("it follows position {}", self.last));
        }
        self.last = event.position;
        let known = self.streams.get(event.stream.as_str()).copied();
        let (revision, last) = match known {
            Some(end) => end,
            // Its beginning is gone, so its own word has to do.
            None if previous > Position::START && previous <= self.removed => {
                (Revision::new(event.revision.get().saturating_sub(1)), previous)
            }
            None => (Revision::NONE, Position::START),
        };
        let (stream, found) = (&event.stream, event.revision);
        if found != revision.next() {
            let expected = revision.next();
            return damage(format!("it has revision {found} of stream {stream}, not {expected}"));
        }
        if previous != last {
            return damage(format!(
                "it links back to position {previous}, and stream {stream} was last at {last}"
            ));
        }
        let slot = Slot::of_key(event.ordering_key());
        if event.slot != slot {
            return damage(format!("it is in slot {}, and its key belongs in {slot}", event.slot));
        }
        match self.streams.get_mut(event.stream.as_str()) {
            Some(end) => *end = (found, event.position),
            None => {
                self.streams.insert(event.stream.as_str().to_owned(), (found, event.position));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater::{CodecId, EventId, Headers, SchemaVersion, StreamId, Timestamp};

    /// An event and its back-link.
    fn event(
        position: u64,
        stream: &str,
        revision: u64,
        previous: u64,
    ) -> (RecordedEvent, Position) {
        let event = RecordedEvent {
            position: Position::new(position),
            stream: StreamId::new(stream).unwrap(),
            revision: Revision::new(revision),
            id: EventId::generate(),
            event_type: headwater::EventType::new("t").unwrap(),
            schema_version: SchemaVersion::FIRST,
            commit_time: Timestamp::EPOCH,
            event_time: Timestamp::EPOCH,
            correlation_id: None,
            causation_id: None,
            tags: Vec::new(),
            key: None,
            slot: Slot::of_key(stream),
            headers: Headers::new(),
            codec: CodecId::RAW,
            payload: Vec::new().into(),
        };
        (event, Position::new(previous))
    }

    /// Checks events in order and returns the first fault.
    fn fault(removed: u64, events: &[(RecordedEvent, Position)]) -> Option<String> {
        let removed = Position::new(removed);
        let mut ends = Ends { removed, last: removed, streams: HashMap::new() };
        events.iter().find_map(|(event, previous)| ends.check(event, *previous)).map(|d| d.detail)
    }

    #[test]
    fn a_log_in_order_has_no_fault() {
        let log = [event(1, "a-1", 1, 0), event(2, "b-1", 1, 0), event(3, "a-1", 2, 1)];
        assert_eq!(fault(0, &log), None);
    }

    #[test]
    fn a_stream_may_begin_in_what_retention_removed() {
        assert_eq!(fault(9, &[event(10, "a-1", 4, 7), event(11, "a-1", 5, 10)]), None);
        assert!(fault(0, &[event(1, "a-1", 4, 7)]).unwrap().contains("revision 4"));
    }

    #[test]
    fn each_link_that_is_wrong_is_found() {
        let first = || event(1, "a-1", 1, 0);
        for (second, words) in [
            (event(3, "a-1", 2, 1), "follows position 1"),
            (event(2, "a-1", 3, 1), "revision 3 of stream a-1, not 2"),
            (event(2, "b-1", 2, 0), "revision 2 of stream b-1, not 1"),
            (event(2, "a-1", 2, 0), "links back to position 0"),
            (event(2, "b-1", 1, 1), "links back to position 1"),
        ] {
            let fault = fault(0, &[first(), second]).unwrap();
            assert!(fault.contains(words), "{fault}");
        }
        let mut strayed = event(2, "b-1", 1, 0);
        strayed.0.slot = Slot::of_key("a-1");
        assert!(fault(0, &[first(), strayed]).unwrap().contains("slot"));
    }
}
