//! What caused what: events as a forest, by their causation ids alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::event::RecordedEvent;
use crate::id::EventId;
use crate::position::Position;

/// Events, each below the one that caused it.
///
/// Every event is in it once. A cause is an event that lies before its effect, so whatever the ids
/// say there is no circle, and every event is reached from a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// By position.
    events: Vec<FlowEvent>,
    more: u64,
}

/// An event in a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// The event.
    pub event: RecordedEvent,
    /// What caused it.
    pub cause: Cause,
    /// What it caused: indexes into [`Flow::events`], ascending.
    pub effects: Vec<usize>,
    /// How long after its cause it was committed, where that is in the flow.
    pub after_cause: Option<Duration>,
    /// Whether it, or the append it came with, is what was asked for.
    pub asked: bool,
}

/// What an event says of its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It names none.
    None,
    /// The event with this index in [`Flow::events`].
    Event(usize),
    /// It names one that is not among the events before it: retention removed that, it lies in
    /// another flow or another log, it was left out, or there is no such event.
    Missing(EventId),
}

/// An event on the way through a flow from each cause to its effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowStep<'a> {
    /// The event.
    pub event: &'a FlowEvent,
    /// How many causes it has above it.
    pub depth: usize,
    /// Whether its cause has no effect after it; of events without a cause in the flow, the last.
    pub is_last: bool,
}

impl Flow {
    /// Orders events, of which those at the same position count once.
    ///
    /// An event lies below the nearest one before it that has the id of its cause.
    ///
    /// # Complexity
    ///
    /// *O*(*n* log *n*).
    pub fn new(events: impl IntoIterator<Item = RecordedEvent>) -> Self {
        Self::asking(events, &BTreeSet::new(), 0)
    }

    pub(super) fn asking(
        events: impl IntoIterator<Item = RecordedEvent>,
        asked: &BTreeSet<Position>,
        more: u64,
    ) -> Self {
        let ordered: BTreeMap<Position, RecordedEvent> =
            events.into_iter().map(|event| (event.position, event)).collect();
        let mut events: Vec<FlowEvent> = Vec::with_capacity(ordered.len());
        let mut nearest: HashMap<EventId, usize> = HashMap::with_capacity(ordered.len());
        for (at, (position, event)) in ordered.into_iter().enumerate() {
            let cause = match event.causation_id {
                None => Cause::None,
                Some(id) => nearest.get(&id).map_or(Cause::Missing(id), |&at| Cause::Event(at)),
            };
            let mut after_cause = None;
            if let Cause::Event(cause) = cause {
                let cause = &mut events[cause];
                cause.effects.push(at);
                after_cause = Some(event.commit_time.saturating_since(cause.event.commit_time));
            }
            nearest.insert(event.id, at);
            let asked = asked.contains(&position);
            events.push(FlowEvent { event, cause, effects: Vec::new(), after_cause, asked });
        }
        Self { events, more }
    }

    /// Returns the events by position.
    pub fn events(&self) -> &[FlowEvent] {
        &self.events
    }

    /// Returns how many events of the flow, at least, are left out for
    /// [`events_max`](crate::TraceOptions::events_max).
    pub fn more(&self) -> u64 {
        self.more
    }

    /// Returns how many streams the events are of.
    pub fn streams(&self) -> usize {
        self.events.iter().map(|of| &of.event.stream).collect::<HashSet<_>>().len()
    }

    /// Returns how long it took from the first event to the last one.
    pub fn duration(&self) -> Duration {
        match (self.events.first(), self.events.last()) {
            (Some(first), Some(last)) => {
                last.event.commit_time.saturating_since(first.event.commit_time)
            }
            _ => Duration::ZERO,
        }
    }

    /// Returns what was asked for and everything that it caused, and nothing else. Where no event was
    /// asked for, as by a correlation id that no event has, that is everything.
    #[must_use]
    pub fn caused(self) -> Self {
        if !self.events.iter().any(|of| of.asked) {
            return self;
        }
        let mut kept = vec![false; self.events.len()];
        for (at, of) in self.events.iter().enumerate() {
            // The cause comes before its effects.
            kept[at] = of.asked || matches!(of.cause, Cause::Event(cause) if kept[cause]);
        }
        let asked = self.events.iter().filter(|of| of.asked).map(|of| of.event.position).collect();
        let events = self.events.into_iter().zip(kept).filter(|(_, kept)| *kept);
        Self::asking(events.map(|(of, _)| of.event), &asked, self.more)
    }

    /// Goes through all events, each followed by what it caused; effects of one cause, and events
    /// without a cause here, in the order of their positions.
    pub fn walk(&self) -> impl Iterator<Item = FlowStep<'_>> {
        let has_no_cause = |of: &FlowEvent| !matches!(of.cause, Cause::Event(_));
        let roots = (0..self.events.len()).filter(|&at| has_no_cause(&self.events[at]));
        // What comes next is at the end. No recursion: a chain of causes may be long.
        let mut waiting: Vec<_> = roots.rev().map(|at| (at, 0)).collect();
        let mut is_last: Vec<bool> = vec![false; self.events.len()];
        if let Some(&(at, _)) = waiting.first() {
            is_last[at] = true;
        }
        std::iter::from_fn(move || {
            let (at, depth) = waiting.pop()?;
            let event = &self.events[at];
            waiting.extend(event.effects.iter().rev().map(|&effect| (effect, depth + 1)));
            if let Some(&last) = event.effects.last() {
                is_last[last] = true;
            }
            Some(FlowStep { event, depth, is_last: is_last[at] })
        })
    }
}
