//! One member: a process that follows the log and shares the group with others.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::projections::{ConsumerError, ConsumerGroup, Delivery, GroupOptions, Member};
use headwater::{EventLog, Follower, GroupError, JournalError};
use tokio::signal::unix::{SignalKind, signal};

use super::effects::{Effects, Entry, Kind};
use super::{Home, group_options, open_group};
use crate::options::Options;

/// How long the journal may be out of reach at the beginning.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many events are in hand at most.
const BATCH: usize = 64;
/// How long it takes at most, in microseconds, from their effects to their acknowledgement.
const WORK: u64 = 10_000;

/// Works until it is told to end.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let home = Home(options.dir.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work(&home, options.member, options.life))
}

async fn work(home: &Home, number: u32, life: u32) -> Result<(), Box<dyn Error>> {
    let mut told_to_end = signal(SignalKind::terminate())?;
    let mut effects = Effects::create(&home.effects(number, life))?;
    let follower: Arc<dyn EventLog> = Arc::new(Follower::open(home.store())?);
    let worker = format!("member {number}, life {life}");
    let options = GroupOptions { worker, ..group_options() };
    let group = patiently(&follower, &home.journal(), &options).await?;
    let mut member = group.join("only").await?;
    loop {
        let deliveries = tokio::select! {
            deliveries = member.next(BATCH) => deliveries?,
            _ = told_to_end.recv() => break,
        };
        work_off(&mut member, deliveries, &mut effects).await?;
    }
    drop(member);
    Ok(group.close().await?)
}

/// Opens the group, also where somebody who was stopped holds the journal.
async fn patiently(
    log: &Arc<dyn EventLog>,
    journal: &Path,
    options: &GroupOptions,
) -> Result<ConsumerGroup, Box<dyn Error>> {
    let begun = Instant::now();
    loop {
        match open_group(Arc::clone(log), journal, options.clone()).await {
            Err(error) if begun.elapsed() < PATIENCE && is_out_of_reach(&*error) => {}
            opened => return opened,
        }
    }
}

fn is_out_of_reach(error: &(dyn Error + 'static)) -> bool {
    let journal = match error.downcast_ref() {
        Some(GroupError::Journal(error)) => Some(error),
        _ => match error.downcast_ref() {
            Some(ConsumerError::Log { source: GroupError::Journal(error), .. }) => Some(error),
            _ => error.downcast_ref(),
        },
    };
    matches!(journal, Some(JournalError::Unavailable(_) | JournalError::Indeterminate(_)))
}

/// Gives events their effect, acknowledges and commits.
async fn work_off(
    member: &mut Member,
    deliveries: Vec<Delivery>,
    effects: &mut Effects,
) -> Result<(), Box<dyn Error>> {
    let mut done = Vec::new();
    for delivery in &deliveries {
        done.push(entry(delivery)?);
    }
    effects.write(done.iter().copied())?;
    tokio::time::sleep(Duration::from_micros(fastrand::u64(..WORK))).await;
    let mut acked = Vec::new();
    for (delivery, entry) in deliveries.into_iter().zip(done) {
        if delivery.ack() == headwater::projections::Settlement::Counted {
            acked.push(Entry { kind: Kind::Committed, ..entry });
        }
    }
    loop {
        match member.commit().await {
            Ok(()) => return Ok(effects.write(acked.into_iter())?),
            // Which of them is for the others to say.
            Err(ConsumerError::LostSlots { .. }) => {
                return Ok(effects.write([Entry::of(Kind::Lost)].into_iter())?);
            }
            Err(error) if is_out_of_reach(&error) => {
                effects.write([Entry::of(Kind::Stalled)].into_iter())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn entry(delivery: &Delivery) -> Result<Entry, Box<dyn Error>> {
    let event = delivery.event();
    let key = event.stream.as_str().rsplit('-').next().unwrap_or_default().parse()?;
    let number = u64::from_le_bytes(event.payload[..].try_into()?);
    Ok(Entry { kind: Kind::Effect, key, number, generation: delivery.generation() })
}
