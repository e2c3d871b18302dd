//! The one subscription that all who wait for replies share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headwater_core::{
    Category, EventLog, Position, Query, ReadError, RecordedEvent, StreamId, Subscription,
};
use tokio::sync::watch;

use crate::retry::Backoff;

/// How many replies are read at a time.
const PAGE_EVENTS: usize = 128;

/// How long to wait before a read that failed is tried again.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10) };

type Heard = watch::Sender<Option<Arc<RecordedEvent>>>;

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Replies {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<StreamId, (usize, Heard)>,
    /// Why nobody listens any more.
    over: Option<ReadError>,
}

/// The place of somebody who waits, given up when it is dropped.
pub(super) struct Place {
    replies: Arc<Replies>,
    stream: StreamId,
    heard: watch::Receiver<Option<Arc<RecordedEvent>>>,
}

impl Replies {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens for the reply that begins a stream, from now on.
    pub(super) fn place(self: &Arc<Self>, stream: StreamId) -> Result<Place, ReadError> {
        let mut state = self.state();
        if let Some(error) = &state.over {
            return Err(error.clone());
        }
        let (count, heard) =
            state.waiting.entry(stream.clone()).or_insert_with(|| (0, watch::Sender::new(None)));
        *count += 1;
        let heard = heard.subscribe();
        Ok(Place { replies: Arc::clone(self), stream, heard })
    }

    fn hear(&self, events: Vec<RecordedEvent>) {
        let state = self.state();
        for event in events {
            // What is behind the first event of the stream is no reply.
            if let Some((_, heard)) = state.waiting.get(&event.stream) {
                heard.send_if_modified(|reply| {
                    let is_first = reply.is_none();
                    reply.get_or_insert_with(|| Arc::new(event));
                    is_first
                });
            }
        }
    }

    fn end(&self, error: ReadError) {
        let mut state = self.state();
        state.over = Some(error);
        state.waiting.clear();
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }
}

impl Place {
    /// Waits for the reply.
    pub(super) async fn reply(&mut self) -> Result<Arc<RecordedEvent>, ReadError> {
        if let Ok(reply) = self.heard.wait_for(Option::is_some).await
            && let Some(event) = reply.as_ref()
        {
            return Ok(Arc::clone(event));
        }
        Err(self.replies.state().over.clone().unwrap_or(ReadError::Closed))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.replies.state();
        if let Entry::Occupied(mut entry) = state.waiting.entry(self.stream.clone()) {
            entry.get_mut().0 -= 1;
            if entry.get().0 == 0 {
                entry.remove();
            }
        }
    }
}

/// Follows the replies and tells those who wait, until reading fails for good.
pub(super) async fn listen(
    log: Arc<dyn EventLog>,
    category: Category,
    after: Position,
    replies: Arc<Replies>,
) {
    let follow = |after| {
        Subscription::new(Arc::clone(&log), Query::category(category.clone()), after)
            .visible(log.settled_visibility())
            .page_limit(PAGE_EVENTS)
    };
    let mut subscription = follow(after);
    let mut failures = 0;
    loop {
        match subscription.next_page().await {
            Ok(page) => {
                failures = 0;
                replies.hear(page.events);
            }
            // Retention has passed us; whoever waits for what it took will time out, and ask.
            Err(ReadError::BelowStart { start, .. }) => subscription = follow(start),
            Err(error @ (ReadError::Io(_) | ReadError::Engine(_))) => {
                failures += 1;
                tracing::warn!(%error, failures, "replies could not be read; trying again");
                tokio::time::sleep(BACKOFF.jittered(failures)).await;
            }
            Err(error) => return replies.end(error),
        }
    }
}
