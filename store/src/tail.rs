//! The end of a log, where frames are appended and segments begin.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use headwater_core::{Durability, Position, Timestamp};

use crate::catalog::CatalogFile;
use crate::error::OpenError;
use crate::format::BLOCK_BYTES;
use crate::format::catalog::{Catalog, LogEntry};
use crate::format::frame::{self, ALIGN_BYTES, FRAME_BYTES_MAX, FrameFields};
use crate::format::segment::{FRAMES_AT, LogKind, SegmentHeader};
use crate::fs::{FsFile, is_full};
use crate::log::{LogDir, Purpose, Recovered};
use crate::options::Preallocation;
use crate::planted::{Bug, planted};
use crate::recovery::Walked;
use crate::segment::{Segment, establish, preallocate};
use crate::segments::{Segments, file_index};
use crate::source::LogSource;
use crate::sync::thread::{self, JoinHandle};

/// Less of a segment than this is walked rather than read from an index file.
pub(crate) const FILE_BYTES_MIN: u64 = 1024 * 1024;
/// So much of it is indexed in memory at most, about.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// When so much has come together, the device is asked to begin with it: when a sync follows, which
/// then has less to wait for, and when none does.
const WRITE_OUT_BYTES: u64 = 256 * 1024;
const WRITE_OUT_LATER_BYTES: u64 = 4 * 1024 * 1024;

/// Why a frame was not written.
#[derive(Clone, Debug)]
pub(crate) enum TailError {
    /// The next segment could not be made: nothing was written, and trying again is fine.
    Full(Arc<io::Error>),
    /// A write or a sync failed: what is on disk is unknown, and nothing may be written again.
    Broken(Arc<io::Error>),
}

/// A spare segment in the making, or made.
#[derive(Debug)]
enum Spare {
    None,
    Filling(JoinHandle<io::Result<Arc<dyn FsFile>>>),
}

/// The end of a log. Whoever has it is the log's only writer.
#[derive(Debug)]
pub(crate) struct LogTail {
    dir: LogDir,
    catalog: Arc<CatalogFile>,
    segments: Arc<Segments>,
    active: Arc<Segment>,
    capacity_bytes: u64,
    preallocation: Preallocation,
    epoch: u32,
    offset: u64,
    next: Position,
    word: u32,
    frames: u64,
    commit_time: Timestamp,
    durable: Position,
    unsynced_bytes: u64,
    unsynced_since: Option<Instant>,
    /// Up to here the device was asked to begin with the active segment.
    begun: u64,
    spare: Spare,
    /// The thread that writes an index file.
    filing: Option<JoinHandle<()>>,
    /// Up to here the index of the active segment is in its file, or on its way.
    filed: u64,
}

/// How a log's segments are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) capacity_bytes: u64,
    pub(crate) preallocation: Preallocation,
    pub(crate) epoch: u32,
    /// How many sealed segments are open at a time.
    pub(crate) open_max: usize,
}

impl LogTail {
    /// Takes over a recovered log, which is durable as it is, and makes its first segment if it
    /// has none.
    pub(crate) fn open(
        dir: LogDir,
        catalog: Arc<CatalogFile>,
        recovered: Recovered,
        layout: Layout,
    ) -> Result<Self, OpenError> {
        let end = recovered.end;
        let active = match recovered.active {
            Some(active) => active,
            None => Arc::new(first_segment(&dir, layout, &end)?),
        };
        let segments = Segments::new(
            dir.clone(),
            Purpose::Write,
            layout.open_max,
            &recovered.sealed,
            Some(Arc::clone(&active)),
        );
        let filed = active.filed_end();
        Ok(Self {
            dir,
            catalog,
            segments: Arc::new(segments),
            active,
            capacity_bytes: layout.capacity_bytes,
            preallocation: layout.preallocation,
            epoch: layout.epoch,
            offset: end.end,
            begun: end.end,
            next: end.next,
            word: end.word,
            frames: end.frames,
            commit_time: end.commit_time,
            durable: end.next.previous(),
            unsynced_bytes: 0,
            unsynced_since: None,
            spare: Spare::None,
            filing: None,
            filed,
        })
    }

    pub(crate) fn segments(&self) -> Arc<Segments> {
        Arc::clone(&self.segments)
    }

    pub(crate) fn active(&self) -> &Arc<Segment> {
        &self.active
    }

    /// Position of the next record.
    pub(crate) fn next(&self) -> Position {
        self.next
    }

    /// When the last frame was committed.
    pub(crate) fn commit_time(&self) -> Timestamp {
        self.commit_time
    }

    /// Everything up to here is on the device.
    pub(crate) fn durable(&self) -> Position {
        self.durable
    }

    /// Returns when what was written must be synced: at once if enough has come together, never
    /// if nothing was written or the mode does not say.
    pub(crate) fn sync_due(&self, durability: Durability) -> Option<Instant> {
        let Durability::Interval { every, bytes } = durability else { return None };
        let since = self.unsynced_since?;
        if self.unsynced_bytes >= bytes { Some(since) } else { since.checked_add(every) }
    }

    /// Returns the log as it is, after a sync, to be copied.
    pub(crate) fn source(&self) -> LogSource {
        debug_assert!(self.unsynced_since.is_none(), "what is copied is durable");
        let segments = self.segments.list();
        let sealed = segments.iter().filter(|segment| segment.id != self.active.header.id);
        let sealed = sealed.map(|segment| (segment.base, segment.id)).collect();
        LogSource::new(sealed, &self.active, (self.offset, self.durable), self.epoch)
    }

    pub(crate) fn dir(&self) -> &LogDir {
        &self.dir
    }

    /// What the catalog should know of this log now.
    pub(crate) fn entry(&self) -> LogEntry {
        let first = self.segments.list().first().map_or(0, |segment| segment.id);
        LogEntry {
            first_segment: first,
            active_segment: self.active.header.id,
            durable: self.durable,
        }
    }

    /// Returns whether a frame of `bytes` fits into the active segment.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        let needed = bytes.next_multiple_of(ALIGN_BYTES) as u64;
        self.offset + needed <= self.active.header.capacity_bytes
    }

    /// Makes sure that a frame of `bytes` fits, by going over to a new segment if need be.
    /// Afterwards the active segment is the one that [`write`](Self::write) writes to.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), TailError> {
        debug_assert!(bytes.next_multiple_of(ALIGN_BYTES) <= FRAME_BYTES_MAX);
        if self.fits(bytes) {
            return Ok(());
        }
        self.roll(bytes.next_multiple_of(ALIGN_BYTES) as u64)
    }

    /// Sets the size of the segments to come.
    pub(crate) fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes.next_multiple_of(BLOCK_BYTES as u64);
    }

    /// Seals a frame that is committed at `time`, or when the one before was if that is later, and
    /// writes it with one call; returns where it lies. `frame` begins with a free header; there is
    /// room for it. On return zeros may follow in the buffer.
    pub(crate) fn write(
        &mut self,
        frame: &mut Vec<u8>,
        records: u32,
        time: Timestamp,
    ) -> Result<u64, TailError> {
        let fields = FrameFields {
            offset: self.offset,
            first: self.next,
            commit_seq: self.frames + 1,
            commit_time: time.max(self.commit_time),
            durable: if planted(Bug::PromiseTooMuch) { self.next.previous() } else { self.durable },
            records,
            epoch: self.epoch,
            previous_word: self.word,
        };
        let header = frame::seal(frame, &fields, &self.active.seed);
        // To the end of a block that is new, so that the kernel never reads it back to fill it up.
        // Behind a frame in the same block there are zeros already.
        let end = self.offset + u64::from(header.bytes);
        let block = BLOCK_BYTES as u64;
        if self.offset.is_multiple_of(block) || (end - 1) / block > self.offset / block {
            let padding = usize::try_from(end.next_multiple_of(block) - end);
            frame.resize(frame.len() + padding.expect("less than a block"), 0);
        }
        self.active
            .file
            .write_at(frame, self.offset)
            .map_err(|error| TailError::Broken(Arc::new(error)))?;
        let offset = self.offset;
        self.offset = end;
        self.next = header.last().next();
        self.word = header.word();
        self.frames = header.commit_seq;
        self.commit_time = header.commit_time;
        self.unsynced_bytes += u64::from(header.bytes);
        self.unsynced_since.get_or_insert_with(Instant::now);
        self.prepare_spare();
        Ok(offset)
    }

    /// Asks the device to begin with what was written, if that is enough. `syncs` says that a sync
    /// follows.
    pub(crate) fn begin_write_out(&mut self, syncs: bool) -> Result<(), TailError> {
        let enough = if syncs { WRITE_OUT_BYTES } else { WRITE_OUT_LATER_BYTES };
        let (from, len) = (self.begun, self.offset - self.begun);
        if len < enough {
            return Ok(());
        }
        self.begun = self.offset;
        let begun = self.active.file.begin_write_out(from, len);
        begun.map_err(|error| TailError::Broken(Arc::new(error)))
    }

    /// Returns whether everything that was written is durable.
    pub(crate) fn is_synced(&self) -> bool {
        self.unsynced_since.is_none()
    }

    /// Makes everything written durable, with one call if there is anything.
    pub(crate) fn sync(&mut self) -> Result<(), TailError> {
        if self.unsynced_since.is_some() {
            if !planted(Bug::AckBeforeSync) {
                self.active.file.sync().map_err(|error| TailError::Broken(Arc::new(error)))?;
            }
            self.unsynced_bytes = 0;
            self.unsynced_since = None;
            self.begun = self.offset;
            self.durable = self.next.previous();
        }
        Ok(())
    }

    /// Publishes what was written to the active segment; its index knows it already.
    pub(crate) fn publish(&self) {
        self.active.publish(self.offset);
    }

    /// Syncs the old segment, gives the new one its header and its name, and makes both durable.
    fn roll(&mut self, needed: u64) -> Result<(), TailError> {
        if !planted(Bug::RollWithoutSync) {
            self.sync()?;
        }
        let old = self.active.header;
        let capacity_bytes = self.capacity_bytes.max(FRAMES_AT + needed);
        let capacity_bytes = capacity_bytes.next_multiple_of(BLOCK_BYTES as u64);
        let temporary = self.spare_path();
        let file = self.take_spare(capacity_bytes).map_err(|error| {
            if !is_full(&error) {
                tracing::warn!(%error, "cannot make another segment");
            }
            TailError::Full(Arc::new(error))
        })?;
        let header = SegmentHeader {
            capacity_bytes,
            id: old.id + 1,
            base: self.next,
            salt: new_salt(),
            created: Timestamp::now(),
            previous_id: old.id,
            previous_word: self.word,
            epoch: self.epoch,
            frames_before: self.frames,
            ..old
        };
        let fs = self.dir.fs.as_ref();
        let segment = establish(fs, &self.dir.path(), &temporary, file, header)
            .map_err(|error| TailError::Broken(Arc::new(error)))?;
        let sealed = std::mem::replace(&mut self.active, Arc::new(segment));
        (self.offset, self.begun) = (FRAMES_AT, FRAMES_AT);
        self.segments.push(Arc::clone(&self.active));
        self.note();
        // One at a time: if indexes fill more slowly than segments, writing waits here.
        self.finish_filing();
        self.filed = FRAMES_AT;
        self.begin_filing(sealed, true);
        Ok(())
    }

    /// Writes this log's entry into the catalog and returns whether that worked. What it says of
    /// the log's end is a lower bound, so failing to raise it is no error.
    pub(crate) fn note(&self) -> bool {
        let entry = self.entry();
        let kind = self.dir.kind;
        let noted = self.catalog.update(|catalog| *entry_of(catalog, kind) = entry);
        if let Err(error) = &noted {
            tracing::warn!(%error, "the catalog could not be written");
        }
        noted.is_ok()
    }

    /// Begins to write the index of a segment into a file, in a thread.
    fn begin_filing(&mut self, segment: Arc<Segment>, durable: bool) {
        if self.dir.kind != LogKind::Events {
            return;
        }
        let frozen = match segment.freeze(durable) {
            Ok(Some(frozen)) => frozen,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "an index stays in memory");
                return;
            }
        };
        let (dir, segments) = (self.dir.clone(), Arc::clone(&self.segments));
        let is_sealed = segment.header.id != self.active.header.id;
        let work = move || {
            if file_index(&dir, &segment, &frozen) && is_sealed {
                segment.settle();
                segments.release(segment.header.id);
            }
        };
        match thread::Builder::new().name("headwater-index".to_owned()).spawn(work) {
            Ok(filing) => {
                self.dir.in_turn(&filing);
                self.filing = Some(filing);
            }
            // It is written with the next part, or when the store was opened again.
            Err(error) => tracing::warn!(%error, "no thread to write an index"),
        }
    }

    /// Moves the index of the active segment into its file each time so much has come together
    /// that memory and the next opening would feel it.
    pub(crate) fn file_if_due(&mut self) {
        let step = (self.active.header.capacity_bytes / 4).clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
        if self.offset - self.filed < step {
            return;
        }
        // One at a time; the next group asks again.
        if self.filing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.finish_filing();
            self.filed = self.offset;
            let durable = self.durable == self.next.previous();
            self.begin_filing(Arc::clone(&self.active), durable);
        }
    }

    fn finish_filing(&mut self) {
        if let Some(filing) = self.filing.take()
            && filing.join().is_err()
        {
            tracing::error!("the thread that writes an index panicked");
        }
    }

    /// Writes the index of the active segment into a file, so that the next opening need not walk
    /// it, if that is worth it and everything is durable.
    pub(crate) fn file_active(&mut self) {
        self.finish_filing();
        let is_durable = self.durable == self.next.previous();
        if self.dir.kind != LogKind::Events || !is_durable || !self.active.is_worth_filing() {
            return;
        }
        if let Ok(Some(frozen)) = self.active.freeze(true) {
            file_index(&self.dir, &self.active, &frozen);
        }
    }

    fn spare_path(&self) -> PathBuf {
        self.dir.path().join("next.tmp")
    }

    /// Begins to fill the spare segment once the active one is half full.
    fn prepare_spare(&mut self) {
        let half = self.active.header.capacity_bytes / 2;
        if self.offset < half || matches!(self.spare, Spare::Filling(_)) {
            return;
        }
        let (fs, path) = (Arc::clone(&self.dir.fs), self.spare_path());
        let (capacity, how) = (self.capacity_bytes, self.preallocation);
        let fill = move || preallocate(fs.as_ref(), &path, capacity, how);
        match thread::Builder::new().name("headwater-spare".to_owned()).spawn(fill) {
            Ok(filling) => {
                self.dir.in_turn(&filling);
                self.spare = Spare::Filling(filling);
            }
            // The roll makes it then.
            Err(error) => tracing::warn!(%error, "no thread to prepare the next segment"),
        }
    }

    /// Returns the spare segment, made now if it is not there or has another size.
    fn take_spare(&mut self, capacity_bytes: u64) -> io::Result<Arc<dyn FsFile>> {
        if let Some(Ok(file)) = self.join_spare()
            && file.size()? == capacity_bytes
        {
            return Ok(file);
        }
        let fs = self.dir.fs.as_ref();
        preallocate(fs, &self.spare_path(), capacity_bytes, self.preallocation)
    }

    fn join_spare(&mut self) -> Option<io::Result<Arc<dyn FsFile>>> {
        match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::None => None,
            Spare::Filling(filling) => Some(
                filling.join().unwrap_or_else(|_| Err(io::Error::other("the filler panicked"))),
            ),
        }
    }

    /// Lets the spare go, so that no thread outlives the log.
    pub(crate) fn discard_spare(&mut self) {
        if self.join_spare().is_some() {
            // It means nothing and goes at the next opening if not now.
            let _ = self.dir.fs.remove(&self.spare_path());
        }
    }

    /// Removes the segments before the one with the id `first`. Once the catalog says so, they are
    /// gone, whatever becomes of their files.
    ///
    /// Where writing the catalog fails, nothing was removed yet; the next opening may do so.
    pub(crate) fn remove_before(&mut self, first: u64) -> io::Result<()> {
        let entry = LogEntry { first_segment: first, ..self.entry() };
        let kind = self.dir.kind;
        if !planted(Bug::RemoveBeforeCatalog) {
            self.catalog.update(|catalog| *entry_of(catalog, kind) = entry)?;
        }
        let fs = self.dir.fs.as_ref();
        for segment in self.segments.keep_from(first) {
            for path in [segment.path(), segment.index_path()].into_iter().flatten() {
                match fs.remove(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(%error, file = %path.display(), "cannot remove a file");
                    }
                    _ => {}
                }
            }
        }
        if let Err(error) = fs.sync_dir(&self.dir.path()) {
            // The next opening removes what comes back.
            tracing::warn!(%error, "cannot sync the removal of segments");
        }
        Ok(())
    }
}

impl Drop for LogTail {
    fn drop(&mut self) {
        self.finish_filing();
        self.discard_spare();
    }
}

/// The entry of a log in the catalog.
pub(crate) fn entry_of(catalog: &mut Catalog, kind: LogKind) -> &mut LogEntry {
    match kind {
        LogKind::Events => &mut catalog.events,
        LogKind::Offsets => &mut catalog.offsets,
    }
}

/// Makes the first segment of a log that begins at `end`. If that is not the first position, the log
/// is as if another segment had been removed before it.
fn first_segment(dir: &LogDir, layout: Layout, end: &Walked) -> Result<Segment, OpenError> {
    let removed = u64::from(end.next > Position::FIRST);
    let header = SegmentHeader {
        capacity_bytes: layout.capacity_bytes,
        store: dir.store,
        kind: dir.kind,
        id: removed + 1,
        base: end.next,
        salt: new_salt(),
        created: Timestamp::now(),
        previous_id: removed,
        previous_word: end.word,
        epoch: layout.epoch,
        frames_before: end.frames,
    };
    let path = dir.path();
    let temporary = path.join("next.tmp");
    preallocate(dir.fs.as_ref(), &temporary, layout.capacity_bytes, layout.preallocation)
        .and_then(|file| establish(dir.fs.as_ref(), &path, &temporary, file, header))
        .map_err(OpenError::io("create the first segment in", path))
}

/// Draws a salt at random.
fn new_salt() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // The version and variant bits are fixed, each in another half.
    high ^ low.rotate_left(32)
}
