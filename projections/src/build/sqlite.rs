//! Builds in SQLite: a file each.

use std::path::PathBuf;

use rusqlite::Connection;

use super::directory::Directory;
use super::{BuildError, BuildId, Builds, known, removable};
use crate::checkpoint::Checkpoint;
use crate::sink::SqliteSink;

/// Keeps each build of a read model in a SQLite file of its own.
///
/// The files are `NAME-VERSION.NUMBER.sqlite`, and `NAME.sqlite` is a symbolic link to the live one:
/// whoever opens that, in whatever language, reads the live build. A connection stays with the build
/// that it has opened; open a new one to see the next ([`reader`](Self::reader)), which is cheap.
///
/// Builds do not wait for each other, since each is a database of its own.
///
/// # Examples
///
/// See [`RunningBuild`](super::RunningBuild).
#[derive(Debug)]
pub struct SqliteBuilds {
    directory: Directory,
}

impl SqliteBuilds {
    /// Opens the builds of the read model `name`, which is that of its projection, and makes the
    /// directory if there is none. Blocks.
    ///
    /// # Errors
    ///
    /// [`BuildError::Name`] if files cannot be called that; if the directory cannot be made.
    pub fn open(directory: impl Into<PathBuf>, name: &str) -> Result<Self, BuildError> {
        Ok(Self { directory: Directory::open(directory, name, "sqlite")? })
    }

    /// Returns the link to the file of the live build.
    pub fn path(&self) -> PathBuf {
        self.directory.link()
    }

    /// Opens a connection to the live build, for reading only; `None` if none is live. Blocks.
    ///
    /// # Errors
    ///
    /// If SQLite cannot open it.
    pub fn reader(&self) -> Result<Option<Connection>, BuildError> {
        self.live()?.map(|live| self.reader_of(live)).transpose()
    }

    /// Opens a connection to a build, for reading only. Blocks.
    ///
    /// # Errors
    ///
    /// If SQLite cannot open it.
    pub fn reader_of(&self, build: BuildId) -> Result<Connection, BuildError> {
        Ok(SqliteSink::reader_at(&self.directory.file(build))?)
    }
}

impl Builds for SqliteBuilds {
    type Sink = SqliteSink;

    fn list(&self) -> Result<Vec<BuildId>, BuildError> {
        self.directory.list()
    }

    fn live(&self) -> Result<Option<BuildId>, BuildError> {
        self.directory.live()
    }

    fn open(&self, build: BuildId) -> Result<SqliteSink, BuildError> {
        Ok(SqliteSink::open(self.directory.file(build))?)
    }

    fn checkpoint(&self, build: BuildId) -> Result<Option<Checkpoint>, BuildError> {
        if !self.list()?.contains(&build) {
            return Ok(None);
        }
        let path = self.directory.file(build);
        Ok(SqliteSink::stored_at(&path, self.directory.name())?)
    }

    fn make_live(&self, build: BuildId) -> Result<(), BuildError> {
        known(self.directory.name(), build, self.list()?)?;
        self.directory.make_live(build)
    }

    fn remove(&self, build: BuildId) -> Result<(), BuildError> {
        removable(self.directory.name(), build, self.list()?, self.live()?)?;
        self.directory.remove(build, &["-wal", "-shm"])
    }
}
