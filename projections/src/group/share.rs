//! Share groups: a work queue over the log, in which each event is leased, settled and counted on
//! its own.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{
    EventPattern, Generation, GroupId, GroupKind, GroupLog, GroupName, Order, Parked, Position,
    Query, RecordedEvent, Slot, Start, Visibility,
};
use tokio::time::Instant;

use super::coordinator::{Coordinator, Place};
use super::delivery::{Delivery, IdempotencyKey, Settlement};
use super::error::ConsumerError;
use super::member::Member;
use super::policy::{FailurePolicy, Hopeless};
use super::shared::Shared;
use super::{ConsumerGroup, GroupOptions, worker};

/// Longest time that a delivery can be invisible, as in SQS.
const VISIBILITY_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// How a share group is opened.
#[derive(Clone, Debug)]
pub struct ShareOptions {
    /// The name, unique in the log.
    pub name: GroupName,
    /// Which events the group receives. Fixed once the group exists.
    pub selection: Query,
    /// Which of these it receives, by their metadata and payload. Fixed once the group exists.
    pub pattern: Option<EventPattern>,
    /// Where a new group begins. An existing one goes on where it is.
    pub start: Start,
    /// [`Order::None`], or [`Order::Key`] where of each key one event is out at a time and the
    /// next follows its acknowledgement, like SQS message groups. Fixed once the group exists.
    pub order: Order,
    /// How long a received event is invisible to others, up to 12 hours.
    pub visibility_timeout: Duration,
    /// How often an event is received before it becomes a dead letter, at least once; for ever
    /// where this is `None`.
    pub receive_count_max: Option<u32>,
    /// How old an event may get, from its commit, before it becomes a dead letter.
    pub age_max: Option<Duration>,
    /// How long after its commit an event is delivered.
    pub delay: Duration,
    /// Whether keys take turns, so that one with many events does not hold up the others.
    pub fair: bool,
    /// How many events are read ahead and in flight at most.
    pub in_flight_max: usize,
    /// How many bytes of payload are read ahead and in flight at most, but for the last page.
    pub in_flight_bytes_max: usize,
    /// Which events count as being there; what the log calls settled where this is `None`.
    pub visibility: Option<Visibility>,
    /// As [`GroupOptions::worker`].
    pub worker: String,
    /// As [`GroupOptions::worker_lease`]. An event that a process had received when it died is
    /// received again after this time, also where its visibility timeout is longer.
    pub worker_lease: Duration,
}

impl ShareOptions {
    /// Selects every event from the beginning, in no order but with fair turns, invisible for
    /// 30 s, six times at most.
    pub fn new(name: GroupName) -> Self {
        let group = GroupOptions::new(name);
        Self {
            name: group.name,
            selection: Query::all(),
            pattern: None,
            start: Start::Beginning,
            order: Order::None,
            visibility_timeout: Duration::from_secs(30),
            receive_count_max: Some(6),
            age_max: None,
            delay: Duration::ZERO,
            fair: true,
            in_flight_max: 4_096,
            in_flight_bytes_max: 64 * 1024 * 1024,
            visibility: None,
            worker: group.worker,
            worker_lease: group.worker_lease,
        }
    }

    fn group(self) -> Result<GroupOptions, ConsumerError> {
        if self.visibility_timeout > VISIBILITY_MAX {
            return Err(ConsumerError::InvalidOption {
                option: "visibility_timeout",
                given: format!("{:?}", self.visibility_timeout),
                remedy: "give at most 12 hours, and extend deliveries that take longer",
            });
        }
        let failure = FailurePolicy {
            attempts_max: self.receive_count_max,
            age_max: self.age_max,
            then: Hopeless::Park,
            ..FailurePolicy::default()
        };
        Ok(GroupOptions {
            kind: GroupKind::Share,
            order: self.order,
            selection: self.selection,
            pattern: self.pattern,
            start: self.start,
            lease: self.visibility_timeout,
            in_flight_max: self.in_flight_max,
            in_flight_bytes_max: self.in_flight_bytes_max,
            failure,
            delay: self.delay,
            fair: self.fair,
            visibility: self.visibility,
            worker: self.worker,
            worker_lease: self.worker_lease,
            ..GroupOptions::new(self.name)
        })
    }
}

/// A share group, open in this process: the work queue over the log. Clones share it.
///
/// # Guarantees
///
/// - Every selected event is received until it is acknowledged or is a dead letter, at least once;
///   one that was acknowledged, and the acknowledgement answered, never again, except after a seek.
/// - While it is invisible, an event is received by nobody else.
/// - The log keeps every event: another group reads it too, and dead letters can be restored.
///
/// The semantics are those of Kinesis queues, SQS and Kafka's share groups. One process at a time
/// runs a group, or several together, as with [`ConsumerGroup`].
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use headwater_core::{Append, EventLog, EventType, GroupName, MemoryLog, NewEvent, StreamId};
/// use headwater_projections::{ShareGroup, ShareOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let log = Arc::new(MemoryLog::new());
/// let placed = EventType::new("order.placed")?;
/// let event = NewEvent::json(StreamId::new("order-17")?, placed, &42)?;
/// log.append(Append::new([event])).await?;
///
/// let queue = ShareGroup::open(log, ShareOptions::new(GroupName::new("mails")?)).await?;
/// let mut receipts = Vec::new();
/// for received in queue.receive(10, Duration::from_secs(20)).await? {
///     match received.event().decode::<u32>() {
///         Ok(42) => receipts.push(received.into_receipt()),
///         other => drop(received.reject(format!("{other:?}"))),
///     }
/// }
/// assert!(queue.ack(&receipts).await?.iter().all(Result::is_ok));
/// queue.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ShareGroup {
    group: ConsumerGroup,
    /// The one member, that everybody who receives acts for.
    member: Arc<Member>,
}

/// Names one delivery of one event: what is needed to settle it from elsewhere. As text it is
/// `group-generation-slot-position-token`, all numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    group: GroupId,
    generation: Generation,
    slot: Slot,
    position: Position,
    token: u64,
}

/// Why a receipt was not accepted. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// It is a receipt of another group.
    #[error("the receipt {receipt} belongs to group number {}, not {group}", receipt.group)]
    OtherGroup {
        /// The receipt.
        receipt: Receipt,
        /// The number of the group.
        group: GroupId,
    },
    /// The event was settled already, by this receipt or another.
    #[error("the event at position {} of the receipt {receipt} is settled already", receipt.position)]
    Settled {
        /// The receipt.
        receipt: Receipt,
    },
    /// The event is visible again or was received anew, since its time was up, the group was
    /// moved, or the process was started anew.
    #[error(
        "the receipt {receipt} has expired: the event at position {} is or will be received again",
        receipt.position
    )]
    Expired {
        /// The receipt.
        receipt: Receipt,
    },
    /// The text is no receipt.
    #[error("{0:?} is no receipt: five numbers with hyphens between them are")]
    Malformed(String),
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, generation, slot, position, token } = self;
        write!(f, "{group}-{generation}-{}-{position}-{token}", slot.get())
    }
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        let malformed = || ReceiptError::Malformed(text.chars().take(200).collect());
        let numbers: Vec<u64> =
            text.split('-').map(str::parse).collect::<Result<_, _>>().map_err(|_| malformed())?;
        let [group, generation, slot, position, token] =
            numbers[..].try_into().map_err(|_| malformed())?;
        let slot = u16::try_from(slot).ok().and_then(Slot::new).ok_or_else(malformed)?;
        Ok(Self {
            group: GroupId::new(group),
            generation: Generation::new(generation),
            slot,
            position: Position::new(position),
            token,
        })
    }
}

/// An event that was received, invisible to others until it is settled or its time is up.
///
/// Dropping it makes it visible again at once, unless its receipt was taken
/// ([`into_receipt`](Self::into_receipt)).
#[must_use = "an event that is dropped is received again"]
#[derive(Debug)]
pub struct Received {
    delivery: Delivery,
}

impl Received {
    /// Returns the event.
    pub fn event(&self) -> &RecordedEvent {
        self.delivery.event()
    }

    /// Returns how often the event was received, this time included. It is durable with the
    /// acknowledgements that follow.
    pub fn receive_count(&self) -> u32 {
        self.delivery.attempt()
    }

    /// Returns what names the handling of this event by this group.
    pub fn idempotency_key(&self) -> IdempotencyKey {
        self.delivery.idempotency_key()
    }

    /// Returns the receipt of this delivery.
    pub fn receipt(&self) -> Receipt {
        let (group, generation) = (self.delivery.group_id(), self.delivery.generation());
        let (slot, position, token) = self.delivery.place();
        Receipt { group, generation, slot, position, token }
    }

    /// Leaves the event invisible until its time is up or it is settled by its receipt.
    pub fn into_receipt(self) -> Receipt {
        let receipt = self.receipt();
        self.delivery.detach();
        receipt
    }

    /// Acknowledges the event. It is durable with the next [`ShareGroup::commit`], or with any
    /// acknowledgement by receipt.
    pub fn ack(self) -> Settlement {
        self.delivery.ack()
    }

    /// Makes the event visible again after a while. It counts as received.
    pub fn release(self, after: Duration) -> Settlement {
        self.delivery.fail_after("it was released", after)
    }

    /// Says why the event could not be handled, and makes it visible again after a while; a dead
    /// letter keeps the last cause.
    pub fn fail(self, cause: impl fmt::Display) -> Settlement {
        self.delivery.fail(cause)
    }

    /// Makes the event a dead letter at once.
    pub fn reject(self, cause: impl fmt::Display) -> Settlement {
        self.delivery.park(cause)
    }

    /// Keeps the event invisible for this long from now.
    pub fn extend(&self, by: Duration) -> Settlement {
        self.delivery.extend(by.min(VISIBILITY_MAX))
    }
}

impl ShareGroup {
    /// Opens a share group, and creates it if the log has none of this name. Must be called inside
    /// a tokio runtime. It takes the group over from another process that runs it.
    ///
    /// # Errors
    ///
    /// As [`ConsumerGroup::open`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still create the group.
    pub async fn open(
        log: Arc<dyn GroupLog>,
        options: ShareOptions,
    ) -> Result<Self, ConsumerError> {
        let group = ConsumerGroup::open(log, options.group()?).await?;
        let member = Arc::new(group.join("share").await?);
        Ok(Self { group, member })
    }

    /// Returns the group, for everything that share groups and consumer groups have in common:
    /// status, lag, pause, seek, what is parked.
    pub fn group(&self) -> &ConsumerGroup {
        &self.group
    }

    fn shared(&self) -> &Arc<Shared> {
        self.group.shared()
    }

    /// Receives up to `max` events (at least one). If there is none, waits for one up to `wait`,
    /// and then returns nothing.
    ///
    /// # Errors
    ///
    /// Only for good: the group was closed, was opened elsewhere, or its log failed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future has received nothing.
    pub async fn receive(
        &self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Received>, ConsumerError> {
        let received = tokio::time::timeout(wait, self.member.wait_for_any(max)).await;
        let deliveries = received.unwrap_or_else(|_| self.member.take(max))?;
        Ok(deliveries.into_iter().map(|delivery| Received { delivery }).collect())
    }

    /// Acknowledges by receipts and makes it durable. The answers are in the order of the
    /// receipts; those that were not accepted do not keep the others from being so. What another
    /// process has taken over meanwhile has expired.
    ///
    /// # Errors
    ///
    /// If it could not be made durable: whoever was answered `Ok` is acknowledged here, and may be
    /// received again after a restart.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have acknowledged.
    pub async fn ack(
        &self,
        receipts: &[Receipt],
    ) -> Result<Vec<Result<(), ReceiptError>>, ConsumerError> {
        let answers = receipts.iter().map(|&receipt| self.settle(receipt, Coordinator::ack));
        let mut answers: Vec<_> = answers.collect();
        match self.commit().await {
            // Which they are is seen below, also where another caller met the error.
            Err(ConsumerError::LostSlots { .. }) => {}
            committed => committed?,
        }
        if self.shared().is_among_others() {
            self.shared().with(|group| {
                for (answer, &receipt) in answers.iter_mut().zip(receipts) {
                    if answer.is_ok() && group.generation_of(receipt.slot) != receipt.generation {
                        *answer = Err(ReceiptError::Expired { receipt });
                    }
                }
            });
        }
        Ok(answers)
    }

    /// Makes an event visible again after a while, by its receipt. It counts as received.
    ///
    /// # Errors
    ///
    /// If the receipt is not accepted.
    pub fn release(&self, receipt: Receipt, after: Duration) -> Result<(), ReceiptError> {
        let cause = "it was released".to_owned();
        self.settle(receipt, |group, place, now| group.fail(place, cause, after, now))
    }

    /// Keeps an event invisible for this long from now, up to 12 hours, by its receipt.
    ///
    /// # Errors
    ///
    /// If the receipt is not accepted.
    pub fn extend(&self, receipt: Receipt, by: Duration) -> Result<(), ReceiptError> {
        let by = by.min(VISIBILITY_MAX);
        self.settle(receipt, |group, place, now| group.extend(place, by, now))
    }

    /// Makes an event a dead letter at once, by its receipt. It is durable with the next commit.
    ///
    /// # Errors
    ///
    /// If the receipt is not accepted.
    pub fn reject(&self, receipt: Receipt, cause: impl fmt::Display) -> Result<(), ReceiptError> {
        let cause = cause.to_string();
        self.settle(receipt, |group, place, now| group.park(place, cause, now))
    }

    fn settle(
        &self,
        receipt: Receipt,
        settle: impl FnOnce(&mut Coordinator, Place, Instant) -> bool,
    ) -> Result<(), ReceiptError> {
        let group = self.shared().id;
        if receipt.group != group {
            return Err(ReceiptError::OtherGroup { receipt, group });
        }
        self.shared().with(|group| {
            let (slot, position) = (receipt.slot, receipt.position);
            let expired = Err(ReceiptError::Expired { receipt });
            if group.generation_of(slot) != receipt.generation {
                expired
            } else if settle(group, receipt.place(), Instant::now()) {
                Ok(())
            } else if group.is_settled(slot, position) {
                Err(ReceiptError::Settled { receipt })
            } else {
                expired
            }
        })
    }

    /// Makes everything durable that was acknowledged, rejected or failed.
    ///
    /// # Errors
    ///
    /// As [`Member::commit`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still commit. Committing again is harmless.
    pub async fn commit(&self) -> Result<(), ConsumerError> {
        worker::commit(self.shared(), None).await
    }

    /// Returns the dead letters by position.
    ///
    /// # Errors
    ///
    /// As [`ConsumerGroup::parked`].
    pub async fn dead_letters(&self) -> Result<Vec<Parked>, ConsumerError> {
        self.group.parked().await
    }

    /// Makes a dead letter visible again, with its receive count at zero.
    ///
    /// # Errors
    ///
    /// As [`ConsumerGroup::redrive`].
    pub async fn restore(&self, position: Position) -> Result<(), ConsumerError> {
        self.group.redrive(position).await
    }

    /// Commits everything and closes the group.
    ///
    /// # Errors
    ///
    /// As [`ConsumerGroup::close`].
    pub async fn close(&self) -> Result<(), ConsumerError> {
        self.group.close().await
    }
}

impl Receipt {
    /// Returns the position of the event.
    pub fn position(self) -> Position {
        self.position
    }

    fn place(self) -> Place {
        (self.slot, self.position, self.token)
    }
}
