//! Builds as files of one directory, and a link that names the live one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BuildError, BuildId};
use crate::sink::SinkError;

/// The files `NAME-VERSION.NUMBER.EXTENSION`, and the symbolic link `NAME.EXTENSION` to one of them.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    name: String,
    extension: &'static str,
}

impl Directory {
    /// Makes the directory if there is none.
    pub(super) fn open(
        path: impl Into<PathBuf>,
        name: &str,
        extension: &'static str,
    ) -> Result<Self, BuildError> {
        let path = path.into();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 100 || !name.chars().all(fits) {
            return Err(BuildError::Name { name: name.to_owned() });
        }
        fs::create_dir_all(&path).map_err(failed("making", &path))?;
        Ok(Self { path, name: name.to_owned(), extension })
    }

    #[cfg(feature = "sqlite")]
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the file of a build.
    pub(super) fn file(&self, build: BuildId) -> PathBuf {
        self.path.join(format!("{}-{build}.{}", self.name, self.extension))
    }

    /// Returns the link to the live build.
    pub(super) fn link(&self) -> PathBuf {
        self.path.join(format!("{}.{}", self.name, self.extension))
    }

    pub(super) fn list(&self) -> Result<Vec<BuildId>, BuildError> {
        let read = || {
            let mut builds = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                builds.extend(self.build_of(Path::new(&entry?.file_name())));
            }
            builds.sort_unstable();
            Ok(builds)
        };
        Ok(read().map_err(failed("reading", &self.path))?)
    }

    pub(super) fn live(&self) -> Result<Option<BuildId>, BuildError> {
        let link = self.link();
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("reading the link", &link)(error).into()),
        };
        let build = self.build_of(&target);
        let detail = || format!("it is a link to {}, which is no build", target.display());
        build.map(Some).ok_or_else(|| SinkError::Damaged { path: link, detail: detail() }.into())
    }

    /// Replaces the link: a crash leaves the old one or the new one. The file need not be there yet.
    pub(super) fn make_live(&self, build: BuildId) -> Result<(), BuildError> {
        let (file, link) = (self.file(build), self.link());
        let new = link.with_extension(format!("{}.new", self.extension));
        let target = file.file_name().map(PathBuf::from).unwrap_or_default();
        // Of a crash before.
        remove_if_there(&new).map_err(failed("removing", &new))?;
        symlink(target, &new).map_err(failed("linking", &new))?;
        fs::rename(&new, &link).map_err(failed("replacing", &link))?;
        self.sync()
    }

    /// Removes the file of a build, and those whose names have one of the endings besides.
    pub(super) fn remove(&self, build: BuildId, endings: &[&str]) -> Result<(), BuildError> {
        let file = self.file(build);
        for ending in endings.iter().chain(&[""]) {
            let mut path = file.clone().into_os_string();
            path.push(ending);
            let path = PathBuf::from(path);
            remove_if_there(&path).map_err(failed("removing", &path))?;
        }
        self.sync()
    }

    fn build_of(&self, file: &Path) -> Option<BuildId> {
        let name = file.to_str()?.strip_prefix(&self.name)?.strip_prefix('-')?;
        name.strip_suffix(self.extension)?.strip_suffix('.')?.parse().ok()
    }

    fn sync(&self) -> Result<(), BuildError> {
        let sync = File::open(&self.path).and_then(|directory| directory.sync_all());
        Ok(sync.map_err(failed("syncing", &self.path))?)
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SinkError {
    let path = path.to_owned();
    move |error| SinkError::File { action, path, source: Arc::new(error) }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
