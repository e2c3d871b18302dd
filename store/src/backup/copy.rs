//! Making the copy: every file durable before the name that makes it a store.

use std::io;
use std::path::{Path, PathBuf};

use headwater_core::{LogId, Position};

use super::source::Source;
use super::{BackupError, BackupProgress, BackupReport};
use crate::catalog;
use crate::error::OpenError;
use crate::format::catalog::{Catalog, LogEntry};
use crate::format::is_zero;
use crate::format::segment::{LogKind, file_name, parse_file_name};
use crate::fs::{Access, Fs, FsFile, write_file};
use crate::open::{self, STORE_FILE, UNFINISHED_FILE, parent_of};
use crate::options::Preallocation;
use crate::segment::preallocate;
use crate::source::{Held, LogSource};

/// How much is read and written at a time.
const STEP_BYTES: usize = 1024 * 1024;
/// Zeros of this size at a time are left out: files are zeros where nothing was written.
const HOLE_BYTES: usize = 64 * 1024;

/// Whether a copy may share files with its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Files that never change again.
    WherePossible,
    /// It will be written to, and its source stays as it is whatever happens.
    Never,
}

/// Copies a store into a directory that is missing or empty.
pub(super) fn copy(
    source: &Source,
    into: &Path,
    links: Links,
    progress: &mut dyn FnMut(BackupProgress),
) -> Result<BackupReport, BackupError> {
    let fs = source.fs.as_ref();
    let report = BackupReport {
        id: source.identity.id,
        start: source.start(),
        head: source.events.entry.durable,
        groups: source.groups,
        segments: source.events.sealed.len() + source.events.held.len(),
        linked_bytes: 0,
        copied_bytes: 0,
    };
    let told = BackupProgress { done_bytes: 0, total_bytes: source.total_bytes() };
    let made = Vec::new();
    let mut copier = Copier { source, fs, into, links, report, told, progress, made };
    let done = copier.claim().and_then(|()| copier.run());
    if done.is_err() {
        copier.undo();
    }
    done.map(|()| copier.report)
}

/// Something that was made at the destination.
#[derive(Debug)]
enum Made {
    Dir(PathBuf),
    File(PathBuf),
}

struct Copier<'a> {
    source: &'a Source,
    fs: &'a dyn Fs,
    into: &'a Path,
    links: Links,
    report: BackupReport,
    told: BackupProgress,
    progress: &'a mut dyn FnMut(BackupProgress),
    /// What is removed again if something fails.
    made: Vec<Made>,
}

impl Source {
    fn log_path(&self, kind: LogKind) -> PathBuf {
        self.root.join(kind.folder())
    }

    /// Returns the last position that was removed from the log.
    fn start(&self) -> Position {
        let sealed = self.events.sealed.first().map(|&(base, _)| base);
        let held = self.events.held.first().and_then(|held| parse_file_name(&held.name));
        let first = sealed.or(held.map(|(base, _)| base));
        first.map_or(Position::START, Position::previous)
    }

    /// Returns about how many bytes there are to copy or to link.
    fn total_bytes(&self) -> u64 {
        let folder = self.log_path(LogKind::Events);
        let sealed = self.events.sealed.iter().map(|&(base, id)| {
            let file = self.fs.open(&folder.join(file_name(base, id)), Access::Read);
            file.and_then(|file| file.size()).unwrap_or(0)
        });
        let held = self.events.held.iter().chain(&self.offsets.held).map(|held| held.end);
        sealed.chain(held).sum()
    }
}

impl Copier<'_> {
    /// Makes the destination ours: from here on it is told apart from a store and from nothing.
    fn claim(&mut self) -> Result<(), BackupError> {
        let mut missing = Vec::new();
        let mut at = self.into;
        while !open::exists(self.fs, at)? && parent_of(at) != at {
            missing.push(at);
            at = parent_of(at);
        }
        for dir in missing.into_iter().rev() {
            self.fs.create_dir(dir).map_err(BackupError::io("create", dir))?;
            self.made.push(Made::Dir(dir.to_owned()));
            self.sync_dir(parent_of(dir))?;
        }
        let names = self.fs.list(self.into).map_err(BackupError::io("list", self.into))?;
        let path = self.into.to_owned();
        if names.iter().any(|name| name == UNFINISHED_FILE) {
            return Err(OpenError::Unfinished { path }.into());
        }
        if let Some(found) = names.into_iter().find(|name| name != "lost+found") {
            return Err(BackupError::NotEmpty { path, found });
        }
        // Fails if somebody else was first.
        let marker = self.into.join(UNFINISHED_FILE);
        let io = |action| BackupError::io(action, &marker);
        let file = self.fs.open(&marker, Access::CreateNew).map_err(io("create"))?;
        self.made.push(Made::File(marker.clone()));
        file.write_at(&self.source.identity.encode(), 0).map_err(io("write"))?;
        file.sync().map_err(io("sync"))?;
        self.sync_dir(self.into)?;
        // The directory may have been made a moment ago by somebody else.
        self.sync_dir(parent_of(self.into))
    }

    fn run(&mut self) -> Result<(), BackupError> {
        let source = self.source;
        let offsets = self.log(LogKind::Offsets, &source.offsets)?;
        let events = self.log(LogKind::Events, &source.events)?;
        for (name, bytes) in &source.small {
            self.file(name, bytes)?;
        }
        let store: LogId = source.identity.id;
        let epoch = source.events.epoch.max(source.offsets.epoch);
        // Whoever opens it recovers it, as after a crash.
        let catalog = Catalog { store, sequence: 1, epoch, clean: false, events, offsets };
        let path = self.into.join(catalog::FILE_NAME);
        self.made.push(Made::File(path.with_extension("tmp")));
        self.made.push(Made::File(path.clone()));
        catalog::create(self.fs, self.into, &catalog).map_err(BackupError::io("write", path))?;
        let (marker, store) = (self.into.join(UNFINISHED_FILE), self.into.join(STORE_FILE));
        self.fs.rename(&marker, &store).map_err(BackupError::io("create", store))?;
        // It is a store, and removing it file by file would leave a damaged one.
        self.made.clear();
        self.sync_dir(self.into)
    }

    /// Copies a log, and returns what the catalog says of it.
    fn log(&mut self, kind: LogKind, log: &LogSource) -> Result<LogEntry, BackupError> {
        if log.held.is_empty() {
            return Ok(log.entry);
        }
        let (from, to) = (self.source.log_path(kind), self.into.join(kind.folder()));
        self.fs.create_dir(&to).map_err(BackupError::io("create", &to))?;
        self.made.push(Made::Dir(to.clone()));
        for &(base, id) in &log.sealed {
            let name = file_name(base, id);
            if !self.sealed(&from.join(&name), &to.join(&name))? {
                return Err(self.missing(id));
            }
            let index = Path::new(&name).with_extension("idx");
            // It is built anew where it is missing.
            self.sealed(&from.join(&index), &to.join(&index))?;
        }
        for held in &log.held {
            self.held(held, &to)?;
        }
        self.sync_dir(&to)?;
        Ok(log.entry)
    }

    /// Says why a segment is gone.
    fn missing(&self, id: u64) -> BackupError {
        let root = &self.source.root;
        match catalog::read(self.fs, root, self.source.identity.id) {
            Ok(catalog) if catalog.events.first_segment > id => {
                BackupError::Overtaken { path: root.clone() }
            }
            Ok(_) => {
                let path = self.source.log_path(LogKind::Events);
                OpenError::MissingSegment { path, id }.into()
            }
            Err(error) => error.into(),
        }
    }

    /// Copies a segment up to its end, into a file of its size.
    fn held(&mut self, held: &Held, to: &Path) -> Result<(), BackupError> {
        let space = match self.links {
            // It is written on, and a full disk must show before.
            Links::Never => Preallocation::Auto,
            Links::WherePossible => Preallocation::Sparse,
        };
        let path = to.join(&held.name);
        let sizes = (held.end, held.capacity_bytes);
        self.bytes(held.file.as_ref(), &path, sizes, space)
    }

    /// Links or copies a file that does not change any more. Returns whether it is there.
    fn sealed(&mut self, from: &Path, to: &Path) -> Result<bool, BackupError> {
        let file = match self.fs.open(from, Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(BackupError::io("open", from))?,
        };
        let size = file.size().map_err(BackupError::io("size", from))?;
        if self.links == Links::WherePossible {
            match self.fs.link(from, to) {
                Ok(()) => {
                    self.made.push(Made::File(to.to_owned()));
                    self.report.linked_bytes += size;
                    self.advance(size);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) if cannot_link(&error) => {}
                Err(error) => return Err(BackupError::io("link", to)(error)),
            }
        }
        self.bytes(file.as_ref(), to, (size, size), Preallocation::Sparse)?;
        Ok(true)
    }

    /// Writes a file of the store's directory.
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let path = self.into.join(name);
        self.made.push(Made::File(self.into.join(format!("{name}.tmp"))));
        self.made.push(Made::File(path.clone()));
        write_file(self.fs, self.into, name, bytes).map_err(BackupError::io("write", path))?;
        self.report.copied_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Copies the first `len` bytes of a file into a new one of `size` bytes, durably.
    fn bytes(
        &mut self,
        file: &dyn FsFile,
        to: &Path,
        (len, size): (u64, u64),
        space: Preallocation,
    ) -> Result<(), BackupError> {
        let io = |action| BackupError::io(action, to);
        let target = preallocate(self.fs, to, size, space).map_err(io("create"))?;
        self.made.push(Made::File(to.to_owned()));
        let mut buffer = vec![0; STEP_BYTES];
        let mut at = 0;
        while at < len {
            let step = usize::try_from(len - at).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
            let read = &mut buffer[..step];
            file.read_at(read, at).map_err(io("read what is copied into"))?;
            for (hole, bytes) in (at..).step_by(HOLE_BYTES).zip(read.chunks(HOLE_BYTES)) {
                if !is_zero(bytes) {
                    target.write_at(bytes, hole).map_err(io("write"))?;
                }
            }
            at += step as u64;
            self.advance(step as u64);
        }
        self.report.copied_bytes += len;
        target.sync().map_err(io("sync"))
    }

    fn advance(&mut self, bytes: u64) {
        self.told.done_bytes = self.told.total_bytes.min(self.told.done_bytes + bytes);
        (self.progress)(self.told);
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), BackupError> {
        self.fs.sync_dir(dir).map_err(BackupError::io("sync", dir))
    }

    /// Removes what was made, the marker after what it marks. What stays is told apart by it.
    fn undo(&mut self) {
        for made in self.made.drain(..).rev() {
            let (path, removed) = match &made {
                Made::File(path) => (path, self.fs.remove(path)),
                Made::Dir(path) => (path, self.fs.remove_dir(path)),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "cannot remove what was begun");
                }
                _ => {}
            }
        }
    }
}

/// Returns whether a file system has no hard links, or not between these places.
fn cannot_link(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::CrossesDevices
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::Unsupported
            | io::ErrorKind::TooManyLinks
    )
}
