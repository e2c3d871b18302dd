//! The independent decoder against the engine, and the documents against the sources.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;
mod compact;
mod damage;
mod documents;
mod events;
mod groups;
mod journals;
mod mutated;
mod random;
