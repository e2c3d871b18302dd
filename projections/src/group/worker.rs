//! This process as one of several that run a group: it gives signs of life, watches those of the
//! others, and moves slots by the journal that they share.
//!
//! Safety stands on the journal alone: a slot is claimed when nobody owns it, and each claim gives
//! out a generation, without which nothing is committed. Clocks decide when a process is given up.
//! One that was stopped for so long goes on with what it has in hand when it wakes, takes nothing
//! new before it has looked, and what it commits of slots that were claimed meanwhile is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater_core::{
    GroupError, SharedGroup, Version, Visibility, WorkerChange, WorkerId, WorkerLog,
};
use tokio::time::Instant;

use super::commit::runs;
use super::coordinator::{Coordinator, HandOver, MemberId};
use super::error::ConsumerError;
use super::shared::Shared;
use crate::clock::later;

/// How long to leave the journal alone after a look: others commit all the time.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a process remembers of itself and the others, by its own clock.
pub(super) struct Worker {
    beat_at: Instant,
    /// How many members the others know of.
    members: u16,
    looked: Instant,
    /// What was seen last.
    version: Version,
    /// How often each of the others had beaten when that was new, and when that was.
    seen: BTreeMap<WorkerId, (u64, Instant)>,
}

/// Why a round of [`Worker::tend`] ended early.
enum Interrupted {
    /// Others were faster: look and try again.
    Overtaken,
    /// This process was given up by the others: join again.
    Evicted,
    /// Something else.
    Failed(ConsumerError),
}

impl Worker {
    pub(super) fn new(shared: &Shared) -> Self {
        let now = Instant::now();
        Self {
            beat_at: later(now, shared.worker_lease),
            members: 0,
            looked: now,
            version: Version::NONE,
            seen: BTreeMap::new(),
        }
    }

    /// Returns when the others expect a sign of life.
    pub(super) fn beat_at(&self) -> Instant {
        self.beat_at
    }

    /// Waits until the others have changed something, or it is time to give a sign of life or to
    /// give somebody up.
    pub(super) async fn news(&self, shared: &Shared) {
        let changed = async {
            tokio::time::sleep_until(self.looked + LOOK_AGAIN).await;
            let workers = shared.log.workers();
            let changed = match workers {
                Some(workers) => workers.changed(self.version).await,
                None => Ok(()),
            };
            // The next beat meets the same error, and deals with it.
            if changed.is_err() || workers.is_none() {
                std::future::pending::<()>().await;
            }
        };
        let gives_up =
            self.seen.values().map(|&(_, since)| later(since, shared.worker_lease)).min();
        let next = gives_up.map_or(self.beat_at, |at| at.min(self.beat_at));
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }

    /// Does what is due: gives a sign of life, gives up who gives none, lets slots go and takes
    /// others.
    pub(super) async fn tend(&mut self, shared: &Shared) -> Result<(), ConsumerError> {
        let Some(workers) = shared.log.workers() else { return Ok(()) };
        let _turn = shared.log_turn.write().await;
        loop {
            match self.round(shared, workers).await {
                Ok(()) => return Ok(()),
                Err(Interrupted::Overtaken) => {}
                Err(Interrupted::Evicted) => self.forget(shared, workers).await?,
                Err(Interrupted::Failed(error)) => return Err(error),
            }
        }
    }

    async fn round(&mut self, shared: &Shared, workers: &dyn WorkerLog) -> Result<(), Interrupted> {
        let interrupted = |error| interrupted(shared, error);
        let group = self.show_up(shared, workers).await.map_err(interrupted)?;
        let group = self.give_up_others(shared, workers, group).await.map_err(interrupted)?;
        self.take_in(shared, &group);
        let Some(me) = shared.worker() else { return Ok(()) };
        let group = self.let_go(shared, workers, me).await?.unwrap_or(group);
        self.claim(shared, workers, me, &group).await
    }

    /// Joins the others or gives them a sign of life if it is time, and returns what they say.
    async fn show_up(
        &mut self,
        shared: &Shared,
        workers: &dyn WorkerLog,
    ) -> Result<SharedGroup, GroupError> {
        let now = Instant::now();
        let members = shared.with(|group| group.member_count());
        let members = u16::try_from(members).unwrap_or(u16::MAX);
        let me = shared.worker();
        let change = match me {
            // Whoever has no members takes nothing from others, and only looks.
            None if members == 0 => {
                self.beat_at = later(now, shared.worker_lease / 3);
                return workers.shared_group(&shared.name).await;
            }
            None => WorkerChange::Join { name: shared.worker_name.clone(), members },
            Some(worker) if self.beat_at <= now || self.members != members => {
                WorkerChange::Beat { worker, members }
            }
            Some(_) => return workers.shared_group(&shared.name).await,
        };
        let group = workers.change_workers(&shared.name, change).await?;
        self.members = members;
        self.beat_at = later(now, shared.worker_lease / 3);
        if me.is_none() {
            shared.set_worker(Some(group.workers.newest()));
        }
        // From before the sign was given: the others have seen it later.
        let until = later(now, shared.worker_lease);
        shared.with(|own| {
            own.go_live();
            own.serve_until(Some(until));
        });
        Ok(group)
    }

    /// Evicts those of whom nothing new was seen for as long as a lease runs.
    async fn give_up_others(
        &mut self,
        shared: &Shared,
        workers: &dyn WorkerLog,
        mut group: SharedGroup,
    ) -> Result<SharedGroup, GroupError> {
        let now = Instant::now();
        let me = shared.worker();
        if me.is_none() {
            // A guest leaves that to those who would take over.
            self.seen.clear();
            return Ok(group);
        }
        let known = |id: &WorkerId| group.workers.get(*id).is_some() && Some(*id) != me;
        self.seen.retain(|id, _| known(id));
        for (id, worker) in group.workers.iter().filter(|(id, _)| Some(*id) != me) {
            let seen = self.seen.entry(id).or_insert((worker.beats, now));
            if seen.0 != worker.beats {
                *seen = (worker.beats, now);
            }
        }
        let silent = |&(_, since): &(u64, Instant)| later(since, shared.worker_lease) <= now;
        let silent: Vec<(WorkerId, u64)> = self
            .seen
            .iter()
            .filter(|(_, seen)| silent(seen))
            .map(|(&id, seen)| (id, seen.0))
            .collect();
        for (worker, beats) in silent {
            let evict = WorkerChange::Evict { worker, beats };
            match workers.change_workers(&shared.name, evict).await {
                Ok(after) => {
                    tracing::warn!(group = %shared.name, %worker, "a silent process is given up");
                    self.seen.remove(&worker);
                    group = after;
                }
                // It lives after all, or another was faster.
                Err(GroupError::WorkerAlive { .. } | GroupError::WorkerGone { .. }) => {
                    group = workers.shared_group(&shared.name).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(group)
    }

    fn take_in(&mut self, shared: &Shared, group: &SharedGroup) {
        self.version = group.version;
        self.looked = Instant::now();
        shared.with(|own| own.reconcile(group, shared.worker()));
    }

    /// Lets slots go that others are to have, after what was acked of them is durable.
    async fn let_go(
        &mut self,
        shared: &Shared,
        workers: &dyn WorkerLog,
        worker: WorkerId,
    ) -> Result<Option<SharedGroup>, Interrupted> {
        let slots = shared.with(Coordinator::begin_release);
        if slots.is_empty() {
            return Ok(None);
        }
        let release = async {
            let plan = shared.with(|own| own.plan_release(&slots));
            shared.store(plan).await.map_err(not_stored)?;
            let change = WorkerChange::Release { worker, slots: runs(slots.iter().copied()) };
            let changed = workers.change_workers(&shared.name, change).await;
            changed.map_err(|error| interrupted(shared, error))
        };
        match release.await {
            Ok(group) => {
                shared.with(|own| own.released(&slots));
                self.take_in(shared, &group);
                Ok(Some(group))
            }
            Err(error) => {
                shared.with(|own| own.keep(&slots));
                Err(error)
            }
        }
    }

    /// Claims slots that nobody owns, and those that change their member here.
    async fn claim(
        &mut self,
        shared: &Shared,
        workers: &dyn WorkerLog,
        worker: WorkerId,
        group: &SharedGroup,
    ) -> Result<(), Interrupted> {
        let Some(plan) = shared.with(Coordinator::begin_hand_over) else {
            return Ok(());
        };
        let claim = async {
            self.can_go_on(shared, &plan, group).await.map_err(Interrupted::Failed)?;
            // What members have acked is committed under the generation that they had.
            shared.commit(None).await.map_err(not_stored)?;
            let slots = runs(plan.moves.iter().map(|&(slot, _)| slot));
            let change = WorkerChange::Claim { worker, slots };
            let changed = workers.change_workers(&shared.name, change).await;
            changed.map_err(|error| interrupted(shared, error))
        };
        match claim.await {
            Ok(group) => {
                shared.with(|own| own.finish_claim(plan, &group));
                self.version = group.version;
                Ok(())
            }
            Err(error) => {
                shared.with(|own| own.abort_hand_over(plan));
                Err(error)
            }
        }
    }

    /// Checks that this process sees the log as far as the progress of slots goes that it is about
    /// to claim: it may be behind whoever had them.
    async fn can_go_on(
        &self,
        shared: &Shared,
        plan: &HandOver,
        group: &SharedGroup,
    ) -> Result<(), ConsumerError> {
        let reach = plan.moves.iter().map(|&(slot, _)| group.state.slot(slot).reach()).max();
        let position = reach.unwrap_or_default();
        let head = shared.log.head(Visibility::Committed).await;
        let head = head.map_err(|error| shared.refused(error.into()))?;
        if position <= head {
            return Ok(());
        }
        let group = shared.name.clone();
        Err(shared.refused(GroupError::OutsideLog { group, position, head }))
    }

    /// Forgets everything that was held here: the others have it.
    async fn forget(
        &mut self,
        shared: &Shared,
        workers: &dyn WorkerLog,
    ) -> Result<(), ConsumerError> {
        tracing::warn!(group = %shared.name, "this process was given up by the others; it joins again");
        shared.set_worker(None);
        shared.look(workers).await
    }
}

fn interrupted(shared: &Shared, error: GroupError) -> Interrupted {
    match error {
        GroupError::WorkerGone { .. } => Interrupted::Evicted,
        GroupError::SlotTaken { .. } => Interrupted::Overtaken,
        error => Interrupted::Failed(shared.refused(error)),
    }
}

fn not_stored(error: ConsumerError) -> Interrupted {
    match error {
        ConsumerError::LostSlots { .. } => Interrupted::Overtaken,
        error => Interrupted::Failed(error),
    }
}

/// Makes what changed in the slots of one member durable, or in all. Of slots that others have
/// taken over nothing is; it is forgotten, the rest is committed, and the answer is
/// [`ConsumerError::LostSlots`].
pub(super) async fn commit(shared: &Shared, member: Option<MemberId>) -> Result<(), ConsumerError> {
    match commit_in_turn(shared, member).await {
        Err(ConsumerError::LostSlots { .. }) => {
            forget_lost(shared).await?;
            commit_in_turn(shared, member).await?;
        }
        committed => committed?,
    }
    if shared.with(|group| group.take_lost(member)) {
        return Err(ConsumerError::LostSlots { group: shared.name.clone() });
    }
    Ok(())
}

async fn commit_in_turn(shared: &Shared, member: Option<MemberId>) -> Result<(), ConsumerError> {
    // An older plan must not come after a newer one: each member commits once at a time.
    if member.is_some() {
        let _turn = shared.log_turn.read().await;
        return shared.commit(member).await;
    }
    let _turn = shared.log_turn.write().await;
    shared.commit(None).await
}

/// Forgets slots that were lost, after a commit that was refused for them.
async fn forget_lost(shared: &Shared) -> Result<(), ConsumerError> {
    let Some(workers) = shared.log.workers() else { return Ok(()) };
    let _turn = shared.log_turn.write().await;
    shared.look(workers).await
}

/// Tells the others that this process is gone, so that they need not wait for its lease to end.
pub(super) async fn leave(shared: &Shared) {
    let (Some(workers), Some(worker)) = (shared.log.workers(), shared.worker()) else {
        return;
    };
    shared.set_worker(None);
    let left = workers.change_workers(&shared.name, WorkerChange::Leave(worker)).await;
    if let Err(error) = left {
        // They learn it from its silence.
        tracing::warn!(group = %shared.name, %error, "leaving a group was not noted");
    }
}
