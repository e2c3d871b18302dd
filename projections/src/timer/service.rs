//! Letting timers fire.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::{
    Append, AppendError, EncodeError, EventLog, ExpectedRevision, NewEvent, StreamId, Timestamp,
    Visibility, encode_event,
};

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
    renew_after: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl TimerService {
    /// Serves the timers of a log, by the system's clock.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self { log, clock: Arc::new(SystemClock), backoff: Backoff::default(), renew_after: DAY }
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

    /// Sets after how long a timer is written down anew, so that retention may remove what is older:
    /// a day if not set. Keep at least twice as much of the log, and the time that no service runs.
    #[must_use]
    pub fn renew_after(mut self, age: Duration) -> Self {
        self.renew_after = age;
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
        while let Some(due) = self.next_step(book) {
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
            () = self.clock.wait_until(self.next_time(book)) => Ok(()),
            grown = self.log.wait_for(book.cursor.next(), Visibility::Committed) => {
                Ok(grown.map(|_| ())?)
            }
        }
    }

    /// Returns what is to be done now.
    fn next_step<'a>(&self, book: &'a Book) -> Option<Due<'a>> {
        let now = self.clock.now();
        book.first_due(now).or_else(|| {
            let (written, due) = book.oldest()?;
            (self.renewal_of(written) <= now).then_some(due)
        })
    }

    /// Returns when there will be something to be done.
    fn next_time(&self, book: &Book) -> Option<Timestamp> {
        let renewal = book.oldest().map(|(written, _)| self.renewal_of(written));
        book.next_due().into_iter().chain(renewal).min()
    }

    fn renewal_of(&self, written: Timestamp) -> Timestamp {
        let age = i64::try_from(self.renew_after.as_nanos()).unwrap_or(i64::MAX);
        Timestamp::from_nanos(written.as_nanos().saturating_add(age.max(1)))
    }

    /// Appends the event that is due together with the news that it was, or that it was missed.
    async fn settle(&self, due: &Due<'_>) -> Result<(), TimerError> {
        let Due { stream, revision, timer, step } = *due;
        let append = match step {
            Step::Fire(due) => {
                let event = timer.known.definition.event.event(timer.known.scheduled, due);
                Append::new([event, self.record(stream, &TimerRecord::Fired { due })?])
            }
            Step::Pass(through) => {
                Append::new([self.record(stream, &TimerRecord::Passed { through })?])
            }
            Step::Renew => {
                let known = Box::new(timer.known.clone());
                Append::new([self.record(stream, &TimerRecord::Renewed(known))?])
            }
        };
        self.log
            .append(append.expecting(stream.clone(), ExpectedRevision::Exact(revision)))
            .await?;
        Ok(())
    }

    fn record(&self, stream: &StreamId, record: &TimerRecord) -> Result<NewEvent, EncodeError> {
        let mut event = encode_event(stream.clone(), record)?;
        event.event_time = self.clock.now();
        Ok(event)
    }
}
