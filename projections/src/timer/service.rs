//! Letting timers fire.

use std::sync::Arc;

use headwater_core::{Append, AppendError, EventLog, ExpectedRevision, Visibility, encode_event};

use super::book::{Book, Due, Step};
use super::record::TimerRecord;
use super::{TimerError, catch_up};
use crate::clock::{Clock, SystemClock};
use crate::retry::Backoff;

/// Appends what the timers of a log are due to append.
///
/// # Guarantees
///
/// Each tick that a timer's [`Missed`](super::Missed) policy fires is exactly one event in the log,
/// whatever crashes, and however many services run, in however many processes. It is there after
/// its time and not before. Ticks of one timer are in the order of their times. A clock that goes
/// back fires nothing again; one that goes forward fires what is due then.
///
/// # Examples
///
/// See [`Timers`](super::Timers).
#[derive(Clone, Debug)]
pub struct TimerService {
    log: Arc<dyn EventLog>,
    clock: Arc<dyn Clock>,
    backoff: Backoff,
}

impl TimerService {
    /// Serves the timers of a log, by the system's clock.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self { log, clock: Arc::new(SystemClock), backoff: Backoff::default() }
    }

    /// Goes by another clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how long to wait before another attempt when the disk is full.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Runs until something fails that trying again does not help, and returns what that was.
    /// [`AppendError::StorageFull`] and [`AppendError::NoSegment`] are tried again for ever, with a
    /// warning in the trace.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future stops the service and loses nothing, and neither does
    /// killing the process.
    ///
    /// # Complexity
    ///
    /// Begins by reading the events of all timers, and then holds those that are to fire. A tick
    /// takes time with the logarithm of their number.
    pub async fn run(self) -> TimerError {
        let mut book = Book::default();
        loop {
            if let Err(error) = self.step(&mut book).await {
                return error;
            }
        }
    }

    /// Fires what is due, and waits until there may be more.
    async fn step(&self, book: &mut Book) -> Result<(), TimerError> {
        catch_up(&*self.log, book).await?;
        let mut failures = 0;
        while let Some(due) = book.first_due(self.clock.now()) {
            match self.settle(&due).await {
                Ok(()) => failures = 0,
                // Another service or a caller came first.
                Err(TimerError::Append(AppendError::Conflict(_))) => {}
                Err(TimerError::Append(
                    error @ (AppendError::StorageFull(_) | AppendError::NoSegment(_)),
                )) => {
                    failures += 1;
                    tracing::warn!(%error, failures, "a timer could not fire and will be tried again");
                    tokio::time::sleep(self.backoff.jittered(failures)).await;
                }
                Err(error) => return Err(error),
            }
            catch_up(&*self.log, book).await?;
        }
        tokio::select! {
            () = self.clock.wait_until(book.next_due()) => Ok(()),
            grown = self.log.wait_for(book.cursor.next(), Visibility::Committed) => {
                Ok(grown.map(|_| ())?)
            }
        }
    }

    /// Appends the event that is due together with the news that it was, or that it was missed.
    async fn settle(&self, due: &Due<'_>) -> Result<(), TimerError> {
        let Due { stream, revision, timer, step } = *due;
        let append = match step {
            Step::Fire(due) => {
                let event = timer.definition.event.event(timer.scheduled, due);
                let fired = encode_event(stream.clone(), &TimerRecord::Fired { due })?;
                Append::new([event, fired])
            }
            Step::Pass(through) => {
                Append::new([encode_event(stream.clone(), &TimerRecord::Passed { through })?])
            }
        };
        self.log
            .append(append.expecting(stream.clone(), ExpectedRevision::Exact(revision)))
            .await?;
        Ok(())
    }
}
