//! Many appends under way at a time, acknowledged in the order of the input.
//!
//! One thread starts appends and takes their answers; it sleeps when there is nothing to do, and
//! is woken by the store and by the reader of the input. Invariants:
//!
//! - appends reach the store in the order of the input: the store keeps them in the order in which
//!   their futures are first polled, and each is polled once before the next one is made;
//! - a future is never dropped before its answer, except at the very end of the process;
//! - what is under way has a bound, which the store leaves to its callers;
//! - an acknowledgement is written after the answer and flushed before this thread sleeps.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::vec;

use headwater::{AppendError, AppendId, Appended, EventId, EventLog, Position, Store};
use serde::Serialize;

use crate::exit::{Exit, complain};
use crate::input::{Content, Line, Prepared};

/// How many appends are under way at most.
const IN_FLIGHT_MAX: usize = 4096;
/// How much memory they take at most; a larger one goes alone.
const IN_FLIGHT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// An append under way takes less than this, beside twice the event's size.
const APPEND_BYTES: usize = 1024;

/// How to go about the input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Go on after a line that cannot be appended.
    pub(crate) keep_going: bool,
    /// Acknowledge in JSON.
    pub(crate) json: bool,
}

/// What became of the input.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// How many events were acknowledged.
    pub(crate) acknowledged: u64,
    /// How many lines were refused.
    pub(crate) refused: u64,
    /// How many events were under way without an acknowledgement when the store failed.
    pub(crate) unanswered: u64,
    /// The first thing that went wrong; it was reported.
    pub(crate) exit: Option<Exit>,
}

type Answer = Result<Appended, AppendError>;

/// A line that has no answer yet, or one that waits for its turn.
enum State<'a> {
    Appending(Pin<Box<dyn Future<Output = Answer> + Send + 'a>>),
    Answered(Answer),
    Bad(String),
    Unreadable(io::Error),
}

/// A line under way.
struct Flight<'a> {
    line: u64,
    id: Option<EventId>,
    append_id: Option<AppendId>,
    bytes: usize,
    state: State<'a>,
}

/// An acknowledgement as JSON.
#[derive(Serialize)]
struct Ack {
    id: EventId,
    position: Position,
    repeated: bool,
}

/// Appends on their way.
pub(crate) struct Pipeline<'a, W> {
    store: &'a Store,
    manner: Manner,
    out: W,
    waker: Waker,
    flights: VecDeque<Flight<'a>>,
    in_flight_bytes: usize,
    /// The newest flight must have its answer before another one begins.
    alone: bool,
    /// No more input is taken.
    stopped: bool,
    ending: Ending,
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl<'a, W: Write> Pipeline<'a, W> {
    /// Makes a pipeline for this thread, which acknowledges on `out`.
    pub(crate) fn new(store: &'a Store, manner: Manner, out: W) -> Self {
        Self {
            store,
            manner,
            out,
            waker: Arc::new(Unpark(thread::current())).into(),
            flights: VecDeque::new(),
            in_flight_bytes: 0,
            alone: false,
            stopped: false,
            ending: Ending::default(),
        }
    }

    /// Appends what comes in until the end, or the first failure. This thread must be unparked
    /// when there is input, and at its end.
    pub(crate) fn run(mut self, input: &Receiver<Vec<Line>>) -> Ending {
        let mut lines: vec::IntoIter<Line> = Vec::new().into_iter();
        let mut next: Option<Line> = None;
        let mut ended = false;
        loop {
            let mut moved = self.settle();
            if next.is_none() && !ended {
                next = lines.next();
                if next.is_none() {
                    match input.try_recv() {
                        Ok(parcel) => {
                            lines = parcel.into_iter();
                            continue;
                        }
                        Err(TryRecvError::Empty) => {}
                        Err(TryRecvError::Disconnected) => ended = true,
                    }
                }
            }
            if !self.stopped
                && let Some(line) = next.take_if(|line| self.has_room(line))
            {
                self.start(line);
                moved = true;
            }
            let finished = self.stopped || (ended && next.is_none());
            if finished && self.flights.is_empty() {
                self.flush();
                return self.ending;
            }
            if !moved {
                self.flush();
                thread::park();
            }
        }
    }

    fn has_room(&self, line: &Line) -> bool {
        self.flights.is_empty()
            || (!self.alone
                && self.flights.len() < IN_FLIGHT_MAX
                && self.in_flight_bytes + bytes(line) <= IN_FLIGHT_BYTES_MAX)
    }

    /// Starts the append of a line, or puts its fault in the row.
    fn start(&mut self, line: Line) {
        let bytes = bytes(&line);
        let mut flight = Flight {
            line: line.number,
            id: None,
            append_id: None,
            bytes,
            state: State::Bad(String::new()),
        };
        match line.content {
            Content::Event(prepared) => {
                self.alone = !self.manner.keep_going && self.may_be_refused(&prepared);
                flight.id = Some(prepared.id);
                flight.append_id = prepared.append.append_id;
                let mut future = self.store.append(prepared.append);
                let polled = future.as_mut().poll(&mut Context::from_waker(&self.waker));
                flight.state = match polled {
                    Poll::Ready(answer) => {
                        // It is reported in its turn, and nothing behind it is begun meanwhile.
                        self.stopped |= answer.is_err() && !self.manner.keep_going;
                        State::Answered(answer)
                    }
                    Poll::Pending => State::Appending(future),
                };
            }
            Content::Bad(detail) => {
                self.stopped |= !self.manner.keep_going;
                flight.state = State::Bad(detail);
            }
            Content::Unreadable(error) => {
                self.stopped = true;
                flight.state = State::Unreadable(error);
            }
        }
        self.in_flight_bytes += bytes;
        self.flights.push_back(flight);
    }

    /// Returns whether the log may have something against an append: its condition, or an earlier
    /// use of its id for something else.
    fn may_be_refused(&self, prepared: &Prepared) -> bool {
        let Some(id) = prepared.append.append_id else {
            return prepared.is_conditional;
        };
        let found = pin!(self.store.find_append(id)).poll(&mut Context::from_waker(&self.waker));
        prepared.is_conditional
            || !matches!(found, Poll::Ready(Ok(None)))
            || self.flights.iter().any(|flight| flight.append_id == Some(id))
    }

    /// Acknowledges or reports every line whose turn it is. Returns whether there was one.
    fn settle(&mut self) -> bool {
        let mut moved = false;
        while let Some(mut flight) = self.flights.pop_front() {
            if let State::Appending(future) = &mut flight.state {
                match future.as_mut().poll(&mut Context::from_waker(&self.waker)) {
                    Poll::Ready(answer) => flight.state = State::Answered(answer),
                    Poll::Pending => {
                        self.flights.push_front(flight);
                        break;
                    }
                }
            }
            moved = true;
            self.in_flight_bytes -= flight.bytes;
            self.alone &= !self.flights.is_empty();
            match (flight.state, flight.id) {
                (State::Answered(Ok(appended)), Some(id)) => self.acknowledge(id, &appended),
                (State::Answered(Err(error)), id) => self.refuse(flight.line, id, &error),
                (State::Bad(detail), _) => {
                    let message = format!("error: line {}: {detail}", flight.line);
                    self.fail(Exit::BadInput, &message, None);
                    self.ending.refused += 1;
                }
                (State::Unreadable(error), _) => {
                    self.fail(Exit::Failed, "error: cannot read standard input", Some(&error));
                }
                (State::Answered(Ok(_)), None) | (State::Appending(_), _) => {
                    unreachable!("appends have an event id, and only answered ones come here")
                }
            }
        }
        moved
    }

    fn acknowledge(&mut self, id: EventId, appended: &Appended) {
        if self.ending.exit == Some(Exit::Failed) {
            // The store or our output failed before: the order of acknowledgements has a hole, and
            // what follows is only counted.
            self.ending.unanswered += 1;
            return;
        }
        let position = appended.first;
        let written = if self.manner.json {
            let ack = Ack { id, position, repeated: appended.deduplicated };
            serde_json::to_string(&ack)
                .map_err(io::Error::from)
                .and_then(|line| writeln!(self.out, "{line}"))
        } else {
            writeln!(self.out, "ACK {id} {position}")
        };
        match written {
            Ok(()) => self.ending.acknowledged += 1,
            Err(error) => self.output_failed(&error),
        }
    }

    /// Reports an append that was not done. Some are the line's own fault, others the store's.
    fn refuse(&mut self, line: u64, id: Option<EventId>, error: &AppendError) {
        let (exit, detail) = match error {
            AppendError::Invalid(_) => (Exit::BadInput, error.to_string()),
            AppendError::Conflict(_) => (
                Exit::Conflict,
                format!("conflict: {error}; read the stream again and decide anew"),
            ),
            AppendError::AppendIdReused { first, .. } => {
                let id = id.map_or_else(String::new, |id| format!(" {id}"));
                let detail = format!(
                    "conflict: event id{id} was appended before with other content, at position \
                     {first}; give each event its own id"
                );
                (Exit::Conflict, detail)
            }
            _ => {
                if self.ending.exit == Some(Exit::Failed) {
                    self.ending.unanswered += 1;
                    return;
                }
                let message = format!("error: line {line}: {error}");
                self.fail(Exit::Failed, &message, std::error::Error::source(error));
                // Without a store that works there is nothing to go on with.
                self.stopped = true;
                self.ending.exit = Some(Exit::Failed);
                self.ending.unanswered += 1;
                return;
            }
        };
        let message = format!("error: line {line}: {detail}");
        self.fail(exit, &message, std::error::Error::source(error));
        self.ending.refused += 1;
    }

    /// Reports what went wrong, behind the acknowledgements of what came before.
    fn fail(
        &mut self,
        exit: Exit,
        message: &str,
        source: Option<&(dyn std::error::Error + 'static)>,
    ) {
        self.flush();
        complain(message, source);
        self.ending.exit.get_or_insert(exit);
        self.stopped |= !self.manner.keep_going;
    }

    fn flush(&mut self) {
        if let Err(error) = self.out.flush() {
            self.output_failed(&error);
        }
    }

    /// Gives up: events whose acknowledgement nobody gets should not be appended.
    fn output_failed(&mut self, error: &io::Error) {
        self.stopped = true;
        if self.ending.exit != Some(Exit::Failed) {
            complain("error: cannot write acknowledgements to standard output", Some(error));
            self.ending.exit = Some(Exit::Failed);
        }
    }
}

/// Returns how much memory a line takes at most while it is under way: the event and its encoding.
fn bytes(line: &Line) -> usize {
    match &line.content {
        Content::Event(prepared) => {
            let events = &prepared.append.events;
            events.iter().map(|event| 2 * event.size_bytes() + APPEND_BYTES).sum()
        }
        Content::Bad(_) | Content::Unreadable(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use headwater::{Append, CodecId, Durability, EventType, NewEvent, Options, StreamId};

    use super::*;

    /// Lines with payloads of these sizes, all of one stream.
    fn lines(sizes: impl Iterator<Item = usize>) -> (Vec<Line>, Vec<String>) {
        let line = |(number, size)| {
            let stream = StreamId::new("s-1").unwrap();
            let kind = EventType::new("t").unwrap();
            let event = NewEvent::new(stream, kind, CodecId::RAW, vec![7; size]);
            let id = event.id;
            let prepared = Prepared { id, append: Append::new([event]), is_conditional: false };
            let content = Content::Event(Box::new(prepared));
            (Line { number, content }, id.to_string())
        };
        (1..).zip(sizes).map(line).unzip()
    }

    /// Appends lines that are all there at once, and returns what was acknowledged.
    fn append(options: Options, lines: Vec<Line>) -> String {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), options).unwrap();
        let manner = Manner { keep_going: false, json: false };
        let (sender, input) = mpsc::channel();
        sender.send(lines).unwrap();
        drop(sender);
        let mut out = Vec::new();
        let ending = Pipeline::new(&store, manner, &mut out).run(&input);
        assert_eq!(ending.exit, None);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_behind_a_line_that_is_refused_at_once_is_appended() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 64 * 1024, ..Options::default() };
        let store = Store::open(dir.path(), options).unwrap();
        // The one in the middle is more than a quarter of a segment.
        for (keep_going, appended) in [(false, 50), (true, 99 + 50)] {
            let manner = Manner { keep_going, json: false };
            let (sender, input) = mpsc::channel();
            let sizes = (0..100).map(|n| if n == 50 { 20_000 } else { 10 });
            sender.send(lines(sizes).0).unwrap();
            drop(sender);
            let ending = Pipeline::new(&store, manner, Vec::new()).run(&input);
            assert_eq!((ending.exit, ending.refused), (Some(Exit::BadInput), 1));
            let head = pollster::block_on(store.head(headwater::Visibility::Committed)).unwrap();
            assert_eq!(head.get(), appended);
        }
    }

    fn in_order(ids: &[String]) -> String {
        let ack = |(position, id): (u64, &String)| format!("ACK {id} {position}");
        (1..).zip(ids).map(ack).collect::<Vec<_>>().join("\n") + "\n"
    }

    /// Starts lines while there is room, and returns how many.
    fn started(sizes: impl Iterator<Item = usize>) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 64 * 1024 * 1024, ..Options::default() };
        let store = Store::open(dir.path(), options).unwrap();
        let manner = Manner { keep_going: false, json: false };
        let mut pipeline = Pipeline::new(&store, manner, Vec::new());
        for line in lines(sizes).0 {
            if !pipeline.has_room(&line) {
                break;
            }
            pipeline.start(line);
        }
        pipeline.flights.len()
    }

    #[test]
    fn what_is_under_way_has_a_bound() {
        // An event counts twice: itself and its encoding.
        assert_eq!(started(std::iter::repeat_n(8_000_000, 9)), 4);
        assert_eq!(started(std::iter::repeat_n(10, 5000)), 4096);
    }

    #[test]
    fn lines_that_are_all_there_keep_their_order_at_each_durability() {
        let often = Durability::Interval { every: Duration::from_micros(100), bytes: 1024 * 1024 };
        for durability in [Durability::Sync, often, Durability::Os] {
            let (lines, ids) = lines((0..20_000).map(|n| if n % 800 < 3 { 400_000 } else { 8 }));
            let options =
                Options { durability, segment_bytes: 8 * 1024 * 1024, ..Options::default() };
            assert!(append(options, lines) == in_order(&ids), "{durability:?} changed the order");
        }
    }
}
