//! tephra, with the segment size of its README and its writer's defaults. Every append is
//! durable; there is no other mode. A stream is a tag; metadata goes in front of the payload.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tephra::{
    AppendCondition, AppendError, Event, EventType, Position, Query, QueryItem, SegmentConfig,
    SegmentSet, Tag, Tags, WriteCoordinator, WriteHandle, WriterConfig,
};

use super::{EVENT_TYPE, Fallible, METADATA, PAYLOAD, Peer, Prepared, Seen, Verdict, stream_name};

const SEGMENT_BYTES: usize = 256 * 1024 * 1024;
const METADATA_BYTES: usize = METADATA.0.len() + METADATA.1.len();

pub struct Tephra {
    handle: WriteHandle,
    coordinator: Mutex<Option<WriteCoordinator>>,
}

impl Tephra {
    pub fn open(dir: &Path) -> Fallible<Self> {
        let set = SegmentSet::open(dir, SegmentConfig::new(SEGMENT_BYTES))?;
        let (coordinator, handle) = WriteCoordinator::start(set, WriterConfig::default())?;
        Ok(Self { handle, coordinator: Mutex::new(Some(coordinator)) })
    }
}

fn tags(stream: u64) -> Fallible<Tags> {
    Ok(Tags::new([Tag::new(stream_name(stream))?])?)
}

fn query(stream: u64) -> Fallible<Query> {
    Ok(Query::item(QueryItem::with_tags(tags(stream)?)))
}

fn event(stream: u64) -> Fallible<Event> {
    let mut payload = Vec::with_capacity(METADATA_BYTES + PAYLOAD.len());
    payload.extend_from_slice(METADATA.0.as_bytes());
    payload.extend_from_slice(METADATA.1.as_bytes());
    payload.extend_from_slice(&PAYLOAD);
    Ok(Event::new(&EventType::new(EVENT_TYPE)?, &tags(stream)?, &payload)?)
}

impl Peer for Tephra {
    fn prepare<'a>(&'a self, streams: &'a [u64], expected: Option<u64>) -> Fallible<Prepared<'a>> {
        let events = streams.iter().map(|&n| event(n)).collect::<Fallible<Vec<_>>>()?;
        let condition = match expected {
            Some(after) => {
                let boundary = AppendCondition::new(query(streams[0])?);
                Some(boundary.after(Position::new(after)))
            }
            None => None,
        };
        Ok(Box::new(move || match self.handle.append(events, condition) {
            Ok(_) => Ok(Verdict::Accepted),
            Err(AppendError::Conflict { .. }) => Ok(Verdict::Refused),
            Err(error) => Err(error.into()),
        }))
    }

    fn version(&self, stream: u64) -> Fallible<u64> {
        let mut reads = self.handle.read_back(&query(stream)?, Position::MAX, Some(1));
        let newest = reads.next().transpose()?;
        Ok(newest.map_or(0, |newest| newest.position.get()))
    }

    fn pipeline(&self, in_flight: usize, until: Instant) -> Fallible<Option<u64>> {
        let (reply, replies) = flume::unbounded();
        let (mut sent, mut done) = (0, 0);
        loop {
            let open = Instant::now() < until;
            while open && sent - done < in_flight as u64 {
                sent += 1;
                let events = vec![event(sent % 10_000)?];
                self.handle.append_submit(events, None, sent, reply.clone())?;
            }
            if sent == done {
                return Ok(Some(done));
            }
            replies.recv()?.1?;
            done += 1;
        }
    }

    fn replay(&self) -> Fallible<Option<Seen>> {
        let mut seen = Seen::default();
        let mut reads = self.handle.read(&Query::all(), Position::ZERO, None);
        while let Some(item) = reads.next() {
            seen.payload(&item?.event.data()[METADATA_BYTES..]);
        }
        Ok(Some(seen))
    }

    fn load(&self, stream: u64) -> Fallible<Option<Seen>> {
        let mut seen = Seen::default();
        let mut reads = self.handle.read(&query(stream)?, Position::ZERO, None);
        while let Some(item) = reads.next() {
            seen.payload(&item?.event.data()[METADATA_BYTES..]);
        }
        Ok(Some(seen))
    }

    fn follow(&self, events: usize, ready: &dyn Fn(), seen: &dyn Fn()) -> Fallible<bool> {
        let mut subscription = self.handle.subscribe(Query::all(), self.handle.head());
        ready();
        let mut came = 0;
        while came < events {
            let batch = subscription.next_batch().ok_or("the store closed")??;
            for _ in batch {
                came += 1;
                seen();
            }
        }
        Ok(true)
    }

    fn count(&self) -> Fallible<Option<u64>> {
        Ok(Some(self.handle.head().get()))
    }

    fn close(self: Arc<Self>) -> Fallible<()> {
        let mut coordinator = self.coordinator.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(coordinator) = coordinator.take() {
            coordinator.shutdown();
        }
        Ok(())
    }
}
