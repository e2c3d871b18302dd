//! Why an event was not taken, divided by what is done next.

use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Why a [`Target`](super::Target) did not take an event.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// The target will never take this event. It is hopeless at once, without further attempts:
    /// parked, dropped, or the group stops, as the group's policy says.
    #[error("the target refuses the event")]
    Refused(#[source] Cause),
    /// It did not work this time, and that may be the event's fault: it counts as an attempt, and
    /// the event comes again as the group's policy says.
    #[error("the target did not take the event")]
    Failed {
        /// How long to wait before the next attempt, instead of what the policy says.
        retry_after: Option<Duration>,
        /// What went wrong.
        source: Cause,
    },
    /// The target cannot be asked now, whatever the event: it is unreachable, or has too much to
    /// do. Nothing counts as an attempt; the bridge waits, then tries with one event.
    #[error("the target is unavailable")]
    Unavailable {
        /// How long to leave it alone at least.
        retry_after: Option<Duration>,
        /// What went wrong.
        source: Cause,
    },
}

/// What a target failed with.
type Cause = Arc<dyn Error + Send + Sync>;

fn cause(error: impl Into<Box<dyn Error + Send + Sync>>) -> Cause {
    Arc::from(error.into())
}

impl SendError {
    /// The target will never take this event.
    pub fn refused(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Refused(cause(error))
    }

    /// It did not work this time.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { retry_after: None, source: cause(error) }
    }

    /// The target cannot be asked now.
    pub fn unavailable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable { retry_after: None, source: cause(error) }
    }

    /// Asks for this much time before the next attempt. A refusal has none.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        match &mut self {
            Self::Refused(_) => {}
            Self::Failed { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                *retry_after = Some(delay);
            }
        }
        self
    }

    /// Returns what went wrong with all its causes, for a line of text.
    pub(super) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            write!(text, ": {error}").expect("a text takes everything");
            next = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_line_about_an_error_names_every_cause() {
        let error = SendError::failed(Outer(std::io::Error::other("inner")));
        assert_eq!(error.chain(), "the target did not take the event: outer: inner");
    }
}
