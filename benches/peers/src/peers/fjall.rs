//! fjall as an event store: keyspaces of events by position, positions by stream and revision,
//! and each stream's last revision. One lock gives positions; one atomic batch is one commit.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{
    Fallible, Mode, Peer, Prepared, Seen, VALUE_PAYLOAD_AT, Verdict, encode, number, stream_key,
    stream_name,
};

pub struct Fjall {
    database: Database,
    events: Keyspace,
    streams: Keyspace,
    heads: Keyspace,
    last: Mutex<u64>,
    persist: PersistMode,
}

impl Fjall {
    pub fn open(dir: &Path, mode: Mode) -> Fallible<Self> {
        let database = Database::builder(dir).open()?;
        let events = database.keyspace("events", KeyspaceCreateOptions::default)?;
        let streams = database.keyspace("streams", KeyspaceCreateOptions::default)?;
        let heads = database.keyspace("heads", KeyspaceCreateOptions::default)?;
        let last = match events.last_key_value() {
            Some(guard) => number(&guard.key()?)?,
            None => 0,
        };
        let persist = match mode {
            Mode::Sync => PersistMode::SyncData,
            Mode::Os => PersistMode::Buffer,
        };
        Ok(Self { database, events, streams, heads, last: Mutex::new(last), persist })
    }

    fn revision(&self, stream: &str) -> Fallible<u64> {
        self.heads.get(stream)?.map_or(Ok(0), |value| number(&value))
    }

    fn commit(&self, streams: &[u64], expected: Option<u64>) -> Fallible<Verdict> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expected) = expected
            && self.revision(&stream_name(streams[0]))? != expected
        {
            return Ok(Verdict::Refused);
        }
        let mut batch = self.database.batch().durability(Some(self.persist));
        let mut staged: HashMap<u64, u64> = HashMap::new();
        let mut position = *last;
        for &stream in streams {
            let name = stream_name(stream);
            let revision = 1 + match staged.get(&stream) {
                Some(&revision) => revision,
                None => self.revision(&name)?,
            };
            staged.insert(stream, revision);
            position += 1;
            let place = position.to_be_bytes();
            batch.insert(&self.events, place, encode(&name, revision));
            batch.insert(&self.streams, stream_key(&name, revision), place);
            batch.insert(&self.heads, name.as_bytes(), revision.to_be_bytes());
        }
        batch.commit()?;
        *last = position;
        Ok(Verdict::Accepted)
    }
}

impl Peer for Fjall {
    fn prepare<'a>(&'a self, streams: &'a [u64], expected: Option<u64>) -> Fallible<Prepared<'a>> {
        Ok(Box::new(move || self.commit(streams, expected)))
    }

    fn version(&self, stream: u64) -> Fallible<u64> {
        self.revision(&stream_name(stream))
    }

    fn replay(&self) -> Fallible<Option<Seen>> {
        let mut seen = Seen::default();
        for guard in self.events.iter() {
            seen.payload(&guard.value()?[VALUE_PAYLOAD_AT..]);
        }
        Ok(Some(seen))
    }

    fn load(&self, stream: u64) -> Fallible<Option<Seen>> {
        let mut seen = Seen::default();
        for guard in self.streams.prefix(stream_name(stream)) {
            let event = self.events.get(guard.value()?)?.ok_or("an event is missing")?;
            seen.payload(&event[VALUE_PAYLOAD_AT..]);
        }
        Ok(Some(seen))
    }

    fn count(&self) -> Fallible<Option<u64>> {
        Ok(Some(*self.last.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn flush(&self) -> Fallible<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn close(self: Arc<Self>) -> Fallible<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
