//! What a running projection says about itself, and why it may have stopped.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{EventType, Position, ReadError};
use tokio::time::Instant;

use crate::sink::SinkError;

/// Why a projection stopped. The read model stands at its checkpoint, untouched by what failed;
/// start the projection again once the cause is gone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopCause {
    /// It was shut down, or its handle was dropped.
    #[error("projection {projection} was shut down")]
    Shutdown {
        /// The projection.
        projection: Arc<str>,
    },
    /// It refused an event more often than was to be tried. Fix the projection.
    #[error(
        "projection {projection} failed {attempts} times to apply {event_type} at position {position}"
    )]
    Apply {
        /// The projection.
        projection: Arc<str>,
        /// Where the event stands.
        position: Position,
        /// What happened there.
        event_type: EventType,
        /// How often it was tried.
        attempts: u32,
        /// What it said last.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// It could not make or remove its read model. Fix the projection.
    #[error("projection {projection} failed to {action} its read model")]
    Setup {
        /// The projection.
        projection: Arc<str>,
        /// What was being done.
        action: &'static str,
        /// What it said.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Its code panicked. Fix the projection.
    #[error("projection {projection} panicked{}: {message}", at(position.as_ref()))]
    Panicked {
        /// The projection.
        projection: Arc<str>,
        /// The event that it was applying, if any.
        position: Option<Position>,
        /// What the panic said.
        message: String,
    },
    /// Its sink kept failing. See to the sink.
    #[error("the sink of projection {projection} failed")]
    Sink {
        /// The projection.
        projection: Arc<str>,
        /// What the sink said last.
        source: SinkError,
    },
    /// Its log could not be read. See to the log. What cannot be read may be an event that the
    /// selection leaves out: see [`Checkpoint::event`](crate::Checkpoint::event).
    #[error("projection {projection} cannot read the log after position {after}")]
    Log {
        /// The projection.
        projection: Arc<str>,
        /// How far it came.
        after: Position,
        /// What the log said last.
        source: ReadError,
    },
    /// The runtime that it ran on is gone.
    #[error("the runtime under projection {projection} was shut down")]
    Runtime {
        /// The projection.
        projection: Arc<str>,
    },
}

fn at(position: Option<&Position>) -> String {
    position.map_or(String::new(), |position| format!(" at position {position}"))
}

impl StopCause {
    /// Returns whether trying again may help.
    pub(crate) fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Apply { .. } => true,
            Self::Sink { source, .. } => {
                !matches!(source, SinkError::Damaged { .. } | SinkError::Overtaken { .. })
            }
            Self::Log { source, .. } => {
                matches!(source, ReadError::Io(_) | ReadError::Engine(_))
            }
            _ => false,
        }
    }

    /// Returns whether the projection cannot go on as if nothing had been.
    pub(crate) fn is_the_end(&self) -> bool {
        matches!(self, Self::Panicked { .. } | Self::Runtime { .. })
    }

    /// Says after how many attempts it was given up.
    pub(crate) fn after(mut self, failures: u32) -> Self {
        if let Self::Apply { attempts, .. } = &mut self {
            *attempts = failures;
        }
        self
    }
}

/// Why a rebuild did not begin, or not for good. The read model is as it was, but for
/// [`Unflushed`](Self::Unflushed).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// Retention has removed events that the read model was built from. Restore them, or keep
    /// the read model.
    #[error(
        "projection {projection} cannot be rebuilt: the log starts after position {start}, and what came before is only in the read model"
    )]
    HistoryRemoved {
        /// The projection.
        projection: Arc<str>,
        /// The last position that was removed.
        start: Position,
    },
    /// The log could not be read or the read model not be emptied, or the projection has
    /// stopped. See to the cause and try again.
    #[error(transparent)]
    Failed(Arc<StopCause>),
    /// The read model is empty and is being rebuilt, but its sink could not write that down. See
    /// to the sink; once it is flushed again, the rebuild is there to stay.
    #[error("the rebuild has begun and could not be written down, so a crash may undo it")]
    Unflushed(#[source] Arc<StopCause>),
}

/// What a projection is doing.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProjectionStatus {
    /// It applies what is already in the log, and has more than a batch to go.
    CatchingUp,
    /// It has reached the head of the log and follows it.
    Running,
    /// It applies everything again from the start.
    Rebuilding,
    /// It was told to rest, and applies nothing.
    Paused,
    /// Something failed, and it waits to try again.
    Retrying {
        /// How often it failed so far.
        failures: u32,
        /// How.
        cause: Arc<StopCause>,
    },
    /// It does nothing any more.
    Stopped {
        /// Why.
        cause: Arc<StopCause>,
    },
}

/// How far a projection is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Everything up to here is in the read model.
    pub position: Position,
    /// The last position of the log that the projection may see.
    pub head: Position,
    /// How many events were applied since it was started or its last rebuild began.
    pub applied: u64,
    /// How many positions it passes in a second, of late; `None` until that is known.
    pub positions_per_second: Option<f64>,
    /// How long it will take to the head at this rate, if nothing comes; `None` until that is
    /// known.
    pub eta: Option<Duration>,
}

/// Measures how fast a projection passes positions, over the last ten seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(VecDeque<(Instant, Position)>);

impl Meter {
    const WINDOW: Duration = Duration::from_secs(10);
    const STEP: Duration = Duration::from_millis(100);

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn note(&mut self, now: Instant, position: Position) {
        while self.0.len() > 2 && self.0.front().is_some_and(|(at, _)| now - *at > Self::WINDOW) {
            self.0.pop_front();
        }
        // The last sample moves along until it is worth keeping: the memory stays bounded.
        let mut back = self.0.iter().rev();
        let close = match (back.next(), back.next()) {
            (Some(_), Some((before, _))) => now - *before < Self::STEP,
            _ => false,
        };
        if close {
            self.0.pop_back();
        }
        self.0.push_back((now, position));
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
    pub(crate) fn rate(&self) -> Option<f64> {
        let (&(start, first), &(end, last)) = (self.0.front()?, self.0.back()?);
        let passed = last.events_since(first)? as f64;
        let seconds = (end - start).as_secs_f64();
        (seconds > 0.0).then(|| passed / seconds)
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate need not be exact")]
    pub(crate) fn eta(&self, position: Position, head: Position) -> Option<Duration> {
        let left = head.events_since(position).unwrap_or(0);
        if left == 0 {
            return Some(Duration::ZERO);
        }
        let rate = self.rate().filter(|rate| *rate > 0.0)?;
        Duration::try_from_secs_f64(left as f64 / rate).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_eta_follow_the_last_seconds() {
        let start = Instant::now();
        let mut meter = Meter::default();
        assert_eq!(meter.rate(), None);
        for second in 0..=60 {
            let speed = if second <= 30 { 10 } else { 1_000 };
            let position = Position::new(if second <= 30 {
                second * speed
            } else {
                300 + (second - 30) * speed
            });
            meter.note(start + Duration::from_secs(second), position);
        }
        let position = Position::new(30_300);
        assert_eq!(meter.rate(), Some(1_000.0));
        assert_eq!(meter.eta(position, position.advanced_by(5_000)), Some(Duration::from_secs(5)));
        assert_eq!(meter.eta(position, position), Some(Duration::ZERO));
    }

    #[test]
    fn many_samples_take_little_memory() {
        let start = Instant::now();
        let mut meter = Meter::default();
        for n in 0..100_000 {
            meter.note(start + Duration::from_micros(n * 500), Position::new(n));
        }
        assert!(meter.0.len() <= 103, "{}", meter.0.len());
        assert!((meter.rate().unwrap() - 2_000.0).abs() < 1.0);
    }
}
