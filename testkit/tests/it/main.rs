//! The independent decoder against the engine.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;
mod compact;
mod damage;
mod events;
mod groups;
mod random;
