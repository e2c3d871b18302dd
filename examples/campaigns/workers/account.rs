//! What the members did, held against what was appended and against each other.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;

use headwater::Generation;

use super::effects::{self, Entry, Kind};
use super::{Home, KEYS};

/// What all members together did. It adds up, or there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) effects: u64,
    /// Effects of events that had theirs before.
    pub(super) repeated: u64,
    /// Ownerships under which anything was done.
    pub(super) generations: usize,
    /// How often a key's effects went on under another ownership.
    pub(super) hand_overs: u64,
    pub(super) commits: u64,
    pub(super) lost: u64,
    pub(super) stalled: u64,
}

/// What was done to one key under one ownership.
#[derive(Clone, Debug, Default)]
struct Turn {
    /// The numbers of the events, in the order of their effects.
    effects: Vec<u64>,
    /// The highest number that was committed.
    committed: u64,
}

impl Account {
    /// Reads what every process of every member wrote, and checks it. `appended` says how many
    /// events each key has.
    pub(super) fn draw_up(
        home: &Home,
        lives: &[u32],
        appended: &[u64],
    ) -> Result<Self, Box<dyn Error>> {
        let mut account = Self::default();
        let mut owners: HashMap<Generation, (u32, u32)> = HashMap::new();
        let mut turns: Vec<BTreeMap<Generation, Turn>> = vec![BTreeMap::new(); KEYS as usize];
        for (member, &lives) in (0_u32..).zip(lives) {
            for life in 1..=lives {
                for entry in effects::read(&home.effects(member, life))? {
                    account.count(entry);
                    let Entry { kind: Kind::Effect | Kind::Committed, generation, .. } = entry
                    else {
                        continue;
                    };
                    let owner = *owners.entry(generation).or_insert((member, life));
                    if owner != (member, life) {
                        let and = (member, life);
                        return Err(format!(
                            "generation {generation} has two owners: {owner:?} and {and:?}"
                        )
                        .into());
                    }
                    let turns = turns.get_mut(entry.key as usize).ok_or("a key that is none")?;
                    let turn = turns.entry(generation).or_default();
                    if entry.kind == Kind::Effect {
                        turn.effects.push(entry.number);
                    } else {
                        turn.committed = turn.committed.max(entry.number);
                    }
                }
            }
        }
        account.generations = owners.len();
        for (key, (turns, &appended)) in turns.iter().zip(appended).enumerate() {
            account.follow(turns, appended).map_err(|error| format!("key {key}: {error}"))?;
        }
        Ok(account)
    }

    fn count(&mut self, entry: Entry) {
        match entry.kind {
            Kind::Effect => self.effects += 1,
            Kind::Committed => self.commits += 1,
            Kind::Lost => self.lost += 1,
            Kind::Stalled => self.stalled += 1,
        }
    }

    /// Follows one key through its owners: each goes on where what was committed before ends, in
    /// order, and skips nothing.
    fn follow(&mut self, turns: &BTreeMap<Generation, Turn>, appended: u64) -> Result<(), String> {
        let (mut reached, mut committed) = (0, 0);
        for (generation, turn) in turns {
            let mut last = None;
            for &number in &turn.effects {
                let lowest = last.unwrap_or(committed + 1);
                let highest = last.unwrap_or(reached) + 1;
                if number < lowest || number > highest {
                    return Err(format!(
                        "event {number} had its effect in generation {generation}, where \
                         {lowest} to {highest} could come ({committed} were committed before)"
                    ));
                }
                self.repeated += u64::from(number <= reached);
                reached = reached.max(number);
                last = Some(number);
            }
            if last.is_none_or(|last| turn.committed > last) {
                let committed = turn.committed;
                return Err(format!(
                    "event {committed} was committed in generation {generation} without an effect"
                ));
            }
            self.hand_overs += 1;
            committed = committed.max(turn.committed);
        }
        self.hand_overs = self.hand_overs.saturating_sub(u64::from(!turns.is_empty()));
        if reached != appended {
            return Err(format!("{reached} of {appended} events had their effect"));
        }
        Ok(())
    }
}
