//! The order service: every row becomes a command, many of them in flight.
//!
//! A customer's commands go down one lane, one after the other; the lanes run beside each other.
//! Each waits for its own append to be on the device, and the log's writer takes all that wait
//! into one sync: that is what makes thousands of durable orders in a second.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headwater::{ExecuteOptions, SLOT_COUNT, Slot, Store, execute};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::rows::Row;
use crate::shop::{PlaceOrder, Shop};

/// How many customers' orders are in flight at most.
const LANES: usize = 512;
/// How many commands wait in a lane; those of one lane must not keep the others waiting.
const WAITING_MAX: usize = 64;

/// How far the order service is. Only to be shown, so nothing else is ordered by it.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    done: AtomicU64,
}

impl Counter {
    /// Returns how many commands were answered.
    pub(crate) fn get(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// What the order service did.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// How many orders it placed.
    pub(crate) placed: u64,
    /// How many were there from an earlier run.
    pub(crate) there: u64,
    /// How long each order that was placed took to be answered, the quickest first.
    pub(crate) answers: Vec<Duration>,
}

/// Executes a command for each row, in order. Returns early, between two commands, once `stop`
/// is true.
///
/// # Errors
///
/// The first one that a command met; the commands of that lane after it were not executed.
pub(crate) async fn place_all(
    store: Store,
    rows: Vec<Row>,
    counter: Arc<Counter>,
    stop: watch::Receiver<bool>,
) -> Result<Taken, Box<dyn Error + Send + Sync>> {
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
        all.there += taken.there;
        all.answers.extend(taken.answers);
    }
    all.answers.sort_unstable();
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
        } else {
            taken.there += 1;
        }
        counter.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(taken)
}
