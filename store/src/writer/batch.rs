//! An append, encoded by its caller before the writer sees it.

use headwater_core::{Append, AppendError, InvalidAppend, Selectable};

use crate::format::BLOCK_BYTES;
use crate::format::frame::{FRAME_BYTES_MAX, HEADER_BYTES};
use crate::format::metadata::AppendMark;
use crate::format::record;
use crate::index::{Term, terms};
use crate::planted::{Bug, planted};

/// One record of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchRecord {
    /// Where it begins in the batch.
    pub(super) start: usize,
    pub(super) len: usize,
    /// Where its terms end in the batch's terms.
    pub(super) terms_end: usize,
    /// The hash of its stream's name.
    pub(super) stream_hash: u64,
}

/// The records of an append, complete but for what the writer fills in.
#[derive(Debug)]
pub(super) struct Batch {
    /// Room for the header of a frame, and the records.
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<BatchRecord>,
    pub(super) terms: Vec<Term>,
    /// Digest of the content, if the append has an id.
    pub(super) digest: u64,
}

impl Batch {
    /// Checks an append and encodes it; `segment_bytes` limits it to a quarter of a segment.
    pub(super) fn encode(append: &Append, segment_bytes: u64) -> Result<Self, AppendError> {
        append.check()?;
        let digest = append.append_id.map_or(0, |_| append.content_digest());
        let estimate: usize =
            append.events.iter().map(|event| event.size_bytes() + record::HEADER_BYTES).sum();
        let mut batch = Self {
            // To the end of a block, if this becomes a frame of its own.
            bytes: Vec::with_capacity(HEADER_BYTES + estimate + BLOCK_BYTES),
            records: Vec::with_capacity(append.events.len()),
            terms: Vec::with_capacity(append.events.len() * 4),
            digest,
        };
        batch.bytes.resize(HEADER_BYTES, 0);
        let last = append.events.len() - 1;
        for (at, event) in append.events.iter().enumerate() {
            let start = batch.bytes.len();
            let mark = append.append_id.filter(|_| at == 0).map(|id| AppendMark { id, digest });
            let ends = at == last || planted(Bug::EndBatchesEarly);
            record::encode(&mut batch.bytes, event, (at == 0, ends), mark);
            let tags = event.tags.iter().map(AsRef::as_ref);
            let id = mark.map(|mark| mark.id);
            let (stream, event_type) = (event.stream.as_str(), event.event_type.as_str());
            let stream_hash = terms(&mut batch.terms, stream, event_type, tags, event.flow(), id);
            batch.records.push(BatchRecord {
                start,
                len: batch.bytes.len() - start,
                terms_end: batch.terms.len(),
                stream_hash,
            });
        }
        let quarter = usize::try_from(segment_bytes / 4).unwrap_or(usize::MAX);
        let max = quarter.min(FRAME_BYTES_MAX) - 2 * HEADER_BYTES;
        let actual = batch.bytes.len() - HEADER_BYTES;
        if actual > max {
            let what = "encoded bytes";
            return Err(InvalidAppend::BatchTooLarge { what, actual, max }.into());
        }
        Ok(batch)
    }
}
