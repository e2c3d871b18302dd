//! Running commands: load, decide, append under exactly what was read, and again on conflict.

use crate::append::{Append, AppendError, Appended, Effect};
use crate::condition::{Conflict, ExpectedRevision};
use crate::decider::Decider;
use crate::event::{NewEvent, RecordedEvent};
use crate::id::{AppendId, CorrelationId, EventId};
use crate::kind::{DecodeError, EncodeError, Event, decode_event, encode_event};
use crate::log::{EventLog, Read, ReadError};
use crate::metadata::Headers;
use crate::name::{InvalidName, StreamId};
use crate::position::{Position, Revision};
use crate::query::Query;
use crate::time::Timestamp;
use crate::trace::{TRACEPARENT, TRACESTATE};

/// How a command is executed and what its events carry.
#[derive(Clone, Debug)]
pub struct ExecuteOptions {
    /// Makes the command idempotent inside the log's idempotency window: if an append with this
    /// id is there already, nothing is decided and the first result is returned.
    pub append_id: Option<AppendId>,
    /// The flow that the events belong to.
    pub correlation_id: Option<CorrelationId>,
    /// The event that caused the command.
    pub causation_id: Option<EventId>,
    /// When it happened by the producer's clock; the time of the decision where this is `None`.
    pub event_time: Option<Timestamp>,
    /// Named texts for each event.
    pub headers: Headers,
    /// How often to load and decide at most while others win the race, from 1.
    pub attempts_max: u32,
    /// Asks for the events to be on the device before the answer, whatever the log's default.
    pub sync: bool,
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self {
            append_id: None,
            correlation_id: None,
            causation_id: None,
            event_time: None,
            headers: Headers::new(),
            attempts_max: 16,
            sync: false,
        }
    }
}

impl ExecuteOptions {
    /// Says which event is the cause: the new events go on with its flow, or begin one with it, and
    /// with its trace.
    #[must_use]
    pub fn caused_by(mut self, event: &RecordedEvent) -> Self {
        self.causation_id = Some(event.id);
        self.correlation_id = Some(event.correlation_id.unwrap_or_else(|| event.id.into()));
        for name in [TRACEPARENT, TRACESTATE] {
            if let (Some(value), None) = (event.headers.get(name), self.headers.get(name)) {
                self.headers.insert(name, value).expect("it is a header of an event already");
            }
        }
        self
    }

    /// Looks for the append of an earlier attempt at the same.
    pub(crate) async fn find_earlier(
        &self,
        log: &dyn EventLog,
    ) -> Result<Option<Appended>, ReadError> {
        match self.append_id {
            Some(id) => log.find_append(id).await,
            None => Ok(None),
        }
    }

    /// Appends what the attempt with this number, from 1, decided. `None` asks for another one:
    /// somebody else came first, with other events or with this very command.
    pub(crate) async fn try_append<R: std::error::Error + 'static>(
        &self,
        log: &dyn EventLog,
        append: Append,
        attempts: u32,
    ) -> Result<Option<Appended>, ExecuteError<R>> {
        match log.append(append).await {
            // What another attempt at the same command did is what happened.
            Ok(appended) if appended.deduplicated => Ok(None),
            Ok(appended) => Ok(Some(appended)),
            Err(AppendError::Conflict(source)) if attempts >= self.attempts_max => {
                Err(ExecuteError::Contended { attempts, source })
            }
            Err(AppendError::Conflict(_)) => Ok(None),
            Err(error) => Err(ExecuteError::Append(error)),
        }
    }

    /// Gives a decided event what events carry.
    pub(crate) fn mark(&self, mut event: NewEvent) -> NewEvent {
        event.correlation_id = self.correlation_id;
        event.causation_id = self.causation_id;
        event.headers = self.headers.clone();
        event.event_time = self.event_time.unwrap_or(event.event_time);
        event
    }

    pub(crate) fn finish(&self, append: Append) -> Append {
        Append { append_id: self.append_id, sync: self.sync, ..append }
    }
}

/// What a command led to.
#[derive(Clone, Debug)]
pub struct Executed<S, E> {
    /// The state after the events.
    pub state: S,
    /// What was decided; empty if nothing needed to happen or an earlier attempt had done it.
    pub events: Vec<E>,
    /// Where the events are; `None` if nothing needed to happen.
    pub appended: Option<Appended>,
    /// How often the decision was made.
    pub attempts: u32,
}

/// Why a command was not executed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecuteError<R: std::error::Error + 'static> {
    /// The domain refused the command. Nothing was written.
    #[error("the command was refused")]
    Rejected(#[source] R),
    /// Others won the race each time. Nothing was written.
    #[error(
        "the stream moved under the decision {attempts} times; raise attempts_max or send fewer commands to it at once"
    )]
    Contended {
        /// How often it was tried.
        attempts: u32,
        /// The last conflict.
        source: Conflict,
    },
    /// The stream could not be read. Nothing was written.
    #[error("stream {stream} could not be loaded")]
    Load {
        /// The stream.
        stream: StreamId,
        /// Why.
        source: ReadError,
    },
    /// The log could not be read. Nothing was written.
    #[error("what the decision depends on could not be read")]
    Read(#[source] ReadError),
    /// A stream or a query cannot be named. Nothing was written.
    #[error("what the decision reads or writes cannot be named")]
    Name(#[source] InvalidName),
    /// An event is not one of the decider's or the view's. Nothing was written.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A decided event could not be encoded. Nothing was written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The log refused or failed; [`AppendError::effect`] says what that means.
    #[error("the decided events could not be appended")]
    Append(#[source] AppendError),
}

impl<R: std::error::Error + 'static> ExecuteError<R> {
    /// Returns whether the command's events may be in the log all the same.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Append(error) => error.effect(),
            _ => Effect::None,
        }
    }
}

/// A stream folded into a state, and how far the fold reaches.
#[derive(Clone, Debug)]
pub struct Loaded<S> {
    /// The folded state.
    pub state: S,
    /// The revision of the last event that went into it.
    pub revision: Revision,
}

/// Why a stream could not be folded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An event is not one of the decider's.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl LoadError {
    /// Says that a command was not executed for it.
    pub(crate) fn of<R: std::error::Error + 'static>(self, stream: &StreamId) -> ExecuteError<R> {
        match self {
            Self::Read(source) => ExecuteError::Load { stream: stream.clone(), source },
            Self::Decode(error) => error.into(),
        }
    }
}

/// Folds a stream into the decider's state.
///
/// # Errors
///
/// [`LoadError`] if the log cannot be read or an event is not one of the decider's.
///
/// # Complexity
///
/// Linear in the length of the stream.
pub async fn load<D>(
    log: &dyn EventLog,
    decider: &D,
    stream: &StreamId,
) -> Result<Loaded<D::State>, LoadError>
where
    D: Decider,
    D::Event: Event,
{
    let mut loaded = Loaded { state: D::State::default(), revision: Revision::NONE };
    let mut after = Position::START;
    loop {
        let page = log.read(Read::forward(Query::stream(stream.clone()), after)).await?;
        for recorded in &page.events {
            let event: D::Event = decode_event(recorded)?;
            loaded.state = decider.evolve(loaded.state, &event);
            loaded.revision = recorded.revision;
        }
        if page.done {
            return Ok(loaded);
        }
        after = page.scanned;
    }
}

/// Executes a command against one stream: loads it, decides, and appends under the condition
/// that the stream is still where it was read. When another writer came first, it begins again.
///
/// # Errors
///
/// [`ExecuteError`]; its [`effect`](ExecuteError::effect) says whether events may have been
/// written.
///
/// # Cancel safety
///
/// Not cancel safe: a dropped future may still append. With an
/// [`append_id`](ExecuteOptions::append_id) the command can be repeated.
pub async fn execute<D>(
    log: &dyn EventLog,
    decider: &D,
    stream: &StreamId,
    command: D::Command,
    options: &ExecuteOptions,
) -> Result<Executed<D::State, D::Event>, ExecuteError<D::Error>>
where
    D: Decider,
    D::Command: Clone,
    D::Event: Event,
    D::Error: std::error::Error + 'static,
{
    let mut attempts = 0;
    loop {
        attempts += 1;
        let loaded = load(log, decider, stream).await.map_err(|error| error.of(stream))?;
        let command = command.clone();
        if let Some(done) =
            attempt(log, decider, stream, loaded, command, options, attempts).await?
        {
            return Ok(done);
        }
    }
}

/// Decides on what was loaded and appends, in the attempt with this number. `None` asks for another
/// one.
pub(crate) async fn attempt<D>(
    log: &dyn EventLog,
    decider: &D,
    stream: &StreamId,
    loaded: Loaded<D::State>,
    command: D::Command,
    options: &ExecuteOptions,
    attempts: u32,
) -> Result<Option<Executed<D::State, D::Event>>, ExecuteError<D::Error>>
where
    D: Decider<Event: Event, Error: std::error::Error + 'static>,
{
    let Loaded { state, revision } = loaded;
    let earlier = options.find_earlier(log).await.map_err(ExecuteError::Read)?;
    if let Some(done) = earlier {
        return Ok(Some(Executed { state, events: Vec::new(), appended: Some(done), attempts }));
    }
    let events = decider.decide(&state, command).map_err(ExecuteError::Rejected)?;
    if events.is_empty() {
        return Ok(Some(Executed { state, events, appended: None, attempts }));
    }
    let append = decided(stream, &events, revision, options)?;
    let Some(appended) = options.try_append(log, append, attempts).await? else {
        return Ok(None);
    };
    let state = events.iter().fold(state, |state, event| decider.evolve(state, event));
    Ok(Some(Executed { state, events, appended: Some(appended), attempts }))
}

fn decided<E: Event>(
    stream: &StreamId,
    events: &[E],
    read_at: Revision,
    options: &ExecuteOptions,
) -> Result<Append, EncodeError> {
    let mut append = Append::default();
    for event in events {
        append.events.push(options.mark(encode_event(stream.clone(), event)?));
    }
    let expected = match read_at {
        Revision::NONE => ExpectedRevision::NoStream,
        revision => ExpectedRevision::Exact(revision),
    };
    Ok(options.finish(append.expecting(stream.clone(), expected)))
}

#[cfg(test)]
mod tests;
