//! The process that is killed: several threads that append in every way, and one that commits
//! a group, flushes and removes. It reports to standard output what it was told.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Display;
use std::future::poll_fn;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use headwater::{
    AppendError, Appended, Cutoff, Durability, Effect, EventLog, GroupLog, GroupName, NewGroup,
    Options, Passing, Position, ReadError, Retention, Revision, SlotCommit, SlotProgress,
    SlotRange, Store, Visibility,
};
use pollster::block_on;

use crate::options::DURABILITIES;
use crate::plan::{Expects, Found, Name, Plan};

/// Threads that wait for each answer; the thread with the next number keeps several appends out.
pub(crate) const BLOCKING: u32 = 3;
/// How many appends that thread keeps out.
pub(crate) const PIPELINED: u32 = 12;
/// How much of the log automatic retention leaves, as far as the group has read it.
const KEPT_BYTES: u64 = 512 * 1024;
/// How long the keeper of the house rests between two pieces of work.
const REST: Duration = Duration::from_micros(500);

/// Which life this is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) seed: u64,
    pub(crate) number: u32,
    pub(crate) durability: Durability,
    /// How many appends each thread makes before the store is closed.
    pub(crate) appends: u32,
}

impl Life {
    /// Draws how long a life is and what its answers survive.
    pub(crate) fn draw(
        seed: u64,
        number: u32,
        appends: Range<u32>,
        dice: &mut fastrand::Rng,
    ) -> Self {
        let durability = dice.choice(DURABILITIES).expect("there are three").1;
        Self { seed, number, durability, appends: dice.u32(appends) }
    }

    /// Whether nothing is synced but what the mode syncs by itself; so are the lives in which no
    /// [`Plan`] asks for it.
    pub(crate) fn is_lazy(self) -> bool {
        self.number.is_multiple_of(2)
    }
}

/// The options of every store of the campaigns, but for retention.
pub(crate) fn options(durability: Durability) -> Options {
    Options { segment_bytes: 64 * 1024, durability, ..Options::default() }
}

/// The one group.
pub(crate) fn group() -> GroupName {
    GroupName::new("reader").expect("a word")
}

/// Tells the parent process something, whole or not at all.
fn report(line: impl Display) {
    // If nobody listens there is nobody to tell.
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}

/// An error and what caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(|cause| format!(": {}", chain(cause)));
    format!("{error}{}", cause.unwrap_or_default())
}

/// Lives a life, and reports why it ends early.
pub(crate) fn run(dir: &Path, life: Life) -> Result<(), Box<dyn Error>> {
    let ended = live(dir, life);
    if let Err(error) = &ended {
        report(format_args!("failed {}", chain(error.as_ref())));
    }
    ended
}

fn live(dir: &Path, life: Life) -> Result<(), Box<dyn Error>> {
    report("opening");
    let retention = Retention { max_bytes: Some(KEPT_BYTES), ..Retention::default() };
    let store = Store::open(dir, Options { retention, ..options(life.durability) })?;
    let head = block_on(store.head(Visibility::Committed))?;
    report(format_args!("opened {head}"));
    let at_work = AtomicU32::new(BLOCKING + 1);
    thread::scope(|scope| {
        for number in 0..=BLOCKING {
            let (store, at_work) = (&store, &at_work);
            scope.spawn(move || {
                let work = if number < BLOCKING { append_each } else { append_many };
                if let Err(error) = work(store, life, number) {
                    report(format_args!("failed {}", chain(error.as_ref())));
                }
                at_work.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let (store, at_work) = (&store, &at_work);
        scope.spawn(move || keep_house(store, life, at_work));
    });
    store.close()?;
    report(format_args!("closed {}", block_on(store.head(Visibility::Committed))?));
    Ok(())
}

/// Reports an answer. An error means that the store takes no more.
fn answered(name: Name, answer: &Result<Appended, AppendError>) -> Result<(), AppendError> {
    match answer {
        Ok(done) => report(format_args!("ack {name} {} {}", done.first, done.last)),
        Err(error) if error.effect() == Effect::Unknown => report(format_args!("maybe {name}")),
        Err(_) => report(format_args!("no {name}")),
    }
    match answer {
        // A removal has passed the condition. Whoever loads anew gets another one.
        Err(AppendError::Check(cause))
            if matches!(cause.downcast_ref(), Some(ReadError::BelowStart { .. })) =>
        {
            Ok(())
        }
        Err(
            error @ (AppendError::Indeterminate(_)
            | AppendError::Poisoned(_)
            | AppendError::Closed
            | AppendError::Check(_)),
        ) => Err(error.clone()),
        _ => Ok(()),
    }
}

/// What a thread finds before it decides.
fn found(store: &Store, plan: &Plan) -> Result<Found, ReadError> {
    let revision = match &plan.expects {
        Expects::Exact(stream) => block_on(store.stream_revision(stream))?,
        _ => Revision::NONE,
    };
    Ok(Found { revision, start: block_on(store.start())? })
}

/// Appends and waits for the answer; now and then it repeats what has an id.
fn append_each(store: &Store, life: Life, thread: u32) -> Result<(), Box<dyn Error>> {
    for n in 1..=life.appends {
        let plan = Plan::of(life.seed, Name { life: life.number, thread, n });
        let found = found(store, &plan)?;
        let answer = store.append_blocking(plan.append(found));
        answered(plan.name, &answer)?;
        let (Ok(first), true) = (answer, plan.has_id && n % 2 == 0) else { continue };
        match store.append_blocking(plan.append(found)) {
            Ok(again) if again == (Appended { deduplicated: true, ..first }) => {}
            Ok(again) => report(format_args!("wrong {first:?} repeated gave {again:?}")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + Send + 'a>>;

/// Keeps several appends waiting at once.
fn append_many(store: &Store, life: Life, thread: u32) -> Result<(), Box<dyn Error>> {
    let mut out: VecDeque<(Name, Answer<'_>)> = VecDeque::new();
    block_on(async {
        for n in 1..=life.appends {
            let plan = Plan::of(life.seed, Name { life: life.number, thread, n });
            let mut answer = store.append(plan.append(found(store, &plan)?));
            // Appends have the order in which they are first polled.
            match poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
                Poll::Ready(answer) => answered(plan.name, &answer)?,
                Poll::Pending => out.push_back((plan.name, answer)),
            }
            if out.len() == PIPELINED as usize
                && let Some((name, answer)) = out.pop_front()
            {
                answered(name, &answer.await)?;
            }
        }
        for (name, answer) in out {
            answered(name, &answer.await)?;
        }
        Ok(())
    })
}

/// Commits the group's progress, flushes and removes, until nobody appends any more.
fn keep_house(store: &Store, life: Life, at_work: &AtomicU32) {
    let mut dice = fastrand::Rng::with_seed(life.seed ^ u64::from(life.number) << 20);
    while at_work.load(Ordering::Relaxed) > 0 {
        let result = match dice.u8(..8) {
            0 if !life.is_lazy() => flush(store),
            1..=3 => commit(store),
            4 => remove(store, &mut dice),
            _ => {
                thread::sleep(REST);
                Ok(())
            }
        };
        if let Err(error) = result {
            report(format_args!("failed {}", chain(error.as_ref())));
            return;
        }
    }
}

fn flush(store: &Store) -> Result<(), Box<dyn Error>> {
    let durable = store.flush()?;
    report(format_args!("flushed {durable}"));
    Ok(())
}

fn commit(store: &Store) -> Result<(), Box<dyn Error>> {
    block_on(store.open_group(NewGroup::consumer(group())))?;
    let generation = block_on(store.claim_slots(&group(), vec![SlotRange::all()]))?;
    let floor = block_on(store.head(Visibility::Durable))?;
    let floor = floor.max(block_on(store.group(&group()))?.floor());
    report(format_args!("committing {floor}"));
    let progress = SlotProgress { floor, generation, ..SlotProgress::default() };
    let commit = SlotCommit { slots: SlotRange::all(), progress };
    block_on(store.commit_slots(&group(), vec![commit]))?;
    report(format_args!("committed {floor}"));
    Ok(())
}

fn remove(store: &Store, dice: &mut fastrand::Rng) -> Result<(), Box<dyn Error>> {
    let (start, head) = (block_on(store.start())?, block_on(store.head(Visibility::Durable))?);
    let span = head.events_since(start).unwrap_or(0);
    let through = Position::new(start.get() + span / 3);
    let passing = if dice.bool() { Passing::Force } else { Passing::Refuse };
    report(format_args!("removing {through}"));
    if let Some(removed) = store.remove(Cutoff::Through(through), passing)?.removed {
        report(format_args!("removed {}", removed.through));
    }
    Ok(())
}
