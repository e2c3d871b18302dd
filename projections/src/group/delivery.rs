//! An event in a member's hand.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{AppendId, EventId, Generation, GroupName, RecordedEvent, Slot};
use tokio::time::Instant;

use super::coordinator::Dispatch;
use super::shared::Shared;

/// Whether what a member said about a delivery still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It counts.
    Counted,
    /// It came too late and changed nothing: the lease had ended, or the group was moved or
    /// closed. The event is or will be delivered again.
    TooLate,
}

/// Names the handling of one event by one group, the same however often it is delivered.
///
/// Give it to whatever must not happen twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// Makes the key `group/event-id`. No group name holds a slash, so no two keys collide.
    pub fn new(group: &GroupName, event: EventId) -> Self {
        Self(format!("{group}/{event}").into())
    }

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Derives the id that makes an append for this event happen once, inside the log's
    /// idempotency window.
    pub fn append_id(&self) -> AppendId {
        AppendId::from_name(self.0.as_bytes())
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An event handed to a member, until it is settled or its lease ends.
///
/// No other event of its key is handed to anybody while this one is out. Dropping it returns it
/// at once, to be delivered again.
#[must_use = "a dropped delivery is delivered again"]
pub struct Delivery {
    shared: Arc<Shared>,
    dispatch: Dispatch,
    settled: bool,
}

impl Delivery {
    pub(super) fn new(shared: Arc<Shared>, dispatch: Dispatch) -> Self {
        Self { shared, dispatch, settled: false }
    }

    /// Returns the event.
    pub fn event(&self) -> &RecordedEvent {
        &self.dispatch.event
    }

    /// Returns which attempt this is, from 1, since the group was opened or moved.
    pub fn attempt(&self) -> u32 {
        self.dispatch.attempt
    }

    /// Returns the slot of the event.
    pub fn slot(&self) -> Slot {
        self.dispatch.event.slot
    }

    /// Returns the ownership under which it was delivered.
    pub fn generation(&self) -> Generation {
        self.dispatch.generation
    }

    /// Returns what names the handling of this event by this group.
    pub fn idempotency_key(&self) -> IdempotencyKey {
        IdempotencyKey::new(self.shared.name(), self.dispatch.event.id)
    }

    /// Says that the event is handled for good.
    ///
    /// It is durable after the next [`Member::commit`](super::Member::commit), and may be
    /// earlier: with a hand-over of the slot or when the group closes.
    pub fn ack(mut self) -> Settlement {
        self.settled = true;
        let (slot, position, token) = self.place();
        self.shared.settle(|group| group.ack(slot, position, token, Instant::now()))
    }

    /// Gives the event back, to be delivered again after `delay`. Later events of its key wait.
    pub fn retry_after(mut self, delay: Duration) -> Settlement {
        self.settled = true;
        self.put_back(delay)
    }

    /// Starts the lease anew, for work that takes longer.
    pub fn renew(&self) -> Settlement {
        let (slot, position, token) = self.place();
        self.shared.settle(|group| group.renew(slot, position, token, Instant::now()))
    }

    fn put_back(&self, delay: Duration) -> Settlement {
        let (slot, position, token) = self.place();
        self.shared.settle(|group| group.put_back(slot, position, token, delay, Instant::now()))
    }

    fn place(&self) -> (Slot, headwater_core::Position, u64) {
        let event = &self.dispatch.event;
        (event.slot, event.position, self.dispatch.token)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.settled {
            self.put_back(Duration::ZERO);
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("group", self.shared.name())
            .field("dispatch", &self.dispatch)
            .finish_non_exhaustive()
    }
}
