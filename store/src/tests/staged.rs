//! Conditions on what waits in the same group.

use headwater_core::{
    Category, Condition, Conflict, Durability, ExpectedRevision, ReadError, Revision, Tag,
};

use super::*;
use crate::writer::Request;

fn event(n: u64) -> NewEvent {
    let stream = StreamId::new(format!("s{}-{}", n % 2, n % 7)).unwrap();
    let event_type = EventType::new(format!("t{}", n % 3)).unwrap();
    let mut event = NewEvent::new(stream, event_type, CodecId::RAW, n.to_string());
    event.tags = vec![Tag::new(format!("a:{}", n % 5)).unwrap(), Tag::new("all").unwrap()];
    event
}

fn queries() -> Vec<Query> {
    let tag = |name: &str| Tag::new(name).unwrap();
    let stream = |name: &str| StreamId::new(name).unwrap();
    let event_type = |name: &str| EventType::new(name).unwrap();
    vec![
        Query::all(),
        Query::stream(stream("s1-3")),
        Query::stream(stream("s1-9")),
        Query::category(Category::new("s0").unwrap()),
        Query::types([event_type("t1")]),
        Query::types([event_type("t9")]),
        Query::tags([tag("a:4"), tag("all")]),
        Query::tags([tag("all")]).and_types([event_type("t2")]),
        Query::tags([tag("a:9")]).or(Query::stream(stream("s0-2"))),
    ]
}

#[test]
fn a_condition_sees_everything_that_is_staged_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let options =
        Options { durability: Durability::Os, segment_bytes: 1024 * 1024, ..Options::default() };
    let store = open(&fs, &dir.path().join("s"), options).unwrap();
    let mut log: Vec<NewEvent> = (0..10).map(event).collect();
    store.append_blocking(Append::new(log.clone())).unwrap();
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    let mut add = |append: Append, found: Option<Position>| {
        let (request, answer) = Request::new(append, 1024 * 1024).unwrap();
        requests.push(request);
        expected.push((answer, found));
    };
    for n in 10..60 {
        // What nobody asks for goes in without a condition.
        add(Append::new([event(n)]), None);
        log.push(event(n));
        for query in queries() {
            for after in [0, 9, 10, 11, n / 2, n - 1, n + 1, n + 100] {
                let after = Position::new(after);
                let latest = log.iter().rposition(|event| query.matches(event));
                let latest = latest.map(|at| Position::new(at as u64 + 1));
                let found = latest.filter(|&latest| latest > after);
                let mut other = event(n);
                other.stream = StreamId::new("other-1").unwrap();
                if found.is_none() {
                    log.push(other.clone());
                }
                let condition = Condition::no_events(query.clone(), after);
                add(Append::new([other]).under(condition), found);
            }
        }
    }
    let head = u64::try_from(log.len()).unwrap();
    store.writer().write_together(requests);
    for (mut answer, found) in expected {
        let answer = answer.try_recv().unwrap().answer;
        match found {
            None => drop(answer.unwrap()),
            Some(position) => match answer.unwrap_err().as_conflict() {
                Some(&Conflict::Query { found, .. }) => assert_eq!(found, position),
                other => panic!("{other:?}"),
            },
        }
    }
    let events = all(&store);
    assert_eq!(events.len() as u64, head);
    let beyond = Read::forward(Query::all(), Position::new(head + 1));
    assert!(matches!(store.read_blocking(&beyond), Err(ReadError::BeyondHead { .. })));
}

#[test]
fn an_expected_revision_sees_what_is_staged_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&FaultyFs::default(), &dir.path().join("s"), small()).unwrap();
    store.append_blocking(append("a-1", "first")).unwrap();
    let stream = StreamId::new("a-1").unwrap();
    let second = || {
        let expected = ExpectedRevision::Exact(Revision::FIRST);
        append("a-1", "second").expecting(stream.clone(), expected)
    };
    let (requests, answers): (Vec<_>, Vec<_>) =
        (0..2).map(|_| Request::new(second(), 64 * 1024).unwrap()).unzip();
    store.writer().write_together(requests);
    let won = answers.into_iter().map(|mut answer| answer.try_recv().unwrap().answer.is_ok());
    assert_eq!(won.collect::<Vec<_>>(), [true, false]);
    assert_eq!(all(&store).len(), 2);
}
