//! One reactor at work: take a batch, react to each event, commit.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument;

use super::crew::Crew;
use super::status::{ReactorFailure, ReactorStop};
use super::{ReactError, Reactor, ReactorOptions};
use crate::clock::sleep_until;
use crate::commits::Commits;
use crate::group::{Delivery, Member, Settlement};

pub(super) struct Drive<R: Reactor> {
    reactor: R,
    member: Member,
    options: ReactorOptions,
    crew: Crew,
    /// When leases are renewed next: one heartbeat for a whole batch, however many events it has.
    renew_at: Instant,
}

impl<R: Reactor> Drive<R> {
    pub(super) fn new(reactor: R, member: Member, options: ReactorOptions, crew: Crew) -> Self {
        Self { reactor, member, options, crew, renew_at: Instant::now() }
    }

    /// Works until told to stop or until something fails for good, which stops the others too.
    pub(super) async fn run(mut self) -> Result<(), Arc<ReactorStop>> {
        let worked = self.work().await;
        // In both cases what was acked is committed and the slots go to others.
        let left = self.member.leave().await;
        worked.and(left.map_err(ReactorStop::Group)).map_err(|cause| self.crew.stopped(cause))
    }

    async fn work(&mut self) -> Result<(), ReactorStop> {
        let mut commits = Commits::default();
        loop {
            let deliveries = tokio::select! {
                biased;
                () = self.crew.stopping() => return Ok(()),
                next = self.member.next(self.options.batch_events) => next,
                () = sleep_until(commits.again_at()) => Ok(Vec::new()),
            };
            let mut batch = VecDeque::from(deliveries.map_err(ReactorStop::Group)?);
            self.renew_at = self.crew.next_heartbeat();
            while let Some(delivery) = batch.pop_front() {
                if let Err(stop) = self.handle(delivery, &batch).await {
                    give_back(batch);
                    return Err(stop);
                }
                if self.crew.is_stopping() {
                    give_back(batch);
                    return Ok(());
                }
            }
            commits.commit(&self.member).await.map_err(ReactorStop::Group)?;
        }
    }

    async fn handle(
        &mut self,
        delivery: Delivery,
        waiting: &VecDeque<Delivery>,
    ) -> Result<(), ReactorStop> {
        if self.renew_at <= Instant::now() {
            // Reactions that never waited have used up the time between two heartbeats.
            self.renew_at = self.crew.next_heartbeat();
            renew(waiting);
        }
        if delivery.renew() == Settlement::TooLate {
            // Somebody else has it, or will.
            return Ok(());
        }
        let position = delivery.event().position;
        let reacted = self.react(&delivery, waiting).await;
        let reacted = reacted.map_err(|message| ReactorStop::Panicked { position, message })?;
        let Err(error) = reacted else {
            self.crew.count(1, || delivery.ack());
            return Ok(());
        };
        let attempt = delivery.attempt();
        tracing::warn!(%position, attempt, %error, "a reaction failed");
        self.crew.note(ReactorFailure { position, attempt, error: Arc::clone(&error.source) });
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
                    self.renew_at = self.crew.next_heartbeat();
                    renew(waiting);
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

fn renew(waiting: &VecDeque<Delivery>) {
    for delivery in waiting {
        delivery.renew();
    }
}
