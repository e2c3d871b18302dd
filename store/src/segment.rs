//! One file of a log: header block, frames, and zeros where nothing was written yet.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError};
use std::{fmt, io};

use headwater_core::{Position, ReadError, Timestamp};

use crate::format::frame::{FrameFault, FrameHeader, HEADER_BYTES};
use crate::format::index::Covered;
use crate::format::segment::{FRAMES_AT, SegmentHeader};
use crate::format::{BLOCK_BYTES, Seed, frame, record, u32_at};
use crate::fs::{Access, Fs, FsFile, Preallocation};
use crate::index::{
    IndexFault, IndexFile, Layers, LayersTaken, List, Lists, Location, MemoryIndex, Step, Term,
    Terms, Walk, add_frame,
};
use crate::mark::Mark;
use crate::mmap::Map;
use crate::planted::{Bug, planted};
use crate::seek::{Place, Seek, find_all};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::tail::FILE_BYTES_MIN;

/// Bytes written at a time while a segment is filled with zeros, and between two syncs. The page
/// cache keeps what one write brings as one piece, and goes through the whole piece at every later
/// write into it: after steps of 1 MiB a write of 400 bytes took 2.0 µs, after these 0.75.
const FILL_STEP_BYTES: usize = 64 * 1024;
/// Whoever syncs meanwhile waits for what is on its way: after 16 MiB at a time, 1 in 100 batches of
/// 1,000 events took 4.1 ms, after 1 MiB 1.1.
const FILL_SYNC_BYTES: u64 = 1024 * 1024;

/// The index of a segment as it was at a moment, and what it covers.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) covered: Covered,
    pub(crate) layers: LayersTaken,
}

/// The unit in which a map is asked for its pages before they are used.
const WINDOW_BYTES: u64 = 64 * 1024;
/// The first frame, in the width of the index.
const FIRST_FRAME: u32 = 4096;
const _: () = assert!(FIRST_FRAME as u64 == FRAMES_AT);

/// An open segment, read through a map. Sealed ones never change again.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) seed: Seed,
    pub(crate) file: Arc<dyn FsFile>,
    map: Map,
    /// Bytes below are published and final.
    end: Mark,
    index: RwLock<Layers>,
    /// The index of a sealed segment whose file has all of it: nobody waits for a lock to ask it.
    whole: OnceLock<Layers>,
    /// One bit per window: its pages could be read.
    populated: Box<[AtomicU64]>,
    /// Up to here the pages of the window could be read in which the published bytes end.
    populated_end: AtomicU64,
    /// Why the events behind the last indexed one cannot be read, in a sealed segment.
    damage: OnceLock<ReadError>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("header", &self.header)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// Maps an open file whose header block is `header`. Nothing in it is published yet.
    pub(crate) fn new(
        header: SegmentHeader,
        path: PathBuf,
        file: Arc<dyn FsFile>,
    ) -> io::Result<Self> {
        let map = file.map()?;
        let windows = header.capacity_bytes.div_ceil(WINDOW_BYTES);
        Ok(Self {
            seed: Seed::new(header.salt),
            index: RwLock::new(Layers::of(MemoryIndex::from(0))),
            end: Mark::new(FRAMES_AT),
            populated: (0..windows.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            whole: OnceLock::new(),
            populated_end: AtomicU64::new(0),
            damage: OnceLock::new(),
            header,
            path,
            file,
            map,
        })
    }

    /// Notes that a sealed segment is damaged behind what is indexed.
    pub(crate) fn end_in_damage(&self, damage: ReadError) {
        // There is one walk, and it ends at the first damage.
        let _ = self.damage.set(damage);
    }

    /// Returns the damage behind the last indexed event as an error, if there is any.
    fn is_whole(&self) -> Result<(), ReadError> {
        self.damage.get().map_or(Ok(()), |damage| Err(damage.clone()))
    }

    /// Publishes everything below `end`. The index knows it already.
    pub(crate) fn publish(&self, end: u64) {
        self.end.set(end);
    }

    /// Returns where the published bytes end.
    pub(crate) fn end(&self) -> u64 {
        self.end.get()
    }

    /// Returns the whole file, of which a range is about to be read, for recovery: no writer runs
    /// then.
    pub(crate) fn whole(&self, from: u64, to: u64) -> io::Result<&[u8]> {
        let page = BLOCK_BYTES as u64;
        self.map.populate(from / page * page, to.min(self.header.capacity_bytes))?;
        Ok(self.map.below(self.header.capacity_bytes))
    }

    /// Copies the whole file, for readers beside a writer that runs.
    pub(crate) fn copy(&self) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.header.capacity_bytes).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        self.file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Returns the published bytes from `at` on, of which the first `len` can be read.
    pub(crate) fn published(&self, at: u64, len: u64) -> Result<&[u8], ReadError> {
        let bytes = self.map.published(&self.end);
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        for window in at / WINDOW_BYTES..=(at + len.max(1) - 1) / WINDOW_BYTES {
            let Some(word) = self.populated.get(usize::try_from(window / 64).unwrap_or(usize::MAX))
            else {
                break;
            };
            let bit = 1 << (window % 64);
            // Relaxed: asking twice does no harm.
            if word.load(Ordering::Relaxed) & bit == 0 {
                let (start, end) = (window * WINDOW_BYTES, (window + 1) * WINDOW_BYTES);
                let written = (bytes.len() as u64).next_multiple_of(BLOCK_BYTES as u64);
                if end <= written {
                    self.map.populate(start, end).map_err(Arc::new)?;
                    word.fetch_or(bit, Ordering::Relaxed);
                    continue;
                }
                // Not what is still to be written: the kernel would read ahead into it, in large
                // pieces, and go through the whole piece at each small write (1.9 to 4.9 us).
                let from = self.populated_end.load(Ordering::Relaxed).max(start);
                if from < written {
                    self.map.populate(from, written).map_err(Arc::new)?;
                    self.populated_end.store(written, Ordering::Relaxed);
                }
            }
        }
        Ok(bytes.get(from..).unwrap_or_default())
    }

    /// Returns all published bytes, of which those can be read that were asked for before.
    pub(crate) fn below_end(&self) -> &[u8] {
        self.map.published(&self.end)
    }

    fn index(&self) -> RwLockReadGuard<'_, Layers> {
        // Nothing panics while it holds this lock; if something did, the index is still whole.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Layers> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many events are indexed.
    pub(crate) fn events(&self) -> u32 {
        self.whole.get().map_or_else(|| self.index().end(), Layers::end)
    }

    /// Returns candidates for a query with positions in a range: about `count` of them, and how
    /// far they reach.
    pub(crate) fn candidates(
        &self,
        query: &Terms,
        (first, last): (Position, Position),
        count: usize,
        walk: Walk,
    ) -> Result<(Vec<u32>, Position), ReadError> {
        let delta = |position: Position| position.events_since(self.header.base);
        let asked = if walk == Walk::Up { first } else { last };
        if delta(asked).is_some_and(|asked| asked >= self.events().into()) {
            self.is_whole()?;
        }
        self.ask(|index| {
            let newest = u64::from(index.end()).checked_sub(1);
            let from = delta(first).unwrap_or(0);
            let through = delta(last).zip(newest).map(|(last, newest)| last.min(newest));
            let Some(through) = through.filter(|&through| from <= through) else {
                let far = if walk == Walk::Up { last } else { first };
                return Ok((Vec::new(), far));
            };
            let narrow = |delta| u32::try_from(delta).expect("deltas of a segment fit 32 bits");
            let found = index.chunk(query, (narrow(from), narrow(through)), count, walk)?;
            Ok((found.candidates, self.position(found.reached)))
        })
    }

    /// Returns the position of an event of this segment.
    pub(crate) fn position(&self, delta: u32) -> Position {
        self.header.base.advanced_by(delta.into())
    }

    /// Returns the delta behind the last event that does not lie beyond `position`.
    pub(crate) fn deltas_through(&self, position: Position) -> u32 {
        let count = position.next().events_since(self.header.base).unwrap_or(0);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Returns the last event before `below` that may carry a term.
    pub(crate) fn newest(&self, term: Term, below: u32) -> Result<Option<u32>, ReadError> {
        self.is_whole()?;
        self.ask(|index| {
            for memory in index.memory().rev() {
                if let Some(delta) = memory.list(term)?.newest(below)? {
                    return Ok(Some(delta));
                }
            }
            match index.file() {
                Some(file) => file.list(term)?.newest(below),
                None => Ok(None),
            }
        })
    }

    /// Returns how many events after `delta` may carry a term; all of them for `None`.
    pub(crate) fn count_after(&self, term: Term, delta: Option<u32>) -> Result<usize, ReadError> {
        let count = |list: List<'_>| match delta {
            Some(delta) => list.count_after(delta),
            None => Ok(list.len()),
        };
        self.ask(|index| {
            let mut sum = 0;
            for memory in index.memory() {
                sum += count(memory.list(term)?)?;
            }
            if let Some(file) = index.file() {
                sum += count(file.list(term)?)?;
            }
            Ok(sum)
        })
    }

    /// Returns where the event at a position lies, if it is in this segment.
    pub(crate) fn find(&self, position: Position) -> Result<Option<Location>, ReadError> {
        let delta = position.events_since(self.header.base);
        let delta = delta.and_then(|delta| u32::try_from(delta).ok());
        match delta.filter(|&delta| delta < self.events()) {
            Some(delta) => self.locate(delta).map(Some),
            None => self.is_whole().map(|()| None),
        }
    }

    /// Returns where an event lies that is in this segment.
    pub(crate) fn locate(&self, delta: u32) -> Result<Location, ReadError> {
        let mut seek = [Seek::new(self, delta)];
        find_all(&mut seek)?;
        Ok(seek[0].location())
    }

    /// Returns what the index knows of the place of an event that is in this segment.
    pub(crate) fn place(&self, delta: u32) -> Result<Place, ReadError> {
        self.ask(|index| match (index.file(), index.memory_of(delta)) {
            (_, Some(memory)) => Ok(Place::At(memory.location(delta))),
            (Some(file), None) => {
                file.mark(delta).map(|(record, frame)| Place::Behind { record, frame })
            }
            (None, None) => Err(IndexFault::Bounds),
        })
    }

    /// Reads the frame header at an offset, where `position` is looked for.
    pub(crate) fn frame(&self, position: Position, offset: u64) -> Result<FrameHeader, ReadError> {
        let bytes = self.published(offset, HEADER_BYTES as u64)?;
        let header = frame::decode_header(bytes, &self.seed)
            .map_err(|fault| self.damaged(position, offset, &fault))?;
        if bytes.len() < header.bytes as usize {
            return Err(self.damaged(position, offset, &FrameFault::Truncated(bytes.len())));
        }
        Ok(header)
    }

    /// Reads the record at a place that the index named.
    pub(crate) fn record(
        &self,
        position: Position,
        at: Location,
    ) -> Result<record::RecordRef<'_>, ReadError> {
        let offset = u64::from(at.offset);
        let len = self.published(offset, 4)?.get(..4).map_or(0, |len| u32_at(len, 0));
        let bytes = self.published(offset, len.into())?;
        record::decode(bytes, &self.seed).map_err(|fault| self.damaged(position, offset, &fault))
    }

    /// Returns the last position of the batch that begins at a place. A batch is whole in a frame.
    pub(crate) fn last_of_batch(
        &self,
        first: Position,
        at: Location,
    ) -> Result<Position, ReadError> {
        let (mut position, mut at) = (first, at);
        loop {
            let record = self.record(position, at)?;
            if record.is_last_of_batch() {
                return Ok(position);
            }
            position = position.next();
            at.offset += u32::try_from(record.bytes.len()).expect("a record lies in a segment");
        }
    }

    /// Returns how many bytes the frames take that hold what lies up to and with a position, the
    /// last one as far as the record reaches.
    pub(crate) fn bytes_through(&self, position: Position) -> Result<u64, ReadError> {
        // Where the bytes end first: what is indexed afterwards reaches that far at least.
        let end = self.end();
        let next = self.deltas_through(position);
        let end = match next {
            0 => FRAMES_AT,
            _ if next >= self.events() => end,
            _ => self.locate(next)?.offset.into(),
        };
        Ok(end - FRAMES_AT)
    }

    /// Returns the first event that was committed after `time`; the end if there is none.
    pub(crate) fn first_after(&self, time: Timestamp) -> Result<u32, ReadError> {
        let place = self.ask(|index| {
            if let Some(file) = index.file().filter(|file| file.header().covered.commit_time > time)
            {
                // The frame is at or behind the place that the index notes.
                return Ok(Err(file.before(time)?.unwrap_or((0, FIRST_FRAME))));
            }
            // What lies behind damage is as late or later.
            let found = index.memory().find_map(|memory| memory.first_after(time));
            Ok(Ok(found.unwrap_or(index.end())))
        })?;
        let (mut delta, mut offset) = match place {
            Ok(delta) if delta == self.events() => return self.is_whole().map(|()| delta),
            Ok(delta) => return Ok(delta),
            Err(near) => near,
        };
        loop {
            let header = self.frame(self.position(delta), offset.into())?;
            if header.commit_time > time {
                return Ok(delta);
            }
            // The index may lie, and then the next frame is not one.
            delta = delta.saturating_add(header.records);
            offset = offset.saturating_add(header.bytes);
        }
    }

    /// Freezes, and returns what an index of all of that covers; `None` if there is nothing.
    /// `durable` says whether it is all on the device.
    pub(crate) fn freeze(&self, durable: bool) -> Result<Option<Frozen>, ReadError> {
        let taken = self.index_mut().freeze();
        let Some(last) = taken.events.checked_sub(1) else { return Ok(None) };
        let last_frame = self.locate(last)?.frame;
        let header = self.frame(self.position(last), last_frame.into())?;
        let covered = Covered {
            events: taken.events,
            end: u64::from(last_frame) + u64::from(header.bytes),
            last_frame,
            word: header.word(),
            frames: header.commit_seq,
            epoch: header.epoch,
            commit_time: header.commit_time,
            durable,
        };
        Ok(Some(Frozen { covered, layers: taken }))
    }

    /// Takes an index file that covers the segment from its beginning, in place of what it covers.
    pub(crate) fn adopt(&self, file: Arc<IndexFile>) {
        self.index_mut().adopt(file);
    }

    /// Notes that the segment is sealed. If a file has all of its index, that is asked without a lock
    /// from now on.
    pub(crate) fn settle(&self) {
        if let Some(whole) = self.index().whole() {
            // A second call says the same.
            let _ = self.whole.set(whole);
        }
    }

    /// Looks at memory that a search for a term will need. Where a lock would be in the way, it does
    /// not.
    pub(crate) fn touch(&self, term: Term, step: Step) -> u8 {
        self.whole.get().and_then(Layers::file).map_or(0, |file| file.touch(term, step))
    }

    /// The same for the mark of an event.
    pub(crate) fn touch_mark(&self, delta: u32) -> u8 {
        self.whole.get().and_then(Layers::file).map_or(0, |file| file.touch_mark(delta))
    }

    /// Returns where the frames begin that are not indexed in a file.
    pub(crate) fn filed_end(&self) -> u64 {
        self.index().file().map_or(FRAMES_AT, |file| file.header().covered.end)
    }

    /// Returns whether the index file misses so much that reading it beats walking, or was written
    /// before what it covers was durable.
    pub(crate) fn is_worth_filing(&self) -> bool {
        let index = self.index();
        let (end, durable) = index.file().map_or((FRAMES_AT, true), |file| {
            (file.header().covered.end, file.header().covered.durable)
        });
        self.end() - end >= FILE_BYTES_MIN || !durable
    }

    /// Asks the index, which is built anew from the log if its file turns out to be damaged.
    fn ask<T>(&self, question: impl Fn(&Layers) -> Result<T, IndexFault>) -> Result<T, ReadError> {
        if let Some(whole) = self.whole.get()
            && let Ok(answer) = question(whole)
        {
            return Ok(answer);
        }
        let answer = question(&self.index());
        let fault = match answer {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        tracing::warn!(%fault, segment = %self.path.display(), "building an index anew");
        let mut index = self.index_mut();
        let events = index.end();
        let mut memory = MemoryIndex::from(0);
        let mut offset = FRAMES_AT;
        while memory.end() < events {
            let position = self.position(memory.end());
            let header = self.frame(position, offset)?;
            let bytes = self.published(offset, header.bytes.into())?;
            let (header, body) = frame::decode(bytes, &self.seed)
                .map_err(|fault| self.damaged(position, offset, &fault))?;
            add_frame(&mut memory, &self.seed, offset, &header, body).map_err(|detail| {
                let file = self.path.display().to_string();
                ReadError::Damaged { position, file, offset, detail }
            })?;
            offset += u64::from(header.bytes);
        }
        *index = Layers::of(memory);
        let answer = question(&index);
        answer.map_err(|fault| self.damaged(self.header.base, 0, &fault))
    }

    /// Names damage in this file.
    pub(crate) fn damaged(
        &self,
        position: Position,
        offset: u64,
        fault: &dyn std::error::Error,
    ) -> ReadError {
        ReadError::Damaged {
            position,
            file: self.path.display().to_string(),
            offset,
            detail: fault.to_string(),
        }
    }
}

/// Creates a file of a segment's size under a name that means nothing yet, and makes its space
/// durable.
pub(crate) fn preallocate(
    fs: &dyn Fs,
    path: &Path,
    capacity_bytes: u64,
    how: Preallocation,
) -> io::Result<Arc<dyn FsFile>> {
    match fs.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let dir = path.parent().unwrap_or(path);
    // Asked first, so that a full disk is not filled to its last block with each attempt. Where
    // the answer is wrong, writing finds out.
    if how != Preallocation::Sparse && fs.free_bytes(dir).is_ok_and(|free| free < capacity_bytes) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let file = fs.open(path, Access::CreateNew)?;
    let done = fill(fs, path, file.as_ref(), capacity_bytes, how);
    if done.is_err() {
        // Gives the space back at once. The name means nothing, so failing to is harmless.
        let _ = fs.remove(path);
    }
    done.map(|()| file)
}

fn fill(
    fs: &dyn Fs,
    path: &Path,
    file: &dyn FsFile,
    capacity_bytes: u64,
    how: Preallocation,
) -> io::Result<()> {
    match how {
        Preallocation::Auto => {
            let dir = path.parent().unwrap_or(path);
            return fill(fs, path, file, capacity_bytes, fs.preallocation(dir));
        }
        Preallocation::Sparse => file.set_size(capacity_bytes)?,
        Preallocation::Fallocate => file.allocate(capacity_bytes)?,
        Preallocation::ZeroFill => {
            let zeros = vec![0; FILL_STEP_BYTES];
            let mut at = 0;
            while at < capacity_bytes {
                let step = (capacity_bytes - at).min(zeros.len() as u64);
                let len = usize::try_from(step).expect("a step fits memory");
                file.write_at(&zeros[..len], at)?;
                at += step;
                if at.is_multiple_of(FILL_SYNC_BYTES) {
                    file.sync()?;
                }
            }
        }
    }
    file.sync()
}

/// Writes the header into a preallocated file, syncs it, and gives it its name.
pub(crate) fn establish(
    fs: &dyn Fs,
    dir: &Path,
    temporary: &Path,
    file: Arc<dyn FsFile>,
    header: SegmentHeader,
) -> io::Result<Segment> {
    let block = header.encode();
    assert_eq!(block.len(), BLOCK_BYTES);
    file.write_at(&block, 0)?;
    if !planted(Bug::NameBeforeHeader) {
        file.sync()?;
    }
    let path = dir.join(header.file_name());
    fs.rename(temporary, &path)?;
    if !planted(Bug::ForgetDirSync) {
        fs.sync_dir(dir)?;
    }
    Segment::new(header, path, file)
}

#[cfg(test)]
mod tests {
    use headwater_core::LogId;

    use super::*;
    use crate::format::segment::LogKind;
    use crate::fs::RealFs;

    #[test]
    fn readers_ask_for_the_pages_that_are_written_and_for_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let capacity_bytes = 1024 * 1024;
        let temporary = dir.path().join("next.tmp");
        let reserved = Preallocation::Fallocate;
        let file = preallocate(&RealFs, &temporary, capacity_bytes, reserved).unwrap();
        let header = SegmentHeader {
            capacity_bytes,
            store: LogId::from_bytes([7; 16]),
            kind: LogKind::Events,
            id: 1,
            base: Position::FIRST,
            salt: 7,
            created: Timestamp::from_nanos(0),
            previous_id: 0,
            previous_word: 0,
            epoch: 1,
            frames_before: 0,
        };
        let segment = establish(&RealFs, dir.path(), &temporary, file, header).unwrap();
        let windows = || segment.populated[0].load(Ordering::Relaxed);
        let end = || segment.populated_end.load(Ordering::Relaxed);
        // So far the frames go, and so far the windows and the pages behind them are asked for.
        for (written, whole, through) in [
            (FRAMES_AT + 1, 0, 8192),
            (8192, 0, 8192),
            (WINDOW_BYTES - 1, 1, 8192),
            (3 * WINDOW_BYTES + 1, 0b111, 3 * WINDOW_BYTES + 4096),
            (capacity_bytes, 0xFFFF, 3 * WINDOW_BYTES + 4096),
        ] {
            segment.file.write_at(&[7], written - 1).unwrap();
            segment.publish(written);
            segment.published(FRAMES_AT, written - FRAMES_AT).unwrap();
            assert_eq!((windows(), end()), (whole, through), "{written}");
        }
    }
}
