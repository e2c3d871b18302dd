//! Request and response over the log: both are events, so neither is lost.
//!
//! [`Requests`] sends and waits, [`Responding`] answers, [`replies`] is the one subscription that
//! all who wait share. A request names the stream of its reply in the header [`REPLY_TO`]; that
//! stream has one event at most, by the condition of the append, and its name holds the
//! correlation id, so that a reply is found whenever it is asked for.

mod error;
mod replies;
mod responder;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::{
    Append, AppendId, Category, CorrelationId, EventLog, NewEvent, Position, Query, Read,
    ReadError, RecordedEvent, StreamId,
};
use tokio::task::JoinHandle;

pub use self::error::RequestError;
use self::replies::Replies;
pub use self::responder::{Answer, Responder, Responding};

/// Header of a request: the stream that its reply is to begin.
pub const REPLY_TO: &str = "reply-to";

/// Header of a reply that tells of a failure ([`Answer::failure`]); its value is `failed`.
pub const REPLY_STATUS: &str = "reply-status";

/// Value of [`REPLY_STATUS`] where the responder failed for good.
const FAILED: &str = "failed";

/// A reply, as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The event.
    pub event: Arc<RecordedEvent>,
}

impl Reply {
    /// Returns what the responder said was wrong, if it answered with a failure.
    pub fn failure(&self) -> Option<&str> {
        let failed = self.event.headers.get(REPLY_STATUS) == Some(FAILED);
        failed.then(|| std::str::from_utf8(&self.event.payload).unwrap_or("not a text"))
    }
}

/// A request that is in the log. Only its correlation id is needed to wait for the reply, here or
/// in another process, now or after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentRequest {
    /// Names the request; of its own, not of a longer conversation.
    pub correlation_id: CorrelationId,
    /// The stream whose only event will be the reply.
    pub reply_to: StreamId,
    /// Where the request is.
    pub position: Position,
}

/// Sends requests and waits for their replies. Clones share one subscription; it ends with the
/// last of them.
///
/// # Guarantees
///
/// A request that was sent is in the log, as durable as the log says, and waits there for a
/// responder of any time. A reply is never missed, whether it comes before the wait begins, while
/// it lasts, or after it was given up: ask again by the correlation id.
///
/// # Complexity
///
/// One subscription however many wait. Each wait costs one look-up of a stream and holds an entry
/// as long as its future lives; a reply that nobody waits for is kept nowhere but in the log.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// use headwater_core::{Category, EventType, GroupName, MemoryLog, NewEvent, Query, RecordedEvent, StreamId};
/// use headwater_projections::{
///     Answer, ConsumerGroup, GroupOptions, IdempotencyKey, ReactError, ReactorOptions,
///     ReactorRunner, Requests, Responder, Responding, async_trait,
/// };
///
/// struct Pricing;
///
/// #[async_trait]
/// impl Responder for Pricing {
///     async fn respond(
///         &mut self,
///         request: &RecordedEvent,
///         _: &IdempotencyKey,
///     ) -> Result<Answer, ReactError> {
///         let pieces: u32 = request.decode()?;
///         Ok(Answer::json(EventType::new("price.quoted")?, &(pieces * 3))?)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let log = Arc::new(MemoryLog::new());
/// let asked = EventType::new("price.asked")?;
/// let options = GroupOptions {
///     selection: Query::types([asked.clone()]),
///     ..GroupOptions::new(GroupName::new("pricing")?)
/// };
/// let group = ConsumerGroup::open(log.clone(), options).await?;
/// let make = |_| Responding::new(log.clone(), Pricing);
/// let options = ReactorOptions::default();
/// let handle = ReactorRunner::start(&group, "pricing", make, 1, options).await?;
///
/// let requests = Requests::start(log.clone(), Category::new("price_reply")?).await?;
/// let request = NewEvent::json(StreamId::new("cart-7")?, asked, &14)?;
/// let reply = requests.request(request, Duration::from_secs(5)).await?;
/// assert_eq!(reply.event.decode::<u32>()?, 42);
/// # handle.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Requests {
    inner: Arc<Inner>,
}

struct Inner {
    log: Arc<dyn EventLog>,
    category: Category,
    replies: Arc<Replies>,
    task: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let category = &self.inner.category;
        f.debug_struct("Requests").field("category", category).finish_non_exhaustive()
    }
}

impl Requests {
    /// Begins to listen for replies in the streams of a category, which should hold nothing else.
    /// Must be called inside a tokio runtime.
    ///
    /// Whoever asks for replies of earlier requests gives the same category.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the log cannot say where it ends.
    ///
    /// # Cancel safety
    ///
    /// A dropped future starts nothing.
    pub async fn start(log: Arc<dyn EventLog>, category: Category) -> Result<Self, ReadError> {
        let head = log.head(log.settled_visibility()).await?;
        let replies = Arc::new(Replies::default());
        let listens =
            replies::listen(Arc::clone(&log), category.clone(), head, Arc::clone(&replies));
        let task = tokio::spawn(listens);
        Ok(Self { inner: Arc::new(Inner { log, category, replies, task }) })
    }

    /// Returns the stream that holds the reply to a request.
    pub fn reply_stream(&self, correlation_id: CorrelationId) -> StreamId {
        let name = format!("{}-{correlation_id}", self.inner.category.as_str());
        StreamId::new(name).expect("a category, a hyphen and a UUID make a stream's name")
    }

    /// Appends a request. Its correlation id is the one of the event, which it must have for
    /// itself, or is made from the id of the event.
    ///
    /// Sending again with the same correlation id and content sends nothing again, inside the
    /// log's idempotency window; behind it, the request may be in the log twice, and is answered
    /// once all the same.
    ///
    /// # Errors
    ///
    /// [`RequestError::Append`]; [`RequestError::HasReplyTo`] if the event asks for a reply
    /// elsewhere.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have sent the request. Send it again with the same correlation id.
    pub async fn send(&self, mut request: NewEvent) -> Result<SentRequest, RequestError> {
        let correlation_id = request.correlation_id.unwrap_or_else(|| request.id.into());
        let reply_to = self.reply_stream(correlation_id);
        request.correlation_id = Some(correlation_id);
        match request.headers.get(REPLY_TO) {
            None => {
                let added = request.headers.insert(REPLY_TO, reply_to.as_str());
                added.expect("the name is one that headers may have");
            }
            Some(asked) if asked == reply_to.as_str() => {}
            Some(asked) => {
                return Err(RequestError::HasReplyTo { asked: asked.to_owned(), reply_to });
            }
        }
        let id = AppendId::from_name(format!("request/{reply_to}").as_bytes());
        let appended = self.inner.log.append(Append::new([request]).with_id(id)).await?;
        Ok(SentRequest { correlation_id, reply_to, position: appended.first })
    }

    /// Sends a request and waits for its reply. The time counts from when the request is in the
    /// log.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send) and [`wait`](Self::wait). A reply that tells of a failure is `Ok`:
    /// [`Reply::failure`].
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
    pub async fn request(
        &self,
        request: NewEvent,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let sent = self.send(request).await?;
        self.wait(sent.correlation_id, timeout).await
    }

    /// Waits for the reply to a request, sent here or elsewhere, now or earlier.
    ///
    /// # Errors
    ///
    /// [`RequestError::Timeout`] holds what is needed to go on waiting; the request stays in the
    /// log, and so will its reply. [`RequestError::Read`], with [`ReadError::BelowStart`] where
    /// retention has removed the reply.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait(
        &self,
        correlation_id: CorrelationId,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let waited = tokio::time::timeout(timeout, self.wait_for_ever(correlation_id)).await;
        waited.unwrap_or_else(|_| {
            let reply_to = self.reply_stream(correlation_id);
            Err(RequestError::Timeout { correlation_id, reply_to, timeout })
        })
    }

    async fn wait_for_ever(&self, correlation_id: CorrelationId) -> Result<Reply, RequestError> {
        // Listening before looking: a reply that comes between the two is heard.
        let mut place = self.inner.replies.place(self.reply_stream(correlation_id))?;
        if let Some(reply) = self.find(correlation_id).await? {
            return Ok(reply);
        }
        Ok(Reply { event: place.reply().await? })
    }

    /// Returns the reply to a request if there is one already.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the log cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn find(&self, correlation_id: CorrelationId) -> Result<Option<Reply>, ReadError> {
        let log = &self.inner.log;
        let event = first_of(&**log, self.reply_stream(correlation_id)).await?;
        Ok(event.map(|event| Reply { event: Arc::new(event) }))
    }
}

/// Reads the first event of a stream, as settled as the log can say.
async fn first_of(
    log: &dyn EventLog,
    stream: StreamId,
) -> Result<Option<RecordedEvent>, ReadError> {
    let mut after = Position::START;
    loop {
        let read = Read::forward(Query::stream(stream.clone()), after)
            .limit(1)
            .visible(log.settled_visibility());
        let mut page = log.read(read).await?;
        match page.events.pop() {
            None if !page.done => after = page.scanned,
            event => return Ok(event),
        }
    }
}

#[cfg(test)]
mod tests;
