//! One bridge at work: take events as there is room, send them beside each other, settle each as
//! its answer comes, and commit what was settled while the next ones are under way.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::Timestamp;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::Instrument;

use super::circuit::{Circuit, Epoch};
use super::error::SendError;
use super::status::{BridgeFailure, BridgePhase, BridgeStatus, BridgeStop};
use super::{Message, Target};
use crate::clock::sleep_until;
use crate::commits::Commits;
use crate::group::{Delivery, Member, Settlement};
use crate::meters::BridgeMeters;

pub(super) struct Drive<T> {
    pub(super) target: Arc<T>,
    pub(super) member: Member,
    pub(super) source: Arc<str>,
    pub(super) concurrency: usize,
    /// How often the lease of what is under way is renewed.
    pub(super) heartbeat: Duration,
    pub(super) circuit: Circuit,
    pub(super) sending: JoinSet<Sent>,
    /// Whether something was settled since the last commit.
    pub(super) uncommitted: bool,
    pub(super) commits: Commits,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) status: Arc<watch::Sender<BridgeStatus>>,
    pub(super) meters: BridgeMeters,
}

/// What came of an event.
pub(super) struct Sent {
    delivery: Delivery,
    epoch: Epoch,
    /// What the target said, or the text of its panic.
    outcome: Result<Result<(), SendError>, String>,
}

impl<T: Target> Drive<T> {
    /// Works until told to stop or until something fails for good.
    pub(super) async fn run(mut self) -> Result<(), Arc<BridgeStop>> {
        let mut worked = self.work().await;
        while let Some(sent) = self.sending.join_next().await {
            worked = worked.and(self.settle(sent));
        }
        // What was settled is committed, and the slots go to others.
        let left = self.member.leave().await;
        let done = worked.and(left.map_err(BridgeStop::Group)).map_err(Arc::new);
        let cause = match &done {
            Ok(()) => Arc::new(BridgeStop::Shutdown),
            Err(cause) => {
                tracing::error!(%cause, "the bridge stops");
                Arc::clone(cause)
            }
        };
        self.status.send_modify(|status| status.enter(BridgePhase::Stopped { cause }));
        done
    }

    async fn work(&mut self) -> Result<(), BridgeStop> {
        loop {
            let room = self.room();
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = async { drop(self.stopping.wait_for(|&stop| stop).await) } => return Ok(()),
                Some(sent) = self.sending.join_next() => self.settle(sent)?,
                next = self.member.next(room), if room > 0 => {
                    self.send(next.map_err(BridgeStop::Group)?);
                }
                () = sleep_until(wake) => {}
            }
            while let Some(sent) = self.sending.try_join_next() {
                self.settle(sent)?;
            }
            // Before the commit, so that these are under way meanwhile.
            let room = self.room();
            if room > 0 {
                let next = self.member.try_next(room);
                self.send(next.map_err(BridgeStop::Group)?);
            }
            self.commit().await?;
        }
    }

    fn room(&self) -> usize {
        self.circuit.room(self.sending.len(), self.concurrency, Instant::now())
    }

    /// Returns when there is something to do though nothing happens.
    fn wake_at(&self) -> Option<Instant> {
        let now = Instant::now();
        // Once that has passed, an event may be taken, or is under way.
        let try_target = self.circuit.open_until().filter(|&until| until > now);
        try_target.into_iter().chain(self.commits.again_at()).min()
    }

    fn send(&mut self, mut deliveries: Vec<Delivery>) {
        let positions = deliveries.iter().map(|delivery| delivery.event().position);
        if let Some(chosen) = self.circuit.choose(positions).filter(|_| !deliveries.is_empty()) {
            let one = deliveries.swap_remove(chosen);
            for untouched in std::mem::replace(&mut deliveries, vec![one]) {
                untouched.release();
            }
        }
        let (epoch, heartbeat) = (self.circuit.epoch(), self.heartbeat);
        for delivery in deliveries {
            let (target, source) = (Arc::clone(&self.target), Arc::clone(&self.source));
            self.sending.spawn(async move {
                let outcome = hand_over(&*target, &delivery, &source, heartbeat).await;
                Sent { delivery, epoch, outcome }
            });
        }
    }

    fn settle(&mut self, sent: Result<Sent, JoinError>) -> Result<(), BridgeStop> {
        let Sent { delivery, epoch, outcome } = sent.map_err(|_| BridgeStop::Runtime)?;
        let (position, attempt) = (delivery.event().position, delivery.attempt());
        let outcome = outcome.map_err(|message| {
            tracing::error!(%position, message, "a target panicked");
            BridgeStop::Panicked { position, message }
        })?;
        self.uncommitted = true;
        let Err(error) = outcome else {
            self.circuit.answered(epoch, position);
            // In one step: whoever is told how far the group is finds it counted.
            self.status.send_modify(|status| {
                if delivery.ack() == Settlement::Counted {
                    status.forwarded += 1;
                    self.meters.forwarded.increment(1);
                }
                if self.circuit.open_until().is_none() {
                    status.enter(BridgePhase::Running);
                }
            });
            return Ok(());
        };
        let cause = error.chain();
        tracing::warn!(%position, attempt, %cause, "an event was not forwarded");
        let now = Instant::now();
        let opened = match &error {
            SendError::Refused(_) => {
                self.circuit.answered(epoch, position);
                None
            }
            SendError::Failed { .. } => self.circuit.failed(epoch, position, now),
            SendError::Unavailable { retry_after, .. } => {
                self.circuit.unavailable(epoch, *retry_after, now)
            }
        };
        self.note(BridgeFailure { position, attempt, error: error.clone() }, opened);
        match error {
            SendError::Refused(_) => delivery.give_up(cause),
            SendError::Failed { retry_after: Some(delay), .. } => delivery.fail_after(cause, delay),
            SendError::Failed { .. } => delivery.fail(cause),
            SendError::Unavailable { .. } => delivery.release(),
        };
        Ok(())
    }

    fn note(&self, failure: BridgeFailure, opened: Option<Duration>) {
        match &failure.error {
            SendError::Refused(_) => &self.meters.refused,
            SendError::Failed { .. } => &self.meters.failed,
            SendError::Unavailable { .. } => &self.meters.unavailable,
        }
        .increment(1);
        self.status.send_modify(|status| {
            match &failure.error {
                SendError::Refused(_) => status.refused += 1,
                SendError::Failed { .. } => status.failed += 1,
                SendError::Unavailable { .. } => status.unavailable += 1,
            }
            if let Some(wait) = opened {
                let (until, cause) = (Timestamp::now().saturating_add(wait), failure.error.clone());
                status.enter(BridgePhase::Waiting { until, cause });
            } else if self.circuit.open_until().is_none() {
                status.enter(BridgePhase::Running);
            }
            status.last_failure = Some(failure);
        });
    }

    async fn commit(&mut self) -> Result<(), BridgeStop> {
        if self.uncommitted {
            let durable = self.commits.commit(&self.member).await;
            self.uncommitted = !durable.map_err(BridgeStop::Group)?;
        }
        Ok(())
    }
}

/// Gives an event to the target, and keeps its lease meanwhile. A panic comes back as its text.
async fn hand_over(
    target: &impl Target,
    delivery: &Delivery,
    source: &str,
    heartbeat: Duration,
) -> Result<Result<(), SendError>, String> {
    let key = delivery.idempotency_key();
    let (event, attempt) = (delivery.event(), delivery.attempt());
    let message = Message { event, key: &key, attempt, source };
    let sending = target.send(&message).instrument(delivery.span());
    let mut sending = std::pin::pin!(crate::panic::caught(sending));
    loop {
        tokio::select! {
            biased;
            outcome = &mut sending => return outcome,
            () = tokio::time::sleep(heartbeat) => drop(delivery.renew()),
        }
    }
}
