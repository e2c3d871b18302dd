//! Laws, checkers and worlds to test ordering guarantees with.
//!
//! [`journal_laws`] says whether a journal of yours can carry groups that processes share.
//!
//! [`decode_store`] and [`decode_groups`] read a store with nothing but `docs/format.md`: they
//! share no code with the engine, so whatever both agree on is what the document says.
//!
//! [`SchemaLock`] fails a test when the stored shape of an event changes without a new version.
//!
//! With the feature `disk`, [`Disk`] is a real file system that loses power on command.

#![deny(unsafe_code)]

mod decoder;
#[cfg(feature = "disk")]
mod disk;
mod fields;
mod journal_laws;
mod log;
pub mod mutation;
mod offsets_decoder;
mod schema;

pub use decoder::{DecodedEvent, decode_store};
#[cfg(feature = "disk")]
pub use disk::{Ballast, Disk, DiskError, DiskKind, MemoryDisk};
pub use fields::DecodeStoreError;
pub use journal_laws::journal_laws;
pub use offsets_decoder::{DecodedGroup, decode_groups};
pub use schema::{Difference, SchemaError, SchemaLock, SchemaMode, SchemaOutcome};
