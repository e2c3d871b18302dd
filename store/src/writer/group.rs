//! A group: appends that are written as one frame, and what they make of the streams meanwhile.

use std::collections::HashMap;

use headwater_core::{
    Append, AppendId, Appended, Position, QueryCondition, ReadError, Revision, StreamId,
};
use tokio::sync::oneshot;

use super::Answer;
use super::batch::{Batch, BatchRecord};
use super::remembered::Remembered;
use crate::format::frame::HEADER_BYTES;
use crate::index::Term;
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
    /// Where the group leaves the streams that it extends.
    streams: HashMap<StreamId, (Revision, Position)>,
    appends: Vec<Append>,
    pub(super) ids: HashMap<AppendId, Remembered>,
    pub(super) waiting: Vec<(oneshot::Sender<Answer>, Appended)>,
    pub(super) sync: bool,
}

/// A record in the frame, and what only the writer knows of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staged {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) terms_end: usize,
    pub(super) revision: Revision,
    pub(super) previous: Position,
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
        append: Append,
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
        for ((event, committed), record) in append.events.iter().zip(ends).zip(&batch.records) {
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
            });
            position = position.next();
        }
        let appended = Appended { first, last: position.previous(), deduplicated: false };
        if let Some(id) = append.append_id {
            self.ids.insert(id, Remembered { appended, digest: batch.digest });
        }
        self.sync |= append.sync;
        self.appends.push(append);
        Ok(appended)
    }

    pub(super) fn stream_end(
        &self,
        view: &View,
        stream: &StreamId,
    ) -> Result<(Revision, Position), ReadError> {
        match self.streams.get(stream) {
            Some(&end) => Ok(end),
            None => view.stream_end(stream),
        }
    }

    /// Returns the last staged event that a query condition forbids.
    pub(super) fn latest_match(&self, next: Position, clause: &QueryCondition) -> Option<Position> {
        let events = self.appends.iter().flat_map(|append| &append.events);
        (0..)
            .map(|n| next.advanced_by(n))
            .zip(events)
            .filter(|(position, event)| *position > clause.after && clause.query.matches(*event))
            .last()
            .map(|(position, _)| position)
    }

    pub(super) fn clear(&mut self) {
        self.frame.clear();
        self.records.clear();
        self.terms.clear();
        self.streams.clear();
        self.appends.clear();
        self.ids.clear();
        self.sync = false;
        if self.frame.capacity() > FRAME_BYTES_KEPT {
            self.frame = Vec::new();
        }
    }
}
