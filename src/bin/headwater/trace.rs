//! `headwater trace`: what was caused by one command or event.

use std::io::Write;
use std::path::PathBuf;

use headwater::{
    Cause, CorrelationId, EventId, EventType, Flow, FlowStep, Follower, Headers, Position,
    ReadOnlyStore, Revision, StreamId, TRACEPARENT, TRACESTATE, TraceOptions, trace_flow,
};
use serde::Serialize;

use crate::event::HeadersJson;
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::output::{self, count, span, tame, time, time_short};
use crate::read::intact;

/// Most characters of a header's value.
const HEADER_CHARS_MAX: usize = 60;

/// Prints the flow of an event, a correlation id or an append id as a tree: each event below the one
/// that caused it, with the time between the two.
///
/// An event belongs to the flow that its correlation id names, and without one to its cause. An
/// event that has neither and caused nothing is looked for where the time in its id says, and then
/// everywhere. Events before the tree that are not in the log any more, or lie in another flow or
/// log, are named by their ids.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the store
    dir: PathBuf,
    /// Id of an event, correlation id, or id of an append
    id: CorrelationId,
    /// Only the event, or the append, and what it caused
    #[arg(long)]
    caused_by_only: bool,
    /// At most so many events of the flow, oldest first
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A flow as JSON.
#[derive(Serialize)]
struct Json<'a> {
    id: CorrelationId,
    streams: usize,
    duration_ns: u128,
    more: u64,
    events: Vec<EventJson<'a>>,
}

/// An event of it, behind its cause.
#[derive(Serialize)]
struct EventJson<'a> {
    position: Position,
    stream: &'a StreamId,
    revision: Revision,
    id: EventId,
    #[serde(rename = "type")]
    event_type: &'a EventType,
    commit_time: String,
    depth: usize,
    cause: Option<Position>,
    missing_cause: Option<EventId>,
    after_cause_ns: Option<u128>,
    asked: bool,
    headers: HeadersJson<'a>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let store = ReadOnlyStore::open(&args.dir)?;
    let log = Follower::open(&args.dir)?;
    let events_max = usize::try_from(args.max).unwrap_or(usize::MAX);
    let options = TraceOptions { events_max, search_events_max: u64::MAX };
    let spinner = output::spinner("looking");
    let found = pollster::block_on(trace_flow(&log, args.id, &options));
    spinner.finish_and_clear();
    let Some(flow) = found? else {
        intact(&store)?;
        let hint = "give the id of an event, a correlation id, or the id of a recent append";
        let message = format!("nothing in the log has the id {}; {hint}", args.id);
        return Err(Failure::Error(Exit::BadInput, message.into()));
    };
    let flow = if args.caused_by_only { flow.caused() } else { flow };
    let mut out = output::open();
    if args.json {
        output::json_line(&mut out, &json(args.id, &flow))?;
    } else {
        human(&mut out, &flow)?;
    }
    output::finish(out)?;
    intact(&store)
}

fn json(id: CorrelationId, flow: &Flow) -> Json<'_> {
    let events = flow.walk().map(|step| {
        let (of, event) = (step.event, &step.event.event);
        let (cause, missing_cause) = match of.cause {
            Cause::None => (None, None),
            Cause::Event(at) => (Some(flow.events()[at].event.position), None),
            Cause::Missing(id) => (None, Some(id)),
        };
        EventJson {
            position: event.position,
            stream: &event.stream,
            revision: event.revision,
            id: event.id,
            event_type: &event.event_type,
            commit_time: time(event.commit_time),
            depth: step.depth,
            cause,
            missing_cause,
            after_cause_ns: of.after_cause.map(|wait| wait.as_nanos()),
            asked: of.asked,
            headers: HeadersJson(&event.headers),
        }
    });
    Json {
        id,
        streams: flow.streams(),
        duration_ns: flow.duration().as_nanos(),
        more: flow.more(),
        events: events.collect(),
    }
}

fn human(out: &mut impl Write, flow: &Flow) -> Result<(), Failure> {
    // For each cause above: whether more of its effects follow.
    let mut open: Vec<bool> = Vec::new();
    for step in flow.walk() {
        open.truncate(step.depth.saturating_sub(1));
        for &open in &open {
            write!(out, "{}", if open { "│  " } else { "   " })?;
        }
        if step.depth > 0 {
            write!(out, "{}", if step.is_last { "└─ " } else { "├─ " })?;
            open.push(!step.is_last);
        }
        line(out, &step)?;
    }
    let events = flow.events().len() as u64;
    let streams = count(flow.streams() as u64, "stream");
    write!(out, "{} in {streams}, {}", count(events, "event"), span(flow.duration()))?;
    if flow.more() > 0 {
        write!(out, "; and {} more or above, see --max", flow.more())?;
    }
    Ok(writeln!(out)?)
}

fn line(out: &mut impl Write, step: &FlowStep<'_>) -> Result<(), Failure> {
    let (of, event) = (step.event, &step.event.event);
    let stream = tame(event.stream.as_str(), usize::MAX);
    let event_type = tame(event.event_type.as_str(), usize::MAX);
    write!(out, "{event_type}  {stream}@{}  position {}", event.revision, event.position)?;
    match of.after_cause {
        Some(wait) => write!(out, "  +{}", span(wait))?,
        None => write!(out, "  {}", time_short(event.commit_time))?,
    }
    for (name, value) in shown(&event.headers) {
        write!(out, "  {}={}", tame(name, usize::MAX), tame(value, HEADER_CHARS_MAX))?;
    }
    if let Cause::Missing(id) = of.cause {
        write!(out, "  caused by {id}, which is not shown")?;
    }
    Ok(writeln!(out, "{}", if of.asked { "  <-" } else { "" })?)
}

/// Returns the headers that may say who did it.
fn shown(headers: &Headers) -> impl Iterator<Item = (&str, &str)> {
    headers.iter().filter(|(name, _)| ![TRACEPARENT, TRACESTATE].contains(name))
}
