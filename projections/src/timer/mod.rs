//! Durable timers: events that appear in the log when it is time.
//!
//! A timer is a stream of the category `headwater.timer`. Firing is one append of two events, the
//! one that is due and `headwater.timer.fired` in the timer's stream, under the condition that the
//! timer's stream is where it was read. So a crash anywhere leaves both or neither, and of several
//! services one wins. Nothing about timers is kept anywhere else.

mod book;
mod record;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use headwater_core::{
    Append, AppendError, Category, Conflict, DecodeError, Effect, EncodeError, EventLog,
    ExpectedRevision, InvalidName, NewEvent, Position, Query, Read, ReadError, Revision, Schedule,
    StreamId, Timestamp, encode_event,
};
use serde::{Deserialize, Serialize};

use self::book::{Book, Entry};
use self::record::{CATEGORY, Definition, Template, TimerRecord};
pub use self::service::TimerService;
use crate::clock::{Clock, SystemClock};

/// What becomes of ticks that were due while no service ran, or the clock jumped over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Missed {
    /// Of several ticks that are due, the latest one fires and stands for the others.
    #[default]
    Latest,
    /// Each fires, in order.
    All,
    /// Those that are later than `grace` do not fire any more.
    Skip {
        /// How late a tick may be.
        grace: Duration,
    },
}

/// A timer as it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTimer {
    /// When it fires.
    pub schedule: Schedule,
    /// What becomes of ticks that were missed.
    pub missed: Missed,
    /// What it appends. Each tick's event has an id of its own, the tick's time as its event time,
    /// and the event that made the timer as its cause if none is given here. The event that makes the
    /// timer belongs to the same flow as this one, by correlation and causation id.
    pub event: NewEvent,
}

impl NewTimer {
    /// Makes a timer that fires for the latest of missed ticks.
    pub fn new(schedule: Schedule, event: NewEvent) -> Self {
        Self { schedule, missed: Missed::default(), event }
    }

    /// Sets what becomes of ticks that were missed.
    #[must_use]
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }
}

/// A timer that is to fire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Its name.
    pub name: String,
    /// When it fires.
    pub schedule: Schedule,
    /// What becomes of ticks that were missed.
    pub missed: Missed,
    /// The tick that fired last.
    pub last_fired: Option<Timestamp>,
    /// The tick after that, which may have passed if no service runs.
    pub next: Timestamp,
}

/// Why something could not be done about timers.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TimerError {
    /// The name cannot be part of a stream's name.
    #[error("a timer cannot have this name")]
    Name(#[from] InvalidName),
    /// Another timer of this name is to fire. Cancel it first, or choose another name.
    #[error(
        "there is a timer {name} already, which fires next at {next}; cancel it, or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// When that timer fires next.
        next: Timestamp,
    },
    /// The schedule has no time that is still to come.
    #[error("timer {name} would never fire: its schedule has no time from {now} on")]
    NeverDue {
        /// The name.
        name: String,
        /// What the clock showed.
        now: Timestamp,
    },
    /// The event would go into a stream of timers.
    #[error("a timer cannot append to {stream}, which holds a timer; choose another stream")]
    TimerStream {
        /// The stream.
        stream: StreamId,
    },
    /// The log could not be read.
    #[error("the log of the timers cannot be read")]
    Read(#[from] ReadError),
    /// The log did not take an append; [`AppendError::effect`] says what that means.
    #[error("the log did not take an append of a timer")]
    Append(#[from] AppendError),
    /// An event in a stream of timers is not one of theirs.
    #[error("an event of a timer cannot be understood")]
    Decode(#[from] DecodeError),
    /// The timer has no form that can be stored.
    #[error("a timer cannot be stored")]
    Encode(#[from] EncodeError),
}

impl TimerError {
    /// Returns whether what failed may have happened all the same.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Append(error) => error.effect(),
            _ => Effect::None,
        }
    }
}

/// Makes, cancels and lists the timers of a log. [`TimerService`] lets them fire.
///
/// Each call reads the log anew, so any number of these may be used at once, in any process
/// that may append.
///
/// # Two ways to be late
///
/// [`deliver_after`](Self::deliver_after) delays an append: until then the event is in no reader's
/// way, and when it appears it is new to everyone. To have one group see an event later that the
/// others see now is a matter of that group, not of the log.
///
/// # Retention
///
/// A timer is in the log and nowhere else. Once a day a service that runs writes each timer down
/// anew, so what retention leaves of the last few days is enough.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use headwater_core::{EventType, MemoryLog, NewEvent, Schedule, StreamId, Timestamp};
/// use headwater_projections::{NewTimer, TimerService, Timers};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let log = Arc::new(MemoryLog::new());
/// let timers = Timers::new(log.clone());
/// let reminder = EventType::new("invoice.reminder.due")?;
/// let reminder = NewEvent::json(StreamId::new("invoice-17")?, reminder, &())?;
/// let weekly = Schedule::every(Duration::from_secs(7 * 24 * 3_600), Timestamp::now())?;
/// timers.schedule("reminder-17", NewTimer::new(weekly, reminder)).await?;
///
/// let service = tokio::spawn(TimerService::new(log).run());
/// // ...
/// assert!(timers.cancel("reminder-17").await?);
/// service.abort();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Timers {
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
}

impl Timers {
    /// Works on the timers of a log, by the system's clock.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self::with_clock(log, Arc::new(SystemClock))
    }

    /// Works on the timers of a log, by another clock.
    pub fn with_clock(log: Arc<dyn EventLog>, clock: Arc<dyn Clock>) -> Self {
        Self { log, clock }
    }

    /// Makes a timer. Its ticks from now on count; one moment counts also if it has passed.
    ///
    /// To ask for the same timer again while it is to fire changes nothing and is no error.
    ///
    /// # Errors
    ///
    /// [`TimerError::NameTaken`] if there is another timer of the name that is to fire,
    /// [`TimerError::NeverDue`] if the schedule has no time left.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may still make the timer. Ask again.
    pub async fn schedule(&self, name: &str, timer: NewTimer) -> Result<(), TimerError> {
        // Where the stream is known to be, also if retention has left nothing of it.
        let mut known = Revision::NONE;
        loop {
            let change = self.scheduling(name, &timer, Taken::Refuse).await?;
            let Some(mut change) = change else { return Ok(()) };
            change.revision = change.revision.max(known);
            match self.append(&change).await? {
                None => return Ok(()),
                Some(moved) => known = moved,
            }
        }
    }

    /// Cancels a timer: after this returned, it fires no more. Returns whether it was to fire.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may still cancel the timer. Ask again.
    pub async fn cancel(&self, name: &str) -> Result<bool, TimerError> {
        loop {
            let Some(change) = self.cancelling(name).await? else { return Ok(false) };
            if self.append(&change).await?.is_none() {
                return Ok(true);
            }
        }
    }

    /// Returns what to append to make a timer; `None` if the same timer is to fire already.
    pub(crate) async fn scheduling(
        &self,
        name: &str,
        timer: &NewTimer,
        taken: Taken,
    ) -> Result<Option<Change>, TimerError> {
        let now = self.clock.now();
        let from = match timer.schedule {
            Schedule::Once(time) => time.min(now),
            _ => now,
        };
        let (schedule, missed) = (timer.schedule.clone(), timer.missed);
        let event = Template::of(timer.event.clone());
        let definition = Definition { schedule, missed, from, event };
        let stream = stream_of(name)?;
        check(name, &definition, now)?;
        let entry = self.entry(&stream).await?;
        let mut records = Vec::new();
        if let Some(active) = &entry.active {
            let there = &active.known.definition;
            if (&there.schedule, there.missed, &there.event)
                == (&definition.schedule, definition.missed, &definition.event)
            {
                return Ok(None);
            }
            match taken {
                Taken::Refuse => {
                    let (name, next) = (name.to_owned(), active.next);
                    return Err(TimerError::NameTaken { name, next });
                }
                Taken::Replace => records.push(TimerRecord::Cancelled {}),
            }
        }
        records.push(TimerRecord::Scheduled(Box::new(definition)));
        self.change(stream, entry.revision, &records).map(Some)
    }

    /// Returns what to append to cancel a timer; `None` if it is not to fire.
    pub(crate) async fn cancelling(&self, name: &str) -> Result<Option<Change>, TimerError> {
        let stream = stream_of(name)?;
        let entry = self.entry(&stream).await?;
        if entry.active.is_none() {
            return Ok(None);
        }
        self.change(stream, entry.revision, &[TimerRecord::Cancelled {}]).map(Some)
    }

    fn change(
        &self,
        stream: StreamId,
        revision: Revision,
        records: &[TimerRecord],
    ) -> Result<Change, TimerError> {
        let mut events = Vec::with_capacity(records.len());
        for record in records {
            let mut event = encode_event(stream.clone(), record)?;
            event.event_time = self.clock.now();
            if let TimerRecord::Scheduled(definition) = record {
                // Whoever asked for the event later asked for the timer.
                (event.correlation_id, event.causation_id) = definition.event.flow();
            }
            events.push(event);
        }
        Ok(Change { stream, revision, events })
    }

    /// Appends an event later: exactly as it is given, with its id and its event time, as soon as
    /// `delay` has passed and a service runs. Returns the name of the timer, by which it can be
    /// cancelled.
    ///
    /// An event whose id was given before is not scheduled again, so this can be repeated.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may still schedule the event. Ask again.
    pub async fn deliver_after(
        &self,
        delay: Duration,
        event: NewEvent,
    ) -> Result<String, TimerError> {
        let delay = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
        let time = self.clock.now().as_nanos().saturating_add(delay);
        self.deliver_at(Timestamp::from_nanos(time), event).await
    }

    /// Appends an event at a time, as [`deliver_after`](Self::deliver_after) does.
    pub async fn deliver_at(&self, time: Timestamp, event: NewEvent) -> Result<String, TimerError> {
        let name = format!("deliver-{}", event.id);
        let definition = Definition {
            schedule: Schedule::Once(time),
            missed: Missed::All,
            from: time,
            event: Template::of_given(event),
        };
        let stream = stream_of(&name)?;
        check(&name, &definition, self.clock.now())?;
        // A conflict says that it was scheduled before.
        let record = TimerRecord::Scheduled(Box::new(definition));
        self.append(&self.change(stream, Revision::NONE, &[record])?).await?;
        Ok(name)
    }

    /// Returns a timer that is to fire.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get(&self, name: &str) -> Result<Option<Timer>, TimerError> {
        let stream = stream_of(name)?;
        let active = self.entry(&stream).await?.active;
        Ok(active.map(|active| timer(&stream, &active)))
    }

    /// Returns all timers that are to fire, by when they are due.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Complexity
    ///
    /// Linear in the events of all timers that ever were.
    pub async fn list(&self) -> Result<Vec<Timer>, TimerError> {
        let mut book = Book::default();
        catch_up(&*self.log, &mut book).await?;
        Ok(book.active().map(|(stream, active)| timer(stream, active)).collect())
    }

    async fn entry(&self, stream: &StreamId) -> Result<Entry, TimerError> {
        let mut entry = Entry::default();
        let mut after = start(&*self.log).await?;
        loop {
            let read = Read::forward(Query::stream(stream.clone()), after);
            let page = self.log.read(read).await?;
            page.events.iter().try_for_each(|event| entry.apply(event))?;
            if page.done {
                return Ok(entry);
            }
            after = page.scanned;
        }
    }

    /// Appends to a timer's stream, or returns where that is if it is not as expected.
    async fn append(&self, change: &Change) -> Result<Option<Revision>, TimerError> {
        let append = Append::default();
        match self.log.append(change.add_to(append)).await {
            Ok(_) => Ok(None),
            Err(AppendError::Conflict(Conflict::Stream { actual, .. })) => Ok(Some(actual)),
            Err(error) => Err(error.into()),
        }
    }
}

/// What happens to one timer, to be appended where its stream is at a revision.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    stream: StreamId,
    revision: Revision,
    events: Vec<NewEvent>,
}

/// What becomes of a timer that is to fire when another one of its name is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It stays, and the other one is refused.
    Refuse,
    /// It is cancelled.
    Replace,
}

impl Change {
    /// Adds this to an append, which then depends on the timer.
    pub(crate) fn add_to(&self, mut append: Append) -> Append {
        append.events.extend(self.events.iter().cloned());
        append.expecting(self.stream.clone(), expected(self.revision))
    }
}

fn stream_of(name: &str) -> Result<StreamId, InvalidName> {
    StreamId::of(&Category::new(CATEGORY)?, name)
}

fn timer(stream: &StreamId, active: &book::Active) -> Timer {
    Timer {
        name: stream.id().to_owned(),
        schedule: active.known.definition.schedule.clone(),
        missed: active.known.definition.missed,
        last_fired: active.known.last_fired,
        next: active.next,
    }
}

fn expected(revision: Revision) -> ExpectedRevision {
    match revision {
        Revision::NONE => ExpectedRevision::NoStream,
        revision => ExpectedRevision::Exact(revision),
    }
}

/// Checks what could not be mended once the timer is stored.
fn check(name: &str, definition: &Definition, now: Timestamp) -> Result<(), TimerError> {
    let stream = &definition.event.stream;
    if stream.category() == CATEGORY {
        return Err(TimerError::TimerStream { stream: stream.clone() });
    }
    let before = Timestamp::from_nanos(definition.from.as_nanos().saturating_sub(1));
    if definition.schedule.next_after(before).is_none() {
        return Err(TimerError::NeverDue { name: name.to_owned(), now });
    }
    let due = definition.event.event(headwater_core::EventId::generate(), now);
    Ok(Append::new([due]).check().map_err(AppendError::from)?)
}

async fn start(log: &dyn EventLog) -> Result<Position, ReadError> {
    log.start().await
}

/// Takes everything that the log has of timers.
async fn catch_up(log: &dyn EventLog, book: &mut Book) -> Result<(), TimerError> {
    let query = Query::category(Category::new(CATEGORY)?);
    let start = start(log).await?;
    if start > book.cursor {
        book.cursor = start;
    }
    loop {
        let page = log.read(Read::forward(query.clone(), book.cursor)).await?;
        page.events.iter().try_for_each(|event| book.apply(event))?;
        book.cursor = page.scanned;
        if page.done {
            return Ok(());
        }
    }
}

/// Returns the last time of a schedule through `now`, given one of them.
fn latest_through(schedule: &Schedule, first: Timestamp, now: Timestamp) -> Timestamp {
    let due = |after| schedule.next_after(after).filter(|next| *next <= now);
    let (mut latest, mut before) = (first, now);
    while let Some(next) = due(latest) {
        // Halving finds the last of a million as soon as that of a few.
        let middle = Timestamp::from_nanos(i64::midpoint(latest.as_nanos(), before.as_nanos()));
        if let Some(later) = due(middle) {
            latest = later;
        } else {
            latest = next;
            before = middle;
        }
    }
    latest
}
