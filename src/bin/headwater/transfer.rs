//! What `export` and `import` share: a bar while they work, and the report at the end.

use std::io::Write;

use headwater::{TransferProgress, Transferred};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::exit::Failure;
use crate::output::{self, count, size};

/// Which way a log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
}

/// A bar on standard error, if that is a terminal.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(direction: Direction) -> Self {
        let bar = ProgressBar::new(0);
        let verb = if direction == Direction::Out { "exporting" } else { "importing" };
        if let Ok(style) = ProgressStyle::with_template(
            "{msg} {bar:40} {human_pos}/{human_len} events  {per_sec}  {eta}",
        ) {
            bar.set_style(style);
        }
        Self(bar.with_message(verb))
    }

    pub(crate) fn show(&self, progress: &TransferProgress) {
        self.0.set_length(progress.events_total);
        self.0.set_position(progress.events);
        let verb = self.0.message();
        let verb = verb.split_whitespace().next().unwrap_or_default();
        self.0.set_message(format!("{verb} {}", size(progress.bytes)));
    }

    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// What was done, as JSON.
#[derive(Debug, Serialize)]
struct Json {
    log: String,
    imported_as: Option<String>,
    start: u64,
    head: u64,
    events: u64,
    groups: u64,
    lines: u64,
    bytes: u64,
}

/// Says what was done.
pub(crate) fn report(
    out: &mut impl Write,
    direction: Direction,
    made: &Transferred,
    json: bool,
) -> Result<(), Failure> {
    let Transferred { log, into, start, head, events, groups, lines, bytes } = *made;
    if json {
        let imported_as = (direction == Direction::In).then(|| into.to_string());
        let (log, start, head) = (log.to_string(), start.get(), head.get());
        let json = Json { log, imported_as, start, head, events, groups, lines, bytes };
        return output::json_line(out, &json);
    }
    let parts = [count(events, "event"), count(groups, "group"), count(lines, "line"), size(bytes)];
    let verb = if direction == Direction::Out { "exported" } else { "imported" };
    writeln!(out, "{verb}  {}", parts.join(", "))?;
    writeln!(out, "log       {log}, positions {} through {head}", start.next())?;
    if direction == Direction::In {
        let kept = if into == log { "the same log" } else { "a log of its own" };
        writeln!(out, "store     {into}, {kept}")?;
    }
    Ok(())
}
