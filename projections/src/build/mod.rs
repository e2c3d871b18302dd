//! Read models whose builds stand beside each other, one of them live.

mod directory;
mod memory;
mod running;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::fmt;
use std::str::FromStr;

pub use self::memory::{LiveView, MemoryBuilds};
pub use self::running::{PromoteError, RunningBuild, StartBuildError};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteBuilds;
use crate::checkpoint::Checkpoint;
use crate::sink::{Sink, SinkError};

/// One building of a read model, by one version of its projection. It is written `version.number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId {
    /// The version of the projection.
    pub version: u32,
    /// Which building by that version it is, from 1.
    pub number: u32,
}

impl BuildId {
    /// The first build by a version.
    pub fn first(version: u32) -> Self {
        Self { version, number: 1 }
    }

    fn next(self) -> Self {
        Self { number: self.number.saturating_add(1), ..self }
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.version, self.number)
    }
}

impl FromStr for BuildId {
    type Err = InvalidBuildId;

    fn from_str(text: &str) -> Result<Self, InvalidBuildId> {
        let parts = text.split_once('.').and_then(|(version, number)| {
            Some(Self { version: version.parse().ok()?, number: number.parse().ok()? })
        });
        // Each build has one name.
        let id = parts.filter(|id| id.number > 0 && id.to_string() == text);
        id.ok_or_else(|| InvalidBuildId(text.to_owned()))
    }
}

/// A text is not the name of a build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a build; they are called version.number, such as 2.1")]
pub struct InvalidBuildId(String);

/// Keeps the builds of one read model, and says which of them readers see.
///
/// Its methods may block. The log is the truth, so a build can be removed and made again at any
/// time; what is not to be lost is which one is live.
pub trait Builds: Send + Sync + 'static {
    /// Where one build lives.
    type Sink: Sink;

    /// Returns the builds there are, in order.
    ///
    /// # Errors
    ///
    /// If that cannot be read.
    fn list(&self) -> Result<Vec<BuildId>, BuildError>;

    /// Returns the build that readers see; `None` before one was made live.
    ///
    /// # Errors
    ///
    /// If that cannot be read.
    fn live(&self) -> Result<Option<BuildId>, BuildError>;

    /// Opens a build to go on with it, and makes an empty one if there is none. Only one runner may
    /// have it at a time.
    ///
    /// # Errors
    ///
    /// What the sink says.
    fn open(&self, build: BuildId) -> Result<Self::Sink, BuildError>;

    /// Returns how far a build is; `None` if there is none, or nothing in it.
    ///
    /// # Errors
    ///
    /// If that cannot be read.
    fn checkpoint(&self, build: BuildId) -> Result<Option<Checkpoint>, BuildError>;

    /// Lets readers see a build from now on: at one moment, and for good once this returns.
    ///
    /// It says nothing about how far the build is: [`RunningBuild::promote`] waits for that.
    ///
    /// # Errors
    ///
    /// [`BuildError::Unknown`] if there is no such build. Readers see what they saw before.
    fn make_live(&self, build: BuildId) -> Result<(), BuildError>;

    /// Removes a build. Who reads it still may go on until it is closed.
    ///
    /// # Errors
    ///
    /// [`BuildError::Live`] if readers see it; [`BuildError::Unknown`] if there is none.
    fn remove(&self, build: BuildId) -> Result<(), BuildError>;
}

/// Why something could not be done with a build. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no such build.
    #[error("{name} has no build {build}; there is {}", listed(.present))]
    Unknown {
        /// The read model.
        name: String,
        /// The build that was asked for.
        build: BuildId,
        /// Those there are.
        present: Vec<BuildId>,
    },
    /// Readers see the build.
    #[error("build {build} of {name} is live; make another one live before it is removed")]
    Live {
        /// The read model.
        name: String,
        /// The build.
        build: BuildId,
    },
    /// The name cannot be that of files.
    #[error("a read model cannot be called {name:?}; use letters, digits, - and _")]
    Name {
        /// The name that was given.
        name: String,
    },
    /// Where the builds live cannot be read or written.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

fn listed(builds: &[BuildId]) -> String {
    match builds {
        [] => "none".to_owned(),
        builds => builds.iter().map(BuildId::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn known(name: &str, build: BuildId, present: Vec<BuildId>) -> Result<(), BuildError> {
    if present.contains(&build) {
        return Ok(());
    }
    Err(BuildError::Unknown { name: name.to_owned(), build, present })
}

fn removable(
    name: &str,
    build: BuildId,
    present: Vec<BuildId>,
    live: Option<BuildId>,
) -> Result<(), BuildError> {
    if live == Some(build) {
        return Err(BuildError::Live { name: name.to_owned(), build });
    }
    known(name, build, present)
}

/// Returns the build that a version goes on with when it is started: the live one where that is its
/// own, else its newest.
fn to_run(present: &[BuildId], live: Option<BuildId>, version: u32) -> BuildId {
    let own = |build: &BuildId| build.version == version;
    let newest = present.iter().copied().filter(own).max();
    live.filter(own).or(newest).unwrap_or(BuildId::first(version))
}

/// Returns the build that a version makes beside the live one: one that was begun and is newer than
/// that, or a new one.
fn to_build(present: &[BuildId], live: Option<BuildId>, version: u32) -> BuildId {
    let own = |build: &BuildId| build.version == version;
    let (newest, live) = (present.iter().copied().filter(own).max(), live.filter(own));
    match newest.max(live) {
        None => BuildId::first(version),
        Some(newest) if Some(newest) == live => newest.next(),
        Some(newest) => newest,
    }
}

#[cfg(test)]
mod tests;
