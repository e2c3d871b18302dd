//! One batch after the other: take runs, react, find what fails, settle, commit.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::Position;
use tokio::time::Instant;
use tracing::Instrument;

use super::error::Of;
use super::{BatchError, BatchItem, BatchOptions, BatchReactor};
use crate::clock::{later, sleep_until};
use crate::commits::Commits;
use crate::group::{Member, Room, Run, Settlement};
use crate::reactor::{Crew, ReactorFailure, ReactorStop};

/// Lets everybody work who works for one member, and leaves the group then.
pub(super) async fn run<R: BatchReactor>(
    member: Member,
    reactors: Vec<R>,
    options: BatchOptions,
    crew: Crew,
) -> Result<(), Arc<ReactorStop>> {
    let member = Arc::new(member);
    let work = |reactor| {
        let (member, crew) = (Arc::clone(&member), crew.clone());
        tokio::spawn(Drive { reactor, member, options, crew, renew_at: Instant::now() }.run())
    };
    let tasks: Vec<_> = reactors.into_iter().map(work).collect();
    let mut result = Ok(());
    for task in tasks {
        let done = task.await.unwrap_or_else(|_| Err(Arc::new(ReactorStop::Runtime)));
        result = result.and(done);
    }
    // Whoever worked for it is gone.
    let Some(member) = Arc::into_inner(member) else { return result };
    let left = member.leave().await;
    result.and(left.map_err(|error| crew.stopped(ReactorStop::Group(error))))
}

struct Drive<R> {
    reactor: R,
    member: Arc<Member>,
    options: BatchOptions,
    crew: Crew,
    /// When the leases of what is in hand are renewed next.
    renew_at: Instant,
}

/// The runs of a batch, and how far each is.
struct Batch {
    runs: Vec<Progress>,
    items: Vec<BatchItem>,
    /// Which run each item is of.
    of: Vec<usize>,
}

struct Progress {
    run: Run,
    done: usize,
    /// Why the event behind those that are done failed.
    failed: Option<BatchError>,
}

/// Whether the rest of a batch is worth trying.
enum Next {
    GoOn,
    NotNow(Duration),
}

impl<R: BatchReactor> Drive<R> {
    async fn run(mut self) -> Result<(), Arc<ReactorStop>> {
        self.work().await.map_err(|cause| self.crew.stopped(cause))
    }

    async fn work(&mut self) -> Result<(), ReactorStop> {
        let mut not_before = Instant::now();
        let mut commits = Commits::default();
        loop {
            let mut room = Room::new(self.options.size_max, self.options.bytes_max);
            let runs = async {
                tokio::time::sleep_until(not_before).await;
                self.member.wait_for_runs(&mut room).await
            };
            let runs = tokio::select! {
                biased;
                () = self.crew.stopping() => return Ok(()),
                runs = runs => runs.map_err(ReactorStop::Group)?,
                () = sleep_until(commits.again_at()) => Vec::new(),
            };
            self.renew_at = self.crew.next_heartbeat();
            let runs = self.fill(runs, room).await?;
            if self.crew.is_stopping() {
                give_back(runs);
                return Ok(());
            }
            let mut batch = Batch::of(runs);
            let next = self.handle(&mut batch).await;
            self.settle(batch);
            if let Next::NotNow(delay) = next? {
                not_before = later(Instant::now(), delay);
            }
            commits.commit(&self.member).await.map_err(ReactorStop::Group)?;
        }
    }

    /// Waits until a batch is full or its window has passed.
    async fn fill(&mut self, mut runs: Vec<Run>, mut room: Room) -> Result<Vec<Run>, ReactorStop> {
        let window = self.options.window;
        if runs.is_empty() || window.is_zero() {
            return Ok(runs);
        }
        let until = later(Instant::now(), window);
        while !room.is_full() {
            let more = tokio::select! {
                biased;
                () = self.crew.stopping() => return Ok(runs),
                () = tokio::time::sleep_until(until) => break,
                () = tokio::time::sleep_until(self.renew_at) => {
                    self.renew_at = self.crew.next_heartbeat();
                    runs.iter().for_each(renew);
                    continue;
                }
                more = self.member.wait_for_runs(&mut room) => more,
            };
            match more {
                Ok(more) => runs.extend(more),
                Err(error) => {
                    give_back(runs);
                    return Err(ReactorStop::Group(error));
                }
            }
        }
        // What has come behind the runs in hand waits for nobody else.
        for run in &mut runs {
            run.grow(&mut room);
        }
        Ok(runs)
    }

    /// Reacts to a batch as a whole, and to halves of what failed.
    async fn handle(&mut self, batch: &mut Batch) -> Result<Next, ReactorStop> {
        let mut parts = vec![batch.renewed()];
        while let Some(mut part) = parts.pop() {
            if self.crew.is_stopping() {
                break;
            }
            // Behind an event that failed, those of its key have to wait.
            part.retain(|&item| batch.runs[batch.of[item]].failed.is_none());
            if part.is_empty() {
                continue;
            }
            let items: Vec<BatchItem> =
                part.iter().map(|&item| batch.items[item].clone()).collect();
            let reacted = self.react(&items, batch).await;
            let position = items.first().map_or(Position::START, |item| item.event.position);
            let reacted = reacted.map_err(|message| ReactorStop::Panicked { position, message })?;
            let Err(error) = reacted else {
                for item in part {
                    batch.done(item);
                }
                continue;
            };
            tracing::warn!(%position, events = part.len(), %error, "a batch failed");
            match &error.of {
                Of::Now(delay) => return Ok(Next::NotNow(*delay)),
                Of::All if self.options.bisect && part.len() > 1 => {
                    let behind = part.split_off(part.len().div_ceil(2));
                    parts.extend([behind, part]);
                }
                of => {
                    for (index, item) in part.into_iter().enumerate() {
                        if of.includes(index) {
                            batch.failed(item, &error);
                        } else {
                            batch.done(item);
                        }
                    }
                }
            }
        }
        Ok(Next::GoOn)
    }

    /// Reacts to some events, and meanwhile keeps the leases of everything in hand. A panic comes
    /// back as its message.
    async fn react(
        &mut self,
        items: &[BatchItem],
        batch: &Batch,
    ) -> Result<Result<(), BatchError>, String> {
        let span = tracing::info_span!("headwater.batch", events = items.len());
        // After a panic the reactor is not called again.
        let reaction = self.reactor.react(items).instrument(span);
        let mut reaction = pin!(crate::panic::caught(reaction));
        loop {
            tokio::select! {
                biased;
                result = &mut reaction => return result,
                () = tokio::time::sleep_until(self.renew_at) => {
                    self.renew_at = self.crew.next_heartbeat();
                    batch.runs.iter().map(|progress| &progress.run).for_each(renew);
                }
            }
        }
    }

    /// Settles every run as far as it came.
    fn settle(&self, batch: Batch) {
        for Progress { run, done, failed } in batch.runs {
            let Some(error) = failed else {
                self.crew.count(done as u64, || run.ack_first(done));
                continue;
            };
            let event = run.events().nth(done).map(|event| event.position);
            let failure = ReactorFailure {
                position: event.unwrap_or_default(),
                attempt: run.attempt(done),
                error: Arc::clone(&error.source),
            };
            self.crew.note(failure);
            self.crew.count(done as u64, || run.fail_after_first(done, &error));
        }
    }
}

fn renew(run: &Run) {
    // Whether it has its events still is seen when it is settled.
    let _ = run.renew();
}

/// Gives back what was not touched, so that it does not count as an attempt.
fn give_back(runs: Vec<Run>) {
    for run in runs {
        run.release();
    }
}

impl Batch {
    fn of(runs: Vec<Run>) -> Self {
        let mut items = Vec::new();
        for (number, run) in runs.iter().enumerate() {
            for (index, event) in run.events().enumerate() {
                let (key, attempt) = (run.idempotency_key(event), run.attempt(index));
                items.push((number, BatchItem { event: Arc::clone(event), key, attempt }));
            }
        }
        items.sort_by_key(|(_, item)| item.event.position);
        let (of, items) = items.into_iter().unzip();
        let progress = |run| Progress { run, done: 0, failed: None };
        Self { runs: runs.into_iter().map(progress).collect(), items, of }
    }

    /// Renews every lease, and returns the items of which somebody else has none.
    fn renewed(&self) -> Vec<usize> {
        let renew = |progress: &Progress| progress.run.renew() == Settlement::Counted;
        let held: Vec<bool> = self.runs.iter().map(renew).collect();
        (0..self.items.len()).filter(|&item| held[self.of[item]]).collect()
    }

    fn done(&mut self, item: usize) {
        let progress = &mut self.runs[self.of[item]];
        if progress.failed.is_none() {
            progress.done += 1;
        }
    }

    fn failed(&mut self, item: usize, error: &BatchError) {
        self.runs[self.of[item]].failed.get_or_insert_with(|| error.clone());
    }
}
