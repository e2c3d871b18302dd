//! What the handles of one open group and its tasks share: the coordinator behind a lock, the
//! wake-ups around it, and the order of its operations on the log.
//!
//! The lock is held for pure work only. Operations on the log take turns through `log_turn`, so
//! that no commit is built on an ownership that is about to end: members commit beside each
//! other, each its own slots, and whatever changes or spans ownerships goes alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_core::{
    GroupChange, GroupError, GroupId, GroupLog, GroupName, GroupShape, GroupState, Position,
    ReadError, SharedGroup, Timestamp, Visibility, WorkerId, WorkerLog,
};
use tokio::sync::{Notify, watch};

use super::commit::CommitPlan;
use super::coordinator::{Coordinator, MemberId, Phase, Rules, Wake};
use super::delivery::Settlement;
use super::error::ConsumerError;
use crate::meters::{self, GroupMeters};
use crate::retry::Backoff;

/// How far a group is, for those who wait for it.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub(crate) floor: Position,
    pub(crate) over: Option<ConsumerError>,
}

/// Who tries again what the log refuses for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    Reader,
    Steward,
}

pub(super) struct Shared {
    pub(super) log: Arc<dyn GroupLog>,
    pub(super) name: GroupName,
    pub(super) id: GroupId,
    pub(super) shape: GroupShape,
    pub(super) visibility: Visibility,
    pub(super) lease: Duration,
    pub(super) backoff: Backoff,
    pub(super) floor_interval: Duration,
    /// What other processes call this one.
    pub(super) worker_name: String,
    pub(super) worker_lease: Duration,
    /// What this process is among others, once it has joined them.
    worker: Mutex<Option<WorkerId>>,
    coordinator: Mutex<Coordinator>,
    pub(super) log_turn: tokio::sync::RwLock<()>,
    bells: Mutex<HashMap<MemberId, Arc<Notify>>>,
    pub(super) steward: Notify,
    pub(super) reader: Notify,
    pub(super) reader_restart: Notify,
    reached: watch::Sender<Reached>,
    pub(super) meters: GroupMeters,
    /// What each task waits out; one may recover while the other does not.
    stalled: Mutex<BTreeMap<Task, ConsumerError>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Takes a lock; nothing under these locks panics half way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        log: Arc<dyn GroupLog>,
        options: &super::GroupOptions,
        visibility: Visibility,
        state: &GroupState,
    ) -> Self {
        let rules = Rules {
            group: options.name.clone(),
            order: options.order,
            lease: options.lease,
            in_flight_max: options.in_flight_max,
            in_flight_bytes_max: options.in_flight_bytes_max,
            failure: options.failure.clone(),
            delay: options.delay,
            fair: options.fair,
            wall: Timestamp::now,
            among_others: log.workers().is_some(),
        };
        let floor = state.floor();
        Self {
            log,
            name: options.name.clone(),
            id: state.definition.id,
            backoff: options.failure.backoff,
            shape: state.definition.shape.clone(),
            visibility,
            lease: options.lease,
            floor_interval: options.floor_interval,
            worker_name: options.worker.clone(),
            worker_lease: options.worker_lease,
            worker: Mutex::default(),
            coordinator: Mutex::new(Coordinator::new(rules, floor)),
            log_turn: tokio::sync::RwLock::new(()),
            bells: Mutex::default(),
            steward: Notify::new(),
            reader: Notify::new(),
            reader_restart: Notify::new(),
            reached: watch::Sender::new(Reached { floor, over: None }),
            meters: GroupMeters::new(options.name.as_str()),
            stalled: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &GroupName {
        &self.name
    }

    /// Does something with the coordinator and then wakes whom it concerns.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Coordinator) -> T) -> T {
        let mut coordinator = lock(&self.coordinator);
        let before = coordinator.counts();
        let result = work(&mut coordinator);
        if meters::ON {
            self.meters.add(&before, &coordinator.counts());
        }
        let wake = coordinator.take_wake();
        let floor = coordinator.floor();
        let over = self.over(&coordinator);
        // Under the lock, so that floors are published in the order they were reached.
        self.reached.send_if_modified(|reached| {
            let changed = reached.floor != floor || reached.over.is_some() != over.is_some();
            if changed {
                *reached = Reached { floor, over };
            }
            changed
        });
        drop(coordinator);
        self.ring(&wake);
        result
    }

    fn ring(&self, wake: &Wake) {
        if !wake.members.is_empty() {
            let bells = lock(&self.bells);
            for bell in wake.members.iter().filter_map(|member| bells.get(member)) {
                bell.notify_one();
            }
        }
        if wake.steward {
            self.steward.notify_one();
        }
        if wake.reader {
            self.reader.notify_one();
        }
        if wake.reader_restart {
            self.reader_restart.notify_one();
        }
    }

    /// Returns why nothing more will happen here, if so.
    pub(super) fn over(&self, coordinator: &Coordinator) -> Option<ConsumerError> {
        match coordinator.phase() {
            Phase::Cold | Phase::Live => None,
            Phase::Closed => Some(ConsumerError::Closed { group: self.name.clone() }),
            Phase::Stopped(cause) => Some(cause.clone()),
        }
    }

    /// Returns an error if nothing more will happen here.
    pub(super) fn check_open(&self) -> Result<(), ConsumerError> {
        let coordinator = lock(&self.coordinator);
        self.over(&coordinator).map_or(Ok(()), Err)
    }

    /// Draws up what to write, or says why nothing more will happen here: under one lock, for a
    /// group that has ended plans nothing, which must not pass for nothing left to commit.
    pub(super) fn plan<T>(
        &self,
        draw_up: impl FnOnce(&Coordinator) -> T,
    ) -> Result<T, ConsumerError> {
        self.with(|group| match self.over(group) {
            None => Ok(draw_up(group)),
            Some(cause) => Err(cause),
        })
    }

    pub(super) fn settle(&self, work: impl FnOnce(&mut Coordinator) -> bool) -> Settlement {
        if self.with(work) { Settlement::Counted } else { Settlement::TooLate }
    }

    pub(super) fn add_member(
        &self,
        name: Arc<str>,
    ) -> Result<(MemberId, Arc<Notify>), ConsumerError> {
        let bell = Arc::new(Notify::new());
        let joined = self.with(|group| match self.over(group) {
            None => Ok(group.join(name)),
            Some(cause) => Err(cause),
        });
        let id = joined?;
        lock(&self.bells).insert(id, Arc::clone(&bell));
        // What came before the bell hung is not lost: a member looks before it listens.
        Ok((id, bell))
    }

    pub(super) fn remove_member(&self, id: MemberId) {
        lock(&self.bells).remove(&id);
        self.with(|group| group.leave(id));
    }

    pub(super) fn reached(&self) -> watch::Receiver<Reached> {
        self.reached.subscribe()
    }

    /// Makes what changed in the slots of one member durable, or in all. The caller has its
    /// `log_turn`.
    pub(super) async fn commit(&self, member: Option<MemberId>) -> Result<(), ConsumerError> {
        let acks = self.plan(|group| group.plan_commit(member))?;
        self.store(acks).await
    }

    /// Makes a plan durable. The caller has its `log_turn`.
    ///
    /// A failure that will not pass stops the group.
    pub(super) async fn store(&self, plan: CommitPlan) -> Result<(), ConsumerError> {
        if plan.is_empty() {
            return Ok(());
        }
        for commit in plan.commits() {
            let change = GroupChange::Commit(commit);
            if let Err(error) = self.log.change_group(&self.name, change).await {
                self.meters.not_committed(matches!(error, GroupError::Fenced { .. }));
                let error = self.refused(error);
                if !self.waits_out(&error) {
                    self.stop(error.clone());
                }
                if matches!(error, ConsumerError::LostSlots { .. }) {
                    // What was lost has to be forgotten.
                    self.steward.notify_one();
                }
                return Err(error);
            }
            self.meters.committed();
        }
        self.with(|group| group.committed(plan));
        Ok(())
    }

    /// Returns whether other processes may run the group too.
    pub(super) fn is_among_others(&self) -> bool {
        self.log.workers().is_some()
    }

    /// Returns what this process is among others, if it is any more than a guest.
    pub(super) fn worker(&self) -> Option<WorkerId> {
        *lock(&self.worker)
    }

    pub(super) fn set_worker(&self, worker: Option<WorkerId>) {
        *lock(&self.worker) = worker;
    }

    /// Returns what other processes say, if any may run the group too.
    pub(super) async fn among_others(&self) -> Result<Option<SharedGroup>, ConsumerError> {
        let Some(workers) = self.log.workers() else { return Ok(None) };
        let group = workers.shared_group(&self.name).await;
        group.map(Some).map_err(|error| self.refused(error))
    }

    /// Takes in what other processes have done. The caller has its `log_turn` alone.
    pub(super) async fn look(&self, workers: &dyn WorkerLog) -> Result<(), ConsumerError> {
        let group = workers.shared_group(&self.name).await.map_err(|error| self.refused(error))?;
        self.with(|own| own.reconcile(&group, self.worker()));
        Ok(())
    }

    /// Says for whom the log refused something: whoever is fenced among others has lost slots, and
    /// goes on with the rest.
    pub(super) fn refused(&self, source: GroupError) -> ConsumerError {
        match source {
            GroupError::Fenced { .. } if self.is_among_others() => {
                ConsumerError::LostSlots { group: self.name.clone() }
            }
            source => ConsumerError::from_log(&self.name, source),
        }
    }

    /// Returns whether an error may pass by itself.
    pub(super) fn waits_out(&self, error: &ConsumerError) -> bool {
        // Another process may have seen more of the log than this one.
        let ahead =
            matches!(error, ConsumerError::Log { source: GroupError::OutsideLog { .. }, .. });
        error.is_passing() || (ahead && self.is_among_others())
    }

    pub(super) fn stop(&self, cause: ConsumerError) {
        tracing::warn!(group = %self.name, %cause, "the consumer group stops");
        self.with(|group| group.stop(cause));
    }

    /// Notes that the log fails a task for now.
    pub(super) fn stall(&self, task: Task, cause: ConsumerError) {
        tracing::warn!(group = %self.name, ?task, %cause, "the consumer group stalls");
        lock(&self.stalled).insert(task, cause);
    }

    /// Notes that the log no longer fails a task.
    pub(super) fn recover(&self, task: Task) {
        lock(&self.stalled).remove(&task);
    }

    pub(super) fn stalled(&self) -> Option<ConsumerError> {
        lock(&self.stalled).values().next().cloned()
    }

    pub(super) fn read_failed(&self, after: Position, source: ReadError) -> ConsumerError {
        ConsumerError::Read { group: self.name.clone(), after, source }
    }
}
