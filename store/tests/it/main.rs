//! The store through its public surface.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod backup;
mod basics;
mod common;
mod damage;
mod follower;
mod groups;
mod index;
#[cfg(feature = "metrics")]
mod metrics;
mod model;
mod races;
mod retention;
mod snapshots;
mod transfer;
