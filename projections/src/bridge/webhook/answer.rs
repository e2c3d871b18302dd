//! What an endpoint answered.

use std::time::{Duration, SystemTime};

use hyper::header::{HeaderMap, LOCATION, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// How many characters of an answer's body stand in an error.
const EXCERPT_CHARS: usize = 300;

/// An answer that is no success.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Unexpected {
    #[error("the endpoint answered {status}{text}")]
    Status { status: StatusCode, text: String },
    #[error(
        "the endpoint answered {status} and points to {location:?}, which is not followed; give the webhook that URL"
    )]
    Redirect { status: StatusCode, location: String },
    #[error("the endpoint answered 410 Gone and wants no more events; stop the bridge")]
    Gone,
}

impl Unexpected {
    /// Takes an answer and the [`excerpt`] of its body.
    pub(super) fn new<B>(response: &Response<B>, excerpt: String) -> Self {
        let status = response.status();
        let location = response.headers().get(LOCATION).filter(|_| status.is_redirection());
        match location {
            Some(location) => {
                let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
                Self::Redirect { status, location }
            }
            None if status == StatusCode::GONE => Self::Gone,
            None => Self::Status { status, text: excerpt },
        }
    }
}

/// Returns the beginning of a body as the end of a sentence.
pub(super) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text: String = text.trim().chars().take(EXCERPT_CHARS).collect();
    if text.is_empty() { text } else { format!(": {}", text.escape_debug()) }
}

/// Returns how long the endpoint asks to be left alone, at most `max`. Who is gone is not asked
/// any earlier.
pub(super) fn retry_after<B>(response: &Response<B>, max: Duration) -> Option<Duration> {
    if response.status() == StatusCode::GONE {
        return Some(max);
    }
    asked(response.headers(), SystemTime::now()).map(|delay| delay.min(max))
}

fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&'static str, &str)]) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
        response
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_held_inside_a_limit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (text, seconds) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 09 Sep 2001 01:47:40 GMT", Some(60)),
            ("Sun, 09 Sep 2001 01:40:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            let answer = response(503, &[("retry-after", text)]);
            assert_eq!(asked(answer.headers(), now), seconds.map(Duration::from_secs), "{text}");
        }
        let hour = Duration::from_secs(3_600);
        assert_eq!(retry_after(&response(429, &[("retry-after", "99999999")]), hour), Some(hour));
        assert_eq!(retry_after(&response(410, &[]), hour), Some(hour));
        assert_eq!(retry_after(&response(429, &[]), hour), None);
    }

    #[test]
    fn an_answer_is_quoted_briefly_and_on_one_line() {
        let said = |status, headers: &[(&'static str, &str)], body: &str| {
            Unexpected::new(&response(status, headers), excerpt(body.as_bytes())).to_string()
        };
        let text = said(422, &[], " no\nsuch \u{1b}customer ");
        assert_eq!(
            text,
            r"the endpoint answered 422 Unprocessable Entity: no\nsuch \u{1b}customer"
        );
        assert_eq!(said(500, &[], ""), "the endpoint answered 500 Internal Server Error");
        assert!(said(500, &[], &"x".repeat(10_000)).len() < 400);
        assert!(said(308, &[("location", "/new")], "").contains("\"/new\""));
        assert!(said(410, &[], "").contains("stop the bridge"));
    }
}
