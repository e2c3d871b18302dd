//! The models: two or three threads each, and what must hold in every order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use headwater_core::{Position, Visibility};
use loom::sync::atomic::AtomicU64;
use loom::thread;

use crate::mark::{Mark, Watermark};
use crate::queue::{Queue, Taken};

type Model = (&'static str, fn());

pub(crate) const ALL: &[Model] = &[
    ("what_a_mark_covers_is_there_for_whoever_saw_it", what_a_mark_covers_is_there),
    ("what_is_durable_is_committed", what_is_durable_is_committed),
    ("the_queue_gives_everything_once_and_in_order", the_queue_gives_everything_once),
    ("a_place_is_given_up_or_taken", a_place_is_given_up_or_taken),
    ("a_poke_is_not_lost", a_poke_is_not_lost),
];

/// Runs a model in every order with at most three switches away from a thread that could go on.
pub(crate) fn explore(name: &str, model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    let (begun, orders) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&orders);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{name}: {} orders in {:.1?}", orders.load(Ordering::Relaxed), begun.elapsed());
}

/// Bytes of a segment, or entries of its index, as the map shows them: without an order of their own.
#[derive(Default)]
struct Bytes([AtomicU64; 2]);

/// Catches: `Mark::set` without `Release`, `Mark::get` without `Acquire`, a mark before the bytes.
fn what_a_mark_covers_is_there() {
    let shared = Arc::new((Bytes::default(), Mark::new(0)));
    let writer = Arc::clone(&shared);
    let writer = thread::spawn(move || {
        let (bytes, mark) = &*writer;
        for (n, byte) in (1..).zip(&bytes.0) {
            byte.store(n, Ordering::Relaxed);
            mark.set(n);
        }
    });
    let (bytes, mark) = &*shared;
    let mut seen = 0;
    for _ in 0..2 {
        let end = mark.get();
        assert!(seen <= end);
        seen = end;
        for (n, byte) in (1..=end).zip(&bytes.0) {
            assert_eq!(byte.load(Ordering::Relaxed), n);
        }
    }
    writer.join().unwrap();
}

/// Catches: the durable mark set before the committed one, or either without its ordering.
fn what_is_durable_is_committed() {
    let shared = Arc::new(Watermark::new(Position::START));
    let writer = Arc::clone(&shared);
    let writer = thread::spawn(move || {
        for n in 1..=2 {
            writer.set(Position::new(n), Position::new(n));
        }
    });
    let durable = shared.get(Visibility::Durable);
    let committed = shared.get(Visibility::Committed);
    assert!(durable <= committed, "{durable} {committed}");
    writer.join().unwrap();
}

/// Takes until the queue is closed.
fn take_all(queue: &Queue<u32>) -> Vec<u32> {
    let mut all = Vec::new();
    loop {
        match queue.take(None) {
            Taken::Requests(requests) => all.extend(requests),
            Taken::Nothing => {}
            Taken::Closed => return all,
        }
    }
}

/// Catches: a wake-up that is lost because the thread is thought to be awake; a request that is let
/// in after closing; requests out of order.
fn the_queue_gives_everything_once() {
    let queue = Arc::new(Queue::new());
    let (here, other) = (Arc::clone(&queue), Arc::clone(&queue));
    let thread = thread::spawn(move || take_all(&here));
    let other = thread::spawn(move || other.push(3).map(std::mem::forget).is_some());
    for n in [1, 2] {
        std::mem::forget(queue.push(n).unwrap());
    }
    queue.close();
    let let_in = other.join().unwrap();
    let taken = thread.join().unwrap();
    assert_eq!(taken.contains(&3), let_in);
    let ours: Vec<u32> = taken.into_iter().filter(|&n| n != 3).collect();
    assert_eq!(ours, [1, 2]);
}

/// Catches: giving up a place that the thread has come to, at the cost of somebody else's.
fn a_place_is_given_up_or_taken() {
    let queue = Arc::new(Queue::new());
    let (here, other) = (Arc::clone(&queue), Arc::clone(&queue));
    let thread = thread::spawn(move || take_all(&here));
    let other = thread::spawn(move || drop(other.push(1)));
    std::mem::forget(queue.push(2).unwrap());
    other.join().unwrap();
    queue.close();
    let taken = thread.join().unwrap();
    assert_eq!(taken.iter().filter(|&&n| n == 2).count(), 1);
    assert!(taken.len() <= 2);
}

/// Catches: a deadline that the thread does not learn of.
fn a_poke_is_not_lost() {
    let queue: Arc<Queue<u32>> = Arc::new(Queue::new());
    let here = Arc::clone(&queue);
    let thread = thread::spawn(move || assert!(matches!(here.take(None), Taken::Nothing)));
    queue.poke();
    thread.join().unwrap();
}
