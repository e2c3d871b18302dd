//! umadb's core crate behind its own blocking writer thread, as its server runs it. Every append
//! is durable. A stream is a tag. The core has no subscriptions.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use umadb_core::db::UmaDb;
use umadb_core::mvcc::{Mvcc, StorageOptions};
use umadb_core::writer_thread_blocking::writer_thread_blocking;
use umadb_core::writer_thread_request::WriterThreadRequest;
use umadb_dcb::{
    DcbAppendCondition, DcbError, DcbEvent, DcbEventStoreSync, DcbQuery, DcbQueryItem, DcbResult,
};

use super::{EVENT_TYPE, Fallible, METADATA, PAYLOAD, Peer, Prepared, Seen, Verdict, stream_name};

const GROUP_EVENTS_MAX: usize = 2048;
/// A read of the core gives all its events at once, so a replay goes in pages.
const PAGE_EVENTS: u32 = 10_000;

pub struct Uma {
    db: UmaDb,
    requests: mpsc::Sender<WriterThreadRequest>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Uma {
    pub fn open(dir: &Path) -> Fallible<Self> {
        let options = StorageOptions::default().db_path(dir.join("uma.db"));
        let mvcc = Arc::new(Mvcc::new(false, options)?);
        let (requests, inbox) = mpsc::channel(16_384);
        let (head, _) = watch::channel(None);
        let shared = Arc::clone(&mvcc);
        let writer = std::thread::spawn(move || {
            writer_thread_blocking(shared, inbox, head, GROUP_EVENTS_MAX);
        });
        Ok(Self { db: UmaDb::from_arc(mvcc), requests, writer: Mutex::new(Some(writer)) })
    }

    fn submit(
        &self,
        events: Vec<DcbEvent>,
        condition: Option<DcbAppendCondition>,
    ) -> Fallible<oneshot::Receiver<DcbResult<u64>>> {
        let (response_tx, answer) = oneshot::channel();
        let request = WriterThreadRequest::Append {
            events,
            condition,
            tracking_info: None,
            response_tx,
            cancel: None,
        };
        self.requests.blocking_send(request).map_err(|_| "the writer is gone")?;
        Ok(answer)
    }
}

fn event(stream: u64) -> DcbEvent {
    DcbEvent {
        event_type: EVENT_TYPE.to_owned(),
        tags: vec![stream_name(stream)],
        data: PAYLOAD.to_vec(),
        uuid: None,
        metadata: vec![(METADATA.0.to_owned(), METADATA.1.to_owned())],
    }
}

fn query(stream: u64) -> DcbQuery {
    DcbQuery::new().item(DcbQueryItem::new().tags([stream_name(stream)]))
}

impl Peer for Uma {
    fn prepare<'a>(&'a self, streams: &'a [u64], expected: Option<u64>) -> Fallible<Prepared<'a>> {
        let events = streams.iter().map(|&n| event(n)).collect();
        let condition = expected.map(|after| {
            let after = Some(after).filter(|&after| after > 0);
            DcbAppendCondition::new(query(streams[0])).after(after)
        });
        Ok(Box::new(move || match self.submit(events, condition)?.blocking_recv()? {
            Ok(_) => Ok(Verdict::Accepted),
            Err(DcbError::IntegrityError(_)) => Ok(Verdict::Refused),
            Err(error) => Err(error.into()),
        }))
    }

    fn version(&self, stream: u64) -> Fallible<u64> {
        let newest = self.db.read(Some(query(stream)), None, true, Some(1))?.next();
        Ok(newest.transpose()?.map_or(0, |event| event.position))
    }

    fn pipeline(&self, in_flight: usize, until: Instant) -> Fallible<Option<u64>> {
        let mut waiting = VecDeque::with_capacity(in_flight);
        let (mut sent, mut done) = (0, 0);
        loop {
            let open = Instant::now() < until;
            while open && waiting.len() < in_flight {
                sent += 1;
                waiting.push_back(self.submit(vec![event(sent % 10_000)], None)?);
            }
            let Some(oldest) = waiting.pop_front() else { return Ok(Some(done)) };
            oldest.blocking_recv()??;
            done += 1;
        }
    }

    fn replay(&self) -> Fallible<Option<Seen>> {
        let mut seen = Seen::default();
        let mut from = 1;
        loop {
            let before = seen.events;
            for event in self.db.read(None, Some(from), false, Some(PAGE_EVENTS))? {
                let event = event?;
                from = event.position + 1;
                seen.payload(&event.event.data);
            }
            if seen.events == before {
                return Ok(Some(seen));
            }
        }
    }

    fn load(&self, stream: u64) -> Fallible<Option<Seen>> {
        let mut seen = Seen::default();
        for event in self.db.read(Some(query(stream)), None, false, None)? {
            seen.payload(&event?.event.data);
        }
        Ok(Some(seen))
    }

    fn count(&self) -> Fallible<Option<u64>> {
        Ok(Some(self.db.head()?.unwrap_or(0)))
    }

    fn close(self: Arc<Self>) -> Fallible<()> {
        // The writer may have gone by itself.
        let _ = self.requests.blocking_send(WriterThreadRequest::Shutdown);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        writer.map_or(Ok(()), JoinHandle::join).map_err(|_| "the writer panicked")?;
        Ok(())
    }
}
