//! The zero-copy walk allocates nothing per event. The allocator counts, so this is a binary of
//! its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use headwater_core::{Append, CodecId, Durability, EventType, NewEvent, Position, StreamId, Tag};
use headwater_store::{Options, Store};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread asks for.
struct Counting;

// SAFETY: everything is handed to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps this method's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from there.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns how often this thread allocates while `work` runs.
fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

fn filled(segment_bytes: u64, events: u64) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { durability: Durability::Os, segment_bytes, ..Options::default() };
    let store = Store::open(dir.path().join("s"), options).unwrap();
    for n in (0..events).step_by(10) {
        let event = |n: u64| {
            let stream = StreamId::new(format!("stream-{}", n % 7)).unwrap();
            let event_type = EventType::new("something.done").unwrap();
            let mut event = NewEvent::new(stream, event_type, CodecId::RAW, vec![7; 100]);
            event.tags = vec![Tag::new("a:1").unwrap(), Tag::new("b:2").unwrap()];
            event
        };
        store.append_blocking(Append::new((n..n + 10).map(event))).unwrap();
    }
    (dir, store)
}

/// Walks over everything and looks at all that an event can lend.
fn walk(store: &Store, events: u64) {
    let mut scan = store.scan(Position::START).unwrap();
    let (mut seen, mut bytes) = (0, 0);
    while let Some(event) = scan.next() {
        let event = event.unwrap();
        bytes += event.stream().len() + event.event_type().len() + event.payload().len();
        bytes += event.tags().map(str::len).sum::<usize>();
        seen += 1;
    }
    assert_eq!((seen, bytes as u64), (events, events * (8 + 14 + 100 + 6)));
}

#[test]
fn a_walk_over_twice_the_events_allocates_no_more() {
    let (_small, small) = filled(4 * 1024 * 1024, 1_000);
    let (_large, large) = filled(4 * 1024 * 1024, 2_000);
    walk(&small, 1_000);
    let count = allocations(|| walk(&small, 1_000));
    assert_eq!(allocations(|| walk(&large, 2_000)), count);
    assert!(count <= 8, "{count} allocations to begin a walk");
}

#[test]
fn a_walk_over_many_segments_allocates_at_most_a_few_times_for_each() {
    let (dir, store) = filled(64 * 1024, 2_000);
    let segments = std::fs::read_dir(dir.path().join("s/log")).unwrap().count();
    assert!(segments >= 8, "{segments} files");
    let count = allocations(|| walk(&store, 2_000));
    assert!(count <= 8 + 4 * segments, "{count} allocations over {segments} files");
}
