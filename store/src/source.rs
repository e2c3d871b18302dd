//! A log as it is at a moment, to be copied.

use std::io;
use std::sync::Arc;

use headwater_core::Position;

use crate::format::catalog::LogEntry;
use crate::format::segment::file_name;
use crate::fs::{Access, FsFile};
use crate::log::{LogDir, Recovered};
use crate::segment::Segment;

/// A log. Everything in it is on the device.
#[derive(Debug, Default)]
pub(crate) struct LogSource {
    /// What a catalog says of it.
    pub(crate) entry: LogEntry,
    /// No frame has a higher one.
    pub(crate) epoch: u32,
    /// Segments that nobody writes to any more, oldest first, by first position and id.
    pub(crate) sealed: Vec<(Position, u64)>,
    /// Segments that are held open: the newest, and those whose names may go.
    pub(crate) held: Vec<Held>,
}

/// A segment that is held open.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn FsFile>,
    /// Where it ends; zeros follow.
    pub(crate) end: u64,
    pub(crate) capacity_bytes: u64,
}

impl LogSource {
    /// Takes a log whose newest segment is durable up to `end`, where `last` lies.
    pub(crate) fn new(
        sealed: Vec<(Position, u64)>,
        active: &Segment,
        (end, last): (u64, Position),
        epoch: u32,
    ) -> Self {
        let header = &active.header;
        let entry = LogEntry {
            first_segment: sealed.first().map_or(header.id, |&(_, id)| id),
            active_segment: header.id,
            durable: last,
        };
        let held = Held {
            name: header.file_name(),
            file: Arc::clone(&active.file),
            end,
            capacity_bytes: header.capacity_bytes,
        };
        Self { entry, epoch, sealed, held: vec![held] }
    }

    /// Takes a log that was read, and makes sure that it is on the device: whoever wrote it may
    /// not have, and a copy is never ahead of its source.
    pub(crate) fn read(log: Recovered) -> io::Result<Self> {
        let Some(active) = &log.active else { return Ok(Self::default()) };
        active.file.sync()?;
        let end = (log.end.end, log.end.next.previous());
        Ok(Self::new(log.sealed, active, end, log.end.epoch))
    }

    /// Opens the sealed segments too.
    pub(crate) fn hold(mut self, dir: &LogDir) -> io::Result<Self> {
        for (base, id) in self.sealed.drain(..) {
            let name = file_name(base, id);
            let file = dir.fs.open(&dir.path().join(&name), Access::Read)?;
            let capacity_bytes = file.size()?;
            self.held.push(Held { name, file, end: capacity_bytes, capacity_bytes });
        }
        Ok(self)
    }
}
