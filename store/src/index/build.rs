//! Making an index file of the indexes of the parts of a segment.

use headwater_core::Timestamp;

use super::postings;
use super::{IndexFault, IndexFile, Lists, MemoryIndex, Term, Walk};
use crate::format::index::{
    Covered, ENTRY_BYTES, IndexHeader, MARK_EVERY, MOMENT_EVERY, PAGE_BYTES, VALUE_IS_OFFSET,
};
use crate::format::segment::SegmentHeader;

/// Entries of a bucket, about.
const BUCKET_ENTRIES: usize = 8;

/// Sections in the making.
#[derive(Default)]
struct Parts {
    marks: Vec<u8>,
    moments: Vec<u8>,
    /// The first event that the next moment may stand for.
    next_moment: u32,
    /// Terms, each with the number of the index that has it.
    terms: Vec<(Term, u32)>,
}

/// Returns the bytes of an index file that covers what `file` covers, if there is one, and what
/// the indexes in memory have behind it, which is not nothing.
///
/// # Complexity
///
/// *O*(*n* log *n*) in the number of terms; memory for about two bytes per event, and the file.
pub(crate) fn build(
    segment: &SegmentHeader,
    covered: Covered,
    file: Option<&IndexFile>,
    memory: &[&MemoryIndex],
) -> Result<Vec<u8>, IndexFault> {
    let mut parts = Parts::default();
    if let Some(file) = file {
        parts.take_file(file)?;
    }
    for (at, index) in (1..).zip(memory) {
        parts.take_memory(index, at);
    }
    parts.terms.sort_unstable();
    let distinct = parts.terms.chunk_by(|a, b| a.0 == b.0).count();
    let bucket_bits = (distinct / BUCKET_ENTRIES).max(1).ilog2().min(24);
    let mut buckets = Vec::with_capacity(((1 << bucket_bits) + 1) * 4);
    let mut entries = Vec::with_capacity(distinct * ENTRY_BYTES);
    let mut posted = Vec::new();
    let mut list = Vec::new();
    for same in parts.terms.chunk_by(|a, b| a.0 == b.0) {
        let term = same[0].0;
        list.clear();
        for &(term, at) in same {
            let everything = (0, u32::MAX);
            let found = match (at.checked_sub(1), file) {
                (Some(at), _) => memory[at as usize].list(term)?,
                (None, Some(file)) => file.list(term)?,
                (None, None) => unreachable!("only a file gives part 0"),
            };
            found.collect(everything, usize::MAX, Walk::Up, &mut list)?;
        }
        let value = if let [one] = *list {
            one
        } else {
            let at = u32::try_from(posted.len()).ok().filter(|at| at & VALUE_IS_OFFSET == 0);
            postings::encode(&mut posted, &list);
            VALUE_IS_OFFSET | at.ok_or(IndexFault::Bounds)?
        };
        fill_buckets(&mut buckets, bucket_of(term, bucket_bits), entries.len());
        entries.extend_from_slice(&term.to_le_bytes());
        entries.extend_from_slice(&value.to_le_bytes());
    }
    fill_buckets(&mut buckets, 1 << bucket_bits, entries.len());
    let count = |bytes: usize, each| u32::try_from(bytes / each).map_err(|_| IndexFault::Bounds);
    let mut header = IndexHeader {
        store: segment.store,
        segment: segment.id,
        salt: segment.salt,
        base: segment.base,
        covered,
        moments: count(parts.moments.len(), crate::format::index::MOMENT_BYTES)?,
        entries: count(entries.len(), ENTRY_BYTES)?,
        postings_bytes: count(posted.len(), 1)?,
        bucket_bits,
        pages_crc: 0,
    };
    let mut body = [parts.marks, parts.moments, buckets, entries, posted].concat();
    body.resize(body.len().next_multiple_of(4), 0);
    let table: Vec<u8> =
        body.chunks(PAGE_BYTES).flat_map(|page| crc32fast::hash(page).to_le_bytes()).collect();
    header.pages_crc = crc32fast::hash(&table);
    let file = [header.encode(), body, table].concat();
    debug_assert_eq!(file.len(), header.sections().file_bytes);
    Ok(file)
}

fn bucket_of(term: Term, bits: u32) -> usize {
    if bits == 0 { 0 } else { (term >> (32 - bits)) as usize }
}

/// Lets every bucket up to `bucket` that has no beginning yet begin with the next entry.
fn fill_buckets(buckets: &mut Vec<u8>, bucket: usize, entries_bytes: usize) {
    let next = u32::try_from(entries_bytes / ENTRY_BYTES).expect("terms of a segment fit 32 bits");
    while buckets.len() / 4 <= bucket {
        buckets.extend_from_slice(&next.to_le_bytes());
    }
}

impl Parts {
    fn take_file(&mut self, file: &IndexFile) -> Result<(), IndexFault> {
        for delta in (0..file.end()).step_by(MARK_EVERY as usize) {
            let (record, frame) = file.mark(delta)?;
            self.mark(record, frame);
        }
        for at in 0..file.header().moments {
            let (time, delta, offset) = file.moment(at)?;
            self.moment(time, delta, offset);
        }
        for entry in 0..file.header().entries {
            self.terms.push((file.term(entry)?, 0));
        }
        Ok(())
    }

    fn take_memory(&mut self, index: &MemoryIndex, at: u32) {
        let marked = index.first().next_multiple_of(MARK_EVERY)..index.end();
        for delta in marked.step_by(MARK_EVERY as usize) {
            let location = index.location(delta);
            self.mark(location.offset, location.frame);
        }
        for frame in index.frames() {
            self.moment(frame.commit_time, frame.first, frame.offset);
        }
        self.terms.extend(index.terms().map(|term| (term, at)));
    }

    fn mark(&mut self, record: u32, frame: u32) {
        self.marks.extend_from_slice(&record.to_le_bytes());
        self.marks.extend_from_slice(&frame.to_le_bytes());
    }

    fn moment(&mut self, time: Timestamp, delta: u32, offset: u32) {
        if delta >= self.next_moment {
            self.next_moment = delta + MOMENT_EVERY;
            self.moments.extend_from_slice(&time.as_nanos().to_le_bytes());
            self.moments.extend_from_slice(&delta.to_le_bytes());
            self.moments.extend_from_slice(&offset.to_le_bytes());
        }
    }
}
