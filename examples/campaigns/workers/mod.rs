//! Groups in several processes: four members of one group are killed, stopped and ended while they
//! work off what a writer appends, and everything that they did is accounted for.

mod account;
mod chaos;
mod effects;
mod member;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::projections::{ConsumerGroup, GroupOptions, SqliteJournal};
use headwater::{
    Append, CodecId, Durability, EventLog, EventType, GroupName, NewEvent, Position, SharedGroups,
    Store, StreamId, Visibility,
};
use serde_json::json;

use self::account::Account;
use self::chaos::Chaos;
pub(crate) use self::member::run as run_member;
use crate::options::Options;

const MEMBERS: u32 = 4;
const KEYS: u32 = 500;
/// How far the writer may be ahead of the group.
const AHEAD: u64 = 20_000;
/// After how long without a sign of life a process is given up.
const WORKER_LEASE: Duration = Duration::from_millis(500);
/// How long the group may stand still, while processes are stopped and given up.
const STANDSTILL: Duration = Duration::from_secs(120);

/// Where everything lies.
struct Home(PathBuf);

impl Home {
    fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    fn journal(&self) -> PathBuf {
        self.0.join("groups.journal")
    }

    /// What the `life`th process of a member did.
    fn effects(&self, member: u32, life: u32) -> PathBuf {
        self.0.join(format!("member-{member}-life-{life}.effects"))
    }

    /// What it said before its end.
    fn words(&self, member: u32, life: u32) -> PathBuf {
        self.0.join(format!("member-{member}-life-{life}.log"))
    }
}

fn group_options() -> GroupOptions {
    GroupOptions {
        // A follower sees what is durable with the group after it.
        visibility: Some(Visibility::Committed),
        lease: Duration::from_secs(5),
        worker_lease: WORKER_LEASE,
        floor_interval: Duration::from_secs(1),
        ..GroupOptions::new(GroupName::new("effects").expect("it is a name"))
    }
}

async fn open_group(
    log: Arc<dyn EventLog>,
    journal: &Path,
    options: GroupOptions,
) -> Result<ConsumerGroup, Box<dyn Error>> {
    let journal = Arc::new(SqliteJournal::open(journal)?);
    let groups = Arc::new(SharedGroups::open(log, journal).await?);
    Ok(ConsumerGroup::open(groups, options).await?)
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::Builder::new().prefix("headwater-workers-").tempdir()?;
    let home = Home(dir.path().to_owned());
    let runtime = tokio::runtime::Runtime::new()?;
    let done = runtime.block_on(work(options, &home));
    runtime.shutdown_timeout(Duration::from_secs(10));
    done.map_err(|error| {
        let (seed, left) = (options.seed, dir.keep());
        format!("--seed {seed}: {error}; see {}", left.display()).into()
    })
}

async fn work(options: &Options, home: &Home) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let durability = headwater::Options { durability: Durability::Os, ..Default::default() };
    let store = Store::open(home.store(), durability)?;
    let log: Arc<dyn EventLog> = Arc::new(store.clone());
    // The writer's own process has no member: it is told how far the others are.
    let guest = open_group(log, &home.journal(), group_options()).await?;
    let mut chaos = Chaos::new(home, options.seed)?;
    let appended = {
        let write = write(&store, &guest, options);
        tokio::pin!(write);
        loop {
            tokio::select! {
                written = &mut write => break written?,
                () = tokio::time::sleep(chaos::TICK) => chaos.tick()?,
            }
        }
    };
    let faults = chaos.end()?;
    guest.close().await?;
    store.close()?;

    let account = Account::draw_up(home, &faults.lives, &appended)?;
    let summary = json!({
        "campaign": "workers",
        "seed": options.seed,
        "events": appended.iter().sum::<u64>(),
        "keys": KEYS,
        "processes": faults.lives.iter().sum::<u32>(),
        "killed": faults.killed,
        "stopped": faults.stopped,
        "ended": faults.ended,
        "effects": account.effects,
        "repeated_effects": account.repeated,
        "generations": account.generations,
        "hand_overs_with_effects": account.hand_overs,
        "commits": account.commits,
        "commits_refused_for_lost_slots": account.lost,
        "commits_tried_again": account.stalled,
        "seconds": begun.elapsed().as_secs(),
    });
    println!("{summary}");
    Ok(())
}

/// Appends the events, no faster than the group follows, waits until all are worked off, and
/// returns how many there are of each key.
async fn write(
    store: &Store,
    group: &ConsumerGroup,
    options: &Options,
) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut dice = fastrand::Rng::with_seed(options.seed);
    let mut appended = vec![0; KEYS as usize];
    let mut last = Position::START;
    while last.get() < options.events {
        let count = dice.u64(1..200).min(options.events - last.get());
        let events = (0..count).map(|_| {
            // Of one key the events come one after the other: a busier one would hold up the rest.
            let key = if dice.u8(..100) == 0 { 0 } else { dice.u32(..KEYS) };
            let number = &mut appended[key as usize];
            *number += 1;
            event(key, *number)
        });
        let events: Vec<NewEvent> = events.collect();
        last = store.append(Append::new(events)).await?.last;
        let behind = Position::new(last.get().saturating_sub(AHEAD));
        wait_for(group, behind).await?;
    }
    wait_for(group, last).await?;
    Ok(appended)
}

async fn wait_for(group: &ConsumerGroup, position: Position) -> Result<(), Box<dyn Error>> {
    let before = group.floor();
    match group.wait_for(position, STANDSTILL).await {
        Err(_) if group.floor() > before => Box::pin(wait_for(group, position)).await,
        waited => Ok(waited.map(drop)?),
    }
}

fn event(key: u32, number: u64) -> NewEvent {
    let stream = StreamId::new(format!("key-{key}")).expect("it is a name");
    let event_type = EventType::new("counted").expect("it is a name");
    NewEvent::new(stream, event_type, CodecId::RAW, number.to_le_bytes().to_vec())
}
