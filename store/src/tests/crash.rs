//! Random work on a simulated disk that loses power at every operation, and what must hold
//! afterwards, whatever became of what was not synced.
//!
//! After each loss of power the store is opened, checked against everything that was asked of it,
//! sometimes loses power again while it recovers, and goes on. A failure names its seed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_core::{
    Append, AppendError, AppendId, Appended, CodecId, Durability, Effect, EventLog, EventType,
    GroupLog, GroupName, NewEvent, Position, Query, Read, RecordedEvent, Revision, SlotCommit,
    SlotProgress, SlotRange, Start, StreamId,
};
use pollster::block_on;

use crate::fs::Fs;
use crate::fs::sim::{Dice, Fault, SimFs, Survival};
use crate::handle::Store;
use crate::options::Options;
use crate::retention::{Cutoff, Passing};

const DISK: &str = "/disk";

fn root() -> PathBuf {
    Path::new(DISK).join("store")
}

/// Something to do to a store.
#[derive(Clone, Copy, Debug)]
enum Work {
    Append { events: u64, bytes: u64, id: bool, sync: bool },
    Flush,
    CommitGroup,
    SeekGroup,
    Remove,
    Close,
}

fn draw(dice: &mut Dice) -> Work {
    match dice.roll(20) {
        0..=11 => Work::Append {
            events: 1 + dice.roll(4),
            bytes: [10, 700, 6_000, 3_900][usize::try_from(dice.roll(4)).unwrap()],
            id: dice.roll(3) == 0,
            sync: dice.roll(4) == 0,
        },
        12 => Work::Flush,
        13..=15 => Work::CommitGroup,
        16 => Work::SeekGroup,
        17 => Work::Remove,
        _ => Work::Close,
    }
}

/// What was asked with one append, and what is known of it.
#[derive(Clone, Debug)]
struct Asked {
    payloads: Vec<String>,
    id: Option<AppendId>,
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It is there at these positions.
    Done(Appended),
    /// It may be there.
    Unknown,
    /// It is not there.
    Refused,
}

/// Everything that was asked of a store, and what its answers promise.
#[derive(Debug, Default)]
struct Model {
    asked: Vec<Asked>,
    /// Everything up to here survives the loss of power.
    durable: Position,
    /// Where the log may start.
    starts: Vec<Position>,
    /// Where the group's floor may be, the last one that was promised first.
    floors: Vec<Position>,
}

fn options(durability: Durability) -> Options {
    Options { segment_bytes: 64 * 1024, durability, ..Options::default() }
}

fn open(fs: &SimFs, durability: Durability) -> Result<Store, crate::error::OpenError> {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    Store::open_on(&fs, &root(), options(durability))
}

fn group() -> GroupName {
    GroupName::new("g").unwrap()
}

fn payload(n: usize, at: u64, bytes: u64) -> String {
    format!("{n}.{at} {}", "x".repeat(usize::try_from(bytes).unwrap()))
}

impl Model {
    /// Does something to the store. Returns whether the store can go on.
    fn work(&mut self, store: &mut Store, fs: &SimFs, durability: Durability, work: Work) -> bool {
        match work {
            Work::Append { events, bytes, id, sync } => {
                return self.append(store, durability, (events, bytes, id, sync));
            }
            Work::Flush => match store.flush() {
                Ok(durable) => self.durable = self.durable.max(durable),
                Err(_) => return false,
            },
            Work::CommitGroup | Work::SeekGroup => return self.group(store, durability, work),
            Work::Remove => {
                let head = block_on(store.head(headwater_core::Visibility::Committed)).unwrap();
                let half = Cutoff::Through(Position::new(head.get() / 2));
                match store.would_remove(half, Passing::Force) {
                    Ok(report) => self.starts.extend(report.removed.map(|gone| gone.through)),
                    Err(_) => return false,
                }
                if let Ok(report) = store.remove(half, Passing::Force)
                    && let Some(removed) = report.removed
                {
                    // What was removed is removed for good.
                    self.starts = vec![removed.through];
                }
            }
            Work::Close => {
                let closed = store.close();
                if closed.is_ok() {
                    let head = block_on(store.head(headwater_core::Visibility::Committed)).unwrap();
                    self.durable = self.durable.max(head);
                }
                match open(fs, durability) {
                    Ok(again) => *store = again,
                    Err(_) => return false,
                }
            }
        }
        true
    }

    fn append(
        &mut self,
        store: &Store,
        durability: Durability,
        (events, bytes, id, sync): (u64, u64, bool, bool),
    ) -> bool {
        let n = self.asked.len();
        let payloads: Vec<String> = (0..events).map(|at| payload(n, at, bytes)).collect();
        let event = |payload: &String| {
            let stream = StreamId::new(format!("s-{}", n % 3)).unwrap();
            let event_type = EventType::new("t").unwrap();
            NewEvent::new(stream, event_type, CodecId::RAW, payload.clone())
        };
        let id = id.then(|| AppendId::from_name(&n.to_le_bytes()));
        let mut append = Append::new(payloads.iter().map(event));
        append.append_id = id;
        append.sync = sync;
        let answer = store.append_blocking(append);
        let told = match &answer {
            Ok(done) => Told::Done(*done),
            Err(error) if error.effect() == Effect::Unknown => Told::Unknown,
            Err(_) => Told::Refused,
        };
        self.asked.push(Asked { payloads, id, told });
        match answer {
            Ok(done) => {
                if sync || durability == Durability::Sync {
                    self.durable = self.durable.max(done.last);
                }
                true
            }
            Err(AppendError::StorageFull(_) | AppendError::NoSegment(_)) => true,
            Err(_) => false,
        }
    }

    fn group(&mut self, store: &Store, durability: Durability, work: Work) -> bool {
        let head = block_on(store.head(headwater_core::Visibility::Durable)).unwrap();
        let opened =
            block_on(store.open_group(group(), Query::all(), Start::After(Position::START)));
        let Ok(state) = opened else { return false };
        let to = match work {
            Work::SeekGroup => Position::new(head.get() / 3),
            _ => head.max(state.floor()),
        };
        // Whatever becomes of it, it may be there from now on.
        self.floors.push(to);
        let done = if matches!(work, Work::SeekGroup) {
            block_on(store.seek_group(&group(), to)).is_ok()
        } else {
            let claimed = block_on(store.claim_slots(&group(), vec![SlotRange::all()]));
            claimed.is_ok_and(|generation| {
                let progress = SlotProgress { floor: to, generation, ..SlotProgress::default() };
                let commit = SlotCommit { slots: SlotRange::all(), progress };
                block_on(store.commit_slots(&group(), vec![commit])).is_ok()
            })
        };
        if done && durability == Durability::Sync {
            self.floors = vec![to];
        }
        done
    }

    /// Checks a store that was opened after the power was lost, and takes what it holds for what
    /// there is from now on.
    fn check(&mut self, store: &Store) {
        let start = block_on(store.start()).unwrap();
        assert!(
            self.starts.contains(&start),
            "the log starts after {start}, and may start after {:?}",
            self.starts
        );
        let events = everything(store, start);
        let head = block_on(store.head(headwater_core::Visibility::Durable)).unwrap();
        assert_eq!(head.events_since(start), Some(events.len() as u64), "positions are dense");
        assert!(head >= self.durable, "{} was durable, and the log ends at {head}", self.durable);
        for (at, event) in (1..).zip(&events) {
            assert_eq!(event.position, start.advanced_by(at), "positions are dense");
        }
        self.check_appends(store, start, head, &events);
        check_streams(store, start, &events);
        let floor = block_on(store.group(&group())).map(|state| state.floor()).unwrap_or_default();
        assert!(
            self.floors.contains(&floor),
            "the group's floor is {floor}, and may be {:?}",
            self.floors
        );
        assert!(floor <= head, "the group has read events that are not there");
        (self.starts, self.floors) = (vec![start], vec![floor]);
        self.durable = head;
    }

    /// Appends are there whole, in the order in which they were asked, and without those that were
    /// refused; only the newest may be missing, and none that was durable.
    fn check_appends(
        &mut self,
        store: &Store,
        start: Position,
        head: Position,
        events: &[RecordedEvent],
    ) {
        let mut rest = events;
        let mut kept = Vec::new();
        for asked in &self.asked {
            let removed = matches!(asked.told, Told::Done(done) if done.last <= start);
            if removed {
                kept.push(asked.clone());
                continue;
            }
            let is_next = rest.first().is_some_and(|event| event.payload == asked.payloads[0]);
            if !is_next {
                if let Told::Done(done) = asked.told {
                    assert!(done.first > head, "{done:?} was acknowledged and is missing");
                    assert!(done.last > self.durable, "{done:?} was durable and is missing");
                }
                if let Some(id) = asked.id {
                    assert_eq!(block_on(store.find_append(id)).unwrap(), None);
                }
                continue;
            }
            assert_ne!(asked.told, Told::Refused, "an append without effect is there");
            let (mine, others) = rest.split_at(asked.payloads.len());
            let found: Vec<&[u8]> = mine.iter().map(|event| &event.payload[..]).collect();
            let sent: Vec<&[u8]> = asked.payloads.iter().map(String::as_bytes).collect();
            assert_eq!(found, sent, "an append is whole");
            let (first, last) = (mine[0].position, mine[mine.len() - 1].position);
            let appended = Appended { first, last, deduplicated: false };
            if let Told::Done(done) = asked.told {
                assert_eq!((done.first, done.last), (first, last), "an append stays where it was");
            }
            if let Some(id) = asked.id {
                let known = block_on(store.find_append(id)).unwrap();
                assert_eq!(known, Some(Appended { deduplicated: true, ..appended }));
            }
            kept.push(Asked { told: Told::Done(appended), ..asked.clone() });
            rest = others;
        }
        assert_eq!(rest.len(), 0, "events that nobody sent: {:?}", rest.first());
        // What is gone is gone: the numbers of the payloads go on all the same.
        for asked in &mut self.asked {
            let there = kept.iter().find(|kept| kept.payloads == asked.payloads);
            asked.told = there.map_or(Told::Refused, |there| there.told);
        }
    }
}

fn everything(store: &Store, start: Position) -> Vec<RecordedEvent> {
    let read = Read::forward(Query::all(), start).limit(100_000);
    let page = store.read_blocking(&read).unwrap();
    assert!(page.done);
    page.events
}

/// What the index says of streams is what a walk says.
fn check_streams(store: &Store, start: Position, events: &[RecordedEvent]) {
    let mut scan = store.scan(start).unwrap();
    for event in events {
        assert_eq!(scan.next().unwrap().unwrap().to_event().unwrap(), *event);
    }
    assert!(scan.next().is_none());
    for n in 0..3 {
        let stream = StreamId::new(format!("s-{n}")).unwrap();
        let mine: Vec<_> = events.iter().filter(|event| event.stream == stream).collect();
        let query = Read::backward(Query::stream(stream.clone()), Position::MAX).limit(100_000);
        let mut found = store.read_blocking(&query).unwrap().events;
        found.reverse();
        assert_eq!(found.iter().collect::<Vec<_>>(), mine);
        let revision = block_on(store.stream_revision(&stream)).unwrap();
        if let Some(last) = mine.last() {
            assert_eq!(revision, last.revision);
            let first = mine[0].revision.get();
            let dense: Vec<u64> = mine.iter().map(|event| event.revision.get()).collect();
            assert_eq!(dense, (first..).take(mine.len()).collect::<Vec<_>>());
            assert!(first == 1 || start > Position::START, "a stream begins with revision 1");
        } else {
            assert!(revision == Revision::NONE || start > Position::START);
        }
    }
}

/// Counts what a campaign did.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    crashes: u64,
    again: u64,
}

/// Where a run goes wrong first.
#[derive(Clone, Copy, Debug)]
struct Place {
    seed: u64,
    durability: Durability,
    step: u64,
    fault: Fault,
    survival: Survival,
}

/// One run: work until something goes wrong and the power is lost, look what is left, and go on.
/// Returns whether it came so far.
fn run(place: Place, tally: &mut Tally) -> bool {
    let Place { seed, durability, step, fault, survival } = place;
    let fs = SimFs::new(Path::new(DISK));
    fs.fail_at(step, fault);
    let mut dice = Dice(seed);
    let start = vec![Position::START];
    let mut model = Model { starts: start.clone(), floors: start, ..Model::default() };
    let mut reached = false;
    tally.runs += 1;
    for round in 0..3_u64 {
        if let Ok(mut store) = open(&fs, durability) {
            if round > 0 {
                model.check(&store);
            }
            for _ in 0..12 {
                let work = draw(&mut dice);
                if !model.work(&mut store, &fs, durability, work) {
                    break;
                }
            }
        }
        reached |= round == 0 && fs.steps() > step;
        tally.crashes += 1;
        fs.lose_power(survival);
        // While it recovers, the power may go again.
        for again in 0..dice.roll(3) {
            fs.fail_at(dice.roll(12), Fault::PowerOff);
            drop(open(&fs, durability));
            tally.again += u64::from(fs.is_off());
            fs.lose_power(Survival::Drawn(seed ^ again));
        }
        // The next round goes out somewhere later.
        fs.fail_at(5 + dice.roll(60), Fault::PowerOff);
    }
    fs.lose_power(survival);
    let store = open(&fs, durability).unwrap();
    model.check(&store);
    drop(store);
    // A second recovery is the first one.
    let store = open(&fs, durability).unwrap();
    assert!(store.recovery().cuts.is_empty());
    model.check(&store);
    reached
}

const DURABILITIES: [Durability; 3] = [
    Durability::Sync,
    Durability::Interval { every: Duration::from_secs(3600), bytes: 20_000 },
    Durability::Os,
];

fn survivals(seed: u64) -> [Survival; 4] {
    [
        Survival::Nothing,
        Survival::Everything,
        Survival::Drawn(seed),
        Survival::Drawn(seed.wrapping_mul(31)),
    ]
}

/// Every operation of one workload, or one in `stride`, as the one that goes wrong.
fn sweep(seed: u64, stride: u64, faults: &[Fault], tally: &mut Tally) {
    for durability in DURABILITIES {
        let mut step = seed % stride;
        let mut reached = true;
        while reached {
            reached = false;
            for &fault in faults {
                for survival in survivals(seed ^ step) {
                    let place = Place { seed, durability, step, fault, survival };
                    let run = std::panic::AssertUnwindSafe(|| run(place, tally));
                    match std::panic::catch_unwind(run) {
                        Ok(came) => reached |= came,
                        Err(panic) => {
                            eprintln!("{place:?}");
                            std::panic::resume_unwind(panic);
                        }
                    }
                }
            }
            step += stride;
        }
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// Errors of the system, after which the power is lost.
const ERRORS: [Fault; 4] =
    [Fault::Once(EIO), Fault::Always(EIO), Fault::Once(ENOSPC), Fault::Always(EROFS)];

#[test]
fn a_store_keeps_its_promises_wherever_the_power_goes() {
    let mut tally = Tally::default();
    sweep(1, 19, &[Fault::PowerOff], &mut tally);
    assert!(tally.crashes > 50 && tally.again > 20, "{tally:?}");
}

#[test]
fn a_store_keeps_its_promises_after_an_error_of_any_operation() {
    let mut tally = Tally::default();
    sweep(2, 67, &ERRORS, &mut tally);
    assert!(tally.runs > 50, "{tally:?}");
}

/// A campaign as long as one likes: `HEADWATER_CRASH_SEED` and `HEADWATER_CRASH_SECONDS`.
#[test]
#[ignore = "runs as long as it is told"]
fn crash_campaign() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first = number("HEADWATER_CRASH_SEED", 1);
    let end = Instant::now() + Duration::from_secs(number("HEADWATER_CRASH_SECONDS", 60));
    let mut tally = Tally::default();
    let mut seed = first;
    while Instant::now() < end {
        sweep(seed, 7, &[Fault::PowerOff], &mut tally);
        sweep(seed, 23, &ERRORS, &mut tally);
        seed += 1;
    }
    println!("seeds {first} to {}: {tally:?}", seed - 1);
}
