//! A log on its way in: lines are parsed in a thread of their own, and written in the caller's.

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use headwater_core::{AppendError, GroupError, LogId, Timestamp};

use super::lines::{self, LogLines, Parcel};
use super::target::{self, Beginning, Target};
use super::{ImportError, TransferProgress, Transferred};
use crate::error::OpenError;
use crate::fs::{Fs, RealFs, is_full};
use crate::handle::Store;
use crate::options::Options;
use crate::writer::{Committed, ImportFault};

/// How many parcels of lines may wait for the writer.
const PARCELS_MAX: usize = 4;

/// Which log an import makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImportedId {
    /// A log of its own, beside the one that was exported. Checkpoints and cursors of that one do
    /// not fit it, and whoever has one is told so.
    #[default]
    New,
    /// The same log in another place, created when it was: checkpoints go on. From now on only one of
    /// the two may be written to, or positions mean different events in each.
    Kept,
}

/// How an import is made.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Which log it is.
    pub id: ImportedId,
    /// How its segments are made. The other options matter only when the store is opened.
    pub store: Options,
}

impl Store {
    /// Makes a store of the lines that [`ReadOnlyStore::export`](crate::ReadOnlyStore::export) wrote,
    /// in a directory that is missing, empty, or holds an import that was not finished. Positions,
    /// revisions, ids, times, appends and their ids, groups and their progress are what they were.
    /// `progress` is told now and then.
    ///
    /// There is no store before everything is durable: what a crash leaves is known for what it is,
    /// cannot be opened, and the next import into it begins anew.
    ///
    /// # Errors
    ///
    /// [`ImportError`] names the line and the remedy; there is no store then.
    ///
    /// # Complexity
    ///
    /// Linear in the lines. Memory is bounded, but for the names of streams of which everything was
    /// removed.
    pub fn import(
        path: impl AsRef<Path>,
        input: impl Read + Send + 'static,
        options: ImportOptions,
        progress: impl FnMut(&TransferProgress),
    ) -> Result<Transferred, ImportError> {
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        import(&fs, path.as_ref(), input, options, progress)
    }
}

/// Imports on any file system.
pub(crate) fn import(
    fs: &Arc<dyn Fs>,
    path: &Path,
    input: impl Read + Send + 'static,
    options: ImportOptions,
    progress: impl FnMut(&TransferProgress),
) -> Result<Transferred, ImportError> {
    // Nobody should wait for input that cannot be used.
    let segment_bytes = options.store.clone().checked()?.segment_bytes;
    Target::admit(fs.as_ref(), path)?;
    let (sender, parcels) = mpsc::sync_channel(PARCELS_MAX);
    let work = move || lines::read(input, segment_bytes, |parcel| sender.send(parcel).is_ok());
    // Nobody waits for it where the import fails: it may hang in a read, and ends with that.
    let parser = thread::Builder::new().name("headwater-import".to_owned()).spawn(work);
    parser.map_err(OpenError::io("start a thread for", path))?;
    let Parcel::Log(head) = next(&parcels)? else { unreachable!("the log comes first") };
    let target = Target::take(fs, path, options.store)?;
    let filled = fill(&target, *head, &parcels, options.id, progress);
    if filled.is_err()
        && let Err(error) = target.clear()
    {
        tracing::warn!(%error, "what an import has made stays; the next one removes it");
    }
    filled
}

fn next(parcels: &mpsc::Receiver<Parcel>) -> Result<Parcel, ImportError> {
    match parcels.recv() {
        Ok(Parcel::Fault(error)) => Err(error),
        Ok(parcel) => Ok(parcel),
        Err(_) => Err(ImportError::Input(io::Error::other("the parser panicked"))),
    }
}

/// Takes parcels in until the last.
fn fill(
    target: &Target,
    head: LogLines,
    parcels: &mpsc::Receiver<Parcel>,
    id: ImportedId,
    mut progress: impl FnMut(&TransferProgress),
) -> Result<Transferred, ImportError> {
    let LogLines { id: from, created, log, tails, ledger } = head;
    let (id, created) = match id {
        ImportedId::New => (LogId::generate(), Timestamp::now()),
        ImportedId::Kept => (from, created),
    };
    let start = log.start;
    let store = target.begin(&Beginning { id, created, start, tails, ledger })?;
    let events_total = log.head.events_since(start).unwrap_or(0);
    let mut events = 0;
    let end = loop {
        match next(parcels)? {
            Parcel::Appends(appends, bytes) => {
                events += take(&store, appends)?;
                progress(&TransferProgress { events, events_total, bytes });
            }
            Parcel::End(end) => break end,
            other => unreachable!("events are followed by their end, not {other:?}"),
        }
    };
    target.finish(&store, &end.groups, log.offsets)?;
    Ok(Transferred {
        log: from,
        into: id,
        start,
        head: log.head,
        events,
        groups: log.groups,
        lines: end.lines,
        bytes: end.bytes,
    })
}

/// Takes appends in, and returns how many events they have.
fn take(store: &target::Store, appends: Vec<(u64, Committed)>) -> Result<u64, ImportError> {
    let mut events = 0;
    for (line, mut committed) in appends {
        store.writer.import(&mut committed).map_err(|fault| match fault {
            ImportFault::Misplaced(at, fault) => {
                ImportError::Misplaced { line: line + at as u64, fault }
            }
            ImportFault::Failed(error) => error.into(),
        })?;
        events += committed.events() as u64;
    }
    Ok(events)
}

impl From<AppendError> for ImportError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::StorageFull(error) => Self::StorageFull(error),
            AppendError::NoSegment(error)
            | AppendError::Indeterminate(error)
            | AppendError::Poisoned(error) => written(error),
            other => Self::Engine(Arc::new(other)),
        }
    }
}

impl From<GroupError> for ImportError {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::StorageFull(error) => Self::StorageFull(error),
            GroupError::NoSegment(error) | GroupError::Indeterminate(error) => written(error),
            other => Self::Engine(Arc::new(other)),
        }
    }
}

fn written(error: Arc<io::Error>) -> ImportError {
    if is_full(&error) { ImportError::StorageFull(error) } else { ImportError::Write(error) }
}
