//! Webhooks: a bridge's target that is an HTTP endpoint.

// `request` makes a request of an event, `answer` reads what the endpoint says to it, and
// `signature` is the scheme of Standard Webhooks, for senders and receivers.

mod answer;
mod request;
mod signature;

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use self::request::Form;
pub use self::request::InvalidWebhook;
pub use self::signature::{InvalidSigningKey, SigningKey, VerifyError, WebhookVerifier};
use super::{Message, SendError, Target};

/// How many bytes of an answer are read for the cause of a failure.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// How long the rest of an answer is waited for once its status is known.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// How an event becomes a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookMode {
    /// The whole event is one JSON object in the body (`application/cloudevents+json`), so that
    /// the signature covers everything.
    #[default]
    Structured,
    /// The body is the payload as it was appended, and the attributes are headers `ce-*`, which
    /// the signature does not cover: use it over TLS, or where only the payload matters.
    Binary,
}

/// What a status says about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusMeaning {
    /// The endpoint has the event.
    Taken,
    /// It will never take the event: [`SendError::Refused`].
    Refused,
    /// It did not work this time: [`SendError::Failed`].
    Failed,
    /// The endpoint cannot take events now, whichever: [`SendError::Unavailable`].
    Unavailable,
}

impl StatusMeaning {
    /// Returns what a status means unless the options say otherwise.
    ///
    /// | status | meaning |
    /// |---|---|
    /// | 2xx | taken |
    /// | 408, 425, and 5xx but 503 | failed |
    /// | 429, 503 | unavailable, for as long as `Retry-After` says |
    /// | 3xx, 401, 407 | unavailable: the endpoint moved or the credentials are wrong, for every event alike. Redirects are not followed |
    /// | 410 | unavailable, for as long as is ever waited: the endpoint is gone and wants no more |
    /// | other 4xx | refused |
    pub fn of(status: u16) -> Self {
        match status {
            200..=299 => Self::Taken,
            300..=399 | 401 | 407 | 410 | 429 | 503 => Self::Unavailable,
            408 | 425 => Self::Failed,
            400..=499 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// How webhooks are sent.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// How an event becomes a request.
    pub mode: WebhookMode,
    /// Each signs every request. Give the old and the new key while one is replaced; without any,
    /// requests are not signed.
    pub keys: Vec<SigningKey>,
    /// Further headers of each request, such as `authorization`.
    pub headers: Vec<(String, String)>,
    /// How long a connection may take to be made, more than zero. Without one the endpoint is
    /// unavailable.
    pub connect_timeout: Duration,
    /// How long the endpoint may take until it answers, in all, more than zero. Nobody knows
    /// then whether it has the event: it failed, and comes again.
    pub timeout: Duration,
    /// How long is waited at most because an endpoint asks for it.
    pub retry_after_max: Duration,
    /// Statuses that mean something else here than [`StatusMeaning::of`] says; the first range
    /// that holds one counts.
    pub meanings: Vec<(RangeInclusive<u16>, StatusMeaning)>,
}

impl Default for WebhookOptions {
    /// Structured and unsigned; 10 s to connect, 30 s in all; waits up to an hour.
    fn default() -> Self {
        Self {
            mode: WebhookMode::default(),
            keys: Vec::new(),
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            retry_after_max: Duration::from_secs(60 * 60),
            meanings: Vec::new(),
        }
    }
}

impl WebhookOptions {
    fn meaning(&self, status: u16) -> StatusMeaning {
        let own = self.meanings.iter().find(|(range, _)| range.contains(&status));
        own.map_or_else(|| StatusMeaning::of(status), |(_, meaning)| *meaning)
    }
}

#[cfg(feature = "tls")]
type Connector = hyper_rustls::HttpsConnector<HttpConnector>;
#[cfg(not(feature = "tls"))]
type Connector = HttpConnector;

/// An HTTP endpoint that takes events: a [`Target`].
///
/// Each event is one `POST`, in the form of `CloudEvents` 1.0, with the headers of Standard
/// Webhooks 1.0: `webhook-id` is the idempotency key of the event, `webhook-timestamp` the time of
/// the attempt in seconds, `webhook-signature` one signature per key. `traceparent` and
/// `tracestate` of the event are headers too. Connections are kept and used again.
///
/// # Guarantees
///
/// An event counts as forwarded when the endpoint answered that it has it. It may get an event
/// more than once, with the same `webhook-id`, so it should act once for each.
///
/// # Examples
///
/// ```
/// use headwater_projections::webhook::{SigningKey, Webhook, WebhookOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let options = WebhookOptions { keys: vec![key], ..WebhookOptions::default() };
/// let target = Webhook::new("http://localhost:8080/hooks", options)?;
/// // Bridge::start(&group, "hooks", target, BridgeOptions::default()).await?;
/// # Ok(())
/// # }
/// ```
pub struct Webhook {
    form: Form,
    options: WebhookOptions,
    client: Client<Connector, Full<Bytes>>,
}

impl Webhook {
    /// Checks URL and options. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`InvalidWebhook`] names what is wrong.
    pub fn new(url: &str, options: WebhookOptions) -> Result<Self, InvalidWebhook> {
        let form = Form::new(url, &options)?;
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(options.connect_timeout));
        http.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector(http, form.url())?);
        Ok(Self { form, options, client })
    }

    /// Returns where events are sent.
    pub fn url(&self) -> &Uri {
        self.form.url()
    }

    async fn judge(&self, mut response: Response<Incoming>) -> Result<(), SendError> {
        let status = response.status();
        let meaning = self.options.meaning(status.as_u16());
        // To its end, or the connection could not be used again.
        let body = Limited::new(response.body_mut(), ANSWER_BYTES_MAX).collect();
        let body = tokio::time::timeout(ANSWER_TIME_MAX, body).await;
        let text = match body {
            Ok(Ok(body)) => answer::excerpt(&body.to_bytes()),
            Ok(Err(_)) | Err(_) => String::new(),
        };
        let error = answer::Unexpected::new(&response, text);
        let error = match meaning {
            StatusMeaning::Taken => return Ok(()),
            StatusMeaning::Refused => SendError::refused(error),
            StatusMeaning::Failed => SendError::failed(error),
            StatusMeaning::Unavailable => SendError::unavailable(error),
        };
        let asked = answer::retry_after(&response, self.options.retry_after_max);
        Err(match asked {
            Some(delay) => error.retry_after(delay),
            None => error,
        })
    }
}

#[cfg(feature = "tls")]
fn connector(mut http: HttpConnector, url: &Uri) -> Result<Connector, InvalidWebhook> {
    http.enforce_http(false);
    // By name: a program may have several, and then there is no default.
    let provider = rustls::crypto::ring::default_provider();
    let builder = hyper_rustls::HttpsConnectorBuilder::new();
    let builder = if url.scheme_str() == Some("https") {
        let trusting = builder.with_provider_and_native_roots(provider);
        trusting.map_err(|error| InvalidWebhook::Tls(std::sync::Arc::new(error)))?
    } else {
        let config = rustls::ClientConfig::builder_with_provider(provider.into());
        let config = config.with_safe_default_protocol_versions();
        let config = config.expect("ring has what TLS 1.2 and 1.3 need");
        let trusts_nobody = rustls::RootCertStore::empty();
        builder.with_tls_config(config.with_root_certificates(trusts_nobody).with_no_client_auth())
    };
    Ok(builder.https_or_http().enable_http1().wrap_connector(http))
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unnecessary_wraps, reason = "with the feature `tls` it can fail")]
fn connector(http: HttpConnector, _: &Uri) -> Result<Connector, InvalidWebhook> {
    Ok(http)
}

#[async_trait]
impl Target for Webhook {
    async fn send(&self, message: &Message<'_>) -> Result<(), SendError> {
        let request = self.form.request(message).map_err(SendError::refused)?;
        let answer = tokio::time::timeout(self.options.timeout, self.client.request(request));
        match answer.await {
            Ok(Ok(response)) => self.judge(response).await,
            Ok(Err(error)) if error.is_connect() => Err(SendError::unavailable(error)),
            // The endpoint may have the event.
            Ok(Err(error)) => Err(SendError::failed(error)),
            Err(_) => {
                let text = format!("no answer within {:?}", self.options.timeout);
                Err(SendError::failed(text))
            }
        }
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options may hold credentials.
        f.debug_struct("Webhook").field("url", self.url()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
