//! Snapshots in memory: the ones that were used last, as many as fit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::store::{SnapshotKey, SnapshotStore, SnapshotStoreError};

/// Keeps snapshots in memory, up to so many bytes; the one that was not used for the longest time goes
/// first. Clones share them; they are gone with the last one.
#[derive(Clone)]
pub struct MemorySnapshots {
    bytes_max: usize,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    entries: HashMap<SnapshotKey, Entry>,
    /// Keys by when they were used.
    order: BTreeMap<u64, SnapshotKey>,
    /// Counts uses.
    now: u64,
    bytes: usize,
}

struct Entry {
    snapshot: Bytes,
    used: u64,
}

impl MemorySnapshots {
    /// What a snapshot counts for beside its bytes.
    const ENTRY_BYTES: usize = 160;

    /// Keeps `bytes_max` bytes at most, in which each snapshot counts for 160 more than it has. One that
    /// would not fit alone is not kept.
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, kept: Arc::default() }
    }

    /// Returns how many snapshots there are.
    pub fn count(&self) -> usize {
        self.kept().entries.len()
    }

    /// Returns what they count for.
    pub fn bytes(&self) -> usize {
        self.kept().bytes
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing in here panics half way through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemorySnapshots {
    /// 64 MiB.
    fn default() -> Self {
        Self::new(64 * 1024 * 1024)
    }
}

impl fmt::Debug for MemorySnapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySnapshots")
            .field("bytes_max", &self.bytes_max)
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

fn size(snapshot: &Bytes) -> usize {
    snapshot.len() + MemorySnapshots::ENTRY_BYTES
}

impl Kept {
    fn get(&mut self, key: SnapshotKey) -> Option<Bytes> {
        let entry = self.entries.get_mut(&key)?;
        self.order.remove(&entry.used);
        self.now += 1;
        entry.used = self.now;
        self.order.insert(self.now, key);
        Some(entry.snapshot.clone())
    }

    fn remove(&mut self, key: SnapshotKey) {
        if let Some(entry) = self.entries.remove(&key) {
            self.order.remove(&entry.used);
            self.bytes -= size(&entry.snapshot);
        }
    }

    fn insert(&mut self, key: SnapshotKey, snapshot: Bytes, bytes_max: usize) {
        self.remove(key);
        let size = size(&snapshot);
        if size > bytes_max {
            return;
        }
        while self.bytes + size > bytes_max
            && let Some((_, &oldest)) = self.order.first_key_value()
        {
            self.remove(oldest);
        }
        self.now += 1;
        self.order.insert(self.now, key);
        self.entries.insert(key, Entry { snapshot, used: self.now });
        self.bytes += size;
    }
}

#[async_trait]
impl SnapshotStore for MemorySnapshots {
    async fn load(&self, key: SnapshotKey) -> Result<Option<Bytes>, SnapshotStoreError> {
        Ok(self.kept().get(key))
    }

    async fn save(&self, key: SnapshotKey, snapshot: Bytes) -> Result<(), SnapshotStoreError> {
        self.kept().insert(key, snapshot, self.bytes_max);
        Ok(())
    }

    async fn clear(&self) -> Result<(), SnapshotStoreError> {
        let now = self.kept().now;
        *self.kept() = Kept { now, ..Kept::default() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;

    fn key(n: u8) -> SnapshotKey {
        SnapshotKey::from_bytes([n; 16])
    }

    fn save(store: &MemorySnapshots, n: u8, length: usize) {
        block_on(store.save(key(n), vec![n; length].into())).unwrap();
    }

    fn has(store: &MemorySnapshots, n: u8) -> bool {
        block_on(store.load(key(n))).unwrap().is_some()
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first() {
        let store = MemorySnapshots::new(3 * 200);
        (1..=3).for_each(|n| save(&store, n, 40));
        assert!(has(&store, 1));
        save(&store, 4, 40);
        assert_eq!([1, 2, 3, 4].map(|n| has(&store, n)), [true, false, true, true]);
        save(&store, 5, 240);
        assert_eq!([1, 3, 4, 5].map(|n| has(&store, n)), [false, false, true, true]);
        assert_eq!((store.count(), store.bytes()), (2, 200 + 400));
    }

    #[test]
    fn the_bound_in_bytes_holds_whatever_is_kept() {
        let store = MemorySnapshots::new(10_000);
        for n in 0..1_000_usize {
            let length = n * 37 % 5_000;
            save(&store, u8::try_from(n % 50).unwrap(), length);
            let kept = store.kept();
            let sum: usize = kept.entries.values().map(|entry| size(&entry.snapshot)).sum();
            assert!(sum == kept.bytes && sum <= 10_000, "{sum}, {} after {n}", kept.bytes);
            assert_eq!(kept.order.len(), kept.entries.len());
        }
    }

    #[test]
    fn a_snapshot_replaces_the_one_before_and_one_that_cannot_fit_is_not_kept() {
        let store = MemorySnapshots::new(400);
        save(&store, 1, 40);
        save(&store, 1, 50);
        assert_eq!(block_on(store.load(key(1))).unwrap().unwrap().len(), 50);
        assert_eq!(store.bytes(), 210);
        save(&store, 2, 241);
        assert!(has(&store, 1) && !has(&store, 2));
        block_on(store.clear()).unwrap();
        assert_eq!((store.count(), store.bytes(), has(&store, 1)), (0, 0, false));
    }
}
