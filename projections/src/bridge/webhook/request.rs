//! The request that carries an event.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use headwater_core::{CloudEvent, CloudEventJson, Timestamp};
use http_body_util::Full;
use hyper::header::{
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, USER_AGENT,
};
use hyper::{Method, Request, Uri};

use super::signature::SigningKey;
use super::{Message, WebhookMode, WebhookOptions};

/// What a webhook cannot be sent with.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWebhook {
    /// The URL cannot be used.
    #[error("the URL {url:?} cannot be used: {remedy}")]
    Url {
        /// The URL as given, without what stands before an `@`.
        url: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A header cannot be sent.
    #[error("the header {name:?} cannot be sent: {remedy}")]
    Header {
        /// Its name. The value may be a secret.
        name: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A time-out is zero.
    #[error("the webhook option {option} is zero; give it more")]
    NoTime {
        /// The name of the option.
        option: &'static str,
    },
    /// The certificates that the system trusts cannot be read.
    #[cfg(feature = "tls")]
    #[error("the certificates that the system trusts cannot be read")]
    Tls(#[source] std::sync::Arc<std::io::Error>),
}

/// What all requests of a webhook have in common.
#[derive(Debug)]
pub(super) struct Form {
    url: Uri,
    mode: WebhookMode,
    keys: Vec<SigningKey>,
    headers: HeaderMap,
}

impl Form {
    pub(super) fn new(url: &str, options: &WebhookOptions) -> Result<Self, InvalidWebhook> {
        let times = [("connect_timeout", options.connect_timeout), ("timeout", options.timeout)];
        if let Some((option, _)) = times.into_iter().find(|(_, time)| *time == Duration::ZERO) {
            return Err(InvalidWebhook::NoTime { option });
        }
        let mut headers = HeaderMap::new();
        let agent = concat!("headwater/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        for (name, value) in &options.headers {
            let invalid = |remedy| InvalidWebhook::Header { name: name.clone(), remedy };
            let known = HeaderName::try_from(name);
            let known = known.map_err(|_| invalid("give it a name of HTTP"))?;
            if is_ours(known.as_str()) {
                return Err(invalid("leave it out, it says what the request is"));
            }
            let value = HeaderValue::try_from(value);
            let mut value = value.map_err(|_| invalid("give it a value of visible characters"))?;
            value.set_sensitive(true);
            headers.append(known, value);
        }
        let (url, mode, keys) = (parse(url)?, options.mode, options.keys.clone());
        Ok(Self { url, mode, keys, headers })
    }

    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    /// Makes the request of an event.
    ///
    /// # Errors
    ///
    /// None that an event could cause: what does not fit a header is encoded.
    pub(super) fn request(
        &self,
        message: &Message<'_>,
    ) -> Result<Request<Full<Bytes>>, InvalidHeaderValue> {
        let event = message.cloud_event();
        let mut headers = self.headers.clone();
        let body = match self.mode {
            WebhookMode::Structured => {
                let content = "application/cloudevents+json; charset=utf-8";
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
                let mut json = Vec::with_capacity(event.payload.len() + 512);
                CloudEventJson::default().put(&event, &mut json);
                json.into()
            }
            WebhookMode::Binary => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(event.content_type()));
                put_attributes(&event, &mut headers)?;
                message.event.payload.clone()
            }
        };
        let traces = [("traceparent", event.trace_parent), ("tracestate", event.trace_state)];
        for (name, value) in traces {
            // A text that is none says nothing to those who trace.
            if let Some(value) = value.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.insert(name, value);
            }
        }
        let id = message.key.as_str();
        let now = Timestamp::now().as_nanos().div_euclid(1_000_000_000).to_string();
        headers.insert("webhook-id", HeaderValue::try_from(id)?);
        headers.insert("webhook-timestamp", HeaderValue::try_from(&now)?);
        let signatures: Vec<String> =
            self.keys.iter().map(|key| key.sign(id, &now, &body)).collect();
        if !signatures.is_empty() {
            headers.insert("webhook-signature", HeaderValue::try_from(signatures.join(" "))?);
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Returns whether a header is one that requests set themselves.
fn is_ours(name: &str) -> bool {
    matches!(name, "content-type" | "content-length" | "transfer-encoding" | "host")
        || ["ce-", "webhook-", "trace"].iter().any(|prefix| name.starts_with(prefix))
}

fn parse(text: &str) -> Result<Uri, InvalidWebhook> {
    let shown = text.rsplit('@').next().unwrap_or_default().to_owned();
    let invalid = |remedy| InvalidWebhook::Url { url: shown.clone(), remedy };
    let url: Uri = text.parse().map_err(|_| invalid("write it as http://host:port/path"))?;
    match url.scheme_str() {
        Some("http") => {}
        Some("https") if cfg!(feature = "tls") => {}
        Some("https") => return Err(invalid("build with the feature tls for https")),
        _ => return Err(invalid("begin it with http:// or https://")),
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid("give credentials as a header authorization"));
    }
    Ok(url)
}

/// Puts the attributes of an event into headers, as the HTTP binding of `CloudEvents` says.
fn put_attributes(
    event: &CloudEvent<'_>,
    headers: &mut HeaderMap,
) -> Result<(), InvalidHeaderValue> {
    let mut done = Ok(());
    event.each_attribute(|name, value| {
        let name = HeaderName::try_from(format!("ce-{name}"));
        let name = name.expect("attributes have names of small letters");
        match HeaderValue::try_from(percent_encoded(&value.to_string())) {
            Ok(value) => drop(headers.insert(name, value)),
            Err(error) => done = Err(error),
        }
    });
    done
}

/// Encodes what may not stand in a header: all but visible ASCII, the quote and the percent sign.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' | 0..=b' ' | 0x7f.. => {
                write!(encoded, "%{byte:02X}").expect("a text takes everything");
            }
            visible => encoded.push(char::from(visible)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_or_header_that_cannot_be_used_is_refused_with_the_remedy() {
        let url = |text| match parse(text) {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        assert_eq!(url("http://localhost:8080/a?b=c"), None);
        for (text, remedy) in [
            ("", "http://host"),
            ("/path", "begin it with"),
            ("ftp://host/", "begin it with"),
            ("http://user:secret@host/", "authorization"),
        ] {
            let error = url(text).unwrap();
            assert!(error.contains(remedy) && !error.contains("secret"), "{text}: {error}");
        }
        assert_eq!(url("https://host/").is_none(), cfg!(feature = "tls"));
        for (name, value) in [
            ("a b", "x"),
            ("x", "a\nb"),
            ("Content-Type", "x"),
            ("webhook-id", "x"),
            ("ce-id", "x"),
        ] {
            let headers = vec![(name.to_owned(), value.to_owned())];
            let options = WebhookOptions { headers, ..WebhookOptions::default() };
            let error = Form::new("http://h/", &options).unwrap_err();
            assert!(matches!(error, InvalidWebhook::Header { .. }), "{name}: {error}");
        }
        let options = WebhookOptions { timeout: Duration::ZERO, ..WebhookOptions::default() };
        let error = Form::new("http://h/", &options).unwrap_err();
        assert!(matches!(error, InvalidWebhook::NoTime { option: "timeout" }), "{error}");
    }

    #[test]
    fn what_may_not_stand_in_a_header_is_encoded() {
        assert_eq!(percent_encoded("a\u{e4} \"%\u{7f}~!"), "a%C3%A4%20%22%25%7F~!");
    }
}
