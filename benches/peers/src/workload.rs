//! The workloads, each for one round on one open store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::peers::{Fallible, Peer, Seen, Verdict};

/// How many streams the appending workloads write to.
const STREAMS: u64 = 10_000;
const BATCH_EVENTS: u64 = 1_000;
/// What a payload consists of, eight bytes at a time.
const WORD: u64 = u64::from_le_bytes([0xA5; 8]);
/// Streams of these lengths share the events of a filled store.
pub const SHORT_EVENTS: u64 = 10;
pub const LONG_EVENTS: u64 = 100;

/// What one round found. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Events, or appends that were accepted, per second.
    pub rate: f64,
    pub p50: f64,
    pub p99: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// One thread, one event per append.
    Single,
    /// The same, each append expecting its stream's version.
    Conditional,
    /// Appends that expect the wrong version.
    Refusal,
    /// 64 threads that each wait for every append.
    Threads,
    /// One thread with 64 appends in flight.
    Tickets64,
    /// One thread with 1,024 appends in flight.
    Tickets1024,
    /// One thread, 1,000 events per append.
    Batch,
    /// 16 threads that load the version of one of 8 streams and append with it.
    Contended,
    /// From the append to a subscriber that waits in another thread; `p99` is the median of what
    /// passes after the append's return.
    Visible,
    /// Reading everything.
    Replay,
    /// Reading streams of 10 events.
    LoadShort,
    /// Reading streams of 100 events.
    LoadLong,
}

impl Workload {
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Single, "single"),
        (Self::Conditional, "conditional"),
        (Self::Refusal, "refusal"),
        (Self::Threads, "threads"),
        (Self::Tickets64, "tickets-64"),
        (Self::Tickets1024, "tickets-1024"),
        (Self::Batch, "batch"),
        (Self::Contended, "contended"),
        (Self::Visible, "visible"),
        (Self::Replay, "replay"),
        (Self::LoadShort, "load-short"),
        (Self::LoadLong, "load-long"),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(workload, _)| *workload == self).map_or("", |(_, name)| name)
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|&(workload, _)| workload)
    }

    /// Runs for a while. `filled` is how many events the store was filled with. `None` if the peer
    /// has no notion of it.
    pub fn run(self, peer: &dyn Peer, round: Duration, filled: u64) -> Fallible<Option<Figures>> {
        let needs_conditions = matches!(self, Self::Conditional | Self::Refusal | Self::Contended);
        let single = self == Self::Single;
        if (needs_conditions && !peer.has_conditions()) || !(single || peer.is_store()) {
            return Ok(None);
        }
        let mut numbers = Numbers(Instant::now().elapsed().as_nanos() as u64 | 1);
        match self {
            Self::Single => each(round, |latency| {
                let streams = [numbers.below(STREAMS)];
                accepted(timed(latency, peer.prepare(&streams, None)?)?)?;
                Ok(1)
            }),
            Self::Conditional => each(round, |latency| {
                let streams = [numbers.below(STREAMS)];
                let expected = peer.version(streams[0])?;
                accepted(timed(latency, peer.prepare(&streams, Some(expected))?)?)?;
                Ok(1)
            }),
            Self::Refusal => {
                accepted(peer.append(&[0], None)?)?;
                each(round, |latency| match timed(latency, peer.prepare(&[0], Some(0))?)? {
                    Verdict::Refused => Ok(1),
                    Verdict::Accepted => Err("a stale expectation was accepted".into()),
                })
            }
            Self::Batch => each(round, |latency| {
                let first = numbers.below(STREAMS);
                let streams: Vec<_> =
                    (0..BATCH_EVENTS).map(|n| (first + n * 7) % STREAMS).collect();
                accepted(timed(latency, peer.prepare(&streams, None)?)?)?;
                Ok(BATCH_EVENTS)
            }),
            Self::Threads => threads(round, 64, |thread, round| {
                let streams = [(thread * 149 + round) % STREAMS];
                peer.append(&streams, None)
            }),
            Self::Contended => threads(round, 16, |thread, round| {
                let stream = (thread + round) % 8;
                let expected = peer.version(stream)?;
                peer.append(&[stream], Some(expected))
            }),
            Self::Tickets64 => tickets(peer, round, 64),
            Self::Tickets1024 => tickets(peer, round, 1024),
            Self::Visible => visible(peer, round),
            Self::Replay => {
                let begun = Instant::now();
                let Some(Seen { events, sum }) = peer.replay()? else { return Ok(None) };
                if events < filled || sum != WORD.wrapping_mul(events * 32) {
                    return Err(format!("replay found {events} events of {filled}").into());
                }
                let seconds = begun.elapsed().as_secs_f64();
                Ok(Some(Figures { rate: events as f64 / seconds, p50: 0.0, p99: 0.0 }))
            }
            Self::LoadShort | Self::LoadLong => {
                let (long, events) = match self {
                    Self::LoadLong => (true, LONG_EVENTS),
                    _ => (false, SHORT_EVENTS),
                };
                if peer.load(scattered(0, filled))?.is_none() {
                    return Ok(None);
                }
                each(round, |latency| {
                    let at = numbers.below(filled / 2) * 2 + u64::from(long);
                    let stream = scattered(at, filled);
                    let begun = Instant::now();
                    let seen = peer.load(stream)?.unwrap_or_default();
                    latency.push(begun.elapsed());
                    if seen.events != events {
                        return Err(format!("stream {stream} has {} events", seen.events).into());
                    }
                    Ok(1)
                })
            }
        }
    }
}

/// The stream of the `n`th event of a store with `events`: even ones go to short streams, odd ones
/// to long streams, so that those of a stream lie as far apart as can be.
pub fn scattered(n: u64, events: u64) -> u64 {
    let half = events / 2;
    if n.is_multiple_of(2) {
        (n / 2) % (half / SHORT_EVENTS)
    } else {
        100_000_000 + (n / 2) % (half / LONG_EVENTS)
    }
}

/// Fills a store.
pub fn fill(peer: &dyn Peer, events: u64) -> Fallible<()> {
    let mut next = 0;
    while next < events {
        let end = events.min(next + BATCH_EVENTS);
        let streams: Vec<_> = (next..end).map(|n| scattered(n, events)).collect();
        accepted(peer.append(&streams, None)?)?;
        next = end;
    }
    peer.flush()
}

fn accepted(verdict: Verdict) -> Fallible<()> {
    match verdict {
        Verdict::Accepted => Ok(()),
        Verdict::Refused => Err("an append was refused that nobody stood against".into()),
    }
}

/// The latencies of one round.
struct Latencies(Vec<u64>);

impl Latencies {
    fn push(&mut self, latency: Duration) {
        self.0.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    fn quantile(&mut self, part: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        let at = (last as f64 * part).round() as usize;
        *self.0.select_nth_unstable(at).1 as f64
    }
}

fn timed(
    latencies: &mut Latencies,
    append: impl FnOnce() -> Fallible<Verdict>,
) -> Fallible<Verdict> {
    let begun = Instant::now();
    let verdict = append();
    latencies.push(begun.elapsed());
    verdict
}

/// Repeats something that counts events until the round is over.
fn each(
    round: Duration,
    mut work: impl FnMut(&mut Latencies) -> Fallible<u64>,
) -> Fallible<Option<Figures>> {
    let mut latencies = Latencies(Vec::with_capacity(1 << 20));
    let begun = Instant::now();
    let mut events = 0;
    while begun.elapsed() < round {
        events += work(&mut latencies)?;
    }
    // Only the time in the store counts, not the building of events.
    let busy = latencies.0.iter().sum::<u64>() as f64 / 1e9;
    let (p50, p99) = (latencies.quantile(0.5), latencies.quantile(0.99));
    Ok(Some(Figures { rate: events as f64 / busy, p50, p99 }))
}

/// Lets many threads work at once and counts what is accepted.
fn threads(
    round: Duration,
    count: u64,
    work: impl Fn(u64, u64) -> Fallible<Verdict> + Sync,
) -> Fallible<Option<Figures>> {
    let (stop, start) = (AtomicBool::new(false), Barrier::new(count as usize + 1));
    thread::scope(|scope| {
        let mut running = Vec::new();
        for thread in 0..count {
            let (stop, start, work) = (&stop, &start, &work);
            running.push(scope.spawn(move || -> Fallible<(u64, Latencies)> {
                let mut latencies = Latencies(Vec::with_capacity(1 << 14));
                let (mut accepted, mut rounds) = (0, 0);
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    accepted += u64::from(work(thread, rounds)? == Verdict::Accepted);
                    latencies.push(begun.elapsed());
                    rounds += 1;
                }
                Ok((accepted, latencies))
            }));
        }
        start.wait();
        let begun = Instant::now();
        thread::sleep(round);
        stop.store(true, Ordering::Relaxed);
        let (mut accepted, mut all) = (0, Latencies(Vec::new()));
        for thread in running {
            let (some, latencies) = thread.join().map_err(|_| "a thread panicked")??;
            accepted += some;
            all.0.extend(latencies.0);
        }
        let rate = accepted as f64 / begun.elapsed().as_secs_f64();
        Ok(Some(Figures { rate, p50: all.quantile(0.5), p99: all.quantile(0.99) }))
    })
}

fn tickets(peer: &dyn Peer, round: Duration, in_flight: usize) -> Fallible<Option<Figures>> {
    let begun = Instant::now();
    let done = peer.pipeline(in_flight, begun + round)?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(done.map(|done| Figures { rate: done as f64 / seconds, p50: 0.0, p99: 0.0 }))
}

/// One thread appends, another waits in a subscription.
fn visible(peer: &dyn Peer, round: Duration) -> Fallible<Option<Figures>> {
    const WARM: usize = 10;
    let events = WARM + usize::try_from(round.as_millis())? / 2;
    let (ready, is_ready) = mpsc::channel();
    let (seen, was_seen) = mpsc::channel();
    thread::scope(|scope| {
        let follower = scope.spawn(move || {
            // Nobody listens any more once the round has failed.
            let ready = || ready.send(()).unwrap_or_default();
            let seen = || seen.send(Instant::now()).unwrap_or_default();
            peer.follow(events, &ready, &seen)
        });
        if is_ready.recv().is_err() {
            follower.join().map_err(|_| "the follower panicked")??;
            return Ok(None);
        }
        let (mut whole, mut after) = (Latencies(Vec::new()), Latencies(Vec::new()));
        for n in 0..events {
            let streams = [n as u64 % STREAMS];
            let append = peer.prepare(&streams, None)?;
            let begun = Instant::now();
            accepted(append()?)?;
            let acknowledged = Instant::now();
            let seen = was_seen.recv()?;
            if n >= WARM {
                whole.push(seen.saturating_duration_since(begun));
                after.push(seen.saturating_duration_since(acknowledged));
            }
        }
        follower.join().map_err(|_| "the follower panicked")??;
        let (p50, after) = (whole.quantile(0.5), after.quantile(0.5));
        Ok(Some(Figures { rate: 0.0, p50, p99: after }))
    })
}

/// Numbers that look random: xorshift.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
