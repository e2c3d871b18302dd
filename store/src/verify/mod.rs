//! Checking everything that a store holds, and everything that is derived from it.
//!
//! The segments are checked at the same time, as many as there are threads: frames, records,
//! appends, and the index file of each. In the order of the log they are then joined: the chain of
//! frames, and for every stream the chain of its events, in [bounded memory](streams). Last come
//! the small files. Nothing is changed and no lock is taken; beside a live writer, what was
//! committed at the beginning is checked.

mod directory;
mod index;
mod segment;
mod streams;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use headwater_core::{AppendId, Position};
use serde::Serialize;

use crate::error::{OpenError, Remedy};
use crate::format::frame::FrameHeader;
use crate::format::segment::SegmentHeader;
use crate::format::tails::Tails;
use crate::fs::{Access, Fs, RealFs};
use crate::log::{Depth, LogDir};
use crate::options::Options;
use crate::read_only::ReadOnlyStore;
use crate::recovery::Walked;
use crate::segment::Segment;

use segment::{Checked, Pass, Task, check};
use streams::{Hole, Streams};

/// More faults than this are only counted; in tests so few that there soon are more.
const FAULTS_MAX: usize = if cfg!(test) { 20 } else { 1000 };

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyDepth {
    /// The log, and the small files beside it.
    Log,
    /// What is derived too: index files, and the digests of appends.
    Everything,
}

/// How a store is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyOptions {
    /// What is checked. The default is everything.
    pub depth: VerifyDepth,
    /// How many segments are checked at a time. Each takes about 40 bytes of memory for each of
    /// its events meanwhile. The default is the number of processors, and 4 at most.
    pub threads: usize,
    /// How much memory the streams may take, in bytes. If there are more streams, those that did
    /// not fit are checked in further passes over the log. The default of 256 MiB is enough for
    /// three million streams in one pass.
    pub streams_bytes: u64,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(4);
        Self { depth: VerifyDepth::Everything, threads, streams_bytes: 256 * 1024 * 1024 }
    }
}

/// How bad a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing, and as it may be.
    Note,
    /// Something that is derived from the log does not agree with it. It is built anew by itself,
    /// and nothing is lost.
    Derived,
    /// The store does not hold what was written.
    Damage,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// The file that it is in.
    pub file: PathBuf,
    /// The first position that is concerned.
    pub position: Option<Position>,
    /// Where in the file.
    pub offset: Option<u64>,
    /// What is wrong.
    pub detail: String,
    /// What can be done, apart from restoring a backup.
    pub remedy: Option<Remedy>,
}

/// A file that a repair or a recovery has set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Its name in `quarantine/`.
    pub file: String,
    /// Its size.
    pub bytes: u64,
}

/// What was checked, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The last position.
    pub head: Position,
    /// The last position that was removed.
    pub start: Position,
    /// How many events were checked.
    pub events: u64,
    /// How many streams have them.
    pub streams: u64,
    /// How many appends carry an id.
    pub append_ids: u64,
    /// How many segments were checked.
    pub segments: usize,
    /// How many index files agree with their segments.
    pub indexes: usize,
    /// How many bytes of frames were checked.
    pub bytes: u64,
    /// How many consumer groups there are.
    pub groups: usize,
    /// How many streams `TAILS` has.
    pub tails: u64,
    /// How often the log was read: more than once if it has more streams than memory allows.
    pub passes: u32,
    /// What `quarantine/` holds.
    pub quarantine: Vec<Quarantined>,
    /// What was found, in the order in which it was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// How many more faults there were.
    pub faults_left_out: u64,
}

impl VerifyReport {
    /// Returns how bad the worst fault is.
    pub fn worst(&self) -> Option<Severity> {
        self.faults.iter().map(|fault| fault.severity).max()
    }
}

/// Told of so many more events and bytes, from several threads.
pub type ProgressFn<'a> = dyn Fn(u64, u64) + Sync + 'a;

/// Faults, up to a number of them.
#[derive(Clone, Debug, Default)]
struct Faults {
    list: Vec<Fault>,
    more: u64,
    /// Only what is wrong with index files counts, and all of it: there is one to a segment.
    of_indexes: bool,
}

impl Faults {
    fn push(&mut self, fault: Fault) {
        if self.of_indexes {
            self.list.extend(Some(fault).filter(|f| f.remedy == Some(Remedy::Reindex)));
        } else if self.list.len() < FAULTS_MAX {
            self.list.push(fault);
        } else {
            self.more += 1;
        }
    }

    fn append(&mut self, other: Self) {
        other.list.into_iter().for_each(|fault| self.push(fault));
        self.more += other.more;
    }

    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// Checks a store, and all that is derived from what it holds.
///
/// `progress` is told of events and bytes as they are checked in the first pass.
///
/// # Errors
///
/// [`OpenError`] if there is no store, or its identity or its catalog cannot be read. Damage behind
/// that is in the report.
///
/// # Complexity
///
/// Linear in the size of the log, and *n* log *n* in the number of events of a segment. Memory as
/// [`VerifyOptions`] says, whatever the size of the log.
pub fn verify(
    path: impl AsRef<Path>,
    options: &VerifyOptions,
    progress: &ProgressFn<'_>,
) -> Result<VerifyReport, OpenError> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    verify_on(&fs, path.as_ref(), options, progress)
}

pub(crate) fn verify_on(
    fs: &Arc<dyn Fs>,
    root: &Path,
    options: &VerifyOptions,
    progress: &ProgressFn<'_>,
) -> Result<VerifyReport, OpenError> {
    check_on(fs, root, options, progress, Faults::default())
}

/// Returns what is wrong with index files, in each segment.
pub(crate) fn wrong_indexes(
    fs: &Arc<dyn Fs>,
    root: &Path,
    options: &VerifyOptions,
) -> Result<Vec<Fault>, OpenError> {
    let faults = Faults { of_indexes: true, ..Faults::default() };
    check_on(fs, root, options, &|_, _| {}, faults).map(|report| report.faults)
}

fn check_on(
    fs: &Arc<dyn Fs>,
    root: &Path,
    options: &VerifyOptions,
    progress: &ProgressFn<'_>,
    faults: Faults,
) -> Result<VerifyReport, OpenError> {
    let store = ReadOnlyStore::open_on(fs, root, Depth::Newest)?;
    let mut verifier = Verifier::new(&store, faults);
    verifier.opening();
    let sources = verifier.sources()?;
    let tails = verifier.tails();
    let mut streams = Streams::new(options.streams_bytes, store.start());
    loop {
        let first = verifier.report.passes == 0;
        verifier.report.passes += 1;
        verifier.pass(&sources, tails.as_ref(), &mut streams, first, options, progress);
        if !streams.next_pass() {
            break;
        }
    }
    verifier.report.streams = streams.count();
    verifier.small_files(tails.as_ref());
    let Verifier { mut report, faults, .. } = verifier;
    (report.faults, report.faults_left_out) = (faults.list, faults.more);
    Ok(report)
}

/// A segment as its name says: base, id, and the name.
type Source = (Position, u64, String);

/// A verification under way.
struct Verifier<'a> {
    store: &'a ReadOnlyStore,
    dir: &'a LogDir,
    report: VerifyReport,
    faults: Faults,
    /// What cannot be read.
    holes: Vec<Hole>,
}

/// Where the segment that was joined last ends: its id, its end, and its first frame.
type Joined = Option<(u64, Walked, Option<FrameHeader>)>;

/// The append ids of the window in which they must differ, in the order of the log.
struct Ids {
    newest: VecDeque<AppendId>,
    known: HashSet<AppendId>,
    window: usize,
}

impl Ids {
    fn new() -> Self {
        let window = Options::default().idempotency_window;
        Self { newest: VecDeque::new(), known: HashSet::new(), window }
    }

    /// Takes an id in. Returns whether it was among the newest already.
    fn repeats(&mut self, id: AppendId) -> bool {
        if !self.known.insert(id) {
            return true;
        }
        self.newest.push_back(id);
        if self.newest.len() > self.window
            && let Some(oldest) = self.newest.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
}

impl<'a> Verifier<'a> {
    fn new(store: &'a ReadOnlyStore, faults: Faults) -> Self {
        let report = VerifyReport {
            head: store.head(),
            start: store.start(),
            groups: store.groups().len(),
            ..VerifyReport::default()
        };
        Self { store, dir: &store.events, report, faults, holes: Vec::new() }
    }

    fn fault(&mut self, severity: Severity, file: PathBuf, detail: String, remedy: Option<Remedy>) {
        let (position, offset) = (None, None);
        self.faults.push(Fault { severity, file, position, offset, detail, remedy });
    }

    /// Takes in what opening found.
    fn opening(&mut self) {
        for (error, of_groups) in [(self.store.damage(), false), (self.store.groups_damage(), true)]
        {
            let Some(error) = error else { continue };
            let (file, place, mut detail) = error.place();
            if of_groups {
                detail = format!("in the progress of the groups: {detail}");
            }
            self.faults.push(Fault {
                severity: Severity::Damage,
                file: file.map_or_else(|| self.dir.root.clone(), Path::to_owned),
                position: place.map(|(position, _)| position).filter(|_| !of_groups),
                offset: place.map(|(_, offset)| offset),
                detail,
                remedy: error.remedy(),
            });
        }
    }

    /// Lists the segments that were there when the store was opened.
    fn sources(&mut self) -> Result<Vec<Source>, OpenError> {
        let first = self.store.catalog.events.first_segment.max(1);
        let newest = match (self.store.damage(), &self.store.log.active) {
            (None, Some(active)) => active.header.id,
            (None, None) => 0,
            // What lies behind the damage is looked at too.
            (Some(_), _) => u64::MAX,
        };
        let names = match self.dir.segment_names() {
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Vec::new()
            }
            names => names?,
        };
        let mut sources = Vec::new();
        let mut expected = first;
        for (base, id, name) in names {
            if (first..=newest).contains(&id) {
                for missing in expected..id {
                    // Opening has named the first.
                    if missing > expected {
                        let detail = format!("segment {missing} is missing too");
                        let remedy = Some(Remedy::QuarantineSegment(missing));
                        self.fault(Severity::Damage, self.dir.path(), detail, remedy);
                    }
                }
                sources.push((base, id, name));
                expected = id + 1;
            }
        }
        Ok(sources)
    }

    /// Opens a segment to check it. What keeps it from being opened is a fault.
    fn open(&self, source: &Source) -> Result<Arc<Segment>, Fault> {
        let (base, id, name) = source;
        if let Some(active) = self.store.log.active.as_ref().filter(|log| log.header.id == *id) {
            return Ok(Arc::clone(active));
        }
        let path = self.dir.path().join(name);
        let opened = self.dir.header(*base, *id, name).and_then(|header| {
            let file = self.dir.fs.open(&path, Access::Read);
            let file = file.map_err(OpenError::io("open", &path))?;
            Segment::new(header, path.clone(), file).map_err(OpenError::io("map", &path))
        });
        opened.map(Arc::new).map_err(|error| {
            let (_, place, detail) = error.place();
            let (position, offset) = place.unzip();
            let (severity, remedy) = (Severity::Damage, Some(Remedy::QuarantineSegment(*id)));
            let position = position.or(Some(*base));
            Fault { severity, file: path, position, offset, detail, remedy }
        })
    }

    /// Reads the log once.
    fn pass(
        &mut self,
        sources: &[Source],
        tails: Option<&Tails<Vec<u8>>>,
        streams: &mut Streams,
        first: bool,
        options: &VerifyOptions,
        progress: &ProgressFn<'_>,
    ) {
        let part = streams.part;
        let pass = match (first, options.depth) {
            (true, VerifyDepth::Everything) => Pass::Everything(part),
            (true, VerifyDepth::Log) => Pass::Log(part),
            (false, _) => Pass::Streams(part),
        };
        let (mut joined, mut ids): (Joined, _) = (None, Ids::new());
        let at_once = options.threads.max(1);
        for (from, wave) in sources.chunks(at_once).enumerate() {
            let following = sources.get((from + 1) * at_once);
            let opened: Vec<_> = wave.iter().chain(following).map(|s| self.open(s)).collect();
            let headers: Vec<Option<SegmentHeader>> =
                opened.iter().map(|s| s.as_ref().ok().map(|s| s.header)).collect();
            let newest = self.store.log.active.as_ref().map(|active| active.header.id);
            let checked: Vec<_> = thread::scope(|scope| {
                let work = opened.iter().take(wave.len()).enumerate().map(|(at, segment)| {
                    let (following, dir) = (headers.get(at + 1).and_then(Option::as_ref), self.dir);
                    let removed = self.store.start();
                    scope.spawn(move || {
                        let segment = segment.as_ref().map_err(Clone::clone)?;
                        let id = segment.header.id;
                        let following = following.filter(|next| next.id == id + 1);
                        let is_newest = newest == Some(id);
                        let end =
                            if is_newest { segment.end() } else { segment.header.capacity_bytes };
                        let task =
                            Task { dir, pass, segment, following, end, tails, removed, progress };
                        Ok::<_, Fault>(check(&task))
                    })
                });
                let work: Vec<_> = work.collect();
                work.into_iter().map(|work| work.join().expect("a check does not panic")).collect()
            });
            for (at, checked) in checked.into_iter().enumerate() {
                let next = headers.get(at + 1).copied().flatten().map(|next| next.base);
                match (checked, headers[at]) {
                    (Ok(checked), Some(header)) => {
                        let places = (&mut joined, &mut ids, &mut *streams);
                        self.join(&header, checked, next, places, first);
                    }
                    (Err(fault), _) => {
                        let from = fault.position.unwrap_or_default();
                        self.hole(from, next);
                        joined = None;
                        if first {
                            self.faults.push(fault);
                        }
                    }
                    (Ok(_), None) => unreachable!("what was checked has a header"),
                }
            }
        }
    }

    fn hole(&mut self, from: Position, next: Option<Position>) {
        self.holes.push((from, next.map_or(Position::MAX, Position::previous)));
    }

    /// Joins a segment with those before it.
    fn join(
        &mut self,
        header: &SegmentHeader,
        checked: Checked,
        next: Option<Position>,
        (joined, ids, streams): (&mut Joined, &mut Ids, &mut Streams),
        first: bool,
    ) {
        let file = self.dir.path().join(header.file_name());
        let Checked { end, faults, spans, names, .. } = checked;
        match &*joined {
            // What is missing in between was found.
            Some((id, before, _)) if id + 1 == header.id && before.next < header.base => {}
            Some((id, before, last)) if id + 1 == header.id => {
                if let Some(detail) = seam(before, last.as_ref(), header, checked.first.as_ref())
                    && first
                {
                    let (severity, position) = (Severity::Damage, Some(header.base));
                    let remedy = Some(Remedy::QuarantineSegment(header.id));
                    self.faults.push(Fault {
                        severity,
                        file: file.clone(),
                        position,
                        offset: None,
                        detail,
                        remedy,
                    });
                }
            }
            Some((_, before, _)) => self.holes.push((before.next, header.base.previous())),
            None if header.base > self.store.start().next() => {
                self.holes.push((self.store.start().next(), header.base.previous()));
            }
            None => {}
        }
        if let Some(next) = next.filter(|&next| end.next < next) {
            self.hole(end.next, Some(next));
        }
        for span in &spans {
            if let Some(detail) = streams.take(span, &self.holes) {
                let name = &names[span.name.clone()];
                self.faults.push(Fault {
                    severity: Severity::Damage,
                    file: file.clone(),
                    position: Some(span.first.position),
                    offset: None,
                    detail: format!("stream {name}: {detail}"),
                    remedy: None,
                });
            }
        }
        *joined = Some((header.id, end, checked.first));
        if !first {
            return;
        }
        self.faults.append(faults);
        self.report.events += checked.events;
        self.report.bytes += checked.bytes;
        self.report.segments += 1;
        self.report.indexes += usize::from(checked.indexed);
        self.report.append_ids += checked.appends.len() as u64;
        for (id, position) in checked.appends {
            if ids.repeats(id) {
                self.faults.push(Fault {
                    severity: Severity::Note,
                    file: file.clone(),
                    position: Some(position),
                    offset: None,
                    detail: format!(
                        "append id {id} was used before, among the {} ids before this one; a \
                         writer with a smaller window may have done so",
                        ids.window
                    ),
                    remedy: None,
                });
            }
        }
    }
}

/// Returns how a segment does not continue the one before.
fn seam(
    before: &Walked,
    last: Option<&FrameHeader>,
    header: &SegmentHeader,
    first: Option<&FrameHeader>,
) -> Option<String> {
    let is_next = (header.base, header.previous_word, header.frames_before)
        == (before.next, before.word, before.frames);
    if !is_next || header.previous_id + 1 != header.id {
        return Some(format!(
            "it does not continue the segment before, which ends before position {}",
            before.next
        ));
    }
    if header.epoch < before.epoch {
        return Some("its writer's epoch is lower than that of the segment before".to_owned());
    }
    let went_back = first.is_some_and(|first| {
        first.commit_time < before.commit_time
            || last.is_some_and(|last| first.durable < last.durable)
    });
    went_back.then(|| "its commit time or its durable position goes back".to_owned())
}

#[cfg(test)]
mod tests;
