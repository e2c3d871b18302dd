//! Decisions over more than one stream: what they know is exactly what their append depends on.
//!
//! The idea is the dynamic consistency boundary (DCB) of Sara Pellegrini and Milan Savić: not an
//! aggregate but each decision says which events it depends on. Views that are composed into one
//! decision are those of the functional decider pattern (`fmodel`) and of `disintegrate`.

mod views;

use crate::append::{Append, Appended};
use crate::condition::Condition;
use crate::event::NewEvent;
use crate::execute::{ExecuteError, ExecuteOptions};
use crate::kind::{DecodeError, Event, encode_event};
use crate::log::{EventLog, Read, ReadError};
use crate::name::{InvalidName, StreamId};
use crate::position::Position;
use crate::query::Query;

pub(crate) use views::Selection;
pub use views::{View, Views};

/// Something that may be done, depending on what views say.
///
/// Pure, as a [`Decider`](crate::Decider) is, which is the case of one stream.
///
/// # Examples
///
/// A user name is taken at most once, whatever stream its account is in:
///
/// ```
/// use headwater_core::{
///     Decision, Event, ExecuteError, ExecuteOptions, InvalidName, MemoryLog, Query, StreamId, Tag,
///     View, decide,
/// };
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Serialize, Deserialize, Event)]
/// # #[event(crate = headwater_core)]
/// enum Account {
///     #[event(name = "account.registered")]
///     Registered {
///         account: u32,
///         #[event(tag = "user:{}")]
///         user: String,
///     },
/// }
///
/// struct NameTaken {
///     user: String,
///     taken: bool,
/// }
///
/// impl View for NameTaken {
///     type Event = Account;
///
///     fn query(&self) -> Result<Query, InvalidName> {
///         Ok(Query::tags([Tag::new(format!("user:{}", self.user))?]))
///     }
///
///     fn apply(&mut self, event: &Account) {
///         let Account::Registered { .. } = event;
///         self.taken = true;
///     }
/// }
///
/// struct Register {
///     account: u32,
///     user: String,
/// }
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("the name is taken")]
/// struct Taken;
///
/// impl Decision for Register {
///     type Views = NameTaken;
///     type Event = Account;
///     type Error = Taken;
///
///     fn views(&self) -> NameTaken {
///         NameTaken { user: self.user.clone(), taken: false }
///     }
///
///     fn decide(&self, name: &NameTaken) -> Result<Vec<Account>, Taken> {
///         if name.taken {
///             return Err(Taken);
///         }
///         Ok(vec![Account::Registered { account: self.account, user: self.user.clone() }])
///     }
///
///     fn stream(&self, _: &Account) -> Result<StreamId, InvalidName> {
///         StreamId::new(format!("account-{}", self.account))
///     }
/// }
///
/// # pollster::block_on(async {
/// let log = MemoryLog::new();
/// let options = ExecuteOptions::default();
/// let ann = |account| Register { account, user: "ann".to_owned() };
/// assert_eq!(decide(&log, &ann(1), &options).await?.events.len(), 1);
/// let again = decide(&log, &ann(2), &options).await;
/// assert!(matches!(again, Err(ExecuteError::Rejected(Taken))));
/// # Ok::<(), ExecuteError<Taken>>(())
/// # }).unwrap();
/// ```
pub trait Decision {
    /// What needs to be known: a [`View`], or a tuple of them.
    type Views: Views;
    /// What happens.
    type Event: Event;
    /// Why it is refused.
    type Error;

    /// Returns the views as they are before any event.
    fn views(&self) -> Self::Views;

    /// Decides; no events mean that nothing needs to happen.
    ///
    /// # Errors
    ///
    /// The domain's own refusal. Nothing is appended then.
    fn decide(&self, views: &Self::Views) -> Result<Vec<Self::Event>, Self::Error>;

    /// Names the stream that an event extends. It plays no part in what the decision depends on.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if what the name is made of cannot be in one.
    fn stream(&self, event: &Self::Event) -> Result<StreamId, InvalidName>;
}

/// What views knew of a log at one moment, and with it what an append depends on.
///
/// It is made by [`load_views`] alone, so the condition of an append cannot be another than what
/// was read.
#[derive(Clone, Debug)]
pub struct Known<V> {
    views: V,
    /// What must not have happened since.
    boundaries: Vec<Query>,
    seen: Position,
}

impl<V> Known<V> {
    pub(crate) fn new(views: V, selections: Vec<Selection>, seen: Position) -> Self {
        let boundaries = selections.into_iter().map(|selection| selection.boundary).collect();
        Self { views, boundaries, seen }
    }

    /// Returns the views.
    pub fn views(&self) -> &V {
        &self.views
    }

    /// Gives the views away, and with them the right to append.
    pub fn into_views(self) -> V {
        self.views
    }

    /// Returns how far the log was read.
    pub fn seen(&self) -> Position {
        self.seen
    }

    /// Makes an append that goes through if nothing has happened since that a view would have read.
    /// A [`Conflict::Query`](crate::Conflict::Query) says by its index which of the views it was.
    pub fn append(&self, events: impl IntoIterator<Item = NewEvent>) -> Append {
        let condition = self.boundaries.iter().fold(Condition::none(), |condition, query| {
            condition.and_no_events(query.clone(), self.seen)
        });
        Append { condition, ..Append::new(events) }
    }
}

/// Why views could not be loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadViewsError {
    /// What a view reads cannot be named.
    #[error("a view reads what cannot be named")]
    Name(#[source] InvalidName),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An event is not one of its view's.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl LoadViewsError {
    /// Says that nothing was decided for it.
    pub(crate) fn undecided<R: std::error::Error + 'static>(self) -> ExecuteError<R> {
        match self {
            Self::Name(source) => ExecuteError::Name(source),
            Self::Read(source) => ExecuteError::Read(source),
            Self::Decode(source) => ExecuteError::Decode(source),
        }
    }
}

/// Folds all events that views select, in the order of the log, as it is at one moment.
///
/// # Errors
///
/// [`LoadViewsError`].
///
/// # Cancel safety
///
/// Cancel safe.
///
/// # Complexity
///
/// Linear in the number of selected events, found by index. Each is decoded once for each view that
/// selects it.
pub async fn load_views<V: Views>(
    log: &dyn EventLog,
    mut views: V,
) -> Result<Known<V>, LoadViewsError> {
    let selections = views.selections().map_err(LoadViewsError::Name)?;
    let all = selections.iter().map(|selection| selection.query.clone()).reduce(Query::or);
    let all = all.unwrap_or_default();
    let mut seen = Position::START;
    loop {
        let page = log.read(Read::forward(all.clone(), seen)).await?;
        for event in &page.events {
            for (index, selection) in selections.iter().enumerate() {
                if selection.query.matches(event) {
                    views.apply_to(index, event)?;
                }
            }
        }
        seen = page.scanned;
        if page.done {
            return Ok(Known::new(views, selections, seen));
        }
    }
}

/// What a decision led to.
#[derive(Clone, Debug)]
pub struct Decided<V, E> {
    /// What was known when it was decided.
    pub views: V,
    /// What was decided; empty if nothing needed to happen or an earlier attempt had done it.
    pub events: Vec<E>,
    /// Where the events are; `None` if nothing needed to happen.
    pub appended: Option<Appended>,
    /// How often it was decided.
    pub attempts: u32,
}

/// Loads what a decision depends on, decides, and appends if nothing of that has changed. When
/// another writer came first, it begins again.
///
/// # Errors
///
/// [`ExecuteError`]; its [`effect`](ExecuteError::effect) says whether events may have been
/// written.
///
/// # Cancel safety
///
/// Not cancel safe: a dropped future may still append. With an
/// [`append_id`](ExecuteOptions::append_id) the decision can be repeated.
pub async fn decide<D: Decision>(
    log: &dyn EventLog,
    decision: &D,
    options: &ExecuteOptions,
) -> Result<Decided<D::Views, D::Event>, ExecuteError<D::Error>>
where
    D::Error: std::error::Error + 'static,
{
    let mut attempts = 0;
    loop {
        attempts += 1;
        let known = load_views(log, decision.views()).await.map_err(LoadViewsError::undecided)?;
        if let Some(done) = attempt(log, decision, known, options, attempts).await? {
            return Ok(done);
        }
    }
}

/// Decides on what is known and appends, in the attempt with this number. `None` asks for another one.
pub(crate) async fn attempt<D: Decision>(
    log: &dyn EventLog,
    decision: &D,
    known: Known<D::Views>,
    options: &ExecuteOptions,
    attempts: u32,
) -> Result<Option<Decided<D::Views, D::Event>>, ExecuteError<D::Error>>
where
    D::Error: std::error::Error + 'static,
{
    let earlier = options.find_earlier(log).await.map_err(ExecuteError::Read)?;
    if let Some(done) = earlier {
        let (views, events) = (known.into_views(), Vec::new());
        return Ok(Some(Decided { views, events, appended: Some(done), attempts }));
    }
    let events = decision.decide(known.views()).map_err(ExecuteError::Rejected)?;
    if events.is_empty() {
        return Ok(Some(Decided { views: known.into_views(), events, appended: None, attempts }));
    }
    let mut new = Vec::with_capacity(events.len());
    for event in &events {
        let stream = decision.stream(event).map_err(ExecuteError::Name)?;
        new.push(options.mark(encode_event(stream, event)?));
    }
    let append = options.finish(known.append(new));
    let appended = options.try_append(log, append, attempts).await?;
    let decided = |appended| Decided {
        views: known.into_views(),
        events,
        appended: Some(appended),
        attempts,
    };
    Ok(appended.map(decided))
}

#[cfg(test)]
mod tests;
