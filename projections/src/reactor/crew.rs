//! What all who work for one reactor share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::status::{ReactorFailure, ReactorStatus, ReactorStop};
use crate::clock::later;
use crate::group::{ConsumerError, ConsumerGroup, Member, Settlement};
use crate::meters::ReactorMeters;

/// The crew of a reactor: told to stop together, and counted together.
#[derive(Clone, Debug)]
pub(crate) struct Crew {
    stop: Arc<watch::Sender<bool>>,
    stopping: watch::Receiver<bool>,
    status: Arc<watch::Sender<ReactorStatus>>,
    meters: ReactorMeters,
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
        let (meters, heartbeat) = (ReactorMeters::new(name), group.heartbeat());
        Ok((Self { stop, stopping, status, meters, heartbeat }, joined))
    }

    pub(crate) fn status(&self) -> &watch::Sender<ReactorStatus> {
        &self.status
    }

    /// Settles and counts in one step: whoever is told how far the group is finds it counted.
    pub(crate) fn count(&self, events: u64, settle: impl FnOnce() -> Settlement) {
        self.status.send_modify(|status| {
            if settle() == Settlement::Counted {
                status.reacted += events;
                self.meters.reacted.increment(events);
            }
        });
    }

    /// Notes a reaction that failed.
    pub(crate) fn note(&self, failure: ReactorFailure) {
        self.meters.failed.increment(1);
        self.status.send_modify(|status| {
            status.failed += 1;
            status.last_failure = Some(failure);
        });
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
