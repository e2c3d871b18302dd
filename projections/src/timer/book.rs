//! All timers that are to fire, folded from the log.

use std::collections::{BTreeSet, HashMap};

use headwater_core::{
    DecodeError, Position, RecordedEvent, Revision, StreamId, Timestamp, decode_event,
};

use super::record::{Renewal, TimerRecord};
use super::{Missed, latest_through};

/// A timer that is to fire.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) known: Renewal,
    /// The next of its times.
    pub(super) next: Timestamp,
    /// When all that is known of it was last written down as a whole.
    pub(super) written: Timestamp,
}

impl Active {
    fn new(known: Renewal, written: Timestamp) -> Option<Self> {
        let next = known.definition.schedule.next_after(known.after)?;
        Some(Self { known, next, written })
    }
}

/// What is known of a stream of a timer.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub(super) revision: Revision,
    pub(super) active: Option<Active>,
}

impl Entry {
    /// Takes the next event of the stream.
    pub(super) fn apply(&mut self, event: &RecordedEvent) -> Result<(), DecodeError> {
        self.revision = event.revision;
        match decode_event::<TimerRecord>(event)? {
            TimerRecord::Scheduled(definition) => {
                let after = Timestamp::from_nanos(definition.from.as_nanos().saturating_sub(1));
                let scheduled = event.id;
                let known = Renewal { scheduled, definition: *definition, last_fired: None, after };
                self.active = Active::new(known, event.event_time);
            }
            TimerRecord::Renewed(known) => self.active = Active::new(*known, event.event_time),
            TimerRecord::Fired { due } => self.go_on_after(due, true, event),
            TimerRecord::Passed { through } => self.go_on_after(through, false, event),
            TimerRecord::Cancelled {} => self.active = None,
        }
        Ok(())
    }

    /// Leaves the ticks through `time` behind.
    fn go_on_after(&mut self, time: Timestamp, fired: bool, event: &RecordedEvent) {
        let Some(mut active) = self.active.take() else {
            tracing::warn!(
                stream = event.stream.as_str(),
                "the definition of a timer is not in the log any more; retention must keep timers"
            );
            return;
        };
        if fired {
            active.known.last_fired = Some(time);
        }
        active.known.after = time;
        self.active = Active::new(active.known, active.written);
    }
}

/// The timers of a whole log.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// How far the log was read.
    pub(super) cursor: Position,
    timers: HashMap<StreamId, Entry>,
    queue: BTreeSet<(Timestamp, StreamId)>,
    /// The same timers, by when they were written down.
    written: BTreeSet<(Timestamp, StreamId)>,
}

/// What is to be done about a timer now.
#[derive(Debug)]
pub(super) struct Due<'a> {
    pub(super) stream: &'a StreamId,
    pub(super) revision: Revision,
    pub(super) timer: &'a Active,
    pub(super) step: Step,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Append the event of this tick.
    Fire(Timestamp),
    /// Leave the ticks through this time behind.
    Pass(Timestamp),
    /// Write down all that is known.
    Renew,
}

impl Book {
    /// Takes the next event of any timer.
    pub(super) fn apply(&mut self, event: &RecordedEvent) -> Result<(), DecodeError> {
        let mut entry = self.timers.remove(&event.stream).unwrap_or_default();
        if let Some(active) = &entry.active {
            self.queue.remove(&(active.next, event.stream.clone()));
            self.written.remove(&(active.written, event.stream.clone()));
        }
        entry.apply(event)?;
        if let Some(active) = &entry.active {
            self.queue.insert((active.next, event.stream.clone()));
            self.written.insert((active.written, event.stream.clone()));
            self.timers.insert(event.stream.clone(), entry);
        }
        Ok(())
    }

    /// Returns what is to be done first, where something is due.
    pub(super) fn first_due(&self, now: Timestamp) -> Option<Due<'_>> {
        let (next, stream) = self.queue.first().filter(|(next, _)| *next <= now)?;
        let entry = self.timers.get(stream)?;
        let timer = entry.active.as_ref()?;
        let step = match timer.known.definition.missed {
            Missed::All => Step::Fire(*next),
            Missed::Latest => {
                Step::Fire(latest_through(&timer.known.definition.schedule, *next, now))
            }
            Missed::Skip { grace } => {
                let grace = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
                let oldest = now.as_nanos().saturating_sub(grace);
                if next.as_nanos() >= oldest {
                    Step::Fire(*next)
                } else {
                    Step::Pass(Timestamp::from_nanos(oldest.saturating_sub(1)))
                }
            }
        };
        Some(Due { stream, revision: entry.revision, timer, step })
    }

    /// Returns when the next timer is to fire.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.queue.first().map(|(next, _)| *next)
    }

    /// Returns the timer that was written down longest ago, and when.
    pub(super) fn oldest(&self) -> Option<(Timestamp, Due<'_>)> {
        let (written, stream) = self.written.first()?;
        let entry = self.timers.get(stream)?;
        let timer = entry.active.as_ref()?;
        Some((*written, Due { stream, revision: entry.revision, timer, step: Step::Renew }))
    }

    /// Goes through all timers, by when they are to fire.
    pub(super) fn active(&self) -> impl Iterator<Item = (&StreamId, &Active)> {
        let active = |stream: &StreamId| self.timers.get(stream)?.active.as_ref();
        self.queue.iter().filter_map(move |(_, stream)| Some((stream, active(stream)?)))
    }
}
