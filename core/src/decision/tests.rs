use pollster::block_on;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::append::{AppendError, Effect};
use crate::codec::{CodecId, Json};
use crate::condition::Conflict;
use crate::id::{AppendId, CorrelationId};
use crate::kind::EventKind;
use crate::memory::MemoryLog;
use crate::name::{EventType, Tag};
use crate::trace::TRACEPARENT;

/// Courses have seats, and students take them and give them back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Happened {
    Opened { course: u8, seats: u8 },
    Joined { course: u8, student: u8 },
    Left { course: u8, student: u8 },
}

impl Event for Happened {
    type Codec = Json;
    const KINDS: &'static [EventKind] =
        &[EventKind::new("opened", 1), EventKind::new("joined", 1), EventKind::new("left", 1)];

    fn kind(&self) -> EventKind {
        match self {
            Self::Opened { .. } => Self::KINDS[0],
            Self::Joined { .. } => Self::KINDS[1],
            Self::Left { .. } => Self::KINDS[2],
        }
    }

    fn tags(&self) -> Result<Vec<Tag>, InvalidName> {
        match self {
            Self::Opened { course, .. } => Ok(vec![tag("course", *course)?]),
            Self::Joined { course, student } | Self::Left { course, student } => {
                Ok(vec![tag("course", *course)?, tag("student", *student)?])
            }
        }
    }
}

fn tag(kind: &str, number: u8) -> Result<Tag, InvalidName> {
    Tag::new(format!("{kind}:{number}"))
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Seats {
    course: u8,
    free: i16,
    /// Whether leaving makes decisions void.
    strict: bool,
}

impl View for Seats {
    type Event = Happened;

    fn query(&self) -> Result<Query, InvalidName> {
        Ok(Query::tags([tag("course", self.course)?]))
    }

    fn apply(&mut self, event: &Happened) {
        match event {
            Happened::Opened { seats, .. } => self.free += i16::from(*seats),
            Happened::Joined { .. } => self.free -= 1,
            Happened::Left { .. } => self.free += 1,
        }
    }

    fn boundary(&self) -> Result<Query, InvalidName> {
        let query = self.query()?;
        // A seat that has become free is no reason to refuse one that was.
        Ok(if self.strict { query } else { query.and_types([EventType::new("joined")?]) })
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Load {
    student: u8,
    courses: i16,
}

impl View for Load {
    type Event = Happened;

    fn query(&self) -> Result<Query, InvalidName> {
        Ok(Query::tags([tag("student", self.student)?]))
    }

    fn apply(&mut self, event: &Happened) {
        match event {
            Happened::Opened { .. } => {}
            Happened::Joined { .. } => self.courses += 1,
            Happened::Left { .. } => self.courses -= 1,
        }
    }
}

#[derive(Clone, Debug)]
struct Join {
    course: u8,
    student: u8,
}

#[derive(Debug, PartialEq, thiserror::Error)]
enum Refused {
    #[error("the course is full")]
    Full,
    #[error("the student has enough to do")]
    Busy,
}

impl Decision for Join {
    type Views = (Seats, Load);
    type Event = Happened;
    type Error = Refused;

    fn views(&self) -> Self::Views {
        let Self { course, student } = *self;
        (Seats { course, strict: true, ..Seats::default() }, Load { student, courses: 0 })
    }

    fn decide(&self, (seats, load): &Self::Views) -> Result<Vec<Happened>, Refused> {
        let Self { course, student } = *self;
        match (seats.free, load.courses) {
            (..=0, _) => Err(Refused::Full),
            (_, 2..) => Err(Refused::Busy),
            _ => Ok(vec![Happened::Joined { course, student }]),
        }
    }

    fn stream(&self, _: &Happened) -> Result<StreamId, InvalidName> {
        StreamId::new(format!("course-{}", self.course))
    }
}

fn add(log: &MemoryLog, event: &Happened) -> Position {
    // Streams play no part: each event is in one of its own.
    let number = block_on(log.head(crate::log::Visibility::Committed)).unwrap().get();
    let stream = StreamId::new(format!("any-{number}")).unwrap();
    let event = encode_event(stream, event).unwrap();
    block_on(log.append(Append::new([event]))).unwrap().last
}

fn run(log: &MemoryLog, course: u8, student: u8) -> Result<u32, ExecuteError<Refused>> {
    let done = block_on(decide(log, &Join { course, student }, &ExecuteOptions::default()))?;
    Ok(done.attempts)
}

#[test]
fn a_decision_knows_what_several_queries_say() {
    let log = MemoryLog::new();
    for course in 1..=3 {
        add(&log, &Happened::Opened { course, seats: 2 });
    }
    assert!(run(&log, 1, 1).is_ok() && run(&log, 2, 1).is_ok());
    assert!(matches!(run(&log, 3, 1), Err(ExecuteError::Rejected(Refused::Busy))));
    assert!(run(&log, 1, 2).is_ok());
    assert!(matches!(run(&log, 1, 3), Err(ExecuteError::Rejected(Refused::Full))));
    add(&log, &Happened::Left { course: 1, student: 1 });
    assert!(run(&log, 1, 3).is_ok() && run(&log, 3, 1).is_ok());
}

#[test]
fn a_conflict_names_the_view_that_no_longer_holds() {
    let log = MemoryLog::new();
    let opened = add(&log, &Happened::Opened { course: 1, seats: 2 });
    let views = Join { course: 1, student: 1 }.views();
    let known = block_on(load_views(&log, views)).unwrap();
    assert_eq!((known.seen(), known.views().0.free), (opened, 2));
    add(&log, &Happened::Joined { course: 2, student: 1 });
    let stream = StreamId::new("course-1").unwrap();
    let joined = encode_event(stream, &Happened::Joined { course: 1, student: 1 }).unwrap();
    let error = block_on(log.append(known.append([joined]))).unwrap_err();
    let AppendError::Conflict(Conflict::Query { index, after, found }) = error else {
        panic!("{error}");
    };
    assert_eq!((index, after, found), (1, opened, opened.next()));
}

#[test]
fn events_that_a_view_does_not_know_are_not_in_the_way() {
    let log = MemoryLog::new();
    add(&log, &Happened::Opened { course: 1, seats: 2 });
    let stream = StreamId::new("course-1").unwrap();
    let foreign = || {
        let renamed = EventType::new("renamed").unwrap();
        let mut event = NewEvent::new(stream.clone(), renamed, CodecId::RAW, "?");
        event.tags = vec![tag("course", 1).unwrap()];
        Append::new([event])
    };
    block_on(log.append(foreign())).unwrap();
    let views = Join { course: 1, student: 1 }.views();
    let known = block_on(load_views(&log, views)).unwrap();
    block_on(log.append(foreign())).unwrap();
    let joined = Happened::Joined { course: 1, student: 1 };
    let joined = encode_event(stream.clone(), &joined).unwrap();
    block_on(log.append(known.append([joined]))).unwrap();
}

#[test]
fn a_repeated_decision_returns_the_first_result() {
    let log = MemoryLog::new();
    add(&log, &Happened::Opened { course: 1, seats: 1 });
    let append_id = Some(AppendId::from_name(b"request 1"));
    let options = ExecuteOptions { append_id, ..ExecuteOptions::default() };
    let join = Join { course: 1, student: 1 };
    let first = block_on(decide(&log, &join, &options)).unwrap().appended.unwrap();
    // Decided anew it would be refused.
    let again = block_on(decide(&log, &join, &options)).unwrap();
    assert_eq!(again.appended, Some(Appended { deduplicated: true, ..first }));
    assert!(again.events.is_empty());
    assert!(matches!(run(&log, 1, 1), Err(ExecuteError::Rejected(Refused::Full))));
}

#[test]
fn what_a_decision_causes_goes_on_with_its_flow_and_its_trace() {
    let log = MemoryLog::new();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut cause =
        encode_event(StreamId::new("course-1").unwrap(), &Happened::Opened { course: 1, seats: 1 })
            .unwrap();
    cause.headers.insert(TRACEPARENT, trace).unwrap();
    block_on(log.append(Append::new([cause]))).unwrap();
    let read = |after| {
        let page = block_on(log.read(Read::forward(Query::all(), Position::new(after)))).unwrap();
        page.events[0].clone()
    };
    let cause = read(0);
    let options = ExecuteOptions::default().caused_by(&cause);
    block_on(decide(&log, &Join { course: 1, student: 1 }, &options)).unwrap();
    let effect = read(1);
    assert_eq!(effect.causation_id, Some(cause.id));
    assert_eq!(effect.correlation_id, Some(CorrelationId::from(cause.id)));
    assert_eq!(effect.headers.get(TRACEPARENT), Some(trace));
    let next = ExecuteOptions::default().caused_by(&effect);
    assert_eq!(next.correlation_id, effect.correlation_id, "a flow goes on");
}

#[test]
fn a_name_that_cannot_be_one_is_refused_before_anything_is_written() {
    #[derive(Debug)]
    struct Nameless;
    impl View for Nameless {
        type Event = Happened;

        fn query(&self) -> Result<Query, InvalidName> {
            Ok(Query::tags([Tag::new("")?]))
        }

        fn apply(&mut self, _: &Happened) {}
    }
    let error = block_on(load_views(&MemoryLog::new(), (Nameless, Load::default()))).unwrap_err();
    assert!(matches!(error, LoadViewsError::Name(_)), "{error}");
    let error: ExecuteError<Refused> = ExecuteError::Name(Tag::new("").unwrap_err());
    assert_eq!(error.effect(), Effect::None);
}

fn happened() -> impl Strategy<Value = Happened> {
    let number = 0..4_u8;
    prop_oneof![
        (number.clone(), 0..4_u8).prop_map(|(course, seats)| Happened::Opened { course, seats }),
        (number.clone(), number.clone())
            .prop_map(|(course, student)| Happened::Joined { course, student }),
        (number.clone(), number).prop_map(|(course, student)| Happened::Left { course, student }),
    ]
}

/// Returns whether an event is among those on which a decision about joining rests.
fn matters(event: &Happened, join: &Join, strict: bool) -> bool {
    match event {
        Happened::Opened { course, .. } => *course == join.course && strict,
        Happened::Joined { course, student } => *course == join.course || *student == join.student,
        Happened::Left { course, student } => {
            (*course == join.course && strict) || *student == join.student
        }
    }
}

proptest! {
    /// Views fold what they select, and an append goes through exactly if nothing that they depend
    /// on has happened since.
    #[test]
    fn an_append_depends_on_exactly_what_was_read(
        before in proptest::collection::vec(happened(), 0..30),
        between in proptest::collection::vec(happened(), 0..4),
        (course, student, strict) in (0..4_u8, 0..4_u8, any::<bool>()),
    ) {
        let log = MemoryLog::new();
        for event in &before {
            add(&log, event);
        }
        let join = Join { course, student };
        let (mut seats, mut load) = join.views();
        seats.strict = strict;
        let known = block_on(load_views(&log, (seats.clone(), load.clone()))).unwrap();
        for event in &before {
            match event {
                Happened::Opened { course: c, .. } if *c == course => seats.apply(event),
                Happened::Joined { course: c, student: s } | Happened::Left { course: c, student: s } => {
                    if *c == course { seats.apply(event) }
                    if *s == student { load.apply(event) }
                }
                Happened::Opened { .. } => {}
            }
        }
        prop_assert_eq!(known.views(), &(seats, load));
        for event in &between {
            add(&log, event);
        }
        let joined = Happened::Joined { course, student };
        let joined = encode_event(StreamId::new("any-x").unwrap(), &joined).unwrap();
        let appended = block_on(log.append(known.append([joined])));
        let stands = !between.iter().any(|event| matters(event, &join, strict));
        prop_assert_eq!(appended.is_ok(), stands);
    }
}
