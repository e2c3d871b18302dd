//! Headwater's own store, with its default options but for the durability.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use headwater_core::{
    Append, AppendError, CodecId, Durability, EventLog, EventType, ExpectedRevision, Headers,
    NewEvent, Position, Query, Read, Revision, StreamId, Visibility,
};
use headwater_store::{Options, Store};

use super::{
    EVENT_TYPE, Fallible, METADATA, Mode, PAYLOAD, Peer, Prepared, Seen, Verdict, stream_name,
};

pub struct Headwater {
    store: Store,
}

impl Headwater {
    pub fn open(dir: &Path, mode: Mode) -> Fallible<Self> {
        let durability = match mode {
            Mode::Sync => Durability::Sync,
            Mode::Os => Durability::Os,
        };
        let options = Options { durability, ..Options::default() };
        Ok(Self { store: Store::open(dir.join("store"), options)? })
    }
}

fn stream_id(stream: u64) -> Fallible<StreamId> {
    Ok(StreamId::new(stream_name(stream))?)
}

fn event(stream: u64) -> Fallible<NewEvent> {
    let event_type = EventType::new(EVENT_TYPE)?;
    let payload = PAYLOAD.to_vec();
    let mut event = NewEvent::new(stream_id(stream)?, event_type, CodecId::RAW, payload);
    let mut headers = Headers::new();
    headers.insert(METADATA.0, METADATA.1)?;
    event.headers = headers;
    Ok(event)
}

impl Peer for Headwater {
    fn prepare<'a>(&'a self, streams: &'a [u64], expected: Option<u64>) -> Fallible<Prepared<'a>> {
        let events: Vec<_> = streams.iter().map(|&n| event(n)).collect::<Fallible<_>>()?;
        let mut append = Append::new(events);
        if let Some(expected) = expected {
            let expected = match expected {
                0 => ExpectedRevision::NoStream,
                n => ExpectedRevision::Exact(Revision::new(n)),
            };
            append = append.expecting(stream_id(streams[0])?, expected);
        }
        Ok(Box::new(move || match self.store.append_blocking(append) {
            Ok(_) => Ok(Verdict::Accepted),
            Err(AppendError::Conflict(_)) => Ok(Verdict::Refused),
            Err(error) => Err(error.into()),
        }))
    }

    fn version(&self, stream: u64) -> Fallible<u64> {
        let stream = stream_id(stream)?;
        Ok(pollster::block_on(self.store.stream_revision(&stream))?.get())
    }

    fn pipeline(&self, in_flight: usize, until: Instant) -> Fallible<Option<u64>> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut waiting = VecDeque::with_capacity(in_flight);
        let (mut sent, mut done) = (0, 0);
        loop {
            let open = Instant::now() < until;
            while open && waiting.len() < in_flight {
                sent += 1;
                let mut ticket = self.store.append(Append::new([event(sent % 10_000)?]));
                // The first poll queues it.
                match ticket.as_mut().poll(&mut context) {
                    std::task::Poll::Ready(appended) => drop(appended?),
                    std::task::Poll::Pending => waiting.push_back(ticket),
                }
            }
            let Some(oldest) = waiting.pop_front() else { return Ok(Some(done)) };
            pollster::block_on(oldest)?;
            done += 1;
        }
    }

    fn replay(&self) -> Fallible<Option<Seen>> {
        let mut scan = self.store.scan(Position::START)?;
        let mut seen = Seen::default();
        while let Some(event) = scan.next() {
            seen.payload(event?.payload());
        }
        Ok(Some(seen))
    }

    fn load(&self, stream: u64) -> Fallible<Option<Seen>> {
        let query = Query::stream(stream_id(stream)?);
        let mut seen = Seen::default();
        let mut after = Position::START;
        loop {
            let page = self.store.read_blocking(&Read::forward(query.clone(), after))?;
            for event in &page.events {
                seen.payload(&event.payload);
            }
            if page.done {
                return Ok(Some(seen));
            }
            after = page.scanned;
        }
    }

    fn follow(&self, events: usize, ready: &dyn Fn(), seen: &dyn Fn()) -> Fallible<bool> {
        let head = pollster::block_on(self.store.head(Visibility::Committed))?;
        let mut subscription = self.store.subscribe(Query::all(), head);
        ready();
        for _ in 0..events {
            pollster::block_on(subscription.next())?;
            seen();
        }
        Ok(true)
    }

    fn count(&self) -> Fallible<Option<u64>> {
        Ok(Some(pollster::block_on(self.store.head(Visibility::Committed))?.get()))
    }

    fn flush(&self) -> Fallible<()> {
        self.store.flush()?;
        Ok(())
    }

    fn close(self: Arc<Self>) -> Fallible<()> {
        Ok(self.store.close()?)
    }
}
