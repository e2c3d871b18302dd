//! What threads meet at, in one place: `tests/weave` compiles the store with another one of these,
//! under a scheduler that tries its interleavings.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) use pollster::block_on;
pub(crate) use tokio::sync::watch;

/// Numbers and flags that threads share.
pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}

/// The threads themselves.
pub(crate) mod thread {
    pub(crate) use std::thread::{Builder, JoinHandle, yield_now};
}
