//! What coordination stands on: entries that are added only by who knows all before them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::append::Effect;
use crate::position::number;

number! {
    /// How many entries a journal has had: the number of its last one.
    Version
}

impl Version {
    /// Before the first entry.
    pub const NONE: Self = Self(0);
}

/// What a journal holds behind a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalRead {
    /// What stands for all entries up to a version, if they are gone.
    pub snapshot: Option<(Version, Bytes)>,
    /// The entries behind the version that was asked for, or behind the snapshot.
    pub entries: Vec<Bytes>,
}

/// Why a journal failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Others have added entries behind the expected version. Nothing was changed; read them and
    /// try again.
    #[error("the journal has entries behind version {expected}")]
    Moved {
        /// The expected version.
        expected: Version,
    },
    /// The file or server is busy, full or cannot be reached, and nothing was changed. Mend the
    /// cause and try again.
    #[error("the journal could not be changed or read")]
    Unavailable(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// Whether the entry was added is unknown. Reading tells.
    #[error("whether the journal was changed is unknown")]
    Indeterminate(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// What is stored is no journal, or one of a newer version of this program.
    #[error("the journal cannot be understood: {0}")]
    Damaged(String),
}

impl JournalError {
    /// Returns whether the operation may have happened all the same.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Indeterminate(_) => Effect::Unknown,
            _ => Effect::None,
        }
    }
}

/// A list of entries with compare-and-swap at its end: the one thing that processes which run
/// groups together must share.
///
/// # Guarantees
///
/// Of two entries that are added behind the same version at most one is: the other gets
/// [`JournalError::Moved`]. An entry that was added is as durable as the groups' progress shall be,
/// and seen by every read that begins afterwards, in every process. That is an insert of the next
/// number under a unique key in a database, an expected last sequence in `JetStream`, or a
/// conditional put.
#[async_trait]
pub trait Journal: fmt::Debug + Send + Sync + 'static {
    /// Returns what lies behind a version; nothing, if it is the last.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unavailable`], [`JournalError::Damaged`]. A version that the journal does
    /// not reach is damage: it lost its end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn read(&self, after: Version) -> Result<JournalRead, JournalError>;

    /// Adds an entry, if `expected` is the last version, and returns the new one.
    ///
    /// # Errors
    ///
    /// [`JournalError::Moved`], [`JournalError::Unavailable`] if nothing was changed;
    /// [`JournalError::Indeterminate`].
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still add the entry.
    async fn append(&self, expected: Version, entry: Bytes) -> Result<Version, JournalError>;

    /// Lets `snapshot` stand for the entries up to a version, which may be removed. Where a later
    /// snapshot is there already, nothing happens.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append), without `Moved`.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may still compact.
    async fn compact(&self, through: Version, snapshot: Bytes) -> Result<(), JournalError>;

    /// Waits until there are entries behind a version. It may return before that: the caller looks.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn changed(&self, after: Version) -> Result<(), JournalError>;
}

/// A journal in memory, for tests: what share it are as processes are that share a file. Clones
/// share it; it is gone with the last one.
#[derive(Clone, Debug)]
pub struct MemoryJournal {
    shared: Arc<MemoryShared>,
}

#[derive(Debug)]
struct MemoryShared {
    kept: Mutex<Kept>,
    last: watch::Sender<Version>,
}

#[derive(Debug, Default)]
struct Kept {
    snapshot: Option<(Version, Bytes)>,
    entries: Vec<Bytes>,
}

impl Kept {
    fn base(&self) -> Version {
        self.snapshot.as_ref().map_or(Version::NONE, |(version, _)| *version)
    }

    fn last(&self) -> Version {
        Version::new(self.base().get() + self.entries.len() as u64)
    }
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryJournal {
    /// Makes an empty journal.
    pub fn new() -> Self {
        let last = watch::Sender::new(Version::NONE);
        Self { shared: Arc::new(MemoryShared { kept: Mutex::default(), last }) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics half way through a change.
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn read(&self, after: Version) -> Result<JournalRead, JournalError> {
        let kept = self.kept();
        if after > kept.last() {
            return Err(JournalError::Damaged(format!(
                "it ends at version {}, before {after}",
                kept.last()
            )));
        }
        let snapshot = kept.snapshot.clone().filter(|(version, _)| *version > after);
        let skipped = after.get().saturating_sub(kept.base().get());
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let entries = kept.entries.iter().skip(skipped).cloned().collect();
        Ok(JournalRead { snapshot, entries })
    }

    async fn append(&self, expected: Version, entry: Bytes) -> Result<Version, JournalError> {
        let mut kept = self.kept();
        if kept.last() != expected {
            return Err(JournalError::Moved { expected });
        }
        kept.entries.push(entry);
        self.shared.last.send_replace(kept.last());
        Ok(kept.last())
    }

    async fn compact(&self, through: Version, snapshot: Bytes) -> Result<(), JournalError> {
        let mut kept = self.kept();
        if through <= kept.base() || through > kept.last() {
            return Ok(());
        }
        let gone = usize::try_from(through.get() - kept.base().get()).unwrap_or(usize::MAX);
        kept.entries.drain(..gone);
        kept.snapshot = Some((through, snapshot));
        Ok(())
    }

    async fn changed(&self, after: Version) -> Result<(), JournalError> {
        let mut last = self.shared.last.subscribe();
        // The sender lives as long as this.
        let _ = last.wait_for(|last| *last > after).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;

    #[test]
    fn of_two_entries_behind_one_version_one_is_added() {
        let journal = MemoryJournal::new();
        let add = |expected, text: &'static str| {
            block_on(journal.append(Version::new(expected), Bytes::from_static(text.as_bytes())))
        };
        assert_eq!(add(0, "a").unwrap(), Version::new(1));
        assert!(matches!(add(0, "b"), Err(JournalError::Moved { .. })));
        add(1, "c").unwrap();
        block_on(journal.changed(Version::new(1))).unwrap();
        let read = block_on(journal.read(Version::NONE)).unwrap();
        assert_eq!((read.snapshot, read.entries), (None, vec![Bytes::from("a"), Bytes::from("c")]));
    }

    #[test]
    fn a_snapshot_stands_for_what_came_before() {
        let journal = MemoryJournal::new();
        for number in 0..5 {
            block_on(journal.append(Version::new(number), Bytes::from(number.to_string())))
                .unwrap();
        }
        let three = Version::new(3);
        block_on(journal.compact(three, Bytes::from("up to 3"))).unwrap();
        block_on(journal.compact(Version::new(2), Bytes::from("up to 2"))).unwrap();
        let read = |after| block_on(journal.read(Version::new(after)));
        let rest = vec![Bytes::from("3"), Bytes::from("4")];
        let snapshot = Some((three, Bytes::from("up to 3")));
        assert_eq!(read(1).unwrap(), JournalRead { snapshot, entries: rest.clone() });
        assert_eq!(read(3).unwrap(), JournalRead { snapshot: None, entries: rest });
        assert_eq!(read(5).unwrap(), JournalRead::default());
        assert!(matches!(read(6), Err(JournalError::Damaged(_))));
    }
}
