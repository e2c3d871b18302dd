//! Reading a store that another process may be writing, without its lock and without changing a
//! byte.

use std::path::Path;
use std::sync::Arc;

use headwater_core::{
    GroupState, LogId, Page, Position, Read, ReadError, Revision, StreamId, Timestamp, Visibility,
};

use crate::changes::Changes;
use crate::error::OpenError;
use crate::format::catalog::Catalog;
use crate::format::frame;
use crate::format::identity::Identity;
use crate::format::is_zero;
use crate::format::segment::LogKind;
use crate::fs::{Fs, RealFs};
use crate::handle::scan;
use crate::index::add_frame;
use crate::ledger::{self, Removal};
use crate::log::{Depth, LogDir, Manner, Purpose, Recovered, recover};
use crate::offsets::{Groups, fold};
use crate::open;
use crate::options::Options;
use crate::retention::{self, Cutoff, Passing, RetentionReport};
use crate::scan::Scan;
use crate::segment::Segment;
use crate::segments::{Segments, bound};
use crate::tails::TailsFile;
use crate::view::View;

/// How often a walk is repeated that may have met a frame being written.
pub(crate) const ATTEMPTS_MAX: usize = 5;

/// A store that is only read.
///
/// It sees every event that was committed when it was opened or [refreshed](Self::refresh), in
/// order and without a gap. Where the newest segment is damaged, or one is missing, it ends before
/// that, and [`damage`](Self::damage) says so; damage in older ones is an error of the read that
/// meets it.
#[derive(Debug)]
pub struct ReadOnlyStore {
    pub(crate) identity: Identity,
    pub(crate) catalog: Catalog,
    pub(crate) events: LogDir,
    pub(crate) log: Recovered,
    segments: Arc<Segments>,
    view: Arc<View>,
    groups: Vec<GroupState>,
    groups_damage: Option<OpenError>,
    /// Position of the next entry in the log of the groups.
    next_offset: Position,
    /// How often in a row the end of the log held something that is no frame.
    stuck: usize,
}

impl ReadOnlyStore {
    /// Opens a store for reading.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if there is no store, or nothing of it can be read.
    ///
    /// # Complexity
    ///
    /// Linear in what was written since the newest segment was begun or the store was closed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        Self::open_on(&fs, path.as_ref(), Depth::Newest)
    }

    /// Opens a store for reading, after a walk over every frame of it: checksums, positions, and
    /// the chain that joins them. Then [`damage`](Self::damage) knows all of it.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if there is no store, or nothing of it can be read.
    ///
    /// # Complexity
    ///
    /// Linear in the size of the log.
    pub fn open_and_walk(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        Self::open_on(&fs, path.as_ref(), Depth::All)
    }

    pub(crate) fn open_on(fs: &Arc<dyn Fs>, root: &Path, depth: Depth) -> Result<Self, OpenError> {
        let mut attempt = 1;
        loop {
            let opened = Self::attempt(fs, root, depth);
            let settled = matches!(&opened, Ok(store)
                if store.log.damage.is_none() && store.groups_damage.is_none());
            if settled || attempt == ATTEMPTS_MAX {
                return opened;
            }
            attempt += 1;
            std::thread::yield_now();
        }
    }

    fn attempt(fs: &Arc<dyn Fs>, root: &Path, depth: Depth) -> Result<Self, OpenError> {
        let (identity, catalog) = open::read_only(fs.as_ref(), root)?;
        let dir =
            |kind| LogDir { fs: Arc::clone(fs), root: root.to_owned(), kind, store: identity.id };
        let events = dir(LogKind::Events);
        // The groups first: beside a writer, none of them is beyond the events then.
        let (offsets, groups) = offsets_log(&dir(LogKind::Offsets), &catalog)?;
        // Retention may have removed segments meanwhile.
        let (_, catalog) = open::read_only(fs.as_ref(), root)?;
        let log = if open::exists(fs.as_ref(), &events.path())? {
            recover(
                &events,
                &catalog.events,
                Manner { purpose: Purpose::Read, depth, clean: false },
                &mut |segment, offset, frame, body| {
                    add_frame(segment.index_mut().open(), &segment.seed, offset, frame, body)
                },
            )?
        } else {
            Recovered::empty()
        };
        let segments = Arc::new(Segments::new(
            events.clone(),
            Purpose::Read,
            Options::default().open_segments,
            &log.sealed,
            log.active.clone(),
        ));
        let tails = TailsFile::new(Arc::clone(fs), root.to_owned(), identity.id);
        let view = View::new(Arc::clone(&segments), tails, log.end.next.previous());
        let view = Arc::new(view);
        let groups = groups.into_values().collect();
        let store = Self {
            identity,
            catalog,
            events,
            log,
            segments,
            view,
            groups,
            next_offset: offsets.end.next,
            groups_damage: offsets.damage,
            stuck: 0,
        };
        store.publish();
        Ok(store)
    }

    /// Returns the identity of the store.
    pub fn id(&self) -> LogId {
        self.identity.id
    }

    /// Returns when the store was created.
    pub fn created(&self) -> Timestamp {
        self.identity.created
    }

    /// Returns whether the last writer closed the store, by word of its catalog.
    pub fn is_clean(&self) -> bool {
        self.catalog.clean
    }

    /// Returns the epoch of the last writer: how often the store was opened to write.
    pub fn epoch(&self) -> u32 {
        self.catalog.epoch
    }

    /// Returns the last position that retention has removed: the log starts after it.
    pub fn start(&self) -> Position {
        self.view.start()
    }

    /// Returns what [`Store::remove`](crate::Store::remove) would do, by the groups' progress when
    /// this was opened.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the log cannot be read.
    pub fn would_remove(
        &self,
        cutoff: Cutoff,
        passing: Passing,
    ) -> Result<RetentionReport, ReadError> {
        retention::preview(&self.view, &self.groups, cutoff, passing)
    }

    /// Reads the ledger of what retention has removed, oldest first.
    ///
    /// # Errors
    ///
    /// [`ReadError::Io`] if the file cannot be read.
    pub fn ledger(&self) -> Result<Vec<Removal>, ReadError> {
        let read = ledger::read(self.events.fs.as_ref(), &self.events.root);
        read.map_err(|error| ReadError::Io(Arc::new(error)))
    }

    /// Returns where the log of the events lies.
    pub(crate) fn dir(&self) -> &LogDir {
        &self.events
    }

    /// Returns the last position.
    pub fn head(&self) -> Position {
        self.view.head(Visibility::Committed)
    }

    /// Returns when the last event was committed.
    pub fn last_commit_time(&self) -> Option<Timestamp> {
        (self.head() > Position::START).then_some(self.log.end.commit_time)
    }

    /// Returns where the log of the events is damaged, if it is. What lies before is readable.
    pub fn damage(&self) -> Option<&OpenError> {
        self.log.damage.as_ref()
    }

    /// Returns where the progress of the groups is damaged, if it is. [`groups`](Self::groups) has
    /// what was known before.
    pub fn groups_damage(&self) -> Option<&OpenError> {
        self.groups_damage.as_ref()
    }

    /// Returns the name, the size in bytes, the first position and the number of events of each
    /// segment, oldest first.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if a segment cannot be opened.
    pub fn segments(&self) -> Result<Vec<SegmentSummary>, ReadError> {
        let list = self.segments.list();
        let describe = |segment: Arc<Segment>| SegmentSummary {
            file: segment.header.file_name(),
            capacity_bytes: segment.header.capacity_bytes,
            used_bytes: segment.end(),
            base: segment.header.base,
            events: segment.events(),
        };
        list.iter().map(|segment| segment.get().map(describe)).collect()
    }

    /// Returns the state of every consumer group when the store was opened, by name.
    pub fn groups(&self) -> &[GroupState] {
        &self.groups
    }

    /// Reads one page, as [`EventLog::read`](headwater_core::EventLog::read) does.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the page lies outside the log or cannot be read.
    pub fn read(&self, read: &Read) -> Result<Page, ReadError> {
        self.view.read(read)
    }

    /// Returns the revision of a stream's last event.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the log cannot be read.
    pub fn stream_revision(&self, stream: &StreamId) -> Result<Revision, ReadError> {
        self.view.stream_end(stream).map(|(revision, _)| revision)
    }

    /// Returns the last position that was committed at `time` or before, so that reading after it
    /// gives what was committed later. Commit times never go back, and are this log's own.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the log cannot be read.
    ///
    /// # Complexity
    ///
    /// A binary search over segments, then over one event in a thousand, then over those.
    pub fn position_at(&self, time: Timestamp) -> Result<Position, ReadError> {
        self.view.position_at(time)
    }

    /// Returns how many bytes of the log lie behind `after` up to and with `through`.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if a position lies outside of the log, or it cannot be read.
    ///
    /// # Complexity
    ///
    /// Linear in the segments between, each of which is opened once.
    pub fn bytes_between(&self, after: Position, through: Position) -> Result<u64, ReadError> {
        self.view.bytes_between(after, through)
    }

    /// Walks over all events after a position without copying them.
    ///
    /// # Errors
    ///
    /// [`ReadError::BeyondHead`] if the position lies beyond the head.
    pub fn scan(&self, after: Position) -> Result<Scan, ReadError> {
        scan(&self.view, after)
    }

    /// Watches the store for what a writer does to it, so that following it needs no polling.
    ///
    /// # Errors
    ///
    /// [`OpenError::Io`] if the system cannot watch the directory.
    pub fn changes(&self) -> Result<Changes, OpenError> {
        Changes::of(&self.events.root)
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the log of the events if it is whole, as far as it was looked at.
    pub(crate) fn into_intact_log(self) -> Result<Recovered, OpenError> {
        match self.log.damage {
            Some(damage) => Err(damage),
            None => Ok(self.log),
        }
    }

    pub(crate) fn next_offset(&self) -> Position {
        self.next_offset
    }

    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Takes in what was committed since, and returns the new head.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if a segment that came since cannot be opened;
    /// [`FellBehind`](OpenError::FellBehind) if one was removed before it was read here.
    ///
    /// # Complexity
    ///
    /// Linear in what was committed since.
    pub fn refresh(&mut self) -> Result<Position, OpenError> {
        // The list first: whatever lies in a segment was complete before the next one had a name.
        let names = self.events.segment_names()?;
        self.follow()?;
        let known = self.segments.list().last().map_or(0, |segment| segment.id);
        if let Some(&(_, oldest, _)) = names.first() {
            if known > 0 && oldest > known + 1 {
                let path = self.events.path();
                return Err(OpenError::FellBehind { path, after: self.log.end.next.previous() });
            }
            // Retention removed the others.
            self.segments.keep_from(oldest.min(known));
        }
        for (base, id, name) in names {
            let known = self.segments.list().last().map_or(0, |segment| segment.id);
            if id == known + 1 {
                let segment = Arc::new(self.events.open_next((base, id, &name), &self.log)?);
                self.log.end = self.log.end.in_next_segment();
                let sealed = self.log.active.replace(Arc::clone(&segment));
                self.segments.push(segment);
                self.follow()?;
                if let Some(sealed) = sealed {
                    self.unload(&sealed);
                }
            }
        }
        self.publish();
        if self.stuck == ATTEMPTS_MAX {
            // No writer takes that long over a frame, so this may be damage.
            let again = Self::open_on(&self.events.fs, &self.events.root, Depth::Newest)?;
            self.log.damage = again.log.damage;
        }
        Ok(self.head())
    }

    /// Takes the index file of a segment that was sealed instead of what was gathered in memory.
    /// The writer may not have written it yet; then it is read when the segment is opened again.
    fn unload(&self, sealed: &Segment) {
        if let Ok(index) = bound(&self.events, sealed, None)
            && index.end() == sealed.events()
        {
            sealed.adopt(Arc::new(index));
            sealed.settle();
        }
        self.segments.release(sealed.header.id);
    }

    fn publish(&self) {
        let head = self.log.end.next.previous();
        let durable = self.log.end.durable.min(head);
        self.view.publish(head, durable);
    }

    /// Takes in the frames behind the known end of the newest segment.
    fn follow(&mut self) -> Result<(), OpenError> {
        let Some(segment) = self.log.active.clone() else {
            return Ok(());
        };
        let io = |action| OpenError::io(action, &segment.path);
        loop {
            // Copied, not mapped: these bytes may be in the middle of being written.
            let end = &mut self.log.end;
            let left = segment.header.capacity_bytes.saturating_sub(end.end);
            let mut bytes = vec![0; frame::HEADER_BYTES.min(usize::try_from(left).unwrap_or(0))];
            segment.file.read_at(&mut bytes, end.end).map_err(io("read"))?;
            if is_zero(&bytes) {
                self.stuck = 0;
                return Ok(());
            }
            if let Ok(header) = frame::decode_header(&bytes, &segment.seed)
                && u64::from(header.bytes) <= left
            {
                bytes.resize(header.bytes as usize, 0);
                segment.file.read_at(&mut bytes, end.end).map_err(io("read"))?;
            }
            let frame = frame::decode(&bytes, &segment.seed);
            let frame = frame.ok().filter(|(header, _)| end.disorder(header).is_none());
            let visited = frame.and_then(|(header, body)| {
                let mut index = segment.index_mut();
                let added = add_frame(index.open(), &segment.seed, end.end, &header, body);
                added.ok().map(|()| header)
            });
            let Some(header) = visited else {
                self.stuck += 1;
                return Ok(());
            };
            // The log goes on, so what was taken for damage was a writer that took its time.
            self.stuck = 0;
            self.log.damage = None;
            end.advance(&header);
            segment.publish(end.end);
        }
    }
}

/// Reads the log of the groups' progress; an empty one if there never was a group.
pub(crate) fn offsets_log(
    dir: &LogDir,
    catalog: &Catalog,
) -> Result<(Recovered, Groups), OpenError> {
    let mut groups = Groups::new();
    if !open::exists(dir.fs.as_ref(), &dir.path())? {
        return Ok((Recovered::empty(), groups));
    }
    let manner = Manner { purpose: Purpose::Read, depth: Depth::All, clean: false };
    let log = recover(dir, &catalog.offsets, manner, &mut |_, _, frame, body| {
        fold(&mut groups, frame, body)
    })?;
    Ok((log, groups))
}

/// One segment of a store, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// The name of its file.
    pub file: String,
    /// The size of its file.
    pub capacity_bytes: u64,
    /// How much of that is used.
    pub used_bytes: u64,
    /// Position of its first event.
    pub base: Position,
    /// How many events it has.
    pub events: u32,
}
