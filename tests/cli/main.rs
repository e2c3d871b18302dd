//! The command `headwater`, run as a program: what it prints, how it ends, what it leaves behind.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod append;
mod crash;
mod disk;
mod follow;
mod opening;
mod reading;
mod retention;
mod support;
