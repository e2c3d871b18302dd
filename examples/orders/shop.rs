//! The rules of the shop: what an order of a customer leads to.
//!
//! - Each order earns points: one for each whole dollar of its value, times 1 for a member, 2 for
//!   a silver, 3 for a gold and 4 for a platinum customer, by the tier held before the order.
//! - A customer is silver from $100 in all, gold from $500 and platinum from $1,000.
//!
//! So the points depend on the order of the orders: whoever mixes it up ends with other numbers.

use std::convert::Infallible;
use std::fmt;

use headwater::shape::Shape;
use headwater::{Decider, Event, InvalidName, Registry, RegistryError, StreamId};
use serde::{Deserialize, Serialize};

use crate::rows::{Day, OrderNumber, Row};

/// What a customer has come to.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Shape,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tier {
    /// Everybody who has ordered.
    #[default]
    Member,
    /// From $100.
    Silver,
    /// From $500.
    Gold,
    /// From $1,000.
    Platinum,
}

impl Tier {
    /// All of them, the lowest first.
    pub(crate) const ALL: [Self; 4] = [Self::Member, Self::Silver, Self::Gold, Self::Platinum];

    /// Returns the tier of a customer who has spent so many cents.
    pub(crate) fn of_spent(cents: u64) -> Self {
        match cents {
            0..10_000 => Self::Member,
            10_000..50_000 => Self::Silver,
            50_000..100_000 => Self::Gold,
            _ => Self::Platinum,
        }
    }

    /// Returns the points that an order of so many cents earns.
    pub(crate) fn points_for(self, cents: u64) -> u64 {
        cents / 100 * (1 + self as u64)
    }

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Silver => "silver",
            Self::Gold => "gold",
            Self::Platinum => "platinum",
        }
    }

    /// Returns the tier of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What happens to a customer.
#[derive(Clone, Debug, PartialEq, Eq, Event, Serialize, Deserialize)]
pub(crate) enum CustomerEvent {
    /// An order was placed.
    #[event(name = "order.placed", tags("customer:{customer}", "month:{day.month()}"))]
    OrderPlaced {
        /// Its number.
        order: OrderNumber,
        /// Whose it is.
        customer: String,
        /// When.
        day: Day,
        /// How many CDs.
        cds: u32,
        /// For how many US cents.
        cents: u64,
        /// What it earned.
        points: u64,
    },
    /// An order took the customer to a higher tier.
    #[event(name = "loyalty.tier_reached", tags("customer:{customer}", "tier:{tier}"))]
    LoyaltyTierReached {
        /// Who it is.
        customer: String,
        /// Which tier.
        tier: Tier,
        /// With which order.
        order: OrderNumber,
    },
}

/// Returns all events of the shop.
pub(crate) fn registry() -> Result<Registry, RegistryError> {
    Registry::new().with::<CustomerEvent>()
}

/// Asks for one order to be placed.
#[derive(Clone, Debug)]
pub(crate) struct PlaceOrder(pub(crate) Row);

impl PlaceOrder {
    /// Returns the stream of the customer who orders.
    pub(crate) fn stream(&self) -> Result<StreamId, InvalidName> {
        StreamId::new(format!("customer-{}", self.0.customer))
    }
}

/// What the decision about an order needs to know of its customer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Customer {
    /// The last order.
    last: Option<(Day, OrderNumber)>,
    spent_cents: u64,
    tier: Tier,
}

/// Decides about the orders of one customer.
///
/// A customer's commands come by (day, order number), each after the one before was answered, in
/// every run alike. So what is placed is always a beginning of what there is to place, and the
/// last order says of every other whether it is in it: an order that was placed emits nothing,
/// and a run that was killed can be repeated from the first row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shop;

impl Decider for Shop {
    type Command = PlaceOrder;
    type Event = CustomerEvent;
    type State = Customer;
    /// The shop takes every order.
    type Error = Infallible;

    fn decide(
        &self,
        state: &Customer,
        PlaceOrder(row): PlaceOrder,
    ) -> Result<Vec<CustomerEvent>, Infallible> {
        let Row { order, customer, day, cds, cents } = row;
        if state.last >= Some((day, order)) {
            return Ok(Vec::new());
        }
        let points = state.tier.points_for(cents);
        let reached = Tier::of_spent(state.spent_cents + cents);
        let mut events = Vec::with_capacity(2);
        if reached > state.tier {
            let customer = customer.clone();
            events.push(CustomerEvent::LoyaltyTierReached { customer, tier: reached, order });
        }
        events.insert(0, CustomerEvent::OrderPlaced { order, customer, day, cds, cents, points });
        Ok(events)
    }

    fn evolve(&self, state: Customer, event: &CustomerEvent) -> Customer {
        match event {
            CustomerEvent::OrderPlaced { order, day, cents, .. } => Customer {
                last: Some((*day, *order)),
                spent_cents: state.spent_cents + cents,
                ..state
            },
            CustomerEvent::LoyaltyTierReached { tier, .. } => Customer { tier: *tier, ..state },
        }
    }
}

#[cfg(test)]
mod tests {
    use headwater::{SchemaVersion, encode_event};
    use headwater_testkit::SchemaLock;

    use super::*;
    use crate::rows::OrderFile;

    /// Places the orders of a file one after the other.
    fn place(text: &str) -> Vec<CustomerEvent> {
        let mut placed = Vec::new();
        for row in OrderFile::parse(text.as_bytes()).rows {
            let state = Shop.fold(&placed);
            placed.extend(Shop.decide(&state, PlaceOrder(row)).unwrap());
        }
        placed
    }

    fn points(events: &[CustomerEvent]) -> Vec<u64> {
        let points = |event: &CustomerEvent| match event {
            CustomerEvent::OrderPlaced { points, .. } => Some(*points),
            CustomerEvent::LoyaltyTierReached { .. } => None,
        };
        events.iter().filter_map(points).collect()
    }

    #[test]
    fn an_order_earns_by_the_tier_held_before_it() {
        let events =
            place("1 19970101 1 99.99\n1 19970102 1 0.01\n1 19970103 1 10.50\n1 19970104 9 900.00");
        assert_eq!(points(&events), [99, 0, 20, 1_800]);
        let reached: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                CustomerEvent::LoyaltyTierReached { tier, order, .. } => Some((*tier, order.0)),
                CustomerEvent::OrderPlaced { .. } => None,
            })
            .collect();
        assert_eq!(reached, [(Tier::Silver, 2), (Tier::Platinum, 4)]);
    }

    #[test]
    fn an_order_that_was_placed_emits_nothing() {
        let text = "1 19970101 1 50.00\n1 19970101 1 60.00\n1 19970102 1 70.00";
        let placed = place(text);
        let state = Shop.fold(&placed);
        for row in OrderFile::parse(text.as_bytes()).rows {
            assert_eq!(Shop.decide(&state, PlaceOrder(row)).unwrap(), []);
        }
    }

    #[test]
    fn stored_shapes_change_with_a_new_version_alone() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/orders/schema.lock");
        SchemaLock::at(path).assert(&registry().unwrap());
    }

    #[test]
    fn names_and_tags_are_frozen() {
        let names: Vec<_> = CustomerEvent::KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names, ["order.placed", "loyalty.tier_reached"]);
        assert!(CustomerEvent::KINDS.iter().all(|kind| kind.version == SchemaVersion::FIRST));
        let stream = StreamId::new("customer-1").unwrap();
        let tags = |event| encode_event(stream.clone(), event).unwrap().tags;
        let events = place("1 19970101 1 500.00");
        let tags: Vec<_> = events.iter().flat_map(tags).map(|tag| tag.to_string()).collect();
        assert_eq!(tags, ["customer:1", "month:1997-01", "customer:1", "tier:gold"]);
    }
}
