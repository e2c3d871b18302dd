//! What an append expects of the log: one type for streams and for queries.

use std::fmt;

use crate::name::StreamId;
use crate::position::{Position, Revision};
use crate::query::Query;

/// What must hold at the moment of writing for an append to go through.
///
/// Every clause must hold. They are checked where the writing happens, against everything
/// committed before, so there is no moment between check and append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Expectations of streams, also of streams that are only read.
    pub streams: Vec<StreamCondition>,
    /// Queries that must have no events after a position.
    pub queries: Vec<QueryCondition>,
}

/// What one stream must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamCondition {
    /// The stream.
    pub stream: StreamId,
    /// What it must look like.
    pub expected: ExpectedRevision,
}

/// Fails the append if events match the query after the position: the dynamic consistency
/// boundary of the DCB specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryCondition {
    /// What must not have happened.
    pub query: Query,
    /// Up to where the decision has seen the log; [`Position::START`] means never at all.
    pub after: Position,
}

/// What a stream must look like when an append is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExpectedRevision {
    /// Anything goes.
    Any,
    /// The stream has no events.
    NoStream,
    /// The stream has at least one event.
    Exists,
    /// The stream's last event has this revision.
    Exact(Revision),
}

impl ExpectedRevision {
    /// Returns whether a stream at `actual` meets the expectation.
    pub fn is_met_by(self, actual: Revision) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => actual == Revision::NONE,
            Self::Exists => actual > Revision::NONE,
            Self::Exact(expected) => actual == expected,
        }
    }
}

impl fmt::Display for ExpectedRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any revision"),
            Self::NoStream => f.write_str("no stream"),
            Self::Exists => f.write_str("an existing stream"),
            Self::Exact(revision) => write!(f, "revision {revision}"),
        }
    }
}

impl Condition {
    /// Expects nothing.
    pub const fn none() -> Self {
        Self { streams: Vec::new(), queries: Vec::new() }
    }

    /// Expects something of one stream.
    pub fn stream(stream: StreamId, expected: ExpectedRevision) -> Self {
        Self::none().and_stream(stream, expected)
    }

    /// Expects that no event after `after` matches `query`.
    pub fn no_events(query: Query, after: Position) -> Self {
        Self::none().and_no_events(query, after)
    }

    /// Expects something of one more stream.
    #[must_use]
    pub fn and_stream(mut self, stream: StreamId, expected: ExpectedRevision) -> Self {
        self.streams.push(StreamCondition { stream, expected });
        self
    }

    /// Expects also that no event after `after` matches `query`.
    #[must_use]
    pub fn and_no_events(mut self, query: Query, after: Position) -> Self {
        self.queries.push(QueryCondition { query, after });
        self
    }

    /// Returns whether nothing is expected.
    pub fn is_none(&self) -> bool {
        self.streams.is_empty() && self.queries.is_empty()
    }
}

/// The clause of a condition that did not hold, and the event that came first.
///
/// A conflict has no effect on the log. Load again, decide again and append again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// A stream is not where it was expected.
    #[error(
        "expected {expected} of stream {stream}, which is at revision {actual} (last event at position {last})"
    )]
    Stream {
        /// The stream.
        stream: StreamId,
        /// What was expected of it.
        expected: ExpectedRevision,
        /// Where it is.
        actual: Revision,
        /// Position of its last event, [`Position::START`] if it has none.
        last: Position,
    },
    /// An event that must not exist does.
    #[error(
        "an event at position {found} matches query {index} of the condition, which allows none after position {after}"
    )]
    Query {
        /// Which query of the condition, from 0.
        index: usize,
        /// After which position no event was allowed.
        after: Position,
        /// Position of a matching event, the last one.
        found: Position,
    },
}
