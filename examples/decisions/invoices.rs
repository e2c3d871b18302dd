//! Invoices have consecutive numbers, as tax offices want them, though many issue them at once.

use headwater::{Decision, Event, InvalidName, Query, StreamId, Tag, View};
use serde::{Deserialize, Serialize};

use super::{Outcome, Report, history, holds, open, race};

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(name = "invoice.issued")]
struct Issued {
    #[event(tag = "year:{}")]
    year: u16,
    number: u32,
    order: u32,
}

/// The last number of a year.
struct Last {
    year: u16,
    number: u32,
}

impl View for Last {
    type Event = Issued;

    fn query(&self) -> Result<Query, InvalidName> {
        Ok(Query::tags([Tag::new(format!("year:{}", self.year))?]))
    }

    fn apply(&mut self, event: &Issued) {
        self.number = event.number;
    }
}

struct Issue {
    year: u16,
    order: u32,
}

impl Decision for Issue {
    type Views = Last;
    type Event = Issued;
    type Error = std::convert::Infallible;

    fn views(&self) -> Last {
        Last { year: self.year, number: 0 }
    }

    fn decide(&self, last: &Last) -> Result<Vec<Issued>, Self::Error> {
        let Self { year, order } = *self;
        Ok(vec![Issued { year, number: last.number + 1, order }])
    }

    fn stream(&self, event: &Issued) -> Result<StreamId, InvalidName> {
        StreamId::new(format!("invoice-{}-{}", event.year, event.number))
    }
}

pub(crate) async fn story() -> Outcome<Report> {
    const RULE: &str = "invoice numbers of a year have no gap";
    let (_dir, store) = open()?;
    let orders =
        (0..50).map(|order| Issue { year: if order % 5 == 0 { 2025 } else { 2026 }, order });
    let report = race(RULE, &store, orders).await?;
    let history: Vec<Issued> = history(&store).await?;
    for year in [2025, 2026] {
        let numbers =
            history.iter().filter(|issued| issued.year == year).map(|issued| issued.number);
        let numbers: Vec<u32> = numbers.collect();
        let dense = numbers.iter().copied().eq((1..).take(numbers.len()));
        holds(dense, || format!("the numbers of {year} are {numbers:?}"))?;
    }
    let orders =
        history.iter().map(|issued| issued.order).collect::<std::collections::HashSet<_>>();
    holds(orders.len() == 50, || format!("{} of 50 orders have an invoice", orders.len()))?;
    Ok(report)
}
