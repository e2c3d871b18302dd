//! The loyalty service: a projection of the log into SQLite.

use std::error::Error;

use headwater::projections::rusqlite::{self, Row};
use headwater::projections::{ApplyError, Projection, SqliteSink, SqliteTx};
use headwater::{Query, RecordedEvent, decode_event};

use crate::ledger::{Account, Ledger, Revenue};
use crate::shop::{CustomerEvent, Tier};

const CREATE: &str = "
    CREATE TABLE customers (
        customer TEXT PRIMARY KEY NOT NULL,
        orders INTEGER NOT NULL,
        cents INTEGER NOT NULL,
        points INTEGER NOT NULL,
        tier TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE months (
        month TEXT PRIMARY KEY NOT NULL,
        orders INTEGER NOT NULL,
        cents INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID";

/// Points and tier of each customer, revenue of each month.
///
/// Adding is not idempotent, and need not be: the runner commits its checkpoint in the same
/// transaction, so each event is added once, whatever is killed when.
#[derive(Debug)]
pub(crate) struct Loyalty {
    selection: Query,
}

impl Loyalty {
    /// Selects the shop's events.
    pub(crate) fn new() -> Result<Self, headwater::InvalidName> {
        Ok(Self { selection: Query::events::<CustomerEvent>()? })
    }
}

impl Projection for Loyalty {
    type Sink = SqliteSink;

    #[expect(clippy::unnecessary_literal_bound, reason = "the trait leaves the lifetime open")]
    fn name(&self) -> &str {
        "loyalty"
    }

    fn version(&self) -> u32 {
        1
    }

    fn selection(&self) -> Query {
        self.selection.clone()
    }

    fn init(&mut self, tx: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
        Ok(tx.execute_batch(CREATE)?)
    }

    fn reset(&mut self, tx: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
        Ok(tx.execute_batch("DROP TABLE IF EXISTS customers; DROP TABLE IF EXISTS months")?)
    }

    fn apply(&mut self, tx: &mut SqliteTx<'_>, event: &RecordedEvent) -> Result<(), ApplyError> {
        match decode_event(event)? {
            CustomerEvent::OrderPlaced { customer, day, cents, points, .. } => {
                let (cents, points) = (i64::try_from(cents)?, i64::try_from(points)?);
                tx.prepare_cached(
                    "INSERT INTO customers VALUES (?1, 1, ?2, ?3, 'member')
                     ON CONFLICT DO UPDATE SET orders = orders + 1,
                         cents = cents + excluded.cents, points = points + excluded.points",
                )?
                .execute((customer, cents, points))?;
                tx.prepare_cached(
                    "INSERT INTO months VALUES (?1, 1, ?2)
                     ON CONFLICT DO UPDATE SET orders = orders + 1, cents = cents + excluded.cents",
                )?
                .execute((day.month(), cents))?;
            }
            CustomerEvent::LoyaltyTierReached { customer, tier, .. } => {
                tx.prepare_cached("UPDATE customers SET tier = ?2 WHERE customer = ?1")?
                    .execute((customer, tier.name()))?;
            }
        }
        Ok(())
    }
}

/// Reads the whole read model.
///
/// # Errors
///
/// If SQLite cannot, or if a row is not one that [`Loyalty`] writes.
pub(crate) fn read(sink: &SqliteSink) -> Result<Ledger, Box<dyn Error + Send + Sync>> {
    let database = sink.reader()?;
    let mut ledger = Ledger::default();
    let mut select =
        database.prepare("SELECT customer, orders, cents, points, tier FROM customers")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        ledger.customers.insert(row.get(0)?, account(row)?);
    }
    let mut select = database.prepare("SELECT month, orders, cents FROM months")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let revenue = Revenue { orders: number(row, 1)?, cents: number(row, 2)? };
        ledger.months.insert(row.get(0)?, revenue);
    }
    Ok(ledger)
}

fn account(row: &Row<'_>) -> Result<Account, Box<dyn Error + Send + Sync>> {
    let tier: String = row.get(4)?;
    Ok(Account {
        orders: number(row, 1)?,
        cents: number(row, 2)?,
        points: number(row, 3)?,
        tier: Tier::named(&tier).ok_or_else(|| format!("there is no tier {tier}"))?,
    })
}

/// Reads a number that was stored as the signed one that SQLite has.
fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let stored: i64 = row.get(column)?;
    u64::try_from(stored).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, stored))
}
