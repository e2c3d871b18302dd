//! Cutting the end of a log.

use headwater_core::Position;

use super::survey::{Survey, frames};
use super::{Cutting, Plan, RepairError, Repairer, lost};
use crate::error::{OpenError, Remedy};
use crate::format::catalog::LogEntry;
use crate::format::frame::FrameHeader;
use crate::format::segment::LogKind;
use crate::fs::{Access, own_file, remove_file};
use crate::index::{self, MemoryIndex, add_frame};
use crate::log::LogDir;
use crate::offsets::{Groups, fold};
use crate::open::exists;
use crate::recovery::{self, Damage, Rest, Tail, Walked};
use crate::segment::Segment;
use crate::verify::{VerifyDepth, VerifyOptions, verify_on};

/// The newest segment of a log, walked from its beginning.
pub(super) struct Newest {
    pub(super) segment: Segment,
    pub(super) end: Walked,
    pub(super) tail: Result<Tail, Damage>,
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
            plan.seeks = self.groups_beyond(head)?;
        }
        if plan.cuts.is_empty() && plan.ends.is_empty() && plan.seeks.is_empty() {
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

    /// Copies bytes to `quarantine/` and overwrites them with zeros.
    pub(super) fn cut(&mut self, cutting: &Cutting) -> Result<(), RepairError> {
        let Cutting { dir, base, id, from, to } = cutting;
        let name = crate::format::segment::file_name(*base, *id);
        let path = dir.path().join(&name);
        let header = dir.header(*base, *id, &name)?;
        // It may cover what goes.
        let index = dir.path().join(index::file_name(&header));
        let removed = remove_file(self.fs.as_ref(), &index);
        removed.map_err(RepairError::io("remove", index))?;
        let own = own_file(self.fs.as_ref(), &dir.path(), &name);
        own.map_err(RepairError::io("copy", &path))?;
        let file = self.fs.open(&path, Access::Write).map_err(RepairError::io("open", &path))?;
        let segment =
            Segment::new(header, path.clone(), file).map_err(RepairError::io("map", &path))?;
        let cut = crate::log::cut(dir, &segment, *from, *to)?;
        self.kept.push(cut.kept);
        Ok(())
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
        let Newest { segment, end, tail } = newest;
        let last = end.next.previous();
        let (from, acknowledged) = match tail {
            // Opening cuts what a crash has torn by itself.
            Ok(Tail::Clean | Tail::Torn { .. }) => return Ok(Some(last)),
            Err(damage) => (end.end, !matches!(damage, Damage::Unexplained { .. })),
        };
        let whole = segment.whole(0, u64::MAX).map_err(RepairError::io("read", &segment.path))?;
        let from_index = usize::try_from(from).expect("a segment fits the address space");
        let rest = whole.get(from_index..).unwrap_or_default();
        let mut survey = Survey::default();
        survey.take(dir.kind, whole, from_index, &segment.seed);
        let claimed = frames(whole, from_index, &segment.seed).map(|(_, header)| header.durable);
        let durable = claimed.fold(end.durable, Position::max);
        if let Some(at) = rest.iter().rposition(|&byte| byte != 0) {
            let (dir, to) = (dir.clone(), from + at as u64 + 1);
            self.cuts.push(Cutting { dir, base: *base, id: *id, from, to });
        }
        self.ends.push((dir.kind, *id, last));
        let mut missed = lost(dir.kind, end.next, &survey, durable);
        missed.acknowledged |= acknowledged;
        self.lost.push(missed);
        Ok(Some(last))
    }
}

/// Walks a segment as the newest one of its log. `durable` is what the catalog says.
pub(super) fn walk(
    dir: &LogDir,
    (base, id, name): (Position, u64, &str),
    durable: Position,
) -> Result<Newest, RepairError> {
    let header = dir.header(base, id, name)?;
    let path = dir.path().join(name);
    let file = dir.fs.open(&path, Access::Read).map_err(RepairError::io("open", &path))?;
    let segment = Segment::new(header, path.clone(), file);
    let segment = segment.map_err(RepairError::io("map", &path))?;
    let whole = segment.whole(0, u64::MAX).map_err(RepairError::io("read", &path))?;
    let mut before = Walked::before(&header);
    before.durable = durable.max(base.previous());
    let (mut index, mut groups) = (MemoryIndex::from(0), Groups::new());
    let visit = |offset: u64, frame: &FrameHeader, body: &[u8]| match dir.kind {
        LogKind::Events => add_frame(&mut index, &segment.seed, offset, frame, body),
        LogKind::Offsets => fold(&mut groups, frame, body),
    };
    let (end, tail) = recovery::walk(whole, &segment.seed, before, Rest::Look, visit);
    Ok(Newest { segment, end, tail })
}
