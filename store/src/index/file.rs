//! The index of a segment in a file beside it, read through a map.
//!
//! Opening looks at the header block and the table of page checksums. Each page of 4 KiB is
//! verified when it is first used, so a look-up in a store of any age touches a few pages per
//! segment. The dictionary is its own filter: a term that the segment does not know costs two
//! pages, and one in some ten thousand finds another term's events.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_core::Timestamp;

use super::postings::{self, BLOCK, BLOCK_BYTES_MAX, COUNT_BYTES_MAX};
use super::{IndexFault, List, Lists, Term, Walk};
use crate::format::index::{
    ENTRY_BYTES, IndexHeader, MARK_BYTES, MARK_EVERY, MOMENT_BYTES, PAGE_BYTES, SECTIONS_AT,
    Sections, VALUE_IS_OFFSET,
};
use crate::format::segment::SegmentHeader;
use crate::format::{BLOCK_BYTES, i64_at, u32_at};
use crate::fs::{Access, Fs};
use crate::mmap::Map;
use crate::planted::{Bug, planted};

/// An index file that is bound to its segment.
pub(crate) struct IndexFile {
    map: Map,
    header: IndexHeader,
    sections: Sections,
    /// One bit per page: its checksum was right.
    verified: Box<[AtomicU64]>,
}

/// What a look-up in the dictionary comes to, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Bucket,
    Entries,
    Postings,
}

impl fmt::Debug for IndexFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexFile").field("header", &self.header).finish_non_exhaustive()
    }
}

/// The name of the index file of a segment.
pub(crate) fn file_name(segment: &SegmentHeader) -> String {
    segment.file_name().replace(".seg", ".idx")
}

impl IndexFile {
    /// Opens the index of a segment. Returns why it must not be believed otherwise.
    pub(crate) fn open(fs: &dyn Fs, path: &Path, segment: &SegmentHeader) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let file = fs.open(path, Access::Read).map_err(text)?;
        let size =
            usize::try_from(file.size().map_err(text)?).map_err(|error| error.to_string())?;
        let mut block = vec![0; BLOCK_BYTES.min(size)];
        file.read_at(&mut block, 0).map_err(text)?;
        let header = IndexHeader::decode(&block).map_err(|fault| fault.to_string())?;
        let bound = (header.store, header.segment, header.salt, header.base)
            == (segment.store, segment.id, segment.salt, segment.base);
        if !bound || header.covered.events == 0 || header.covered.end > segment.capacity_bytes {
            return Err("it describes another segment".to_owned());
        }
        let sections = header.sections();
        if sections.file_bytes != size {
            return Err(format!("it has {size} bytes where {} are needed", sections.file_bytes));
        }
        let mut table = vec![0; size - sections.pages];
        file.read_at(&mut table, sections.pages as u64).map_err(text)?;
        if crc32fast::hash(&table) != header.pages_crc {
            return Err("its table of checksums has the wrong checksum".to_owned());
        }
        let words = (table.len() / 4).div_ceil(64);
        let verified = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { map: file.map().map_err(text)?, header, sections, verified })
    }

    pub(crate) fn header(&self) -> &IndexHeader {
        &self.header
    }

    /// How many events are covered.
    pub(crate) fn end(&self) -> u32 {
        self.header.covered.events
    }

    /// Returns where the record of the event at `delta`, a multiple of [`MARK_EVERY`], lies, and
    /// where its frame.
    pub(crate) fn mark(&self, delta: u32) -> Result<(u32, u32), IndexFault> {
        let at = SECTIONS_AT + (delta / MARK_EVERY) as usize * MARK_BYTES;
        let mark = self.slice(at, MARK_BYTES)?;
        Ok((u32_at(mark, 0), u32_at(mark, 4)))
    }

    /// Returns the first event and the offset of a frame that lies before the first one committed
    /// after `time`, and at most some thousand events before.
    pub(crate) fn before(&self, time: Timestamp) -> Result<Option<(u32, u32)>, IndexFault> {
        let (mut from, mut to) = (0, self.header.moments);
        while from < to {
            let middle = from.midpoint(to);
            if self.moment(middle)?.0 <= time { from = middle + 1 } else { to = middle }
        }
        let Some(at) = from.checked_sub(1) else { return Ok(None) };
        let (_, delta, offset) = self.moment(at)?;
        Ok(Some((delta, offset)))
    }

    pub(crate) fn moment(&self, at: u32) -> Result<(Timestamp, u32, u32), IndexFault> {
        let moment =
            self.slice(self.sections.moments + at as usize * MOMENT_BYTES, MOMENT_BYTES)?;
        Ok((Timestamp::from_nanos(i64_at(moment, 0)), u32_at(moment, 8), u32_at(moment, 12)))
    }

    /// Looks at memory that [`list`](Lists::list) will need for a term. What it finds there means
    /// nothing.
    pub(crate) fn touch(&self, term: Term, step: Step) -> u8 {
        match step {
            Step::Bucket => self.byte(self.sections.buckets + self.bucket_of(term) * 4),
            Step::Entries => self.bounds(term).map_or(0, |(from, to)| {
                let at = |entry: u32| self.sections.entries + entry as usize * ENTRY_BYTES;
                self.byte(at(from)) ^ self.byte(at(to).saturating_sub(1))
            }),
            Step::Postings => self.list(term).map_or(0, |list| list.len().to_le_bytes()[0]),
        }
    }

    /// Looks at the mark before an event.
    pub(crate) fn touch_mark(&self, delta: u32) -> u8 {
        self.byte(SECTIONS_AT + (delta / MARK_EVERY) as usize * MARK_BYTES)
    }

    fn byte(&self, at: usize) -> u8 {
        self.map.below(self.sections.file_bytes as u64).get(at).copied().unwrap_or(0)
    }

    fn bucket_of(&self, term: Term) -> usize {
        match self.header.bucket_bits {
            0 => 0,
            bits => (term >> (32 - bits)) as usize,
        }
    }

    /// Returns which entries have the highest bits of a term.
    fn bounds(&self, term: Term) -> Result<(u32, u32), IndexFault> {
        let bounds = self.slice(self.sections.buckets + self.bucket_of(term) * 4, 8)?;
        Ok((u32_at(bounds, 0), u32_at(bounds, 4)))
    }

    /// Returns the term of a dictionary entry.
    pub(crate) fn term(&self, entry: u32) -> Result<Term, IndexFault> {
        self.u32_at(self.sections.entries + entry as usize * ENTRY_BYTES)
    }

    /// Returns the postings of a dictionary entry.
    pub(crate) fn entry(&self, entry: u32) -> Result<List<'_>, IndexFault> {
        let value = self.u32_at(self.sections.entries + entry as usize * ENTRY_BYTES + 4)?;
        if value & VALUE_IS_OFFSET == 0 {
            return Ok(List::One(value));
        }
        let at = self.sections.postings + (value & !VALUE_IS_OFFSET) as usize;
        let head = self.slice(at, COUNT_BYTES_MAX.min(self.sections.pages.saturating_sub(at)))?;
        let (count, bytes) = postings::count(head).ok_or(IndexFault::Bounds)?;
        if count < 2 || count > self.end() as usize {
            return Err(IndexFault::Bounds);
        }
        Ok(List::File(FileList { file: self, firsts: at + bytes, count }))
    }

    /// Returns how many dictionary entries come before a bucket.
    pub(crate) fn bucket(&self, bucket: usize) -> Result<u32, IndexFault> {
        self.u32_at(self.sections.buckets + bucket * 4)
    }

    /// Verifies the checksum of every page.
    pub(crate) fn verify_pages(&self) -> Result<(), IndexFault> {
        let bytes = self.map.below(self.sections.file_bytes as u64);
        let pages = (self.sections.pages - SECTIONS_AT).div_ceil(PAGE_BYTES);
        (0..pages).try_for_each(|page| self.verify(bytes, page))
    }

    fn u32_at(&self, at: usize) -> Result<u32, IndexFault> {
        Ok(u32_at(self.slice(at, 4)?, 0))
    }

    /// Returns bytes of the sections, after their pages were verified.
    fn slice(&self, at: usize, len: usize) -> Result<&[u8], IndexFault> {
        let end = at.checked_add(len).filter(|&end| end <= self.sections.pages);
        let (Some(end), true) = (end, at >= SECTIONS_AT) else { return Err(IndexFault::Bounds) };
        let bytes = self.map.below(self.sections.file_bytes as u64);
        if len > 0 {
            for page in (at - SECTIONS_AT) / PAGE_BYTES..=(end - 1 - SECTIONS_AT) / PAGE_BYTES {
                self.verify(bytes, page)?;
            }
        }
        bytes.get(at..end).ok_or(IndexFault::Bounds)
    }

    fn verify(&self, bytes: &[u8], page: usize) -> Result<(), IndexFault> {
        let (word, bit) = (&self.verified[page / 64], 1 << (page % 64));
        // Relaxed: the bytes never change, and verifying twice does no harm.
        if word.load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        let at = SECTIONS_AT + page * PAGE_BYTES;
        let content = bytes.get(at..(at + PAGE_BYTES).min(self.sections.pages));
        let stored = bytes.get(self.sections.pages + page * 4..).and_then(|rest| rest.get(..4));
        let right = |content, stored| crc32fast::hash(content) == u32_at(stored, 0);
        match (content, stored) {
            (Some(content), Some(stored)) if right(content, stored) || planted(Bug::TrustIndex) => {
                word.fetch_or(bit, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(IndexFault::Page(page)),
        }
    }
}

impl Lists for IndexFile {
    fn list(&self, term: Term) -> Result<List<'_>, IndexFault> {
        let (from, to) = self.bounds(term)?;
        let entries = self.slice(
            self.sections.entries + from as usize * ENTRY_BYTES,
            (to.checked_sub(from).ok_or(IndexFault::Bounds)?) as usize * ENTRY_BYTES,
        )?;
        for (at, entry) in (from..to).zip(entries.chunks_exact(ENTRY_BYTES)) {
            if u32_at(entry, 0) == term {
                return self.entry(at);
            }
        }
        Ok(List::NONE)
    }
}

/// Postings in an index file.
#[derive(Clone, Copy)]
pub(crate) struct FileList<'a> {
    file: &'a IndexFile,
    /// Where the first numbers of the blocks are.
    firsts: usize,
    count: usize,
}

impl fmt::Debug for FileList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileList").field("count", &self.count).finish_non_exhaustive()
    }
}

impl FileList<'_> {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    fn blocks(&self) -> usize {
        self.count.div_ceil(BLOCK)
    }

    fn first(&self, block: usize) -> Result<u32, IndexFault> {
        self.file.u32_at(self.firsts + block * 4)
    }

    fn unpack(&self, block: usize, out: &mut Vec<u32>) -> Result<(), IndexFault> {
        let table = self.firsts + self.blocks() * 4;
        let offset = match block {
            0 => 0,
            later => self.file.u32_at(table + (later - 1) * 4)? as usize,
        };
        let at = table + (self.blocks() - 1) * 4 + offset;
        let count = (self.count - block * BLOCK).min(BLOCK);
        let width = usize::from(self.file.slice(at, 1)?[0]);
        let len = 1 + ((count - 1) * width).div_ceil(8);
        if len > BLOCK_BYTES_MAX {
            return Err(IndexFault::Bounds);
        }
        let bytes = self.file.slice(at, len)?;
        postings::unpack(bytes, self.first(block)?, count, out).ok_or(IndexFault::Bounds)
    }

    /// The last block that begins at or before `delta`, the first one if none does.
    fn block_of(&self, delta: u32) -> Result<usize, IndexFault> {
        let (mut from, mut to) = (0, self.blocks());
        while from < to {
            let middle = from.midpoint(to);
            if self.first(middle)? <= delta { from = middle + 1 } else { to = middle }
        }
        Ok(from.saturating_sub(1))
    }

    pub(super) fn collect(
        &self,
        (first, last): (u32, u32),
        count: usize,
        walk: Walk,
        out: &mut Vec<u32>,
    ) -> Result<(), IndexFault> {
        let mut numbers = Vec::with_capacity(BLOCK);
        let enough = out.len().saturating_add(count);
        let mut take = |block, out: &mut Vec<u32>| {
            numbers.clear();
            self.unpack(block, &mut numbers)?;
            let within = |delta: &u32| (first..=last).contains(delta);
            let room = enough - out.len();
            match walk {
                Walk::Up => out.extend(numbers.iter().copied().filter(within).take(room)),
                Walk::Down => out.extend(numbers.iter().rev().copied().filter(within).take(room)),
            }
            Ok(())
        };
        match walk {
            Walk::Up => {
                for block in self.block_of(first)?..self.blocks() {
                    if out.len() >= enough || self.first(block)? > last {
                        break;
                    }
                    take(block, out)?;
                }
            }
            Walk::Down => {
                for block in (0..=self.block_of(last)?).rev() {
                    take(block, out)?;
                    if out.len() >= enough || self.first(block)? <= first {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}
