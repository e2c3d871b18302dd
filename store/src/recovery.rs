//! Which bytes count after a crash: a pure walk over one segment.
//!
//! The writer builds frame *n + 1* only after frame *n* is as durable as it will be before its
//! answer, and each frame says how far the log was durable when it was built. So a frame that
//! does not validate was acknowledged as durable if anything later, or the catalog, claims its
//! position: then it is damage and nothing is cut. Otherwise it may be the torn end of a crash,
//! which shows by a sector that never arrived: the file was zeros there, and the frame was not. Anything else is not
//! explained by a crash and is left to a person. (The idea of a bound that travels with the data
//! is `BookKeeper`'s last add confirmed; the zero-sector test is etcd's.)

use std::collections::VecDeque;

use headwater_core::{Position, Timestamp};

use crate::format::frame::{self, FrameFault, FrameHeader, HEADER_BYTES};
use crate::format::segment::{FRAMES_AT, SegmentHeader};
use crate::format::{SECTOR_BYTES, Seed, is_zero};
use crate::planted::{Bug, planted};

/// How far a log counts, and what its next frame must continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Where the next frame begins in the segment.
    pub(crate) end: u64,
    /// Position of the next record.
    pub(crate) next: Position,
    /// The chain word of the last frame.
    pub(crate) word: u32,
    /// How many frames the log has up to here.
    pub(crate) frames: u64,
    /// The epoch of the last frame.
    pub(crate) epoch: u32,
    /// The commit time of the last frame.
    pub(crate) commit_time: Timestamp,
    /// Everything up to here was durable by word of the catalog or a frame.
    pub(crate) durable: Position,
    /// Where the frames begin that nobody called durable yet; the end if there are none.
    pub(crate) unproven: u64,
}

/// What follows the last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Zeros.
    Clean,
    /// Bytes of a crash in this range of the file, never acknowledged as durable.
    Torn { from: u64, to: u64 },
}

/// What a walk makes of the bytes behind the last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// They are looked at.
    Look,
    /// If there is no frame header, zeros follow: the last writer closed the log, and recovery has
    /// looked before.
    IsZero,
}

impl Walked {
    /// Before the first frame of a log.
    pub(crate) const START: Self = Self {
        end: FRAMES_AT,
        next: Position::FIRST,
        word: 0,
        frames: 0,
        epoch: 0,
        commit_time: Timestamp::EPOCH,
        durable: Position::START,
        unproven: FRAMES_AT,
    };

    /// Before the first frame that is left of a log: the segment's header is the authority.
    pub(crate) fn before(header: &SegmentHeader) -> Self {
        Self {
            next: header.base,
            word: header.previous_word,
            frames: header.frames_before,
            ..Self::START
        }
    }

    /// Returns what is wrong with the place of a valid frame: such a frame was written for
    /// somewhere else, or what came before it is gone.
    pub(crate) fn disorder(&self, header: &FrameHeader) -> Option<String> {
        if header.first != self.next {
            return Some(format!("it holds position {}", header.first));
        }
        if header.previous_word != self.word && !planted(Bug::TrustChain) {
            return Some("it follows another frame than the one before it".to_owned());
        }
        if header.commit_seq.checked_sub(1) != Some(self.frames) {
            return Some(format!("it is frame {} of the log", header.commit_seq));
        }
        if header.epoch < self.epoch {
            return Some(format!("its writer's epoch went back to {}", header.epoch));
        }
        None
    }

    /// Goes over a frame that continues the log.
    pub(crate) fn advance(&mut self, header: &FrameHeader) {
        self.end += u64::from(header.bytes);
        self.next = header.last().next();
        self.word = header.word();
        self.frames = header.commit_seq;
        self.epoch = header.epoch;
        self.commit_time = header.commit_time;
        self.durable = self.durable.max(header.durable);
    }

    /// The same, before the first frame of the next segment.
    pub(crate) fn in_next_segment(self) -> Self {
        Self { end: FRAMES_AT, unproven: FRAMES_AT, ..self }
    }
}

/// Why a segment must not be cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// A frame that was acknowledged as durable does not validate.
    #[error(
        "the frame at byte {offset} should hold position {position}, which was durable, but {detail}"
    )]
    Acknowledged { position: Position, offset: u64, detail: String },
    /// The end does not validate, and no crash explains how.
    #[error(
        "the frame at byte {offset} should hold position {position}, but {detail}, and nothing of it is missing as after a crash"
    )]
    Unexplained { position: Position, offset: u64, detail: String },
    /// The segment ends before a position that was durable.
    #[error("the log ends at position {end} at byte {offset}, but position {durable} was durable")]
    Missing { end: Position, durable: Position, offset: u64 },
}

impl Damage {
    /// Where the damage begins, as position and offset.
    pub(crate) fn place(&self) -> (Position, u64) {
        match self {
            Self::Acknowledged { position, offset, .. }
            | Self::Unexplained { position, offset, .. } => (*position, *offset),
            Self::Missing { end, offset, .. } => (end.next(), *offset),
        }
    }
}

/// Walks the frames of a segment, given as the whole file, from where the log was before them.
/// `visit` sees each frame that counts, and may refuse it. Returns how far the log counts, and
/// what follows.
pub(crate) fn walk(
    file: &[u8],
    seed: &Seed,
    before: Walked,
    rest: Rest,
    mut visit: impl FnMut(u64, &FrameHeader, &[u8]) -> Result<(), String>,
) -> (Walked, Result<Tail, Damage>) {
    let mut walked = before;
    let mut unproven: VecDeque<(Position, u64)> = VecDeque::new();
    let tail = loop {
        let (offset, position) = (walked.end, walked.next);
        match frame::decode(behind(file, offset), seed) {
            Ok((header, body)) => {
                if let Some(detail) = walked.disorder(&header) {
                    break Err(Damage::Acknowledged { position, offset, detail });
                }
                if let Err(detail) = visit(offset, &header, body) {
                    break Err(Damage::Unexplained { position, offset, detail });
                }
                unproven.push_back((header.last(), offset));
                walked.advance(&header);
                while unproven.front().is_some_and(|&(last, _)| last <= walked.durable) {
                    unproven.pop_front();
                }
            }
            Err(FrameFault::Unwritten) if rest == Rest::IsZero && position > walked.durable => {
                break Ok(Tail::Clean);
            }
            Err(fault) => break end(file, seed, &walked, fault),
        }
    };
    walked.unproven = unproven.front().map_or(walked.end, |&(_, offset)| offset);
    (walked, tail)
}

fn behind(file: &[u8], from: u64) -> &[u8] {
    usize::try_from(from).ok().and_then(|from| file.get(from..)).unwrap_or_default()
}

/// Judges what follows the last frame that validates.
fn end(file: &[u8], seed: &Seed, walked: &Walked, fault: FrameFault) -> Result<Tail, Damage> {
    let (offset, position, durable) = (walked.end, walked.next, walked.durable);
    let rest = behind(file, offset);
    let Some(last) = rest.iter().rposition(|&byte| byte != 0) else {
        if position > durable {
            return Ok(Tail::Clean);
        }
        return Err(Damage::Missing { end: position.previous(), durable, offset });
    };
    let later = later_durable(&rest[..=last], seed);
    let durable = if planted(Bug::IgnoreLaterFrames) { durable } else { durable.max(later) };
    if position <= durable && !planted(Bug::CutAcknowledged) {
        return Err(Damage::Acknowledged { position, offset, detail: fault.to_string() });
    }
    if is_explained(rest, offset, seed, fault) || planted(Bug::ExplainAnything) {
        return Ok(Tail::Torn { from: offset, to: offset + last as u64 + 1 });
    }
    Err(Damage::Unexplained { position, offset, detail: fault.to_string() })
}

/// Returns the highest durable position that any valid frame header behind the bad one names.
fn later_durable(rest: &[u8], seed: &Seed) -> Position {
    let mut durable = Position::START;
    for at in (0..rest.len()).step_by(frame::ALIGN_BYTES) {
        if let Ok(header) = frame::decode_header(&rest[at..], seed) {
            durable = durable.max(header.durable);
        }
    }
    durable
}

/// Returns whether a crash explains the bad frame at the beginning of `rest`: some sector of it
/// is as it was before the write.
fn is_explained(rest: &[u8], offset: u64, seed: &Seed, fault: FrameFault) -> bool {
    match fault {
        FrameFault::Unwritten => true,
        FrameFault::BodyChecksum => match frame::decode_header(rest, seed) {
            Ok(header) => {
                let frame = rest.get(..header.bytes as usize).unwrap_or(rest);
                frame::zero_sectors(frame, offset) > header.zero_sectors
            }
            Err(_) => false,
        },
        FrameFault::HeaderChecksum => {
            // The length is not to be trusted, so only the header's own sectors tell. It lies in
            // two of them at most.
            let into = usize::try_from(offset % SECTOR_BYTES as u64).expect("less than a sector");
            let sector = SECTOR_BYTES - into;
            sector < HEADER_BYTES
                && rest.get(..HEADER_BYTES).is_some_and(|header| {
                    let (head, tail) = header.split_at(sector);
                    is_zero(head) || is_zero(tail)
                })
        }
        FrameFault::Truncated(_)
        | FrameFault::Magic
        | FrameFault::Length(_)
        | FrameFault::Flags(_) => false,
    }
}

// The path is for `tests/weave`, where this file stands under another one.
#[cfg(test)]
#[path = "recovery/tests.rs"]
mod tests;
