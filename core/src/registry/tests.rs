use pollster::block_on;
use serde::{Deserialize, Serialize};

use super::*;
use crate::append::Append;
use crate::codec::Json;
use crate::event::NewEvent;
use crate::kind::encode_event;
use crate::log::EventLog;
use crate::memory::MemoryLog;
use crate::name::StreamId;
use crate::position::Position;
use crate::shape::Body;

/// Types that say of themselves what a test wants.
macro_rules! events {
    ($($name:ident: [$($kind:expr),*] $(, $shapes:expr)?;)*) => {
        $(
            #[derive(Debug, Serialize, Deserialize)]
            struct $name(u32);

            impl Event for $name {
                type Codec = Json;
                const KINDS: &'static [EventKind] = &[$($kind),*];

                fn kind(&self) -> EventKind {
                    Self::KINDS[0]
                }

                $(fn shapes() -> &'static [VersionShape] {
                    $shapes
                })?
            }
        )*
    };
}

const fn shape(version: u16) -> VersionShape {
    let version = SchemaVersion::new(version);
    VersionShape { kind: "holed", version, serde: "", body: Body::Unit }
}

events! {
    Placed: [EventKind::new("placed", 3).formerly(&["ordered", "bought"]).reading_from(2)];
    Shipped: [EventKind::new("shipped", 1)];
    Ordered: [EventKind::new("shut", 1), EventKind::new("ordered", 1)];
    Itself: [EventKind::new("itself", 1).formerly(&["itself"])];
    Nothing: [];
    Spaced: [EventKind::new("fine", 1).formerly(&["not fine"])];
    Zero: [EventKind::new("zero", 0)];
    Backwards: [EventKind::new("backwards", 2).reading_from(3)];
    Holed: [EventKind::new("holed", 3).reading_from(1)], const { &[shape(1), shape(3)] };
    Whole: [EventKind::new("holed", 3).reading_from(1)], const { &[shape(1), shape(2), shape(3)] };
}

fn refused<E: Event>(registry: Registry) -> String {
    registry.with::<E>().unwrap_err().to_string()
}

#[test]
fn a_name_with_two_meanings_is_refused_with_both_types() {
    let registry = Registry::new().with::<Placed>().unwrap().with::<Shipped>().unwrap();
    let text = refused::<Ordered>(registry.clone());
    assert!(text.contains("\"ordered\"") && text.contains("::Placed and of"), "{text}");
    assert!(text.contains("::Ordered;"), "{text}");
    assert!(refused::<Itself>(Registry::new()).contains("\"itself\""));
    assert!(matches!(registry.with::<Shipped>(), Err(RegistryError::Twice { .. })));
}

#[test]
fn what_could_not_be_named_or_read_is_refused() {
    let new = Registry::new;
    assert!(matches!(new().with::<Nothing>(), Err(RegistryError::NoKinds { .. })));
    assert!(matches!(new().with::<Spaced>(), Err(RegistryError::Name { .. })));
    assert!(matches!(new().with::<Zero>(), Err(RegistryError::Versions { .. })));
    assert!(matches!(new().with::<Backwards>(), Err(RegistryError::Versions { .. })));
    let text = refused::<Holed>(new());
    assert!(text.contains("in version 2 and has no shape"), "{text}");
    assert_eq!(new().with::<Whole>().unwrap().types()[0].shapes.len(), 3);
}

#[test]
fn a_query_that_names_one_name_finds_all_names_of_the_kind() {
    let registry = Registry::new().with::<Placed>().unwrap().with::<Shipped>().unwrap();
    let name = |name: &str| EventType::new(name).unwrap();
    let query = Query::types([name("bought"), name("other")]).or(Query::types([name("shipped")]));
    let widened = registry.widen(&query);
    let names = |at: usize| {
        widened.items()[at].types.iter().map(EventType::as_str).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((names(0), names(1)), ("bought placed ordered other".into(), "shipped".into()));
    assert!(registry.widen(&Query::all()).is_all());
}

/// A log with one event for each name, version and payload.
fn log<'a>(events: impl IntoIterator<Item = (&'a str, u16, &'a str)>) -> MemoryLog {
    let log = MemoryLog::new();
    for (name, version, payload) in events {
        let stream = StreamId::new("order-1").unwrap();
        let mut event: NewEvent = encode_event(stream, &Shipped(1)).unwrap();
        event.event_type = EventType::new(name).unwrap();
        event.schema_version = SchemaVersion::new(version);
        event.payload = payload.to_owned().into();
        block_on(log.append(Append::new([event]))).unwrap();
    }
    log
}

fn registry() -> Registry {
    Registry::new().with::<Placed>().unwrap().with::<Shipped>().unwrap()
}

fn names(types: &[EventType]) -> Vec<&str> {
    types.iter().map(EventType::as_str).collect()
}

#[test]
fn a_log_that_is_read_whole_is_reported_with_what_is_known_ignored_and_unused() {
    let log = log([
        ("placed", 3, "1"),
        ("ordered", 2, "2"),
        ("headwater.timer.fired", 1, "{}"),
        ("legacy.x", 9, "?"),
        ("placed", 2, "3"),
    ]);
    let report = block_on(registry().ignoring("legacy.").check(&log)).unwrap();
    assert_eq!(names(&report.known), ["placed", "ordered"]);
    assert_eq!(names(&report.ignored), ["headwater.timer.fired", "legacy.x"]);
    assert_eq!(report.unused, ["bought", "shipped"]);
    assert_eq!(report.decoded, 3);
}

#[test]
fn each_name_that_no_type_has_is_a_fault_with_its_first_event() {
    let log = log([("placed", 3, "1"), ("lost", 1, "1"), ("lost", 1, "1"), ("gone", 1, "1")]);
    let error = block_on(registry().check(&log)).unwrap_err();
    let CheckError::Unfit(faults) = &error else { panic!("{error}") };
    let unknown = |fault: &LogFault| match fault {
        LogFault::UnknownName { event_type, first } => (event_type.to_string(), first.get()),
        LogFault::Unreadable(error) => panic!("{error}"),
    };
    let faults: Vec<_> = faults.iter().map(unknown).collect();
    assert_eq!(faults, [("lost".into(), 2), ("gone".into(), 4)]);
    let text = error.to_string();
    assert!(text.contains("\n- event type lost, first at position 2"), "{text}");
    assert!(text.contains("formerly = \"lost\"") && text.contains("ignoring(\"lost\")"), "{text}");
}

fn unreadable(error: CheckError) -> Vec<(Position, bool)> {
    let CheckError::Unfit(faults) = error else { panic!("{error}") };
    let one = |fault: &LogFault| match fault {
        LogFault::Unreadable(DecodeError::UnknownSchemaVersion { position, .. }) => {
            (*position, true)
        }
        LogFault::Unreadable(DecodeError::Codec { position, .. }) => (*position, false),
        other => panic!("{other}"),
    };
    faults.iter().map(one).collect()
}

#[test]
fn versions_and_payloads_that_cannot_be_read_are_found_at_both_ends() {
    let at = |position, version| (Position::new(position), version);
    let log = log([
        ("placed", 1, "1"),
        ("placed", 3, "1"),
        ("placed", 4, "1"),
        ("shipped", 1, "1"),
        ("shipped", 1, "no number"),
    ]);
    let error = block_on(registry().check(&log)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("from(1 = ...)") && text.contains("deploy a program"), "{text}");
    assert!(text.contains("cannot be decoded: cannot decode 9 bytes of json: "), "{text}");
    assert_eq!(unreadable(error), [at(1, true), at(3, true), at(5, false)]);
}

#[test]
fn what_lies_between_is_found_where_every_event_is_decoded() {
    let log = log([
        ("shipped", 1, "1"),
        ("legacy", 1, "?"),
        ("shipped", 2, "1"),
        ("shipped", 2, "1"),
        ("shipped", 1, "1"),
    ]);
    let registry = registry().ignoring("legacy");
    assert_eq!(block_on(registry.check(&log)).unwrap().decoded, 2);
    let error = block_on(registry.check_every_event(&log)).unwrap_err();
    assert_eq!(unreadable(error), [(Position::new(3), true)]);
    assert_eq!(block_on(registry.check_every_event(&MemoryLog::new())).unwrap().decoded, 0);
}
