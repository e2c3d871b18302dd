//! The store through its public surface.

mod basics;
mod common;
