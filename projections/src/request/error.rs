//! Why a request has no reply yet.

use std::time::Duration;

use headwater_core::{AppendError, CorrelationId, ReadError, StreamId};

/// Why a request was not sent, or its reply not received. No request that was sent is undone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No reply came in time. The request is in the log and will be answered: wait again with the
    /// same correlation id, in this process or another one.
    #[error(
        "no reply to {correlation_id} came to stream {reply_to} within {timeout:?}; it may come yet, so wait again"
    )]
    Timeout {
        /// Names the request.
        correlation_id: CorrelationId,
        /// The stream that the reply will begin.
        reply_to: StreamId,
        /// How long was waited.
        timeout: Duration,
    },
    /// The event asks already for a reply elsewhere. Nothing was sent.
    #[error(
        "the event has a header `reply-to` with {asked:?}, and its reply would come to {reply_to}; leave the header out"
    )]
    HasReplyTo {
        /// What the header says.
        asked: String,
        /// Where the reply would come.
        reply_to: StreamId,
    },
    /// The request could not be appended; [`AppendError::effect`] says whether it may be there all
    /// the same.
    #[error("the request could not be sent")]
    Append(#[from] AppendError),
    /// The log could not be read. Wait again once the cause is gone.
    #[error("the reply could not be read")]
    Read(#[from] ReadError),
}
