//! Catch up, then follow: one loop for history and live tail.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::RecordedEvent;
use crate::log::{EventLog, Page, Read, ReadError, Visibility};
use crate::position::Position;
use crate::query::Query;

/// Follows a log from a position on, as [`EventLog::subscribe`] describes.
///
/// It holds one page at most, so a slow reader slows nobody and costs no memory. An error does
/// not end it: the next call tries again from the same place.
#[derive(Debug)]
pub struct Subscription {
    log: Arc<dyn EventLog>,
    query: Query,
    visibility: Visibility,
    page_limit: usize,
    cursor: Position,
    buffer: VecDeque<RecordedEvent>,
}

impl Subscription {
    /// Makes a subscription over a log. Engines call this from [`EventLog::subscribe`].
    pub fn new(log: Arc<dyn EventLog>, query: Query, after: Position) -> Self {
        Self {
            log,
            query,
            visibility: Visibility::Committed,
            page_limit: Read::LIMIT,
            cursor: after,
            buffer: VecDeque::new(),
        }
    }

    /// Sets which events count as being there.
    #[must_use]
    pub fn visible(mut self, visibility: Visibility) -> Self {
        self.visibility = visibility;
        self
    }

    /// Sets how many events are read ahead at most, from 1.
    #[must_use]
    pub fn page_limit(mut self, limit: usize) -> Self {
        self.page_limit = limit;
        self
    }

    /// Returns the last position that was looked at, whether it matched or not.
    pub fn cursor(&self) -> Position {
        self.cursor
    }

    /// Waits for the next event.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future loses no event.
    pub async fn next(&mut self) -> Result<RecordedEvent, ReadError> {
        loop {
            if let Some(event) = self.buffer.pop_front() {
                return Ok(event);
            }
            let page = self.next_page().await?;
            self.buffer.extend(page.events);
        }
    }

    /// Waits until the log has grown beyond the cursor and returns what came, which may be no
    /// event where none matched: [`Page::scanned`] says how far that reaches, and [`Page::done`]
    /// that the live tail is reached.
    ///
    /// Do not mix with [`next`](Self::next), which may hold events of an earlier page.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped future loses no event.
    pub async fn next_page(&mut self) -> Result<Page, ReadError> {
        loop {
            let read = Read::forward(self.query.clone(), self.cursor)
                .limit(self.page_limit)
                .visible(self.visibility);
            let page = self.log.read(read).await?;
            if page.scanned > self.cursor || !page.events.is_empty() {
                self.cursor = page.scanned;
                return Ok(page);
            }
            self.log.wait_for(self.cursor.next(), self.visibility).await?;
        }
    }
}
