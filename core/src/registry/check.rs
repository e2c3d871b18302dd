//! What a log holds, against what the types of a registry read.

use std::collections::HashSet;
use std::fmt;

use super::{RegisteredType, Registry};
use crate::event::RecordedEvent;
use crate::kind::DecodeError;
use crate::log::{Direction, EventLog, Read, ReadError};
use crate::name::EventType;
use crate::position::Position;
use crate::query::Query;

/// What a log holds that was looked at, and nothing is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// The names in the log that types of the registry read.
    pub known: Vec<EventType>,
    /// The names in the log that were left alone.
    pub ignored: Vec<EventType>,
    /// The names, current and former, of which the log has no event.
    pub unused: Vec<&'static str>,
    /// How many events were decoded.
    pub decoded: u64,
}

/// Something in a log that the types of a registry do not read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LogFault {
    /// No type has the name.
    UnknownName {
        /// The name.
        event_type: EventType,
        /// The first event that has it.
        first: Position,
    },
    /// An event cannot be decoded: its version is not read, its codec is unknown, its payload is not
    /// what it should be, or an upcaster refuses it.
    Unreadable(DecodeError),
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName { event_type, first } => write!(
                f,
                "event type {event_type}, first at position {first}, is that of no type here; add its type to the registry, write formerly = \"{event_type}\" where it has another name now, or leave it alone with ignoring(\"{event_type}\")"
            ),
            Self::Unreadable(error) => {
                write!(f, "{error}")?;
                let mut cause = std::error::Error::source(error);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

/// Why a log is not fit for the types of a registry.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The log holds what they do not read.
    #[error("the log holds events that this program cannot read:{}", Lines(.0))]
    Unfit(Vec<LogFault>),
    /// The log could not be read.
    #[error("the log could not be checked")]
    Read(#[from] ReadError),
}

struct Lines<'a>(&'a [LogFault]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| write!(f, "\n- {fault}"))
    }
}

impl Registry {
    /// Checks that the types here read what a log holds: every name in it is known, and the first and
    /// the last event of each name are decoded, through upcasters where they are old. Call it when a
    /// store was opened, before anything else is done with it.
    ///
    /// What lies between the first and the last event is not looked at:
    /// [`check_every_event`](Self::check_every_event) does.
    ///
    /// # Errors
    ///
    /// [`CheckError::Unfit`] with each fault and its remedy.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Complexity
    ///
    /// [`EventLog::event_types`] and two reads for each name.
    pub async fn check(&self, log: &dyn EventLog) -> Result<LogReport, CheckError> {
        let mut check = Check::begin(self, log).await?;
        for (event_type, known) in check.readable.clone() {
            let types = || Query::types([event_type.clone()]);
            let start = log.start().await?;
            let first = one(log, Read::forward(types(), start)).await?;
            let last = one(log, Read::backward(types(), Position::MAX)).await?;
            let is_one = first.as_ref().zip(last.as_ref()).is_some_and(|(a, b)| a.id == b.id);
            check.decode(known, first.iter());
            check.decode(known, last.iter().filter(|_| !is_one));
        }
        check.end()
    }

    /// As [`check`](Self::check), with every event of the types here decoded. For a test on a copy of
    /// production, before a deployment. Of each name and version the first fault is told.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Complexity
    ///
    /// Linear in the size of the log.
    pub async fn check_every_event(&self, log: &dyn EventLog) -> Result<LogReport, CheckError> {
        let mut check = Check::begin(self, log).await?;
        let mut after = log.start().await?;
        if !check.readable.is_empty() {
            let names = check.readable.iter().map(|(event_type, _)| event_type.clone());
            let query = Query::types(names);
            loop {
                let page = log.read(Read::forward(query.clone(), after)).await?;
                for event in &page.events {
                    if let Some(known) = self.find(event.event_type.as_str()) {
                        check.decode(known, [event]);
                    }
                }
                if page.done {
                    break;
                }
                after = page.scanned;
            }
        }
        check.end()
    }
}

/// A check under way.
struct Check<'a> {
    readable: Vec<(EventType, &'a RegisteredType)>,
    report: LogReport,
    faults: Vec<LogFault>,
    /// The names and versions of which a fault is known.
    told: HashSet<(EventType, u16)>,
}

impl<'a> Check<'a> {
    /// Compares names.
    async fn begin(registry: &'a Registry, log: &dyn EventLog) -> Result<Self, CheckError> {
        let (readable, faults, told) = (Vec::new(), Vec::new(), HashSet::new());
        let mut check = Self { readable, report: LogReport::default(), faults, told };
        let present = log.event_types().await?;
        let is_present = |name: &str| present.iter().any(|other| other.as_str() == name);
        let names = registry.types.iter().flat_map(RegisteredType::names);
        check.report.unused = names.filter(|name| !is_present(name)).collect();
        for event_type in present {
            if let Some(known) = registry.find(event_type.as_str()) {
                check.report.known.push(event_type.clone());
                check.readable.push((event_type, known));
            } else if registry.ignores(event_type.as_str()) {
                check.report.ignored.push(event_type);
            } else {
                let start = log.start().await?;
                let query = Query::types([event_type.clone()]);
                // Retention may have removed it meanwhile.
                if let Some(event) = one(log, Read::forward(query, start)).await? {
                    let first = event.position;
                    check.faults.push(LogFault::UnknownName { event_type, first });
                }
            }
        }
        Ok(check)
    }

    fn decode<'e>(
        &mut self,
        known: &RegisteredType,
        events: impl IntoIterator<Item = &'e RecordedEvent>,
    ) {
        for event in events {
            self.report.decoded += 1;
            let Err(error) = (known.read)(event) else { continue };
            if self.told.insert((event.event_type.clone(), event.schema_version.get())) {
                self.faults.push(LogFault::Unreadable(error));
            }
        }
    }

    fn end(self) -> Result<LogReport, CheckError> {
        if self.faults.is_empty() { Ok(self.report) } else { Err(CheckError::Unfit(self.faults)) }
    }
}

/// Reads the first event of a read.
async fn one(log: &dyn EventLog, read: Read) -> Result<Option<RecordedEvent>, ReadError> {
    let mut read = read.limit(1);
    loop {
        let page = log.read(read.clone()).await?;
        match page.events.into_iter().next() {
            Some(event) => return Ok(Some(event)),
            None if page.done => return Ok(None),
            None => {
                read.direction = match read.direction {
                    Direction::After(_) => Direction::After(page.scanned),
                    Direction::Before(_) => Direction::Before(page.scanned),
                };
            }
        }
    }
}
