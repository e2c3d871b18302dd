//! Vocabulary, pure logic and traits of the Headwater event store.
//!
//! Nothing here does I/O, knows a runtime or is `unsafe`. Begin with [`EventLog`], the trait that
//! every engine implements; [`MemoryLog`] is the simplest one. [`Decider`] and [`execute`] are
//! where domain code meets a log, and [`GroupLog`] is what consumer groups stand on.

#![forbid(unsafe_code)]

mod append;
mod cloud_event;
mod codec;
mod condition;
mod decider;
mod decision;
mod event;
mod execute;
mod flow;
mod fold;
mod group;
mod id;
mod kind;
pub mod limits;
mod log;
mod memory;
mod metadata;
mod name;
mod pattern;
mod position;
mod query;
mod registry;
mod schedule;
pub mod shape;
mod slot;
mod snapshot;
mod subscription;
mod time;
mod trace;

pub use append::{
    Append, AppendError, Appended, ContentDigest, Durability, Effect, InvalidAppend, Overrun,
};
/// What payloads are encoded to.
pub use bytes::Bytes;
pub use cloud_event::{Attribute, CloudEvent, CloudEventJson};
pub use codec::{Bincode, Codec, CodecError, CodecId, Json, decode};
pub use condition::{Condition, Conflict, ExpectedRevision, QueryCondition, StreamCondition};
pub use decider::Decider;
pub use decision::{Decided, Decision, Known, LoadViewsError, View, Views, decide, load_views};
pub use event::{DELIVER_AFTER, NewEvent, RecordedEvent};
pub use execute::{ExecuteError, ExecuteOptions, Executed, LoadError, Loaded, execute, load};
pub use flow::{Cause, Flow, FlowEvent, FlowStep, TraceOptions, trace_flow};
pub use fold::{FoldError, Folded, Until, fold};
pub use group::{
    CAUSE_BYTES_MAX, Generation, GroupChange, GroupCommit, GroupDefinition, GroupError, GroupId,
    GroupKind, GroupLog, GroupShape, GroupState, InvalidSlotRange, Journal, JournalError,
    JournalRead, MemoryJournal, NewGroup, Order, Parked, ParkedCommit, ParkedState, SharedGroup,
    SharedGroups, SlotCommit, SlotProgress, SlotRange, Start, Version, Worker, WorkerChange,
    WorkerId, WorkerLog, Workers, rebalance,
};
#[cfg(feature = "derive")]
pub use headwater_macros::Event;
pub use id::{AppendId, CorrelationId, EventId, InvalidId, LogId};
pub use kind::{
    DecodeError, EncodeError, Event, EventKind, Payload, PayloadError, StoredEvent, Upcast,
    decode_event, decode_stored, encode_event, encode_variant,
};
pub use log::{Direction, EventLog, Page, Read, ReadError, Visibility};
pub use memory::MemoryLog;
pub use metadata::{Headers, InvalidHeader};
pub use name::{
    Category, EventType, GroupName, InvalidName, Key, NameFault, StreamId, Tag, category_of,
};
pub use pattern::{EventPattern, InvalidPattern, Matchable, NeverMatches, PatternFault, TextPlace};
pub use position::{Position, Revision, SchemaVersion};
pub use query::{Query, QueryItem, Selectable, flow_of};
pub use registry::{CheckError, LogFault, LogReport, RegisteredType, Registry, RegistryError};
#[cfg(feature = "cron")]
pub use schedule::CronLine;
pub use schedule::{Interval, InvalidSchedule, Schedule};
pub use slot::{InvalidSlot, SLOT_COUNT, Slot};
pub use snapshot::{
    Comparison, MemorySnapshots, NoSnapshot, Origin, SnapshotKey, SnapshotPolicy, SnapshotStore,
    SnapshotStoreError, SnapshotViews, Snapshots, Snapshotted,
};
pub use subscription::Subscription;
pub use time::Timestamp;
pub use trace::{InvalidTraceparent, TRACEPARENT, TRACESTATE, TraceContext};
