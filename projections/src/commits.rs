//! Commits that a log may refuse for a while.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::later;
use crate::group::{ConsumerError, Member};
use crate::retry::Backoff;

/// How long to wait for further events before a commit that was refused is tried again.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10) };

/// The commits of somebody who works for a member: what the log refuses for a while stays in memory
/// and goes with the next one.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// How many in a row were refused.
    refused: u32,
}

impl Commits {
    /// Commits what was settled, and returns whether it is durable.
    ///
    /// # Errors
    ///
    /// Only for good.
    pub(crate) async fn commit(&mut self, member: &Member) -> Result<bool, ConsumerError> {
        match member.commit_in_turn().await {
            Ok(()) => self.refused = 0,
            Err(error) if error.is_passing() => {
                self.refused = self.refused.saturating_add(1);
                tracing::warn!(member = member.name(), %error, "a commit waits for the next one");
            }
            Err(error) => return Err(error),
        }
        Ok(self.refused == 0)
    }

    /// Returns when to commit again if nothing else is to be done before; `None` if nothing was
    /// refused.
    pub(crate) fn again_at(&self) -> Option<Instant> {
        (self.refused > 0).then(|| later(Instant::now(), BACKOFF.jittered(self.refused)))
    }
}
