//! The classic picture, without a broker: an order service, an email queue and a loyalty queue.
//!
//! The shop appends orders to a store and waits for nobody. Two queues follow the same log, each
//! at its own pace: a share group gives points, and a bridge hands confirmations to a mail server
//! that is down at first. One order is poison: its customer has no address. It is parked with the
//! later orders of that customer, the others go on, and once the address is known it is re-driven.
//!
//! Every claim of the report is checked, so a run that ends is one that went as it says.
//!
//! ```text
//! cargo run --release --example shop_queues
//! ```

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater::projections::{
    Backoff, Bridge, BridgeHandle, BridgeOptions, BridgePhase, ConsumerGroup, GroupOptions,
    Message, SendError, ShareGroup, ShareOptions, Target, async_trait,
};
use headwater::{
    Append, Event, EventLog, GroupName, Options, Position, Store, StreamId, decode_event,
    encode_event,
};
use serde::{Deserialize, Serialize};

const ORDERS: u32 = 240;
const CUSTOMERS: u32 = 24;
/// Who has no address when the shop opens.
const FORGOTTEN: u32 = 7;
/// How long to wait for anything before something must be wrong.
const PATIENCE: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// An order was placed. Each is a stream of its own; what keeps the mails of a customer in order is
/// the key.
#[derive(Clone, Copy, Debug, Event, Serialize, Deserialize)]
#[event(name = "order.placed")]
struct Order {
    number: u32,
    #[event(key = "customer-{}")]
    customer: u32,
    cents: u64,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    println!("{}", tell().await?);
    Ok(())
}

/// What came of it.
struct Report {
    /// How many events each queue was behind when the last order was placed.
    lags: (u64, u64),
    /// What the email queue said while the mail server was down.
    waiting: String,
    refusals: u64,
    sent_before: usize,
    parked: usize,
    cause: String,
    sent: usize,
    points: u64,
}

async fn tell() -> Outcome<Report> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    let server = MailServer::default();
    let (loyalty, emails) = (open_loyalty(&store).await?, open_emails(&store, &server).await?);
    let points = tokio::spawn(give_points(loyalty.clone()));

    let last = place_orders(&store).await?;
    let lags = (loyalty.group().lag().await?.events, emails.group().lag().await?.events);

    // The loyalty queue comes to its end while the email queue cannot even begin.
    let points = points.await??;
    let (waiting, refusals) = wait_for_trouble(&emails).await?;
    assert_eq!(loyalty.group().floor(), last);
    assert_eq!((emails.group().floor(), server.sent().len()), (Position::START, 0));

    server.up.store(true, Ordering::Release);
    emails.wait_for(last, PATIENCE).await?;
    let sent_before = server.sent().len();
    let [parked] = &emails.group().parked().await?[..] else {
        return Err("one customer's orders are parked, and no others".into());
    };
    let cause = parked.cause.clone();
    let behind = emails.group().parked_events(parked.first).await?;
    assert!(behind.iter().all(|event| event.ordering_key() == customer(FORGOTTEN)));

    // Somebody asks the customer for an address, and has the mails sent after all.
    server.forgotten.store(false, Ordering::Release);
    emails.group().redrive(parked.first).await?;
    let mut status = emails.watch();
    let all = status.wait_for(|now| now.forwarded == u64::from(ORDERS));
    tokio::time::timeout(PATIENCE, all).await??;
    assert_eq!(emails.group().parked().await?, []);
    check_mails(&server.sent());

    emails.shutdown().await?;
    store.close()?;
    let (parked, sent) = (behind.len(), server.sent().len());
    Ok(Report { lags, waiting, refusals, sent_before, parked, cause, sent, points })
}

/// The order service: durable when it returns, and nobody is waited for.
async fn place_orders(store: &Store) -> Outcome<Position> {
    let mut last = Position::START;
    for number in 1..=ORDERS {
        let order = Order { number, customer: number % CUSTOMERS, cents: u64::from(number) * 10 };
        let stream = StreamId::new(format!("order-{number}"))?;
        last = store.append(Append::new([encode_event(stream, &order)?])).await?.last;
    }
    Ok(last)
}

fn customer(number: u32) -> String {
    format!("customer-{number}")
}

async fn open_loyalty(store: &Store) -> Outcome<ShareGroup> {
    let options = ShareOptions::new(GroupName::new("loyalty")?);
    Ok(ShareGroup::open(Arc::new(store.clone()), options).await?)
}

/// The loyalty queue: one point for each dollar.
async fn give_points(queue: ShareGroup) -> Outcome<u64> {
    let (mut points, mut handled) = (0, 0);
    while handled < ORDERS {
        for received in queue.receive(8, PATIENCE).await? {
            points += decode_event::<Order>(received.event())?.cents / 100;
            received.ack();
            handled += 1;
        }
        queue.commit().await?;
    }
    Ok(points)
}

async fn open_emails(store: &Store, server: &MailServer) -> Outcome<BridgeHandle> {
    let options = GroupOptions::new(GroupName::new("email")?);
    let group = ConsumerGroup::open(Arc::new(store.clone()), options).await?;
    let backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(50) };
    let options = BridgeOptions { backoff, ..BridgeOptions::default() };
    Ok(Bridge::start(&group, "email", server.clone(), options).await?)
}

/// Waits until the email queue has found its server unavailable some times, and returns what it
/// says about that and how often it was.
async fn wait_for_trouble(emails: &BridgeHandle) -> Outcome<(String, u64)> {
    let mut status = emails.watch();
    let down = status
        .wait_for(|now| now.unavailable >= 40 && matches!(now.phase, BridgePhase::Waiting { .. }));
    let now = tokio::time::timeout(PATIENCE, down).await??.clone();
    let BridgePhase::Waiting { cause, .. } = now.phase else {
        return Err("it was seen waiting".into());
    };
    // No event has lost an attempt by it.
    assert_eq!((now.forwarded, now.failed, now.refused), (0, 0, 0));
    let reason = cause.source().map_or_else(String::new, ToString::to_string);
    Ok((format!("{cause}: {reason}"), now.unavailable))
}

/// Sends mails, once it is up. Clones are the same server.
#[derive(Clone)]
struct MailServer {
    up: Arc<AtomicBool>,
    /// Whether the address of one customer is missing.
    forgotten: Arc<AtomicBool>,
    sent: Arc<Mutex<Sent>>,
}

#[derive(Default)]
struct Sent {
    keys: HashSet<String>,
    orders: Vec<Order>,
}

impl Default for MailServer {
    fn default() -> Self {
        let (up, forgotten) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        Self { up, forgotten, sent: Arc::default() }
    }
}

impl MailServer {
    fn lock(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self) -> Vec<Order> {
        self.lock().orders.clone()
    }
}

#[async_trait]
impl Target for MailServer {
    async fn send(&self, message: &Message<'_>) -> Result<(), SendError> {
        if !self.up.load(Ordering::Acquire) {
            return Err(SendError::unavailable("connection refused"));
        }
        let order: Order = decode_event(message.event).map_err(SendError::refused)?;
        if order.customer == FORGOTTEN && self.forgotten.load(Ordering::Acquire) {
            return Err(SendError::refused(format!("customer {FORGOTTEN} has no address")));
        }
        let mut sent = self.lock();
        // What comes again has the same key, and no customer gets a mail twice.
        if sent.keys.insert(message.key.to_string()) {
            sent.orders.push(order);
        }
        Ok(())
    }
}

/// Every order has one mail, and those of a customer are in order.
fn check_mails(sent: &[Order]) {
    let mut of_customer: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for order in sent {
        of_customer.entry(order.customer).or_default().push(order.number);
    }
    let each = (ORDERS / CUSTOMERS) as usize;
    assert_eq!(of_customer.len(), CUSTOMERS as usize);
    assert!(of_customer.values().all(|numbers| numbers.len() == each && numbers.is_sorted()));
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (loyalty, email) = self.lags;
        writeln!(f, "{ORDERS} orders of {CUSTOMERS} customers were placed, each durable.")?;
        writeln!(f, "  behind at that moment: loyalty {loyalty}, email {email}")?;
        writeln!(f, "While the mail server was down:")?;
        writeln!(f, "  loyalty   {ORDERS} of {ORDERS} orders earned {} points", self.points)?;
        writeln!(f, "  email     0 of {ORDERS}; {}", self.waiting)?;
        writeln!(f, "            asked {} times in vain, no attempt was lost", self.refusals)?;
        writeln!(f, "When it was back:")?;
        writeln!(f, "  email     {} of {ORDERS}; {} parked:", self.sent_before, self.parked)?;
        writeln!(f, "            {}", self.cause)?;
        writeln!(f, "When the address was known and the orders were re-driven:")?;
        write!(f, "  email     {} of {ORDERS}, each customer's in order", self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_queues_of_a_shop_go_at_their_own_pace_and_lose_nothing() {
        let report = tell().await.unwrap();
        let parked = (ORDERS / CUSTOMERS) as usize;
        assert_eq!((report.parked, report.sent_before), (parked, ORDERS as usize - parked));
        assert_eq!((report.sent, report.lags.1), (ORDERS as usize, ORDERS.into()));
        assert_eq!(report.points, (1..=u64::from(ORDERS)).map(|n| n * 10 / 100).sum::<u64>());
        assert!(report.waiting.ends_with("connection refused"), "{}", report.waiting);
        assert!(report.cause.ends_with("has no address"), "{}", report.cause);
    }
}
