//! Why a store cannot be opened or closed.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::Position;
use serde::Serialize;

use crate::format::segment::{LogKind, parse_file_name};

/// What can be done about damage if there is no backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// The end of the log can be cut: [`repair`](crate::repair) with `CutTail`.
    CutTail,
    /// A segment can be taken out: [`repair`](crate::repair) with `QuarantineSegment`.
    QuarantineSegment(u64),
    /// It is derived, and is built anew by itself: [`repair`](crate::repair) with `Reindex` does so
    /// at once, and removing the file does too.
    Reindex,
}

impl Remedy {
    /// Returns the repair that takes a segment out, if the file is one of the events.
    pub(crate) fn without(segment: &Path) -> Option<Self> {
        let (_, id) = parse_file_name(segment.file_name()?.to_str()?)?;
        without(segment.parent()?, id)
    }

    /// Returns the command that says what would be done to a store, and does it with `--apply`. A
    /// shell takes it as it is.
    pub fn command(self, root: &Path) -> String {
        let root = root.to_string_lossy();
        // Only a path with a zero byte has no quotes, and no file has such a path.
        let root = shlex::try_quote(&root).unwrap_or(Cow::Borrowed(&*root));
        match self {
            Self::CutTail => format!("headwater repair {root} --cut-tail"),
            Self::QuarantineSegment(id) => {
                format!("headwater repair {root} --quarantine-segment {id}")
            }
            Self::Reindex => format!("headwater repair {root} --reindex"),
        }
    }
}

/// Names the repair of a segment, if there is one.
fn advice(root: &Path, remedy: Option<Remedy>) -> String {
    remedy.map_or_else(String::new, |remedy| {
        format!(", or see what `{}` can keep", remedy.command(root))
    })
}

/// Returns the repair that takes a segment out of the log in a folder. That of the groups' progress
/// has none.
fn without(folder: &Path, id: u64) -> Option<Remedy> {
    folder.ends_with(LogKind::Events.folder()).then_some(Remedy::QuarantineSegment(id))
}

/// Returns the directory of the store that a segment belongs to.
fn store_of(segment: &Path) -> &Path {
    segment.parent().and_then(Path::parent).unwrap_or(segment)
}

/// Why a store was not opened. No event and no progress of a group was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An option is out of range.
    #[error("option {option} cannot be {value}: {remedy}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What to use instead.
        remedy: &'static str,
    },
    /// The directory does not exist or holds nothing.
    #[error("{} holds no store: it is {state}; check that its volume is mounted, or create a store there", path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
        /// "missing" or "empty".
        state: &'static str,
    },
    /// The directory holds something else, or a store that lost its identity.
    #[error("{} is not a store: {detail}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What speaks against it.
        detail: String,
    },
    /// The directory holds a store in the making, and whoever was at it did not finish.
    #[error("{} holds an import that was not finished; import into it again, or remove it", path.display())]
    UnfinishedImport {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds a backup or a restored store that was interrupted while it was made.
    #[error("{} holds a backup or a restored store that was not finished; remove the directory and make it again", path.display())]
    Unfinished {
        /// The directory.
        path: PathBuf,
    },
    /// A store was to be created where one is.
    #[error("{} holds a store already; open it, or create the new one elsewhere", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// Another process, or another handle of this one, writes to the store.
    #[error("{} is open for writing by process {pid}; close it there, or open read-only here", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that has it, 0 if it did not say.
        pid: u32,
    },
    /// A file is of a newer format.
    #[error("{} has format version {found}, and this program reads up to {known}; use a newer program", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u16,
        /// The newest this program reads.
        known: u16,
    },
    /// A file is damaged outside of the frames.
    #[error("{} cannot be read: {detail}; restore it from a backup", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A segment is gone.
    #[error("segment {id} is missing from {}; restore it from a backup{}", path.display(), advice(path.parent().unwrap_or(path), without(path, *id)))]
    MissingSegment {
        /// The folder.
        path: PathBuf,
        /// The segment's number.
        id: u64,
    },
    /// Retention removed what a reader was about to follow.
    #[error("what follows position {after} was removed from {} before it was read here; open the store anew", path.display())]
    FellBehind {
        /// The folder.
        path: PathBuf,
        /// The last position that was seen.
        after: Position,
    },
    /// Events that were acknowledged are damaged or gone. The store can still be opened read-only,
    /// up to the damage.
    #[error("{} is damaged at position {position}, byte {offset}: {detail}; acknowledged events are lost from there on, restore from a backup, or see what `{}` can keep", path.display(), Remedy::CutTail.command(store_of(path)))]
    AcknowledgedDamage {
        /// The file.
        path: PathBuf,
        /// The first position that cannot be read.
        position: Position,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// The end of the log does not validate, and a crash does not explain it. The store can still
    /// be opened read-only, up to there.
    #[error("{} ends in bytes that no crash explains, at position {position}, byte {offset}: {detail}; restore from a backup, or see what `{}` would cut; up to there it can be read", path.display(), Remedy::CutTail.command(store_of(path)))]
    UnexplainedTail {
        /// The file.
        path: PathBuf,
        /// The first position that cannot be read.
        position: Position,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// The device does not give a part of a segment. What can be read of the store can be read
    /// with [`ReadOnlyStore`](crate::ReadOnlyStore).
    #[error("the device does not give all of {}; restore it from a backup{}", path.display(), advice(store_of(path), *remedy))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What can be done without a backup.
        remedy: Option<Remedy>,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The disk is full.
    #[error("no space to open {}; free some", path.display())]
    StorageFull {
        /// The file that found none.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl OpenError {
    /// Returns the file that is concerned, the first position and the byte in the file from which
    /// on, and what is wrong with it.
    pub fn place(&self) -> (Option<&Path>, Option<(Position, u64)>, String) {
        match self {
            Self::AcknowledgedDamage { path, position, offset, detail }
            | Self::UnexplainedTail { path, position, offset, detail } => {
                (Some(path), Some((*position, *offset)), detail.clone())
            }
            Self::File { path, detail } => (Some(path), None, detail.clone()),
            Self::MissingSegment { path, id } => {
                (Some(path), None, format!("segment {id} is missing"))
            }
            Self::Unreadable { path, source, .. } => {
                (Some(path), None, format!("the device does not give all of it: {source}"))
            }
            _ => (None, None, self.to_string()),
        }
    }

    /// Returns what can be done about damage if there is no backup.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::UnexplainedTail { .. } | Self::AcknowledgedDamage { .. } => Some(Remedy::CutTail),
            Self::MissingSegment { path, id } => without(path, *id),
            Self::File { path, .. } => Remedy::without(path),
            Self::Unreadable { remedy, .. } => *remedy,
            _ => None,
        }
    }

    /// Names what keeps a segment from being read, and what may help if it is the device.
    pub(crate) fn read(segment: &Path, remedy: Option<Remedy>) -> impl FnOnce(io::Error) -> Self {
        let path = segment.to_owned();
        move |error| {
            if crate::fs::is_unreadable(&error) {
                Self::Unreadable { path, remedy, source: Arc::new(error) }
            } else {
                Self::io("read", path)(error)
            }
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| {
            let source = Arc::new(error);
            if crate::fs::is_full(&source) {
                Self::StorageFull { path, source }
            } else {
                Self::Io { action, path, source }
            }
        }
    }
}

/// Why closing a store could not make everything durable.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The last sync failed, or an earlier write had: what reached the disk is unknown until the
    /// store is opened again.
    #[error(
        "the store was closed, and what was written last may not be durable; open it to learn what it holds"
    )]
    Indeterminate(#[source] Arc<io::Error>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_the_command_of_a_remedy_as_it_is() {
        for (root, quoted) in [
            ("/var/lib/a-b_1.2", "/var/lib/a-b_1.2"),
            ("/my store", "'/my store'"),
            ("$HOME/`x`", "'$HOME/`x`'"),
        ] {
            let command = Remedy::CutTail.command(Path::new(root));
            assert_eq!(command, format!("headwater repair {quoted} --cut-tail"));
        }
        let root = "it's; a \"store\" \\ *";
        let command = Remedy::Reindex.command(Path::new(root));
        let words = shlex::split(&command).unwrap();
        assert_eq!(words, ["headwater", "repair", root, "--reindex"]);
    }
}
