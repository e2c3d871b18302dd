//! A member of a group: it owns slots and takes their events.

use std::sync::Arc;

use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::coordinator::{Coordinator, MemberId, Room};
use super::delivery::Delivery;
use super::error::ConsumerError;
use super::run::Run;
use super::shared::Shared;
use super::{ConsumerGroup, Handle, worker};

/// A member of a [`ConsumerGroup`], which gives it a share of the slots.
///
/// Dropping it hands its slots over once its deliveries are settled, returned or expired, as
/// [`leave`](Self::leave) does.
#[derive(Debug)]
pub struct Member {
    handle: Arc<Handle>,
    id: MemberId,
    name: Arc<str>,
    bell: Arc<Notify>,
    /// Commits take turns: an older plan must not come after a newer one.
    commits: Mutex<()>,
}

impl Member {
    pub(super) fn new(group: &ConsumerGroup, name: &str) -> Result<Self, ConsumerError> {
        let name: Arc<str> = name.into();
        let handle = Arc::clone(&group.handle);
        let (id, bell) = handle.shared.add_member(Arc::clone(&name))?;
        Ok(Self { handle, id, name, bell, commits: Mutex::default() })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Returns the name it joined with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until there are events for this member and returns up to `max` of them (at least
    /// one), the oldest first.
    ///
    /// Of each key at most one event is out at a time, in any member, and the next one comes
    /// only after it is acked: whoever takes batches gets the events of a busy key in as many
    /// batches. Each delivery has to be settled within the group's lease.
    ///
    /// # Errors
    ///
    /// Only for good: the group was closed, was opened elsewhere, or its log failed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future has taken nothing.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, ConsumerError> {
        self.wait_for_any(max).await
    }

    /// As [`next`](Self::next), for any number of callers at once.
    pub(super) async fn wait_for_any(&self, max: usize) -> Result<Vec<Delivery>, ConsumerError> {
        loop {
            let deliveries = self.take(max)?;
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            self.bell.notified().await;
        }
    }

    /// Returns what [`next`](Self::next) would return without waiting, which may be nothing.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn try_next(&mut self, max: usize) -> Result<Vec<Delivery>, ConsumerError> {
        self.take(max)
    }

    pub(super) fn take(&self, max: usize) -> Result<Vec<Delivery>, ConsumerError> {
        let dispatched = self.hand_out(|group, now| group.next(self.id, max.max(1), now))?;
        let deliver = |dispatch| Delivery::new(Arc::clone(self.shared()), dispatch);
        Ok(dispatched.into_iter().map(deliver).collect())
    }

    fn hand_out<T>(
        &self,
        take: impl FnOnce(&mut Coordinator, Instant) -> T,
    ) -> Result<T, ConsumerError> {
        let shared = self.shared();
        let (taken, more) = shared.with(|group| match shared.over(group) {
            None => {
                let now = Instant::now();
                let taken = take(group, now);
                Ok((taken, group.has_ready(self.id, now)))
            }
            Some(cause) => Err(cause),
        })?;
        if more {
            // For whoever else waits at this bell: it has rung once for many events.
            self.bell.notify_one();
        }
        Ok(taken)
    }

    /// Waits until there are events for this member and returns up to `max` of them (at least one)
    /// with about `bytes` of payload, in runs of consecutive events of one key: a busy key is
    /// handled many events at a time, in order. The oldest of each key go first, and then what
    /// follows them. Each run has to be settled within the group's lease.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future has taken nothing.
    pub async fn next_runs(&mut self, max: usize, bytes: usize) -> Result<Vec<Run>, ConsumerError> {
        self.wait_for_runs(&mut Room::new(max, bytes)).await
    }

    /// As [`next_runs`](Self::next_runs), for any number of callers at once.
    pub(crate) async fn wait_for_runs(&self, room: &mut Room) -> Result<Vec<Run>, ConsumerError> {
        loop {
            let runs = self.take_runs(room)?;
            if !runs.is_empty() {
                return Ok(runs);
            }
            self.bell.notified().await;
        }
    }

    fn take_runs(&self, room: &mut Room) -> Result<Vec<Run>, ConsumerError> {
        let runs = self.hand_out(|group, now| group.next_runs(self.id, room, now))?;
        let deliver = |dispatch| Delivery::new(Arc::clone(self.shared()), dispatch);
        Ok(runs.into_iter().map(|(first, rest)| Run::new(deliver(first), rest)).collect())
    }

    /// Makes the acks of this member's slots durable, as durable as the log says.
    ///
    /// When this returns `Ok`, no event acked before is ever delivered again, except after a
    /// seek. Only slots that changed since the last commit are written. Members commit beside
    /// each other, so the log can join their writes.
    ///
    /// # Errors
    ///
    /// [`ConsumerError::LostSlots`] if other processes have taken slots over; the rest was
    /// committed. [`ConsumerError::Fenced`] if the group was opened or moved elsewhere; nothing was
    /// committed. [`ConsumerError::Log`] if the log failed; the acks stay and go with the next
    /// commit.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still commit. Committing again is harmless.
    ///
    /// # Complexity
    ///
    /// Linear in the number of slots that changed.
    pub async fn commit(&mut self) -> Result<(), ConsumerError> {
        self.commit_in_turn().await
    }

    /// As [`commit`](Self::commit), for any number of callers at once.
    pub(crate) async fn commit_in_turn(&self) -> Result<(), ConsumerError> {
        let _turn = self.commits.lock().await;
        worker::commit(self.shared(), Some(self.id)).await
    }

    /// Leaves the group: commits what was acked, and lets the slots go to the other members as
    /// soon as the deliveries that are still out are settled, returned or expired.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit); the member has left all the same.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves all the same, and may not have committed.
    pub async fn leave(self) -> Result<(), ConsumerError> {
        let shared = Arc::clone(self.shared());
        let _turn = shared.log_turn.write().await;
        shared.remove_member(self.id);
        let member = Some(self.id);
        let (acks, floors) =
            shared.plan(|group| (group.plan_commit(member), group.plan_floors(member)))?;
        shared.store(acks).await?;
        shared.store(floors).await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared().remove_member(self.id);
    }
}
