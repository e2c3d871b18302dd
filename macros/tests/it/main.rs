//! What the derives make, and what they refuse.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod derive;
mod refused;
mod upcast;
