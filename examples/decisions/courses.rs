//! A course has so many seats, and a student takes so many courses: one rule on each side of the
//! same event.

use std::collections::HashMap;

use headwater::{
    Append, Decision, Event, EventLog, InvalidName, Query, StreamId, Tag, View, encode_event,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Outcome, Report, history, holds, open, race};

const COURSES_MAX: u32 = 3;

#[derive(Debug, Event, Serialize, Deserialize)]
enum CourseEvent {
    #[event(name = "course.opened")]
    Opened {
        #[event(tag = "course:{}")]
        course: u32,
        seats: u32,
    },
    #[event(name = "course.joined")]
    Joined {
        #[event(tag = "course:{}")]
        course: u32,
        #[event(tag = "student:{}")]
        student: u32,
    },
}

/// How many seats of a course are free.
struct Seats {
    course: u32,
    free: u32,
}

impl View for Seats {
    type Event = CourseEvent;

    fn query(&self) -> Result<Query, InvalidName> {
        Ok(Query::tags([Tag::new(format!("course:{}", self.course))?]))
    }

    fn apply(&mut self, event: &CourseEvent) {
        match event {
            CourseEvent::Opened { seats, .. } => self.free = *seats,
            CourseEvent::Joined { .. } => self.free -= 1,
        }
    }
}

/// How many courses a student has.
struct Load {
    student: u32,
    courses: u32,
}

impl View for Load {
    type Event = CourseEvent;

    fn query(&self) -> Result<Query, InvalidName> {
        Ok(Query::tags([Tag::new(format!("student:{}", self.student))?]))
    }

    fn apply(&mut self, event: &CourseEvent) {
        self.courses += u32::from(matches!(event, CourseEvent::Joined { .. }));
    }
}

struct Join {
    course: u32,
    student: u32,
}

#[derive(Debug, Error)]
enum Refused {
    #[error("course {0} has no seat left")]
    Full(u32),
    #[error("student {0} has {COURSES_MAX} courses")]
    Busy(u32),
}

impl Decision for Join {
    type Views = (Seats, Load);
    type Event = CourseEvent;
    type Error = Refused;

    fn views(&self) -> (Seats, Load) {
        let Self { course, student } = *self;
        (Seats { course, free: 0 }, Load { student, courses: 0 })
    }

    fn decide(&self, (seats, load): &(Seats, Load)) -> Result<Vec<CourseEvent>, Refused> {
        let Self { course, student } = *self;
        if seats.free == 0 {
            return Err(Refused::Full(course));
        }
        if load.courses == COURSES_MAX {
            return Err(Refused::Busy(student));
        }
        Ok(vec![CourseEvent::Joined { course, student }])
    }

    fn stream(&self, _: &CourseEvent) -> Result<StreamId, InvalidName> {
        StreamId::new(format!("course-{}", self.course))
    }
}

pub(crate) async fn story() -> Outcome<Report> {
    const RULE: &str = "seats of a course, courses of a student";
    let (_dir, store) = open()?;
    for course in 0..6 {
        // The last two are for everybody.
        let seats = if course < 4 { 5 } else { 10 };
        let stream = StreamId::new(format!("course-{course}"))?;
        let opened = encode_event(stream, &CourseEvent::Opened { course, seats })?;
        store.append(Append::new([opened])).await?;
    }
    let everybody = (0..20).flat_map(|student| (0..6).map(move |course| Join { course, student }));
    let report = race(RULE, &store, everybody).await?;

    let (mut taken, mut load) = (HashMap::<u32, i64>::new(), HashMap::<u32, u32>::new());
    for event in history(&store).await? {
        match event {
            CourseEvent::Opened { course, seats } => {
                *taken.entry(course).or_default() -= i64::from(seats);
            }
            CourseEvent::Joined { course, student } => {
                *taken.entry(course).or_default() += 1;
                *load.entry(student).or_default() += 1;
            }
        }
    }
    holds(taken.values().all(|&taken| taken <= 0), || format!("a course is too full: {taken:?}"))?;
    let few = load.values().all(|&courses| courses <= COURSES_MAX);
    holds(few, || format!("a student has too many courses: {load:?}"))?;
    Ok(report)
}
