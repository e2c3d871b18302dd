//! What waits for a thread: first come, first served.
//!
//! There is no bound of its own: whoever waits for an answer holds its request anyway, and a
//! request goes when its caller stops waiting.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Instant;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// Requests on their way to a thread, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// Numbered, so that one can be found again.
    waiting: VecDeque<(u64, T)>,
    next: u64,
    thread: Thread,
    closed: bool,
    poked: bool,
}

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    /// It is about to look for work.
    Looking,
    /// It waits to be told. Telling it when it does not costs a system call for nothing.
    Asleep,
    /// It has requests in hand that it took.
    Working,
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

/// A place in the queue. Dropping it gives the place up, if the thread has not come to it yet.
#[derive(Debug)]
pub(crate) struct Place<'a, T> {
    queue: &'a Queue<T>,
    number: u64,
}

/// Closes the queue when its thread ends, however it ends: nobody may wait for a thread that
/// panicked.
#[derive(Debug)]
pub(crate) struct ClosesOnDrop<'a, T>(pub(crate) &'a Queue<T>);

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                next: 0,
                thread: Thread::Looking,
                closed: false,
                poked: false,
            }),
            ready: Condvar::new(),
        }
    }

    /// Puts a request behind the others. `None` means that the queue is closed.
    pub(crate) fn push(&self, request: T) -> Option<Place<'_, T>> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.waiting.push_back((number, request));
        self.wake(state);
        Some(Place { queue: self, number })
    }

    /// Returns whether nothing waits and nothing is in the thread's hands, so that whoever goes
    /// past the queue overtakes nobody.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state();
        state.waiting.is_empty() && state.thread != Thread::Working && !state.closed
    }

    /// Waits for requests and takes all that wait; until `deadline`, if there is one. What was
    /// taken before is done with.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Taken<T> {
        let mut state = self.state();
        state.thread = Thread::Looking;
        loop {
            if !state.waiting.is_empty() {
                state.thread = Thread::Working;
                return Taken::Requests(
                    state.waiting.drain(..).map(|(_, request)| request).collect(),
                );
            }
            if state.closed {
                return Taken::Closed;
            }
            if std::mem::take(&mut state.poked) {
                return Taken::Nothing;
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Taken::Nothing;
            }
            state.thread = Thread::Asleep;
            state = match left {
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.thread = Thread::Looking;
        }
    }

    /// Takes what has come since the thread took what it has in hand.
    pub(crate) fn take_more(&self, requests: &mut Vec<T>) {
        requests.extend(self.state().waiting.drain(..).map(|(_, request)| request));
    }

    /// Makes the thread look at its deadline again.
    pub(crate) fn poke(&self) {
        let mut state = self.state();
        state.poked = true;
        self.wake(state);
    }

    /// Lets nothing more in. What waits is still taken.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        self.wake(state);
    }

    /// Tells the thread that something changed, if it waits and was not told yet.
    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let asleep = state.thread == Thread::Asleep;
        if asleep {
            state.thread = Thread::Looking;
        }
        drop(state);
        if asleep {
            self.ready.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if let Ok(at) = state.waiting.binary_search_by_key(&self.number, |(number, _)| *number) {
            state.waiting.remove(at);
        }
    }
}

impl<T> Drop for ClosesOnDrop<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        // Dropping a request tells its caller that there will be no answer.
        state.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(taken: Taken<u8>) -> Vec<u8> {
        match taken {
            Taken::Requests(requests) => requests,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_thread_has_in_hand_is_not_overtaken() {
        let queue = Queue::new();
        assert!(queue.is_idle());
        let _place = queue.push(1);
        assert!(!queue.is_idle());
        assert_eq!(requests(queue.take(None)), [1]);
        assert!(!queue.is_idle(), "the thread has not written it yet");
        queue.poke();
        assert!(matches!(queue.take(None), Taken::Nothing));
        assert!(queue.is_idle());
    }

    #[test]
    fn who_stops_waiting_leaves_and_the_others_keep_their_order() {
        let queue = Queue::new();
        let mut places: Vec<_> = (0..5).map(|n| queue.push(n)).collect();
        drop(places.remove(2));
        assert_eq!(requests(queue.take(None)), [0, 1, 3, 4]);
        // Who was taken has no place to give up any more.
        drop(places);
    }

    #[test]
    fn nobody_waits_for_a_thread_that_is_gone() {
        let queue = Queue::new();
        let place = queue.push(1);
        drop(ClosesOnDrop(&queue));
        assert!(queue.push(2).is_none());
        assert!(matches!(queue.take(None), Taken::Closed));
        drop(place);
    }
}
