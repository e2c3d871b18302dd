//! The store under a scheduler that tries its interleavings.
//!
//! The modules below are the store's own sources, compiled against another `sync`: shuttle's
//! mutexes, condition variables, atomics and threads. A schedule is one run of a story in which
//! shuttle chooses at each of these which thread goes on; a story that waits forever is a failure,
//! too. What is not in `sync` happens at one go: the simulated disk, and tokio's channels, which
//! have interleaving tests of their own. Atomics are sequentially consistent here; `tests/orderings`
//! looks at weaker ones.
//!
//! `HEADWATER_WEAVE_SECONDS` gives each story so much time instead of a fixed number of schedules,
//! `HEADWATER_WEAVE_SEED` begins elsewhere. A failure prints the schedule.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    unfulfilled_lint_expectations,
    reason = "a part of the store is compiled here, without those who use it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::wrong_self_convention,
    reason = "without a harness clippy sees no test, and nothing that is public"
)]

#[path = "../../src/catalog.rs"]
mod catalog;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/format/mod.rs"]
mod format;
#[path = "../../src/fs/mod.rs"]
mod fs;
#[path = "../../src/handle.rs"]
mod handle;
#[path = "../../src/index/mod.rs"]
mod index;
#[path = "../../src/ledger.rs"]
mod ledger;
#[path = "../../src/log.rs"]
mod log;
#[path = "../../src/mark.rs"]
mod mark;
#[path = "../../src/mmap.rs"]
mod mmap;
#[path = "../../src/offsets/mod.rs"]
mod offsets;
#[path = "../../src/open.rs"]
mod open;
#[path = "../../src/options.rs"]
mod options;
#[path = "../../src/planted.rs"]
mod planted;
#[path = "../../src/recovery.rs"]
mod recovery;
#[path = "../../src/retention.rs"]
mod retention;
#[path = "../../src/scan.rs"]
mod scan;
#[path = "../../src/search.rs"]
mod search;
#[path = "../../src/seek.rs"]
mod seek;
#[path = "../../src/segment.rs"]
mod segment;
#[path = "../../src/segments.rs"]
mod segments;
#[path = "../../src/source.rs"]
mod source;
mod stories;
mod sync;
#[path = "../../src/tail.rs"]
mod tail;
#[path = "../../src/tails.rs"]
mod tails;
#[path = "../../src/types.rs"]
mod types;
#[path = "../../src/view.rs"]
mod view;
mod world;
#[path = "../../src/writer/mod.rs"]
mod writer;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let stories = stories::ALL.iter().map(|&(name, schedules, story)| {
        Trial::test(name, move || {
            world::explore(name, schedules, story);
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), stories.collect()).exit();
}
