//! Where the streams ended of which retention has left nothing: the file `TAILS`, looked into
//! when a stream is not in the log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use headwater_core::{LogId, Position, ReadError, Revision};

use crate::error::OpenError;
use crate::format::tails::{StreamTail, Tails, encode};
use crate::fs::{Access, Fs, write_file};
use crate::mmap::Map;
use crate::sync::Mutex;

pub(crate) const FILE_NAME: &str = "TAILS";

/// Makes sure that the file is there, as it is once something was removed.
pub(crate) fn require(fs: &dyn Fs, root: &Path) -> Result<(), OpenError> {
    let path = root.join(FILE_NAME);
    fs.open(&path, Access::Read).map(drop).map_err(OpenError::io("read", path))
}

/// A mapped file.
#[derive(Debug)]
struct Mapped {
    map: Map,
    size: u64,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.map.below(self.size)
    }
}

/// The file of a store. It is checked when it is first needed.
#[derive(Debug)]
pub(crate) struct TailsFile {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    store: LogId,
    loaded: Mutex<Option<Arc<Tails<Mapped>>>>,
}

impl TailsFile {
    pub(crate) fn new(fs: Arc<dyn Fs>, root: PathBuf, store: LogId) -> Self {
        Self { fs, root, store, loaded: Mutex::new(None) }
    }

    fn path(&self) -> PathBuf {
        self.root.join(FILE_NAME)
    }

    /// Returns where a stream ended that has no event behind `start`.
    pub(crate) fn find(
        &self,
        stream: &str,
        start: Position,
    ) -> Result<Option<(Revision, Position)>, ReadError> {
        Ok(self.load(start)?.and_then(|tails| tails.find(stream)))
    }

    /// Returns what the file holds; `None` if there is none, as in a log that began at `start`.
    fn load(&self, start: Position) -> Result<Option<Arc<Tails<Mapped>>>, ReadError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // A reader beside a writer finds another file after the next removal.
        if let Some(tails) = loaded.as_ref().filter(|tails| tails.through >= start) {
            return Ok(Some(Arc::clone(tails)));
        }
        let io = |error: io::Error| ReadError::Io(Arc::new(error));
        let file = match self.fs.open(&self.path(), Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io)?,
        };
        let size = file.size().map_err(io)?;
        let damaged = |detail: String| ReadError::Damaged {
            position: start,
            file: self.path().display().to_string(),
            offset: 0,
            detail,
        };
        if size == 0 {
            return Err(damaged("it is empty".to_owned()));
        }
        let map = file.map().map_err(io)?;
        map.populate(0, size).map_err(io)?;
        let tails =
            Tails::decode(Mapped { map, size }).map_err(|fault| damaged(fault.to_string()))?;
        if tails.store != self.store {
            return Err(damaged(format!("it belongs to store {}", tails.store)));
        }
        if tails.through < start {
            let through = tails.through;
            return Err(damaged(format!("it reaches to position {through} only")));
        }
        Ok(Some(Arc::clone(loaded.insert(Arc::new(tails)))))
    }

    /// Returns the tails that the file has now, by name.
    pub(crate) fn all(&self, start: Position) -> Result<Vec<StreamTail>, ReadError> {
        Ok(self.load(start)?.map(|tails| tails.iter().collect()).unwrap_or_default())
    }

    /// Replaces the file, durably. The tails are sorted by name.
    pub(crate) fn replace(&self, through: Position, tails: &[StreamTail]) -> io::Result<()> {
        let bytes = encode(self.store, through, tails);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        write_file(self.fs.as_ref(), &self.root, FILE_NAME, &bytes)?;
        *loaded = None;
        Ok(())
    }
}
