//! Random histories of processes that join, work, stop for a while, die and come back.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use headwater_core::{Generation, Slot};
use proptest::prelude::*;

use super::*;

const PLACES: usize = 3;
const KEYS: usize = 12;

#[derive(Clone, Debug)]
enum Op {
    Append(usize),
    /// A process starts where there is none, or gets another member.
    Join(usize),
    Leave(usize),
    Take(usize, usize),
    /// Acks, and what else can be done with a delivery.
    Settle(usize, usize, u8),
    Commit(usize),
    Stop(usize),
    GoOn(usize),
    Crash(usize),
    Close(usize),
    Pause(bool),
    Pass(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let place = || 0..PLACES;
    let op = prop_oneof![
        4 => (0..KEYS).prop_map(Op::Append),
        4 => place().prop_map(Op::Join),
        1 => place().prop_map(Op::Leave),
        8 => (place(), 1..6usize).prop_map(|(place, max)| Op::Take(place, max)),
        10 => (place(), 0..8usize, 0..12u8).prop_map(|(p, which, how)| Op::Settle(p, which, how)),
        4 => place().prop_map(Op::Commit),
        2 => place().prop_map(Op::Stop),
        3 => place().prop_map(Op::GoOn),
        1 => place().prop_map(Op::Crash),
        1 => place().prop_map(Op::Close),
        1 => any::<bool>().prop_map(Op::Pause),
        4 => prop_oneof![Just(1u64), Just(30), Just(1_000), Just(4_000), Just(11_000)]
            .prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 1..120)
}

struct Place {
    process: Process,
    /// No two processes ever have the same.
    life: u64,
    members: Vec<Member>,
    hand: Vec<Delivery>,
    /// What was acked since the last commit.
    acked: BTreeSet<u64>,
}

struct History {
    world: (MemoryLog, MemoryJournal),
    order: Order,
    places: Vec<Option<Place>>,
    lives: u64,
    /// The keys of the events, in their order.
    keys: Vec<usize>,
    acked: BTreeSet<u64>,
    /// What must never be delivered again.
    committed: BTreeSet<u64>,
    /// Which process delivered under a generation.
    owners: HashMap<(Slot, Generation), u64>,
    /// How often something happened that should happen.
    seen: BTreeMap<&'static str, usize>,
}

impl History {
    fn new(order: Order) -> Self {
        Self {
            world: world(),
            order,
            places: (0..PLACES).map(|_| None).collect(),
            lives: 0,
            keys: Vec::new(),
            acked: BTreeSet::new(),
            committed: BTreeSet::new(),
            owners: HashMap::new(),
            seen: BTreeMap::new(),
        }
    }

    fn options(&self) -> GroupOptions {
        let lease = Duration::from_secs(6);
        let failure = FailurePolicy { attempts_max: None, ..FailurePolicy::default() };
        let kind = match self.order {
            Order::None => GroupKind::Share,
            _ => GroupKind::Consumer,
        };
        GroupOptions { kind, order: self.order, lease, in_flight_max: 16, failure, ..options() }
    }

    async fn join(&mut self, at: usize) {
        if self.places[at].is_none() {
            let process = Process::start(&self.world.0, &self.world.1, self.options()).await;
            self.lives += 1;
            let (members, hand) = (Vec::new(), Vec::new());
            let place = Place { process, life: self.lives, members, hand, acked: BTreeSet::new() };
            self.places[at] = Some(place);
        }
        let place = self.places[at].as_mut().expect("it was just put there");
        if place.members.len() < 2 {
            place.members.push(place.process.group.join("m").await.expect("it is open"));
        }
    }

    fn take(&mut self, at: usize, max: usize) {
        let Some(place) = &mut self.places[at] else { return };
        for member in &mut place.members {
            for delivery in member.try_next(max).expect("nothing ends a group") {
                let position = delivery.event().position.get();
                assert!(!self.committed.contains(&position), "{position} comes after its commit");
                for earlier in 1..position {
                    let index = usize::try_from(earlier).expect("small") - 1;
                    let before = match self.order {
                        Order::Global => true,
                        Order::None => false,
                        Order::Key => {
                            self.keys[index]
                                == self.keys[usize::try_from(position).expect("small") - 1]
                        }
                    };
                    let done = self.acked.contains(&earlier);
                    assert!(done || !before, "{position} comes before {earlier} was acked");
                }
                let owner = (delivery.slot(), delivery.generation());
                let life = *self.owners.entry(owner).or_insert(place.life);
                assert_eq!(life, place.life, "two processes deliver under {owner:?}");
                if self.acked.contains(&position) {
                    *self.seen.entry("delivered again").or_default() += 1;
                }
                place.hand.push(delivery);
            }
        }
    }

    fn settle(&mut self, at: usize, which: usize, how: u8) {
        let Some(place) = &mut self.places[at] else { return };
        if place.hand.is_empty() {
            return;
        }
        let delivery = place.hand.remove(which % place.hand.len());
        let position = delivery.event().position.get();
        match how {
            0 => drop(delivery),
            1 => drop(delivery.release()),
            2 => drop(delivery.retry_after(SECOND)),
            _ => {
                // The effect comes first, whether it counts or not.
                self.acked.insert(position);
                if delivery.ack() == Settlement::Counted {
                    place.acked.insert(position);
                } else {
                    *self.seen.entry("too late").or_default() += 1;
                }
            }
        }
    }

    /// Commits where the process is not stopped.
    async fn commit(&mut self, at: usize) {
        let Some(place) = self.places[at].as_mut().filter(|p| *p.process.gate.open.borrow()) else {
            return;
        };
        let mut lost = false;
        for member in &mut place.members {
            match member.commit().await {
                Ok(()) => {}
                Err(ConsumerError::LostSlots { .. }) => lost = true,
                Err(error) => panic!("{error}"),
            }
        }
        let acked = std::mem::take(&mut place.acked);
        if lost {
            *self.seen.entry("lost").or_default() += 1;
        } else if !place.members.is_empty() {
            self.committed.extend(acked);
        }
    }

    async fn leave(&mut self, at: usize) {
        let Some(place) = self.places[at].as_mut().filter(|p| *p.process.gate.open.borrow()) else {
            return;
        };
        if let Some(member) = place.members.pop() {
            // What was acked is committed or lost; which of it is not told apart here.
            place.acked.clear();
            match member.leave().await {
                Ok(()) | Err(ConsumerError::LostSlots { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn close(&mut self, at: usize) {
        if self.places[at].as_ref().is_some_and(|place| !*place.process.gate.open.borrow()) {
            return;
        }
        let Some(place) = self.places[at].take() else { return };
        match place.process.group.close().await {
            Ok(()) | Err(ConsumerError::LostSlots { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn pause(&mut self, paused: bool) {
        let open = |place: &&Place| *place.process.gate.open.borrow();
        let Some(place) = self.places.iter().flatten().find(open) else { return };
        let group = &place.process.group;
        let done = if paused { group.pause().await } else { group.resume().await };
        done.expect("a pause is not refused");
    }

    async fn run(&mut self, op: &Op) {
        match *op {
            Op::Append(key) => {
                self.keys.push(key);
                append(&self.world.0, &[&format!("a-{key}")]).await;
            }
            Op::Join(at) => self.join(at).await,
            Op::Leave(at) => self.leave(at).await,
            Op::Take(at, max) => self.take(at, max),
            Op::Settle(at, which, how) => self.settle(at, which, how),
            Op::Commit(at) => self.commit(at).await,
            Op::Stop(at) => {
                if let Some(place) = &self.places[at] {
                    place.process.gate.set_open(false);
                }
            }
            Op::GoOn(at) => {
                if let Some(place) = &self.places[at] {
                    place.process.gate.set_open(true);
                }
            }
            Op::Crash(at) => self.places[at] = None,
            Op::Close(at) => self.close(at).await,
            Op::Pause(paused) => self.pause(paused).await,
            Op::Pass(millis) => pass(Duration::from_millis(millis)).await,
        }
        // Whoever has nothing else to do does it.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.check_floors().await;
    }

    /// No progress is ahead of the work.
    async fn check_floors(&self) {
        let events: Arc<dyn EventLog> = Arc::new(self.world.0.clone());
        let look = SharedGroups::open(events, Arc::new(self.world.1.clone())).await.unwrap();
        let Ok(state) = look.group(&GroupName::new("g").unwrap()).await else { return };
        for event in events_of(&self.world.0).await {
            let position = event.position.get();
            let settled = state.slot(event.slot).is_settled(event.position);
            assert!(!settled || self.acked.contains(&position), "{position} settled unseen");
        }
    }

    /// Lets everybody work until nothing is left.
    async fn finish(&mut self) {
        for place in self.places.iter().flatten() {
            place.process.gate.set_open(true);
        }
        self.join(0).await;
        pass(Duration::from_millis(100)).await;
        self.pause(false).await;
        let head = Position::new(self.keys.len() as u64);
        for _ in 0..200 {
            for at in 0..PLACES {
                self.take(at, 100);
                while self.places[at].as_ref().is_some_and(|place| !place.hand.is_empty()) {
                    self.settle(at, 0, 9);
                }
                self.commit(at).await;
            }
            pass(Duration::from_millis(500)).await;
            self.check_floors().await;
            let place = self.places[0].as_ref().expect("it has joined");
            if place.process.group.floor() >= head {
                break;
            }
        }
        let place = self.places[0].as_ref().expect("it has joined");
        place.process.group.wait_for(head, LEASE).await.expect("everything is settled at last");
        assert_eq!(self.acked.len() as u64, head.get());
    }
}

async fn events_of(log: &MemoryLog) -> Vec<headwater_core::RecordedEvent> {
    let read = headwater_core::Read::forward(Query::all(), Position::START);
    log.read(read).await.unwrap().events
}

fn runs_through(order: Order, ops: &[Op]) -> BTreeMap<&'static str, usize> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut history = History::new(order);
        for op in ops {
            history.run(op).await;
        }
        history.finish().await;
        history.seen
    })
}

/// Returns how many histories to try of each order; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn whatever_processes_do_nothing_is_skipped_and_nothing_committed_comes_again(ops in ops()) {
        runs_through(Order::Key, &ops);
    }

    #[test]
    fn so_it_is_in_global_order(ops in ops()) {
        runs_through(Order::Global, &ops);
    }

    #[test]
    fn so_it_is_without_an_order(ops in ops()) {
        runs_through(Order::None, &ops);
    }
}
