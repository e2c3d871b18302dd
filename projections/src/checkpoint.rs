//! How far a projection is, and of which log, version and selection that speaks.

use headwater_core::{EventId, EventLog, LogId, Position, Query, Read, ReadError, RecordedEvent};
use serde::{Deserialize, Serialize};

use crate::projection::Projection;

/// Which projection of which log a read model belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProjectionId {
    /// The projection's name.
    pub name: String,
    /// The version of its fold.
    pub version: u32,
    /// The log it reads.
    pub log: LogId,
    /// The fingerprint of its selection.
    pub selection: u64,
}

impl ProjectionId {
    /// Says what `projection` over `log` is.
    pub fn of<P: Projection>(projection: &P, log: &dyn EventLog) -> Self {
        Self {
            name: projection.name().to_owned(),
            version: projection.version(),
            log: log.id(),
            selection: projection.selection().fingerprint(),
        }
    }
}

/// The position up to which a read model holds everything. It is committed with the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which projection of which log.
    pub id: ProjectionId,
    /// Every selected event up to here is applied, and none after.
    pub position: Position,
    /// The log's last event up to there, selected or not. A log that was restored, rolled back or
    /// lost its end has another one there once it has grown again. `None` before the first event,
    /// where retention had removed it already, and in checkpoints of earlier versions.
    ///
    /// It is read even where the selection leaves it out: damage in such an event stops the
    /// projection with [`StopCause::Log`](crate::StopCause::Log), though it would never apply it.
    pub event: Option<EventId>,
}

/// Why a checkpoint cannot be continued from. Nothing was changed.
///
/// The remedy is the same for all but another projection's read model and a lost log: start with
/// [`Begin::Rebuild`](crate::Begin::Rebuild), which drops the read model and applies everything
/// again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointMismatch {
    /// The read model is another projection's.
    #[error(
        "the read model is of projection {stored}, and this is projection {given}; give each a sink of its own or rebuild"
    )]
    Name {
        /// The projection of the checkpoint.
        stored: String,
        /// The projection that was given.
        given: String,
    },
    /// The read model was built from another log.
    #[error(
        "the read model of {projection} was built from log {stored}, and this is log {given}; open the right log or rebuild"
    )]
    Log {
        /// The projection.
        projection: String,
        /// The log of the checkpoint.
        stored: LogId,
        /// The log that was given.
        given: LogId,
    },
    /// The read model was built by another version of the fold.
    #[error(
        "the read model of {projection} was built by version {stored}, and this is version {given}; rebuild it or run that version"
    )]
    Version {
        /// The projection.
        projection: String,
        /// The version of the checkpoint.
        stored: u32,
        /// The version that was given.
        given: u32,
    },
    /// The read model was built from other events.
    #[error(
        "the read model of {projection} was built with selection {stored:016x}, and this is selection {given:016x}; rebuild it and raise its version"
    )]
    Selection {
        /// The projection.
        projection: String,
        /// The fingerprint of the checkpoint.
        stored: u64,
        /// The fingerprint that was given.
        given: u64,
    },
    /// The read model knows other events than the log has at the same positions: the log was
    /// restored from a backup, rolled back or lost its end, and has grown again since.
    #[error(
        "the read model of {projection} is at position {position}, where the log had event {stored} then and has {found} now: it was restored or lost its end, and has grown again; rebuild the read model"
    )]
    Diverged {
        /// The projection.
        projection: String,
        /// The position of the checkpoint.
        position: Position,
        /// The event that was there.
        stored: EventId,
        /// The event that is there.
        found: EventId,
    },
    /// The read model knows events that the log does not have: the log was restored from a
    /// backup or lost its end.
    #[error(
        "the read model of {projection} is at position {stored}, and the log ends at {head}; restore the rest of the log or rebuild"
    )]
    BeyondHead {
        /// The projection.
        projection: String,
        /// The position of the checkpoint.
        stored: Position,
        /// The last position of the log.
        head: Position,
    },
}

impl Checkpoint {
    /// Checks that a projection of a log that ends at `head` can go on from here.
    ///
    /// # Errors
    ///
    /// The first [`CheckpointMismatch`] that applies.
    pub fn check(&self, given: &ProjectionId, head: Position) -> Result<(), CheckpointMismatch> {
        let projection = given.name.clone();
        let stored = &self.id;
        if stored.name != given.name {
            return Err(CheckpointMismatch::Name {
                stored: stored.name.clone(),
                given: projection,
            });
        }
        if stored.log != given.log {
            return Err(CheckpointMismatch::Log {
                projection,
                stored: stored.log,
                given: given.log,
            });
        }
        if stored.version != given.version {
            return Err(CheckpointMismatch::Version {
                projection,
                stored: stored.version,
                given: given.version,
            });
        }
        if stored.selection != given.selection {
            return Err(CheckpointMismatch::Selection {
                projection,
                stored: stored.selection,
                given: given.selection,
            });
        }
        if self.position > head {
            return Err(CheckpointMismatch::BeyondHead { projection, stored: self.position, head });
        }
        Ok(())
    }

    /// Checks that the log has the event that this checkpoint names where it was. What cannot be
    /// compared fits: the checkpoint or the log may not know the event any more.
    ///
    /// # Errors
    ///
    /// [`CheckpointMismatch::Diverged`] inside, if the log has another one.
    pub(crate) async fn check_event(
        &self,
        log: &dyn EventLog,
    ) -> Result<Result<(), CheckpointMismatch>, ReadError> {
        let Some(stored) = self.event else { return Ok(Ok(())) };
        match event_at(log, self.position).await? {
            Some(found) if found != stored => Ok(Err(CheckpointMismatch::Diverged {
                projection: self.id.name.clone(),
                position: self.position,
                stored,
                found,
            })),
            _ => Ok(Ok(())),
        }
    }
}

/// Returns the log's last event up to a position; `None` if there is none, or none any more.
pub(crate) async fn event_at(
    log: &dyn EventLog,
    position: Position,
) -> Result<Option<EventId>, ReadError> {
    if position == Position::START {
        return Ok(None);
    }
    match log.read(Read::backward(Query::all(), position.next()).limit(1)).await {
        Ok(page) => Ok(page.events.first().map(|event| event.id)),
        Err(ReadError::BelowStart { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the log's last event up to a position of which a page that ends there tells: no read is
/// needed where everything is selected.
pub(crate) async fn last_event(
    log: &dyn EventLog,
    page: &[RecordedEvent],
    scanned: Position,
) -> Result<Option<EventId>, ReadError> {
    match page.last() {
        Some(last) if last.position == scanned => Ok(Some(last.id)),
        _ => event_at(log, scanned).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_the_identity_is_compared_and_shown() {
        let id = ProjectionId {
            name: "p".into(),
            version: 1,
            log: LogId::from_bytes([1; 16]),
            selection: 7,
        };
        let stored = Checkpoint { id: id.clone(), position: Position::new(5), event: None };
        let head = Position::new(5);
        assert_eq!(stored.check(&id, head), Ok(()));
        let other = |change: fn(&mut ProjectionId)| {
            let mut given = id.clone();
            change(&mut given);
            stored.check(&given, head).unwrap_err().to_string()
        };
        let name = other(|id| id.name = "q".into());
        assert!(name.contains("projection p") && name.contains("projection q"), "{name}");
        let version = other(|id| id.version = 2);
        assert!(version.contains("version 1") && version.contains("version 2"), "{version}");
        let log = other(|id| id.log = LogId::from_bytes([2; 16]));
        assert!(log.contains("01010101") && log.contains("02020202"), "{log}");
        let selection = other(|id| id.selection = 8);
        assert!(selection.contains("07") && selection.contains("08"), "{selection}");
        let beyond = stored.check(&id, Position::new(4)).unwrap_err().to_string();
        assert!(beyond.contains("position 5") && beyond.contains("ends at 4"), "{beyond}");
    }
}
