//! Taking a segment out, and those on one side of it.

use std::path::PathBuf;

use headwater_core::{Position, Timestamp};

use super::survey::Survey;
use super::tail::{Newest, walk};
use super::{Keep, Plan, RepairError, Repairer, lost};
use crate::error::OpenError;
use crate::format::BLOCK_BYTES;
use crate::format::segment::{FRAMES_AT, LogKind, SegmentHeader};
use crate::format::tails::{StreamTail, Tails};
use crate::format::{Seed, record};
use crate::fs::{Access, read_file};
use crate::ledger::{self, Removal};
use crate::log::LogDir;
use crate::recovery::{self, Rest, Tail, Walked};
use crate::retention::Cutoff;
use crate::segment::Segment;
use crate::tails::{self, TailsFile};

/// A segment as its name says: base, id, and the name.
type Named = (Position, u64, String);

impl Repairer {
    /// Plans to take a segment out.
    pub(super) fn plan_segment(
        &mut self,
        id: u64,
        keep: Option<Keep>,
    ) -> Result<Plan, RepairError> {
        let dir = self.dir(LogKind::Events);
        let entry = self.catalog.events;
        let oldest = entry.first_segment.max(1);
        let mut names = dir.segment_names()?;
        names.retain(|&(_, id, _)| id >= oldest);
        let newest = names.last().map_or(0, |&(_, id, _)| id).max(entry.active_segment);
        if id < oldest || id == newest + 1 {
            // It is out already. What came after may not be done.
            let head = self.reader()?.head();
            return Ok(Plan { seeks: self.groups_beyond(head)?, ..Plan::default() });
        }
        if id > newest {
            return Err(RepairError::NoSegment { id, oldest, newest });
        }
        let keep = match (keep, id == oldest, id == newest) {
            (_, true, true) | (Some(Keep::Older), true, _) | (Some(Keep::Newer), _, true) => {
                return Err(RepairError::NothingLeft { id });
            }
            (Some(keep), ..) => keep,
            (None, true, false) => Keep::Newer,
            (None, false, true) => Keep::Older,
            (None, false, false) => return Err(RepairError::Between { id }),
        };
        let cut = names.partition_point(|&(_, other, _)| match keep {
            Keep::Older => other < id,
            Keep::Newer => other <= id,
        });
        let newer = names.split_off(cut);
        match keep {
            Keep::Older => self.end_before(&dir, id, &names, &newer),
            Keep::Newer => self.begin_behind(&dir, id, &names, &newer),
        }
    }

    /// The log ends before a segment.
    fn end_before(
        &self,
        dir: &LogDir,
        id: u64,
        kept: &[Named],
        gone: &[Named],
    ) -> Result<Plan, RepairError> {
        let missing = |id| OpenError::MissingSegment { path: dir.path(), id };
        let Some((base, last, name)) = kept.last().filter(|&&(_, last, _)| last + 1 == id) else {
            return Err(missing(id - 1).into());
        };
        let Newest { end, tail, .. } = walk(dir, (*base, *last, name), Position::START)?;
        match tail {
            Ok(Tail::Clean) => {}
            Ok(Tail::Torn { .. }) => {
                let detail = "bytes follow its last frame".to_owned();
                return Err(RepairError::EndDamaged { id: *last, detail });
            }
            Err(damage) => {
                let detail = damage.to_string();
                return Err(RepairError::EndDamaged { id: *last, detail });
            }
        }
        let head = end.next.previous();
        let mut plan = Plan { ends: vec![(LogKind::Events, *last, head)], ..Plan::default() };
        let survey = self.take_out(&mut plan, dir, gone)?;
        // Whatever a segment held was durable before the next one had a name.
        let sealed = gone.last().map_or(Position::START, |&(base, ..)| base.previous());
        let durable = self.catalog.events.durable.max(sealed);
        plan.lost.push(lost(LogKind::Events, end.next, &survey, durable));
        plan.seeks = self.groups_beyond(head)?;
        Ok(plan)
    }

    /// The log begins behind a segment.
    fn begin_behind(
        &self,
        dir: &LogDir,
        id: u64,
        gone: &[Named],
        kept: &[Named],
    ) -> Result<Plan, RepairError> {
        let Some((next, first, name)) = kept.first().filter(|&&(_, first, _)| first == id + 1)
        else {
            return Err(OpenError::MissingSegment { path: dir.path(), id: id + 1 }.into());
        };
        dir.header(*next, *first, name)?;
        let through = next.previous();
        let mut plan = Plan::default();
        let survey = self.take_out(&mut plan, dir, gone)?;
        let start = match gone.first() {
            Some(&(base, id, _)) if id == self.catalog.events.first_segment.max(1) => base,
            _ => self.start()?.next(),
        };
        let mut ends = self.known_ends()?;
        for (stream, met) in &survey.streams {
            let (revision, position) = (met.revision, met.position);
            ends.insert(stream.clone(), StreamTail { stream: stream.clone(), revision, position });
        }
        for segment in kept {
            forget_streams_of(dir, segment, &mut ends)?;
        }
        let groups = self.groups()?;
        let passed = groups.iter().filter(|group| group.floor() < through);
        let removal = Removal {
            at: Timestamp::now(),
            first: start.min(through),
            through,
            segments: gone.len() as u64,
            bytes: plan.bytes_out.iter().sum(),
            cutoff: Cutoff::Through(through),
            passed: passed.map(|g| (g.definition.name.clone(), g.floor())).collect(),
            quarantined: true,
        };
        plan.begin = Some((ends.into_values().collect(), removal, *first));
        let missed = lost(LogKind::Events, start, &survey, through);
        plan.lost.push(super::Lost { last: through, ..missed });
        Ok(plan)
    }

    /// Plans to take segments out, and looks what can be read in them.
    fn take_out(
        &self,
        plan: &mut Plan,
        dir: &LogDir,
        gone: &[Named],
    ) -> Result<Survey, RepairError> {
        let mut survey = Survey::default();
        for (_, _, name) in gone {
            let path = dir.path().join(name);
            let io = |action| RepairError::io(action, &path);
            let file = self.fs.open(&path, Access::Read).map_err(io("open"))?;
            let size = file.size().map_err(io("size"))?;
            let len = usize::try_from(size).expect("a segment fits the address space");
            if len > BLOCK_BYTES {
                let map = file.map().map_err(io("map"))?;
                map.populate(0, size).map_err(io("read"))?;
                let bytes = map.below(size);
                // Without its salt nothing in it can be told from noise.
                if let Ok(header) = SegmentHeader::decode(&bytes[..BLOCK_BYTES]) {
                    survey.take(dir.kind, bytes, BLOCK_BYTES, &Seed::new(header.salt));
                }
            }
            plan.out.push(path);
            plan.bytes_out.push(size);
        }
        Ok(survey)
    }

    /// Returns the last position that retention has removed.
    fn start(&self) -> Result<Position, RepairError> {
        Ok(ledger::read(self.fs.as_ref(), &self.root)
            .map_err(RepairError::io("read", self.root.join(ledger::FILE_NAME)))?
            .iter()
            .map(|removal| removal.through)
            .max()
            .unwrap_or_default())
    }

    /// Returns where streams ended that were removed before.
    fn known_ends(&self) -> Result<std::collections::BTreeMap<String, StreamTail>, RepairError> {
        let path: PathBuf = self.root.join(tails::FILE_NAME);
        let bytes = match read_file(self.fs.as_ref(), &path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok([].into()),
            bytes => bytes.map_err(RepairError::io("read", &path))?,
        };
        let tails = Tails::decode(bytes)
            .map_err(|fault| OpenError::File { path, detail: fault.to_string() })?;
        Ok(tails.iter().map(|tail| (tail.stream.clone(), tail)).collect())
    }

    /// Writes where streams ended, and the line of the ledger.
    pub(super) fn write_beginning(
        &self,
        tails: &[StreamTail],
        removal: &Removal,
    ) -> Result<(), RepairError> {
        let file = TailsFile::new(std::sync::Arc::clone(&self.fs), self.root.clone(), self.store);
        file.replace(removal.through, tails)
            .map_err(RepairError::io("write", self.root.join(tails::FILE_NAME)))?;
        ledger::add(self.fs.as_ref(), &self.root, removal)
            .map_err(RepairError::io("write", self.root.join(ledger::FILE_NAME)))
    }
}

/// Takes the streams out of `ends` that have events in a segment which stays.
fn forget_streams_of(
    dir: &LogDir,
    (base, id, name): &Named,
    ends: &mut std::collections::BTreeMap<String, StreamTail>,
) -> Result<(), RepairError> {
    let path = dir.path().join(name);
    // A segment that is damaged too is another repair.
    let Ok(header) = dir.header(*base, *id, name) else { return Ok(()) };
    let file = dir.fs.open(&path, Access::Read).map_err(RepairError::io("open", &path))?;
    let segment = Segment::new(header, path.clone(), file);
    let segment = segment.map_err(RepairError::io("map", &path))?;
    let whole = segment.whole(FRAMES_AT, u64::MAX).map_err(RepairError::io("read", &path))?;
    let before = Walked::before(&header);
    let visit = |_, frame: &crate::format::frame::FrameHeader, body: &[u8]| {
        for (_, record) in record::records(body, frame.records, &segment.seed).flatten() {
            ends.remove(record.stream);
        }
        Ok(())
    };
    // How it ends is not asked here.
    let _ = recovery::walk(whole, &segment.seed, before, Rest::IsZero, visit);
    Ok(())
}
