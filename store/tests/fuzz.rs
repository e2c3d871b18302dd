//! The corpus of `fuzz/`, and mutations of it, on every decoder. The allocator measures, so this
//! is a binary of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use headwater_store::fuzz;
use headwater_testkit::mutation;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Notes the largest piece that each thread asks for.
struct Measuring;

// SAFETY: everything is handed to the system's allocator as it came; noting allocates nothing.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller keeps this method's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from there.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

fn corpus(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

#[test]
fn no_bytes_make_a_decoder_panic_or_ask_for_much() {
    for &(name, target) in fuzz::TARGETS {
        let run = mutation::run(&corpus(name), |bytes| {
            LARGEST.set(0);
            target(bytes);
            let (largest, paid) = (LARGEST.get(), 256 * 1024 + 64 * bytes.len());
            assert!(largest <= paid, "{name}: {largest} bytes at once for {}", bytes.len());
        });
        println!("{name}: {} inputs, {} mutations", run.corpus, run.mutations);
        assert!(run.mutations > 20, "{name} did next to nothing");
    }
}

#[test]
#[ignore = "writes the files that the corpus begins with"]
fn write_the_corpus() {
    for &(name, _) in fuzz::TARGETS {
        std::fs::create_dir_all(corpus(name)).unwrap();
        for (at, seed) in fuzz::seeds(name).iter().enumerate() {
            std::fs::write(corpus(name).join(format!("seed-{at}")), seed).unwrap();
        }
    }
}
