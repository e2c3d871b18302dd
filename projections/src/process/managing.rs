//! Running process managers: load an instance, react, append all of it at once.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use headwater_core::{
    Append, AppendError, Category, EventLog, ExpectedRevision, Position, Query, Read,
    RecordedEvent, Revision, Schedule, StreamId, decode_event, encode_event,
};

use super::reaction::Timed;
use super::{ProcessError, ProcessManager, Reaction};
use crate::clock::{Clock, SystemClock};
use crate::group::IdempotencyKey;
use crate::reactor::{ReactError, Reactor};
use crate::timer::{NewTimer, Taken, Timers};

/// How often to react anew while others change the same process.
const ATTEMPTS_MAX: u32 = 16;

/// The [`Reactor`] that a [`ProcessManager`] makes: give it to a
/// [`ReactorRunner`](crate::ReactorRunner), over a group that selects what the process waits for.
///
/// # Guarantees
///
/// What is done about an event is in the log once, for ever and whoever does it: notes, commands
/// and timers go in one append, under the condition that the process is where it was read, and the
/// notes name the event as their cause. An event that is delivered again and has its note changes
/// nothing. Everything has the event as its cause, and goes on with its flow and its trace.
///
/// The group's progress follows the append; between the two an event may come again, and only
/// then.
///
/// # Retention
///
/// A process that is not over needs its whole stream: keep the log for longer than a process takes.
pub struct Managing<M> {
    log: Arc<dyn EventLog>,
    timers: Timers,
    manager: M,
}

impl<M> fmt::Debug for Managing<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Managing").field("log", &self.log.id()).finish_non_exhaustive()
    }
}

/// A process as its stream says.
struct Instance<S> {
    state: S,
    revision: Revision,
    /// Whether the event at hand has left a note.
    is_handled: bool,
}

impl<M: ProcessManager> Managing<M> {
    /// Lets a manager work in a log, that of the group.
    pub fn new(log: Arc<dyn EventLog>, manager: M) -> Self {
        Self::with_clock(log, manager, Arc::new(SystemClock))
    }

    /// Lets a manager work in a log, whose timers go by another clock.
    pub fn with_clock(log: Arc<dyn EventLog>, manager: M, clock: Arc<dyn Clock>) -> Self {
        Self { timers: Timers::with_clock(Arc::clone(&log), clock), log, manager }
    }

    pub(super) async fn handle(&self, event: &RecordedEvent) -> Result<(), ReactError> {
        let Some(instance) = self.manager.instance(event)? else { return Ok(()) };
        let process = self.stream_of(&instance)?;
        for _ in 0..ATTEMPTS_MAX {
            let Instance { state, revision, is_handled } = self.load(&process, event).await?;
            if is_handled {
                return Ok(());
            }
            let reaction = self.manager.react(&state, event)?;
            if reaction.is_none() {
                return Ok(());
            }
            let append = self.append(&process, revision, event, reaction).await?;
            match self.log.append(append).await {
                Ok(_) => return Ok(()),
                // Another event of the process came first, or a timer has fired.
                Err(AppendError::Conflict(_)) => {}
                Err(error) => return Err(ProcessError::Append(error).into()),
            }
        }
        Err(ProcessError::Contended { process, attempts: ATTEMPTS_MAX }.into())
    }

    fn stream_of(&self, instance: &str) -> Result<StreamId, ProcessError> {
        Ok(StreamId::of(&Category::new(self.manager.name())?, instance)?)
    }

    async fn load(
        &self,
        process: &StreamId,
        event: &RecordedEvent,
    ) -> Result<Instance<M::State>, ProcessError> {
        let (state, revision) = (M::State::default(), Revision::NONE);
        let mut instance = Instance { state, revision, is_handled: false };
        let mut after = Position::START;
        loop {
            let page = self.log.read(Read::forward(Query::stream(process.clone()), after)).await?;
            for recorded in &page.events {
                let note: M::Event = decode_event(recorded)?;
                instance.state = self.manager.evolve(instance.state, &note);
                instance.revision = recorded.revision;
                instance.is_handled |= recorded.causation_id == Some(event.id);
            }
            if page.done {
                return Ok(instance);
            }
            after = page.scanned;
        }
    }

    /// Puts everything into one append.
    async fn append(
        &self,
        process: &StreamId,
        revision: Revision,
        event: &RecordedEvent,
        reaction: Reaction<M::Event>,
    ) -> Result<Append, ProcessError> {
        let Reaction { notes, issued, timers } = reaction;
        if notes.is_empty() {
            let (process, position) = (process.clone(), event.position);
            return Err(ProcessError::NothingNoted { process, position });
        }
        let expected = match revision {
            Revision::NONE => ExpectedRevision::NoStream,
            revision => ExpectedRevision::Exact(revision),
        };
        let mut append = Append::default().expecting(process.clone(), expected);
        for note in &notes {
            append.events.push(encode_event(process.clone(), note)?);
        }
        append.events.extend(issued);
        for timed in timers {
            append = self.timed(process, event, timed, append).await?;
        }
        Ok(append.caused_by(event))
    }

    async fn timed(
        &self,
        process: &StreamId,
        event: &RecordedEvent,
        timed: Timed,
        append: Append,
    ) -> Result<Append, ProcessError> {
        // Without a hyphen in it, the name ends at the last one: no two processes share a timer.
        let full_name = |name: &str| {
            if name.is_empty() || name.contains('-') {
                return Err(ProcessError::TimerName { name: name.to_owned() });
            }
            Ok(format!("{process}-{name}"))
        };
        let change = match timed {
            Timed::At(name, time, mut due) => {
                // Its cause is the making of the timer, whose cause is the event.
                let flow = event.correlation_id.unwrap_or_else(|| event.id.into());
                due.correlation_id.get_or_insert(flow);
                let new = NewTimer::new(Schedule::Once(time), due);
                self.timers.scheduling(&full_name(&name)?, &new, Taken::Replace).await?
            }
            Timed::Cancel(name) => self.timers.cancelling(&full_name(&name)?).await?,
        };
        Ok(match change {
            Some(change) => change.add_to(append),
            None => append,
        })
    }
}

#[async_trait]
impl<M: ProcessManager + Sync> Reactor for Managing<M> {
    async fn react(&mut self, event: &RecordedEvent, _: &IdempotencyKey) -> Result<(), ReactError> {
        self.handle(event).await
    }
}
