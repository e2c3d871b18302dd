//! Stays overlap in every way, and a room has one guest a night: each night is booked by an event of
//! its own, all of a stay in one append. What is out of the way is not waited for: stays in other
//! rooms or other nights never conflict.

use std::collections::HashMap;
use std::ops::Range;

use headwater::{Decision, Event, InvalidName, Query, StreamId, Tag, View};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Outcome, Report, history, holds, open, race};

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(name = "night.booked", tags("night:{room}-{day}"))]
struct Booked {
    room: u32,
    day: u32,
    guest: u32,
}

/// Which of some nights is taken.
struct Nights {
    room: u32,
    days: Range<u32>,
    taken: Option<u32>,
}

impl View for Nights {
    type Event = Booked;

    fn query(&self) -> Result<Query, InvalidName> {
        let mut nights = self.days.clone().map(|day| {
            let night = Tag::new(format!("night:{}-{day}", self.room))?;
            Ok(Query::tags([night]))
        });
        let first = nights.next().expect("a stay has a night")?;
        nights.try_fold(first, |query, night| Ok(query.or(night?)))
    }

    fn apply(&mut self, event: &Booked) {
        self.taken = Some(event.day);
    }
}

struct Stay {
    guest: u32,
    room: u32,
    days: Range<u32>,
}

#[derive(Debug, Error)]
#[error("room {room} has a guest on day {day}")]
struct Taken {
    room: u32,
    day: u32,
}

impl Decision for Stay {
    type Views = Nights;
    type Event = Booked;
    type Error = Taken;

    fn views(&self) -> Nights {
        Nights { room: self.room, days: self.days.clone(), taken: None }
    }

    fn decide(&self, nights: &Nights) -> Result<Vec<Booked>, Taken> {
        let Self { guest, room, .. } = *self;
        if let Some(day) = nights.taken {
            return Err(Taken { room, day });
        }
        Ok(self.days.clone().map(|day| Booked { room, day, guest }).collect())
    }

    fn stream(&self, _: &Booked) -> Result<StreamId, InvalidName> {
        StreamId::new(format!("stay-{}", self.guest))
    }
}

pub(crate) async fn story() -> Outcome<Report> {
    const RULE: &str = "a room has one guest a night";
    let (_dir, store) = open()?;
    let stays = (0..60).map(|guest| {
        let first = guest * 7 % 20;
        Stay { guest, room: guest % 3, days: first..first + 1 + guest % 5 }
    });
    let report = race(RULE, &store, stays).await?;
    let (mut guests, mut nights) = (HashMap::new(), HashMap::<u32, u32>::new());
    for Booked { room, day, guest } in history(&store).await? {
        let other = guests.insert((room, day), guest);
        holds(other.is_none(), || format!("room {room} has two guests on day {day}"))?;
        *nights.entry(guest).or_default() += 1;
    }
    let whole = nights.iter().all(|(guest, &nights)| nights == 1 + guest % 5);
    holds(whole, || format!("a stay was booked in part: {nights:?}"))?;
    Ok(report)
}
