//! A user name belongs to one account at a time, whichever stream the account is; who changes the
//! name gives the old one back.

use std::collections::HashMap;

use headwater::{Decision, Event, InvalidName, Query, StreamId, Tag, View};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Outcome, Report, history, holds, open, race};

#[derive(Debug, Event, Serialize, Deserialize)]
enum NameEvent {
    #[event(name = "name.taken")]
    Taken {
        #[event(tag = "name:{}")]
        name: String,
        account: u32,
    },
    #[event(name = "name.given-back")]
    GivenBack {
        #[event(tag = "name:{}")]
        name: String,
    },
}

struct Owner {
    name: String,
    account: Option<u32>,
}

impl View for Owner {
    type Event = NameEvent;

    fn query(&self) -> Result<Query, InvalidName> {
        Ok(Query::tags([Tag::new(format!("name:{}", self.name))?]))
    }

    fn apply(&mut self, event: &NameEvent) {
        self.account = match event {
            NameEvent::Taken { account, .. } => Some(*account),
            NameEvent::GivenBack { .. } => None,
        };
    }
}

/// Takes a name, and gives the one before it back in the same append.
struct Take {
    account: u32,
    name: String,
    before: Option<String>,
}

#[derive(Debug, Error)]
enum Refused {
    #[error("the name {name} belongs to account {account}")]
    Taken { name: String, account: u32 },
    #[error("the name {0} is not this account's to give back")]
    NotYours(String),
}

impl Decision for Take {
    type Views = (Owner, Owner);
    type Event = NameEvent;
    type Error = Refused;

    fn views(&self) -> (Owner, Owner) {
        let owner = |name: &String| Owner { name: name.clone(), account: None };
        (owner(&self.name), owner(self.before.as_ref().unwrap_or(&self.name)))
    }

    fn decide(&self, (wanted, before): &(Owner, Owner)) -> Result<Vec<NameEvent>, Refused> {
        let (account, name) = (self.account, self.name.clone());
        if let Some(account) = wanted.account {
            return Err(Refused::Taken { name, account });
        }
        let mut events = Vec::new();
        if let Some(name) = &self.before {
            if before.account != Some(account) {
                return Err(Refused::NotYours(name.clone()));
            }
            events.push(NameEvent::GivenBack { name: name.clone() });
        }
        events.push(NameEvent::Taken { name, account });
        Ok(events)
    }

    fn stream(&self, _: &NameEvent) -> Result<StreamId, InvalidName> {
        StreamId::new(format!("account-{}", self.account))
    }
}

pub(crate) async fn story() -> Outcome<Report> {
    const RULE: &str = "a name has one owner, also while names change hands";
    let (_dir, store) = open()?;
    let take = |account, name, before: Option<&str>| Take {
        account,
        name: format!("name-{name}"),
        before: before.map(str::to_owned),
    };
    // Six names for thirty accounts; then as many want other names in the place of theirs.
    let mut report =
        race(RULE, &store, (0..30).map(|account| take(account, account % 6, None))).await?;
    let owners = owners(history(&store).await?)?;
    let others = (0..30).map(|number| {
        let name = format!("name-{}", number % 6);
        take(owners[&name], 6 + number / 5, Some(&name))
    });
    let second = race(RULE, &store, others).await?;
    report.tried += second.tried;
    report.done += second.done;
    report.again += second.again;
    let owners = self::owners(history(&store).await?)?;
    holds(owners.len() == 6, || format!("a name was lost: {owners:?}"))?;
    Ok(report)
}

/// Follows who has which name, and fails where somebody takes what is another's.
fn owners(history: Vec<NameEvent>) -> Outcome<HashMap<String, u32>> {
    let mut owners = HashMap::new();
    for event in history {
        match event {
            NameEvent::Taken { name, account } => {
                let other = owners.insert(name.clone(), account);
                holds(other.is_none(), || {
                    format!("{name} was {other:?}'s when {account} took it")
                })?;
            }
            NameEvent::GivenBack { name } => drop(owners.remove(&name)),
        }
    }
    Ok(owners)
}
