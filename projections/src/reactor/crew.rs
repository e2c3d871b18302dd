//! What all who work for one reactor share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::status::{ReactorStatus, ReactorStop};
use crate::clock::later;
use crate::group::{ConsumerError, ConsumerGroup, Member};

/// The crew of a reactor: told to stop together, and counted together.
#[derive(Clone, Debug)]
pub(crate) struct Crew {
    stop: Arc<watch::Sender<bool>>,
    stopping: watch::Receiver<bool>,
    status: Arc<watch::Sender<ReactorStatus>>,
    heartbeat: Duration,
}

impl Crew {
    /// Lets members join as `name-0`, `name-1` and so on.
    pub(crate) async fn join(
        group: &ConsumerGroup,
        name: &str,
        members: usize,
    ) -> Result<(Self, Vec<Member>), ConsumerError> {
        let mut joined = Vec::with_capacity(members);
        for number in 0..members {
            joined.push(group.join(&format!("{name}-{number}")).await?);
        }
        let (stop, stopping) = watch::channel(false);
        let (stop, status) = (Arc::new(stop), Arc::default());
        Ok((Self { stop, stopping, status, heartbeat: group.heartbeat() }, joined))
    }

    pub(crate) fn status(&self) -> &watch::Sender<ReactorStatus> {
        &self.status
    }

    /// Tells everybody to stop.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Waits until everybody is told to stop.
    pub(crate) async fn stopping(&self) {
        // The sender lives as long as this.
        let _ = self.stopping.clone().wait_for(|&stop| stop).await;
    }

    /// Says why somebody cannot go on, which stops the others too.
    pub(crate) fn stopped(&self, cause: ReactorStop) -> Arc<ReactorStop> {
        tracing::error!(%cause, "the reactor stops");
        let cause = Arc::new(cause);
        self.status.send_modify(|status| status.stop(&cause));
        self.stop();
        cause
    }

    /// Returns when to renew the leases of what is in hand.
    pub(crate) fn next_heartbeat(&self) -> Instant {
        later(Instant::now(), self.heartbeat)
    }
}
