//! One reactor at work: take a batch, react to each event, commit.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;

use super::status::{ReactorFailure, ReactorStatus, ReactorStop};
use super::{ReactError, Reactor, ReactorOptions};
use crate::clock::later;
use crate::group::{ConsumerError, Delivery, Member, Settlement};
use crate::retry::Backoff;

/// How long to wait for further events before a commit that the log has refused is tried again.
pub(crate) const COMMIT_BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10) };

pub(super) struct Drive<R: Reactor> {
    pub(super) reactor: R,
    pub(super) member: Member,
    pub(super) options: ReactorOptions,
    /// How often the leases of what is in hand are renewed, more than zero.
    pub(super) heartbeat: Duration,
    /// When they are renewed next: one heartbeat for a whole batch, however many events it has.
    pub(super) renew_at: Instant,
    pub(super) stop: Arc<watch::Sender<bool>>,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) status: Arc<watch::Sender<ReactorStatus>>,
}

impl<R: Reactor> Drive<R> {
    /// Works until told to stop or until something fails for good, which stops the others too.
    pub(super) async fn run(mut self) -> Result<(), Arc<ReactorStop>> {
        let worked = self.work().await;
        // In both cases what was acked is committed and the slots go to others.
        let left = self.member.leave().await;
        let done = worked.and(left.map_err(ReactorStop::Group));
        done.map_err(|cause| {
            tracing::error!(%cause, "the reactor stops");
            let cause = Arc::new(cause);
            self.status.send_modify(|status| status.stop(&cause));
            self.stop.send_replace(true);
            cause
        })
    }

    async fn work(&mut self) -> Result<(), ReactorStop> {
        let mut failures = 0;
        loop {
            let commit_again = async {
                match failures {
                    0 => pending().await,
                    failures => tokio::time::sleep(COMMIT_BACKOFF.jittered(failures)).await,
                }
            };
            let deliveries = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|&stop| stop) => return Ok(()),
                next = self.member.next(self.options.batch_events) => next,
                () = commit_again => Ok(Vec::new()),
            };
            let mut batch = VecDeque::from(deliveries.map_err(ReactorStop::Group)?);
            self.renew_at = later(Instant::now(), self.heartbeat);
            while let Some(delivery) = batch.pop_front() {
                if let Err(stop) = self.handle(delivery, &batch).await {
                    give_back(batch);
                    return Err(stop);
                }
                if *self.stopping.borrow() {
                    give_back(batch);
                    return Ok(());
                }
            }
            match self.member.commit().await {
                Ok(()) => failures = 0,
                Err(error) if error.is_passing() => {
                    failures += 1;
                    self.commit_failed(&error);
                }
                Err(error) => return Err(ReactorStop::Group(error)),
            }
        }
    }

    /// The acks stay in memory and go with the next commit: after the next batch, or after a
    /// while if there is none.
    fn commit_failed(&self, error: &ConsumerError) {
        tracing::warn!(member = self.member.name(), %error, "a commit waits for the next one");
    }

    async fn handle(
        &mut self,
        delivery: Delivery,
        waiting: &VecDeque<Delivery>,
    ) -> Result<(), ReactorStop> {
        if self.renew_at <= Instant::now() {
            // Reactions that never waited have used up the time between two heartbeats.
            self.renew_at = renew(waiting, self.heartbeat);
        }
        if delivery.renew() == Settlement::TooLate {
            // Somebody else has it, or will.
            return Ok(());
        }
        let position = delivery.event().position;
        let reacted = self.react(&delivery, waiting).await;
        let reacted = reacted.map_err(|message| ReactorStop::Panicked { position, message })?;
        let Err(error) = reacted else {
            // In one step: whoever is told how far the group is finds it counted.
            self.status.send_modify(|status| {
                status.reacted += u64::from(delivery.ack() == Settlement::Counted);
            });
            return Ok(());
        };
        let attempt = delivery.attempt();
        tracing::warn!(%position, attempt, %error, "a reaction failed");
        self.status.send_modify(|status| {
            status.failed += 1;
            status.last_failure =
                Some(ReactorFailure { position, attempt, error: Arc::clone(&error.source) });
        });
        match error.retry_after {
            Some(delay) => delivery.fail_after(&error, delay),
            None => delivery.fail(&error),
        };
        Ok(())
    }

    /// Reacts to one event, and meanwhile keeps the leases of everything in hand. A panic comes
    /// back as its message.
    async fn react(
        &mut self,
        delivery: &Delivery,
        waiting: &VecDeque<Delivery>,
    ) -> Result<Result<(), ReactError>, String> {
        let key = delivery.idempotency_key();
        // After a panic the reactor is not called again.
        let reaction = self.reactor.react(delivery.event(), &key).instrument(delivery.span());
        let mut reaction = pin!(crate::panic::caught(reaction));
        loop {
            tokio::select! {
                biased;
                result = &mut reaction => return result,
                () = tokio::time::sleep_until(self.renew_at) => {
                    delivery.renew();
                    self.renew_at = renew(waiting, self.heartbeat);
                }
            }
        }
    }
}

/// Gives back what was not touched, so that it does not count as an attempt.
fn give_back(batch: VecDeque<Delivery>) {
    for untouched in batch {
        untouched.release();
    }
}

/// Renews the leases of events that wait, and returns when to do so again.
fn renew(waiting: &VecDeque<Delivery>, heartbeat: Duration) -> Instant {
    for delivery in waiting {
        delivery.renew();
    }
    later(Instant::now(), heartbeat)
}
