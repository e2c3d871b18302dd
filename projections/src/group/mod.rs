//! Consumer groups: members that share a log's work in order.
//!
//! [`GroupLog`] keeps what is durable; here is what happens in the process that runs the group.
//! [`coordinator`] is the state machine and [`tracker`] one slot of it, both pure; [`tasks`] and
//! [`shared`] connect them to the log and the clock. Read `coordinator` first.

mod commit;
mod coordinator;
mod delivery;
mod error;
mod fair;
mod lanes;
mod member;
mod parked;
mod policy;
mod run;
mod share;
mod shared;
mod status;
mod tasks;
mod tracker;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use headwater_core::{
    EventPattern, GroupChange, GroupError, GroupKind, GroupLog, GroupName, GroupShape, LogId,
    NewGroup, Order, Position, Query, Start, Visibility,
};

use tokio::sync::watch;
use tokio::time::Instant;

pub use self::coordinator::GroupCounts;
pub(crate) use self::coordinator::Room;
pub use self::delivery::{Delivery, IdempotencyKey, Settlement};
pub use self::error::ConsumerError;
pub use self::member::Member;
pub use self::policy::{FailurePolicy, Hopeless};
pub use self::run::Run;
pub use self::share::{Receipt, ReceiptError, Received, ShareGroup, ShareOptions};
pub(crate) use self::shared::Reached;
use self::shared::Shared;
pub use self::status::{GroupPhase, GroupStatus, MemberStatus, WorkerStatus};
use crate::lag::Lag;
use crate::wait::WaitError;

/// Leases are not renewed more often than this, which is as fine as tokio's timers are.
const HEARTBEAT_MIN: Duration = Duration::from_millis(1);

/// How a consumer group is opened.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// The name, unique in the log.
    pub name: GroupName,
    /// What the group is for. Fixed once the group exists.
    pub kind: GroupKind,
    /// In which order it hands out events. Fixed once the group exists.
    pub order: Order,
    /// Which events the group receives. Fixed once the group exists.
    pub selection: Query,
    /// Which of these it receives, by their metadata and payload. Fixed once the group exists.
    pub pattern: Option<EventPattern>,
    /// Where a new group begins. An existing one goes on where it is.
    pub start: Start,
    /// How long a member may take to settle a delivery, more than zero.
    pub lease: Duration,
    /// How many events are read ahead and in flight at most, from 1, for all members together.
    /// They are held in memory. Where one key alone has so many unsettled events, the others wait
    /// behind it; so they do where so many events wait for a later time of their own. Events of
    /// parked sequences that are delivered again count apart, up to as many.
    pub in_flight_max: usize,
    /// How many bytes of payload are read ahead and in flight at most. It may be passed by the
    /// last page, of whose sizes nothing was known.
    pub in_flight_bytes_max: usize,
    /// What becomes of an event that fails again and again.
    pub failure: FailurePolicy,
    /// How long after its commit an event is delivered. An event may ask for a later time of its
    /// own ([`NewEvent::deliver_after`](headwater_core::NewEvent::deliver_after)).
    pub delay: Duration,
    /// Whether keys take turns, so that one with many events does not hold up the others, among
    /// the events that are read ahead. Otherwise the oldest event goes first.
    pub fair: bool,
    /// Which events count as being there; what the log calls settled where this is `None`.
    pub visibility: Option<Visibility>,
    /// How often the floors of slots without news are made durable, so that reopening need not
    /// read again what lies behind; more than zero. One small write each time.
    pub floor_interval: Duration,
    /// What other processes that run the group too call this one; for people, need not be unique.
    pub worker: String,
    /// After how long without a sign of life the others take over what a process holds, more than
    /// zero. It gives a sign three times as often, which is one small write each. Only where the
    /// log is [`SharedGroups`](headwater_core::SharedGroups); give all processes the same.
    pub worker_lease: Duration,
}

impl GroupOptions {
    /// Selects every event from the beginning, each key in order, with a lease of 30 s, 1,024
    /// events and 64 MiB in flight, floors every 5 s, and 10 s before other processes take over.
    pub fn new(name: GroupName) -> Self {
        Self {
            name,
            kind: GroupKind::Consumer,
            order: Order::Key,
            selection: Query::all(),
            pattern: None,
            start: Start::Beginning,
            lease: Duration::from_secs(30),
            in_flight_max: 1_024,
            in_flight_bytes_max: 64 * 1024 * 1024,
            failure: FailurePolicy::default(),
            delay: Duration::ZERO,
            fair: false,
            visibility: None,
            floor_interval: Duration::from_secs(5),
            worker: format!("process {}", std::process::id()),
            worker_lease: Duration::from_secs(10),
        }
    }

    fn check(&self) -> Result<(), ConsumerError> {
        let invalid = |option, given: &dyn std::fmt::Debug, remedy| {
            Err(ConsumerError::InvalidOption { option, given: format!("{given:?}"), remedy })
        };
        let positive = "give it more than zero";
        if self.lease.is_zero() {
            return invalid("lease", &self.lease, positive);
        }
        if self.floor_interval.is_zero() {
            return invalid("floor_interval", &self.floor_interval, positive);
        }
        if self.worker_lease.is_zero() {
            return invalid("worker_lease", &self.worker_lease, positive);
        }
        if self.in_flight_max == 0 {
            return invalid("in_flight_max", &self.in_flight_max, "let at least one event in");
        }
        if self.in_flight_bytes_max == 0 {
            let given = &self.in_flight_bytes_max;
            return invalid("in_flight_bytes_max", given, "let at least one byte in");
        }
        self.failure.check(self.order)
    }

    fn wanted(&self) -> NewGroup {
        let shape = GroupShape {
            kind: self.kind,
            order: self.order,
            selection: self.selection.clone(),
            pattern: self.pattern.clone(),
        };
        NewGroup { name: self.name.clone(), shape, start: self.start }
    }
}

/// A consumer group, open in this process. Clones share it.
///
/// # Guarantees
///
/// - No event that was acked and committed is delivered again, and none that was not is skipped,
///   whatever crashes; [`seek`](Self::seek) is the exception.
/// - The events of one key ([`RecordedEvent::ordering_key`](headwater_core::RecordedEvent::ordering_key))
///   are delivered in order, each after the one before was acked or parked, also across members;
///   in [`Order::Global`] all events are, by one member at a time, while the others stand by.
/// - What is parked is neither lost nor in the way: the later events of its key wait with it, and
///   come again in order, before newer ones, once it is re-driven.
/// - A slot has one owner at a time. Each hand-over is durable before the new owner gets
///   anything, and fences the old one.
///
/// Over a store, one process at a time runs a group: the first [`join`](Self::join) takes it over
/// from any other, which learns so with its next commit. Over
/// [`SharedGroups`](headwater_core::SharedGroups) several processes run it together: each has a
/// share of the slots by how many members it runs, and a slot goes from one to another when
/// nothing of it is out, or when its owner has been silent for
/// [`worker_lease`](GroupOptions::worker_lease); what a member commits of it after that is refused
/// ([`ConsumerError::LostSlots`]). When the last handle and member are dropped the
/// group stops without committing; [`close`](Self::close) commits first.
#[derive(Clone, Debug)]
pub struct ConsumerGroup {
    handle: Arc<Handle>,
}

/// Keeps the tasks of a group running while somebody holds it.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    tasks: [tokio::task::AbortHandle; 2],
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.with(coordinator::Coordinator::close);
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl ConsumerGroup {
    /// Opens a group, and creates it if the log has none of this name. Must be called inside a
    /// tokio runtime.
    ///
    /// Opening alone takes nothing from another process that runs the group: the first
    /// [`join`](Self::join) does.
    ///
    /// # Errors
    ///
    /// [`ConsumerError::InvalidOption`]; [`ConsumerError::Log`] with
    /// [`GroupError::Differs`] if the group exists with another kind, order or selection.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still create the group.
    pub async fn open(
        log: Arc<dyn GroupLog>,
        options: GroupOptions,
    ) -> Result<Self, ConsumerError> {
        options.check()?;
        let opened = log.open_group(options.wanted()).await;
        let state = opened.map_err(|error| ConsumerError::from_log(&options.name, error))?;
        let visibility = options.visibility.unwrap_or_else(|| log.settled_visibility());
        let shared = Arc::new(Shared::new(log, &options, visibility, &state));
        let tasks = [
            tokio::spawn(tasks::read(Arc::clone(&shared))).abort_handle(),
            tokio::spawn(tasks::steward(Arc::clone(&shared))).abort_handle(),
        ];
        let handle = Arc::new(Handle { shared, tasks });
        Ok(Self { handle })
    }

    /// Returns how far the group is, as it goes on.
    pub(crate) fn reached(&self) -> watch::Receiver<Reached> {
        self.shared().reached()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Returns the name.
    pub fn name(&self) -> &GroupName {
        self.shared().name()
    }

    /// Returns the log that it reads.
    pub(crate) fn log_id(&self) -> LogId {
        self.shared().log.id()
    }

    /// Returns how long a member may take to settle a delivery.
    pub fn lease(&self) -> Duration {
        self.shared().lease
    }

    /// Returns how often to renew the lease of what is worked on.
    pub(crate) fn heartbeat(&self) -> Duration {
        (self.lease() / 3).max(HEARTBEAT_MIN)
    }

    /// Returns the position up to which every event is settled. It is durable with the commits
    /// that follow.
    pub fn floor(&self) -> Position {
        self.shared().with(|group| group.floor())
    }

    /// Adds a member. It gets its share of the slots as the others let go of them.
    ///
    /// # Errors
    ///
    /// If the group is closed or has stopped.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    // The call may have to wait in a later version, where members live in other processes.
    #[expect(clippy::unused_async, reason = "members of other processes will need to wait")]
    pub async fn join(&self, member: &str) -> Result<Member, ConsumerError> {
        Member::new(self, member)
    }

    /// Moves the whole group to a place in the log, forwards or backwards: events after it are
    /// delivered next.
    ///
    /// What was acked and not committed is forgotten, and deliveries that are out lose their
    /// meaning, though their handlers may still be at work when the same events come again.
    /// A parked sequence that begins before the place stays parked, with all of its key up to
    /// there; what begins behind will be met again.
    ///
    /// # Errors
    ///
    /// [`ConsumerError::Log`] with [`GroupError::OutsideLog`] if the log does not reach so far;
    /// nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// A dropped future seeks all the same.
    pub async fn seek(&self, to: impl Into<Start>) -> Result<(), ConsumerError> {
        let (shared, to) = (Arc::clone(self.shared()), to.into());
        self.alone(async move {
            let refused = |error| ConsumerError::from_log(&shared.name, error);
            let _turn = shared.log_turn.write().await;
            shared.check_open()?;
            let to = to.resolve(&*shared.log).await.map_err(|error| refused(error.into()))?;
            shared.log.seek_group(&shared.name, to).await.map_err(refused)?;
            if let Some(workers) = shared.log.workers() {
                return shared.look(workers).await;
            }
            let state = shared.log.group(&shared.name).await.map_err(refused)?;
            shared.with(|group| group.restart(&state));
            Ok(())
        })
        .await
    }

    /// Stops delivering, until [`resume`](Self::resume). What is out stays out and can be
    /// settled. It is durable: the group is paused when it is opened again.
    ///
    /// # Errors
    ///
    /// If the log refuses it; the group goes on.
    ///
    /// # Cancel safety
    ///
    /// A dropped future pauses all the same.
    pub async fn pause(&self) -> Result<(), ConsumerError> {
        self.set_paused(true).await
    }

    /// Goes on after [`pause`](Self::pause). A group that is not paused just goes on.
    ///
    /// # Errors
    ///
    /// If the log refuses it; the group stays paused.
    ///
    /// # Cancel safety
    ///
    /// A dropped future resumes all the same.
    pub async fn resume(&self) -> Result<(), ConsumerError> {
        self.set_paused(false).await
    }

    async fn set_paused(&self, paused: bool) -> Result<(), ConsumerError> {
        let shared = Arc::clone(self.shared());
        self.alone(async move {
            let _turn = shared.log_turn.write().await;
            shared.check_open()?;
            let changed = shared.log.change_group(&shared.name, GroupChange::Pause(paused)).await;
            changed.map_err(|error| ConsumerError::from_log(&shared.name, error))?;
            shared.with(|group| group.pause(paused));
            Ok(())
        })
        .await
    }

    /// Runs in a task of its own, so that the coordinator always learns what the log did.
    async fn alone<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ConsumerError>> + Send + 'static,
    ) -> Result<T, ConsumerError> {
        let closed = ConsumerError::Closed { group: self.name().clone() };
        tokio::spawn(work).await.unwrap_or(Err(closed))
    }

    /// Waits until everything up to `position` is settled.
    ///
    /// # Errors
    ///
    /// [`WaitError::Timeout`] says how far the group is; [`WaitError::Stopped`] why it will not
    /// get there.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_for(&self, position: Position, timeout: Duration) -> Result<(), WaitError> {
        let mut reached = self.shared().reached();
        let there = reached.wait_for(|now| now.floor >= position || now.over.is_some());
        let outcome = match tokio::time::timeout(timeout, there).await {
            Ok(Ok(now)) => Some(now.clone()),
            Ok(Err(_)) | Err(_) => None,
        };
        match outcome {
            Some(now) if now.floor >= position => Ok(()),
            Some(shared::Reached { floor, over: Some(cause) }) => {
                Err(WaitError::Stopped { position, reached: floor, cause: Arc::new(cause) })
            }
            _ => Err(WaitError::Timeout { position, reached: self.floor(), timeout }),
        }
    }

    /// Returns what the group is doing.
    ///
    /// # Errors
    ///
    /// If the log cannot say where its head is.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn status(&self) -> Result<GroupStatus, ConsumerError> {
        let shared = self.shared();
        let head = self.head().await?;
        let stalled = shared.stalled();
        let among = shared.among_others().await?;
        Ok(shared.with(|group| {
            if let Some(among) = &among {
                group.note_elsewhere(among);
            }
            let (buffered, in_flight) = group.load();
            let parked = group.parked().len();
            let views = group.members().into_iter();
            let members: Vec<MemberStatus> = views
                .map(|view| MemberStatus {
                    name: view.name,
                    slots: view.slots,
                    in_flight: view.in_flight,
                })
                .collect();
            let phase = match (shared.over(group), stalled) {
                (Some(cause), _) => GroupPhase::Stopped { cause },
                (None, Some(cause)) => GroupPhase::Stalled { cause },
                _ if group.is_paused() => GroupPhase::Paused,
                _ if members.is_empty() => GroupPhase::Idle,
                _ if among.is_some() && !group.holds_any() => GroupPhase::StandingBy,
                _ if group.is_starved(Instant::now()) => GroupPhase::Starved,
                _ if group.scanned() < head => GroupPhase::CatchingUp,
                _ if parked > 0 => GroupPhase::Parked,
                _ => GroupPhase::Running,
            };
            GroupStatus {
                name: shared.name.clone(),
                phase,
                members,
                workers: among
                    .map_or_else(Vec::new, |among| WorkerStatus::of(&among, shared.worker())),
                buffered,
                in_flight,
                parked,
                floor: group.floor(),
                scanned: group.scanned(),
                head,
                generation: group.generation(),
                counts: group.counts(),
            }
        }))
    }

    /// Returns how far the group is behind the log's head.
    ///
    /// # Errors
    ///
    /// If the log cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn lag(&self) -> Result<Lag, ConsumerError> {
        let shared = self.shared();
        if let Some(among) = shared.among_others().await? {
            shared.with(|group| group.note_elsewhere(&among));
        }
        let floor = self.floor();
        let exact = shared.shape.query().is_all();
        let lag = Lag::measure(&*shared.log, floor, exact, shared.visibility).await;
        lag.map_err(|error| shared.read_failed(floor, error))
    }

    async fn head(&self) -> Result<Position, ConsumerError> {
        let shared = self.shared();
        let head = shared.log.head(shared.visibility).await;
        head.map_err(|error| ConsumerError::from_log(&shared.name, GroupError::Read(error)))
    }

    /// Commits everything that was acked and closes the group for every member.
    ///
    /// # Errors
    ///
    /// As [`Member::commit`]; the group is closed all the same. Closing again is no error.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may leave the group open or closed. Calling again is harmless.
    pub async fn close(&self) -> Result<(), ConsumerError> {
        let shared = self.shared();
        let _turn = shared.log_turn.write().await;
        let planned = shared.plan(|group| (group.plan_commit(None), group.plan_floors(None)));
        let (acks, floors) = match planned {
            Ok(plans) => plans,
            Err(ConsumerError::Closed { .. }) => return Ok(()),
            Err(cause) => return Err(cause),
        };
        let stored = match shared.store(acks).await {
            Ok(()) => shared.store(floors).await,
            error => error,
        };
        shared.with(coordinator::Coordinator::close);
        worker::leave(shared).await;
        stored
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
