//! What a repair does, in the order in which it is done.

use std::path::PathBuf;

use headwater_core::{GroupName, Position};

use super::survey::Survey;
use super::{Lost, RepairReport, RepairStep, Unreadable};
use crate::format::segment::{LogKind, file_name};
use crate::format::tails::StreamTail;
use crate::ledger::Removal;
use crate::log::LogDir;

/// Streams are named up to this many, and counted beyond.
const STREAMS_NAMED: usize = 100;

/// A range of a segment that is cut.
#[derive(Debug)]
pub(super) struct Cutting {
    pub(super) dir: LogDir,
    pub(super) base: Position,
    pub(super) id: u64,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// A step, with what it takes to do it.
#[derive(Debug)]
pub(super) enum Action {
    Copy {
        file: PathBuf,
        bytes: u64,
    },
    Cut(Cutting),
    EndLog {
        kind: LogKind,
        active: u64,
        last: Position,
    },
    /// The streams that end there, the line of the ledger, and the id of the first segment.
    BeginLog {
        tails: Vec<StreamTail>,
        removal: Removal,
        first: u64,
    },
    Remove {
        file: PathBuf,
        /// The removal is durable before the next one.
        is_edge: bool,
    },
    Reindex {
        file: PathBuf,
        detail: String,
    },
    SeekGroup {
        group: GroupName,
        to: Position,
    },
}

impl Action {
    pub(super) fn step(&self) -> RepairStep {
        match self {
            Self::Copy { file, bytes } => RepairStep::Copy { file: file.clone(), bytes: *bytes },
            Self::Cut(Cutting { dir, base, id, from, to }) => {
                let file = dir.path().join(file_name(*base, *id));
                RepairStep::Cut { file, offset: *from, bytes: to - from }
            }
            Self::EndLog { kind, last, .. } => {
                RepairStep::EndLog { log: kind.folder(), last: *last }
            }
            Self::BeginLog { removal, .. } => RepairStep::BeginLog { after: removal.through },
            Self::Remove { file, .. } => RepairStep::Remove { file: file.clone() },
            Self::Reindex { file, detail } => {
                RepairStep::Reindex { file: file.clone(), detail: detail.clone() }
            }
            Self::SeekGroup { group, to } => {
                RepairStep::SeekGroup { group: group.clone(), to: *to }
            }
        }
    }
}

/// What is to be done, and what is lost by it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) lost: Vec<Lost>,
    pub(super) unreadable: Vec<Unreadable>,
}

impl Plan {
    pub(super) fn report(&self) -> RepairReport {
        RepairReport {
            applied: false,
            steps: self.actions.iter().map(Action::step).collect(),
            lost: self.lost.clone(),
            unreadable: self.unreadable.clone(),
            kept: Vec::new(),
        }
    }

    /// Removes files that were copied, oldest first.
    pub(super) fn remove(&mut self, files: Vec<PathBuf>) {
        let last = files.len().saturating_sub(1);
        for (at, file) in files.into_iter().enumerate() {
            // The first one, before any other: without it the log is not taken for whole.
            self.actions.push(Action::Remove { file, is_edge: at == 0 || at == last });
        }
    }

    /// Sets groups back, when everything else is done.
    pub(super) fn seek(&mut self, groups: Vec<(GroupName, Position)>) {
        let seeks = groups.into_iter().map(|(group, to)| Action::SeekGroup { group, to });
        self.actions.extend(seeks);
    }
}

/// Says what is lost.
pub(super) fn lost(kind: LogKind, first: Position, survey: &Survey, durable: Position) -> Lost {
    let last = survey.last.max(durable);
    let streams = survey.streams.iter().map(|(name, met)| (name.clone(), met.events));
    Lost {
        log: kind.folder(),
        first,
        last: last.max(first),
        acknowledged: durable >= first,
        readable: survey.readable,
        streams: streams.take(STREAMS_NAMED).collect(),
        streams_left_out: survey.streams.len().saturating_sub(STREAMS_NAMED) as u64,
    }
}
