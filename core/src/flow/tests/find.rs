use async_trait::async_trait;
use uuid::{NoContext, Uuid};

use super::*;
use crate::append::{AppendError, Appended, Durability};
use crate::flow::find::{anywhere, near};
use crate::id::LogId;
use crate::log::{Page, Visibility};
use crate::subscription::Subscription;

/// A log whose events were committed ten milliseconds after each other, beginning with 1970.
#[derive(Debug)]
struct Timed(MemoryLog);

fn at(position: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(position * 10).unwrap())
}

#[async_trait]
impl EventLog for Timed {
    fn id(&self) -> LogId {
        self.0.id()
    }

    fn durability(&self) -> Durability {
        self.0.durability()
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.0.append(append).await
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        self.0.find_append(id).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        let mut page = self.0.read(read).await?;
        page.events.iter_mut().for_each(|event| event.commit_time = at(event.position.get()));
        Ok(page)
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        self.0.head(visibility).await
    }

    async fn wait_for(&self, at: Position, visible: Visibility) -> Result<Position, ReadError> {
        self.0.wait_for(at, visible).await
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        self.0.subscribe(query, after)
    }
}

/// An id that was made when the event at a position was committed, but for the last digits.
fn made_at(position: u64, digits: u8) -> EventId {
    let millis = position * 10;
    let nanos = u32::try_from(millis % 1_000 * 1_000_000).unwrap();
    let time = uuid::Timestamp::from_unix(NoContext, millis / 1_000, nanos);
    let mut bytes = Uuid::new_v7(time).into_bytes();
    bytes[15] = digits;
    EventId::from_bytes(bytes)
}

/// 25,000 events, with these ids at these positions.
fn log_of(ids: &[(u64, EventId)]) -> Timed {
    let ids: HashMap<u64, EventId> = ids.iter().copied().collect();
    let log = MemoryLog::new();
    for begin in (0..25_000).step_by(1_000) {
        let events = (begin + 1..=begin + 1_000).map(|position| match ids.get(&position) {
            Some(&id) => NewEvent { id, ..new("a-1") },
            None => new("a-1"),
        });
        block_on(log.append(Append::new(events))).unwrap();
    }
    Timed(log)
}

#[test]
fn the_beginning_of_a_flow_is_looked_for_in_three_places() {
    let on_time = (3_000, made_at(2_999, 1));
    let clock_ahead = (3_001, made_at(8_000, 2));
    let appended_late = (20_000, made_at(10_000, 3));
    let nowhere = (3_002, made_at(20_000, 4));
    let log = log_of(&[on_time, clock_ahead, appended_late, nowhere]);
    let find = |id, before| {
        let found = near(&log, id, Position::START, Position::new(before));
        block_on(found).unwrap().map(|event| event.position.get())
    };
    for (position, id) in [on_time, clock_ahead, appended_late] {
        assert_eq!(find(id, 25_001), Some(position));
        assert_eq!(find(id, position), None, "what comes later caused nothing before");
    }
    assert_eq!(find(nowhere.1, 25_001), None);
}

#[test]
fn where_the_time_says_no_more_events_are_looked_at_than_asked() {
    let (position, id) = (3_000, made_at(2_997, 1));
    let log = log_of(&[(position, id)]);
    for (max, found) in [(0, false), (2, false), (3, true)] {
        let event = block_on(anywhere(&log, id, Position::START, max)).unwrap();
        assert_eq!(event.is_some(), found, "{max}");
    }
}
