//! Folding what a query selects: from a snapshot that fits, or from all events.
//!
//! Reading begins *at* the last event of a snapshot and not behind it, so the first page says whether
//! the log still has that event there. Only what was read from the log goes into a snapshot.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Snapshots;
use super::origin::{NoSnapshot, Origin};
use super::record::{Identity, Mark};
use super::store::SnapshotKey;
use crate::codec::{Codec, CodecError};
use crate::event::RecordedEvent;
use crate::execute::LoadError;
use crate::kind::DecodeError;
use crate::log::{EventLog, Page, Read, ReadError};
use crate::position::{Position, Revision};
use crate::query::Query;

/// What is to be folded.
pub(super) struct Selected<'a> {
    pub(super) log: &'a dyn EventLog,
    pub(super) query: Query,
    /// Nothing behind it.
    pub(super) through: Position,
}

/// A fold, and how it came about.
pub(super) struct Folded<S> {
    pub(super) state: S,
    /// The last event in the state.
    pub(super) last: Option<Mark>,
    /// The revision of that event.
    pub(super) revision: Revision,
    pub(super) origin: Origin,
    /// How many events were folded, behind the snapshot where there was one.
    pub(super) events: u64,
    /// How long reading and folding them took.
    pub(super) took: Duration,
}

/// A snapshot on its way into the store.
#[derive(Debug)]
pub(super) struct Taken {
    key: SnapshotKey,
    bytes: Bytes,
}

/// What the store has.
pub(super) struct Recalled<S> {
    /// What it was asked for, where that can be said.
    identity: Result<Identity, CodecError>,
    pub(super) found: Result<(Mark, S), NoSnapshot>,
}

impl Selected<'_> {
    async fn read(&self, after: Position) -> Result<Page, ReadError> {
        self.log.read(Read::forward(self.query.clone(), after)).await
    }

    /// Returns whether a page was the last one.
    fn ends(&self, page: &Page) -> bool {
        page.done || page.scanned >= self.through
    }

    /// Folds all events.
    pub(super) async fn replay<S>(
        &self,
        state: S,
        apply: impl FnMut(S, &RecordedEvent) -> Result<S, DecodeError>,
        reason: NoSnapshot,
    ) -> Result<Folded<S>, LoadError> {
        let begun = Instant::now();
        let page = self.read(Position::START).await?;
        let origin = Origin::Replay(reason);
        self.finish((state, None, origin), page, begun, apply).await
    }

    /// Folds the events of a page and of those behind it.
    async fn finish<S>(
        &self,
        (mut state, mut last, origin): (S, Option<Mark>, Origin),
        mut page: Page,
        begun: Instant,
        mut apply: impl FnMut(S, &RecordedEvent) -> Result<S, DecodeError>,
    ) -> Result<Folded<S>, LoadError> {
        let (mut events, mut revision) = (0, Revision::NONE);
        loop {
            for recorded in page.events.iter().filter(|event| event.position <= self.through) {
                revision = recorded.revision;
                // The last event of the snapshot is in it.
                if last.is_some_and(|last| recorded.position <= last.position) {
                    continue;
                }
                state = apply(state, recorded)?;
                last = Some(Mark::at(recorded));
                events += 1;
            }
            if self.ends(&page) {
                let took = begun.elapsed();
                return Ok(Folded { state, last, revision, origin, events, took });
            }
            page = self.read(page.scanned).await?;
        }
    }

    /// Sees that the log still has the last event of a snapshot, and returns the page that begins with
    /// it.
    pub(super) async fn begin(&self, mark: Mark) -> Result<Page, NoSnapshot> {
        if mark.position > self.through {
            let (asked, head) = (mark.position, self.through);
            return Err(NoSnapshot::Log(ReadError::BeyondHead { asked, head }));
        }
        let page = self.read(mark.position.previous()).await.map_err(NoSnapshot::Log)?;
        let found = page.events.first().filter(|first| first.position == mark.position);
        if found.is_some_and(|found| found.id == mark.event) {
            return Ok(page);
        }
        let Mark { position, event: stored } = mark;
        Err(NoSnapshot::Diverged { position, stored, found: found.map(|found| found.id) })
    }
}

impl Snapshots {
    /// Looks for a snapshot of the same fold of the same. Whether it fits the log is not known yet.
    pub(super) async fn recall<C: Codec, S: DeserializeOwned>(
        &self,
        identity: Result<Identity, CodecError>,
    ) -> Recalled<S> {
        let found = match &identity {
            Ok(identity) => self.find::<C, S>(identity).await,
            Err(error) => Err(NoSnapshot::Encode(error.clone())),
        };
        Recalled { identity, found }
    }

    async fn find<C: Codec, S: DeserializeOwned>(
        &self,
        identity: &Identity,
    ) -> Result<(Mark, S), NoSnapshot> {
        let bytes = self.store.load(identity.key()).await?.ok_or(NoSnapshot::Absent)?;
        let (mark, state) = identity.decode(&bytes)?;
        Ok((mark, C::decode(state).map_err(NoSnapshot::Decode)?))
    }

    /// Folds what is selected, from a snapshot if it fits, and takes another one if that is due.
    pub(super) async fn fold<C: Codec, S: Serialize>(
        &self,
        selected: &Selected<'_>,
        recalled: Recalled<S>,
        initial: S,
        apply: impl FnMut(S, &RecordedEvent) -> Result<S, DecodeError>,
    ) -> Result<(Folded<S>, Option<Taken>), LoadError> {
        let Recalled { identity, found } = recalled;
        let begun = Instant::now();
        let resumed = match found {
            Ok((mark, state)) => selected.begin(mark).await.map(|page| (state, mark, page)),
            Err(reason) => Err(reason),
        };
        let folded = match resumed {
            Ok((state, mark, page)) => {
                let start = (state, Some(mark), Origin::Snapshot(mark.position));
                selected.finish(start, page, begun, apply).await?
            }
            Err(reason) => {
                reason.trace(identity.as_ref().map_or("", |identity| identity.name));
                selected.replay(initial, apply, reason).await?
            }
        };
        let taken = identity.ok().and_then(|identity| self.take::<C, S>(&identity, &folded));
        Ok((folded, taken))
    }

    fn take<C: Codec, S: Serialize>(
        &self,
        identity: &Identity,
        folded: &Folded<S>,
    ) -> Option<Taken> {
        let last = folded.last.filter(|_| self.policy.is_due(folded.events, folded.took))?;
        match C::encode(&folded.state) {
            Ok(state) => Some(Taken { key: identity.key(), bytes: identity.encode(last, &state) }),
            Err(error) => {
                tracing::warn!(name = identity.name, %error, "a state cannot be encoded for a snapshot");
                None
            }
        }
    }

    /// Gives a snapshot to the store. Where that fails, it is the next one's turn.
    pub(super) async fn save(&self, taken: impl IntoIterator<Item = Taken>) {
        for Taken { key, bytes } in taken {
            if let Err(error) = self.store.save(key, bytes).await {
                let source = std::error::Error::source(&error).map(tracing::field::display);
                tracing::warn!(%error, source, "a snapshot was not kept");
            }
        }
    }
}
