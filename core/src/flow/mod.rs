//! Tracing a flow: everything that one command or event caused, across streams.
//!
//! [`tree`] orders events into what caused what, and is pure; [`find`] looks for an event of which
//! only the id is known; here is which events belong together. Three facts carry it: an index
//! finds the events of a flow by its id, an event that begins a flow gives it its id, and a cause
//! lies before its effects.

mod find;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

pub use tree::{Cause, Flow, FlowEvent, FlowStep};

use crate::event::RecordedEvent;
use crate::id::{AppendId, CorrelationId, EventId};
use crate::log::{EventLog, Read, ReadError};
use crate::position::Position;
use crate::query::{Query, Selectable};

/// How many flows are asked for at a time.
const FLOWS_AT_ONCE: usize = 256;

/// How much of a flow is traced, and how hard an event is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceOptions {
    /// How many events are kept at most, oldest first, not counting those that were asked for and
    /// those that began a flow; the rest is counted ([`Flow::more`]). They are in memory together.
    pub events_max: usize,
    /// How many events are looked at for one that no index knows by its id. It matters for an event
    /// that caused nothing, and for an id that is unknown.
    pub search_events_max: u64,
}

impl Default for TraceOptions {
    /// 10,000 events of a flow; a million events looked at.
    fn default() -> Self {
        Self { events_max: 10_000, search_events_max: 1_000_000 }
    }
}

/// Finds the flow of a correlation id, an event or an append: what was caused by what, from the first
/// cause on. `None` if nothing with this id is found.
///
/// The id is that of a flow, or that of an event as [`CorrelationId::from`] or of an append by its
/// UUID. Events that are named so are [asked for](FlowEvent::asked), and [`Flow::caused`] is what
/// they caused alone.
///
/// An event belongs to the flow that its correlation id names. Without one, it belongs to its cause,
/// whatever flow that is of. So everything is found that was appended with
/// [`caused_by`](crate::ExecuteOptions::caused_by). An effect that was given a correlation id of its
/// own begins a flow of its own, and is found with that.
///
/// # Errors
///
/// [`ReadError`] if the log cannot be read; [`ReadError::BelowStart`] if retention overtakes it.
///
/// # Cancel safety
///
/// Cancel safe.
///
/// # Complexity
///
/// A look-up in the index for each event of the flow, many at a time. The event that began a flow is
/// looked for where the time in its id says, for up to a minute behind it, and among the 10,000 events
/// before that and before the others. Only where an id belongs to no flow and no append, up to
/// [`search_events_max`](TraceOptions::search_events_max) events are read.
///
/// # Examples
///
/// ```
/// use headwater_core::{
///     Append, EventLog, EventType, MemoryLog, NewEvent, StreamId, TraceOptions, trace_flow,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # pollster::block_on(async {
/// let placed = EventType::new("order.placed")?;
/// let placed = NewEvent::json(StreamId::new("order-17")?, placed, &1)?;
/// let charged = EventType::new("payment.charged")?;
/// let mut charged = NewEvent::json(StreamId::new("payment-4")?, charged, &1)?;
/// charged.causation_id = Some(placed.id);
/// let id = placed.id.into();
/// let log = MemoryLog::new();
/// log.append(Append::new([placed, charged])).await?;
///
/// let flow = trace_flow(&log, id, &TraceOptions::default()).await?;
/// let flow = flow.expect("it is in the log");
/// let lines: Vec<String> = flow
///     .walk()
///     .map(|step| format!("{}{}", "  ".repeat(step.depth), step.event.event.event_type))
///     .collect();
/// assert_eq!(lines, ["order.placed", "  payment.charged"]);
/// # Ok(())
/// # })
/// # }
/// ```
pub async fn trace_flow(
    log: &dyn EventLog,
    id: CorrelationId,
    options: &TraceOptions,
) -> Result<Option<Flow>, ReadError> {
    let mut tracing = Tracing {
        log,
        start: log.start().await?,
        options: *options,
        events: BTreeMap::new(),
        known: HashSet::new(),
        asked: BTreeSet::new(),
        flows: HashSet::new(),
        effects_of: VecDeque::new(),
        more: 0,
    };
    if !tracing.begin(id).await? {
        return Ok(None);
    }
    tracing.go_up().await?;
    tracing.go_down().await?;
    let asked = tracing.asked;
    Ok(Some(Flow::asking(tracing.events.into_values(), &asked, tracing.more)))
}

/// A flow that is being put together.
struct Tracing<'a> {
    log: &'a dyn EventLog,
    start: Position,
    options: TraceOptions,
    events: BTreeMap<Position, RecordedEvent>,
    /// The ids of the events.
    known: HashSet<EventId>,
    /// The events that were asked for.
    asked: BTreeSet<Position>,
    /// The flows that were read.
    flows: HashSet<CorrelationId>,
    /// The events that may have begun a flow that was not read yet.
    effects_of: VecDeque<(EventId, Position)>,
    more: u64,
}

impl Tracing<'_> {
    /// Finds what an id stands for. Returns whether there is anything.
    async fn begin(&mut self, id: CorrelationId) -> Result<bool, ReadError> {
        self.read_flows(vec![id], self.start).await?;
        let event_id = EventId::from_uuid(*id.as_uuid());
        if !self.events.is_empty() {
            self.find_beginning(id).await?;
            let named = self.events.values().filter(|event| event.id == event_id);
            self.asked = named.map(|event| event.position).collect();
            return Ok(true);
        }
        let append_id = AppendId::from_uuid(*id.as_uuid());
        if let Some(appended) = self.log.find_append(append_id).await? {
            let mut after = appended.first.previous().max(self.start);
            while after < appended.last {
                let page = self.log.read(Read::forward(Query::all(), after)).await?;
                after = page.scanned;
                for event in page.events {
                    if event.position <= appended.last {
                        self.ask(event);
                    }
                }
            }
        } else if let Some(event) = self.search(event_id).await? {
            self.ask(event);
        }
        Ok(!self.events.is_empty())
    }

    /// Reads the flows to which what was asked for belongs, up to the first cause.
    async fn go_up(&mut self) -> Result<(), ReadError> {
        let asked = self.asked.iter().filter_map(|position| self.events.get(position)?.flow());
        let mut waiting: Vec<CorrelationId> = asked.collect();
        let mut seen = HashSet::new();
        while let Some(flow) = waiting.pop() {
            if !seen.insert(flow) || self.is_full() {
                continue;
            }
            self.read_flows(vec![flow], self.start).await?;
            self.find_beginning(flow).await?;
            let begun_by = self.events.values().filter(|event| flow == event.id.into());
            waiting.extend(begun_by.filter_map(Selectable::flow));
        }
        Ok(())
    }

    /// Reads the flows that the events began, and those that the events in these began.
    async fn go_down(&mut self) -> Result<(), ReadError> {
        while !self.effects_of.is_empty() && !self.is_full() {
            let count = self.effects_of.len().min(FLOWS_AT_ONCE);
            let causes: Vec<_> = self.effects_of.drain(..count).collect();
            let after = causes.iter().map(|(_, position)| *position).min().unwrap_or(self.start);
            let flows = causes.into_iter().map(|(id, _)| CorrelationId::from(id)).collect();
            self.read_flows(flows, after).await?;
        }
        Ok(())
    }

    /// Reads all events of those flows that were not read yet.
    async fn read_flows(
        &mut self,
        mut flows: Vec<CorrelationId>,
        mut after: Position,
    ) -> Result<(), ReadError> {
        flows.retain(|flow| self.flows.insert(*flow));
        if flows.is_empty() {
            return Ok(());
        }
        let query = Query::flows(flows);
        loop {
            let page = self.log.read(Read::forward(query.clone(), after)).await?;
            for event in page.events {
                if self.is_full() && !self.events.contains_key(&event.position) {
                    self.more += 1;
                } else {
                    self.add(event);
                }
            }
            if page.done {
                return Ok(());
            }
            after = page.scanned;
        }
    }

    /// Looks for the event that began a flow, if there is one and it is not known yet.
    async fn find_beginning(&mut self, flow: CorrelationId) -> Result<(), ReadError> {
        let id = EventId::from_uuid(*flow.as_uuid());
        if self.known.contains(&id) {
            return Ok(());
        }
        let first = self.events.values().find(|event| event.flow() == Some(flow));
        let Some(before) = first.map(|event| event.position) else { return Ok(()) };
        if let Some(event) = find::near(self.log, id, self.start, before).await? {
            self.add(event);
        }
        Ok(())
    }

    async fn search(&self, id: EventId) -> Result<Option<RecordedEvent>, ReadError> {
        find::anywhere(self.log, id, self.start, self.options.search_events_max).await
    }

    fn ask(&mut self, event: RecordedEvent) {
        self.asked.insert(event.position);
        self.add(event);
    }

    fn add(&mut self, event: RecordedEvent) {
        if self.known.insert(event.id) {
            self.effects_of.push_back((event.id, event.position));
        }
        self.events.insert(event.position, event);
    }

    fn is_full(&self) -> bool {
        self.events.len() >= self.options.events_max
    }
}

#[cfg(test)]
mod tests;
