//! A file under version control that knows how events are stored, and a test that fails when that
//! changes without a new version.
//!
//! `render.rs` writes shapes as lines, `file.rs` is the file, `compare.rs` what it and the program
//! disagree about.

mod compare;
mod file;
mod render;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use headwater_core::Registry;

pub use compare::Difference;

/// The environment variable that says what to do with differences.
const VARIABLE: &str = "HEADWATER_SCHEMA";

/// What becomes of differences between the file and the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaMode {
    /// All are errors.
    Check,
    /// What is new is written down; what would leave events unreadable is an error.
    Update,
    /// All are written down. For events that are in no log, and for repairs.
    Force,
}

/// The stored shapes of events in a file, such as `schema.lock` beside a package's `Cargo.toml`.
///
/// # Examples
///
/// ```no_run
/// use headwater_core::Registry;
/// use headwater_testkit::SchemaLock;
///
/// # fn registry() -> Registry { Registry::new() }
/// #[test]
/// fn stored_shapes_change_with_a_new_version_alone() {
///     SchemaLock::at(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.lock")).assert(&registry());
/// }
/// ```
#[derive(Clone, Debug)]
pub struct SchemaLock {
    path: PathBuf,
    mode: Option<SchemaMode>,
}

/// What a check did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaOutcome {
    /// The file and the program agree.
    Same,
    /// The file was written.
    Written,
}

/// Why a program does not store what the file says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// There is no file.
    #[error(
        "there is no {path}; set {VARIABLE}=update for one run of the test, and keep the file under version control"
    )]
    Missing {
        /// Where it should be.
        path: String,
    },
    /// Events that are stored already would be read as what they are not, or not at all.
    #[error("what is stored in logs would not be read any more, by {path}:\n{}\nWhere no log has such an event, set {VARIABLE}=force for one run of the test.", listed(.differences))]
    Broken {
        /// The file.
        path: String,
        /// Each of them, and beside them what is new.
        differences: Vec<Difference>,
    },
    /// The program has what the file does not know.
    #[error("{path} does not know what is new:\n{}\nSet {VARIABLE}=update for one run of the test.", listed(.differences))]
    Outdated {
        /// The file.
        path: String,
        /// Each of them.
        differences: Vec<Difference>,
    },
    /// The file says what no test wrote.
    #[error(
        "{path}, line {line}, is not as it was written: {detail}; take it from version control"
    )]
    Malformed {
        /// The file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        detail: &'static str,
    },
    /// The variable asks for something else.
    #[error("{VARIABLE} is {found:?}; it can be check, update or force")]
    Mode {
        /// What it is.
        found: String,
    },
    /// The system refused to read or to write.
    #[error("{path} could not be read or written")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

fn listed(differences: &[Difference]) -> String {
    let texts: Vec<_> = differences.iter().map(|difference| format!("\n{difference}")).collect();
    texts.concat()
}

impl SchemaLock {
    /// Takes the file at a path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: None }
    }

    /// Sets what becomes of differences. Otherwise the environment variable `HEADWATER_SCHEMA` says so:
    /// `check`, which is what happens without it, `update` or `force`.
    #[must_use]
    pub fn mode(mut self, mode: SchemaMode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Compares the file with what the types of a registry store, and writes it if it is to.
    ///
    /// # Errors
    ///
    /// [`SchemaError::Broken`] if a stored shape changed without a new version, or a name or a version is
    /// gone; [`SchemaError::Outdated`] if something is new and is not to be written down.
    pub fn check(&self, registry: &Registry) -> Result<SchemaOutcome, SchemaError> {
        let mode = self.mode.map_or_else(from_environment, Ok)?;
        let path = || self.path.display().to_string();
        let failed = |source| SchemaError::Io { path: path(), source };
        let locked =
            match fs::read_to_string(&self.path) {
                Ok(text) => Some(file::read(&text).map_err(|(line, detail)| {
                    SchemaError::Malformed { path: path(), line, detail }
                })?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed(error)),
            };
        if locked.is_none() && mode == SchemaMode::Check {
            return Err(SchemaError::Missing { path: path() });
        }
        let is_new = locked.is_none();
        let locked = locked.unwrap_or_default();
        let current = render::lock(registry, &locked);
        let differences = compare::differences(&locked, &current);
        if differences.is_empty() && !is_new {
            return Ok(SchemaOutcome::Same);
        }
        match mode {
            SchemaMode::Force => {}
            _ if differences.iter().any(Difference::breaks) => {
                return Err(SchemaError::Broken { path: path(), differences });
            }
            SchemaMode::Update => {}
            SchemaMode::Check => return Err(SchemaError::Outdated { path: path(), differences }),
        }
        fs::write(&self.path, file::write(&current)).map_err(failed)?;
        Ok(SchemaOutcome::Written)
    }

    /// As [`check`](Self::check), for tests.
    ///
    /// # Panics
    ///
    /// If the check fails, with what it says.
    #[track_caller]
    pub fn assert(&self, registry: &Registry) {
        if let Err(error) = self.check(registry) {
            let cause = std::error::Error::source(&error);
            panic!("{error}{}", cause.map(|cause| format!(": {cause}")).unwrap_or_default());
        }
    }

    /// Returns where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn from_environment() -> Result<SchemaMode, SchemaError> {
    asked_for(&std::env::var_os(VARIABLE).unwrap_or_default().to_string_lossy())
}

fn asked_for(mode: &str) -> Result<SchemaMode, SchemaError> {
    match mode {
        "" | "check" => Ok(SchemaMode::Check),
        "update" => Ok(SchemaMode::Update),
        "force" => Ok(SchemaMode::Force),
        found => Err(SchemaError::Mode { found: found.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
