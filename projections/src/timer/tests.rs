//! Timers by a clock that is set by hand, over a log that crashes on command.

use std::collections::{BTreeMap, VecDeque};
use std::future::{self, Future};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use headwater_core::{
    AppendId, Appended, Durability, EventId, EventType, LogId, MemoryLog, Page, RecordedEvent,
    Subscription, Visibility,
};
use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_nanos(seconds * SECOND)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A clock that is set by hand.
#[derive(Debug, Default)]
struct HandClock(Mutex<Timestamp>);

#[async_trait]
impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    async fn wait_until(&self, time: Option<Timestamp>) {
        // It is polled again whenever the clock was set.
        future::poll_fn(|_| match time {
            Some(time) if self.now() >= time => Poll::Ready(()),
            _ => Poll::Pending,
        })
        .await;
    }
}

/// What becomes of an append.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// It fails, and nothing was written.
    Fails,
    /// It fails, and was written.
    FailsLate,
    /// The process ends before it.
    Ends,
    /// The process ends after it.
    EndsLate,
    /// It takes its time, in which others go on.
    Slow,
    /// The disk is full.
    Full,
}

/// A log whose appends fail as they are told to.
#[derive(Clone, Debug)]
struct FaultyLog {
    log: MemoryLog,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    /// Retention has removed everything through here.
    removed: Arc<Mutex<Position>>,
}

#[async_trait]
impl EventLog for FaultyLog {
    fn id(&self) -> LogId {
        self.log.id()
    }

    fn durability(&self) -> Durability {
        self.log.durability()
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        let failure = |effect| {
            let source = Arc::new(std::io::Error::other("a fault that was asked for"));
            Err(AppendError::Engine { effect, source })
        };
        match fault {
            Fault::None => self.log.append(append).await,
            Fault::Fails => failure(Effect::None),
            Fault::FailsLate => {
                self.log.append(append).await?;
                failure(Effect::Unknown)
            }
            Fault::Ends => future::pending().await,
            Fault::EndsLate => {
                self.log.append(append).await?;
                future::pending().await
            }
            Fault::Slow => {
                let mut waited = false;
                future::poll_fn(|_| {
                    let ready = std::mem::replace(&mut waited, true);
                    if ready { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                self.log.append(append).await
            }
            Fault::Full => Err(AppendError::StorageFull(Arc::new(std::io::Error::other("full")))),
        }
    }

    async fn find_append(&self, id: AppendId) -> Result<Option<Appended>, ReadError> {
        self.log.find_append(id).await
    }

    async fn read(&self, read: Read) -> Result<Page, ReadError> {
        // Small pages, so that there is more than one.
        let mut page = self.log.read(read.limit(3)).await?;
        let removed = *self.removed.lock().unwrap();
        page.events.retain(|event| event.position > removed);
        Ok(page)
    }

    async fn start(&self) -> Result<Position, ReadError> {
        Ok(*self.removed.lock().unwrap())
    }

    async fn head(&self, visibility: Visibility) -> Result<Position, ReadError> {
        self.log.head(visibility).await
    }

    async fn wait_for(
        &self,
        position: Position,
        visibility: Visibility,
    ) -> Result<Position, ReadError> {
        self.log.wait_for(position, visibility).await
    }

    fn subscribe(&self, query: Query, after: Position) -> Subscription {
        self.log.subscribe(query, after)
    }
}

type Running = Pin<Box<dyn Future<Output = TimerError>>>;

/// A log, a clock, and a service over them that is polled by hand: until it waits.
struct World {
    log: FaultyLog,
    clock: Arc<HandClock>,
    service: Option<Running>,
}

impl World {
    fn new() -> Self {
        let log =
            FaultyLog { log: MemoryLog::new(), faults: Arc::default(), removed: Arc::default() };
        Self { log, clock: Arc::default(), service: None }
    }

    fn timers(&self) -> Timers {
        // Its appends do not fail; what was removed is gone for it too.
        let log = FaultyLog { faults: Arc::default(), ..self.log.clone() };
        Timers::with_clock(Arc::new(log), self.clock.clone())
    }

    fn set(&self, time: Timestamp) {
        *self.clock.0.lock().unwrap() = time;
    }

    fn crash_at(&self, faults: impl IntoIterator<Item = Fault>) {
        *self.log.faults.lock().unwrap() = faults.into_iter().collect();
    }

    /// Runs the service until it waits, crashes or fails. Returns whether it lives.
    fn run(&mut self) -> Option<TimerError> {
        let service = self.service.get_or_insert_with(|| {
            let log = Arc::new(self.log.clone());
            let service = TimerService::new(log).clock(self.clock.clone()).renew_after(seconds(60));
            Box::pin(service.run())
        });
        match service.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(error) => {
                self.service = None;
                Some(error)
            }
        }
    }

    /// Ends the process.
    fn kill(&mut self) {
        self.service = None;
    }

    /// Runs a service that nothing happens to, until everything is done that is due.
    fn settle(&mut self) {
        self.crash_at([]);
        self.kill();
        assert!(self.run().is_none());
    }

    /// Returns the events that timers have appended, in order.
    fn fired(&self) -> Vec<RecordedEvent> {
        let read = Read::forward(Query::all(), Position::START).limit(1_000_000);
        let page = block_on(self.log.log.read(read)).unwrap();
        page.events.into_iter().filter(|event| event.stream.category() != CATEGORY).collect()
    }

    /// Returns the times, in seconds, of the events in a stream.
    fn times(&self, stream: &str) -> Vec<i64> {
        let fired = self.fired();
        let of = fired.iter().filter(|event| event.stream.as_str() == stream);
        of.map(|event| event.event_time.as_nanos() / SECOND).collect()
    }
}

/// Polls what never waits.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn event(stream: &str) -> NewEvent {
    let event_type = EventType::new("tick").unwrap();
    NewEvent::json(StreamId::new(stream).unwrap(), event_type, &7).unwrap()
}

fn every(interval: u64, start: i64) -> Schedule {
    Schedule::every(seconds(interval), at(start)).unwrap()
}

#[test]
fn ticks_appear_when_it_is_time_and_not_before() {
    let mut world = World::new();
    let timers = world.timers();
    block_on(timers.schedule("a", NewTimer::new(every(10, 10), event("out-a")))).unwrap();
    assert!(world.run().is_none());
    assert!(world.times("out-a").is_empty());
    world.set(Timestamp::from_nanos(10 * SECOND - 1));
    world.run();
    assert!(world.times("out-a").is_empty());
    for second in 10..35 {
        world.set(at(second));
        world.run();
    }
    assert_eq!(world.times("out-a"), [10, 20, 30]);
    let timer = block_on(timers.get("a")).unwrap().unwrap();
    assert_eq!((timer.last_fired, timer.next), (Some(at(30)), at(40)));
    let fired = world.fired();
    let ids: std::collections::BTreeSet<_> = fired.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), 3, "each has an id of its own");
    assert!(fired.iter().all(|event| event.causation_id.is_some()));
}

#[test]
fn a_timer_that_is_made_or_cancelled_while_the_service_waits_is_noticed() {
    let mut world = World::new();
    let timers = world.timers();
    world.run();
    block_on(timers.schedule("a", NewTimer::new(every(10, 0), event("out-a")))).unwrap();
    world.run();
    assert_eq!(world.times("out-a"), [0]);
    assert!(block_on(timers.cancel("a")).unwrap());
    world.set(at(100));
    world.run();
    assert_eq!(world.times("out-a"), [0]);
    assert!(!block_on(timers.cancel("a")).unwrap());
    assert!(!block_on(timers.cancel("never-was")).unwrap());
    assert!(block_on(timers.list()).unwrap().is_empty());
    // The name is free again.
    block_on(timers.schedule("a", NewTimer::new(every(10, 0), event("out-b")))).unwrap();
    world.run();
    assert_eq!(world.times("out-b"), [100]);
}

#[test]
fn missed_ticks_go_by_their_policy() {
    let mut world = World::new();
    let timers = world.timers();
    for (name, missed) in [
        ("all", Missed::All),
        ("latest", Missed::Latest),
        ("skip", Missed::Skip { grace: seconds(15) }),
        ("strict", Missed::Skip { grace: Duration::ZERO }),
    ] {
        let timer = NewTimer::new(every(10, 10), event(&format!("out-{name}"))).missed(missed);
        block_on(timers.schedule(name, timer)).unwrap();
    }
    world.set(at(55));
    world.settle();
    assert_eq!(world.times("out-all"), [10, 20, 30, 40, 50]);
    assert_eq!(world.times("out-latest"), [50]);
    assert_eq!(world.times("out-skip"), [40, 50]);
    assert!(world.times("out-strict").is_empty());
    // What was passed over stays so when the clock goes back.
    world.set(at(30));
    world.settle();
    world.set(at(60));
    world.settle();
    assert_eq!(world.times("out-latest"), [50, 60]);
    assert_eq!(world.times("out-skip"), [40, 50, 60]);
    assert_eq!(world.times("out-strict"), [60]);
}

#[test]
fn the_latest_of_many_missed_ticks_is_found_without_going_through_them() {
    let mut world = World::new();
    let every = Schedule::every(Duration::from_nanos(1), at(0)).unwrap();
    block_on(world.timers().schedule("a", NewTimer::new(every, event("out-a")))).unwrap();
    world.set(at(1_000_000));
    world.settle();
    assert_eq!(world.times("out-a"), [1_000_000]);
}

#[test]
fn a_timer_outlives_the_removal_of_its_beginning() {
    let mut world = World::new();
    let timers = world.timers();
    let far = NewTimer::new(Schedule::Once(at(1_000)), event("out-far"));
    block_on(timers.schedule("far", far)).unwrap();
    let often = NewTimer::new(every(25, 0), event("out-often")).missed(Missed::All);
    block_on(timers.schedule("often", often)).unwrap();
    for second in 0..300 {
        world.set(at(second));
        world.run();
    }
    // Everything but the last renewals and what came after them.
    let head = block_on(world.log.head(Visibility::Committed)).unwrap();
    let read = Read::forward(Query::category(Category::new(CATEGORY).unwrap()), Position::START);
    let events = block_on(world.log.log.read(read)).unwrap().events;
    let renewed = |event: &&RecordedEvent| event.event_type.as_str() == "headwater.timer.renewed";
    let renewals: Vec<_> = events.iter().filter(renewed).collect();
    assert_eq!(renewals.len(), 8, "each was renewed at 60, 120, 180 and 240");
    *world.log.removed.lock().unwrap() = renewals[6].position.previous();
    assert!(renewals[6].position > Position::new(head.get() / 2));
    world.set(at(1_000));
    world.settle();
    assert_eq!(world.times("out-far"), [1_000]);
    assert_eq!(world.times("out-often"), (0..=40).map(|n| n * 25).collect::<Vec<_>>());
    // The name of a timer of which nothing is left can be used again.
    let head = block_on(world.log.head(Visibility::Committed)).unwrap();
    *world.log.removed.lock().unwrap() = head;
    assert_eq!(block_on(timers.get("far")).unwrap(), None);
    let again = NewTimer::new(Schedule::Once(at(2_000)), event("out-again"));
    block_on(timers.schedule("far", again)).unwrap();
    world.set(at(2_000));
    world.settle();
    assert_eq!(world.times("out-again"), [2_000]);
}

#[test]
fn an_event_is_delivered_later_as_it_was_given_and_once() {
    let mut world = World::new();
    let timers = world.timers();
    let mut given = event("out-a");
    given.event_time = at(-5);
    let name = block_on(timers.deliver_after(seconds(20), given.clone())).unwrap();
    world.set(at(1));
    // Asking again changes nothing.
    assert_eq!(block_on(timers.deliver_after(seconds(20), given.clone())).unwrap(), name);
    world.set(at(19));
    world.settle();
    assert!(world.fired().is_empty());
    world.set(at(20));
    world.settle();
    let fired = world.fired();
    assert_eq!(fired.len(), 1);
    assert_eq!((fired[0].id, fired[0].event_time), (given.id, at(-5)));
    assert_eq!((fired[0].causation_id, &fired[0].payload), (None, &given.payload));
    // Also after it was delivered.
    block_on(timers.deliver_after(seconds(20), given)).unwrap();
    world.set(at(1_000));
    world.settle();
    assert_eq!(world.fired().len(), 1);
    let other = block_on(timers.deliver_after(Duration::MAX, event("out-a"))).unwrap();
    assert!(block_on(timers.cancel(&other)).unwrap());
}

#[test]
fn making_a_timer_belongs_to_the_flow_of_its_event() {
    let mut world = World::new();
    let flow = headwater_core::CorrelationId::generate();
    for (name, cause) in [("caused", Some(EventId::generate())), ("begun", None)] {
        let mut asked = event(&format!("out-{name}"));
        (asked.correlation_id, asked.causation_id) = (Some(flow), cause);
        let timer = NewTimer::new(Schedule::Once(at(5)), asked);
        block_on(world.timers().schedule(name, timer)).unwrap();
        world.set(at(5));
        world.settle();
        let read = Read::forward(Query::flows([flow]), Position::START);
        let found = block_on(world.log.log.read(read)).unwrap().events;
        let [.., made, fired] = &found[..] else { panic!("{found:?}") };
        assert_eq!(made.event_type.as_str(), "headwater.timer.scheduled");
        assert_eq!(made.causation_id, cause);
        assert_eq!(fired.causation_id, cause.or(Some(made.id)));
    }
}

#[test]
fn a_moment_that_has_passed_fires_at_once() {
    let mut world = World::new();
    world.set(at(100));
    let once = NewTimer::new(Schedule::Once(at(5)), event("out-a"));
    block_on(world.timers().schedule("a", once.clone())).unwrap();
    world.settle();
    world.settle();
    assert_eq!(world.times("out-a"), [5]);
    assert_eq!(block_on(world.timers().get("a")).unwrap(), None);
}

#[test]
fn a_timer_that_makes_no_sense_is_refused_and_nothing_is_stored() {
    let world = World::new();
    let timers = world.timers();
    world.set(at(100));
    let schedule = |name: &str, timer| block_on(timers.schedule(name, timer)).unwrap_err();
    let timer = || NewTimer::new(every(10, 0), event("out-a"));
    assert!(matches!(schedule("a b", timer()), TimerError::Name(_)));
    assert!(matches!(schedule("", timer()), TimerError::Name(_)));
    let into_timers = NewTimer::new(every(10, 0), event("headwater.timer-b"));
    assert!(matches!(schedule("a", into_timers), TimerError::TimerStream { .. }));
    let end = Timestamp::from_nanos(i64::MAX);
    world.set(end);
    let past = NewTimer::new(Schedule::every(seconds(10), at(0)).unwrap(), event("out-a"));
    assert!(matches!(schedule("a", past), TimerError::NeverDue { .. }));
    world.set(at(100));
    let mut large = timer();
    large.event.payload = vec![0; headwater_core::limits::PAYLOAD_BYTES_MAX + 1].into();
    assert!(matches!(schedule("a", large), TimerError::Append(AppendError::Invalid(_))));
    assert_eq!(block_on(world.log.head(Visibility::Committed)).unwrap(), Position::START);

    block_on(timers.schedule("a", timer())).unwrap();
    world.set(at(105));
    block_on(timers.schedule("a", timer())).unwrap();
    let error = schedule("a", NewTimer::new(every(11, 0), event("out-a")));
    assert!(matches!(&error, TimerError::NameTaken { next, .. } if *next == at(100)), "{error}");
    assert_eq!(block_on(world.log.head(Visibility::Committed)).unwrap(), Position::FIRST);
}

#[test]
fn an_event_that_is_no_timers_stops_the_service_with_its_place() {
    let mut world = World::new();
    block_on(world.log.log.append(Append::new([event("headwater.timer-a")]))).unwrap();
    let error = world.run().unwrap();
    assert!(
        matches!(error, TimerError::Decode(DecodeError::UnknownType { position, .. }) if position == Position::FIRST),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_out() {
    let world = World::new();
    let timers = world.timers();
    timers.schedule("a", NewTimer::new(every(10, 0), event("out-a"))).await.unwrap();
    world.crash_at([Fault::Full; 5]);
    let service = TimerService::new(Arc::new(world.log.clone())).clock(world.clock.clone());
    let fired = async { world.log.log.wait_for(Position::new(3), Visibility::Committed).await };
    tokio::select! {
        error = service.run() => panic!("{error}"),
        fired = fired => assert_eq!(fired.unwrap(), Position::new(3)),
    }
    assert_eq!(world.times("out-a"), [0]);
}

#[tokio::test(start_paused = true)]
async fn the_system_clock_waits_in_short_steps_and_without_a_time_for_ever() {
    let clock = SystemClock;
    let begin = tokio::time::Instant::now();
    clock.wait_until(Some(Timestamp::from_nanos(i64::MAX))).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
    clock.wait_until(Some(Timestamp::EPOCH)).await;
    let never = tokio::time::timeout(Duration::from_secs(9), clock.wait_until(None));
    assert!(never.await.is_err());
}

/// What the bytes of a timer look like: what was stored must be understood for ever.
#[test]
fn the_stored_form_of_a_timer_is_frozen() {
    let world = World::new();
    let mut given = event("out-a");
    given.id = EventId::from_bytes([7; 16]);
    given.event_time = at(1);
    given.key = Some(headwater_core::Key::new("k").unwrap());
    let timers = world.timers();
    block_on(timers.deliver_at(at(5), given.clone())).unwrap();
    let skip =
        NewTimer::new(Schedule::Once(at(5)), given).missed(Missed::Skip { grace: seconds(2) });
    block_on(timers.schedule("s", skip)).unwrap();
    let read = Read::forward(Query::all(), Position::START);
    let page = block_on(world.log.log.read(read)).unwrap();
    let payload = |index: usize| String::from_utf8(page.events[index].payload.to_vec()).unwrap();
    assert_eq!(page.events[0].event_type.as_str(), "headwater.timer.scheduled");
    assert_eq!(
        payload(0),
        r#"{"scheduled":{"schedule":{"once":5000000000},"missed":"all","from":5000000000,"event":{"stream":"out-a","event_type":"tick","schema_version":1,"given":{"id":"07070707-0707-0707-0707-070707070707","time":1000000000},"key":"k","codec":1,"payload":"Nw=="}}}"#
    );
    assert_eq!(
        payload(1),
        r#"{"scheduled":{"schedule":{"once":5000000000},"missed":{"skip":{"grace":{"secs":2,"nanos":0}}},"from":0,"event":{"stream":"out-a","event_type":"tick","schema_version":1,"key":"k","codec":1,"payload":"Nw=="}}}"#
    );
    let json = |record: &TimerRecord| serde_json::to_string(record).unwrap();
    assert_eq!(json(&TimerRecord::Fired { due: at(5) }), r#"{"fired":{"due":5000000000}}"#);
    assert_eq!(
        json(&TimerRecord::Passed { through: at(5) }),
        r#"{"passed":{"through":5000000000}}"#
    );
    assert_eq!(json(&TimerRecord::Cancelled {}), r#"{"cancelled":{}}"#);
    let TimerRecord::Scheduled(definition) = serde_json::from_str(&payload(1)).unwrap() else {
        panic!("it was scheduled");
    };
    let scheduled = EventId::from_bytes([8; 16]);
    let known = record::Renewal {
        scheduled,
        definition: *definition,
        last_fired: Some(at(4)),
        after: at(4),
    };
    let inside = payload(1).replace(r#"{"scheduled":"#, "");
    let inside = inside.strip_suffix('}').unwrap();
    assert_eq!(
        json(&TimerRecord::Renewed(Box::new(known))),
        format!(
            r#"{{"renewed":{{"scheduled":"08080808-0808-0808-0808-080808080808","definition":{inside},"last_fired":4000000000,"after":4000000000}}}}"#
        )
    );
}

/// One thing that happens to the world.
#[derive(Clone, Debug)]
enum Happening {
    /// The clock is set, forward or back.
    Clock(i64),
    /// The service runs, with these faults in its appends; then its process ends, or not.
    Run(Vec<Fault>, bool),
    /// Two services run beside each other for a while, and a timer may be cancelled meanwhile.
    Beside(Vec<Fault>, usize),
    /// Nothing disturbs the service until it waits.
    Settle,
    Cancel(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    let fault = prop_oneof![
        3 => Just(Fault::None),
        1 => Just(Fault::Fails),
        1 => Just(Fault::FailsLate),
        1 => Just(Fault::Ends),
        1 => Just(Fault::EndsLate),
        1 => Just(Fault::Slow),
    ];
    let faults = prop::collection::vec(fault, 0..6);
    prop_oneof![
        4 => (-40..120_i64).prop_map(Happening::Clock),
        4 => (faults.clone(), any::<bool>()).prop_map(|(faults, kill)| Happening::Run(faults, kill)),
        2 => (faults, 0..8_usize).prop_map(|(faults, cancel)| Happening::Beside(faults, cancel)),
        2 => Just(Happening::Settle),
        1 => (0..4_usize).prop_map(Happening::Cancel),
    ]
}

/// A timer and what is known of it without looking at the service's own notes.
#[derive(Debug)]
struct Expected {
    schedule: Schedule,
    missed: Missed,
    made: Timestamp,
    /// How many events there were when it was cancelled.
    cancelled: Option<usize>,
    /// The latest time at which a service had done all that was due.
    settled: Option<Timestamp>,
}

fn schedule() -> impl Strategy<Value = Schedule> {
    prop_oneof![
        (1..40_u64, -30..60_i64).prop_map(|(interval, start)| every(interval, start)),
        (-20..200_i64).prop_map(|time| Schedule::Once(at(time))),
    ]
}

fn missed() -> impl Strategy<Value = Missed> {
    prop_oneof![
        Just(Missed::All),
        Just(Missed::Latest),
        (0..40_u64).prop_map(|grace| Missed::Skip { grace: seconds(grace) }),
    ]
}

/// The ticks of a timer through a time, one by one.
fn ticks(expected: &Expected, through: Timestamp) -> Vec<Timestamp> {
    let from = if expected.schedule.is_once() {
        Timestamp::from_nanos(i64::MIN)
    } else {
        Timestamp::from_nanos(expected.made.as_nanos() - 1)
    };
    let next = |time: &Timestamp| expected.schedule.next_after(*time);
    std::iter::successors(next(&from), next).take_while(|time| *time <= through).collect()
}

impl Expected {
    /// Checks what has fired against what should have, given the highest time that any service saw.
    fn check(&self, fired: &[Timestamp], seen: Timestamp) -> Result<(), TestCaseError> {
        prop_assert!(
            self.cancelled.is_none_or(|count| fired.len() == count),
            "fired after it was cancelled"
        );
        let all = ticks(self, seen);
        prop_assert!(fired.is_sorted_by(|a, b| a < b), "a tick fired twice or late: {fired:?}");
        prop_assert!(fired.iter().all(|time| all.contains(time)), "{fired:?} of {all:?}");
        let Some(settled) = self.settled else { return Ok(()) };
        let due: Vec<_> = all.iter().copied().filter(|time| *time <= settled).collect();
        match self.missed {
            Missed::All => prop_assert!(fired.starts_with(&due), "{fired:?}, due were {due:?}"),
            Missed::Latest => {
                if let Some(last) = due.last() {
                    // One that came later stands for it, where the clock was further on before.
                    prop_assert!(
                        fired.iter().any(|time| time >= last),
                        "{fired:?}, due was {last:?}"
                    );
                }
            }
            // What was within its grace when everything had been done, has been done or was
            // passed before, when the clock was further on.
            Missed::Skip { grace } => {
                if settled == seen {
                    let oldest = settled.as_nanos() - i64::try_from(grace.as_nanos()).unwrap();
                    let due = due.iter().filter(|time| time.as_nanos() >= oldest);
                    for time in due {
                        prop_assert!(fired.contains(time), "{fired:?}, due was {time:?}");
                    }
                }
            }
        }
        Ok(())
    }
}

fn fired_of(world: &World, index: usize) -> Vec<Timestamp> {
    let stream = format!("out-{index}");
    let fired = world.fired().into_iter().filter(|event| event.stream.as_str() == stream);
    fired.map(|event| event.event_time).collect()
}

fn cancel(world: &World, expected: &mut BTreeMap<usize, Expected>, index: usize) {
    block_on(world.timers().cancel(&index.to_string())).unwrap();
    if let Some(expected) = expected.get_mut(&index) {
        expected.cancelled.get_or_insert_with(|| fired_of(world, index).len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn each_tick_that_is_due_is_one_event_whatever_happens(
        made in prop::collection::vec((schedule(), missed(), 0..30_i64), 1..4),
        happenings in prop::collection::vec(happening(), 1..25),
    ) {
        let mut world = World::new();
        let timers = world.timers();
        let mut expected = BTreeMap::new();
        for (index, (schedule, missed, time)) in made.into_iter().enumerate() {
            world.set(at(time));
            let timer = NewTimer::new(schedule.clone(), event(&format!("out-{index}"))).missed(missed);
            block_on(timers.schedule(&index.to_string(), timer)).unwrap();
            expected.insert(index, Expected { schedule, missed, made: at(time), cancelled: None, settled: None });
        }
        let mut seen = Timestamp::from_nanos(i64::MIN);
        for happening in happenings {
            let now = world.clock.now();
            match happening {
                Happening::Clock(by) => world.set(at(now.as_nanos() / SECOND + by)),
                Happening::Run(faults, kill) => {
                    world.crash_at(faults);
                    seen = seen.max(now);
                    let _ = world.run();
                    // What ended inside of an append never comes back.
                    world.crash_at([]);
                    if kill || world.service.is_some() {
                        world.kill();
                    }
                }
                Happening::Beside(faults, index) => {
                    let mut other = World { log: world.log.clone(), clock: world.clock.clone(), service: None };
                    seen = seen.max(now);
                    world.crash_at(faults);
                    let _ = other.run();
                    let _ = world.run();
                    cancel(&world, &mut expected, index);
                    world.crash_at([]);
                    let _ = other.run();
                    let _ = world.run();
                    world.kill();
                }
                Happening::Settle => {
                    world.settle();
                    seen = seen.max(now);
                    for expected in expected.values_mut().filter(|expected| expected.cancelled.is_none()) {
                        expected.settled = expected.settled.max(Some(now));
                    }
                }
                Happening::Cancel(index) => cancel(&world, &mut expected, index),
            }
            for (index, expected) in &expected {
                expected.check(&fired_of(&world, *index), seen)?;
            }
        }
    }
}
