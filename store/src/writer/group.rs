//! A group: appends that are written as one frame, and what they make of the streams meanwhile.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use headwater_core::{
    Append, AppendId, Appended, NewEvent, Position, QueryCondition, ReadError, Revision, StreamId,
};
use tokio::sync::oneshot;

use super::Reply;
use super::batch::{Batch, BatchRecord};
use super::heads::{Heads, NameHasher};
use super::remembered::Remembered;
use crate::format::frame::HEADER_BYTES;
use crate::index::{MemoryIndex, Term, Terms};
use crate::planted::{Bug, planted};
use crate::view::View;

/// A group is closed when it has this many bytes, or a quarter of a segment.
pub(super) const BYTES_MAX: usize = 1024 * 1024;
/// A group is closed when it has this many records.
const RECORDS_MAX: usize = 4096;
/// A larger buffer than this is given back after use.
const FRAME_BYTES_KEPT: usize = 4 * BYTES_MAX;

/// Appends that will be written as one frame.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The frame: room for the header, then the records.
    pub(super) frame: Vec<u8>,
    pub(super) records: Vec<Staged>,
    pub(super) terms: Vec<Term>,
    /// What has which term, by number in the group, as soon as a condition asks.
    index: Option<MemoryIndex>,
    /// Where the group leaves the streams that it extends.
    streams: HashMap<StreamId, (Revision, Position), BuildHasherDefault<NameHasher>>,
    /// Where groups before left theirs.
    heads: Heads,
    pub(super) ids: HashMap<AppendId, Remembered>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) sync: bool,
}

/// Who waits for the group to be written.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) reply: oneshot::Sender<Reply>,
    pub(super) appended: Appended,
    /// What goes back with the answer; nothing if this repeats an append of the group.
    pub(super) lent: Option<(Append, Batch)>,
}

/// A record in the frame, and what only the writer knows of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) terms_end: usize,
    pub(super) revision: Revision,
    pub(super) previous: Position,
    /// Which of those who wait appended it, and which event of theirs it is.
    append: usize,
    event: usize,
}

impl Group {
    /// Returns whether a batch should wait for the next group.
    pub(super) fn is_full(&self, batch: &Batch, bytes_max: usize) -> bool {
        !self.records.is_empty()
            && (self.frame.len() + batch.bytes.len() > bytes_max
                || self.records.len() + batch.records.len() > RECORDS_MAX)
    }

    /// Numbers the records of a batch and takes them in. `next` is the group's first position.
    pub(super) fn add(
        &mut self,
        next: Position,
        append: &Append,
        batch: &Batch,
        view: &View,
    ) -> Result<Appended, ReadError> {
        let first = next.advanced_by(self.records.len() as u64);
        // All look-ups first: if one fails, the group is as it was.
        let ends = append
            .events
            .iter()
            .map(|event| self.stream_end(view, &event.stream))
            .collect::<Result<Vec<_>, _>>()?;
        self.frame.resize(self.frame.len().max(HEADER_BYTES), 0);
        let (frame_start, terms_start) = (self.frame.len(), self.terms.len());
        self.frame.extend_from_slice(&batch.bytes);
        self.terms.extend_from_slice(&batch.terms);
        let mut position = first;
        let staged = append.events.iter().zip(ends).zip(&batch.records);
        for (at, ((event, committed), record)) in staged.enumerate() {
            let &BatchRecord { start, len, terms_end } = record;
            // An earlier event of the same batch may have extended the stream since.
            let (revision, previous) =
                self.streams.get(&event.stream).copied().unwrap_or(committed);
            let revision = revision.next();
            self.streams.insert(event.stream.clone(), (revision, position));
            self.records.push(Staged {
                start: frame_start + start,
                len,
                terms_end: terms_start + terms_end,
                revision,
                previous,
                append: self.waiting.len(),
                event: at,
            });
            position = position.next();
        }
        let appended = Appended { first, last: position.previous(), deduplicated: false };
        if let Some(id) = append.append_id {
            self.ids.insert(id, Remembered { appended, digest: batch.digest });
        }
        self.sync |= append.sync;
        Ok(appended)
    }

    pub(super) fn stream_end(
        &self,
        view: &View,
        stream: &StreamId,
    ) -> Result<(Revision, Position), ReadError> {
        let staged = self.streams.get(stream).filter(|_| !planted(Bug::ForgetStaged));
        match staged.copied().or_else(|| self.heads.find(stream)) {
            Some(end) => Ok(end),
            None => view.stream_end(stream),
        }
    }

    /// Returns the last staged event that a query condition forbids. `next` is the group's first
    /// position.
    ///
    /// # Complexity
    ///
    /// Linear in what the terms propose; each event is indexed once, and only if this is called.
    pub(super) fn latest_match(
        &mut self,
        next: Position,
        clause: &QueryCondition,
    ) -> Option<Position> {
        let before = clause.after.events_since(next).map_or(0, |deltas| deltas + 1);
        let first = u32::try_from(before).ok()?;
        let last = u32::try_from(self.records.len()).ok()?.checked_sub(1)?;
        if first > last {
            return None;
        }
        let index = self.index.get_or_insert_with(|| MemoryIndex::from(0));
        let mut at = index.end() as usize;
        let mut terms = at.checked_sub(1).map_or(0, |before| self.records[before].terms_end);
        while let Some(staged) = self.records.get(at) {
            index.push(0, &self.terms[terms..staged.terms_end]);
            (at, terms) = (at + 1, staged.terms_end);
        }
        let (query, index) = (Terms::of(&clause.query), self.index.as_ref()?);
        let matches = |delta| clause.query.matches(self.event(delta));
        let found = index.latest_match(&query, (first, last), matches);
        let found = found.expect("an index in memory has no faults")?;
        Some(next.advanced_by(found.into()))
    }

    /// Returns a staged event.
    fn event(&self, delta: u32) -> &NewEvent {
        let Staged { append, event, .. } = self.records[delta as usize];
        let (append, _) = self.waiting[append].lent.as_ref().expect("it was added, so it is lent");
        &append.events[event]
    }

    /// Remembers where a group that was written left its streams.
    pub(super) fn note_heads(&mut self) {
        for (stream, &end) in &self.streams {
            self.heads.note(stream, end);
        }
    }

    /// Forgets everything of the group but who waits.
    pub(super) fn clear(&mut self) {
        self.frame.clear();
        self.records.clear();
        self.terms.clear();
        self.index = None;
        self.streams.clear();
        self.ids.clear();
        self.sync = false;
        if self.frame.capacity() > FRAME_BYTES_KEPT {
            self.frame = Vec::new();
        }
    }
}
