//! All timers that are to fire, folded from the log.

use std::collections::{BTreeSet, HashMap};

use headwater_core::{
    DecodeError, EventId, Position, RecordedEvent, Revision, StreamId, Timestamp, decode_event,
};

use super::record::{Definition, TimerRecord};
use super::{Missed, latest_through};

/// A timer that is to fire.
#[derive(Clone, Debug)]
pub(super) struct Active {
    /// The event that made it.
    pub(super) scheduled: EventId,
    pub(super) definition: Box<Definition>,
    pub(super) last_fired: Option<Timestamp>,
    /// When it is to fire next, as far as that is known without the clock.
    pub(super) next: Timestamp,
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
                let before = Timestamp::from_nanos(definition.from.as_nanos().saturating_sub(1));
                let first = definition.schedule.next_after(before);
                let scheduled = event.id;
                self.active =
                    first.map(|next| Active { scheduled, definition, last_fired: None, next });
            }
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
            active.last_fired = Some(time);
        }
        if let Some(next) = active.definition.schedule.next_after(time) {
            self.active = Some(Active { next, ..active });
        }
    }
}

/// The timers of a whole log.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// How far the log was read.
    pub(super) cursor: Position,
    timers: HashMap<StreamId, Entry>,
    queue: BTreeSet<(Timestamp, StreamId)>,
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
}

impl Book {
    /// Takes the next event of any timer.
    pub(super) fn apply(&mut self, event: &RecordedEvent) -> Result<(), DecodeError> {
        let mut entry = self.timers.remove(&event.stream).unwrap_or_default();
        if let Some(active) = &entry.active {
            self.queue.remove(&(active.next, event.stream.clone()));
        }
        entry.apply(event)?;
        if let Some(active) = &entry.active {
            self.queue.insert((active.next, event.stream.clone()));
            self.timers.insert(event.stream.clone(), entry);
        }
        Ok(())
    }

    /// Returns what is to be done first, where something is due.
    pub(super) fn first_due(&self, now: Timestamp) -> Option<Due<'_>> {
        let (next, stream) = self.queue.first().filter(|(next, _)| *next <= now)?;
        let entry = self.timers.get(stream)?;
        let timer = entry.active.as_ref()?;
        let step = match timer.definition.missed {
            Missed::All => Step::Fire(*next),
            Missed::Latest => Step::Fire(latest_through(&timer.definition.schedule, *next, now)),
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

    /// Goes through all timers, by when they are to fire.
    pub(super) fn active(&self) -> impl Iterator<Item = (&StreamId, &Active)> {
        let active = |stream: &StreamId| self.timers.get(stream)?.active.as_ref();
        self.queue.iter().filter_map(move |(_, stream)| Some((stream, active(stream)?)))
    }
}
