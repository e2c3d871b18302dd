//! Several processes that run one group: each is a group of its own here, and they share nothing
//! but the log and a journal.

mod histories;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_core::{
    EventLog, Journal, JournalError, JournalRead, MemoryJournal, MemoryLog, SharedGroups, Slot,
    Version, WorkerChange, WorkerLog,
};
use tokio::sync::watch;

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::group::commit::runs;

const LEASE: Duration = Duration::from_secs(10);

/// The way of one process to the journal, which can be shut: a process that is stopped.
#[derive(Debug)]
struct Gate {
    journal: MemoryJournal,
    open: watch::Sender<bool>,
    reads: AtomicUsize,
}

impl Gate {
    fn new(journal: &MemoryJournal) -> Arc<Self> {
        Arc::new(Self {
            journal: journal.clone(),
            open: watch::Sender::new(true),
            reads: AtomicUsize::new(0),
        })
    }

    fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    async fn pass(&self) {
        let mut open = self.open.subscribe();
        open.wait_for(|&open| open).await.expect("the sender lives as long as this");
    }
}

#[async_trait]
impl Journal for Gate {
    async fn read(&self, after: Version) -> Result<JournalRead, JournalError> {
        self.pass().await;
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.journal.read(after).await
    }

    async fn append(&self, expected: Version, entry: Bytes) -> Result<Version, JournalError> {
        self.pass().await;
        self.journal.append(expected, entry).await
    }

    async fn compact(&self, through: Version, snapshot: Bytes) -> Result<(), JournalError> {
        self.pass().await;
        self.journal.compact(through, snapshot).await
    }

    async fn changed(&self, after: Version) -> Result<(), JournalError> {
        self.pass().await;
        self.journal.changed(after).await
    }
}

/// A process, as far as the others can tell.
struct Process {
    gate: Arc<Gate>,
    group: ConsumerGroup,
}

impl Process {
    async fn start(log: &MemoryLog, journal: &MemoryJournal, options: GroupOptions) -> Self {
        Self::over(Arc::new(log.clone()), journal, options).await
    }

    async fn over(log: Arc<dyn EventLog>, journal: &MemoryJournal, options: GroupOptions) -> Self {
        let (gate, groups) = way(log, journal).await;
        let options = GroupOptions { worker_lease: LEASE, ..options };
        let group = ConsumerGroup::open(groups, options).await.unwrap();
        Self { gate, group }
    }

    async fn slots(&self) -> Vec<(usize, usize)> {
        let status = self.group.status().await.unwrap();
        status.workers.iter().map(|worker| (worker.members, worker.slots)).collect()
    }
}

/// Makes the way of one process to the groups.
async fn way(log: Arc<dyn EventLog>, journal: &MemoryJournal) -> (Arc<Gate>, Arc<SharedGroups>) {
    let gate = Gate::new(journal);
    let groups = SharedGroups::open(log, gate.clone()).await.unwrap();
    (gate, Arc::new(groups))
}

fn world() -> (MemoryLog, MemoryJournal) {
    (MemoryLog::new(), MemoryJournal::new())
}

async fn start(world: &(MemoryLog, MemoryJournal)) -> Process {
    Process::start(&world.0, &world.1, options()).await
}

/// Lets everything happen that happens by itself within a time.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Appends an event for each of `count` keys.
async fn keys(log: &MemoryLog, count: usize) {
    let names: Vec<String> = (0..count).map(|number| format!("a-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    append(log, &names).await;
}

#[tokio::test(start_paused = true)]
async fn processes_share_the_slots_by_their_members_and_each_event_goes_to_one() {
    let world = world();
    let (one, two) = (start(&world).await, start(&world).await);
    let mut a = one.group.join("a").await.unwrap();
    let mut b = two.group.join("b").await.unwrap();
    let mut c = two.group.join("c").await.unwrap();
    pass(SECOND).await;
    assert_eq!(one.slots().await, [(1, 342), (2, 682)]);
    keys(&world.0, 200).await;
    let mut all = Vec::new();
    for member in [&mut a, &mut b, &mut c] {
        let mut got = soon(member).await;
        got.extend(soon(member).await);
        assert!(!got.is_empty());
        all.extend(positions(&got));
        ack_all(got);
        member.commit().await.unwrap();
    }
    all.sort_unstable();
    assert_eq!(all, (1..=200).collect::<Vec<u64>>());
    let (here, there) = (&one.group, &two.group);
    here.wait_for(Position::new(200), LEASE).await.unwrap();
    there.wait_for(Position::new(200), LEASE).await.unwrap();
    assert_eq!(here.lag().await.unwrap().events, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_out_stays_until_it_is_settled_and_then_its_slot_goes() {
    let world = world();
    let one = start(&world).await;
    let mut a = one.group.join("a").await.unwrap();
    keys(&world.0, 60).await;
    let out = a.next(100).await.unwrap();
    assert_eq!(out.len(), 60);
    let two = start(&world).await;
    let mut b = two.group.join("b").await.unwrap();
    keys(&world.0, 60).await;
    // Slots with nothing out go at once: of those there are more than half, so nothing else moves.
    let early = soon(&mut b).await;
    assert!(early.iter().all(|delivery| delivery.event().position.get() > 60));
    let mut late = soon(&mut a).await;
    assert!(late.is_empty(), "a key has one event out");
    ack_all(out);
    ack_all(early);
    late.extend(soon(&mut a).await);
    let rest = soon(&mut b).await;
    let mut seen = positions(&late);
    seen.extend(positions(&rest));
    assert!(seen.iter().all(|&position| position > 60), "nothing comes twice: {seen:?}");
    ack_all(late);
    ack_all(rest);
    a.commit().await.unwrap();
    b.commit().await.unwrap();
    two.group.wait_for(Position::new(120), LEASE).await.unwrap();
    assert_eq!(two.slots().await, [(1, 512), (1, 512)]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_process_is_given_up_and_what_it_commits_is_refused() {
    let world = world();
    let (one, two) = (start(&world).await, start(&world).await);
    let mut a = one.group.join("a").await.unwrap();
    let mut b = two.group.join("b").await.unwrap();
    pass(SECOND).await;
    keys(&world.0, 20).await;
    let out = a.next(100).await.unwrap();
    ack_all(soon(&mut b).await);
    b.commit().await.unwrap();
    one.gate.set_open(false);
    pass(LEASE * 2).await;
    assert_eq!(two.slots().await, [(1, 1024)]);
    let again = soon(&mut b).await;
    assert_eq!(positions(&again), positions(&out));
    ack_all(again);
    b.commit().await.unwrap();
    // It wakes and goes on with what it has.
    let half = out.len() / 2;
    let late: Vec<Settlement> = out.iter().take(half).map(Delivery::renew).collect();
    assert!(late.iter().all(|&settlement| settlement == Settlement::Counted), "nobody told it");
    ack_all(out);
    one.gate.set_open(true);
    let error = a.commit().await.unwrap_err();
    assert!(matches!(error, ConsumerError::LostSlots { .. }), "{error}");
    // And then it learns, and joins again.
    pass(SECOND).await;
    a.commit().await.unwrap();
    assert_eq!(one.slots().await, [(1, 512), (1, 512)]);
    keys(&world.0, 20).await;
    let (here, there) = (soon(&mut a).await, soon(&mut b).await);
    assert_eq!(here.len() + there.len(), 20);
    assert!(here.iter().chain(&there).all(|d| d.event().position.get() > 20));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_silent_too_long_takes_nothing_new_before_it_has_looked() {
    let world = world();
    let one = start(&world).await;
    let mut a = one.group.join("a").await.unwrap();
    pass(SECOND).await;
    one.gate.set_open(false);
    keys(&world.0, 5).await;
    pass(LEASE / 2).await;
    let out = a.try_next(2).unwrap();
    assert_eq!(out.len(), 2, "its lease runs");
    pass(LEASE).await;
    assert!(a.try_next(100).unwrap().is_empty());
    // Nobody has taken anything over, so it goes on where it was.
    one.gate.set_open(true);
    assert_eq!(soon(&mut a).await.len(), 3);
    ack_all(out);
    a.commit().await.unwrap();
    assert_eq!(one.slots().await, [(1, 1024)]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_closes_lets_go_at_once_and_one_that_dies_after_its_lease() {
    let world = world();
    let (one, two) = (start(&world).await, start(&world).await);
    let three = start(&world).await;
    let mut a = one.group.join("a").await.unwrap();
    let b = two.group.join("b").await.unwrap();
    let mut c = three.group.join("c").await.unwrap();
    pass(SECOND).await;
    keys(&world.0, 30).await;
    ack_all(soon(&mut a).await);
    one.group.close().await.unwrap();
    pass(SECOND).await;
    assert_eq!(three.slots().await, [(1, 512), (1, 512)]);
    drop((two, b));
    pass(LEASE / 2).await;
    assert_eq!(three.slots().await, [(1, 512), (1, 512)]);
    pass(LEASE).await;
    assert_eq!(three.slots().await, [(1, 1024)]);
    ack_all(soon(&mut c).await);
    c.commit().await.unwrap();
    three.group.wait_for(Position::new(30), LEASE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pause_seek_and_redrive_reach_every_process() {
    let world = world();
    let (one, two) = (start(&world).await, start(&world).await);
    let mut a = one.group.join("a").await.unwrap();
    let mut b = two.group.join("b").await.unwrap();
    pass(SECOND).await;
    two.group.pause().await.unwrap();
    keys(&world.0, 40).await;
    pass(SECOND).await;
    assert!(a.try_next(100).unwrap().is_empty());
    assert!(matches!(one.group.status().await.unwrap().phase, GroupPhase::Paused));
    two.group.resume().await.unwrap();
    let mut here = soon(&mut a).await;
    let poison = here.remove(0);
    let first = poison.event().position;
    assert_eq!(poison.park("poison"), Settlement::Counted);
    ack_all(here);
    ack_all(soon(&mut b).await);
    a.commit().await.unwrap();
    b.commit().await.unwrap();
    // Looked at and re-driven from the process that does not own its slot.
    let parked = two.group.parked().await.unwrap();
    assert_eq!(parked.iter().map(|parked| parked.first).collect::<Vec<_>>(), [first]);
    two.group.redrive(first).await.unwrap();
    let again = soon(&mut a).await;
    assert_eq!(again.iter().map(|d| d.event().position).collect::<Vec<_>>(), [first]);
    ack_all(again);
    a.commit().await.unwrap();
    pass(SECOND).await;
    assert!(two.group.parked().await.unwrap().is_empty());
    let error = two.group.redrive(first).await.unwrap_err();
    let not_parked =
        matches!(error, ConsumerError::Log { source: GroupError::NotParked { .. }, .. });
    assert!(not_parked, "{error}");
    two.group.seek(Position::new(30)).await.unwrap();
    let mut all = positions(&soon(&mut a).await);
    all.extend(positions(&soon(&mut b).await));
    all.sort_unstable();
    assert_eq!(all, (31..=40).collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn in_global_order_one_process_has_everything_and_the_others_stand_by() {
    let world = world();
    let failure = || FailurePolicy { attempts_max: None, ..FailurePolicy::default() };
    let global = || GroupOptions { order: Order::Global, failure: failure(), ..options() };
    let one = Process::start(&world.0, &world.1, global()).await;
    let two = Process::start(&world.0, &world.1, global()).await;
    let mut a = one.group.join("a").await.unwrap();
    pass(SECOND).await;
    let mut b = two.group.join("b").await.unwrap();
    keys(&world.0, 3).await;
    let first = soon(&mut a).await;
    assert_eq!(positions(&first), [1]);
    assert!(soon(&mut b).await.is_empty());
    assert!(matches!(two.group.status().await.unwrap().phase, GroupPhase::StandingBy));
    ack_all(first);
    one.group.close().await.unwrap();
    assert_eq!(positions(&soon(&mut b).await), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_process_without_members_takes_nothing_and_knows_how_far_the_others_are() {
    let world = world();
    let (one, guest) = (start(&world).await, start(&world).await);
    let mut a = one.group.join("a").await.unwrap();
    keys(&world.0, 10).await;
    ack_all(soon(&mut a).await);
    a.commit().await.unwrap();
    guest.group.wait_for(Position::new(10), LEASE).await.unwrap();
    let status = guest.group.status().await.unwrap();
    assert!(matches!(status.phase, GroupPhase::Idle));
    assert_eq!(status.workers.len(), 1);
    assert_eq!(guest.group.lag().await.unwrap().events, 0);
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_to_do_looks_now_and_then() {
    let world = world();
    let (one, guest) = (start(&world).await, start(&world).await);
    let _a = one.group.join("a").await.unwrap();
    let two = start(&world).await;
    let b = two.group.join("b").await.unwrap();
    pass(LEASE).await;
    // One dies, so that somebody has to be given up.
    drop((two, b));
    pass(LEASE * 3).await;
    for process in [&one, &guest] {
        process.gate.reads.store(0, Ordering::Relaxed);
    }
    pass(LEASE * 10).await;
    // Three beats each lease, and what else it takes to hear of them.
    for process in [&one, &guest] {
        let reads = process.gate.reads.load(Ordering::Relaxed);
        assert!(reads < 200, "{reads} reads in ten leases");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_sees_less_of_the_log_than_was_done_takes_over_once_it_has_caught_up() {
    let journal = MemoryJournal::new();
    let log = WatchedLog::new();
    let one = Process::start(&log.inner, &journal, options()).await;
    let mut a = one.group.join("a").await.unwrap();
    keys(&log.inner, 10).await;
    ack_all(soon(&mut a).await);
    one.group.close().await.unwrap();
    log.behind.store(1, Ordering::Relaxed);
    let two = Process::over(log.clone(), &journal, options()).await;
    let mut b = two.group.join("b").await.unwrap();
    pass(LEASE).await;
    assert_eq!(two.slots().await, [(1, 0)]);
    log.behind.store(0, Ordering::Relaxed);
    pass(LEASE).await;
    assert_eq!(two.slots().await, [(1, 1024)]);
    keys(&log.inner, 1).await;
    assert_eq!(positions(&soon(&mut b).await), [11]);
}

#[tokio::test(start_paused = true)]
async fn what_was_out_when_it_was_lost_no_longer_counts_as_in_flight() {
    let world = world();
    let (one, two) = (start(&world).await, start(&world).await);
    let mut a = one.group.join("a").await.unwrap();
    let mut b = two.group.join("b").await.unwrap();
    keys(&world.0, 20).await;
    let out = soon(&mut a).await;
    let in_flight = || async { one.group.status().await.unwrap().members[0].in_flight };
    assert_eq!(in_flight().await, out.len());
    one.gate.set_open(false);
    pass(LEASE * 2).await;
    assert!(soon(&mut b).await.len() >= out.len());
    one.gate.set_open(true);
    pass(SECOND).await;
    assert_eq!(in_flight().await, 0);
    assert!(out.into_iter().all(|delivery| delivery.ack() == Settlement::TooLate));
}

#[tokio::test(start_paused = true)]
async fn receipts_of_a_work_queue_expire_once_another_process_has_taken_over() {
    let world = world();
    let open = || async {
        let (gate, groups) = way(Arc::new(world.0.clone()), &world.1).await;
        let name = GroupName::new("q").unwrap();
        let options = ShareOptions { worker_lease: LEASE, ..ShareOptions::new(name) };
        (gate, ShareGroup::open(groups, options).await.unwrap())
    };
    let ((gate, one), (_, two)) = (open().await, open().await);
    pass(SECOND).await;
    keys(&world.0, 20).await;
    let mine = one.receive(100, SECOND).await.unwrap();
    let theirs = two.receive(100, SECOND).await.unwrap();
    assert_eq!(mine.len() + theirs.len(), 20);
    let receipts: Vec<Receipt> = mine.into_iter().map(Received::into_receipt).collect();
    let (early, late) = receipts.split_at(receipts.len() / 2);
    assert!(one.ack(early).await.unwrap().iter().all(Result::is_ok));
    gate.set_open(false);
    pass(LEASE * 2).await;
    let again = two.receive(100, SECOND).await.unwrap();
    assert_eq!(again.len(), late.len());
    let answers = {
        let acks = one.ack(late);
        tokio::pin!(acks);
        // It waits at the gate with everything acknowledged here.
        assert!(tokio::time::timeout(SECOND, &mut acks).await.is_err());
        gate.set_open(true);
        acks.await.unwrap()
    };
    assert!(answers.iter().all(|answer| matches!(answer, Err(ReceiptError::Expired { .. }))));
    drop((again, theirs));
    pass(SECOND).await;
    let (here, there) = (one.receive(100, SECOND).await, two.receive(100, SECOND).await);
    assert_eq!(here.unwrap().len() + there.unwrap().len(), 20 - early.len());
    one.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_said_once_also_where_a_commit_is_the_first_to_meet_it() {
    let world = world();
    let one = start(&world).await;
    let mut a = one.group.join("a").await.unwrap();
    keys(&world.0, 5).await;
    ack_all(soon(&mut a).await);
    let (_, other) = way(Arc::new(world.0.clone()), &world.1).await;
    let name = GroupName::new("g").unwrap();
    let group = other.shared_group(&name).await.unwrap();
    let (worker, beats) =
        group.workers.iter().map(|(id, worker)| (id, worker.beats)).next().unwrap();
    other.change_workers(&name, WorkerChange::Evict { worker, beats }).await.unwrap();
    let join = WorkerChange::Join { name: "other".to_owned(), members: 1 };
    let worker = other.change_workers(&name, join).await.unwrap().workers.newest();
    let slots = runs(Slot::all());
    other.change_workers(&name, WorkerChange::Claim { worker, slots }).await.unwrap();
    // Nothing else has had a turn since.
    let error = a.commit().await.unwrap_err();
    assert!(matches!(error, ConsumerError::LostSlots { .. }), "{error}");
    a.commit().await.unwrap();
    pass(LEASE * 2).await;
    assert_eq!(soon(&mut a).await.len(), 5);
}
