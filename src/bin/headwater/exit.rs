//! How commands end: exit codes, and failures as people read them.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use headwater::{OpenError, ReadError};

/// Shown by every `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  could not: no store there, locked by another writer, newer format, full disk, other I/O
  2  bad usage or bad input: the command line, a malformed line, an invalid name, a limit
  3  conflict: the store does not hold what the input expects of it
  4  the store is damaged
  5  there is something to do: `repair` would change something, or `verify` found nothing worse
     than what is built anew by itself";

/// How the command ended, for the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    BadInput = 2,
    Conflict = 3,
    Damaged = 4,
    Todo = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read our output went away, as `head` does when it has enough. Not an error.
    ReaderGone,
    /// Everything was said already.
    Told(Exit),
    /// Still to be said.
    Error(Exit, Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// Makes a failure of a message and what caused it.
    pub(crate) fn because(
        exit: Exit,
        message: impl Into<String>,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        Self::Error(exit, Box::new(Caused { message: message.into(), source: Box::new(source) }))
    }

    /// Says what went wrong, if there is something left to say, and returns the exit code.
    pub(crate) fn report(&self) -> Exit {
        match self {
            Self::ReaderGone => Exit::Ok,
            Self::Told(exit) => *exit,
            Self::Error(exit, error) => {
                complain(&format!("error: {error}"), error.source());
                *exit
            }
        }
    }
}

/// Writes a line and the chain of its causes to standard error.
///
/// Nobody can be told when that fails, so it is ignored; `eprintln` would panic.
pub(crate) fn complain(line: &str, mut source: Option<&(dyn Error + 'static)>) {
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "{line}");
    while let Some(cause) = source {
        let _ = writeln!(err, "caused by: {cause}");
        source = cause.source();
    }
}

/// A message and its cause.
#[derive(Debug)]
struct Caused {
    message: String,
    source: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for Caused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Caused {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// A failed write to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ReaderGone;
        }
        Self::because(Exit::Failed, "cannot write to standard output", error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let exit = match &error {
            OpenError::Option { .. } => Exit::BadInput,
            // What the device does not give now it may give the next time.
            OpenError::Unreadable { .. } => Exit::Failed,
            error if is_damage(error) => Exit::Damaged,
            _ => Exit::Failed,
        };
        Self::Error(exit, Box::new(error))
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let exit = match &error {
            ReadError::Damaged { .. } => Exit::Damaged,
            ReadError::BeyondHead { .. } | ReadError::BelowStart { .. } | ReadError::ZeroLimit => {
                Exit::BadInput
            }
            _ => Exit::Failed,
        };
        Self::Error(exit, Box::new(error))
    }
}

/// Returns whether an error says that stored bytes are not what was written, or are not to be had.
pub(crate) fn is_damage(error: &OpenError) -> bool {
    matches!(
        error,
        OpenError::File { .. }
            | OpenError::MissingSegment { .. }
            | OpenError::AcknowledgedDamage { .. }
            | OpenError::UnexplainedTail { .. }
            | OpenError::Unreadable { .. }
    )
}
