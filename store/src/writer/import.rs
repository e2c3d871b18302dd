//! Taking in what another log has committed: appends whose positions, revisions and times are
//! given, and are checked instead of made.

use std::sync::Arc;

use headwater_core::{Append, AppendError, Position, ReadError, Revision, StreamId, Timestamp};

use super::batch::Batch;
use super::{Core, Writer, lock};

/// An append as a log has it.
#[derive(Debug)]
pub(crate) struct Committed {
    append: Append,
    batch: Batch,
    time: Timestamp,
    places: Vec<Standing>,
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) position: Position,
    pub(crate) revision: Revision,
    /// Position of the stream's event before, where that was removed.
    pub(crate) removed: Option<Position>,
}

/// Why an event cannot stand where it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misplaced {
    /// The positions have a hole or a repeat here.
    #[error("position {found} stands where {due} is due: a line is missing, repeated or moved")]
    Position {
        /// The position of the event.
        found: Position,
        /// The one that follows the event before.
        due: Position,
    },
    /// Commit times never go back.
    #[error("it was committed earlier than the event before it")]
    Time,
    /// The revisions of a stream have a hole or a repeat here.
    #[error("revision {found} of stream {stream} stands where {due} is due")]
    Revision {
        /// The stream.
        stream: StreamId,
        /// The revision of the event.
        found: Revision,
        /// The one that follows the stream's event before.
        due: Revision,
    },
    /// What the event follows in its stream is not among what was removed.
    #[error("stream {stream} cannot go on from position {previous}, which was not removed")]
    Previous {
        /// The stream.
        stream: StreamId,
        /// Where its event before is said to have been.
        previous: Position,
    },
}

/// Why an append was not taken in.
#[derive(Debug)]
pub(crate) enum ImportFault {
    /// An event of it, by number from 0, does not follow what is there.
    Misplaced(usize, Misplaced),
    /// It, or one that came before, could not be written.
    Failed(AppendError),
}

impl Committed {
    /// Checks the limits and encodes. There is a place for each event.
    pub(crate) fn new(
        append: Append,
        time: Timestamp,
        places: Vec<Standing>,
        segment_bytes: u64,
    ) -> Result<Self, AppendError> {
        debug_assert_eq!(append.events.len(), places.len());
        let batch = Batch::encode(&append, segment_bytes)?;
        Ok(Self { append, batch, time, places })
    }

    pub(crate) fn events(&self) -> usize {
        self.places.len()
    }
}

impl Writer {
    /// Takes in the next append. Those of one commit time are written together, so it may wait for
    /// the next one, or for [`finish_import`](Self::finish_import).
    pub(crate) fn import(&self, committed: &mut Committed) -> Result<(), ImportFault> {
        lock(&self.core).import(committed)
    }

    /// Writes what waits for more of its commit time.
    pub(crate) fn finish_import(&self) -> Result<(), AppendError> {
        lock(&self.core).commit()
    }
}

impl Core {
    fn import(&mut self, committed: &mut Committed) -> Result<(), ImportFault> {
        let Committed { append, batch, time, places } = committed;
        let same = self.group.commit_time.is_none_or(|group| group == *time);
        if !same || self.group.is_full(batch, self.group_bytes) {
            self.commit().map_err(ImportFault::Failed)?;
        }
        let next = self.tail.next().advanced_by(self.group.records.len() as u64);
        for (at, (event, place)) in append.events.iter().zip(places.iter()).enumerate() {
            let misplaced = |fault| ImportFault::Misplaced(at, fault);
            let due = next.advanced_by(at as u64);
            if place.position != due {
                return Err(misplaced(Misplaced::Position { found: place.position, due }));
            }
            if *time < self.tail.commit_time() {
                return Err(misplaced(Misplaced::Time));
            }
            if let Some(previous) = place.removed {
                let stream = &event.stream;
                let again = append.events[..at].iter().any(|other| other.stream == *stream);
                let end =
                    self.group.stream_end(self.tail.next(), stream, &self.view).map_err(unread)?;
                let before = Revision::new(place.revision.get().saturating_sub(1));
                // That must have been its last event, as far as anybody knows.
                let follows = end == (Revision::NONE, Position::START) || end == (before, previous);
                let removed = Position::FIRST..=self.view.start();
                if again || !follows || before == Revision::NONE || !removed.contains(&previous) {
                    let stream = stream.clone();
                    return Err(misplaced(Misplaced::Previous { stream, previous }));
                }
                self.group.begin_stream(stream, (before, previous));
            }
        }
        let staged = self.group.records.len();
        let added = self.group.add(self.tail.next(), append, batch, &self.view);
        added.map_err(unread)?;
        self.group.commit_time = Some(*time);
        let numbered = self.group.records[staged..].iter().zip(places.iter());
        for (at, (staged, place)) in numbered.enumerate() {
            if staged.revision != place.revision {
                let stream = append.events[at].stream.clone();
                let (found, due) = (place.revision, staged.revision);
                let fault = Misplaced::Revision { stream, found, due };
                return Err(ImportFault::Misplaced(at, fault));
            }
        }
        Ok(())
    }
}

fn unread(error: ReadError) -> ImportFault {
    ImportFault::Failed(AppendError::Check(Arc::new(error)))
}
