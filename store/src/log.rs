//! Many segments as one log: finding, checking and walking them when a store is opened.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{LogId, Position, Timestamp};

use crate::catalog::file_fault;
use crate::error::{OpenError, Remedy};
use crate::format::BLOCK_BYTES;
use crate::format::catalog::LogEntry;
use crate::format::frame::FrameHeader;
use crate::format::segment::{LogKind, SegmentHeader, parse_file_name};
use crate::fs::{Access, Fs, is_temporary, own_file, write_file};
use crate::open::QUARANTINE;
use crate::planted::{Bug, planted};
use crate::recovery::{self, Damage, Rest, Tail, Walked};
use crate::segment::Segment;
use crate::segments::bound;
use crate::sync::thread::{JoinHandle, yield_now};

/// Where a log lies and to which store it belongs.
#[derive(Clone, Debug)]
pub(crate) struct LogDir {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) root: PathBuf,
    pub(crate) kind: LogKind,
    pub(crate) store: LogId,
}

impl LogDir {
    pub(crate) fn path(&self) -> PathBuf {
        self.root.join(self.kind.folder())
    }

    /// Waits for a thread at once, where a test must do the same each time.
    pub(crate) fn in_turn<T>(&self, thread: &JoinHandle<T>) {
        while self.fs.works_in_turn() && !thread.is_finished() {
            yield_now();
        }
    }

    /// Lists the segments by number, oldest first.
    pub(crate) fn segment_names(&self) -> Result<Vec<(Position, u64, String)>, OpenError> {
        let path = self.path();
        let names = self.fs.list(&path).map_err(OpenError::io("list", path))?;
        let parse = |name: String| parse_file_name(&name).map(|(base, id)| (base, id, name));
        let mut found: Vec<_> = names.into_iter().filter_map(parse).collect();
        found.sort_unstable_by_key(|&(_, id, _)| id);
        Ok(found)
    }

    /// Reads the header block of a segment and checks it against the file's name and size.
    pub(crate) fn header(
        &self,
        base: Position,
        id: u64,
        name: &str,
    ) -> Result<SegmentHeader, OpenError> {
        let path = self.path().join(name);
        let io = |action| OpenError::io(action, &path);
        let file = self.fs.open(&path, Access::Read).map_err(io("open"))?;
        let size = file.size().map_err(io("size"))?;
        let mut block = vec![0; BLOCK_BYTES.min(usize::try_from(size).unwrap_or(usize::MAX))];
        let read = file.read_at(&mut block, 0);
        read.map_err(OpenError::read(&path, Remedy::without(&path)))?;
        let header =
            SegmentHeader::decode(&block).map_err(|fault| file_fault(path.clone(), &fault))?;
        let detail = if header.store != self.store {
            format!("it belongs to store {}, not {}", header.store, self.store)
        } else if (header.kind, header.base, header.id) != (self.kind, base, id) {
            format!("its header says {:?} {}", header.kind, header.file_name())
        } else if header.capacity_bytes != size {
            format!("it has {size} bytes, and its header says {}", header.capacity_bytes)
        } else {
            return Ok(header);
        };
        Err(OpenError::File { path, detail })
    }

    /// Opens the segment that follows a log which is being read.
    pub(crate) fn open_next(
        &self,
        (base, id, name): (Position, u64, &str),
        log: &Recovered,
    ) -> Result<Segment, OpenError> {
        let header = self.header(base, id, name)?;
        let path = self.path().join(name);
        check_chain(&header, &log.end, &path)?;
        let file = self.fs.open(&path, Access::Read).map_err(OpenError::io("open", &path))?;
        Segment::new(header, path.clone(), file).map_err(OpenError::io("map", path))
    }
}

/// Bytes that recovery cut off and kept in `quarantine/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment they were cut from.
    pub segment: PathBuf,
    /// Where they began.
    pub offset: u64,
    /// How many there were.
    pub bytes: u64,
    /// Where they are kept.
    pub kept: PathBuf,
}

/// A log after recovery.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The segments that nobody writes to any more, oldest first.
    pub(crate) sealed: Vec<(Position, u64)>,
    /// The newest segment, as far as it counts.
    pub(crate) active: Option<Arc<Segment>>,
    pub(crate) end: Walked,
    pub(crate) cut: Option<Cut>,
    /// Why a reader may go no further, where a writer would have been refused.
    pub(crate) damage: Option<OpenError>,
}

impl Recovered {
    /// A log before its first segment.
    pub(crate) fn empty() -> Self {
        Self::beginning_at(Position::FIRST)
    }

    /// A log before its first segment, which begins at a position. What would lie before counts as
    /// removed, as one segment with one frame.
    pub(crate) fn beginning_at(next: Position) -> Self {
        let (durable, frames) = (next.previous(), u64::from(next > Position::FIRST));
        let (sealed, end) = (Vec::new(), Walked { next, frames, durable, ..Walked::START });
        Self { sealed, active: None, end, cut: None, damage: None }
    }
}

/// Sees each frame that counts: its segment, its offset, its header and its body.
pub(crate) type Visit<'a> =
    dyn FnMut(&Segment, u64, &FrameHeader, &[u8]) -> Result<(), String> + 'a;

/// Whether a log is opened to write or only to read. Readers change nothing on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Write,
    Read,
}

/// Which segments are walked when a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    All,
    /// Only the newest, and that only behind what its index file covers. The others are checked
    /// when they are read.
    Newest,
}

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) purpose: Purpose,
    pub(crate) depth: Depth,
    /// The last writer closed it, by word of the catalog: everything was on the device, and zeros
    /// follow it.
    pub(crate) clean: bool,
}

/// Opens a log: checks the names of all segments, and walks the frames of those that `depth`
/// says, each checked against its name, its header and the one before.
pub(crate) fn recover(
    dir: &LogDir,
    entry: &LogEntry,
    manner: Manner,
    visit: &mut Visit<'_>,
) -> Result<Recovered, OpenError> {
    let Manner { purpose, depth, .. } = manner;
    let Found { names, gap } = find(dir, entry, purpose)?;
    if let (Some(error), Purpose::Write) = (&gap, purpose) {
        return Err(error.clone());
    }
    let mut recovered = Recovered::empty();
    for (at, (base, id, name)) in names.iter().enumerate() {
        // Rolling syncs a segment before the next one gets its name.
        let sealed_before = names.get(at + 1).map(|(next, ..)| next.previous());
        if sealed_before.is_some() {
            recovered.sealed.push((*base, *id));
            if depth == Depth::Newest {
                continue;
            }
        }
        let last_known = match gap {
            None => entry.durable.max(base.previous()),
            Some(_) => base.previous(),
        };
        let opened = dir.header(*base, *id, name).and_then(|header| {
            if at == 0 || depth == Depth::Newest {
                recovered.end = Walked::before(&header);
            }
            let known = sealed_before.unwrap_or(last_known);
            recovered.end.durable = recovered.end.durable.max(known);
            let is_active = sealed_before.is_none();
            let step = Step { dir, header: &header, is_active, manner };
            open_segment(&step, &mut recovered, visit)
        });
        match (opened, purpose) {
            (Ok(()), _) => {}
            (Err(error), Purpose::Write) => return Err(error),
            // A reader has what lies before the damage.
            (Err(error), Purpose::Read) => {
                if recovered.active.is_none() && depth == Depth::Newest {
                    recovered.end.next = *base;
                }
                if recovered.end.next <= *base && sealed_before.is_some() {
                    recovered.sealed.pop();
                }
                recovered.damage = Some(error);
                return Ok(recovered);
            }
        }
    }
    recovered.damage = gap;
    Ok(recovered)
}

/// The segments of a log, up to the first one that is missing.
struct Found {
    names: Vec<(Position, u64, String)>,
    gap: Option<OpenError>,
}

/// Lists the segments that count.
fn find(dir: &LogDir, entry: &LogEntry, purpose: Purpose) -> Result<Found, OpenError> {
    let path = dir.path();
    if purpose == Purpose::Write {
        tidy(dir, entry)?;
        // A crash may have come between a segment's name and the sync of its directory.
        dir.fs.sync_dir(&path).map_err(OpenError::io("sync", &path))?;
    }
    let mut names = dir.segment_names()?;
    names.retain(|&(_, id, _)| id >= entry.first_segment);
    let first = entry.first_segment.max(1);
    let complete = (first..).zip(&names).take_while(|(expected, (_, id, _))| expected == id);
    let missing = first + complete.count() as u64;
    let whole = missing == first + names.len() as u64 && missing > entry.active_segment;
    names.retain(|&(_, id, _)| id < missing);
    let gap = (!whole && !planted(Bug::IgnoreMissing))
        .then_some(OpenError::MissingSegment { path, id: missing });
    Ok(Found { names, gap })
}

/// Removes what means nothing: files in the making, and segments whose removal was decided and
/// interrupted.
fn tidy(dir: &LogDir, entry: &LogEntry) -> Result<(), OpenError> {
    let path = dir.path();
    for name in dir.fs.list(&path).map_err(OpenError::io("list", &path))? {
        let file = path.join(&name);
        // An index file is called like its segment.
        match parse_file_name(&name.replace(".idx", ".seg")) {
            Some((_, id)) if id >= entry.first_segment => {}
            None if !is_temporary(&name) && !planted(Bug::RemoveForeign) => {
                tracing::warn!(file = %file.display(), "not a file of the store");
            }
            _ => dir.fs.remove(&file).map_err(OpenError::io("remove", file))?,
        }
    }
    Ok(())
}

/// About so much of the newest segment is not in its index file when a store was closed.
const CLEAN_BYTES: u64 = 2 * 1024 * 1024;

/// One segment on the way through a log.
struct Step<'a> {
    dir: &'a LogDir,
    header: &'a SegmentHeader,
    is_active: bool,
    manner: Manner,
}

/// Opens and walks a segment. It belongs to the log up to damage, even where this is an error.
fn open_segment(
    step: &Step<'_>,
    recovered: &mut Recovered,
    visit: &mut Visit<'_>,
) -> Result<(), OpenError> {
    let Step { dir, header, .. } = *step;
    let path = dir.path().join(header.file_name());
    check_chain(header, &recovered.end, &path)?;
    let Manner { purpose, depth, clean } = step.manner;
    let writes = step.is_active && purpose == Purpose::Write;
    let clean = clean && writes;
    if writes {
        let own = own_file(dir.fs.as_ref(), &dir.path(), &header.file_name());
        own.map_err(OpenError::io("copy", &path))?;
    }
    let access = if writes { Access::Write } else { Access::Read };
    let file = dir.fs.open(&path, access).map_err(OpenError::io("open", &path))?;
    if writes && !clean {
        // After a failed sync the cache may hold bytes that the disk does not. Syncing makes sure
        // of what is readable now, and dropping the cache makes the walk see the disk.
        file.sync().map_err(OpenError::io("sync", &path))?;
        if !planted(Bug::BelieveCache) {
            file.evict().map_err(OpenError::io("evict", &path))?;
        }
    }
    let segment = Segment::new(*header, path.clone(), file).map_err(OpenError::io("map", &path))?;
    recovered.end = recovered.end.in_next_segment();
    if depth == Depth::Newest {
        go_on_behind_index(dir, &segment, &mut recovered.end);
    }
    let remedy = if step.is_active { Some(Remedy::CutTail) } else { Remedy::without(&path) };
    let unread = || OpenError::read(&path, remedy);
    let whole = if step.is_active && purpose == Purpose::Read {
        // A writer may be at work, and what it is writing must not be looked at in a map.
        Cow::Owned(segment.copy().map_err(unread())?)
    } else {
        let (from, len) = (recovered.end.end, if clean { CLEAN_BYTES } else { u64::MAX });
        Cow::Borrowed(segment.whole(from, from.saturating_add(len)).map_err(unread())?)
    };
    let rest = if clean { Rest::IsZero } else { Rest::Look };
    let (walked, tail) =
        recovery::walk(&whole, &segment.seed, recovered.end, rest, |offset, frame, body| {
            visit(&segment, offset, frame, body)
        });
    drop(whole);
    recovered.end = walked;
    segment.publish(walked.end);
    let torn = match tail {
        Ok(Tail::Torn { from, to }) if writes => Ok(Some((from, to))),
        Ok(Tail::Torn { from, .. }) if !step.is_active => Err(Damage::Unexplained {
            position: walked.next,
            offset: from,
            detail: "more bytes follow the last frame of a sealed segment".to_owned(),
        }),
        Ok(_) => Ok(None),
        Err(damage) => Err(damage),
    };
    let segment = Arc::new(segment);
    if step.is_active {
        recovered.active = Some(Arc::clone(&segment));
    }
    let torn = torn.map_err(|damage| damaged(path, &damage))?;
    if let Some((from, to)) = torn {
        recovered.cut = Some(cut(dir, &segment, from, to)?);
    }
    if writes {
        prove(&segment, &mut recovered.end)?;
    }
    Ok(())
}

/// Takes what the index file of a segment covers for walked, if all of it was durable: by word of
/// the file when it was written, or of the catalog.
fn go_on_behind_index(dir: &LogDir, segment: &Segment, end: &mut Walked) {
    let index = match bound(dir, segment, None) {
        Ok(index) => index,
        Err(reason) => {
            tracing::debug!(segment = %segment.path.display(), reason, "no index");
            return;
        }
    };
    let covered = index.header().covered;
    let next = segment.position(covered.events);
    let proven = covered.durable || planted(Bug::IndexBeforeSync);
    if !proven && end.durable < next.previous() {
        return;
    }
    *end = Walked {
        end: covered.end,
        next,
        word: covered.word,
        frames: covered.frames,
        epoch: covered.epoch,
        commit_time: covered.commit_time,
        durable: end.durable.max(next.previous()),
        unproven: covered.end,
    };
    segment.adopt(Arc::new(index));
}

/// Writes the frames again that nobody called durable, and syncs. Where an old map of the file
/// kept the cache from being dropped, they may have been in the cache alone.
fn prove(segment: &Segment, end: &mut Walked) -> Result<(), OpenError> {
    let io = |action| OpenError::io(action, &segment.path);
    let len = usize::try_from(end.end - end.unproven).expect("a segment fits the address space");
    if len > 0 && !planted(Bug::LeaveUnproven) {
        let mut bytes = vec![0; len];
        segment.file.read_at(&mut bytes, end.unproven).map_err(io("read"))?;
        segment.file.write_at(&bytes, end.unproven).map_err(io("write"))?;
        segment.file.sync().map_err(io("sync"))?;
    }
    end.unproven = end.end;
    end.durable = end.next.previous();
    Ok(())
}

/// Checks that a segment follows the one before.
fn check_chain(header: &SegmentHeader, end: &Walked, path: &Path) -> Result<(), OpenError> {
    let follows = header.base == end.next
        && header.previous_word == end.word
        && header.frames_before == end.frames
        && header.previous_id + 1 == header.id;
    if follows {
        return Ok(());
    }
    Err(OpenError::AcknowledgedDamage {
        path: path.to_owned(),
        position: end.next,
        offset: 0,
        detail: format!(
            "the segment begins at position {} and does not continue the one before, which ends before position {}",
            header.base, end.next
        ),
    })
}

fn damaged(path: PathBuf, damage: &Damage) -> OpenError {
    let (position, offset) = damage.place();
    let detail = damage.to_string();
    match damage {
        Damage::Unexplained { .. } => OpenError::UnexplainedTail { path, position, offset, detail },
        Damage::Acknowledged { .. } | Damage::Missing { .. } => {
            OpenError::AcknowledgedDamage { path, position, offset, detail }
        }
    }
}

/// Keeps the torn end of a segment in `quarantine/` and makes it zeros again.
pub(crate) fn cut(dir: &LogDir, segment: &Segment, from: u64, to: u64) -> Result<Cut, OpenError> {
    let quarantine = dir.root.join(QUARANTINE);
    dir.fs.create_dir(&quarantine).map_err(OpenError::io("create", &quarantine))?;
    dir.fs.sync_dir(&dir.root).map_err(OpenError::io("sync", &dir.root))?;
    let io = |action| OpenError::io(action, &segment.path);
    let len = usize::try_from(to - from).expect("a segment fits the address space");
    let mut bytes = vec![0; len];
    segment.file.read_at(&mut bytes, from).map_err(io("read"))?;
    let millis = Timestamp::now().as_nanos() / 1_000_000;
    let name = format!("{}-{}-{from}-{millis}.bin", dir.kind.folder(), segment.header.file_name());
    let kept = quarantine.join(&name);
    write_file(dir.fs.as_ref(), &quarantine, &name, &bytes)
        .map_err(OpenError::io("write", &kept))?;
    if !planted(Bug::KeepTornEnd) {
        segment.file.write_at(&vec![0; len], from).map_err(io("write"))?;
    }
    segment.file.sync().map_err(io("sync"))?;
    Ok(Cut { segment: segment.path.clone(), offset: from, bytes: to - from, kept })
}
