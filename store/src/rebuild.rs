//! What a walk over the log rebuilds in memory: the index of each segment, and the idempotency
//! window.

use headwater_core::{Appended, Position};

use crate::format::frame::{FrameHeader, HEADER_BYTES};
use crate::format::metadata::AppendMark;
use crate::format::record;
use crate::index::{Term, terms};
use crate::segment::Segment;
use crate::writer::{Remembered, Window};

/// Rebuilds as it sees the frames of the log, in order.
#[derive(Debug)]
pub(crate) struct Rebuild {
    window: Option<Window>,
    batch: Option<(AppendMark, Position)>,
    terms: Vec<Term>,
}

impl Rebuild {
    /// Rebuilds the indexes, and a window too if one is given.
    pub(crate) fn new(window: Option<Window>) -> Self {
        Self { window, batch: None, terms: Vec::new() }
    }

    /// Returns the rebuilt window.
    pub(crate) fn into_window(self) -> Option<Window> {
        self.window
    }

    /// Takes in a frame whose checksums are right. Refuses one whose records are not.
    pub(crate) fn frame(
        &mut self,
        segment: &Segment,
        offset: u64,
        frame: &FrameHeader,
        body: &[u8],
    ) -> Result<(), String> {
        let mut index = segment.index_mut();
        let narrow = |offset: u64| u32::try_from(offset).map_err(|error| error.to_string());
        let mut records = Vec::with_capacity(frame.records as usize);
        for record in record::records(body, frame.records, &segment.seed) {
            let (start, record) =
                record.map_err(|fault| format!("record {}: {fault}", records.len()))?;
            records.push((narrow(offset + (HEADER_BYTES + start) as u64)?, record));
        }
        if records.len() != frame.records as usize {
            return Err(format!("it holds {} records, not {}", records.len(), frame.records));
        }
        index.begin_frame(narrow(offset)?);
        let mut position = frame.first;
        for (at, record) in &records {
            self.terms.clear();
            terms(&mut self.terms, record.stream, record.event_type, record.tags());
            index.push(*at, &self.terms);
            self.remember(record, position).map_err(|fault| fault.to_string())?;
            position = position.next();
        }
        Ok(())
    }

    fn remember(
        &mut self,
        record: &record::RecordRef<'_>,
        position: Position,
    ) -> Result<(), record::RecordFault> {
        let Some(window) = &mut self.window else {
            return Ok(());
        };
        if record.is_first_of_batch() {
            self.batch = record.metadata()?.append.map(|mark| (mark, position));
        }
        if record.is_last_of_batch()
            && let Some((mark, first)) = self.batch.take()
        {
            let appended = Appended { first, last: position, deduplicated: false };
            window.insert(mark.id, Remembered { appended, digest: mark.digest });
        }
        Ok(())
    }
}
