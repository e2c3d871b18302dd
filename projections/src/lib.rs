//! What runs over a Headwater log: consumer groups, projections and reactors.
//!
//! It meets the log only through the traits of `headwater-core`, so every engine can stand in.

#![forbid(unsafe_code)]

mod group;
mod lag;
mod retry;
mod wait;

pub use group::{
    ConsumerError, ConsumerGroup, Delivery, GroupOptions, GroupPhase, GroupStatus, IdempotencyKey,
    Member, MemberStatus, Settlement,
};
pub use lag::Lag;
pub use retry::Backoff;
pub use wait::WaitError;
