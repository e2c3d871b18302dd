//! redb as an event store: tables of events by position, positions by stream and revision, and
//! each stream's last revision. One write transaction is one commit.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    Fallible, Mode, Peer, Prepared, Seen, VALUE_PAYLOAD_AT, Verdict, encode, stream_key,
    stream_name,
};

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const STREAMS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("streams");
const HEADS: TableDefinition<'_, &str, u64> = TableDefinition::new("heads");

pub struct Redb {
    database: Database,
    durability: Durability,
}

impl Redb {
    pub fn open(dir: &Path, mode: Mode) -> Fallible<Self> {
        let database = Database::create(dir.join("events.redb"))?;
        let tables = database.begin_write()?;
        tables.open_table(EVENTS)?;
        tables.open_table(STREAMS)?;
        tables.open_table(HEADS)?;
        tables.commit()?;
        let durability = match mode {
            Mode::Sync => Durability::Immediate,
            Mode::Os => Durability::None,
        };
        Ok(Self { database, durability })
    }

    fn commit(&self, streams: &[u64], expected: Option<u64>) -> Fallible<Verdict> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        {
            let mut events = transaction.open_table(EVENTS)?;
            let mut index = transaction.open_table(STREAMS)?;
            let mut heads = transaction.open_table(HEADS)?;
            let mut position = events.last()?.map_or(0, |(key, _)| key.value());
            let mut expected = expected;
            for &stream in streams {
                let name = stream_name(stream);
                let revision = heads.get(name.as_str())?.map_or(0, |value| value.value());
                if expected.take().is_some_and(|expected| expected != revision) {
                    return Ok(Verdict::Refused);
                }
                let revision = revision + 1;
                position += 1;
                events.insert(position, encode(&name, revision).as_slice())?;
                index.insert(stream_key(&name, revision).as_slice(), position)?;
                heads.insert(name.as_str(), revision)?;
            }
        }
        transaction.commit()?;
        Ok(Verdict::Accepted)
    }
}

impl Peer for Redb {
    fn prepare<'a>(&'a self, streams: &'a [u64], expected: Option<u64>) -> Fallible<Prepared<'a>> {
        Ok(Box::new(move || self.commit(streams, expected)))
    }

    fn version(&self, stream: u64) -> Fallible<u64> {
        let heads = self.database.begin_read()?.open_table(HEADS)?;
        Ok(heads.get(stream_name(stream).as_str())?.map_or(0, |value| value.value()))
    }

    fn replay(&self) -> Fallible<Option<Seen>> {
        let events = self.database.begin_read()?.open_table(EVENTS)?;
        let mut seen = Seen::default();
        for entry in events.iter()? {
            seen.payload(&entry?.1.value()[VALUE_PAYLOAD_AT..]);
        }
        Ok(Some(seen))
    }

    fn load(&self, stream: u64) -> Fallible<Option<Seen>> {
        let transaction = self.database.begin_read()?;
        let events = transaction.open_table(EVENTS)?;
        let index = transaction.open_table(STREAMS)?;
        let name = stream_name(stream);
        let (first, last) = (stream_key(&name, 0), stream_key(&name, u64::MAX));
        let mut seen = Seen::default();
        for entry in index.range(first.as_slice()..=last.as_slice())? {
            let event = events.get(entry?.1.value())?.ok_or("an event is missing")?;
            seen.payload(&event.value()[VALUE_PAYLOAD_AT..]);
        }
        Ok(Some(seen))
    }

    fn count(&self) -> Fallible<Option<u64>> {
        let events = self.database.begin_read()?.open_table(EVENTS)?;
        Ok(Some(events.last()?.map_or(0, |(key, _)| key.value())))
    }

    fn flush(&self) -> Fallible<()> {
        // An empty commit that is durable makes those before it durable.
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        Ok(transaction.commit()?)
    }

    fn close(self: Arc<Self>) -> Fallible<()> {
        Ok(())
    }
}
