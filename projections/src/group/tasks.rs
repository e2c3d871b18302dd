//! The two tasks of an open group: one reads the log for all members, one hands slots over and
//! watches the clock.

use std::sync::Arc;
use std::time::Duration;

use headwater_core::{Generation, GroupError, Read, ReadError, SlotRange, Visibility};
use tokio::time::Instant;

use super::commit::runs;
use super::coordinator::{Coordinator, HandOver, ReadPlan};
use super::error::ConsumerError;
use super::shared::{Shared, Task};
use super::worker::Worker;
use crate::clock::later;
use crate::clock::sleep_until;
use crate::lag::Lag;
use crate::meters;
use crate::retry::Backoff;

/// How long to wait before trying again what the log has refused for now.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10) };

/// Reads pages for as long as the group is open.
pub(super) async fn read(shared: Arc<Shared>) {
    let mut failures = 0;
    while shared.check_open().is_ok() {
        let Some(plan) = shared.with(|group| group.read_plan()) else {
            shared.reader.notified().await;
            continue;
        };
        match read_page(&shared, plan).await {
            Ok(()) if failures > 0 => {
                failures = 0;
                shared.recover(Task::Reader);
            }
            Ok(()) => {}
            Err(source) => {
                failures += 1;
                let error = shared.read_failed(plan.after, source);
                if !error.is_passing() {
                    return shared.stop(error);
                }
                shared.stall(Task::Reader, error);
                tokio::time::sleep(BACKOFF.delay(failures)).await;
            }
        }
        // An engine that always has an answer at once must not keep the others from running.
        tokio::task::yield_now().await;
    }
}

async fn read_page(shared: &Shared, plan: ReadPlan) -> Result<(), ReadError> {
    let head = shared.log.head(shared.visibility).await?;
    if head <= plan.after {
        let next = plan.after.next();
        tokio::select! {
            reached = shared.log.wait_for(next, shared.visibility) => reached.map(|_| ())?,
            () = shared.reader_restart.notified() => {}
        }
        return Ok(());
    }
    let read = Read::forward(shared.shape.query().clone(), plan.after)
        .limit(plan.limit.min(Read::LIMIT))
        .visible(shared.visibility);
    let mut page = shared.log.read(read).await?;
    page.events.retain(|event| shared.shape.selects(event));
    shared.with(|group| group.absorb(page, plan, Instant::now()));
    Ok(())
}

/// Hands slots over, ends leases and delays, and moves idle floors for as long as the group is
/// open.
pub(super) async fn steward(shared: Arc<Shared>) {
    let mut worker = shared.is_among_others().then(|| Worker::new(&shared));
    let mut failures = 0;
    let mut again_at: Option<Instant> = None;
    let mut floors_at = later(Instant::now(), shared.floor_interval);
    while shared.check_open().is_ok() {
        // Only what writes waits after a failure; timers that are set meanwhile do not.
        if again_at.is_none_or(|at| at <= Instant::now()) {
            again_at = None;
            match write(&shared, worker.as_mut(), &mut floors_at).await {
                Ok(()) if failures > 0 => {
                    failures = 0;
                    shared.recover(Task::Steward);
                }
                Ok(()) => {}
                Err(error) if shared.waits_out(&error) => {
                    failures += 1;
                    let again = Instant::now() + BACKOFF.delay(failures);
                    // Who does not beat loses everything.
                    let beat = worker.as_ref().map_or(again, Worker::beat_at);
                    again_at = Some(again.min(beat.max(Instant::now() + BACKOFF.first)));
                    shared.stall(Task::Steward, error);
                }
                Err(error) => return shared.stop(error),
            }
        }
        let deadline = shared.with(Coordinator::arm);
        tokio::select! {
            () = shared.steward.notified() => {}
            () = sleep_until(deadline) => {}
            () = sleep_until(again_at) => {}
            () = tokio::time::sleep_until(floors_at), if again_at.is_none() => {}
            () = news(&shared, worker.as_ref()), if again_at.is_none() => {}
        }
        shared.with(|group| group.expire(Instant::now()));
    }
}

/// Waits for what other processes do, or until it is time to tell them something.
async fn news(shared: &Shared, worker: Option<&Worker>) {
    match worker {
        Some(worker) => worker.news(shared).await,
        None => std::future::pending().await,
    }
}

/// Hands slots over, and makes idle floors durable when it is time for them.
async fn write(
    shared: &Shared,
    worker: Option<&mut Worker>,
    floors_at: &mut Instant,
) -> Result<(), ConsumerError> {
    match worker {
        Some(worker) => worker.tend(shared).await?,
        None => hand_over(shared).await?,
    }
    if Instant::now() < *floors_at {
        return Ok(());
    }
    *floors_at = later(Instant::now(), shared.floor_interval);
    if meters::ON {
        gauge(shared).await;
    }
    store_floors(shared).await
}

/// Measures what is too much to measure with each event.
async fn gauge(shared: &Shared) {
    let (floor, (buffered, in_flight), parked, members) =
        shared.with(|group| (group.floor(), group.load(), group.parked().len(), group.members()));
    let number = |number: usize| meters::as_f64(number as u64);
    shared.meters.buffered.set(number(buffered));
    shared.meters.in_flight.set(number(in_flight));
    shared.meters.parked_sequences.set(number(parked));
    shared.meters.members.set(number(members.len()));
    shared.meters.slots.set(number(members.iter().map(|member| member.slots).sum()));
    let exact = shared.shape.query().is_all();
    // What the log does not say is met by whoever reads it.
    if let Ok(lag) = Lag::measure(&*shared.log, floor, exact, shared.visibility).await {
        shared.meters.lag(&lag);
    }
}

async fn store_floors(shared: &Shared) -> Result<(), ConsumerError> {
    let _turn = shared.log_turn.write().await;
    let plan = shared.with(|group| group.plan_floors(None));
    shared.store(plan).await
}

/// Moves every slot that can move: commits what its last owner acked, makes the new ownership
/// durable, and only then lets the new owner have its events.
async fn hand_over(shared: &Shared) -> Result<(), ConsumerError> {
    // Most of the time there is nothing to do, and commits need not wait for that.
    if !shared.with(|group| group.can_hand_over()) {
        return Ok(());
    }
    let _turn = shared.log_turn.write().await;
    let Some(plan) = shared.with(Coordinator::begin_hand_over) else {
        return Ok(());
    };
    let done = if plan.cold { first_claim(shared).await } else { claim(shared, &plan).await };
    match done {
        Ok(generation) => {
            shared.with(|group| group.finish_hand_over(plan, generation));
            Ok(())
        }
        Err(error) => {
            shared.with(|group| group.abort_hand_over(plan));
            Err(error)
        }
    }
}

/// Takes the whole group over from whoever had it, and loads how far it is.
async fn first_claim(shared: &Shared) -> Result<Generation, ConsumerError> {
    let refused = |error| ConsumerError::from_log(&shared.name, error);
    let claimed = shared.log.claim_slots(&shared.name, vec![SlotRange::all()]).await;
    let generation = claimed.map_err(refused)?;
    let state = shared.log.group(&shared.name).await.map_err(refused)?;
    if state.generation != generation {
        return Err(taken_over(shared));
    }
    let head = shared.log.head(Visibility::Committed).await;
    let head = head.map_err(|error| refused(error.into()))?;
    let highest = state.reach();
    if highest > head {
        return Err(refused(GroupError::OutsideLog {
            group: shared.name.clone(),
            position: highest,
            head,
        }));
    }
    shared.with(|group| group.warm_up(&state));
    Ok(generation)
}

async fn claim(shared: &Shared, plan: &HandOver) -> Result<Generation, ConsumerError> {
    let refused = |error| ConsumerError::from_log(&shared.name, error);
    shared.commit(None).await?;
    // Nobody else may have had these slots since we did, or what we know of them is old.
    let known = shared.with(|group| group.generation());
    let state = shared.log.group(&shared.name).await.map_err(refused)?;
    if state.generation != known {
        return Err(taken_over(shared));
    }
    let slots = runs(plan.moves.iter().map(|&(slot, _)| slot));
    let claimed = shared.log.claim_slots(&shared.name, slots).await;
    let generation = claimed.map_err(refused)?;
    if generation != known.next() {
        return Err(taken_over(shared));
    }
    Ok(generation)
}

fn taken_over(shared: &Shared) -> ConsumerError {
    ConsumerError::Fenced { group: shared.name.clone(), source: None }
}
