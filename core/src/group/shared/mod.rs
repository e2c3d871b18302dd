//! Groups that several processes run together, each with the same log before it.

mod events;
mod folded;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use self::folded::{Entry, Folded, unwritable};
use super::{
    Generation, GroupChange, GroupDefinition, GroupError, GroupId, GroupLog, GroupState, Journal,
    JournalError, NewGroup, Version, WorkerChange, Workers,
};
use crate::log::{EventLog, Visibility};
use crate::name::GroupName;
use crate::position::Position;

/// After how many entries a journal gets a snapshot.
const SNAPSHOT_ENTRIES: u64 = 1_024;

/// A group that several processes run together, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedGroup {
    /// The moment, by the version of the journal.
    pub version: Version,
    /// Its progress.
    pub state: GroupState,
    /// Who runs it.
    pub workers: Arc<Workers>,
}

/// What processes that run a group together need beside a [`GroupLog`].
#[async_trait]
pub trait WorkerLog: Send + Sync {
    /// Returns a group with its workers.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn shared_group(&self, name: &GroupName) -> Result<SharedGroup, GroupError>;

    /// Changes the workers of a group, or leaves them as they were, and returns what they are then.
    ///
    /// # Errors
    ///
    /// As [`Workers::check`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still have its effect.
    async fn change_workers(
        &self,
        name: &GroupName,
        change: WorkerChange,
    ) -> Result<SharedGroup, GroupError>;

    /// Waits until anything has changed since a version, or a little while.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn changed(&self, after: Version) -> Result<(), GroupError>;
}

/// A log whose groups live in a [`Journal`], so that processes that share both share the work of
/// its groups: the writer's own process, or those that follow its log.
///
/// # Guarantees
///
/// Those of [`GroupLog`], across all processes that share the journal: each change is checked
/// against all that came before it in any of them. Positions are checked against the log as this
/// process sees it.
///
/// The groups here are others than those that the log itself may keep, and its retention does not
/// know them.
///
/// # Complexity
///
/// Each process folds every change of every group of the journal; after 1,024 entries somebody
/// replaces them by a snapshot.
#[derive(Debug)]
pub struct SharedGroups {
    events: Arc<dyn EventLog>,
    journal: Arc<dyn Journal>,
    folded: Mutex<Folded>,
}

impl SharedGroups {
    /// Joins a log and a journal. An empty journal belongs to this log from now on.
    ///
    /// # Errors
    ///
    /// [`GroupError::ForeignJournal`] if it belongs to another log; [`GroupError::Journal`] if it
    /// cannot be read.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have given the journal to the log.
    pub async fn open(
        events: Arc<dyn EventLog>,
        journal: Arc<dyn Journal>,
    ) -> Result<Self, GroupError> {
        let log = events.id();
        let groups = Self { events, journal, folded: Mutex::default() };
        let begin = |folded: &Folded, _| match folded.log {
            None => Ok(Some(Entry::Begin(log))),
            Some(belongs_to) if belongs_to == log => Ok(None),
            Some(belongs_to) => Err(GroupError::ForeignJournal { belongs_to, log }),
        };
        groups.commit(begin, |_| Ok(())).await?;
        Ok(groups)
    }

    /// Returns the events' own log.
    pub fn events(&self) -> &Arc<dyn EventLog> {
        &self.events
    }

    /// Adds the entry that is drawn up from what the journal says and from the head of the log,
    /// again and again until nobody else was faster, and answers with what is there then.
    async fn commit<T>(
        &self,
        draw_up: impl Fn(&Folded, Position) -> Result<Option<Entry>, GroupError> + Send + Sync,
        answer: impl FnOnce(&Folded) -> Result<T, GroupError> + Send,
    ) -> Result<T, GroupError> {
        let mut folded = self.folded.lock().await;
        loop {
            let head = self.events.head(Visibility::Committed).await?;
            let entry = match draw_up(&folded, head) {
                Ok(Some(entry)) => entry,
                other => {
                    // Others may have changed meanwhile what this was drawn up from.
                    if folded.catch_up(&*self.journal).await? {
                        continue;
                    }
                    other?;
                    return answer(&folded);
                }
            };
            let bytes = serde_json::to_vec(&entry).map_err(|error| unwritable(&error))?;
            match self.journal.append(folded.version, bytes.into()).await {
                Ok(_) => {
                    folded.apply(&entry);
                    break;
                }
                Err(JournalError::Moved { .. }) => {
                    folded.catch_up(&*self.journal).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if folded.version.get().is_multiple_of(SNAPSHOT_ENTRIES) {
            // Where that fails, the entries stay until the next one.
            let _ = self.journal.compact(folded.version, folded.write()?).await;
        }
        answer(&folded)
    }

    /// Returns what the journal says now.
    async fn look<T>(
        &self,
        answer: impl FnOnce(&Folded) -> Result<T, GroupError> + Send,
    ) -> Result<T, GroupError> {
        self.commit(|_, _| Ok(None), answer).await
    }
}

#[async_trait]
impl GroupLog for SharedGroups {
    async fn open_group(&self, group: NewGroup) -> Result<GroupState, GroupError> {
        group.shape.check(&group.name)?;
        let start = group.start.resolve(self).await?;
        let name = group.name.clone();
        let open = |folded: &Folded, head| {
            if let Some(known) = folded.groups.get(&group.name) {
                known.state.check_same(&group)?;
                return Ok(None);
            }
            if start > head {
                let group = group.name.clone();
                return Err(GroupError::OutsideLog { group, position: start, head });
            }
            let generation = folded.generation.next();
            let (name, shape) = (group.name.clone(), group.shape.clone());
            let id = GroupId::new(generation.get());
            let definition = GroupDefinition { name, id, shape, start };
            Ok(Some(Entry::Open { definition, generation }))
        };
        self.commit(open, |folded| folded.group(&name).map(|group| group.state.clone())).await
    }

    async fn group(&self, name: &GroupName) -> Result<GroupState, GroupError> {
        self.look(|folded| folded.group(name).map(|group| group.state.clone())).await
    }

    async fn groups(&self) -> Result<Vec<GroupState>, GroupError> {
        let states = |folded: &Folded| folded.groups.values().map(|g| g.state.clone()).collect();
        self.look(|folded| Ok(states(folded))).await
    }

    async fn change_group(
        &self,
        name: &GroupName,
        change: GroupChange,
    ) -> Result<Generation, GroupError> {
        let draw_up = |folded: &Folded, head| {
            folded.group(name)?.state.check(&change, head)?;
            Ok(Some(Entry::Change { group: name.clone(), change: change.clone() }))
        };
        self.commit(draw_up, |folded| folded.group(name).map(|group| group.state.generation)).await
    }

    async fn rename_group(&self, name: &GroupName, to: GroupName) -> Result<(), GroupError> {
        let draw_up = |folded: &Folded, _| {
            folded.group(name)?;
            if folded.groups.contains_key(&to) {
                return Err(GroupError::NameTaken(to.clone()));
            }
            Ok(Some(Entry::Rename { group: name.clone(), to: to.clone() }))
        };
        self.commit(draw_up, |_| Ok(())).await
    }

    async fn delete_group(&self, name: &GroupName) -> Result<(), GroupError> {
        let draw_up = |folded: &Folded, _| {
            folded.group(name)?;
            Ok(Some(Entry::Delete(name.clone())))
        };
        self.commit(draw_up, |_| Ok(())).await
    }

    fn workers(&self) -> Option<&dyn WorkerLog> {
        Some(self)
    }
}

#[async_trait]
impl WorkerLog for SharedGroups {
    async fn shared_group(&self, name: &GroupName) -> Result<SharedGroup, GroupError> {
        self.look(|folded| folded.group(name).cloned()).await
    }

    async fn change_workers(
        &self,
        name: &GroupName,
        change: WorkerChange,
    ) -> Result<SharedGroup, GroupError> {
        let draw_up = |folded: &Folded, _| {
            folded.group(name)?.workers.check(name, &change)?;
            Ok(Some(Entry::Workers { group: name.clone(), change: change.clone() }))
        };
        self.commit(draw_up, |folded| folded.group(name).cloned()).await
    }

    async fn changed(&self, after: Version) -> Result<(), GroupError> {
        Ok(self.journal.changed(after).await?)
    }
}

#[cfg(test)]
mod tests;
