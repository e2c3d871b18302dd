//! Where snapshots are kept: bytes under keys, which may be gone at any time.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// What a snapshot is kept under: a digest of the log's identity, the name of the fold, and what it
/// folds. The snapshot itself holds all three, and they are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey([u8; 16]);

impl SnapshotKey {
    /// Takes a key from its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotKey({self})")
    }
}

/// What went wrong in a store of snapshots. Nobody who loads or decides is told of it: there is the
/// log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the snapshot store failed; the log is read instead")]
pub struct SnapshotStoreError(#[source] Arc<dyn std::error::Error + Send + Sync>);

impl SnapshotStoreError {
    /// Takes what the engine said.
    pub fn new(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }
}

/// Keeps snapshots, as long as it likes.
///
/// It is a cache, and is not trusted: whatever it returns is checked before it is used, against the
/// fold, the log and a checksum. It may forget anything at any time, return what was there before,
/// lose everything in a crash, and be shared by processes and logs. What it must not do is grow without
/// a bound.
#[async_trait]
pub trait SnapshotStore: fmt::Debug + Send + Sync + 'static {
    /// Returns what is kept under a key.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    async fn load(&self, key: SnapshotKey) -> Result<Option<Bytes>, SnapshotStoreError>;

    /// Keeps a snapshot in the place of what was there.
    ///
    /// The command is done and whoever gave it is waiting, so this should not wait for a device: hand
    /// the snapshot over, or drop it where too many are waiting already.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the snapshot is kept or not.
    async fn save(&self, key: SnapshotKey, snapshot: Bytes) -> Result<(), SnapshotStoreError>;

    /// Forgets all snapshots, also those that were handed over before. When this returns `Ok`, nothing
    /// can be found of them in what the store keeps.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: they are forgotten or not.
    async fn clear(&self) -> Result<(), SnapshotStoreError>;
}
