//! Builds in memory, with snapshot files where they are to outlive the process.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::directory::Directory;
use super::{BuildError, BuildId, Builds, removable};
use crate::checkpoint::Checkpoint;
use crate::sink::{MemorySink, MemoryView};

/// Keeps the builds of a read model in memory. All have one type `S`; where versions differ in
/// theirs, make it an enum of them.
///
/// Readers hold a [`LiveView`], which follows as another build is made live.
///
/// # Examples
///
/// See [`RunningBuild`](super::RunningBuild).
pub struct MemoryBuilds<S> {
    name: String,
    directory: Option<Directory>,
    /// What was opened by this process.
    builds: Mutex<BTreeMap<BuildId, MemoryView<S>>>,
    live: LiveView<S>,
}

/// A reader's hold on the live build of a [`MemoryBuilds`]. Clones share it.
pub struct LiveView<S>(Arc<RwLock<Live<S>>>);

/// Which build is live, with its state.
type Live<S> = Option<(BuildId, MemoryView<S>)>;

impl<S> Clone for LiveView<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> LiveView<S> {
    /// Returns the state of the live build after its last committed batch; `None` if none is live.
    pub fn get(&self) -> Option<Arc<S>> {
        self.view().map(|view| view.get())
    }

    /// Returns the hold on what is the live build now.
    pub fn view(&self) -> Option<MemoryView<S>> {
        self.read().map(|(_, view)| view)
    }

    fn read(&self) -> Live<S> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S> fmt::Debug for LiveView<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let build = self.read().map(|(build, _)| build);
        f.debug_struct("LiveView").field("build", &build).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for MemoryBuilds<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBuilds").field("live", &self.live).finish_non_exhaustive()
    }
}

impl<S> MemoryBuilds<S> {
    /// Keeps builds for as long as this lives.
    pub fn new(name: impl Into<String>) -> Self {
        let live = LiveView(Arc::new(RwLock::new(None)));
        Self { name: name.into(), directory: None, builds: Mutex::default(), live }
    }

    /// Keeps builds with snapshot files in a directory, which is made if there is none; the link
    /// `NAME.snapshot` says which one is live. The name is that of the projection. Blocks.
    ///
    /// # Errors
    ///
    /// [`BuildError::Name`] if files cannot be called that; if the directory cannot be made.
    pub fn with_snapshots(directory: impl Into<PathBuf>, name: &str) -> Result<Self, BuildError> {
        let directory = Directory::open(directory, name, "snapshot")?;
        Ok(Self { directory: Some(directory), ..Self::new(name) })
    }

    /// Returns a reader's hold on the live build.
    pub fn live_view(&self) -> LiveView<S> {
        self.live.clone()
    }

    fn builds(&self) -> MutexGuard<'_, BTreeMap<BuildId, MemoryView<S>>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, build: BuildId, view: MemoryView<S>) {
        *self.live.0.write().unwrap_or_else(PoisonError::into_inner) = Some((build, view));
    }
}

impl<S> Builds for MemoryBuilds<S>
where
    S: Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Sink = MemorySink<S>;

    fn list(&self) -> Result<Vec<BuildId>, BuildError> {
        let mut builds: Vec<BuildId> = self.builds().keys().copied().collect();
        if let Some(directory) = &self.directory {
            builds.extend(directory.list()?);
        }
        builds.sort_unstable();
        builds.dedup();
        Ok(builds)
    }

    fn live(&self) -> Result<Option<BuildId>, BuildError> {
        match &self.directory {
            Some(directory) => directory.live(),
            None => Ok(self.live.read().map(|(build, _)| build)),
        }
    }

    fn open(&self, build: BuildId) -> Result<MemorySink<S>, BuildError> {
        let live = self.live()?;
        let mut builds = self.builds();
        let view = builds.get(&build).cloned();
        let file = self.directory.as_ref().map(|directory| directory.file(build));
        let sink = MemorySink::sharing(view, file);
        builds.insert(build, sink.view());
        drop(builds);
        if live == Some(build) {
            self.show(build, sink.view());
        }
        Ok(sink)
    }

    fn checkpoint(&self, build: BuildId) -> Result<Option<Checkpoint>, BuildError> {
        Ok(self.builds().get(&build).and_then(MemoryView::checkpoint))
    }

    fn make_live(&self, build: BuildId) -> Result<(), BuildError> {
        let view = self.builds().get(&build).cloned();
        let Some(view) = view else {
            // It may be in the directory: whoever opens it can make it live.
            let (name, opened) = (self.name.clone(), self.builds().keys().copied().collect());
            return Err(BuildError::Unknown { name, build, present: opened });
        };
        if let Some(directory) = &self.directory {
            directory.make_live(build)?;
        }
        self.show(build, view);
        Ok(())
    }

    fn remove(&self, build: BuildId) -> Result<(), BuildError> {
        removable(&self.name, build, self.list()?, self.live()?)?;
        if let Some(directory) = &self.directory {
            directory.remove(build, &[])?;
        }
        self.builds().remove(&build);
        Ok(())
    }
}
