//! What waits for a writer thread: bounded by bytes, first come first served.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The semaphore counts in these, since its permits are 32 bits.
const PERMIT_BYTES: usize = 64;

/// Requests on their way to a thread.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    room: Arc<Semaphore>,
    permits: u32,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<(T, OwnedSemaphorePermit)>,
    closed: bool,
    poked: bool,
}

/// What the thread finds when it comes for work.
#[derive(Debug)]
pub(crate) enum Taken<T> {
    /// These requests, oldest first.
    Requests(Vec<T>),
    /// Nothing, but it is time, or somebody poked.
    Nothing,
    /// Nothing, and nothing will follow.
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let permits = (bytes_max / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS / 2);
        Self {
            state: Mutex::new(State { waiting: VecDeque::new(), closed: false, poked: false }),
            ready: Condvar::new(),
            room: Arc::new(Semaphore::new(permits)),
            permits: u32::try_from(permits).unwrap_or(u32::MAX),
        }
    }

    /// Waits for room and puts a request of `bytes` behind the others. `None` means that the
    /// queue is closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the request is queued when this returns, and not before.
    pub(crate) async fn push(&self, request: T, bytes: usize) -> Option<()> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let permits = permits.clamp(1, self.permits);
        let permit = Arc::clone(&self.room).acquire_many_owned(permits).await.ok()?;
        let mut state = self.state();
        if state.closed {
            return None;
        }
        state.waiting.push_back((request, permit));
        drop(state);
        self.ready.notify_one();
        Some(())
    }

    /// Returns whether nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state();
        state.waiting.is_empty() && !state.closed
    }

    /// Waits for requests and takes all that wait; until `deadline`, if there is one.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Taken<T> {
        let mut state = self.state();
        loop {
            if !state.waiting.is_empty() {
                // The permits go with the entries: what is being written makes room already.
                return Taken::Requests(
                    state.waiting.drain(..).map(|(request, _)| request).collect(),
                );
            }
            if state.closed {
                return Taken::Closed;
            }
            if std::mem::take(&mut state.poked) {
                return Taken::Nothing;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            state = match left {
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return Taken::Nothing,
                Some(left) => {
                    self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Makes the thread look at its deadline again.
    pub(crate) fn poke(&self) {
        self.state().poked = true;
        self.ready.notify_one();
    }

    /// Lets nothing more in. What waits is still taken.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.room.close();
        self.ready.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
