//! A log and a store of snapshots that do what is told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use pollster::block_on;

use super::{Added, stream};
use crate::append::{Append, AppendError, Appended, Durability};
use crate::event::NewEvent;
use crate::id::{AppendId, LogId};
use crate::kind::encode_event;
use crate::log::{EventLog, Page, Read, ReadError, Visibility};
use crate::memory::MemoryLog;
use crate::name::StreamId;
use crate::position::Position;
use crate::query::Query;
use crate::snapshot::{SnapshotKey, SnapshotStore, SnapshotStoreError};
use crate::subscription::Subscription;

/// A log that can lose its end and grow again, gives short and empty pages, and counts what is read of
/// it.
#[derive(Debug)]
pub(super) struct Worn {
    pub(super) id: LogId,
    pub(super) inner: Mutex<MemoryLog>,
    pub(super) page: usize,
    pub(super) read: AtomicUsize,
    /// Comes in between asking for the head and reading.
    pub(super) intruder: Mutex<Option<(StreamId, u8)>>,
    /// Come to the first stream just before the next appends.
    pub(super) rivals: Mutex<Vec<u8>>,
}

impl Worn {
    pub(super) fn new(page: usize) -> Self {
        let (id, read) = (LogId::generate(), AtomicUsize::new(0));
        let (intruder, rivals) = (Mutex::default(), Mutex::default());
        Self { id, inner: Mutex::default(), page, read, intruder, rivals }
    }

    pub(super) fn inner(&self) -> MemoryLog {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn last(&self) -> u64 {
        block_on(self.inner().head(Visibility::Committed)).unwrap().get()
    }

    /// Loses what lies behind a position.
    pub(super) fn lose_after(&self, position: u64) {
        let all = Read::forward(Query::all(), Position::START).limit(usize::MAX);
        let page = block_on(self.inner().read(all)).unwrap();
        let shorter = MemoryLog::new();
        for event in page.events.into_iter().take_while(|event| event.position.get() <= position) {
            let again = NewEvent {
                id: event.id,
                schema_version: event.schema_version,
                event_time: event.event_time,
                tags: event.tags,
                ..NewEvent::new(event.stream, event.event_type, event.codec, event.payload)
            };
            block_on(shorter.append(Append::new([again]))).unwrap();
        }
        *self.inner.lock().unwrap() = shorter;
    }

    /// Returns how many events were read since it was asked last.
    pub(super) fn take_read(&self) -> usize {
        self.read.swap(0, Ordering::Relaxed)
    }

    pub(super) fn add(&self, stream: &StreamId, values: &[u8]) {
        let events = values.iter().map(|v| encode_event(stream.clone(), &Added(*v)).unwrap());
        block_on(self.append(Append::new(events))).unwrap();
    }
}

#[async_trait]
impl EventLog for Worn {
    fn id(&self) -> LogId {
        self.id
    }

    fn durability(&self) -> Durability {
        Durability::Os
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let rival = self.rivals.lock().unwrap().pop();
        if let Some(value) = rival {
            let first = encode_event(stream(1), &Added(value)).unwrap();
            self.inner().append(Append::new([first])).await?;
        }
        self.inner().append(append).await
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        self.inner().find_append(id).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        // So much is looked at, whatever is found.
        let all = Read { query: Query::all(), limit: self.page, ..read };
        let mut page = self.inner().read(all).await?;
        page.events.retain(|event| read.query.matches(event));
        self.read.fetch_add(page.events.len(), Ordering::Relaxed);
        Ok(page)
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        let head = self.inner().head(visibility).await;
        let intruder = self.intruder.lock().unwrap().take();
        if let Some((stream, value)) = intruder {
            self.add(&stream, &[value]);
        }
        head
    }

    async fn wait_for(&self, at: Position, v: Visibility) -> Result<Position, ReadError> {
        self.inner().wait_for(at, v).await
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        Subscription::new(Arc::new(self.inner()), query, after)
    }
}

/// A store that forgets, mixes up, damages and fails as it is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsteady(pub(super) Arc<Inner>);

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) kept: Mutex<HashMap<SnapshotKey, Bytes>>,
    /// All that were ever saved, and not forgotten on purpose.
    pub(super) saved: Mutex<Vec<(SnapshotKey, Bytes)>>,
    pub(super) loses: AtomicBool,
    pub(super) refuses: AtomicBool,
}

impl Unsteady {
    pub(super) fn saved(&self) -> usize {
        self.0.saved.lock().unwrap().len()
    }

    pub(super) fn any(&self, n: usize) -> Option<(SnapshotKey, Bytes)> {
        let saved = self.0.saved.lock().unwrap();
        saved.get(n.checked_rem(saved.len())?).cloned()
    }

    pub(super) fn put(&self, key: SnapshotKey, bytes: Bytes) {
        self.0.kept.lock().unwrap().insert(key, bytes);
    }

    pub(super) fn change(&self, n: usize, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some((key, _)) = self.any(n)
            && let Some(bytes) = self.0.kept.lock().unwrap().get_mut(&key)
            && !bytes.is_empty()
        {
            let mut changed = bytes.to_vec();
            change(&mut changed);
            *bytes = changed.into();
        }
    }
}

fn failed() -> SnapshotStoreError {
    SnapshotStoreError::new(std::io::Error::other("no"))
}

#[async_trait]
impl SnapshotStore for Unsteady {
    async fn load(&self, key: SnapshotKey) -> Result<Option<Bytes>, SnapshotStoreError> {
        if self.0.loses.load(Ordering::Relaxed) {
            return Err(failed());
        }
        Ok(self.0.kept.lock().unwrap().get(&key).cloned())
    }

    async fn save(&self, key: SnapshotKey, snapshot: Bytes) -> Result<(), SnapshotStoreError> {
        if self.0.refuses.load(Ordering::Relaxed) {
            return Err(failed());
        }
        self.0.saved.lock().unwrap().push((key, snapshot.clone()));
        self.put(key, snapshot);
        Ok(())
    }

    async fn clear(&self) -> Result<(), SnapshotStoreError> {
        self.0.kept.lock().unwrap().clear();
        Ok(())
    }
}
