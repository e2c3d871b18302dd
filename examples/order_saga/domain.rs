//! What happens around an order, and the books that must balance.

use std::collections::BTreeMap;

use headwater::{DecodeError, Event, RecordedEvent, decode_event};
use serde::{Deserialize, Serialize};

/// What happens to an order, in its own stream and in those of the services. All streams of an order
/// have its number.
#[derive(Clone, Debug, PartialEq, Event, Serialize, Deserialize)]
pub(crate) enum Happened {
    #[event(name = "order.placed")]
    Placed { cents: u64 },
    #[event(name = "order.overdue")]
    Overdue {},
    #[event(name = "order.shipped")]
    Shipped {},
    #[event(name = "order.cancelled")]
    Cancelled { why: String },

    #[event(name = "stock.reservation_requested")]
    ReservationRequested {},
    #[event(name = "stock.reserved")]
    Reserved {},
    #[event(name = "stock.missing")]
    OutOfStock {},
    #[event(name = "stock.release_requested")]
    ReleaseRequested {},
    #[event(name = "stock.released")]
    Released {},

    #[event(name = "payment.charge_requested")]
    ChargeRequested { cents: u64 },
    #[event(name = "payment.charged")]
    Charged { cents: u64 },
    #[event(name = "payment.declined")]
    Declined {},
    #[event(name = "payment.refund_requested")]
    RefundRequested { cents: u64 },
    #[event(name = "payment.refunded")]
    Refunded { cents: u64 },

    #[event(name = "shipping.dispatch_requested")]
    DispatchRequested {},
    #[event(name = "shipping.dispatched")]
    Dispatched {},
    #[event(name = "shipping.refused")]
    Refused {},
}

impl Happened {
    /// Returns the category of the stream that it belongs to, which is how its name begins.
    pub(crate) fn category(&self) -> &'static str {
        let name = self.kind().name;
        name.split_once('.').map_or(name, |(category, _)| category)
    }
}

/// What the log says of one order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(crate) cents: u64,
    /// How often the bank was asked for money and has not answered.
    pub(crate) waiting: u64,
    pub(crate) charged: u64,
    pub(crate) refunded: u64,
    pub(crate) reserved: u64,
    pub(crate) released: u64,
    pub(crate) dispatched: u64,
    pub(crate) shipped: u64,
    pub(crate) cancelled: Vec<String>,
}

impl Account {
    /// Returns whether the order has ended, and everything that was to be undone is undone.
    pub(crate) fn is_settled(&self) -> bool {
        let kept = u64::from(self.shipped > 0);
        self.shipped + self.cancelled.len() as u64 > 0
            && self.charged - self.refunded == kept * self.cents
            && self.reserved - self.released == kept
    }
}

/// The accounts of all orders, folded from the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books(pub(crate) BTreeMap<u32, Account>);

impl Books {
    /// Takes in an event; those of the process itself and of timers are left aside.
    pub(crate) fn apply(&mut self, event: &RecordedEvent) -> Result<(), DecodeError> {
        let category = event.stream.category();
        if !["order", "stock", "payment", "shipping"].contains(&category) {
            return Ok(());
        }
        let Ok(number) = event.stream.id().parse() else { return Ok(()) };
        let account = self.0.entry(number).or_default();
        match decode_event(event)? {
            Happened::Placed { cents } => account.cents = cents,
            Happened::ChargeRequested { .. } => account.waiting += 1,
            Happened::Declined {} => account.waiting -= 1,
            Happened::Charged { cents } => {
                account.waiting -= 1;
                account.charged += cents;
            }
            Happened::Refunded { cents } => account.refunded += cents,
            Happened::Reserved {} => account.reserved += 1,
            Happened::Released {} => account.released += 1,
            Happened::Dispatched {} => account.dispatched += 1,
            Happened::Shipped {} => account.shipped += 1,
            Happened::Cancelled { why } => account.cancelled.push(why),
            _ => {}
        }
        Ok(())
    }
}
