//! Process managers: what happens next, across streams, when something has happened.

mod managing;
mod reaction;
#[cfg(test)]
mod tests;

use headwater_core::{
    AppendError, DecodeError, EncodeError, Event, InvalidName, ReadError, RecordedEvent,
};

pub use self::managing::Managing;
pub use self::reaction::Reaction;
use crate::reactor::ReactError;
use crate::timer::TimerError;

/// Decides what happens next in a process that spans several streams: an order that is to be paid,
/// packed and shipped, and undone where one of them fails. Also called a saga.
///
/// Each process is an instance with a stream of its own, in which it notes what it has done; its
/// state is the fold of these notes and of nothing else. It issues commands as events, which
/// [`Reactor`](crate::Reactor)s carry out, and waits for what they lead to, or for a timer.
///
/// Pure: the same state and the same event give the same reaction. It has no clock: a deadline is
/// [`commit_time`](RecordedEvent::commit_time) and so long. [`Managing`] runs it.
///
/// # Examples
///
/// ```
/// use headwater_core::{Event, EventType, NewEvent, RecordedEvent, StreamId};
/// use headwater_projections::{ProcessManager, ReactError, Reaction};
/// use serde::{Deserialize, Serialize};
/// use std::time::Duration;
///
/// /// What the process has done for an order.
/// #[derive(Debug, Serialize, Deserialize, Event)]
/// # #[event(crate = headwater_core)]
/// enum Did {
///     #[event(name = "billing.asked")]
///     AskForPayment,
///     #[event(name = "billing.cancelled")]
///     Cancel,
///     #[event(name = "billing.done")]
///     Finish,
/// }
///
/// #[derive(Default, PartialEq)]
/// enum State {
///     #[default]
///     New,
///     Asked,
///     Over,
/// }
///
/// /// Asks for the payment of each order, and cancels those that are not paid within a day.
/// struct Billing;
///
/// impl ProcessManager for Billing {
///     type Event = Did;
///     type State = State;
///
///     fn name(&self) -> &str {
///         "billing"
///     }
///
///     fn instance(&self, event: &RecordedEvent) -> Result<Option<String>, ReactError> {
///         Ok((event.stream.category() == "order").then(|| event.stream.id().to_owned()))
///     }
///
///     fn react(&self, state: &State, event: &RecordedEvent) -> Result<Reaction<Did>, ReactError> {
///         let order = &event.stream;
///         let happens = |what: &str, stream: StreamId| -> Result<NewEvent, ReactError> {
///             Ok(NewEvent::json(stream, EventType::new(what)?, &())?)
///         };
///         Ok(match (event.event_type.as_str(), state) {
///             ("order.placed", State::New) => Reaction::note(Did::AskForPayment)
///                 .issue(happens("payment.requested", StreamId::new(format!("payment-{}", order.id()))?)?)
///                 .at(
///                     "overdue",
///                     event.commit_time.saturating_add(Duration::from_secs(24 * 3_600)),
///                     happens("order.overdue", order.clone())?,
///                 ),
///             ("order.paid", State::Asked) => Reaction::note(Did::Finish).cancel("overdue"),
///             ("order.overdue", State::Asked) => {
///                 Reaction::note(Did::Cancel).issue(happens("order.cancelled", order.clone())?)
///             }
///             _ => Reaction::none(),
///         })
///     }
///
///     fn evolve(&self, _: State, event: &Did) -> State {
///         match event {
///             Did::AskForPayment => State::Asked,
///             Did::Cancel | Did::Finish => State::Over,
///         }
///     }
/// }
/// ```
pub trait ProcessManager: Send + 'static {
    /// What the process notes about itself.
    type Event: Event + Send;
    /// What it needs to know; the default is the state before the first note.
    type State: Default + Send;

    /// Returns the name, which is the category of its streams and the same for ever.
    fn name(&self) -> &str;

    /// Returns which process an event belongs to; `None` if none.
    ///
    /// # Errors
    ///
    /// If that cannot be told, such as from a payload that cannot be decoded.
    fn instance(&self, event: &RecordedEvent) -> Result<Option<String>, ReactError>;

    /// Decides what follows from an event in this state.
    ///
    /// Events of several streams come in any order, and one may come late: what does not fit the
    /// state is either nothing ([`Reaction::none`]), or a note that the state remembers.
    ///
    /// # Errors
    ///
    /// Whatever went wrong: the event comes again by the policy of the group, as with
    /// [`Reactor::react`](crate::Reactor::react).
    fn react(
        &self,
        state: &Self::State,
        event: &RecordedEvent,
    ) -> Result<Reaction<Self::Event>, ReactError>;

    /// Folds a note into the state. Never fails: what was done, was done.
    fn evolve(&self, state: Self::State, note: &Self::Event) -> Self::State;
}

/// Why a reaction of a process was not appended. Nothing was, unless the append says otherwise; the
/// event comes again.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// What was issued leaves no trace in the process, so nobody would know that it was. Note what
    /// was done.
    #[error(
        "process {process} issues something for the event at position {position} and notes nothing; note what was done, so that it is done once"
    )]
    NothingNoted {
        /// The stream of the process.
        process: headwater_core::StreamId,
        /// The event.
        position: headwater_core::Position,
    },
    /// A timer has a name that another process's could have. Give it one without hyphens.
    #[error("a timer of a process cannot be called {name:?}; give it a name without hyphens")]
    TimerName {
        /// The name.
        name: String,
    },
    /// The instance cannot be part of a stream's name.
    #[error("a process cannot be called that")]
    Name(#[from] InvalidName),
    /// Others changed the process or its timers each time.
    #[error("process {process} was changed by others {attempts} times meanwhile")]
    Contended {
        /// The stream of the process.
        process: headwater_core::StreamId,
        /// How often it was tried.
        attempts: u32,
    },
    /// The log could not be read.
    #[error("the process cannot be read")]
    Read(#[from] ReadError),
    /// A note cannot be decoded.
    #[error("a note of the process cannot be understood")]
    Decode(#[from] DecodeError),
    /// A note cannot be encoded.
    #[error("a note cannot be stored")]
    Encode(#[from] EncodeError),
    /// A timer cannot be made or cancelled.
    #[error("a timer of the process cannot be changed")]
    Timer(#[from] TimerError),
    /// The log did not take the reaction; [`AppendError::effect`] says what that means.
    #[error("the reaction was not appended")]
    Append(#[from] AppendError),
}
