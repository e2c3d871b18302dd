//! One batch after the other: take runs, react, find what fails, settle, commit.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::Position;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tracing::Instrument;

use super::error::Of;
use super::{BatchError, BatchItem, BatchOptions, BatchReactor};
use crate::clock::later;
use crate::group::{ConsumerError, Member, Run, Settlement};
use crate::reactor::{COMMIT_BACKOFF, ReactorFailure, ReactorStatus, ReactorStop};

/// A member, for several who work for it.
pub(super) struct Hands {
    member: Member,
    /// A member commits once at a time.
    commits: Mutex<()>,
}

impl Hands {
    pub(super) fn new(member: Member) -> Self {
        Self { member, commits: Mutex::default() }
    }

    async fn commit(&self) -> Result<(), ConsumerError> {
        let _turn = self.commits.lock().await;
        self.member.commit_alone().await
    }
}

/// Lets everybody work who works for one member, and leaves the group then.
pub(super) async fn run<R: BatchReactor>(
    hands: Arc<Hands>,
    drives: Vec<Drive<R>>,
    status: Arc<watch::Sender<ReactorStatus>>,
) -> Result<(), Arc<ReactorStop>> {
    let tasks: Vec<_> = drives.into_iter().map(|drive| tokio::spawn(drive.run())).collect();
    let mut result = Ok(());
    for task in tasks {
        let done = task.await.unwrap_or_else(|_| Err(Arc::new(ReactorStop::Runtime)));
        result = result.and(done);
    }
    // Whoever worked for it is gone.
    let Some(hands) = Arc::into_inner(hands) else { return result };
    let left = hands.member.leave().await.map_err(|error| {
        let cause = Arc::new(ReactorStop::Group(error));
        status.send_modify(|status| status.stop(&cause));
        cause
    });
    result.and(left)
}

pub(super) struct Drive<R> {
    pub(super) reactor: R,
    pub(super) hands: Arc<Hands>,
    pub(super) options: BatchOptions,
    /// How often the leases of what is in hand are renewed, more than zero.
    pub(super) heartbeat: Duration,
    pub(super) renew_at: Instant,
    pub(super) stop: Arc<watch::Sender<bool>>,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) status: Arc<watch::Sender<ReactorStatus>>,
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
        self.work().await.map_err(|cause| {
            tracing::error!(%cause, "the reactor stops");
            let cause = Arc::new(cause);
            self.status.send_modify(|status| status.stop(&cause));
            self.stop.send_replace(true);
            cause
        })
    }

    async fn work(&mut self) -> Result<(), ReactorStop> {
        let (mut failures, mut not_before) = (0, Instant::now());
        loop {
            let commit_again = async {
                match failures {
                    0 => pending().await,
                    failures => tokio::time::sleep(COMMIT_BACKOFF.jittered(failures)).await,
                }
            };
            let (size, bytes) = (self.options.size_max, self.options.bytes_max);
            let runs = async {
                tokio::time::sleep_until(not_before).await;
                self.hands.member.wait_for_runs(size, bytes).await
            };
            let runs = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|&stop| stop) => return Ok(()),
                runs = runs => runs.map_err(ReactorStop::Group)?,
                () = commit_again => Vec::new(),
            };
            self.renew_at = later(Instant::now(), self.heartbeat);
            let runs = self.fill(runs).await?;
            if *self.stopping.borrow() {
                give_back(runs);
                return Ok(());
            }
            let mut batch = Batch::of(runs);
            let next = self.handle(&mut batch).await;
            self.settle(batch);
            if let Next::NotNow(delay) = next? {
                not_before = later(Instant::now(), delay);
            }
            match self.hands.commit().await {
                Ok(()) => failures = 0,
                Err(error) if error.is_passing() => {
                    failures += 1;
                    // The acks stay in memory and go with the next commit.
                    tracing::warn!(%error, "a commit waits for the next one");
                }
                Err(error) => return Err(ReactorStop::Group(error)),
            }
        }
    }

    /// Waits until a batch is full or its window has passed.
    async fn fill(&mut self, mut runs: Vec<Run>) -> Result<Vec<Run>, ReactorStop> {
        let window = self.options.window;
        if runs.is_empty() || window.is_zero() {
            return Ok(runs);
        }
        let until = later(Instant::now(), window);
        loop {
            let (size, bytes) = self.room(&runs);
            if size == 0 || bytes == 0 {
                return Ok(runs);
            }
            let more = tokio::select! {
                biased;
                _ = self.stopping.wait_for(|&stop| stop) => return Ok(runs),
                () = tokio::time::sleep_until(until) => break,
                () = tokio::time::sleep_until(self.renew_at) => {
                    runs.iter().for_each(renew);
                    self.renew_at = later(Instant::now(), self.heartbeat);
                    continue;
                }
                more = self.hands.member.wait_for_runs(size, bytes) => more,
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
        for index in 0..runs.len() {
            let (size, bytes) = self.room(&runs);
            runs[index].grow(size, bytes);
        }
        Ok(runs)
    }

    /// Returns how many events and bytes a batch still has room for.
    fn room(&self, runs: &[Run]) -> (usize, usize) {
        let events: usize = runs.iter().map(Run::len).sum();
        let bytes: usize = runs.iter().flat_map(Run::events).map(|e| e.payload.len()).sum();
        let BatchOptions { size_max, bytes_max, .. } = self.options;
        (size_max.saturating_sub(events), bytes_max.saturating_sub(bytes))
    }

    /// Reacts to a batch as a whole, and to halves of what failed.
    async fn handle(&mut self, batch: &mut Batch) -> Result<Next, ReactorStop> {
        let mut parts = vec![batch.renewed()];
        while let Some(mut part) = parts.pop() {
            if *self.stopping.borrow() {
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
                Of::All => {
                    for item in part {
                        batch.failed(item, &error);
                    }
                }
                Of::Items(failed) => {
                    for (index, &item) in part.iter().enumerate() {
                        if failed.contains(&index) {
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
                    batch.runs.iter().map(|progress| &progress.run).for_each(renew);
                    self.renew_at = later(Instant::now(), self.heartbeat);
                }
            }
        }
    }

    /// Settles every run as far as it came.
    fn settle(&self, batch: Batch) {
        for Progress { run, done, failed } in batch.runs {
            let Some(error) = failed else {
                self.count(done, || run.ack_first(done));
                continue;
            };
            let event = run.events().nth(done).map(|event| event.position);
            let failure = ReactorFailure {
                position: event.unwrap_or_default(),
                attempt: run.attempt(done),
                error: Arc::clone(&error.source),
            };
            self.status.send_modify(|status| {
                status.failed += 1;
                status.last_failure = Some(failure);
            });
            self.count(done, || run.fail_after_first(done, &error));
        }
    }

    /// Settles and counts in one step: whoever is told how far the group is finds it counted.
    fn count(&self, done: usize, settle: impl FnOnce() -> Settlement) {
        self.status.send_modify(|status| {
            if settle() == Settlement::Counted {
                status.reacted += done as u64;
            }
        });
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
