//! The small pieces that threads meet at, under every order that memory allows.
//!
//! The modules below are the store's own sources, compiled against loom's primitives. Loom runs a
//! model in every interleaving, and lets each load return every value that its ordering permits:
//! an `Acquire` or `Release` too few is an error here, also on a machine where it never shows.
//! `tests/weave` has the whole store, without that.

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

#[path = "../../src/mark.rs"]
mod mark;
mod models;
#[path = "../../src/writer/queue.rs"]
mod queue;

/// What the store's threads meet at, as loom has it.
mod sync {
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};

    pub(crate) mod atomic {
        pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    }
}

use libtest_mimic::{Arguments, Trial};

fn main() {
    let models = models::ALL.iter().map(|&(name, model)| {
        Trial::test(name, move || {
            models::explore(name, model);
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), models.collect()).exit();
}
