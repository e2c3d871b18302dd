//! The groups that a journal's entries make.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::SharedGroup;
use crate::group::{
    Generation, GroupChange, GroupDefinition, GroupError, GroupState, Journal, JournalError,
    JournalRead, Parked, SlotProgress, SlotRange, Version, WorkerChange, Workers,
};
use crate::id::LogId;
use crate::name::GroupName;

/// One entry of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// The first: the log that the groups belong to.
    Begin(LogId),
    /// A group is made.
    Open { definition: GroupDefinition, generation: Generation },
    /// A group changes.
    Change { group: GroupName, change: GroupChange },
    /// Its workers change. A claim gives out the next generation too.
    Workers { group: GroupName, change: WorkerChange },
    /// A group gets another name.
    Rename { group: GroupName, to: GroupName },
    /// A group is gone.
    Delete(GroupName),
}

/// Everything that a journal says.
#[derive(Clone, Debug, Default)]
pub(super) struct Folded {
    pub(super) version: Version,
    pub(super) log: Option<LogId>,
    pub(super) groups: BTreeMap<GroupName, SharedGroup>,
    /// The highest generation of any group that ever was.
    pub(super) generation: Generation,
}

impl Folded {
    /// Takes in what was added to a journal. Returns whether that was anything.
    pub(super) async fn catch_up(&mut self, journal: &dyn Journal) -> Result<bool, GroupError> {
        let JournalRead { snapshot, entries } = journal.read(self.version).await?;
        let news = snapshot.is_some() || !entries.is_empty();
        if let Some((version, bytes)) = snapshot {
            *self = Self::read(version, &bytes)?;
        }
        for bytes in entries {
            let entry = serde_json::from_slice(&bytes).map_err(|error| {
                let version = self.version.next();
                JournalError::Damaged(format!("entry {version} cannot be read: {error}"))
            })?;
            self.apply(&entry);
        }
        Ok(news)
    }

    pub(super) fn group(&self, name: &GroupName) -> Result<&SharedGroup, GroupError> {
        self.groups.get(name).ok_or_else(|| GroupError::Unknown(name.clone()))
    }

    /// Takes over an entry that was checked before it was added.
    pub(super) fn apply(&mut self, entry: &Entry) {
        self.version = self.version.next();
        match entry {
            Entry::Begin(log) => self.log = Some(*log),
            Entry::Open { definition, generation } => {
                self.generation = self.generation.max(*generation);
                let state = GroupState::of(definition.clone(), *generation);
                let workers = Arc::default();
                let group = SharedGroup { version: self.version, state, workers };
                self.groups.insert(definition.name.clone(), group);
            }
            Entry::Change { group, change } => {
                if let Some(group) = self.groups.get_mut(group) {
                    let generation = group.state.apply(change);
                    self.generation = self.generation.max(generation);
                }
            }
            Entry::Workers { group, change } => {
                if let Some(group) = self.groups.get_mut(group) {
                    if let WorkerChange::Claim { slots, .. } = change {
                        let generation = group.state.apply(&GroupChange::Claim(slots.clone()));
                        self.generation = self.generation.max(generation);
                    }
                    Arc::make_mut(&mut group.workers).apply(change);
                }
            }
            Entry::Rename { group, to } => {
                if let Some(mut renamed) = self.groups.remove(group) {
                    renamed.state.definition.name = to.clone();
                    self.groups.insert(to.clone(), renamed);
                }
            }
            Entry::Delete(group) => drop(self.groups.remove(group)),
        }
        for group in self.groups.values_mut() {
            group.version = self.version;
        }
    }

    /// Writes everything down, to stand for the entries up to here.
    pub(super) fn write(&self) -> Result<Bytes, GroupError> {
        let groups = self.groups.values().map(WrittenGroup::of).collect();
        let written = Written { log: self.log, generation: self.generation, groups };
        let bytes = serde_json::to_vec(&written).map_err(|error| unwritable(&error))?;
        Ok(bytes.into())
    }

    fn read(version: Version, bytes: &[u8]) -> Result<Self, GroupError> {
        let written: Written = serde_json::from_slice(bytes).map_err(|error| {
            JournalError::Damaged(format!(
                "the snapshot of version {version} cannot be read: {error}"
            ))
        })?;
        let group = |group: WrittenGroup| {
            let group = group.read(version);
            (group.state.definition.name.clone(), group)
        };
        Ok(Self {
            version,
            log: written.log,
            groups: written.groups.into_iter().map(group).collect(),
            generation: written.generation,
        })
    }
}

/// Says that our own entry cannot be written, which no entry should be.
pub(super) fn unwritable(error: &serde_json::Error) -> JournalError {
    JournalError::Damaged(format!("an entry cannot be written: {error}"))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    log: Option<LogId>,
    generation: Generation,
    groups: Vec<WrittenGroup>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGroup {
    definition: GroupDefinition,
    generation: Generation,
    paused: bool,
    slots: Vec<(SlotRange, SlotProgress)>,
    parked: Vec<Parked>,
    workers: Workers,
}

impl WrittenGroup {
    fn of(group: &SharedGroup) -> Self {
        let state = &group.state;
        Self {
            definition: state.definition.clone(),
            generation: state.generation,
            paused: state.paused,
            slots: state.runs().map(|(range, progress)| (range, progress.clone())).collect(),
            parked: state.parked().cloned().collect(),
            workers: Workers::clone(&group.workers),
        }
    }

    fn read(self, version: Version) -> SharedGroup {
        let mut state = GroupState::of(self.definition, self.generation);
        state.restore(self.paused, self.slots, self.parked);
        SharedGroup { version, state, workers: Arc::new(self.workers) }
    }
}
