//! Cutting the end of a log.

use std::ops::Range;
use std::path::PathBuf;

use headwater_core::Position;

use super::plan::{Action, Cutting, Plan, lost};
use super::salvage::{self, Holes};
use super::survey::{Survey, frames};
use super::{Lost, RepairError, Repairer, Unreadable};
use crate::error::{OpenError, Remedy};
use crate::format::Seed;
use crate::format::catalog::LogEntry;
use crate::format::frame::{FrameHeader, HEADER_BYTES};
use crate::format::segment::LogKind;
use crate::fs::Access;
use crate::index::{MemoryIndex, add_frame};
use crate::log::LogDir;
use crate::offsets::{Groups, fold};
use crate::open::exists;
use crate::recovery::{self, Damage, Rest, Tail, Walked};
use crate::verify::{VerifyDepth, VerifyOptions, verify_on};

/// The newest segment of a log, walked from its beginning as far as it can be read.
pub(super) struct Newest {
    pub(super) path: PathBuf,
    bytes: Vec<u8>,
    /// What cannot be read. All of it lies behind the end.
    holes: Holes,
    seed: Seed,
    pub(super) end: Walked,
    tail: Result<Tail, Damage>,
}

/// What a repair makes of the end of a segment.
pub(super) enum End {
    /// Frames, and then zeros or what opening cuts by itself.
    Well(Tail),
    /// Frames, and then zeros, some of which the device does not give.
    Spotted(Range<u64>),
    /// It does not validate, or nobody can say.
    Bad(String),
}

impl Repairer {
    /// Finds what is to be cut off both logs.
    pub(super) fn plan_tail(&mut self) -> Result<Plan, RepairError> {
        let mut plan = Plan::default();
        let mut head = None;
        for (kind, entry) in
            [(LogKind::Events, self.catalog.events), (LogKind::Offsets, self.catalog.offsets)]
        {
            let dir = self.dir(kind);
            if exists(self.fs.as_ref(), &dir.path())?
                && let Some(end) = plan.add_tail(&dir, &entry)?
                && kind == LogKind::Events
            {
                head = Some(end);
            }
        }
        if let Some(head) = head {
            plan.seek(self.groups_beyond(head)?);
        }
        if plan.actions.is_empty() {
            self.look_elsewhere()?;
        }
        Ok(plan)
    }

    /// Fails if something else than the end of the log is damaged.
    fn look_elsewhere(&self) -> Result<(), RepairError> {
        let options = VerifyOptions { depth: VerifyDepth::Log, ..VerifyOptions::default() };
        let report = verify_on(&self.fs, &self.root, &options, &|_, _| {})?;
        let remedies = report.faults.iter().filter_map(|fault| fault.remedy);
        match remedies.into_iter().find(|r| matches!(r, Remedy::QuarantineSegment(_))) {
            Some(remedy) => Err(RepairError::Elsewhere { root: self.root.clone(), remedy }),
            None => Ok(()),
        }
    }
}

impl Plan {
    /// Adds what is to be cut off a log. Returns its last position afterwards, if it has any
    /// segment.
    fn add_tail(
        &mut self,
        dir: &LogDir,
        entry: &LogEntry,
    ) -> Result<Option<Position>, RepairError> {
        let first = entry.first_segment.max(1);
        let names: Vec<_> =
            dir.segment_names()?.into_iter().filter(|&(_, id, _)| id >= first).collect();
        let newest = entry.active_segment.max(names.last().map_or(0, |&(_, id, _)| id));
        let is_missing = |id: &u64| names.binary_search_by_key(id, |&(_, found, _)| found).is_err();
        if let Some(id) = (first..=newest).find(is_missing) {
            return Err(OpenError::MissingSegment { path: dir.path(), id }.into());
        }
        let Some((base, id, name)) = names.last() else { return Ok(None) };
        let newest = walk(dir, (*base, *id, name), entry.durable)?;
        let cut =
            |from, to| Action::Cut(Cutting { dir: dir.clone(), base: *base, id: *id, from, to });
        let (from, last) = (newest.end.end, newest.end.next.previous());
        match newest.judge() {
            // Opening cuts what a crash has torn by itself.
            End::Well(_) => return Ok(Some(last)),
            End::Spotted(spots) => {
                self.actions.push(cut(spots.start, spots.end));
                self.unreadable.extend(newest.unreadable());
                return Ok(Some(last));
            }
            End::Bad(_) => {}
        }
        let Newest { bytes, holes, seed, end, .. } = &newest;
        let from_index = usize::try_from(from).expect("a segment fits the address space");
        let rest = bytes.get(from_index..).unwrap_or_default();
        let mut survey = Survey::default();
        survey.take(dir.kind, bytes, from_index, seed);
        let claimed = frames(bytes, from_index, seed).map(|(_, header)| header.durable);
        let durable = claimed.fold(end.durable, Position::max);
        let written = rest.iter().rposition(|&byte| byte != 0).map(|at| from + at as u64 + 1);
        if let Some(to) = written.max(holes.span().map(|span| span.end)) {
            self.actions.push(cut(from, to));
        }
        self.actions.push(Action::EndLog { kind: dir.kind, active: *id, last });
        // What a crash has torn is not cut here. Anything else may have been there whole.
        self.lost.push(Lost { acknowledged: true, ..lost(dir.kind, end.next, &survey, durable) });
        self.unreadable.extend(newest.unreadable());
        Ok(Some(last))
    }
}

impl Newest {
    /// Says what is to be done about the end.
    pub(super) fn judge(&self) -> End {
        let header = self.end.end..self.end.end + HEADER_BYTES as u64;
        match (&self.tail, self.holes.span()) {
            (Ok(tail), None) => End::Well(*tail),
            // A frame has its header on the device, or nothing of it was acknowledged.
            (Ok(Tail::Clean), Some(spots)) if !self.holes.touch(&header) => End::Spotted(spots),
            (Err(damage), None) => End::Bad(damage.to_string()),
            (_, Some(spots)) => End::Bad(format!(
                "the device does not give bytes {} to {}",
                spots.start,
                spots.end - 1
            )),
        }
    }

    /// Returns what cannot be read of it.
    pub(super) fn unreadable(self) -> Option<Unreadable> {
        (!self.holes.is_empty()).then(|| Unreadable::new(self.path, self.holes))
    }
}

/// Walks a segment as the newest one of its log. `durable` is what the catalog says.
pub(super) fn walk(
    dir: &LogDir,
    (base, id, name): (Position, u64, &str),
    durable: Position,
) -> Result<Newest, RepairError> {
    let header = super::segment::header(dir, (base, id, name), "end")?;
    let path = dir.path().join(name);
    let file = dir.fs.open(&path, Access::Read).map_err(RepairError::io("open", &path))?;
    super::see_the_disk(file.as_ref(), &path)?;
    let whole = salvage::read_whole(file.as_ref());
    let (bytes, holes) = whole.map_err(RepairError::io("read", &path))?;
    let seed = Seed::new(header.salt);
    let mut before = Walked::before(&header);
    before.durable = durable.max(base.previous());
    let (mut index, mut groups) = (MemoryIndex::from(0), Groups::new());
    let visit = |offset: u64, frame: &FrameHeader, body: &[u8]| {
        // Zeros that stand for what cannot be read may happen to be right; nobody else gets them.
        if holes.touch(&(offset..offset + u64::from(frame.bytes))) {
            return Err("the device does not give all of it".to_owned());
        }
        match dir.kind {
            LogKind::Events => add_frame(&mut index, &seed, offset, frame, body),
            LogKind::Offsets => fold(&mut groups, frame, body),
        }
    };
    let (end, tail) = recovery::walk(&bytes, &seed, before, Rest::Look, visit);
    Ok(Newest { path, bytes, holes, seed, end, tail })
}
