//! AMQP 0.9.1: a bridge's target that is an exchange of RabbitMQ, or of a broker like it.

// `link` is the connection and its channels, `properties` what a message carries beside the
// payload.

mod link;
mod properties;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use headwater_core::{CloudEventJson, RecordedEvent};
use lapin::options::BasicPublishOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Confirmation, ErrorKind};

use self::link::{Link, Lost};
use super::{Message, SendError, Target};

/// Where an event goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The exchange; empty for the default one, which knows queues by their names. It has to exist.
    pub exchange: String,
    /// The routing key, at most 255 bytes.
    pub routing_key: String,
}

impl Route {
    /// Names an exchange and a routing key.
    pub fn new(exchange: impl Into<String>, routing_key: impl Into<String>) -> Self {
        Self { exchange: exchange.into(), routing_key: routing_key.into() }
    }

    /// Goes to one queue, past all exchanges.
    pub fn queue(name: impl Into<String>) -> Self {
        Self::new("", name)
    }
}

/// How an event becomes a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AmqpMode {
    /// The body is the payload as it was appended; the attributes of the event are headers
    /// `cloudEvents_*`, as `CloudEvents` has them for AMQP 1.0.
    #[default]
    Binary,
    /// The body is the whole event as a JSON object (`application/cloudevents+json`).
    Structured,
}

/// How messages are sent.
#[derive(Clone, Copy, Debug)]
pub struct AmqpOptions {
    /// How an event becomes a message.
    pub mode: AmqpMode,
    /// How long a connection may take to be made, more than zero.
    pub connect_timeout: Duration,
    /// How long the broker may take to confirm a message, more than zero. After that the
    /// connection is given up, and the message is sent again.
    pub confirm_timeout: Duration,
}

impl Default for AmqpOptions {
    /// Binary; 10 s to connect, 30 s to confirm.
    fn default() -> Self {
        Self {
            mode: AmqpMode::default(),
            connect_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(30),
        }
    }
}

/// What messages cannot be sent with.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAmqp {
    /// The URI cannot be used. It is not shown, for it may hold a password.
    #[error(
        "the AMQP URI cannot be used: {detail}; write it as amqp://user:password@host:port/vhost"
    )]
    Uri {
        /// What is wrong.
        detail: String,
    },
    /// The URI asks for TLS, and this program has none.
    #[error("the AMQP URI begins with amqps; build with the feature tls")]
    NoTls,
    /// A time-out is zero.
    #[error("the AMQP option {option} is zero; give it more")]
    NoTime {
        /// The name of the option.
        option: &'static str,
    },
}

/// An exchange that takes events: a [`Target`].
///
/// Each event is a persistent message with `mandatory` set. Its `message-id` is the idempotency
/// key, `type` the event type, `correlation-id` and `timestamp` those of the event; headers
/// `cloudEvents_*` have the coordinates, `traceparent` and `tracestate` the trace.
///
/// # Guarantees
///
/// An event counts as forwarded when the broker confirmed that a queue has it. A message that no
/// queue takes is an error and never lost: it failed, and comes again, for a queue may be bound
/// later. The broker may get an event more than once, with the same `message-id`. What a confirm
/// survives is up to the queue: a durable one survives the broker's restart.
///
/// What the broker rejects with a `nack`, such as for a queue that is full and says so
/// (`x-overflow: reject-publish`), makes the whole bridge wait: give queues of different fates
/// a bridge and a group each. A message that the broker finds too large is refused for good.
///
/// The connection is made with the first event, and again after it broke.
///
/// # Examples
///
/// ```
/// use headwater_projections::amqp::{Amqp, AmqpOptions, Route};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let target = Amqp::new(
///     "amqp://guest:guest@localhost:5672/%2f",
///     |event| Route::new("orders", event.event_type.as_str()),
///     AmqpOptions::default(),
/// )?;
/// // Bridge::start(&group, "orders", target, BridgeOptions::default()).await?;
/// # Ok(())
/// # }
/// ```
pub struct Amqp {
    link: Link,
    route: Box<dyn Fn(&RecordedEvent) -> Route + Send + Sync>,
    options: AmqpOptions,
}

impl Amqp {
    /// Checks URI and options, and sends each event where `route` says. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`InvalidAmqp`] names what is wrong.
    pub fn new(
        uri: &str,
        route: impl Fn(&RecordedEvent) -> Route + Send + Sync + 'static,
        options: AmqpOptions,
    ) -> Result<Self, InvalidAmqp> {
        let parsed: Result<AMQPUri, _> = uri.parse();
        let uri = parsed.map_err(|detail| InvalidAmqp::Uri { detail })?;
        if uri.scheme == AMQPScheme::AMQPS && !cfg!(feature = "tls") {
            return Err(InvalidAmqp::NoTls);
        }
        let times = [
            ("connect_timeout", options.connect_timeout),
            ("confirm_timeout", options.confirm_timeout),
        ];
        if let Some((option, _)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(InvalidAmqp::NoTime { option });
        }
        let link = Link::new(uri, options.connect_timeout);
        Ok(Self { link, route: Box::new(route), options })
    }

    /// Publishes and waits for the confirm.
    async fn publish(
        &self,
        channel: &link::Lease<'_>,
        message: &Message<'_>,
        (exchange, key): (ShortString, ShortString),
    ) -> Result<Confirmation, SendError> {
        let event = message.cloud_event();
        let mut json = Vec::new();
        let body = match self.options.mode {
            AmqpMode::Binary => event.payload,
            AmqpMode::Structured => {
                CloudEventJson::default().put(&event, &mut json);
                &json
            }
        };
        let properties = properties::of(message, &event, self.options.mode);
        if properties::size_bytes(&properties) > channel.frame_bytes_max() {
            // The broker would close the connection, again and again.
            return Err(SendError::refused("its headers are larger than a frame of the broker"));
        }
        let mandatory = BasicPublishOptions { mandatory: true, ..Default::default() };
        let sent = channel.basic_publish(exchange, key, mandatory, body, properties).await;
        sent.map_err(judge)?.await.map_err(judge)
    }
}

#[async_trait]
impl Target for Amqp {
    async fn send(&self, message: &Message<'_>) -> Result<(), SendError> {
        let Route { exchange, routing_key } = (self.route)(message.event);
        let short = |text: &String| ShortString::try_new(text.as_str()).map_err(SendError::refused);
        let to = (short(&exchange)?, short(&routing_key)?);
        let channel = self.link.channel().await.map_err(SendError::unavailable)?;
        let published = self.publish(&channel, message, to);
        let Ok(published) = tokio::time::timeout(self.options.confirm_timeout, published).await
        else {
            channel.give_up_connection().await;
            return Err(SendError::unavailable(Lost::NoConfirm(self.options.confirm_timeout)));
        };
        match published? {
            Confirmation::Ack(None) => {
                channel.give_back();
                Ok(())
            }
            Confirmation::Ack(Some(returned)) => {
                channel.give_back();
                Err(SendError::failed(Returned {
                    reply: format!("{} {}", returned.reply_code, returned.reply_text),
                    exchange,
                    routing_key,
                }))
            }
            Confirmation::Nack(_) => {
                channel.give_back();
                let text = "the broker could not take the message (nack): a queue may be full";
                Err(SendError::unavailable(text))
            }
            Confirmation::NotRequested => unreachable!("channels ask for confirms when they open"),
        }
    }
}

/// A message that came back.
#[derive(Debug, thiserror::Error)]
#[error(
    "no queue took the message ({reply}) that went to the exchange {exchange:?} with the routing key {routing_key:?}; bind one"
)]
struct Returned {
    reply: String,
    exchange: String,
    routing_key: String,
}

/// Tells what the broker has against a message from what has become of the connection.
fn judge(error: lapin::Error) -> SendError {
    let soft = match error.kind() {
        ErrorKind::ProtocolError(broker) => match broker.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft.clone()),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    };
    match soft {
        Some(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::CONTENTTOOLARGE) => {
            SendError::refused(error)
        }
        // An exchange that is not there or not allowed may be made or allowed.
        Some(_) => SendError::failed(error),
        None => SendError::unavailable(error),
    }
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URI may hold a password.
        f.debug_struct("Amqp").field("options", &self.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_that_cannot_be_used_is_refused_without_its_password() {
        let new = |uri, options| Amqp::new(uri, |_| Route::queue("q"), options);
        let default = AmqpOptions::default();
        assert!(new("amqp://user:secret@localhost:5672/%2f", default).is_ok());
        assert_eq!(new("amqps://localhost", default).is_ok(), cfg!(feature = "tls"));
        for uri in ["", "http://user:secret@localhost", "amqp://user:secret@localhost:port/"] {
            let error = new(uri, default).unwrap_err().to_string();
            assert!(error.contains("write it as") && !error.contains("secret"), "{error}");
        }
        let options = AmqpOptions { confirm_timeout: Duration::ZERO, ..default };
        let error = new("amqp://localhost", options).unwrap_err();
        assert!(matches!(error, InvalidAmqp::NoTime { option: "confirm_timeout" }), "{error}");
        let shown = format!("{:?}", new("amqp://user:secret@localhost", default).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }
}
