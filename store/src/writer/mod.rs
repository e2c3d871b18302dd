//! The writer: checks conditions, numbers events, writes groups of appends as frames.
//!
//! One lock holds it, so there is one writer at any time: usually a thread that drains the queue,
//! and when nobody else is in the way the caller's own, if its append needs no sync or it may wait
//! for one. A group is
//! whatever waits, up to a number of bytes and records: it grows by itself with the time a
//! sync takes, without a timer.
//!
//! Invariants:
//!
//! - conditions are checked against everything committed and everything staged before in the
//!   group, and numbers are given in that order;
//! - a group is one frame, written with one call, synced with one call if anything in it asks for
//!   it, indexed, published, and answered, in that order;
//! - after a failed write or sync, or a panic on the way, nothing is ever written again.

mod batch;
mod group;
mod heads;
mod import;
mod meters;
mod queue;
mod remembered;

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Instant;

use headwater_core::{
    Append, AppendError, Appended, Condition, Conflict, Durability, ExpectedRevision, Position,
    ReadError, Timestamp,
};
use tokio::sync::oneshot;

use crate::format::record;
use crate::fs::is_full;
use crate::planted::{Bug, planted};
use crate::source::LogSource;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::tail::{LogTail, TailError};
use crate::view::View;

use batch::Batch;
use group::{Group, Refused, Waiting};
pub use import::Misplaced;
pub(crate) use import::{Committed, ImportFault, Standing};
use meters::{WriterMeters, Written};
pub(crate) use queue::{ClosesOnDrop, Place, Queue, Taken};
pub(crate) use remembered::Remembered;

pub(crate) type Answer = Result<Appended, AppendError>;

/// An append on its way to the writer.
#[derive(Debug)]
pub(crate) struct Request {
    append: Append,
    batch: Batch,
    asker: Asker,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Asker {
    /// The thread that writes: it takes the answer along.
    Here,
    /// Somebody else.
    Elsewhere(oneshot::Sender<Reply>),
}

/// An answer, and the append that it answers. The caller allocated it, so the caller frees it:
/// where the writer does, the two contend for the allocator's locks.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    _lent: Option<(Append, Batch)>,
}

impl Request {
    /// Checks and encodes an append, in its caller's thread.
    pub(crate) fn new(append: Append, segment_bytes: u64) -> Result<Self, AppendError> {
        let batch = Batch::encode(&append, segment_bytes)?;
        Ok(Self { append, batch, asker: Asker::Here })
    }

    /// Returns where the answer comes when another thread gives it.
    pub(crate) fn ask(&mut self) -> oneshot::Receiver<Reply> {
        let (reply, answer) = oneshot::channel();
        self.asker = Asker::Elsewhere(reply);
        answer
    }

    /// Returns whether nobody waits for the answer any more.
    fn is_given_up(&self) -> bool {
        matches!(&self.asker, Asker::Elsewhere(reply) if reply.is_closed())
    }
}

impl Asker {
    /// Gives an answer; `here` is for the thread that writes.
    fn tell(self, answer: Answer, lent: Option<(Append, Batch)>, here: &mut Option<Answer>) {
        match self {
            Self::Here => *here = Some(answer),
            // A receiver that is gone needs no answer.
            Self::Elsewhere(reply) => drop(reply.send(Reply { answer, _lent: lent })),
        }
    }
}

/// What became of an attempt to write in the caller's thread.
#[derive(Debug)]
pub(crate) enum Inline {
    /// It is answered. The thread must be told if its deadline has changed.
    Done { answer: Answer, due_changed: bool },
    /// It has to wait for the thread like others.
    Refused(Request),
}

/// The writer behind its lock.
#[derive(Debug)]
pub(crate) struct Writer {
    core: Mutex<Core>,
    view: Arc<View>,
    /// Closed, or poisoned: appends have other errors than conflicts.
    ended: Arc<AtomicBool>,
    meters: Arc<WriterMeters>,
}

#[derive(Debug)]
struct Core {
    tail: LogTail,
    view: Arc<View>,
    durability: Durability,
    /// How many append ids are remembered.
    window: usize,
    poison: Option<Arc<io::Error>>,
    /// Nothing is written any more; the directory may be somebody else's.
    closed: bool,
    ended: Arc<AtomicBool>,
    /// A group is closed when it has this many bytes.
    group_bytes: usize,
    group: Group,
    /// The answer to the request of the thread that has the lock.
    answer: Option<Answer>,
    meters: Arc<WriterMeters>,
}

impl Writer {
    pub(crate) fn new(
        tail: LogTail,
        view: Arc<View>,
        durability: Durability,
        window: usize,
        segment_bytes: u64,
    ) -> Self {
        let group = Group::default();
        let quarter = usize::try_from(segment_bytes / 4).unwrap_or(usize::MAX);
        let group_bytes = quarter.min(group::BYTES_MAX);
        let ended = Arc::new(AtomicBool::new(false));
        let meters = Arc::new(WriterMeters::new(tail.active().header.store));
        meters.head(tail.next().previous());
        let core = Core {
            tail,
            view: Arc::clone(&view),
            durability,
            window,
            poison: None,
            closed: false,
            ended: Arc::clone(&ended),
            group_bytes,
            group,
            answer: None,
            meters: Arc::clone(&meters),
        };
        Self { core: Mutex::new(core), view, ended, meters }
    }

    /// Returns the conflict that a request meets, if it stands whatever is written before it:
    /// streams only grow, and events stay. So nobody waits for a sync to be refused.
    pub(crate) fn conflict(&self, request: &Request) -> Option<AppendError> {
        let conflict = self.conflict_of(request);
        if conflict.is_some() {
            self.meters.conflict();
        }
        conflict
    }

    fn conflict_of(&self, request: &Request) -> Option<AppendError> {
        let append = &request.append;
        // The writer knows better: an append that is repeated gets its first result.
        // Pairs with the stores in `Core`.
        if append.append_id.is_some() || self.ended.load(Ordering::Acquire) {
            return None;
        }
        for clause in &append.condition.streams {
            // A failure to look is for the writer to report.
            let (actual, last) = self.view.stream_end(&clause.stream).ok()?;
            if clause.expected.is_met_by(actual) {
                continue;
            }
            let stands = match clause.expected {
                ExpectedRevision::Exact(expected) => actual > expected,
                ExpectedRevision::NoStream => true,
                ExpectedRevision::Any | ExpectedRevision::Exists => false,
            };
            let (stream, expected) = (clause.stream.clone(), clause.expected);
            let conflict = Conflict::Stream { stream, expected, actual, last };
            // What waits may change the answer, and which clause fails first.
            return stands.then(|| conflict.into());
        }
        for (index, clause) in append.condition.queries.iter().enumerate() {
            let after = clause.after;
            if let Some(found) = self.view.latest_match(&clause.query, after).ok()? {
                return Some(Conflict::Query { index, after, found }.into());
            }
        }
        None
    }

    /// Writes one request in the caller's thread, if no other thread writes right now and it fits
    /// into the segment. A request that asks for a sync waits for it here.
    pub(crate) fn try_write(&self, request: Request) -> Inline {
        let Ok(core) = self.core.try_lock() else { return Inline::Refused(request) };
        let mut core = Held::new(core);
        if !core.tail.fits(request.batch.bytes.len()) {
            return Inline::Refused(request);
        }
        let before = core.tail.sync_due(core.durability);
        core.write([request]);
        let due_changed = core.tail.sync_due(core.durability) != before;
        let answer = core.answer.take().expect("every request is answered");
        Inline::Done { answer, due_changed }
    }

    /// Writes requests as if they had waited together.
    #[cfg(test)]
    pub(crate) fn write_together(&self, requests: Vec<Request>) {
        lock(&self.core).write(requests);
    }

    /// Makes everything durable that was written, and returns how far that is.
    pub(crate) fn flush(&self) -> Result<Position, AppendError> {
        lock(&self.core).flush()
    }

    /// Makes everything durable that was written, and returns the log to be copied.
    pub(crate) fn source(&self) -> Result<LogSource, AppendError> {
        let mut core = lock(&self.core);
        core.flush()?;
        Ok(core.tail.source())
    }

    /// Runs the writer's thread until the queue is closed and empty.
    pub(crate) fn run(&self, queue: &Queue<Request>) {
        let _closes = ClosesOnDrop(queue);
        let mut due = None;
        loop {
            match queue.take(due) {
                Taken::Requests(mut requests) => {
                    let mut core = lock(&self.core);
                    // While another thread wrote, more have come.
                    queue.take_more(&mut requests);
                    core.write(requests);
                }
                Taken::Nothing => {}
                Taken::Closed => return,
            }
            due = lock(&self.core).sync_if_due();
        }
    }

    /// Writes nothing more: syncs, and returns the end of the log with what went wrong before.
    pub(crate) fn finish(&self) -> Result<(), Arc<io::Error>> {
        let mut core = lock(&self.core);
        core.tail.discard_spare();
        let flushed = core.flush();
        if flushed.is_ok() {
            core.tail.file_active();
        }
        core.closed = true;
        core.ended.store(true, Ordering::Release);
        core.view.close();
        match flushed {
            Ok(_) => Ok(()),
            Err(AppendError::Indeterminate(error) | AppendError::Poisoned(error)) => Err(error),
            Err(error) => Err(Arc::new(io::Error::other(error))),
        }
    }

    /// Removes the segments before one; `None` if the store is closed.
    pub(crate) fn remove_before(&self, first: u64) -> Option<io::Result<()>> {
        let mut core = lock(&self.core);
        if core.closed { None } else { Some(core.tail.remove_before(first)) }
    }

    /// Returns what the catalog should know of the log.
    pub(crate) fn entry(&self) -> crate::format::catalog::LogEntry {
        lock(&self.core).tail.entry()
    }
}

fn lock(core: &Mutex<Core>) -> Held<'_> {
    // Whoever panicked has left word of it in there.
    Held::new(core.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The writer, in the hands of one thread. If that panics, nothing is written any more.
struct Held<'a> {
    core: MutexGuard<'a, Core>,
    /// The thread was on its way out of a panic before.
    panicked: bool,
}

impl<'a> Held<'a> {
    fn new(core: MutexGuard<'a, Core>) -> Self {
        Self { core, panicked: thread::panicking() }
    }
}

impl Deref for Held<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if thread::panicking() && !self.panicked {
            self.core.abandon();
        }
    }
}

impl Core {
    fn write(&mut self, requests: impl IntoIterator<Item = Request>) {
        for request in requests {
            // Whoever gave up waiting before we began gets no append.
            if request.is_given_up() {
                continue;
            }
            if self.group.is_full(&request.batch, self.group_bytes) {
                // Whoever waited was told.
                let _ = self.commit();
            }
            self.stage(request);
        }
        let _ = self.commit();
    }

    /// Takes a request into the group, which is what refuses it too, or answers it at once.
    fn stage(&mut self, request: Request) {
        let Request { append, mut batch, asker } = request;
        let answer = match self.admit(&append, &batch) {
            Ok(None) => match self.group.add(self.tail.next(), &append, &mut batch, &self.view) {
                Ok(appended) => {
                    let lent = Some((append, batch));
                    self.group.waiting.push(Waiting { asker, appended, lent });
                    return;
                }
                Err(error) => Err(AppendError::Check(Arc::new(error))),
            },
            // The first use is in this very group, so the answer waits for it.
            Ok(Some((earlier, false))) => {
                self.group.sync |= append.sync;
                self.group.waiting.push(Waiting { asker, appended: earlier, lent: None });
                return;
            }
            Ok(Some((earlier, true))) => {
                let not_yet = append.sync && earlier.last > self.tail.durable();
                if not_yet { self.flush().map(|_| earlier) } else { Ok(earlier) }
            }
            Err(error) => Err(error),
        };
        match answer {
            Err(conflict @ AppendError::Conflict(_)) => {
                self.meters.conflict();
                let rests_on_group = !self.group.records.is_empty();
                let lent = (append, batch);
                self.group.refused.push(Refused { asker, conflict, rests_on_group, lent });
            }
            answer => {
                self.meters.failed(usize::from(answer.is_err()));
                asker.tell(answer, Some((append, batch)), &mut self.answer);
            }
        }
    }

    /// Checks id and condition. Returns the first result of a repeated append, and whether that
    /// is committed already.
    fn admit(
        &mut self,
        append: &Append,
        batch: &Batch,
    ) -> Result<Option<(Appended, bool)>, AppendError> {
        if self.closed {
            return Err(AppendError::Closed);
        }
        if let Some(cause) = &self.poison {
            return Err(AppendError::Poisoned(Arc::clone(cause)));
        }
        if let Some(id) = append.append_id {
            if let Some(known) = self.group.ids.get(&id) {
                return known.answer(id, batch.digest).map(|earlier| Some((earlier, false)));
            }
            let window = if planted(Bug::ForgetAppendIds) { 0 } else { self.window };
            let known = self.view.find_append(id, window);
            if let Some(known) = known.map_err(|error| AppendError::Check(Arc::new(error)))? {
                return known.answer(id, batch.digest).map(|earlier| Some((earlier, true)));
            }
        }
        self.check(&append.condition)?;
        Ok(None)
    }

    fn check(&mut self, condition: &Condition) -> Result<(), AppendError> {
        let failed = |error: ReadError| AppendError::Check(Arc::new(error));
        for clause in &condition.streams {
            let end = self.group.stream_end(self.tail.next(), &clause.stream, &self.view);
            let (actual, last) = end.map_err(failed)?;
            if !clause.expected.is_met_by(actual) {
                let (stream, expected) = (clause.stream.clone(), clause.expected);
                return Err(Conflict::Stream { stream, expected, actual, last }.into());
            }
        }
        for (index, clause) in condition.queries.iter().enumerate() {
            let after = clause.after;
            let staged = self.group.latest_match(self.tail.next(), clause);
            let found = match staged {
                Some(position) => Some(position),
                None => self.view.latest_match(&clause.query, after).map_err(failed)?,
            };
            if let Some(found) = found {
                return Err(Conflict::Query { index, after, found }.into());
            }
        }
        Ok(())
    }

    /// Writes the group and answers everybody in it.
    fn commit(&mut self) -> Result<(), AppendError> {
        let result = if self.group.records.is_empty() { Ok(()) } else { self.commit_group() };
        // After those who won: who comes again at once should see what they wrote, and not be refused
        // a second time.
        for refused in self.group.refused.drain(..) {
            let answer = Err(refused.error(&result));
            refused.asker.tell(answer, Some(refused.lent), &mut self.answer);
        }
        result
    }

    fn commit_group(&mut self) -> Result<(), AppendError> {
        let first = self.tail.next();
        let segment = self.tail.active().header.id;
        let result = self.write_group();
        match result {
            Ok(()) => self.meters.wrote(Written {
                events: self.group.records.len(),
                bytes: self.group.frame.len(),
                head: self.tail.next().previous(),
                begins_segment: self.tail.active().header.id != segment,
            }),
            Err(_) => self.meters.failed(self.group.waiting.len()),
        }
        if self.poison.is_none() || planted(Bug::ShowAfterFailedSync) {
            // Going over to another segment has synced, even where it failed then.
            self.publish();
        }
        if result.is_err() && planted(Bug::CountRefused) {
            self.group.note_heads(first);
        }
        // First what refers to the appends, so that their callers have the last hold of them.
        self.group.clear();
        for Waiting { asker, appended, lent } in self.group.waiting.drain(..) {
            asker.tell(result.clone().map(|()| appended), lent, &mut self.answer);
        }
        if result.is_ok() {
            self.tail.file_if_due();
        }
        result
    }

    fn write_group(&mut self) -> Result<(), AppendError> {
        let group = &mut self.group;
        let records = u32::try_from(group.records.len()).expect("a group is bounded");
        if let Err(error) = self.tail.reserve(group.frame.len()) {
            return Err(match error {
                TailError::Full(error) if is_full(&error) => AppendError::StorageFull(error),
                TailError::Full(error) => AppendError::NoSegment(error),
                // Nothing of this group was written yet.
                TailError::Broken(error) => {
                    self.poison = Some(Arc::clone(&error));
                    self.ended.store(true, Ordering::Release);
                    AppendError::Poisoned(error)
                }
            });
        }
        let segment = Arc::clone(self.tail.active());
        for staged in &group.records {
            let bytes = &mut group.frame[staged.start..staged.start + staged.len];
            record::finish(bytes, staged.revision, staged.previous, &segment.seed);
        }
        let sync = group.sync || self.durability == Durability::Sync;
        let time = group.commit_time.unwrap_or_else(Timestamp::now);
        let first = self.tail.next();
        let written = self.tail.write(&mut group.frame, records, time);
        let written = written.map_err(|error| self.broken(error))?;
        self.tail.begin_write_out(sync).map_err(|error| self.broken(error))?;
        // While the device has something to do. If it fails, nobody asks these heads any more.
        self.group.note_heads(first);
        self.group.drop_lent();
        if sync {
            self.sync()?;
        }
        let group = &self.group;
        let narrow = |offset: u64| u32::try_from(offset).expect("a segment has less than 4 GiB");
        let mut index = segment.index_mut();
        let open = index.open();
        open.begin_frame(narrow(written), self.tail.commit_time());
        let mut terms = 0;
        for staged in &group.records {
            let offset = narrow(written + staged.start as u64);
            open.push(offset, &group.terms[terms..staged.terms_end]);
            terms = staged.terms_end;
        }
        drop(index);
        self.tail.publish();
        Ok(())
    }

    fn publish(&self) {
        self.view.publish(self.tail.next().previous(), self.tail.durable());
    }

    fn flush(&mut self) -> Result<Position, AppendError> {
        if self.closed {
            return Err(AppendError::Closed);
        }
        if let Some(cause) = &self.poison {
            return Err(AppendError::Poisoned(Arc::clone(cause)));
        }
        self.sync()?;
        self.publish();
        Ok(self.tail.durable())
    }

    fn sync(&mut self) -> Result<(), AppendError> {
        if self.tail.is_synced() {
            return Ok(());
        }
        let synced = self.meters.sync(|| self.tail.sync());
        synced.map_err(|error| self.broken(error))
    }

    /// Notes that nothing may be written any more.
    fn broken(&mut self, error: TailError) -> AppendError {
        let (TailError::Full(cause) | TailError::Broken(cause)) = error;
        self.poison = Some(Arc::clone(&cause)).filter(|_| !planted(Bug::GoOnAfterFailedSync));
        self.ended.store(true, Ordering::Release);
        AppendError::Indeterminate(cause)
    }

    /// Ends writing after a panic: how far it came, nobody knows.
    fn abandon(&mut self) {
        let cause = io::Error::other("a thread panicked while it was writing");
        let error = self.broken(TailError::Broken(Arc::new(cause)));
        self.group.clear();
        for Waiting { asker, lent, .. } in self.group.waiting.drain(..) {
            asker.tell(Err(error.clone()), lent, &mut self.answer);
        }
        for refused in self.group.refused.drain(..) {
            let answer = Err(refused.error(&Err(error.clone())));
            refused.asker.tell(answer, Some(refused.lent), &mut self.answer);
        }
        self.answer = None;
    }

    fn sync_due(&self) -> Option<Instant> {
        if self.poison.is_some() { None } else { self.tail.sync_due(self.durability) }
    }

    fn sync_if_due(&mut self) -> Option<Instant> {
        if self.sync_due().is_some_and(|due| due <= Instant::now()) {
            // The next append reports a failure.
            let _ = self.flush();
        }
        self.sync_due()
    }
}
