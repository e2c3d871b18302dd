//! The command `headwater`, run as a program: what it prints, how it ends, what it leaves behind.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod append;
mod backup;
mod crash;
mod disk;
mod dump;
mod follow;
mod opening;
mod parked;
mod reading;
mod repair;
mod retention;
mod streams;
mod support;
mod trace;
mod transfer;
