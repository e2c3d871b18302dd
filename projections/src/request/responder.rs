//! Answering: a reactor whose reply is in the log once for each request.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_core::{
    Append, AppendError, CodecError, CodecId, Condition, Conflict, EventLog, EventType,
    ExpectedRevision, Headers, NewEvent, RecordedEvent, StreamId, TraceContext,
};

use super::{FAILED, REPLY_STATUS, REPLY_TO, first_of};
use crate::group::IdempotencyKey;
use crate::reactor::{ReactError, Reactor};

/// Answers requests. [`Responding`] makes a [`Reactor`] of it.
#[async_trait]
pub trait Responder: Send + 'static {
    /// Answers one request. A request that was answered does not come again; one whose answer was
    /// not appended, because the process ended or the append failed, does, with the same `key`.
    ///
    /// # Errors
    ///
    /// Whatever may pass: the request comes again by the group's policy and is parked in the end,
    /// and the requester hears nothing until it is re-driven. What will not pass is an answer:
    /// [`Answer::failure`].
    ///
    /// # Cancel safety
    ///
    /// As [`Reactor::react`].
    async fn respond(
        &mut self,
        request: &RecordedEvent,
        key: &IdempotencyKey,
    ) -> Result<Answer, ReactError>;
}

/// What a [`Responder`] says, and what it did.
#[derive(Clone, Debug)]
#[must_use]
pub struct Answer {
    event_type: EventType,
    codec: CodecId,
    payload: Bytes,
    headers: Headers,
    events: Vec<NewEvent>,
    condition: Condition,
}

impl Answer {
    /// Answers with a payload that is encoded already.
    pub fn new(event_type: EventType, codec: CodecId, payload: impl Into<Bytes>) -> Self {
        Self {
            event_type,
            codec,
            payload: payload.into(),
            headers: Headers::new(),
            events: Vec::new(),
            condition: Condition::none(),
        }
    }

    /// Answers with JSON.
    ///
    /// # Errors
    ///
    /// [`CodecError::Encode`] if `data` has no JSON form.
    pub fn json<T: serde::Serialize + ?Sized>(
        event_type: EventType,
        data: &T,
    ) -> Result<Self, CodecError> {
        use headwater_core::{Codec, Json};
        Ok(Self::new(event_type, Json::ID, Json::encode(data)?))
    }

    /// Answers that the request failed for good, and why. The requester finds it in
    /// [`Reply::failure`](super::Reply::failure).
    pub fn failure(event_type: EventType, why: impl Into<String>) -> Self {
        let mut answer = Self::new(event_type, CodecId::RAW, why.into());
        let added = answer.headers.insert(REPLY_STATUS, FAILED);
        added.expect("the name is one that headers may have");
        answer
    }

    /// Appends an event together with the reply: both or none, so what the request brought about
    /// is in the log once as well.
    pub fn with(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }

    /// Appends all of it only under a condition. Where that does not hold, the request comes
    /// again, to be decided anew.
    pub fn under(mut self, condition: Condition) -> Self {
        self.condition = condition;
        self
    }
}

/// The [`Reactor`] that a [`Responder`] makes: give it to a
/// [`ReactorRunner`](crate::ReactorRunner), over a group that selects requests.
///
/// # Guarantees
///
/// Each request has one reply in the log at most, for ever and whoever answers: the reply begins
/// its stream, by the condition of its append. With the reply go the events of
/// [`Answer::with`]. A request that is delivered again and has its reply is not answered again.
/// The reply has the request's correlation id, and the request as its cause.
///
/// An event without a header [`REPLY_TO`] is no request: it fails, and is parked by the group's
/// policy.
#[derive(Debug)]
pub struct Responding<R> {
    log: Arc<dyn EventLog>,
    responder: R,
}

impl<R: Responder> Responding<R> {
    /// Lets a responder answer into a log, the one of the group.
    pub fn new(log: Arc<dyn EventLog>, responder: R) -> Self {
        Self { log, responder }
    }

    pub(super) async fn reply(
        &mut self,
        request: &RecordedEvent,
        reply_to: StreamId,
        answer: Answer,
    ) -> Result<(), ReactError> {
        let Answer { event_type, codec, payload, headers, events, condition } = answer;
        let mut reply = NewEvent::new(reply_to.clone(), event_type, codec, payload);
        reply.correlation_id = request.correlation_id;
        reply.causation_id = Some(request.id);
        reply.headers = headers;
        let mut append = Append::new([reply]).under(condition);
        append.events.extend(events);
        // The trace goes on in what the request brings about.
        if let Some(context) = TraceContext::from_headers(&request.headers) {
            append = append.traced(&context);
        }
        let append = append.expecting(reply_to.clone(), ExpectedRevision::NoStream);
        match self.log.append(append).await {
            Ok(_) => Ok(()),
            // Somebody answered meanwhile: who had the request when its lease ended.
            Err(AppendError::Conflict(Conflict::Stream { stream, .. })) if stream == reply_to => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl<R: Responder> Reactor for Responding<R> {
    async fn react(
        &mut self,
        request: &RecordedEvent,
        key: &IdempotencyKey,
    ) -> Result<(), ReactError> {
        let asked = request.headers.get(REPLY_TO).ok_or_else(|| {
            ReactError::message("the event has no header `reply-to`; select requests only")
        })?;
        let reply_to = StreamId::new(asked)?;
        if first_of(&*self.log, reply_to.clone()).await?.is_some() {
            return Ok(());
        }
        let answer = self.responder.respond(request, key).await?;
        self.reply(request, reply_to, answer).await
    }
}
