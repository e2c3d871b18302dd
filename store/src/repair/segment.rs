//! Taking a segment out, and those on one side of it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;

use headwater_core::{Position, Timestamp};

use super::plan::{Action, Cutting, Plan, lost};
use super::salvage;
use super::survey::Survey;
use super::tail::{End, walk};
use super::{Keep, Lost, RepairError, Repairer, Unreadable};
use crate::error::OpenError;
use crate::format::frame::FrameHeader;
use crate::format::segment::{LogKind, SegmentHeader, parse_file_name};
use crate::format::tails::{StreamTail, Tails};
use crate::format::{BLOCK_BYTES, Seed, is_zero, record};
use crate::fs::{Access, read_file};
use crate::ledger::{self, Removal};
use crate::log::LogDir;
use crate::open::QUARANTINE;
use crate::recovery::{self, Rest, Tail, Walked};
use crate::retention::Cutoff;
use crate::tails;

/// A segment as its name says: base, id, and the name.
type Named = (Position, u64, String);

/// Segments that go.
#[derive(Default)]
struct Gone {
    files: Vec<PathBuf>,
    bytes: u64,
    survey: Survey,
    /// They may have held events, whether these can be read or not.
    holds_something: bool,
}

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
        if id < oldest || id > newest {
            return self.finish_taking_out(id, (oldest, newest), &names);
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

    /// Plans what is left to do where a segment is out already, or fails if it never was there.
    fn finish_taking_out(
        &self,
        id: u64,
        (oldest, newest): (u64, u64),
        names: &[Named],
    ) -> Result<Plan, RepairError> {
        let mut plan = Plan::default();
        // Of a repair that ended the log before it, the groups come last.
        if id == newest + 1 {
            plan.seek(self.groups_beyond(self.reader()?.head())?);
        }
        if !plan.actions.is_empty() || self.was_taken_out(id, oldest)? {
            return Ok(plan);
        }
        let mut segments: Vec<(u64, u64)> = Vec::new();
        for &(_, id, _) in names {
            match segments.last_mut() {
                Some((_, last)) if *last + 1 == id => *last = id,
                _ => segments.push((id, id)),
            }
        }
        Err(RepairError::NoSegment { id, segments })
    }

    /// Returns whether a repair has taken out a segment, or those on the side where it lay.
    fn was_taken_out(&self, id: u64, oldest: u64) -> Result<bool, RepairError> {
        let folder = self.root.join(QUARANTINE);
        let names = match self.fs.list(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            names => names.map_err(RepairError::io("list", &folder))?,
        };
        let is_below = id < oldest;
        // Copies of a name that was there before have a number behind it.
        let copied = |name: &String| {
            let end = name.find(".seg")? + ".seg".len();
            parse_file_name(&name[..end]).map(|(_, copied)| copied)
        };
        // A segment that was missing has no copy; others that went with it do.
        let is_beside = |copied| if is_below { copied <= id } else { copied >= id };
        let has_copy = names.iter().filter_map(copied).any(is_beside);
        Ok(has_copy || (is_below && self.ledger()?.iter().any(|removal| removal.quarantined)))
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
        let newest = walk(dir, (*base, *last, name), Position::START)?;
        let (next, head) = (newest.end.next, newest.end.next.previous());
        let spots = match newest.judge() {
            End::Well(Tail::Clean) => None,
            End::Well(Tail::Torn { .. }) => {
                let detail = "bytes follow its last frame".to_owned();
                return Err(RepairError::EdgeDamaged { id: *last, edge: "end", detail });
            }
            End::Spotted(spots) => Some(spots),
            End::Bad(detail) => {
                return Err(RepairError::EdgeDamaged { id: *last, edge: "end", detail });
            }
        };
        let mut plan = Plan::default();
        let gone_with = self.take_out(&mut plan, dir, gone)?;
        if let Some(Range { start: from, end: to }) = spots {
            let (dir, base, id) = (dir.clone(), *base, *last);
            plan.actions.push(Action::Cut(Cutting { dir, base, id, from, to }));
            plan.unreadable.extend(newest.unreadable());
        }
        plan.actions.push(Action::EndLog { kind: LogKind::Events, active: *last, last: head });
        // Whatever a segment held was durable before the next one had a name.
        let sealed = gone.last().map_or(Position::START, |&(base, ..)| base.previous());
        let durable = self.catalog.events.durable.max(sealed);
        let mut missed = lost(LogKind::Events, next, &gone_with.survey, durable);
        // Of the newest frames nothing on the disk says that they were not acknowledged.
        let is_missing = !gone.iter().any(|&(_, there, _)| there == id);
        missed.acknowledged |= gone_with.holds_something || is_missing;
        plan.lost.push(missed);
        plan.remove(gone_with.files);
        plan.seek(self.groups_beyond(head)?);
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
        header(dir, (*next, *first, name), "beginning")?;
        let through = next.previous();
        let mut plan = Plan::default();
        let Gone { files, survey, bytes, .. } = self.take_out(&mut plan, dir, gone)?;
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
            bytes,
            cutoff: Cutoff::Through(through),
            passed: passed.map(|g| (g.definition.name.clone(), g.floor())).collect(),
            quarantined: true,
        };
        let tails = ends.into_values().collect();
        plan.actions.push(Action::BeginLog { tails, removal, first: *first });
        plan.remove(files);
        let missed = lost(LogKind::Events, start, &survey, through);
        plan.lost.push(Lost { last: through, ..missed });
        Ok(plan)
    }

    /// Plans to copy segments that go, and looks what can be read in them.
    fn take_out(&self, plan: &mut Plan, dir: &LogDir, gone: &[Named]) -> Result<Gone, RepairError> {
        let mut all = Gone::default();
        for (_, _, name) in gone {
            let file = dir.path().join(name);
            let source =
                self.fs.open(&file, Access::Read).map_err(RepairError::io("open", &file))?;
            let whole = salvage::read_whole(source.as_ref());
            let (content, holes) = whole.map_err(RepairError::io("read", &file))?;
            match content.split_at_checked(BLOCK_BYTES) {
                Some((header, frames)) => {
                    all.holds_something |= !is_zero(frames) || !holes.is_empty();
                    // Without its salt nothing in it can be told from noise.
                    if let Ok(header) = SegmentHeader::decode(header) {
                        let seed = Seed::new(header.salt);
                        all.survey.take(dir.kind, &content, BLOCK_BYTES, &seed);
                    }
                }
                // What somebody cut off may have held anything.
                None => all.holds_something = true,
            }
            if !holes.is_empty() {
                plan.unreadable.push(Unreadable::new(file.clone(), holes));
            }
            let bytes = content.len() as u64;
            all.bytes += bytes;
            plan.actions.push(Action::Copy { file: file.clone(), bytes });
            all.files.push(file);
        }
        Ok(all)
    }

    fn ledger(&self) -> Result<Vec<Removal>, RepairError> {
        let read = ledger::read(self.fs.as_ref(), &self.root);
        read.map_err(RepairError::io("read", self.root.join(ledger::FILE_NAME)))
    }

    /// Returns the last position that retention has removed.
    fn start(&self) -> Result<Position, RepairError> {
        let removals = self.ledger()?;
        Ok(removals.iter().map(|removal| removal.through).max().unwrap_or_default())
    }

    /// Returns where streams ended that were removed before.
    fn known_ends(&self) -> Result<BTreeMap<String, StreamTail>, RepairError> {
        let path: PathBuf = self.root.join(tails::FILE_NAME);
        let bytes = match read_file(self.fs.as_ref(), &path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok([].into()),
            bytes => bytes.map_err(RepairError::io("read", &path))?,
        };
        let tails = Tails::decode(bytes)
            .map_err(|fault| OpenError::File { path, detail: fault.to_string() })?;
        Ok(tails.iter().map(|tail| (tail.stream.clone(), tail)).collect())
    }
}

/// Takes the streams out of `ends` that have events in a segment which stays.
fn forget_streams_of(
    dir: &LogDir,
    (base, id, name): &Named,
    ends: &mut BTreeMap<String, StreamTail>,
) -> Result<(), RepairError> {
    let path = dir.path().join(name);
    // A segment that is damaged too is another repair.
    let Ok(header) = dir.header(*base, *id, name) else { return Ok(()) };
    let file = dir.fs.open(&path, Access::Read).map_err(RepairError::io("open", &path))?;
    let whole = salvage::read_whole(file.as_ref());
    let (whole, _) = whole.map_err(RepairError::io("read", &path))?;
    let seed = Seed::new(header.salt);
    let before = Walked::before(&header);
    let visit = |_, frame: &FrameHeader, body: &[u8]| {
        for (_, record) in record::records(body, frame.records, &seed).flatten() {
            ends.remove(record.stream);
        }
        Ok(())
    };
    // How it ends is not asked here.
    let _ = recovery::walk(&whole, &seed, before, Rest::IsZero, visit);
    Ok(())
}

/// Reads the header of a segment that is the end or the beginning of the log, or becomes it.
pub(super) fn header(
    dir: &LogDir,
    (base, id, name): (Position, u64, &str),
    edge: &'static str,
) -> Result<SegmentHeader, RepairError> {
    dir.header(base, id, name).map_err(|error| match error {
        OpenError::File { detail, .. } if dir.kind == LogKind::Events => {
            RepairError::EdgeDamaged { id, edge, detail }
        }
        OpenError::Unreadable { source, .. } if dir.kind == LogKind::Events => {
            let detail = format!("its header cannot be read: {source}");
            RepairError::EdgeDamaged { id, edge, detail }
        }
        error => error.into(),
    })
}
