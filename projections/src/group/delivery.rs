//! An event in a member's hand.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{
    AppendId, EventId, Generation, GroupId, Position, RecordedEvent, Slot, TRACEPARENT,
};
use tokio::time::Instant;

use super::coordinator::{Coordinator, Dispatch, Follower, Place, Room};
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
    /// Makes the key `g` + group id + `/` + event id. It stays when the group is renamed; a group
    /// that was deleted and created anew has other keys.
    pub fn new(group: GroupId, event: EventId) -> Self {
        Self(format!("g{group}/{event}").into())
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
/// No other event of its key is handed to anybody while this one is out, where the group keeps
/// keys in order. Dropping it returns it at once, to be delivered again, and counts as a failed
/// attempt.
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

    /// Returns which attempt this is, from 1. Attempts are durable with the commits that follow
    /// them, and begin anew when the group is moved or the event was parked.
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

    /// Makes the span in which to handle the event: `headwater.delivery`, at level info, with the
    /// fields `group`, `position`, `event_type`, `attempt`, `correlation_id` and `traceparent`.
    /// Reactors and bridges run in one; whoever pulls enters it.
    ///
    /// Where the trace goes to `OpenTelemetry`, make the context of
    /// [`TraceContext`](headwater_core::TraceContext) its parent.
    pub fn span(&self) -> tracing::Span {
        let event = self.event();
        tracing::info_span!(
            "headwater.delivery",
            group = %self.shared.name(),
            position = event.position.get(),
            event_type = event.event_type.as_str(),
            attempt = self.attempt(),
            correlation_id = event.correlation_id.map(tracing::field::display),
            traceparent = event.headers.get(TRACEPARENT),
        )
    }

    /// Returns what names the handling of this event by this group.
    pub fn idempotency_key(&self) -> IdempotencyKey {
        IdempotencyKey::new(self.shared.id, self.dispatch.event.id)
    }

    /// Says that the event is handled for good.
    ///
    /// It is durable after the next [`Member::commit`](super::Member::commit), and may be
    /// earlier: with a hand-over of the slot or when the group closes.
    pub fn ack(mut self) -> Settlement {
        self.settle_by(Coordinator::ack)
    }

    /// Says that the event could not be handled, and gives it back: it is delivered again after
    /// the group's backoff, and later events of its key wait; or, if that was the last attempt,
    /// it is parked, dropped, or stops the group, as the group's policy says.
    pub fn fail(mut self, cause: impl std::fmt::Display) -> Settlement {
        let delay = self.backoff(self.attempt());
        self.failed(cause.to_string(), delay)
    }

    /// As [`fail`](Self::fail), with a wait of your own.
    pub fn fail_after(mut self, cause: impl std::fmt::Display, delay: Duration) -> Settlement {
        self.failed(cause.to_string(), delay)
    }

    /// Gives the event back, to be delivered again after `delay`. Later events of its key wait.
    /// It counts as a failed attempt.
    pub fn retry_after(mut self, delay: Duration) -> Settlement {
        self.failed("its member asked for another attempt".to_owned(), delay)
    }

    /// Gives the event back untouched, to be delivered again at once. It does not count as an
    /// attempt.
    pub fn release(mut self) -> Settlement {
        self.settle_by(Coordinator::release)
    }

    /// Sets the event aside, together with the later events of its key where the group keeps keys
    /// in order, so that others go on. See
    /// [`ConsumerGroup::parked`](super::ConsumerGroup::parked).
    ///
    /// It is durable with the next commit. In global order only the event itself is set aside.
    pub fn park(mut self, cause: impl std::fmt::Display) -> Settlement {
        let cause = cause.to_string();
        self.settle_by(|group, place, now| group.park(place, cause, now))
    }

    /// Says that no further attempt will help: the event is parked, dropped, or stops the group, as
    /// the group's policy says of hopeless ones.
    pub fn give_up(mut self, cause: impl std::fmt::Display) -> Settlement {
        let cause = cause.to_string();
        self.settle_by(|group, place, now| group.abandon(place, cause, now))
    }

    /// Starts the lease anew, for work that takes longer.
    pub fn renew(&self) -> Settlement {
        self.extend(self.shared.lease)
    }

    /// Lets the lease end this long from now, earlier or later than it would have.
    pub fn extend(&self, by: Duration) -> Settlement {
        let place = self.place();
        self.shared.settle(|group| group.extend(place, by, Instant::now()))
    }

    pub(super) fn shared_event(&self) -> &Arc<RecordedEvent> {
        &self.dispatch.event
    }

    /// Returns how long to wait after an attempt that failed.
    pub(super) fn backoff(&self, attempt: u32) -> Duration {
        self.shared.backoff.jittered(attempt)
    }

    /// Returns what can go with this delivery, from behind a position on, as there is room.
    pub(super) fn followers(&self, after: Position, room: &mut Room) -> Vec<Follower> {
        let (slot, at, _) = self.place();
        self.shared.with(|group| group.followers((slot, at), after, room, Instant::now()))
    }

    /// Ends the delivery, as the group says.
    pub(super) fn settle_by(
        &mut self,
        settle: impl FnOnce(&mut Coordinator, Place, Instant) -> bool,
    ) -> Settlement {
        self.settled = true;
        let place = self.place();
        self.shared.settle(|group| settle(group, place, Instant::now()))
    }

    pub(super) fn group_id(&self) -> GroupId {
        self.shared.id
    }

    /// Leaves the event in flight, for whoever knows its place.
    pub(super) fn detach(mut self) {
        self.settled = true;
    }

    fn failed(&mut self, cause: String, delay: Duration) -> Settlement {
        self.settle_by(|group, place, now| group.fail(place, cause, delay, now))
    }

    pub(super) fn place(&self) -> Place {
        let event = &self.dispatch.event;
        (self.dispatch.slot, event.position, self.dispatch.token)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.settled {
            self.failed("its member dropped it".to_owned(), Duration::ZERO);
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
