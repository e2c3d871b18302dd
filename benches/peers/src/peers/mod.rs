//! One adapter per peer, all behind one trait. A method that a peer has no notion of stays as it
//! is here and gives `None`; the table then says so.

mod bare;
mod fjall;
mod headwater;
mod okaywal;
mod redb;
mod sqlite;
mod tephra;
mod umadb;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

pub type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The peers in the order of the table's columns, with the versions that the manifest pins.
pub const PEERS: [(&str, &str); 8] = [
    ("headwater", "this tree"),
    ("tephra", "0.4.1"),
    ("umadb", "core 0.7.8"),
    ("fjall", "3.1.13"),
    ("redb", "4.6.0"),
    ("sqlite", "rusqlite 0.37.0"),
    ("okaywal", "0.3.1"),
    ("bare", "pwrite, fdatasync"),
];

/// What an acknowledged append survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The loss of power.
    Sync,
    /// The end of the process.
    Os,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    Refused,
}

/// What a walk over events found: how many, and the sum of all their payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub events: u64,
    pub sum: u64,
}

impl Seen {
    pub fn payload(&mut self, bytes: &[u8]) {
        self.events += 1;
        // Eight at a time, or adding them takes longer than to read them.
        let (words, rest) = bytes.as_chunks();
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        self.sum = words.fold(self.sum, u64::wrapping_add);
        self.sum = rest.iter().fold(self.sum, |sum, &byte| sum.wrapping_add(byte.into()));
    }
}

/// An append whose events are built. Calling it is what the clock measures.
pub type Prepared<'a> = Box<dyn FnOnce() -> Fallible<Verdict> + 'a>;

/// A store that takes events.
pub trait Peer: Send + Sync {
    /// Prepares to append one event to each of these streams, as one commit. With `expected`, only
    /// if the first one's version is still that.
    fn prepare<'a>(&'a self, streams: &'a [u64], expected: Option<u64>) -> Fallible<Prepared<'a>>;

    /// Prepares an append and does it.
    fn append(&self, streams: &[u64], expected: Option<u64>) -> Fallible<Verdict> {
        self.prepare(streams, expected)?()
    }

    /// Whether it keeps events at all.
    fn is_store(&self) -> bool {
        true
    }

    /// Whether an append can be made to depend on a stream's version.
    fn has_conditions(&self) -> bool {
        true
    }

    /// The version of a stream that [`append`](Self::append) takes back; 0 if it has no event.
    fn version(&self, _stream: u64) -> Fallible<u64> {
        Ok(0)
    }

    /// Appends single events from this thread until a moment, with so many in flight. Returns how
    /// many were acknowledged.
    fn pipeline(&self, _in_flight: usize, _until: Instant) -> Fallible<Option<u64>> {
        Ok(None)
    }

    /// Reads the whole log.
    fn replay(&self) -> Fallible<Option<Seen>> {
        Ok(None)
    }

    /// Reads a stream.
    fn load(&self, _stream: u64) -> Fallible<Option<Seen>> {
        Ok(None)
    }

    /// Subscribes from the head on, says `ready`, and calls `seen` for so many events that come.
    /// Returns whether the peer has subscriptions.
    fn follow(&self, _events: usize, _ready: &dyn Fn(), _seen: &dyn Fn()) -> Fallible<bool> {
        Ok(false)
    }

    /// How many events are in the log, if it can tell.
    fn count(&self) -> Fallible<Option<u64>> {
        Ok(None)
    }

    /// Makes durable what was appended.
    fn flush(&self) -> Fallible<()> {
        Ok(())
    }

    /// Closes the store as its documentation says.
    fn close(self: Arc<Self>) -> Fallible<()>;
}

/// Opens a peer's store, or gives `None` if it has no such mode.
pub fn open(peer: &str, dir: &Path, mode: Mode) -> Fallible<Option<Arc<dyn Peer>>> {
    if mode == Mode::Os && matches!(peer, "tephra" | "umadb" | "okaywal") {
        return Ok(None);
    }
    std::fs::create_dir_all(dir)?;
    Ok(Some(match peer {
        "headwater" => Arc::new(headwater::Headwater::open(dir, mode)?),
        "tephra" => Arc::new(tephra::Tephra::open(dir)?),
        "umadb" => Arc::new(umadb::Uma::open(dir)?),
        "fjall" => Arc::new(fjall::Fjall::open(dir, mode)?),
        "redb" => Arc::new(redb::Redb::open(dir, mode)?),
        "sqlite" => Arc::new(sqlite::Sqlite::open(dir, mode)?),
        "okaywal" => Arc::new(okaywal::Okay::open(dir)?),
        "bare" => Arc::new(bare::Bare::open(dir, mode)?),
        other => return Err(format!("no peer is called {other}").into()),
    }))
}

pub const EVENT_TYPE: &str = "something.done";
/// 18 bytes with its name.
pub const METADATA: (&str, &str) = ("trace", "4bf92f3577b34");
pub const PAYLOAD: [u8; 256] = [0xA5; 256];

/// The name of a stream: 16 bytes.
pub fn stream_name(stream: u64) -> String {
    format!("stream-{stream:09}")
}

/// An event as one value, for peers that keep values under keys: stream, revision, type,
/// metadata, payload.
pub fn encode(stream: &str, revision: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_PAYLOAD_AT + PAYLOAD.len());
    value.extend_from_slice(stream.as_bytes());
    value.extend_from_slice(&revision.to_be_bytes());
    value.extend_from_slice(EVENT_TYPE.as_bytes());
    value.extend_from_slice(METADATA.0.as_bytes());
    value.extend_from_slice(METADATA.1.as_bytes());
    value.extend_from_slice(&PAYLOAD);
    value
}

/// Where the payload begins in such a value.
pub const VALUE_PAYLOAD_AT: usize = 16 + 8 + 14 + 18;

/// A key that sorts by stream and then by revision.
pub fn stream_key(stream: &str, revision: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(stream.as_bytes());
    key[16..].copy_from_slice(&revision.to_be_bytes());
    key
}

/// A big-endian number.
pub fn number(bytes: &[u8]) -> Fallible<u64> {
    Ok(u64::from_be_bytes(bytes.try_into()?))
}
