//! Learning that a writer has done something, from the file system.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use notify::event::EventKind;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::error::OpenError;
use crate::format::segment::LogKind;

/// A watch over a store's log: on Linux an `inotify` watch, elsewhere what the system has.
///
/// Changes that come together are told once. The writer knows nothing of it.
#[derive(Debug)]
pub struct Changes {
    happened: Receiver<()>,
    waker: SyncSender<()>,
    _watcher: RecommendedWatcher,
}

impl Changes {
    pub(crate) fn of(root: &Path) -> Result<Self, OpenError> {
        let (waker, happened) = sync_channel(1);
        let teller = waker.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Whatever went wrong, looking again is right. Looking is itself no change.
            let changed = event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_)));
            if changed {
                match teller.try_send(()) {
                    // A full channel holds the news already; a closed one has nobody to tell.
                    Ok(()) | Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
                }
            }
        });
        let folder = root.join(LogKind::Events.folder());
        // A new store has no log yet: its coming is a change of the store's directory.
        let path = if folder.is_dir() { folder.as_path() } else { root };
        let failed = |error: notify::Error| OpenError::io("watch", path)(io::Error::other(error));
        let mut watcher = watcher.map_err(failed)?;
        let mode =
            if path == root { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        watcher.watch(path, mode).map_err(failed)?;
        Ok(Self { happened, waker, _watcher: watcher })
    }

    /// Waits for a change since the last call, and returns whether there was one. Look at the store
    /// before the first call: what happened before the watch began is not told.
    pub fn wait(&self, timeout: Duration) -> bool {
        match self.happened.recv_timeout(timeout) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }

    /// Ends a wait from elsewhere.
    pub(crate) fn waker(&self) -> SyncSender<()> {
        self.waker.clone()
    }
}
