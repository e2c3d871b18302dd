//! Removing the beginning of the log, whole segments at a time.
//!
//! The order is: where streams ended that disappear (`TAILS`), the ledger, the catalog's first
//! segment, the list that readers take, the files, their directory. A crash between any two leaves the log as it
//! was or as it will be; files that the catalog no longer counts go at the next opening.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use headwater_core::{
    GroupError, GroupName, GroupState, Position, ReadError, Timestamp, Visibility,
};
use serde::{Deserialize, Serialize};

use crate::format::tails::StreamTail;
use crate::fs::Fs;
use crate::ledger::{self, Removal};
use crate::offsets::Offsets;
use crate::planted::{Bug, planted};
use crate::scan::Scan;
use crate::segments::{SegmentEntry, SegmentList, Segments};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::view::View;
use crate::writer::Writer;

/// What may be removed. Only whole segments go, oldest first, and never the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cutoff {
    /// Everything up to a position.
    Through(Position),
    /// What was committed before a moment, by the log's own clock and never by the producers'.
    Before(Timestamp),
    /// The oldest segments, as long as the files of the others take more than so many bytes.
    KeepBytes(u64),
}

impl Cutoff {
    /// What was committed longer ago than this.
    pub fn older_than(age: Duration) -> Self {
        let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        Self::Before(Timestamp::from_nanos(Timestamp::now().as_nanos().saturating_sub(age)))
    }
}

/// What is removed by itself each time a segment is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Events that were committed longer ago.
    pub max_age: Option<Duration>,
    /// The oldest segments beyond so many bytes.
    pub max_bytes: Option<u64>,
}

/// Whether a removal may pass groups that have not read what it removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// It goes as far as the slowest group.
    Refuse,
    /// It removes what they have not read, and the ledger names them.
    Force,
}

/// What a removal did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionReport {
    /// What was removed; `None` if nothing was.
    pub removed: Option<Removal>,
    /// The groups that kept more from being removed, and how far each has read.
    pub held_by: Vec<(GroupName, Position)>,
}

/// Why nothing was removed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// The log could not be read to learn what goes.
    #[error("cannot learn what to remove")]
    Read(#[from] ReadError),
    /// The progress of the groups could not be made durable, so nothing was removed. Open the store
    /// anew.
    #[error("the progress of the groups cannot be made durable, so nothing was removed")]
    Groups(#[source] GroupError),
    /// The system refused to write down what goes. The removal may take effect at the next opening.
    #[error("cannot {action}; nothing was removed yet, and the next opening may do so")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Whoever removes: one at a time.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) root: PathBuf,
    pub(crate) view: Arc<View>,
    pub(crate) writer: Arc<Writer>,
    pub(crate) offsets: Arc<Offsets>,
    pub(crate) turn: Turn,
}

/// Who removes, or copies what a removal would take: one at a time.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    state: Mutex<TurnState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct TurnState {
    taken: bool,
    closed: bool,
}

/// Somebody's turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a>(&'a Turn);

impl Turn {
    /// Waits until it is the caller's turn.
    pub(crate) fn take(&self) -> Taken<'_> {
        self.wait(|state| state.taken).taken = true;
        Taken(self)
    }

    /// Does the same, but does not wait for others once the store is closed.
    fn take_unless_closed(&self) -> Option<Taken<'_>> {
        let mut state = self.wait(|state| state.taken && !state.closed);
        if state.taken {
            return None;
        }
        state.taken = true;
        Some(Taken(self))
    }

    /// Lets nobody wait who need not.
    pub(crate) fn close(&self) {
        self.wait(|_| false).closed = true;
        self.changed.notify_all();
    }

    fn wait(&self, goes_on: impl FnMut(&mut TurnState) -> bool) -> MutexGuard<'_, TurnState> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.wait_while(state, goes_on).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.wait(|_| false).taken = false;
        self.0.changed.notify_all();
    }
}

/// A beginning of the log that may go.
struct Plan {
    segments: SegmentList,
    /// How many of them.
    count: usize,
    bytes: u64,
    held_by: Vec<(GroupName, Position)>,
    passed: Vec<(GroupName, Position)>,
    cutoff: Cutoff,
}

impl Plan {
    /// Finds what a cutoff lets go.
    fn new(
        view: &View,
        groups: &[GroupState],
        cutoff: Cutoff,
        passing: Passing,
    ) -> Result<Self, ReadError> {
        let segments = view.segments();
        let size = |entry: &Arc<SegmentEntry>| Ok(entry.get()?.header.capacity_bytes);
        let sizes = segments.iter().map(size).collect::<Result<Vec<u64>, ReadError>>()?;
        let last_gone = match cutoff {
            Cutoff::Through(position) => position,
            Cutoff::Before(time) => {
                view.position_at(Timestamp::from_nanos(time.as_nanos().saturating_sub(1)))?
            }
            Cutoff::KeepBytes(_) => Position::MAX,
        };
        let mut left: u64 = sizes.iter().sum();
        let mut count = 0;
        // The newest never goes.
        for (following, size) in segments.iter().skip(1).zip(&sizes) {
            let enough = matches!(cutoff, Cutoff::KeepBytes(keep) if left <= keep);
            if enough || following.base.previous() > last_gone {
                break;
            }
            left -= size;
            count += 1;
        }
        let through =
            |count: usize| segments.get(count).map_or(Position::START, |s| s.base.previous());
        let mut slow: Vec<_> = groups
            .iter()
            .skip(usize::from(planted(Bug::IgnoreGroup)))
            .map(|group| (group.definition.name.clone(), group.needs_after()))
            .filter(|(_, floor)| *floor < through(count))
            .collect();
        slow.sort_by_key(|(_, floor)| *floor);
        let (mut held_by, mut passed) = (Vec::new(), Vec::new());
        match (passing, slow.first()) {
            (Passing::Refuse, Some(&(_, slowest))) => {
                while count > 0 && through(count) > slowest {
                    count -= 1;
                }
                held_by = slow;
            }
            _ => passed = slow,
        }
        let bytes = sizes[..count].iter().sum();
        Ok(Self { segments, count, bytes, held_by, passed, cutoff })
    }

    fn report(&self) -> RetentionReport {
        let removed = (self.count > 0).then(|| Removal {
            at: Timestamp::now(),
            first: self.segments[0].base,
            through: self.segments[self.count].base.previous(),
            segments: self.count as u64,
            bytes: self.bytes,
            cutoff: self.cutoff,
            passed: self.passed.clone(),
            quarantined: false,
        });
        RetentionReport { removed, held_by: self.held_by.clone() }
    }
}

/// Returns what a cutoff would remove.
pub(crate) fn preview(
    view: &View,
    groups: &[GroupState],
    cutoff: Cutoff,
    passing: Passing,
) -> Result<RetentionReport, ReadError> {
    Ok(Plan::new(view, groups, cutoff, passing)?.report())
}

impl Retention {
    fn cutoffs(self) -> impl Iterator<Item = Cutoff> {
        let age = self.max_age.map(Cutoff::older_than);
        age.into_iter().chain(self.max_bytes.map(Cutoff::KeepBytes))
    }
}

impl Keeper {
    /// Removes what may go now, and again each time a segment is full, until the store is closed.
    /// What is full then is still looked at, unless somebody copies it.
    pub(crate) fn run(&self, segments: &Segments, retention: Retention) {
        let mut seen = 0;
        while let Some(newest) = segments.wait_for_another(seen) {
            seen = newest;
            for cutoff in retention.cutoffs() {
                // The next opening looks again.
                let Some(turn) = self.turn.take_unless_closed() else { return };
                match self.remove_in(&turn, cutoff, Passing::Refuse) {
                    Ok(report) => {
                        for (group, floor) in report.held_by {
                            tracing::warn!(%group, %floor, ?cutoff, "retention waits for a group");
                        }
                    }
                    Err(RetentionError::Closed) => return,
                    Err(error) => tracing::warn!(%error, ?cutoff, "retention removed nothing"),
                }
            }
        }
    }

    /// Removes what a cutoff says.
    pub(crate) fn remove(
        &self,
        cutoff: Cutoff,
        passing: Passing,
    ) -> Result<RetentionReport, RetentionError> {
        self.remove_in(&self.turn.take(), cutoff, passing)
    }

    fn remove_in(
        &self,
        _: &Taken<'_>,
        cutoff: Cutoff,
        passing: Passing,
    ) -> Result<RetentionReport, RetentionError> {
        let plan = Plan::new(&self.view, &self.offsets.groups(), cutoff, passing)?;
        let report = plan.report();
        if let Some(removal) = &report.removed {
            self.carry_out(&plan, removal)?;
        }
        Ok(report)
    }

    fn carry_out(&self, plan: &Plan, removal: &Removal) -> Result<(), RetentionError> {
        let failed = |action| move |error| RetentionError::Io { action, source: Arc::new(error) };
        // Or power loss could set a group back to what is gone.
        self.offsets.source(|_, _| ()).map_err(RetentionError::Groups)?;
        let tails = self.tails(plan, removal)?;
        let written = self.view.tails().replace(removal.through, &tails);
        written.map_err(failed("write down where streams ended"))?;
        ledger::add(self.fs.as_ref(), &self.root, removal).map_err(failed("write the ledger"))?;
        let first = plan.segments[plan.count].id;
        match self.writer.remove_before(first) {
            Some(removed) => removed.map_err(failed("write the catalog")),
            None => Err(RetentionError::Closed),
        }
    }

    /// Collects where the streams ended that are gone then.
    fn tails(&self, plan: &Plan, removal: &Removal) -> Result<Vec<StreamTail>, RetentionError> {
        let start = removal.first.previous();
        let mut ends: BTreeMap<String, StreamTail> = self
            .view
            .tails()
            .all(start)?
            .into_iter()
            .filter(|_| !planted(Bug::ForgetTails))
            .map(|tail| (tail.stream.clone(), tail))
            .collect();
        let mut scan = Scan::new(Arc::clone(&plan.segments), removal.first, removal.through);
        while let Some(event) = scan.next() {
            let event = event?;
            let (revision, position) = (event.revision(), event.position());
            if let Some(end) = ends.get_mut(event.stream()) {
                (end.revision, end.position) = (revision, position);
            } else {
                let stream = event.stream().to_owned();
                ends.insert(stream.clone(), StreamTail { stream, revision, position });
            }
        }
        let mut gone = Vec::new();
        for (_, tail) in ends {
            // Those that go on need no note, as long as power loss cannot take what they go on with.
            let last = self.view.last_of(&tail.stream, Visibility::Durable)?;
            if last.is_none_or(|(_, last)| last <= removal.through) {
                gone.push(tail);
            }
        }
        Ok(gone)
    }
}
