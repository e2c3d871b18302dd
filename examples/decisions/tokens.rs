//! Who signs up gets a token by mail, which is good for once and for an hour. The time is part of
//! the command: a decision asks no clock.

use std::collections::HashMap;

use headwater::{
    Append, Decision, Event, EventLog, InvalidName, Query, StreamId, Tag, View, encode_event,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Outcome, Report, history, holds, open, race};

const GOOD_FOR_MINUTES: u32 = 60;

#[derive(Debug, Event, Serialize, Deserialize)]
enum SignUp {
    #[event(name = "sign-up.requested")]
    Requested {
        #[event(tag = "token:{}")]
        token: u32,
        minute: u32,
    },
    #[event(name = "sign-up.confirmed")]
    Confirmed {
        #[event(tag = "token:{}")]
        token: u32,
        device: u32,
    },
}

#[derive(Default)]
struct Token {
    number: u32,
    requested: Option<u32>,
    used: bool,
}

impl View for Token {
    type Event = SignUp;

    fn query(&self) -> Result<Query, InvalidName> {
        Ok(Query::tags([Tag::new(format!("token:{}", self.number))?]))
    }

    fn apply(&mut self, event: &SignUp) {
        match event {
            SignUp::Requested { minute, .. } => self.requested = Some(*minute),
            SignUp::Confirmed { .. } => self.used = true,
        }
    }
}

struct Confirm {
    token: u32,
    minute: u32,
    device: u32,
}

#[derive(Debug, Error)]
enum Refused {
    #[error("nobody has token {0}")]
    Unknown(u32),
    #[error("token {0} was used")]
    Used(u32),
    #[error("token {token} is from {age} minutes ago")]
    TooOld { token: u32, age: u32 },
}

impl Decision for Confirm {
    type Views = Token;
    type Event = SignUp;
    type Error = Refused;

    fn views(&self) -> Token {
        Token { number: self.token, ..Token::default() }
    }

    fn decide(&self, found: &Token) -> Result<Vec<SignUp>, Refused> {
        let Self { token, minute, device } = *self;
        let requested = found.requested.ok_or(Refused::Unknown(token))?;
        if found.used {
            return Err(Refused::Used(token));
        }
        let age = minute.saturating_sub(requested);
        if age > GOOD_FOR_MINUTES {
            return Err(Refused::TooOld { token, age });
        }
        Ok(vec![SignUp::Confirmed { token, device }])
    }

    fn stream(&self, _: &SignUp) -> Result<StreamId, InvalidName> {
        StreamId::new(format!("sign_up-{}", self.token))
    }
}

pub(crate) async fn story() -> Outcome<Report> {
    const RULE: &str = "a token is good for once, and for an hour";
    let (_dir, store) = open()?;
    for token in 0..8 {
        let stream = StreamId::new(format!("sign_up-{token}"))?;
        let requested = SignUp::Requested { token, minute: token * 10 };
        store.append(Append::new([encode_event(stream, &requested)?])).await?;
    }
    // Five devices each, at a minute at which three tokens are too old; and one that nobody has.
    let tries =
        (0..9).flat_map(|token| (0..5).map(move |device| Confirm { token, minute: 90, device }));
    let report = race(RULE, &store, tries).await?;
    let mut used = HashMap::<u32, Vec<u32>>::new();
    for event in history(&store).await? {
        if let SignUp::Confirmed { token, device } = event {
            used.entry(token).or_default().push(device);
        }
    }
    let once = used.iter().all(|(token, devices)| (3..8).contains(token) && devices.len() == 1);
    holds(once, || format!("tokens were used by {used:?}"))?;
    Ok(report)
}
