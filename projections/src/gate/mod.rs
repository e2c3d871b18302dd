//! Holding up producers that outrun a group.
//!
//! The log never knows its readers, so this stands between producers and the log: [`mark`] says
//! when, [`log`] passes everything else on. Marks are set by code and not stored: they are what
//! one producer wants, and another may have to go on.

mod log;
mod mark;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headwater_core::{
    AppendError, GroupError, GroupLog, GroupName, Overrun, Position, ReadError, Visibility,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use self::mark::{HighWater, Level, Overflow};
use crate::group::{ConsumerGroup, Reached};
use crate::lag::Lag;

/// How often one of those who wait looks whether the group has progressed in another process; and
/// after how long its floor is read again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A log whose appends wait, are refused, or warn while a group is too far behind. Clones share
/// their state.
///
/// Let it [`follow`](Self::follow) groups that are open in the same process.
///
/// Give it to producers only. A consumer that appends through it what it makes of the events of the
/// group waits for itself: give it the log beneath.
///
/// # Guarantees
///
/// No append begins while a group is known to be above its high mark, and those that were held up
/// go on when it is down to the low one. What is under way at once may pass the mark by as much. A
/// held-up append has written nothing.
///
/// The lag is measured against the head, as that of [`ConsumerGroup::lag`]. So a group that is
/// paused, has no members, or stands still holds producers up; parked sequences do not, and a
/// filtered group advances by what it scanned. Of a group that is not followed, only the durable
/// floor is known, which idle slots hold back for the
/// [`floor_interval`](crate::GroupOptions::floor_interval): let a mark be higher than what is
/// appended in that time. A group that is deleted holds nobody up any more.
///
/// # Complexity
///
/// Each append compares the head with a floor that is remembered: for a mark in bytes two look-ups
/// in the log's index, for one in time the read of one event. A durable floor is read again
/// when it seems to be too low.
#[derive(Clone, Debug)]
pub struct GatedLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: Arc<dyn GroupLog>,
    gates: Vec<Gate>,
}

/// One mark, and how things stand.
#[derive(Debug)]
struct Gate {
    mark: HighWater,
    /// Above the high mark, and not yet down to the low one.
    is_shut: AtomicBool,
    opened: Notify,
    /// One of those who wait looks for all.
    turn: tokio::sync::Mutex<()>,
    /// The durable floor when it was read last, and when.
    known: Mutex<Option<(Position, Instant)>>,
    /// What an open group says of itself.
    live: Mutex<Option<watch::Receiver<Reached>>>,
}

impl GatedLog {
    /// Puts marks before a log.
    pub fn new(log: Arc<dyn GroupLog>, marks: impl IntoIterator<Item = HighWater>) -> Self {
        let gate = |mark| Gate {
            mark,
            is_shut: AtomicBool::new(false),
            opened: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            live: Mutex::default(),
        };
        let gates = marks.into_iter().map(gate).collect();
        Self { inner: Arc::new(Inner { log, gates }) }
    }

    /// Goes by what an open group has settled, as soon as it has: otherwise by the floor that is
    /// durable, which comes behind, and is looked for twice a second while somebody waits. For as
    /// long as the group is open.
    pub fn follow(&self, group: &ConsumerGroup) {
        for gate in self.inner.gates.iter().filter(|gate| gate.mark.group == *group.name()) {
            let live = Some(group.reached());
            *gate.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
        }
    }

    /// Returns the log beneath, where nobody is held up.
    pub fn beneath(&self) -> Arc<dyn GroupLog> {
        Arc::clone(&self.inner.log)
    }

    /// Waits until every gate lets an append pass.
    async fn pass(&self) -> Result<(), AppendError> {
        let began = Instant::now();
        for gate in &self.inner.gates {
            let Some(overrun) = self.look(gate).await? else { continue };
            let overrun = match gate.mark.overflow {
                Overflow::Warn => continue,
                Overflow::Refuse => overrun,
                Overflow::Block(timeout) => {
                    let waited = tokio::time::timeout(timeout, self.wait(gate)).await;
                    match waited {
                        Ok(open) => {
                            open?;
                            continue;
                        }
                        Err(_) => overrun,
                    }
                }
            };
            return Err(Overrun { waited: began.elapsed(), ..overrun }.into());
        }
        Ok(())
    }

    /// Waits until a gate is open.
    async fn wait(&self, gate: &Gate) -> Result<(), AppendError> {
        let mut live = gate.live();
        loop {
            let mut opened = pin!(gate.opened.notified());
            // From here on nothing is missed.
            opened.as_mut().enable();
            if !gate.is_shut.load(Ordering::Acquire) {
                return Ok(());
            }
            let looks = async {
                let _turn = gate.turn.lock().await;
                tokio::select! {
                    () = moved(&mut live) => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
                gate.learn(None);
                self.look(gate).await
            };
            tokio::select! {
                () = opened => {}
                looked = looks => drop(looked?),
            }
        }
    }

    /// Opens or shuts a gate by the lag of its group. Returns why it is shut.
    async fn look(&self, gate: &Gate) -> Result<Option<Overrun>, AppendError> {
        let is_shut = gate.is_shut.load(Ordering::Acquire);
        let level = if is_shut { &gate.mark.low } else { &gate.mark.high };
        let live = gate.live().map(|live| live.borrow().floor);
        let mut overrun = None;
        if let Some(floor) = live.or_else(|| gate.known()) {
            overrun = level.passed_by(&self.lag(gate, floor).await?, &gate.mark.group);
        }
        // What is remembered may be too low, and says nothing of a group that there is not.
        if live.is_none() && (overrun.is_some() || gate.known().is_none()) {
            let floor = self.floor(&gate.mark.group).await?;
            gate.learn(floor);
            overrun = match floor {
                Some(floor) => level.passed_by(&self.lag(gate, floor).await?, &gate.mark.group),
                None => None,
            };
        }
        gate.set_shut(overrun.as_ref());
        Ok(overrun)
    }

    async fn floor(&self, group: &GroupName) -> Result<Option<Position>, AppendError> {
        match self.inner.log.group(group).await {
            Ok(state) => Ok(Some(state.floor())),
            Err(GroupError::Unknown(_)) => Ok(None),
            Err(error) => Err(AppendError::Check(Arc::new(error))),
        }
    }

    /// Measures what the mark asks for and nothing else.
    async fn lag(&self, gate: &Gate, floor: Position) -> Result<Lag, AppendError> {
        let refused = |error: ReadError| AppendError::Check(Arc::new(error));
        let log = &*self.inner.log;
        // What retention was made to remove holds nobody up.
        let floor = floor.max(log.start().await.map_err(refused)?);
        let head = log.head(Visibility::Committed).await.map_err(refused)?;
        let high = &gate.mark.high;
        if high.age.is_some() {
            return Lag::measure(log, floor, false, Visibility::Committed).await.map_err(refused);
        }
        let events = head.events_since(floor).unwrap_or(0);
        let mut lag = Lag { events, ..Lag::default() };
        if high.bytes.is_some() && events > 0 {
            lag.bytes = log.bytes_between(floor, head).await.map_err(refused)?;
        }
        Ok(lag)
    }
}

/// Waits until the floor of an open group moves; for ever where there is none.
async fn moved(live: &mut Option<watch::Receiver<Reached>>) {
    if let Some(live) = live
        && live.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

impl Gate {
    /// Returns the followed group's own floor, for as long as it is open.
    fn live(&self) -> Option<watch::Receiver<Reached>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.clone().filter(|live| live.borrow().over.is_none())
    }

    fn known(&self) -> Option<Position> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(_, at)| at.elapsed() < LOOK_AGAIN).map(|(floor, _)| floor)
    }

    fn learn(&self, floor: Option<Position>) {
        let known = floor.map(|floor| (floor, Instant::now()));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    fn set_shut(&self, overrun: Option<&Overrun>) {
        // Release: who sees the gate open after waiting sees what opened it.
        let was_shut = self.is_shut.swap(overrun.is_some(), Ordering::AcqRel);
        match overrun {
            Some(overrun) if !was_shut => tracing::warn!(%overrun, "producers outrun a group"),
            None if was_shut => self.opened.notify_waiters(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
