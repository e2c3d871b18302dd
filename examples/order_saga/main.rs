//! An order that spans four services, without a transaction around them: stock, payment, shipping.
//!
//! A process manager asks one after the other, and undoes what was done where one of them fails, is
//! silent, or answers too late. Everything goes through one store: requests and answers are events,
//! the process keeps its state as events, and its deadlines are durable timers. In the middle the
//! program stops with its hands full and begins again.
//!
//! At the end the books are made up from the log: every order was shipped or cancelled once, and no
//! money and no stock is left over. A run that ends is one where they balance.
//!
//! ```text
//! cargo run --release --example order_saga
//! ```

mod domain;
mod saga;
mod services;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater::projections::{
    ConsumerGroup, GroupOptions, Managing, Reactor, ReactorHandle, ReactorOptions, ReactorRunner,
    TimerService,
};
use headwater::{
    Append, EventLog, EventType, GroupName, Options, Position, Query, Store, StreamId,
    Subscription, encode_event,
};

use self::domain::{Books, Happened};
use self::saga::OrderSaga;
use self::services::{Fate, Service};

const ORDERS: u32 = 240;
/// How long stock and payment may take together.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for anything before something must be wrong.
const WAIT_MAX: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    println!("{}", tell().await?);
    Ok(())
}

/// What came of it.
struct Report {
    events: u64,
    /// How many orders had come to their end when the program stopped in the middle.
    before: usize,
    shipped: usize,
    cancelled: BTreeMap<String, usize>,
    charged: u64,
    refunded: u64,
    late: usize,
}

async fn tell() -> Outcome<Report> {
    let dir = tempfile::tempdir()?;
    let shop = Shop::open(dir.path()).await?;
    let mut orders = Vec::new();
    for number in 1..=ORDERS {
        let placed = Happened::Placed { cents: u64::from(number) * 10 };
        orders.push(encode_event(StreamId::new(format!("order-{number}"))?, &placed)?);
    }
    for some in orders.chunks(16) {
        shop.store.append(Append::new(some.to_vec())).await?;
    }
    let third = |books: &Books| settled(books) >= ORDERS as usize / 3;
    let before = settled(&shop.wait_until(third).await?);
    shop.stop()?;

    let shop = Shop::open(dir.path()).await?;
    let books = shop.wait_until(|books| settled(books) == ORDERS as usize && !waits(books)).await?;
    let events = shop.store.head(shop.store.settled_visibility()).await?.get();
    shop.stop()?;
    Ok(Report::of(&books, events, before))
}

fn settled(books: &Books) -> usize {
    books.0.values().filter(|account| account.is_settled()).count()
}

/// Returns whether an answer of the bank is still to come.
fn waits(books: &Books) -> bool {
    let waits = |(number, account): (&u32, &domain::Account)| {
        account.waiting > 0 && Fate::of(*number) != Fate::Silent
    };
    books.0.iter().any(waits)
}

/// The services and the process of a shop, all at work on one store.
struct Shop {
    store: Store,
    running: Vec<ReactorHandle>,
    timers: tokio::task::JoinHandle<()>,
}

impl Shop {
    async fn open(path: &Path) -> Outcome<Self> {
        let store = Store::open(path, Options::default())?;
        let log: Arc<dyn EventLog> = Arc::new(store.clone());
        let service = |_| Service { log: Arc::clone(&log), patience: PATIENCE };
        let process = |_| Managing::new(Arc::clone(&log), OrderSaga { patience: PATIENCE });
        let running = vec![
            work(
                &store,
                "stock",
                ["stock.reservation_requested", "stock.release_requested"],
                service,
            )
            .await?,
            work(
                &store,
                "payment",
                ["payment.charge_requested", "payment.refund_requested"],
                service,
            )
            .await?,
            work(&store, "shipping", ["shipping.dispatch_requested"], service).await?,
            work(
                &store,
                "saga",
                [
                    "order.placed",
                    "order.overdue",
                    "stock.reserved",
                    "stock.missing",
                    "payment.charged",
                    "payment.declined",
                    "shipping.dispatched",
                    "shipping.refused",
                ],
                process,
            )
            .await?,
        ];
        let service = TimerService::new(log);
        let timers = tokio::spawn(async move {
            let stopped = service.run().await;
            eprintln!("timers stopped: {stopped}");
        });
        Ok(Self { store, running, timers })
    }

    /// Makes up the books from the log until they are as they should be.
    async fn wait_until(&self, done: impl Fn(&Books) -> bool) -> Outcome<Books> {
        let mut books = Books::default();
        let log: Arc<dyn EventLog> = Arc::new(self.store.clone());
        let mut events = Subscription::new(log, Query::all(), Position::START);
        let follow = async {
            while !done(&books) {
                books.apply(&events.next().await?)?;
            }
            Outcome::Ok(())
        };
        match tokio::time::timeout(WAIT_MAX, follow).await {
            Ok(followed) => followed?,
            Err(_) => return Err(format!("the books do not balance: {books:?}").into()),
        }
        Ok(books)
    }

    /// Stops where it stands: what is in hand is not waited for, and nobody says goodbye.
    fn stop(self) -> Outcome<()> {
        self.timers.abort();
        drop(self.running);
        Ok(self.store.close()?)
    }
}

/// Lets four members of a group do the same work.
async fn work<R: Reactor, const N: usize>(
    store: &Store,
    name: &str,
    types: [&'static str; N],
    make: impl FnMut(usize) -> R,
) -> Outcome<ReactorHandle> {
    let types = types.into_iter().map(EventType::new).collect::<Result<Vec<_>, _>>()?;
    let options =
        GroupOptions { selection: Query::types(types), ..GroupOptions::new(GroupName::new(name)?) };
    let group = ConsumerGroup::open(Arc::new(store.clone()), options).await?;
    Ok(ReactorRunner::start(&group, name, make, 4, ReactorOptions::default()).await?)
}

impl Report {
    /// Checks the books, order by order.
    fn of(books: &Books, events: u64, before: usize) -> Self {
        assert_eq!(books.0.len(), ORDERS as usize);
        let (mut shipped, mut cancelled, mut late) = (0, BTreeMap::new(), 0);
        for (&number, account) in &books.0 {
            let why = match Fate::of(number) {
                Fate::Fine => None,
                Fate::OutOfStock => Some("out of stock"),
                Fate::Declined => Some("card declined"),
                Fate::Silent | Fate::Late => Some("overdue"),
                Fate::Undeliverable => Some("not deliverable"),
            };
            // Whoever was slow because the machine was is overdue as well.
            let why = match &account.cancelled[..] {
                [overdue] if overdue == "overdue" => Some("overdue"),
                _ => why,
            };
            let ends: Vec<&str> = account.cancelled.iter().map(String::as_str).collect();
            assert_eq!(ends, why.into_iter().collect::<Vec<_>>(), "order {number}");
            assert_eq!(account.shipped, u64::from(why.is_none()), "order {number}");
            assert_eq!(account.dispatched, account.shipped, "order {number}");
            assert!(account.is_settled(), "order {number}: {account:?}");
            late += usize::from(why == Some("overdue") && account.charged > 0);
            match why {
                None => shipped += 1,
                Some(why) => *cancelled.entry(why.to_owned()).or_default() += 1,
            }
        }
        let sum = |of: fn(&domain::Account) -> u64| books.0.values().map(of).sum();
        let (charged, refunded) = (sum(|account| account.charged), sum(|account| account.refunded));
        Self { events, before, shipped, cancelled, charged, refunded, late }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{ORDERS} orders, {} events, one process each", self.events)?;
        writeln!(f, "  {} had ended when the program stopped; it went on", self.before)?;
        writeln!(f, "  shipped            {:>6}", self.shipped)?;
        for (why, count) in &self.cancelled {
            writeln!(f, "  cancelled          {count:>6}  {why}")?;
        }
        let dollars = |cents: u64| format!("{}.{:02}", cents / 100, cents % 100);
        writeln!(f, "  charged         {:>9}", dollars(self.charged))?;
        writeln!(
            f,
            "  refunded        {:>9}  {} of them charged too late",
            dollars(self.refunded),
            self.late
        )?;
        write!(
            f,
            "the books balance: nothing was shipped or paid that was cancelled, and no stock is held"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_books_balance_whatever_the_services_do() {
        let report = tell().await.unwrap();
        assert!(report.before >= ORDERS as usize / 3);
        assert!(report.cancelled.contains_key("overdue"));
    }
}
