//! The order service: every row becomes a command, many of them in flight.
//!
//! A customer's commands go down one lane, one after the other; the lanes run beside each other.
//! Each waits for its own append to be on the device, and the log's writer takes all that wait
//! into one sync: that is what makes thousands of durable orders in a second.

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater::{ExecuteOptions, Position, SLOT_COUNT, Slot, Store, decode_stored, execute};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::rows::{OrderNumber, Row};
use crate::shop::{CustomerEvent, PlaceOrder, Shop};

/// How many customers' orders are in flight at most.
const LANES: usize = 512;
/// How many commands wait in a lane; those of one lane must not keep the others waiting.
const WAITING_MAX: usize = 64;

/// How many orders are placed. Only to be shown, so nothing else is ordered by it.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    done: AtomicU64,
}

impl Counter {
    /// Begins with those of an earlier run.
    pub(crate) fn from(placed: u64) -> Self {
        Self { done: AtomicU64::new(placed) }
    }

    /// Returns how many there are.
    pub(crate) fn get(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// What the order service did.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// How many orders it placed.
    pub(crate) placed: u64,
    /// How long it took for all of them.
    pub(crate) elapsed: Duration,
    /// How long each order that was placed took to be answered, the quickest first.
    pub(crate) answers: Vec<Duration>,
}

/// Returns the orders that earlier runs have placed.
///
/// To leave them out is quicker than to execute them again, and nothing more than that: what is
/// placed twice emits nothing. They are no beginning of the file, because customers do not wait
/// for each other.
pub(crate) fn placed_before(
    store: &Store,
) -> Result<HashSet<OrderNumber>, Box<dyn Error + Send + Sync>> {
    let mut placed = HashSet::new();
    let mut scan = store.scan(Position::START)?;
    while let Some(event) = scan.next() {
        // The payload is read where it lies in the mapped log.
        if let CustomerEvent::OrderPlaced { order, .. } = decode_stored(event?.stored())? {
            placed.insert(order);
        }
    }
    Ok(placed)
}

/// Executes a command for each row, in order. Returns early, between two commands, once `stop`
/// is true.
///
/// # Errors
///
/// The first one that a command met; the commands of that lane after it were not executed.
pub(crate) async fn place_all(
    store: Store,
    rows: impl IntoIterator<Item = Row>,
    counter: Arc<Counter>,
    stop: watch::Receiver<bool>,
) -> Result<Taken, Box<dyn Error + Send + Sync>> {
    let begun = Instant::now();
    let mut lanes = JoinSet::new();
    let mut doors = Vec::with_capacity(LANES);
    for _ in 0..LANES {
        let (door, commands) = mpsc::channel(WAITING_MAX);
        lanes.spawn(lane(store.clone(), commands, Arc::clone(&counter), stop.clone()));
        doors.push(door);
    }
    for row in rows {
        let slot = Slot::of_key(&row.customer);
        let door = &doors[usize::from(slot.get()) * LANES / usize::from(SLOT_COUNT)];
        // A lane that is gone has failed or was told to stop.
        if door.send(PlaceOrder(row)).await.is_err() {
            break;
        }
    }
    drop(doors);
    let mut all = Taken::default();
    while let Some(taken) = lanes.join_next().await {
        let taken = taken??;
        all.placed += taken.placed;
        all.answers.extend(taken.answers);
    }
    all.answers.sort_unstable();
    all.elapsed = begun.elapsed();
    Ok(all)
}

async fn lane(
    store: Store,
    mut commands: mpsc::Receiver<PlaceOrder>,
    counter: Arc<Counter>,
    stop: watch::Receiver<bool>,
) -> Result<Taken, Box<dyn Error + Send + Sync>> {
    let mut taken = Taken::default();
    while let Some(command) = commands.recv().await {
        if *stop.borrow() {
            break;
        }
        let begun = Instant::now();
        let event_time = Some(command.0.day.begins());
        let options = ExecuteOptions { event_time, ..ExecuteOptions::default() };
        let stream = command.stream()?;
        let executed = execute(&store, &Shop, &stream, command, &options).await?;
        if executed.appended.is_some() {
            taken.placed += 1;
            taken.answers.push(begun.elapsed());
        }
        counter.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use headwater::Options;

    use super::*;
    use crate::rows::OrderFile;

    #[tokio::test]
    async fn what_an_earlier_run_placed_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("log"), Options::default()).unwrap();
        assert_eq!(placed_before(&store).unwrap(), HashSet::new());
        let file = OrderFile::parse(b"1 19970101 1 50.00\n2 19970102 1 60.00\n1 19970103 9 900.00");
        let orders: HashSet<_> = file.rows.iter().map(|row| row.order).collect();
        let counter = Arc::new(Counter::from(0));
        let (_stop, stopped) = watch::channel(false);
        place_all(store.clone(), file.rows, counter, stopped).await.unwrap();
        assert_eq!(placed_before(&store).unwrap(), orders);
        store.close().unwrap();
    }
}
