use pollster::block_on;

use super::*;
use crate::codec::CodecId;
use crate::condition::ExpectedRevision;
use crate::group::{SlotCommit, SlotProgress, SlotRange};
use crate::name::{EventType, Tag};

fn event(stream: &str, tags: &[&str]) -> NewEvent {
    let stream = StreamId::new(stream).unwrap();
    let mut event = NewEvent::new(stream, EventType::new("t").unwrap(), CodecId::RAW, "x");
    event.tags = tags.iter().map(|tag| Tag::new(tag).unwrap()).collect();
    event
}

fn append(log: &MemoryLog, append: Append) -> Result<Appended, AppendError> {
    block_on(log.append(append))
}

fn positions(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event.position.get()).collect()
}

#[test]
fn positions_and_revisions_are_dense_from_one() {
    let log = MemoryLog::new();
    let done = append(&log, Append::new([event("a-1", &[]), event("b-1", &[]), event("a-1", &[])]));
    let expected = Appended { first: Position::FIRST, last: Position::new(3), deduplicated: false };
    assert_eq!(done.unwrap(), expected);
    let page = block_on(log.read(Read::forward(Query::all(), Position::START))).unwrap();
    let numbers: Vec<_> =
        page.events.iter().map(|e| (e.position.get(), e.revision.get())).collect();
    assert_eq!(numbers, [(1, 1), (2, 1), (3, 2)]);
}

#[test]
fn a_refused_append_burns_no_number() {
    let log = MemoryLog::new();
    let stream = StreamId::new("a-1").unwrap();
    let first = || Append::new([event("a-1", &[])]);
    append(&log, first().expecting(stream.clone(), ExpectedRevision::NoStream)).unwrap();
    let error = append(&log, first().expecting(stream, ExpectedRevision::NoStream)).unwrap_err();
    assert!(
        matches!(error.as_conflict(), Some(Conflict::Stream { actual, last, .. })
            if actual.get() == 1 && last.get() == 1),
        "{error}"
    );
    assert_eq!(append(&log, first()).unwrap().first, Position::new(2));
}

#[test]
fn a_query_condition_looks_only_after_its_position() {
    let log = MemoryLog::new();
    append(&log, Append::new([event("a-1", &["x"])])).unwrap();
    let query = Query::tags([Tag::new("x").unwrap()]);
    let under = |after| {
        let condition = Condition::no_events(query.clone(), Position::new(after));
        append(&log, Append::new([event("b-1", &[])]).under(condition))
    };
    let error = under(0).unwrap_err();
    let found = Conflict::Query { index: 0, after: Position::START, found: Position::FIRST };
    assert_eq!(error.as_conflict(), Some(&found));
    assert!(under(1).is_ok());
}

#[test]
fn a_repeated_append_id_returns_the_first_result() {
    let log = MemoryLog::new();
    let id = AppendId::generate();
    let first = append(&log, Append::new([event("a-1", &[])]).with_id(id)).unwrap();
    let again = append(&log, Append::new([event("a-1", &[])]).with_id(id)).unwrap();
    assert_eq!(again, Appended { deduplicated: true, ..first });
    assert_eq!(block_on(log.find_append(id)).unwrap(), Some(again));
    let error = append(&log, Append::new([event("b-1", &[])]).with_id(id)).unwrap_err();
    assert!(matches!(error, AppendError::AppendIdReused { .. }), "{error}");
}

#[test]
fn pages_join_to_the_whole_in_both_directions() {
    let log = MemoryLog::new();
    for n in 0..10 {
        append(&log, Append::new([event("a-1", if n % 3 == 0 { &["x"] } else { &[] })])).unwrap();
    }
    let query = Query::tags([Tag::new("x").unwrap()]);
    let (mut after, mut found) = (Position::START, Vec::new());
    loop {
        let page = block_on(log.read(Read::forward(query.clone(), after).limit(1))).unwrap();
        found.extend(positions(&page));
        after = page.scanned;
        if page.done {
            break;
        }
    }
    assert_eq!((found, after), (vec![1, 4, 7, 10], Position::new(10)));
    let page = block_on(log.read(Read::backward(query, Position::MAX).limit(2))).unwrap();
    assert_eq!((positions(&page), page.done), (vec![10, 7], false));
}

#[test]
fn reading_beyond_the_head_is_an_error() {
    let log = MemoryLog::new();
    append(&log, Append::new([event("a-1", &[])])).unwrap();
    let read = |direction| {
        block_on(log.read(Read { direction, ..Read::forward(Query::all(), Position::START) }))
    };
    assert!(read(Direction::After(Position::FIRST)).unwrap().events.is_empty());
    for direction in [Direction::After(Position::new(2)), Direction::Before(Position::new(3))] {
        let error = read(direction).unwrap_err();
        assert!(matches!(error, ReadError::BeyondHead { .. }), "{error}");
    }
}

#[test]
fn a_subscription_goes_from_history_to_live_without_a_gap() {
    let log = MemoryLog::new();
    append(&log, Append::new([event("a-1", &[])])).unwrap();
    let mut subscription = log.subscribe(Query::all(), Position::START);
    assert_eq!(block_on(subscription.next()).unwrap().position, Position::new(1));
    let live = log.clone();
    let writer = std::thread::spawn(move || append(&live, Append::new([event("a-1", &[])])));
    assert_eq!(block_on(subscription.next()).unwrap().position, Position::new(2));
    assert!(writer.join().unwrap().is_ok());
}

#[test]
fn opening_a_group_with_another_selection_shows_the_difference() {
    let log = MemoryLog::new();
    let name = GroupName::new("billing").unwrap();
    block_on(log.open_group(NewGroup::consumer(name.clone()))).unwrap();
    let other = Query::tags([Tag::new("x").unwrap()]);
    let error =
        block_on(log.open_group(NewGroup::consumer(name.clone()).select(other))).unwrap_err();
    assert!(error.to_string().contains(r#"{"tags":["x"]}"#), "{error}");
    let error = block_on(log.seek_group(&name, Position::new(1))).unwrap_err();
    assert!(matches!(error, GroupError::OutsideLog { .. }), "{error}");
}

#[test]
fn a_commit_that_no_log_can_have_is_refused_and_changes_nothing() {
    let log = MemoryLog::new();
    append(&log, Append::new([event("a-1", &[]), event("a-1", &[])])).unwrap();
    let name = GroupName::new("g").unwrap();
    block_on(log.open_group(NewGroup::consumer(name.clone()))).unwrap();
    let generation = block_on(log.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    let before = block_on(log.groups()).unwrap();
    let commit = |floor, settled| {
        let floor = Position::new(floor);
        let progress = SlotProgress { floor, settled, generation, ..SlotProgress::default() };
        block_on(log.commit_slots(&name, vec![SlotCommit { slots: SlotRange::all(), progress }]))
    };
    let [one, two, three] = [1, 2, 3].map(Position::new);
    let error = commit(1, vec![(one, two)]).unwrap_err();
    assert!(matches!(error, GroupError::Disordered { .. }), "{error}");
    for error in [commit(3, vec![]).unwrap_err(), commit(0, vec![(two, three)]).unwrap_err()] {
        assert!(matches!(error, GroupError::OutsideLog { .. }), "{error}");
    }
    assert_eq!(block_on(log.groups()).unwrap(), before);
    commit(0, vec![(two, two)]).unwrap();
}

#[test]
fn a_group_that_is_created_anew_fences_the_owners_of_the_old_one() {
    let log = MemoryLog::new();
    let name = GroupName::new("g").unwrap();
    let create = || {
        block_on(log.open_group(NewGroup::consumer(name.clone()))).unwrap();
        block_on(log.claim_slots(&name, vec![SlotRange::all()])).unwrap()
    };
    let old = create();
    block_on(log.delete_group(&name)).unwrap();
    assert!(create() > old);
}
