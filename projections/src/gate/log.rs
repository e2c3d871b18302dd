//! A gated log as a log: appends pass the gates, everything else passes on.

use async_trait::async_trait;
use headwater_core::{
    Append, AppendError, AppendId, Appended, Durability, EventLog, EventType, LogId, Page,
    Position, Query, Read, ReadError, Revision, StreamId, Subscription, Timestamp, Visibility,
};

use super::GatedLog;

#[async_trait]
impl EventLog for GatedLog {
    fn id(&self) -> LogId {
        self.inner.log.id()
    }

    fn durability(&self) -> Durability {
        self.inner.log.durability()
    }

    /// As the log beneath, and [`AppendError::Overrun`] while a group is too far behind.
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.pass().await?;
        self.inner.log.append(append).await
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        self.inner.log.find_append(id).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.inner.log.read(read).await
    }

    async fn start(&self) -> Result<Position, ReadError> {
        self.inner.log.start().await
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        self.inner.log.head(visibility).await
    }

    async fn wait_for(&self, at: Position, visibility: Visibility) -> Result<Position, ReadError> {
        self.inner.log.wait_for(at, visibility).await
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        self.inner.log.subscribe(query, after)
    }

    async fn stream_revision(&self, stream: &StreamId) -> Result<Revision, ReadError> {
        self.inner.log.stream_revision(stream).await
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, ReadError> {
        self.inner.log.position_at(time).await
    }

    async fn bytes_between(
        &self,
        after: Position,
        through: Position,
    ) -> Result<Option<u64>, ReadError> {
        self.inner.log.bytes_between(after, through).await
    }

    async fn event_types(&self) -> Result<Vec<EventType>, ReadError> {
        self.inner.log.event_types().await
    }

    fn settled_visibility(&self) -> Visibility {
        self.inner.log.settled_visibility()
    }
}
