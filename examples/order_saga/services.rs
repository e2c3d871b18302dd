//! The services that carry out what the process asks for, each in its own way unreliable.

use std::sync::Arc;
use std::time::Duration;

use headwater::projections::{IdempotencyKey, ReactError, Reactor, async_trait};
use headwater::{Append, EventLog, RecordedEvent, Timestamp, decode_event};

use crate::domain::Happened;
use crate::saga::happens;

/// What becomes of an order, by its number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    Fine,
    OutOfStock,
    Declined,
    /// The bank never answers.
    Silent,
    /// The bank answers when nobody waits any more.
    Late,
    Undeliverable,
}

impl Fate {
    pub(crate) fn of(number: u32) -> Self {
        match number % 40 {
            3 => Self::OutOfStock,
            13 => Self::Declined,
            23 => Self::Silent,
            33 => Self::Late,
            37 => Self::Undeliverable,
            _ => Self::Fine,
        }
    }
}

/// Answers each request once: the answer has an append id made of the request, so one that is
/// delivered again after a crash adds nothing.
pub(crate) struct Service {
    pub(crate) log: Arc<dyn EventLog>,
    /// How long the process waits; the bank is slower where it is late.
    pub(crate) patience: Duration,
}

#[async_trait]
impl Reactor for Service {
    async fn react(
        &mut self,
        request: &RecordedEvent,
        key: &IdempotencyKey,
    ) -> Result<(), ReactError> {
        let order = request.stream.id();
        let fate = Fate::of(order.parse()?);
        let answers_at = request.commit_time.saturating_add(self.patience * 2);
        let answer = match decode_event(request)? {
            Happened::ReservationRequested {} if fate == Fate::OutOfStock => {
                Happened::OutOfStock {}
            }
            Happened::ReservationRequested {} => Happened::Reserved {},
            Happened::ReleaseRequested {} => Happened::Released {},
            Happened::ChargeRequested { cents } => match fate {
                Fate::Declined => Happened::Declined {},
                Fate::Silent => return Ok(()),
                Fate::Late if Timestamp::now() < answers_at => {
                    let wait = answers_at.saturating_since(Timestamp::now());
                    return Err(ReactError::message("the bank is down").retry_after(wait));
                }
                _ => Happened::Charged { cents },
            },
            Happened::RefundRequested { cents } => Happened::Refunded { cents },
            Happened::DispatchRequested {} if fate == Fate::Undeliverable => Happened::Refused {},
            Happened::DispatchRequested {} => Happened::Dispatched {},
            other => return Err(ReactError::message(format!("nobody asks for {other:?}"))),
        };
        let answer = Append::new([happens(order, &answer)?]).caused_by(request);
        self.log.append(answer.with_id(key.append_id())).await?;
        Ok(())
    }
}
