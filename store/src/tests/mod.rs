//! Tests of the whole store on a file system that fails on command.

mod backup;
mod bugs;
mod crash;
mod faults;
mod flushes;
mod incidents;
mod pinned;
mod staged;

use std::path::Path;
use std::sync::Arc;

use headwater_core::{
    Append, CodecId, EventType, NewEvent, Position, Query, Read, RecordedEvent, StreamId,
};

use crate::error::OpenError;
use crate::fs::Fs;
use crate::fs::faulty::FaultyFs;
use crate::handle::Store;
use crate::options::Options;

fn small() -> Options {
    Options { segment_bytes: 64 * 1024, ..Options::default() }
}

fn open(fs: &FaultyFs, path: &Path, options: Options) -> Result<Store, OpenError> {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    Store::open_on(&fs, path, options)
}

/// Copies a store as a crash of its process leaves it.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_store(&entry.path(), &target);
        } else {
            let copied = std::fs::copy(entry.path(), target);
            // What a thread of the store was still making may have got its name meanwhile.
            let made = entry.file_name().to_string_lossy().ends_with(".tmp");
            assert!(made || copied.is_ok(), "{}: {copied:?}", entry.path().display());
        }
    }
}

fn append(stream: &str, payload: &str) -> Append {
    let stream = StreamId::new(stream).unwrap();
    let event_type = EventType::new("t").unwrap();
    Append::new([NewEvent::new(stream, event_type, CodecId::RAW, payload.to_owned())])
}

fn all(store: &Store) -> Vec<RecordedEvent> {
    let read = Read::forward(Query::all(), Position::START).limit(100_000);
    let page = store.read_blocking(&read).unwrap();
    assert!(page.done);
    page.events
}
