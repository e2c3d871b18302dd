//! The process of an order: what is asked for next, and what is undone.

use std::time::Duration;

use headwater::projections::{ProcessManager, ReactError, Reaction};
use headwater::{Category, Event, NewEvent, RecordedEvent, StreamId, decode_event, encode_event};
use serde::{Deserialize, Serialize};

use crate::domain::Happened;

/// What the process notes about itself.
#[derive(Clone, Debug, Event, Serialize, Deserialize)]
pub(crate) enum Noted {
    #[event(name = "saga.began")]
    Began { cents: u64 },
    #[event(name = "saga.stock_reserved")]
    StockReserved {},
    #[event(name = "saga.paid")]
    Paid {},
    #[event(name = "saga.finished")]
    Finished {},
    #[event(name = "saga.gave_up")]
    GaveUp { why: String },
    #[event(name = "saga.undid_late")]
    UndidLate {},
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Step {
    #[default]
    New,
    Reserving,
    Charging,
    Shipping,
    Over,
}

/// Where the process of an order is, and what would have to be undone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Saga {
    step: Step,
    cents: u64,
    has_stock: bool,
}

/// Reserves stock, charges, and ships; where one of these fails or takes too long, undoes what was
/// done before and cancels the order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderSaga {
    /// How long stock and payment may take together.
    pub(crate) patience: Duration,
}

const OVERDUE: &str = "overdue";

impl ProcessManager for OrderSaga {
    type Event = Noted;
    type State = Saga;

    fn name(&self) -> &'static str {
        "saga"
    }

    fn instance(&self, event: &RecordedEvent) -> Result<Option<String>, ReactError> {
        Ok(Some(event.stream.id().to_owned()))
    }

    fn react(&self, saga: &Saga, event: &RecordedEvent) -> Result<Reaction<Noted>, ReactError> {
        let order = event.stream.id();
        let happens = |what: Happened| happens(order, &what);
        Ok(match (decode_event(event)?, saga.step) {
            (Happened::Placed { cents }, Step::New) => Reaction::note(Noted::Began { cents })
                .issue(happens(Happened::ReservationRequested {})?)
                .at(
                    OVERDUE,
                    event.commit_time.saturating_add(self.patience),
                    happens(Happened::Overdue {})?,
                ),
            (Happened::Reserved {}, Step::Reserving) => Reaction::note(Noted::StockReserved {})
                .issue(happens(Happened::ChargeRequested { cents: saga.cents })?),
            (Happened::Charged { .. }, Step::Charging) => Reaction::note(Noted::Paid {})
                .issue(happens(Happened::DispatchRequested {})?)
                .cancel(OVERDUE),
            (Happened::Dispatched {}, Step::Shipping) => {
                Reaction::note(Noted::Finished {}).issue(happens(Happened::Shipped {})?)
            }

            (Happened::OutOfStock {}, Step::Reserving) => give_up(saga, order, "out of stock")?,
            (Happened::Declined {}, Step::Charging) => give_up(saga, order, "card declined")?,
            (Happened::Overdue {}, Step::Reserving | Step::Charging) => {
                give_up(saga, order, "overdue")?
            }
            (Happened::Refused {}, Step::Shipping) => give_up(saga, order, "not deliverable")?
                .issue(happens(Happened::RefundRequested { cents: saga.cents })?),

            // It came after all, and too late.
            (Happened::Charged { cents }, Step::Over) => Reaction::note(Noted::UndidLate {})
                .issue(happens(Happened::RefundRequested { cents })?),
            (Happened::Reserved {}, Step::Over) => {
                Reaction::note(Noted::UndidLate {}).issue(happens(Happened::ReleaseRequested {})?)
            }
            _ => Reaction::none(),
        })
    }

    fn evolve(&self, saga: Saga, note: &Noted) -> Saga {
        match *note {
            Noted::Began { cents } => Saga { step: Step::Reserving, cents, ..saga },
            Noted::StockReserved {} => Saga { step: Step::Charging, has_stock: true, ..saga },
            Noted::Paid {} => Saga { step: Step::Shipping, ..saga },
            Noted::Finished {} | Noted::GaveUp { .. } => Saga { step: Step::Over, ..saga },
            Noted::UndidLate {} => saga,
        }
    }
}

/// Cancels the order, and gives back what it holds.
fn give_up(saga: &Saga, order: &str, why: &str) -> Result<Reaction<Noted>, ReactError> {
    let cancelled = Happened::Cancelled { why: why.to_owned() };
    let reaction = Reaction::note(Noted::GaveUp { why: why.to_owned() })
        .issue(happens(order, &cancelled)?)
        .cancel(OVERDUE);
    Ok(if saga.has_stock {
        reaction.issue(happens(order, &Happened::ReleaseRequested {})?)
    } else {
        reaction
    })
}

/// Makes an event in the stream of the order, or that of a service for the order.
pub(crate) fn happens(order: &str, what: &Happened) -> Result<NewEvent, ReactError> {
    let stream = StreamId::of(&Category::new(what.category())?, order)?;
    Ok(encode_event(stream, what)?)
}
