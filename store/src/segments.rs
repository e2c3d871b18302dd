//! The segments of a log: a list that costs next to nothing per segment, and a bounded number of
//! them open.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, Weak};

use headwater_core::{Position, ReadError};

use crate::error::OpenError;
use crate::format::frame::{self, HEADER_BYTES};
use crate::format::segment::SegmentHeader;
use crate::fs::Access;
use crate::index::{self, IndexFile, add_frame, build};
use crate::log::{LogDir, Purpose};
use crate::planted::{Bug, planted};
use crate::recovery::{self, Rest, Tail, Walked};
use crate::segment::{Frozen, Segment};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, RwLock};

/// The segments of a log, oldest first. Readers take the list as it is and keep what it holds.
#[derive(Debug)]
pub(crate) struct Segments {
    home: Arc<Home>,
    list: RwLock<SegmentList>,
    /// The newest segment, and whether no other will follow.
    newest: Mutex<(u64, bool)>,
    changed: Condvar,
}

pub(crate) type SegmentList = Arc<Vec<Arc<SegmentEntry>>>;

/// A segment in the list. It is opened when somebody asks for it.
#[derive(Debug)]
pub(crate) struct SegmentEntry {
    pub(crate) id: u64,
    pub(crate) base: Position,
    /// First position of the segment behind it, once there is one.
    next: OnceLock<Position>,
    open: RwLock<Option<Arc<Segment>>>,
    /// How many bytes its frames take, once it is sealed and somebody has asked.
    frames_bytes: OnceLock<u64>,
    /// When it was asked for last, in look-ups.
    used: AtomicU64,
    look_ups: Arc<AtomicU64>,
    home: Weak<Home>,
}

/// Where segments are opened, and which are open.
#[derive(Debug)]
struct Home {
    dir: LogDir,
    purpose: Purpose,
    open_max: usize,
    opened: Mutex<Vec<Weak<SegmentEntry>>>,
    look_ups: Arc<AtomicU64>,
}

impl Segments {
    /// Begins with the sealed segments, by base and id, and the one that is being written.
    pub(crate) fn new(
        dir: LogDir,
        purpose: Purpose,
        open_max: usize,
        sealed: &[(Position, u64)],
        active: Option<Arc<Segment>>,
    ) -> Self {
        let (opened, look_ups) = (Mutex::default(), Arc::new(AtomicU64::new(0)));
        let home = Arc::new(Home { dir, purpose, open_max, opened, look_ups });
        let entry = |base, id| Arc::new(SegmentEntry::new(&home, base, id, None));
        let mut list: Vec<_> = sealed.iter().map(|&(base, id)| entry(base, id)).collect();
        for pair in list.windows(2) {
            pair[0].followed_by(pair[1].base);
        }
        if let Some(active) = active {
            if let Some(last) = list.last() {
                last.followed_by(active.header.base);
            }
            let (base, id) = (active.header.base, active.header.id);
            list.push(Arc::new(SegmentEntry::new(&home, base, id, Some(active))));
        }
        let newest = list.last().map_or(0, |last| last.id);
        let list = RwLock::new(Arc::new(list));
        Self { home, list, newest: Mutex::new((newest, false)), changed: Condvar::new() }
    }

    pub(crate) fn list(&self) -> SegmentList {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds the segment that is written from now on.
    pub(crate) fn push(&self, segment: Arc<Segment>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut longer = Vec::clone(&list);
        if let Some(last) = longer.last() {
            last.followed_by(segment.header.base);
        }
        let (base, id) = (segment.header.base, segment.header.id);
        longer.push(Arc::new(SegmentEntry::new(&self.home, base, id, Some(segment))));
        *list = Arc::new(longer);
        drop(list);
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).0 = id;
        self.changed.notify_all();
    }

    /// Waits until there is a segment after `seen`, and returns the newest; `None` when there is
    /// none and no other will follow.
    pub(crate) fn wait_for_another(&self, seen: u64) -> Option<u64> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            self.changed.wait_while(newest, |(newest, closed)| *newest <= seen && !*closed);
        let (newest, _) = *waited.unwrap_or_else(PoisonError::into_inner);
        (newest > seen).then_some(newest)
    }

    /// Tells those who wait that no other segment will follow.
    pub(crate) fn close(&self) {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }

    /// Drops the segments before the one with the id `first` from the list and returns them.
    pub(crate) fn keep_from(&self, first: u64) -> Vec<Arc<SegmentEntry>> {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let mut older = Vec::clone(&list);
        let kept = older.split_off(older.partition_point(|entry| entry.id < first));
        *list = Arc::new(kept);
        older
    }

    /// Lets a sealed segment be closed when others are needed: its index stands in a file.
    pub(crate) fn release(&self, id: u64) {
        if let Some(entry) = self.list().iter().find(|entry| entry.id == id) {
            self.home.register(entry);
        }
    }
}

/// Returns the index of the segment that holds `position`, among segments that are ordered by
/// base; the first one where it lies before all.
pub(crate) fn holding(segments: &[Arc<SegmentEntry>], position: Position) -> usize {
    segments.partition_point(|segment| segment.base <= position).saturating_sub(1)
}

impl SegmentEntry {
    fn new(home: &Arc<Home>, base: Position, id: u64, open: Option<Arc<Segment>>) -> Self {
        let (next, used, look_ups) =
            (OnceLock::new(), AtomicU64::new(0), Arc::clone(&home.look_ups));
        let open = RwLock::new(open);
        let (frames_bytes, home) = (OnceLock::new(), Arc::downgrade(home));
        Self { id, base, next, open, frames_bytes, used, look_ups, home }
    }

    fn followed_by(&self, next: Position) {
        // A second call says the same: positions are given once.
        let _ = self.next.set(next);
    }

    /// Returns the path of the segment's file.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        let home = self.home.upgrade()?;
        Some(home.dir.path().join(crate::format::segment::file_name(self.base, self.id)))
    }

    /// Returns the path of its index file.
    pub(crate) fn index_path(&self) -> Option<PathBuf> {
        self.path().map(|path| path.with_extension("idx"))
    }

    /// Returns the segment if it is open.
    pub(crate) fn opened(&self) -> Option<Arc<Segment>> {
        // Not counted exactly: which one is closed first when there are too many may be wrong by a few
        // look-ups, and these are many.
        let now = self.look_ups.load(Ordering::Relaxed) + 1;
        self.look_ups.store(now, Ordering::Relaxed);
        self.used.store(now, Ordering::Relaxed);
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the segment, opened if it is not.
    ///
    /// Opening looks at the header block, the index file, and the last frame. Where the index file
    /// is missing, or is not the one of these bytes, the segment is walked and the index built.
    pub(crate) fn get(self: &Arc<Self>) -> Result<Arc<Segment>, ReadError> {
        if let Some(segment) = self.opened() {
            return Ok(segment);
        }
        let home = self.home.upgrade().ok_or(ReadError::Closed)?;
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = &*open {
            return Ok(Arc::clone(segment));
        }
        let next = *self.next.get().ok_or(ReadError::Closed)?;
        let segment = Arc::new(home.open(self.base, self.id, next)?);
        *open = Some(Arc::clone(&segment));
        drop(open);
        home.register(self);
        Ok(segment)
    }

    /// Returns how many bytes the frames of a sealed segment take.
    pub(crate) fn frames_bytes(self: &Arc<Self>) -> Result<u64, ReadError> {
        if let Some(&bytes) = self.frames_bytes.get() {
            return Ok(bytes);
        }
        let bytes = self.get()?.bytes_through(Position::MAX)?;
        Ok(*self.frames_bytes.get_or_init(|| bytes))
    }

    fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Home {
    /// Counts a segment as open, and closes the one that was not asked for the longest time if
    /// there are too many.
    fn register(&self, entry: &Arc<SegmentEntry>) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|other| other.upgrade().is_some_and(|other| other.id != entry.id));
        if opened.len() >= self.open_max {
            let used = |entry: &Weak<SegmentEntry>| {
                entry.upgrade().map_or(0, |entry| entry.used.load(Ordering::Relaxed))
            };
            let oldest = (0..opened.len()).min_by_key(|&at| used(&opened[at]));
            if let Some(entry) = oldest.and_then(|at| opened.swap_remove(at).upgrade()) {
                entry.close();
            }
        }
        opened.push(Arc::downgrade(entry));
    }

    fn open(&self, base: Position, id: u64, next: Position) -> Result<Segment, ReadError> {
        let dir = &self.dir;
        let name = crate::format::segment::file_name(base, id);
        let header = dir.header(base, id, &name).map_err(|error| read_error(base, error))?;
        let following = crate::format::segment::file_name(next, id + 1);
        // A damaged one is found when it is opened itself.
        let following = dir.header(next, id + 1, &following).ok();
        let path = dir.path().join(&name);
        let io = |error: io::Error| ReadError::Io(Arc::new(error));
        let file = dir.fs.open(&path, Access::Read).map_err(io)?;
        let segment = Segment::new(header, path, file).map_err(io)?;
        let reason = match bound(dir, &segment, following.as_ref()) {
            Ok(index) if segment.position(index.end()) != next => "it covers a part".to_owned(),
            Ok(index) => {
                segment.publish(index.header().covered.end);
                segment.adopt(Arc::new(index));
                segment.settle();
                return Ok(segment);
            }
            Err(reason) => reason,
        };
        tracing::warn!(segment = name, reason, "building an index anew");
        let whole = segment.whole(0, u64::MAX).map_err(io)?;
        let mut before = Walked::before(&header);
        before.durable = next.previous();
        let (walked, tail) =
            recovery::walk(whole, &segment.seed, before, Rest::Look, |offset, frame, body| {
                add_frame(segment.index_mut().open(), &segment.seed, offset, frame, body)
            });
        segment.publish(walked.end);
        let (position, offset, detail) = match tail {
            Ok(Tail::Clean) if walked.next == next && follows(&walked, following.as_ref()) => {
                if self.purpose == Purpose::Write
                    && let Some(frozen) = segment.freeze(true)?
                {
                    file_index(dir, &segment, &frozen);
                    segment.settle();
                }
                return Ok(segment);
            }
            Ok(_) => {
                (walked.next, walked.end, "the segment behind it does not continue it".to_owned())
            }
            Err(damage) => {
                let (position, offset) = damage.place();
                (position, offset, damage.to_string())
            }
        };
        // What lies before the damage can be read.
        let file = segment.path.display().to_string();
        segment.end_in_damage(ReadError::Damaged { position, file, offset, detail });
        Ok(segment)
    }
}

fn follows(walked: &Walked, following: Option<&SegmentHeader>) -> bool {
    following.is_none_or(|following| {
        following.previous_word == walked.word && following.frames_before == walked.frames
    })
}

/// Opens the index file of a segment, and checks that it is about these very bytes: that the last
/// frame which it covers is there, and for a sealed segment, that the next one continues it.
pub(crate) fn bound(
    dir: &LogDir,
    segment: &Segment,
    following: Option<&SegmentHeader>,
) -> Result<IndexFile, String> {
    let path = dir.path().join(index::file_name(&segment.header));
    let index = IndexFile::open(dir.fs.as_ref(), &path, &segment.header)?;
    let covered = index.header().covered;
    let mut bytes = [0; HEADER_BYTES];
    let read = segment.file.read_at(&mut bytes, covered.last_frame.into());
    read.map_err(|error| error.to_string())?;
    let last = frame::decode_header(&bytes, &segment.seed).map_err(|fault| fault.to_string())?;
    let end = u64::from(covered.last_frame) + u64::from(last.bytes);
    let next = segment.position(covered.events);
    let is_last = last.word() == covered.word
        && last.last().next() == next
        && (end, last.commit_seq, last.epoch, last.commit_time)
            == (covered.end, covered.frames, covered.epoch, covered.commit_time);
    let is_continued = following.is_none_or(|following| {
        following.previous_word == covered.word && following.frames_before == covered.frames
    });
    let is_bound = (is_last && is_continued) || planted(Bug::UnboundIndex);
    if is_bound { Ok(index) } else { Err("it describes other bytes".to_owned()) }
}

/// Writes an index into the file of its segment, and uses that from then on. Where this fails, the
/// index stays in memory. Returns whether it worked.
pub(crate) fn file_index(dir: &LogDir, segment: &Segment, frozen: &Frozen) -> bool {
    let path = dir.path();
    let name = index::file_name(&segment.header);
    let Frozen { covered, layers } = frozen;
    let memory: Vec<_> = layers.frozen.iter().map(Arc::as_ref).collect();
    let bytes = build(&segment.header, *covered, layers.file.as_deref(), &memory);
    let written = bytes.map_err(|fault| fault.to_string()).and_then(|bytes| {
        crate::fs::replace_file(dir.fs.as_ref(), &path, &name, &bytes)
            .map_err(|error| error.to_string())?;
        let file = IndexFile::open(dir.fs.as_ref(), &path.join(&name), &segment.header)?;
        segment.adopt(Arc::new(file));
        Ok(())
    });
    if let Err(reason) = &written {
        tracing::warn!(file = %path.join(name).display(), reason, "an index was not written");
    }
    written.is_ok()
}

/// Names what keeps a segment from being opened, for a reader at `position`.
fn read_error(position: Position, error: OpenError) -> ReadError {
    match error {
        OpenError::Io { source, .. }
        | OpenError::StorageFull { source, .. }
        | OpenError::Unreadable { source, .. } => ReadError::Io(source),
        OpenError::AcknowledgedDamage { path, position, offset, detail }
        | OpenError::UnexplainedTail { path, position, offset, detail } => {
            ReadError::Damaged { position, file: path.display().to_string(), offset, detail }
        }
        OpenError::File { path, detail } => {
            ReadError::Damaged { position, file: path.display().to_string(), offset: 0, detail }
        }
        other => ReadError::Engine(Arc::new(other)),
    }
}
