//! The events of shared groups are those of the log beneath.

use async_trait::async_trait;

use super::SharedGroups;
use crate::append::{Append, AppendError, Appended, Durability};
use crate::id::{AppendId, LogId};
use crate::log::{EventLog, Page, Read, ReadError, Visibility};
use crate::name::{EventType, StreamId};
use crate::position::{Position, Revision};
use crate::query::Query;
use crate::subscription::Subscription;
use crate::time::Timestamp;

#[async_trait]
impl EventLog for SharedGroups {
    fn id(&self) -> LogId {
        self.events.id()
    }

    fn durability(&self) -> Durability {
        self.events.durability()
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.events.append(append).await
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        self.events.find_append(id).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        self.events.read(read).await
    }

    async fn start(&self) -> Result<Position, ReadError> {
        self.events.start().await
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        self.events.head(visibility).await
    }

    async fn wait_for(
        &self,
        position: Position,
        visibility: Visibility,
    ) -> Result<Position, ReadError> {
        self.events.wait_for(position, visibility).await
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        self.events.subscribe(query, after)
    }

    async fn stream_revision(&self, stream: &StreamId) -> Result<Revision, ReadError> {
        self.events.stream_revision(stream).await
    }

    async fn position_at(&self, time: Timestamp) -> Result<Position, ReadError> {
        self.events.position_at(time).await
    }

    async fn bytes_between(
        &self,
        after: Position,
        through: Position,
    ) -> Result<Option<u64>, ReadError> {
        self.events.bytes_between(after, through).await
    }

    async fn event_types(&self) -> Result<Vec<EventType>, ReadError> {
        self.events.event_types().await
    }

    fn settled_visibility(&self) -> Visibility {
        self.events.settled_visibility()
    }
}
