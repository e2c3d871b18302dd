//! A group: appends that are written as one frame, and what they make of the streams meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use headwater_core::{
    Append, AppendError, AppendId, Appended, NewEvent, Position, QueryCondition, ReadError,
    Revision, StreamId, Timestamp,
};

use super::Asker;
use super::batch::{Batch, BatchRecord};
use super::heads::Heads;
use super::remembered::Remembered;
use crate::format::frame::HEADER_BYTES;
use crate::format::record;
use crate::index::{MemoryIndex, Term, Terms, stream_hash};
use crate::planted::{Bug, planted};
use crate::view::View;

/// A group is closed when it has this many bytes, or a quarter of a segment.
pub(super) const BYTES_MAX: usize = 1024 * 1024;
/// A group is closed when it has this many records.
const RECORDS_MAX: usize = 4096;
/// A larger batch becomes the group's frame as it is, if it is the first; others are copied.
const COPIED_BYTES_MAX: usize = 64 * 1024;
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
    /// The number of the newest record of each stream that the group extends.
    streams: HashTable<usize>,
    /// Where groups before left theirs.
    heads: Heads,
    pub(super) ids: HashMap<AppendId, Remembered>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) refused: Vec<Refused>,
    pub(super) sync: bool,
    /// Streams that go on from an event which was removed elsewhere.
    begun: HashMap<StreamId, (Revision, Position)>,
    /// When it is committed, if that is not now.
    pub(super) commit_time: Option<Timestamp>,
}

/// Who waits for the group to be written.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) asker: Asker,
    pub(super) appended: Appended,
    /// What goes back with the answer; nothing if this repeats an append of the group.
    pub(super) lent: Option<(Append, Batch)>,
}

/// Whose condition does not hold. It is told with the group.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) asker: Asker,
    pub(super) conflict: AppendError,
    /// What it conflicts with may be in the group.
    pub(super) rests_on_group: bool,
    pub(super) lent: (Append, Batch),
}

impl Refused {
    /// Returns the error to tell, after what became of the group: nobody may be refused for an event
    /// that was never written.
    pub(super) fn error(&self, group: &Result<(), AppendError>) -> AppendError {
        match group {
            Err(AppendError::Indeterminate(cause) | AppendError::Poisoned(cause))
                if self.rests_on_group =>
            {
                AppendError::Poisoned(Arc::clone(cause))
            }
            Err(error) if self.rests_on_group => error.clone(),
            _ => self.conflict.clone(),
        }
    }
}

/// A record in the frame, and what only the writer knows of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) terms_end: usize,
    pub(super) revision: Revision,
    pub(super) previous: Position,
    stream_hash: u64,
    /// Which of those who wait appended it, and which event of theirs it is.
    places: (usize, usize),
}

/// Returns the name of the stream of a record in a frame.
fn name<'a>(frame: &'a [u8], staged: &Staged) -> &'a [u8] {
    record::stream_name(&frame[staged.start..])
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
        batch: &mut Batch,
        view: &View,
    ) -> Result<Appended, ReadError> {
        let begin = (self.frame.len(), self.records.len(), self.terms.len());
        self.take(batch);
        self.heads.touch(batch.records.iter().map(|record| record.stream_hash));
        for (at, event) in append.events.iter().enumerate() {
            if let Err(error) = self.number(next, batch, at, &event.stream, view) {
                self.go_back_to(begin);
                return Err(error);
            }
        }
        let first = next.advanced_by(begin.1 as u64);
        let last = next.advanced_by(self.records.len() as u64).previous();
        let appended = Appended { first, last, deduplicated: false };
        if let Some(id) = append.append_id {
            self.ids.insert(id, Remembered { appended, digest: batch.digest });
        }
        self.sync |= append.sync;
        Ok(appended)
    }

    /// Takes the bytes and terms of a batch in, and says where in the group its records are.
    fn take(&mut self, batch: &mut Batch) {
        let terms_start = self.terms.len();
        self.terms.extend_from_slice(&batch.terms);
        let moved = self.frame.len().saturating_sub(HEADER_BYTES);
        for record in &mut batch.records {
            record.start += moved;
            record.terms_end += terms_start;
        }
        if self.frame.is_empty() && batch.bytes.len() > COPIED_BYTES_MAX {
            std::mem::swap(&mut self.frame, &mut batch.bytes);
        } else {
            let header = if self.frame.is_empty() { 0 } else { HEADER_BYTES };
            self.frame.extend_from_slice(&batch.bytes[header..]);
        }
    }

    /// Gives the next record of a batch its place in its stream.
    fn number(
        &mut self,
        next: Position,
        batch: &Batch,
        event: usize,
        stream: &StreamId,
        view: &View,
    ) -> Result<(), ReadError> {
        let BatchRecord { start, len, terms_end, stream_hash } = batch.records[event];
        let Self { frame, records, streams, begun, heads, .. } = self;
        let number = records.len();
        let is_same = |&at: &usize| name(frame, &records[at]) == stream.as_str().as_bytes();
        let (revision, previous) =
            match streams.entry(stream_hash, is_same, |&at| records[at].stream_hash) {
                Entry::Occupied(mut newest) => {
                    let before = std::mem::replace(newest.get_mut(), number);
                    (records[before].revision, next.advanced_by(before as u64))
                }
                Entry::Vacant(place) => {
                    let known = begun.get(stream).copied();
                    let end = match known.or_else(|| heads.find(stream, stream_hash)) {
                        Some(end) => end,
                        None => view.stream_end(stream)?,
                    };
                    place.insert(number);
                    end
                }
            };
        let append = self.waiting.len();
        let revision = revision.next();
        let places = (append, event);
        self.records.push(Staged {
            start,
            len,
            terms_end,
            revision,
            previous,
            stream_hash,
            places,
        });
        Ok(())
    }

    /// Forgets what was taken in since the group had so many bytes, records and terms.
    fn go_back_to(&mut self, (bytes, records, terms): (usize, usize, usize)) {
        self.frame.truncate(bytes);
        self.records.truncate(records);
        self.terms.truncate(terms);
        self.streams.clear();
        let Self { frame, records, streams, .. } = self;
        for (number, staged) in records.iter().enumerate() {
            let is_same = |&at: &usize| name(frame, &records[at]) == name(frame, staged);
            let hash = |&at: &usize| records[at].stream_hash;
            *streams.entry(staged.stream_hash, is_same, hash).or_insert(number).get_mut() = number;
        }
    }

    /// Lets a stream go on in this group from an event that the log does not know.
    pub(super) fn begin_stream(&mut self, stream: &StreamId, end: (Revision, Position)) {
        self.begun.insert(stream.clone(), end);
    }

    /// Returns where the log and what is staged so far leave a stream. `next` is the group's first
    /// position.
    pub(super) fn stream_end(
        &self,
        next: Position,
        stream: &StreamId,
        view: &View,
    ) -> Result<(Revision, Position), ReadError> {
        let hash = stream_hash(stream.as_str());
        let is_same =
            |&at: &usize| name(&self.frame, &self.records[at]) == stream.as_str().as_bytes();
        let staged = self.streams.find(hash, is_same).filter(|_| !planted(Bug::ForgetStaged));
        if let Some(&at) = staged {
            return Ok((self.records[at].revision, next.advanced_by(at as u64)));
        }
        self.heads.find(stream, hash).map_or_else(|| view.stream_end(stream), Ok)
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
        let (append, event) = self.records[delta as usize].places;
        let (append, _) = self.waiting[append].lent.as_ref().expect("it was added, so it is lent");
        &append.events[event]
    }

    /// Remembers where a group that was written left its streams. `first` is its first position.
    pub(super) fn note_heads(&mut self, first: Position) {
        for &at in &self.streams {
            let staged = &self.records[at];
            let end = (staged.revision, first.advanced_by(at as u64));
            self.heads.note(name(&self.frame, staged), staged.stream_hash, end);
        }
    }

    /// Drops the appends whose caller is this thread, which it would do when it is answered.
    pub(super) fn drop_lent(&mut self) {
        for waiting in &mut self.waiting {
            if matches!(waiting.asker, Asker::Here) {
                waiting.lent = None;
            }
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
        self.commit_time = None;
        self.begun.clear();
        if self.frame.capacity() > FRAME_BYTES_KEPT {
            self.frame = Vec::new();
        }
    }
}
