//! What is done to a store, by chance or in order, and what its answers promise.

use std::path::Path;

use headwater_core::{
    Append, AppendError, AppendId, CodecId, Durability, Effect, EventLog, EventType, GroupError,
    GroupLog, NewEvent, NewGroup, Position, Slot, SlotCommit, SlotProgress, SlotRange, Start, Tag,
    Visibility,
};
use pollster::block_on;

use super::model::{
    Asked, Backup, Model, Told, group_name, head, payload, read_in_pages, stream, tag,
};
use super::{DISK, open};
use crate::fs::sim::{Dice, SimFs};
use crate::handle::Store;
use crate::retention::{Cutoff, Passing};

/// Something to do to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Append {
        events: u64,
        bytes: u64,
        id: bool,
        sync: bool,
    },
    /// Fills a segment and begins the next one.
    Roll,
    /// Sends an append again that has an id.
    Repeat,
    /// Looks at everything, as a reader of durable events does.
    Read,
    Flush,
    /// Commits progress, and tries what an older owner might.
    CommitGroup,
    /// Commits so much that the offsets soon go over to another segment.
    CommitMuch,
    SeekGroup,
    /// Removes half the log, whoever has not read it.
    Remove,
    /// Removes what every group has read.
    RemoveRead,
    Backup,
    Close,
    /// The process dies between two operations.
    Kill,
}

/// What chance chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    Everything,
    /// Only the log itself: what else is done syncs it so often that hardly anything of it is lost.
    Log,
}

pub(super) fn draw(dice: &mut Dice, mix: Mix) -> Work {
    let sides = if mix == Mix::Log { 18 } else { 26 };
    match dice.roll(sides) {
        0..=11 => Work::Append {
            events: 1 + dice.roll(4),
            bytes: [10, 700, 6_000, 3_900][dice.index(4)],
            id: dice.roll(3) == 0,
            sync: dice.roll(4) == 0,
        },
        12 => Work::Flush,
        13 => Work::Roll,
        14 => Work::Repeat,
        15 => Work::Read,
        16 => Work::Kill,
        17 => Work::Close,
        18..=19 => Work::CommitGroup,
        20..=21 => Work::CommitMuch,
        22 => Work::SeekGroup,
        23 => Work::Remove,
        24 => Work::RemoveRead,
        _ => Work::Backup,
    }
}

impl Model {
    /// Does something to the store. Returns whether the store can go on.
    pub(super) fn work(
        &mut self,
        store: &mut Store,
        fs: &SimFs,
        durability: Durability,
        work: Work,
    ) -> bool {
        match work {
            Work::Append { events, bytes, id, sync } => {
                return self.append(store, durability, (events, bytes, id, sync));
            }
            Work::Roll => {
                return (0..5).all(|_| self.append(store, durability, (1, 14_000, false, false)));
            }
            Work::Repeat => return self.repeat(store),
            Work::Read => self.look(store),
            Work::Flush => match store.flush() {
                Ok(durable) => self.durable = self.durable.max(durable),
                Err(_) => return false,
            },
            Work::CommitGroup | Work::CommitMuch | Work::SeekGroup => {
                return self.group(store, durability, work);
            }
            Work::Remove | Work::RemoveRead => return self.remove(store, work),
            Work::Backup => self.back_up(store),
            Work::Close => {
                let closed = store.close().is_ok();
                if closed {
                    self.durable = self.durable.max(head(store, Visibility::Committed));
                }
                match open(fs, durability) {
                    Ok(again) => *store = again,
                    Err(_) => return false,
                }
                // What a failed sync took is gone without a crash.
                if !closed && !fs.is_off() {
                    fs.calmly(|| self.check(store));
                }
            }
            Work::Kill => {
                let promised = (self.durable, self.floors.clone(), self.told_floor);
                self.process_dies(fs);
                fs.stop();
                store.close().unwrap_or_default();
                fs.kill_process();
                let opened = open(fs, durability);
                let is_down = fs.is_off() || fs.has_failed();
                assert!(is_down || opened.is_ok(), "after a kill: {opened:?}");
                if let Ok(again) = opened {
                    *store = again;
                }
                if is_down {
                    // Nobody has seen what the power may take now.
                    (self.durable, self.floors, self.told_floor) = promised;
                    return false;
                }
                fs.calmly(|| self.check(store));
            }
        }
        true
    }

    fn append(
        &mut self,
        store: &Store,
        durability: Durability,
        (events, bytes, id, sync): (u64, u64, bool, bool),
    ) -> bool {
        let n = self.asked.len();
        let payloads: Vec<String> = (0..events).map(|at| payload(n, at, bytes)).collect();
        let id = id.then(|| AppendId::from_name(&n.to_le_bytes()));
        let mut append = request(n, &payloads);
        append.append_id = id;
        append.sync = sync;
        let answer = store.append_blocking(append);
        let told = match &answer {
            Ok(done) => Told::Done(*done),
            Err(error) if error.effect() == Effect::Unknown => Told::Unknown,
            Err(_) => Told::Refused,
        };
        self.asked.push(Asked { n, payloads, id, told });
        match answer {
            Ok(done) => {
                if sync || durability == Durability::Sync {
                    self.durable = self.durable.max(done.last);
                }
                true
            }
            Err(AppendError::StorageFull(_) | AppendError::NoSegment(_)) => true,
            Err(_) => false,
        }
    }

    /// An append that is sent again gets its first result, as long as it is in the log.
    fn repeat(&mut self, store: &Store) -> bool {
        let start = block_on(store.start()).unwrap();
        let there = |asked: &&Asked| match asked.told {
            Told::Done(done) => asked.id.is_some() && done.first > start,
            Told::Unknown | Told::Refused => false,
        };
        let Some(asked) = self.asked.iter().rev().find(there) else { return true };
        let mut append = request(asked.n, &asked.payloads);
        append.append_id = asked.id;
        let Told::Done(first) = asked.told else { return true };
        match store.append_blocking(append) {
            Ok(again) => {
                assert!(again.deduplicated, "{first:?} was appended again as {again:?}");
                assert_eq!((again.first, again.last), (first.first, first.last));
                true
            }
            Err(error) => {
                assert_eq!(error.effect(), Effect::None, "{error}");
                false
            }
        }
    }

    /// What a reader of durable events has seen stays as it was.
    fn look(&mut self, store: &Store) {
        let (start, durable) = (block_on(store.start()).unwrap(), head(store, Visibility::Durable));
        for event in read_in_pages(store, start, Visibility::Durable) {
            let text = String::from_utf8(event.payload.to_vec()).unwrap();
            self.seen.insert(event.position, text);
        }
        self.durable = self.durable.max(durable);
    }

    fn back_up(&mut self, store: &Store) {
        let path = Path::new(DISK).join(format!("backup-{}", self.backups.len()));
        let start = block_on(store.start()).unwrap();
        let events = read_in_pages(store, start, Visibility::Committed);
        let report = store.backup(&path);
        if let Ok(report) = &report {
            let head = events.last().map_or(start, |event| event.position);
            assert_eq!((report.start, report.head), (start, head));
            // So that it is never ahead of its store.
            self.durable = self.durable.max(head);
        }
        self.backups.push(Backup { path, start, events, done: report.is_ok() });
    }

    fn remove(&mut self, store: &Store, work: Work) -> bool {
        let forced = work == Work::Remove;
        let passing = if forced { Passing::Force } else { Passing::Refuse };
        let committed = head(store, Visibility::Committed);
        let upto = if forced { Position::new(committed.get() / 2) } else { committed };
        match store.would_remove(Cutoff::Through(upto), passing) {
            Ok(report) => self.starts.extend(report.removed.map(|gone| gone.through)),
            Err(_) => return false,
        }
        let floor = block_on(store.group(&group_name())).map(|state| state.floor());
        match store.remove(Cutoff::Through(upto), passing) {
            Ok(report) => {
                if let Some(removed) = report.removed {
                    let read = forced || floor.is_ok_and(|floor| removed.through <= floor);
                    assert!(read || block_on(store.groups()).unwrap().is_empty(), "{removed:?}");
                    // What was removed is removed for good.
                    self.starts = vec![removed.through];
                }
                true
            }
            Err(_) => false,
        }
    }

    fn group(&mut self, store: &Store, durability: Durability, work: Work) -> bool {
        let name = group_name();
        let opened = block_on(
            store.open_group(NewGroup::consumer(name.clone()).start(Start::After(Position::START))),
        );
        let Ok(state) = opened else { return false };
        let durable = head(store, Visibility::Durable);
        let to = match work {
            Work::SeekGroup => Position::new(durable.get() / 3),
            Work::CommitMuch => state.floor(),
            _ => durable.max(state.floor()),
        };
        // Whatever becomes of it, it may be there from now on.
        self.floors.push(to);
        if work == Work::SeekGroup {
            let done = block_on(store.seek_group(&name, to)).is_ok();
            return self.committed(done, durability);
        }
        let Ok(generation) = block_on(store.claim_slots(&name, vec![SlotRange::all()])) else {
            return false;
        };
        assert!(generation > self.generation, "{generation} was given before");
        let commit = |slots, settled, generation| SlotCommit {
            slots,
            progress: SlotProgress { floor: to, settled, generation, ..SlotProgress::default() },
        };
        let older =
            commit(SlotRange::all(), vec![], state.slot(Slot::all().next().unwrap()).generation);
        let fenced = block_on(store.commit_slots(&name, vec![older]));
        assert!(
            !matches!(fenced, Ok(())) && !matches!(fenced, Err(GroupError::Backwards { .. })),
            "a commit of an older owner: {fenced:?}"
        );
        let ahead = to.next().next();
        let settled = if ahead <= durable { vec![(ahead, ahead)] } else { Vec::new() };
        let commits = match work {
            Work::CommitMuch => (Slot::all().step_by(2))
                .map(|slot| commit(SlotRange::one(slot), settled.clone(), generation))
                .collect(),
            _ => vec![commit(SlotRange::all(), vec![], generation)],
        };
        let done = block_on(store.commit_slots(&name, commits)).is_ok();
        if done && durability == Durability::Sync {
            self.generation = generation;
        }
        self.committed(done, durability)
    }

    fn committed(&mut self, done: bool, durability: Durability) -> bool {
        if done {
            self.told_floor = self.floors.len() - 1;
            if durability == Durability::Sync {
                self.forget_older_floors();
            }
        }
        done
    }
}

/// An append of these payloads.
fn request(n: usize, payloads: &[String]) -> Append {
    let event = |payload: &String| {
        let event_type = EventType::new("t").unwrap();
        let mut event = NewEvent::new(stream(n), event_type, CodecId::RAW, payload.clone());
        event.tags = vec![Tag::new(tag(n)).unwrap()];
        event
    };
    Append::new(payloads.iter().map(event))
}
