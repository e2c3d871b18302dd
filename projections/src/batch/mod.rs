//! Reactors that take many events at a time.

mod drive;
mod error;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headwater_core::RecordedEvent;

pub use self::error::BatchError;
use crate::group::{ConsumerError, ConsumerGroup, IdempotencyKey};
use crate::reactor::{Crew, ReactorHandle};

/// Does something about many events at once: one request, one transaction, one file.
///
/// # Guarantees
///
/// Those of [`Reactor`](crate::Reactor): at least once, those of one key in order. A batch holds as many
/// consecutive events of a key as fit, and batches that are worked on beside each other have no key
/// in common.
#[async_trait]
pub trait BatchReactor: Send + 'static {
    /// Reacts to a batch, which is in the order of the log. While it runs, the leases are renewed.
    ///
    /// # Errors
    ///
    /// Whatever went wrong converts into a [`BatchError`] that stands for the whole batch; where only
    /// some events failed, [`BatchError::items`] says which.
    ///
    /// # Cancel safety
    ///
    /// The runner never drops the future half way, but the process may end.
    async fn react(&mut self, batch: &[BatchItem]) -> Result<(), BatchError>;
}

/// One event of a batch.
#[derive(Clone, Debug)]
pub struct BatchItem {
    event: Arc<RecordedEvent>,
    key: IdempotencyKey,
    attempt: u32,
}

impl BatchItem {
    /// Returns the event.
    pub fn event(&self) -> &RecordedEvent {
        &self.event
    }

    /// Returns what names the handling of this event: give it to whatever must not happen twice.
    pub fn idempotency_key(&self) -> &IdempotencyKey {
        &self.key
    }

    /// Returns which attempt this is, from 1. An event that was in a batch with another that failed
    /// has not been tried by that.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// How batches are made and what becomes of those that fail. The names are those of Lambda's event
/// source mappings where there is one.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    /// How many events a batch has at most, at least one.
    pub size_max: usize,
    /// How many bytes of payload a batch has at most; one event may have more.
    pub bytes_max: usize,
    /// How long to wait, from the first event on, for a batch to be full.
    pub window: Duration,
    /// How many batches each member works on at once, at least one, each by a reactor of its own. Also
    /// the keys of one slot go beside each other.
    pub concurrency: usize,
    /// Whether a batch that failed as a whole is tried again in halves, and these in halves again, so
    /// that only the events that fail alone have failed. Of `n` events with one that fails it takes
    /// up to `1 + 2 log2 n` calls to find it. Without it, the first event of each key has failed.
    pub bisect: bool,
}

impl Default for BatchOptions {
    /// Up to 100 events and 6 MiB at once, no waiting, one batch at a time, in halves where one fails.
    fn default() -> Self {
        Self {
            size_max: 100,
            bytes_max: 6 * 1024 * 1024,
            window: Duration::ZERO,
            concurrency: 1,
            bisect: true,
        }
    }
}

/// Starts reactors that take batches.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use headwater_core::{Append, EventLog, EventType, GroupName, MemoryLog, NewEvent, StreamId};
/// use headwater_projections::{
///     BatchError, BatchItem, BatchOptions, BatchReactor, BatchRunner, ConsumerGroup, GroupOptions,
///     async_trait,
/// };
///
/// struct Mailer;
///
/// #[async_trait]
/// impl BatchReactor for Mailer {
///     async fn react(&mut self, batch: &[BatchItem]) -> Result<(), BatchError> {
///         let mails: Vec<String> =
///             batch.iter().map(|item| item.event().decode()).collect::<Result<_, _>>()?;
///         // One request for all of them.
///         println!("{}", mails.join(", "));
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let log = Arc::new(MemoryLog::new());
/// let placed = EventType::new("order.placed")?;
/// let event = NewEvent::json(StreamId::new("order-17")?, placed, &"a book")?;
/// let last = log.append(Append::new([event])).await?.last;
///
/// let group = ConsumerGroup::open(log, GroupOptions::new(GroupName::new("mails")?)).await?;
/// let options = BatchOptions { window: Duration::from_millis(5), ..BatchOptions::default() };
/// let mailer = BatchRunner::start(&group, "mailer", |_| Mailer, 2, options).await?;
/// mailer.wait_for(last, Duration::from_secs(10)).await?;
/// mailer.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BatchRunner;

impl BatchRunner {
    /// Lets `members` members with `concurrency` reactors each, all made by `factory` from their
    /// number, share the work of a group. Must be called inside a tokio runtime.
    ///
    /// The members join as `name-0`, `name-1` and so on. The status of the handle counts events.
    ///
    /// # Errors
    ///
    /// If the group is closed or has stopped, or an option cannot be meant.
    ///
    /// # Cancel safety
    ///
    /// A dropped future starts nothing.
    pub async fn start<R: BatchReactor>(
        group: &ConsumerGroup,
        name: &str,
        mut factory: impl FnMut(usize) -> R,
        members: usize,
        options: BatchOptions,
    ) -> Result<ReactorHandle, ConsumerError> {
        options.check()?;
        let (crew, joined) = Crew::join(group, name, members).await?;
        let mut reactors = (0..).map(&mut factory);
        let mut tasks = Vec::with_capacity(members);
        for member in joined {
            let reactors = reactors.by_ref().take(options.concurrency).collect();
            tasks.push(tokio::spawn(drive::run(member, reactors, options, crew.clone())));
        }
        Ok(ReactorHandle::new(group, name, crew, tasks))
    }
}

impl BatchOptions {
    fn check(&self) -> Result<(), ConsumerError> {
        let at_least_one = |option, given: usize| match given {
            0 => Err(ConsumerError::InvalidOption {
                option,
                given: given.to_string(),
                remedy: "give it at least one",
            }),
            _ => Ok(()),
        };
        at_least_one("size_max", self.size_max)?;
        at_least_one("bytes_max", self.bytes_max)?;
        at_least_one("concurrency", self.concurrency)
    }
}

#[cfg(test)]
mod tests;
