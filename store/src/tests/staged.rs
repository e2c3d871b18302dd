//! Conditions on what waits in the same group.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Wake, Waker};

use headwater_core::{
    AppendError, Category, Condition, Conflict, Durability, Effect, EventLog, ExpectedRevision,
    ReadError, Revision, Tag, Visibility,
};

use super::*;
use crate::fs::faulty::Op;
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
        let mut request = Request::new(append, 1024 * 1024).unwrap();
        let answer = request.ask();
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
    let (requests, answers): (Vec<_>, Vec<_>) = (0..2)
        .map(|_| {
            let mut request = Request::new(second(), 64 * 1024).unwrap();
            let answer = request.ask();
            (request, answer)
        })
        .unzip();
    store.writer().write_together(requests);
    let won = answers.into_iter().map(|mut answer| answer.try_recv().unwrap().answer.is_ok());
    assert_eq!(won.collect::<Vec<_>>(), [true, false]);
    assert_eq!(all(&store).len(), 2);
}

/// Notes how far readers saw when an answer came.
struct Sight {
    store: Store,
    head: Mutex<Option<Position>>,
}

impl Wake for Sight {
    fn wake(self: Arc<Self>) {
        let head = pollster::block_on(self.store.head(Visibility::Committed)).unwrap();
        *self.head.lock().unwrap() = Some(head);
    }
}

#[test]
fn who_lost_to_a_staged_event_is_told_when_it_can_be_seen() {
    let dir = tempfile::tempdir().unwrap();
    let fs = FaultyFs::default();
    let store = open(&fs, &dir.path().join("s"), small()).unwrap();
    let stream = StreamId::new("a-1").unwrap();
    for fails in [false, true] {
        let revision = pollster::block_on(store.stream_revision(&stream)).unwrap();
        let expected = ExpectedRevision::Exact(revision);
        let sight = Arc::new(Sight { store: store.clone(), head: Mutex::default() });
        let waker = Waker::from(Arc::clone(&sight));
        let (requests, mut answers): (Vec<_>, Vec<_>) = (0..2)
            .map(|_| {
                let append = append("a-1", "x").expecting(stream.clone(), expected);
                let mut request = Request::new(append, 64 * 1024).unwrap();
                let answer = request.ask();
                (request, answer)
            })
            .unzip();
        assert!(Pin::new(&mut answers[1]).poll(&mut Context::from_waker(&waker)).is_pending());
        if fails {
            fs.fail(0, 5, 1, Some(Op::Sync));
        }
        store.writer().write_together(requests);
        let lost = answers[1].try_recv().unwrap().answer.unwrap_err();
        let won = answers[0].try_recv().unwrap().answer;
        if fails {
            assert!(matches!(won, Err(AppendError::Indeterminate(_))), "{won:?}");
            // What it lost to will perhaps never be.
            assert!(matches!(lost, AppendError::Poisoned(_)), "{lost}");
            assert_eq!(lost.effect(), Effect::None);
        } else {
            assert!(matches!(lost, AppendError::Conflict(_)), "{lost}");
            assert_eq!(*sight.head.lock().unwrap(), Some(won.unwrap().last));
        }
    }
}

#[test]
fn an_append_whose_stream_cannot_be_looked_up_leaves_the_group_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let options = Options { durability: Durability::Os, ..small() };
    let store = open(&FaultyFs::default(), &path, options.clone()).unwrap();
    store.append_blocking(append("lost-1", "its only event")).unwrap();
    for _ in 0..20 {
        store.append_blocking(append("full-1", &"x".repeat(10_000))).unwrap();
    }
    store.close().unwrap();
    let first = path.join("log/00000000000000000001-00000001.seg");
    let mut bytes = std::fs::read(&first).unwrap();
    let at = bytes.windows(14).position(|window| window == b"its only event").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&first, bytes).unwrap();

    let store = open(&FaultyFs::default(), &path, options).unwrap();
    let several = |names: &[&str]| {
        Append::new(names.iter().map(|name| append(name, "staged").events.remove(0)))
    };
    let batches = [
        several(&["a-1", "a-1", "b-1"]),
        several(&["a-1", "c-1", "lost-1", "b-1"]),
        several(&["c-1", "b-1", "a-1"]),
    ];
    let mut answers = Vec::new();
    let requests = batches.map(|batch| {
        let mut request = Request::new(batch, 64 * 1024).unwrap();
        answers.push(request.ask());
        request
    });
    store.writer().write_together(requests.into());
    let answers: Vec<_> =
        answers.iter_mut().map(|answer| answer.try_recv().unwrap().answer).collect();
    assert!(matches!(answers[1], Err(AppendError::Check(_))), "{:?}", answers[1]);
    let last = |at: usize| answers[at].as_ref().unwrap().last;
    assert_eq!((last(0), last(2)), (Position::new(24), Position::new(27)));
    let read = Read::forward(Query::all(), Position::new(21));
    let page = store.read_blocking(&read).unwrap();
    let found: Vec<_> =
        page.events.iter().map(|event| (event.stream.as_str(), event.revision.get())).collect();
    let expected = [("a-1", 1), ("a-1", 2), ("b-1", 1), ("c-1", 1), ("b-1", 2), ("a-1", 3)];
    assert_eq!(found, expected);
    let mut scan = store.scan(Position::new(21)).unwrap();
    let mut links = Vec::new();
    while let Some(event) = scan.next() {
        links.push(event.unwrap().previous().get());
    }
    assert_eq!(links, [0, 22, 0, 0, 24, 23]);
}
