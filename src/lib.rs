//! Headwater: an embedded event store and stream.

pub use headwater_core::*;
#[cfg(feature = "projections")]
pub use headwater_projections as projections;
pub use headwater_store::{
    CloseError, Cut, EventRef, OpenError, OpenMode, Options, Preallocation, ReadOnlyStore,
    RecoveryReport, Scan, SegmentSummary, Store,
};
