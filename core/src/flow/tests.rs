mod find;

use std::collections::HashMap;

use pollster::block_on;
use proptest::prelude::*;
use proptest::sample::Index;

use std::time::Duration;

use super::*;
use crate::append::Append;
use crate::codec::CodecId;
use crate::event::NewEvent;
use crate::execute::ExecuteOptions;
use crate::memory::MemoryLog;
use crate::name::{EventType, StreamId};
use crate::position::{Revision, SchemaVersion};
use crate::slot::Slot;
use crate::time::Timestamp;

fn new(stream: &str) -> NewEvent {
    let stream = StreamId::new(stream).unwrap();
    NewEvent::new(stream, EventType::new("t").unwrap(), CodecId::RAW, "x")
}

fn append(log: &MemoryLog, event: NewEvent) -> RecordedEvent {
    let at = block_on(log.append(Append::new([event]))).unwrap().first;
    let read = Read::forward(Query::all(), at.previous()).limit(1);
    block_on(log.read(read)).unwrap().events.remove(0)
}

/// Appends an event as a reaction to another one would.
fn caused(log: &MemoryLog, cause: &RecordedEvent, stream: &str) -> RecordedEvent {
    let options = ExecuteOptions::default().caused_by(cause);
    append(log, options.mark(new(stream)))
}

fn trace(log: &MemoryLog, id: impl Into<CorrelationId>) -> Option<Flow> {
    block_on(trace_flow(log, id.into(), &TraceOptions::default())).unwrap()
}

fn positions(flow: &Flow) -> Vec<u64> {
    flow.events().iter().map(|of| of.event.position.get()).collect()
}

/// Position and depth, as the walk goes.
fn shape(flow: &Flow) -> Vec<(u64, usize)> {
    flow.walk().map(|step| (step.event.event.position.get(), step.depth)).collect()
}

fn asked(flow: &Flow) -> Vec<u64> {
    let asked = flow.events().iter().filter(|of| of.asked);
    asked.map(|of| of.event.position.get()).collect()
}

/// 1 caused 3 and 5, 3 caused 4 and 7; 2 and 6 have nothing to do with them.
fn branching() -> (MemoryLog, Vec<RecordedEvent>) {
    let log = MemoryLog::new();
    let one = append(&log, new("order-1"));
    let two = append(&log, new("order-2"));
    let three = caused(&log, &one, "payment-1");
    let four = caused(&log, &three, "payment-1");
    let five = caused(&log, &one, "mail-1");
    let six = caused(&log, &two, "mail-2");
    let seven = caused(&log, &three, "order-1");
    (log, vec![one, two, three, four, five, six, seven])
}

#[test]
fn a_flow_is_found_by_its_id_and_by_each_of_its_events() {
    let (log, events) = branching();
    for of_flow in [0, 2, 3, 4, 6] {
        let flow = trace(&log, events[of_flow].id).unwrap();
        assert_eq!(shape(&flow), [(1, 0), (3, 1), (4, 2), (7, 2), (5, 1)]);
        assert_eq!(asked(&flow), [of_flow as u64 + 1]);
        assert_eq!((flow.streams(), flow.more()), (3, 0));
    }
    let flow = trace(&log, events[2].id).unwrap().caused();
    assert_eq!(shape(&flow), [(3, 0), (4, 1), (7, 1)]);
    assert_eq!(flow.events()[0].cause, Cause::Missing(events[0].id));
    assert_eq!(shape(&trace(&log, events[5].id).unwrap()), [(2, 0), (6, 1)]);
}

#[test]
fn a_correlation_id_that_is_no_event_has_all_its_commands_as_roots() {
    let log = MemoryLog::new();
    let request = CorrelationId::generate();
    let one = append(&log, NewEvent { correlation_id: Some(request), ..new("a-1") });
    append(&log, new("b-1"));
    caused(&log, &one, "c-1");
    append(&log, NewEvent { correlation_id: Some(request), ..new("a-2") });
    let flow = trace(&log, request).unwrap();
    assert_eq!(shape(&flow), [(1, 0), (3, 1), (4, 0)]);
    let ends: Vec<bool> = flow.walk().map(|step| step.is_last).collect();
    assert_eq!(ends, [false, true, true]);
    assert_eq!(asked(&flow), [0; 0]);
    assert_eq!(flow.clone().caused(), flow);
}

#[test]
fn an_append_id_stands_for_all_its_events() {
    let log = MemoryLog::new();
    append(&log, new("a-1"));
    let id = AppendId::from_name(b"request 7");
    let two = Append::new([new("a-1"), new("a-2")]).with_id(id);
    block_on(log.append(two)).unwrap();
    let read = block_on(log.read(Read::forward(Query::all(), Position::new(1)))).unwrap();
    caused(&log, &read.events[1], "b-1");
    caused(&log, &read.events[0], "b-2");
    let flow = trace(&log, CorrelationId::from_bytes(*id.as_bytes())).unwrap();
    assert_eq!(shape(&flow), [(2, 0), (5, 1), (3, 0), (4, 1)]);
    assert_eq!(asked(&flow), [2, 3]);
}

#[test]
fn what_names_a_cause_and_no_flow_is_found_all_the_way_up_and_down() {
    let log = MemoryLog::new();
    let mut last = append(&log, new("a-1"));
    let first = last.id;
    for n in 0..700 {
        last =
            append(&log, NewEvent { causation_id: Some(last.id), ..new(&format!("s-{}", n % 3)) });
    }
    for id in [first, last.id] {
        let flow = trace(&log, id).unwrap();
        assert_eq!(shape(&flow), (0..701).map(|n| (n as u64 + 1, n)).collect::<Vec<_>>());
    }
}

#[test]
fn an_id_that_nothing_has_is_none_and_is_looked_for_no_longer_than_asked() {
    let (log, _) = branching();
    assert_eq!(trace(&log, EventId::generate()), None);
    assert_eq!(trace(&MemoryLog::new(), EventId::generate()), None);
    // Its id tells no time, so it is looked for from the end.
    let old = EventId::from_bytes([7; 16]);
    let log = MemoryLog::new();
    append(&log, NewEvent { id: old, ..new("a-1") });
    (0..5).for_each(|_| drop(append(&log, new("a-1"))));
    for (max, found) in [(0, false), (5, false), (6, true)] {
        let options = TraceOptions { search_events_max: max, ..TraceOptions::default() };
        let flow = block_on(trace_flow(&log, old.into(), &options)).unwrap();
        assert_eq!(flow.is_some(), found, "{max}");
    }
}

#[test]
fn an_id_whose_time_says_nothing_about_the_log_is_found_all_the_same() {
    let log = MemoryLog::new();
    let early = EventId::from_bytes(*b"\x01\x60\0\0\0\0\x70\0\x80\0\0\0\0\0\0\x01");
    let late = EventId::from_bytes(*b"\x0f\xff\0\0\0\0\x70\0\x80\0\0\0\0\0\0\x01");
    for id in [early, late] {
        append(&log, new("a-1"));
        let event = append(&log, NewEvent { id, ..new("a-1") });
        assert_eq!(asked(&trace(&log, id).unwrap()), [event.position.get()]);
        let effect = caused(&log, &event, "b-1");
        assert_eq!(trace(&log, effect.id).unwrap().events().len(), 2);
    }
}

#[test]
fn a_large_flow_is_cut_and_what_is_left_out_is_counted() {
    let log = MemoryLog::new();
    let one = append(&log, new("a-1"));
    let effects: Vec<_> = (0..2_500).map(|n| caused(&log, &one, &format!("b-{n}"))).collect();
    let options = TraceOptions { events_max: 100, ..TraceOptions::default() };
    let flow = block_on(trace_flow(&log, one.id.into(), &options)).unwrap().unwrap();
    assert_eq!(flow.more(), 2_400, "besides the one that began it");
    assert_eq!(positions(&flow), (1..=101).collect::<Vec<_>>());
    // What was asked for is not left out, wherever it is.
    let flow = block_on(trace_flow(&log, effects[2_000].id.into(), &options)).unwrap().unwrap();
    assert_eq!(asked(&flow), [2_002]);
}

#[test]
fn an_effect_with_a_flow_of_its_own_is_found_with_that() {
    let log = MemoryLog::new();
    let one = append(&log, new("a-1"));
    let own = Some(CorrelationId::generate());
    let two =
        append(&log, NewEvent { correlation_id: own, causation_id: Some(one.id), ..new("b-1") });
    caused(&log, &two, "c-1");
    assert_eq!(positions(&trace(&log, one.id).unwrap()), [1]);
    let flow = trace(&log, two.id).unwrap();
    assert_eq!(shape(&flow), [(2, 0), (3, 1)]);
    assert_eq!(flow.events()[0].cause, Cause::Missing(one.id));
}

fn id(n: u8) -> EventId {
    EventId::from_bytes([n; 16])
}

fn recorded(position: u64, own: u8, cause: Option<u8>) -> RecordedEvent {
    let event = new("a-1");
    RecordedEvent {
        position: Position::new(position),
        stream: event.stream,
        revision: Revision::new(position),
        id: id(own),
        event_type: event.event_type,
        schema_version: SchemaVersion::FIRST,
        commit_time: Timestamp::from_millis(i64::try_from(position * 10).unwrap()),
        event_time: event.event_time,
        correlation_id: None,
        causation_id: cause.map(id),
        tags: Vec::new(),
        key: None,
        slot: Slot::of_key("a-1"),
        headers: event.headers,
        codec: event.codec,
        payload: event.payload,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Ids repeat, causes come later, are events themselves, or are nowhere.
    #[test]
    fn each_event_is_in_the_tree_once_and_below_its_cause(
        events in prop::collection::vec((0..40_u64, 0..12_u8, prop::option::of(0..14_u8)), 0..40),
    ) {
        let by_position: BTreeMap<u64, RecordedEvent> =
            events.iter().map(|&(at, own, cause)| (at, recorded(at, own, cause))).collect();
        let flow = Flow::new(events.iter().map(|&(at, own, cause)| recorded(at, own, cause)));
        prop_assert_eq!(positions(&flow), by_position.keys().copied().collect::<Vec<_>>());
        let mut walked = Vec::new();
        let mut above: Vec<(u64, Option<u64>)> = Vec::new();
        for step in flow.walk() {
            let event = &step.event.event;
            let position = event.position.get();
            above.truncate(step.depth);
            let parent = above.last().map(|(position, _)| *position);
            // The nearest before it that has the id.
            let nearest = event.causation_id.and_then(|id| {
                by_position.range(..position).rev().find(|(_, other)| other.id == id).map(|(at, _)| *at)
            });
            prop_assert_eq!(parent, nearest);
            match step.event.cause {
                Cause::None => prop_assert_eq!(event.causation_id, None),
                Cause::Missing(id) => prop_assert_eq!((event.causation_id, nearest), (Some(id), None)),
                Cause::Event(at) => {
                    prop_assert_eq!(Some(flow.events()[at].event.position.get()), nearest);
                    let wait = Duration::from_millis((position - nearest.unwrap()) * 10);
                    prop_assert_eq!(step.event.after_cause, Some(wait));
                }
            }
            walked.push(position);
            above.push((position, None));
        }
        // Of those that have the same cause, or none here, the order is that of the log.
        let mut siblings: HashMap<Option<usize>, Vec<(u64, bool)>> = HashMap::new();
        for step in flow.walk() {
            let cause = match step.event.cause { Cause::Event(at) => Some(at), _ => None };
            siblings.entry(cause).or_default().push((step.event.event.position.get(), step.is_last));
        }
        for siblings in siblings.values() {
            prop_assert!(siblings.is_sorted_by(|a, b| a.0 < b.0), "{:?}", siblings);
            let last = siblings.len() - 1;
            prop_assert!(siblings.iter().enumerate().all(|(n, (_, is_last))| (n == last) == *is_last));
        }
        walked.sort_unstable();
        prop_assert_eq!(walked, positions(&flow));
    }

    #[test]
    fn what_is_found_is_what_a_walk_over_the_log_finds(
        made in prop::collection::vec((0..6_u8, any::<Index>(), any::<Index>()), 1..40),
        asked_for in any::<Index>(),
        by_flow in any::<bool>(),
    ) {
        let log = MemoryLog::new();
        let flows = [1, 2].map(|n| CorrelationId::from_bytes([n; 16]));
        let mut events: Vec<RecordedEvent> = Vec::new();
        for (kind, cause, other) in made {
            let mut event = new("a-1");
            if !events.is_empty() {
                let cause = &events[cause.index(events.len())];
                let other = &events[other.index(events.len())];
                match kind {
                    0 => {}
                    1 | 2 => event = ExecuteOptions::default().caused_by(cause).mark(event),
                    3 => event.causation_id = Some(cause.id),
                    4 => event.correlation_id = Some(flows[usize::from(cause.position < other.position)]),
                    _ => {
                        event.correlation_id = Some(other.id.into());
                        event.causation_id = Some(cause.id);
                    }
                }
            }
            events.push(append(&log, event));
        }
        let id = if by_flow { flows[0] } else { events[asked_for.index(events.len())].id.into() };
        let found = trace(&log, id);
        prop_assert_eq!(found.as_ref().map(positions), expected(&events, id));
    }
}

/// What belongs to an id, by the words of [`trace_flow`].
fn expected(events: &[RecordedEvent], id: CorrelationId) -> Option<Vec<u64>> {
    let of_flow = |id: CorrelationId| -> Vec<&RecordedEvent> {
        let members = || events.iter().filter(move |event| event.flow() == Some(id));
        let first = members().next().map_or(Position::MAX, |event| event.position);
        let begins = |event: &&RecordedEvent| id == event.id.into() && event.position < first;
        events.iter().filter(begins).chain(members()).collect()
    };
    let mut found: BTreeMap<Position, &RecordedEvent> = BTreeMap::new();
    let mut up = vec![id];
    let mut seen = HashSet::new();
    while let Some(flow) = up.pop() {
        if seen.insert(flow) {
            let members = of_flow(flow);
            found.extend(members.iter().map(|event| (event.position, *event)));
            up.extend(
                found.values().filter(|event| flow == event.id.into()).filter_map(|e| e.flow()),
            );
        }
    }
    loop {
        let before = found.len();
        let effects = events
            .iter()
            .filter(|event| found.values().any(|cause| event.flow() == Some(cause.id.into())));
        let effects: Vec<_> = effects.collect();
        found.extend(effects.into_iter().map(|event| (event.position, event)));
        if found.len() == before {
            break;
        }
    }
    (!found.is_empty()).then(|| found.keys().map(|position| position.get()).collect())
}
