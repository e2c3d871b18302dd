//! Signatures of webhooks: HMAC-SHA-256 over id, time and body, as the specification of Standard
//! Webhooks 1.0 has it, so that its libraries in other languages verify ours.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headwater_core::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a secret begins with as text.
const SECRET: &str = "whsec_";
/// What a signature of this scheme begins with.
const SCHEME: &str = "v1,";
/// How many bytes a secret has at least and at most.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret that signs webhooks and verifies them. `Debug` does not show it.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// A secret that is none. The error does not show it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSigningKey {
    /// The text is not `whsec_` and base64.
    #[error("a signing key is whsec_ followed by base64; make one of 32 random bytes")]
    NotBase64,
    /// It is too short to be safe, or too long.
    #[error("a signing key has 24 to 64 bytes, not {bytes}; make one of 32 random bytes")]
    Length {
        /// How many bytes it has.
        bytes: usize,
    },
}

impl SigningKey {
    /// Takes a key from its bytes, which should be random.
    ///
    /// # Errors
    ///
    /// [`InvalidSigningKey::Length`].
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidSigningKey> {
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(InvalidSigningKey::Length { bytes: bytes.len() });
        }
        Ok(Self(Hmac::new_from_slice(bytes).expect("HMAC takes keys of any length")))
    }

    /// Takes a key from its text: `whsec_` and base64.
    ///
    /// # Errors
    ///
    /// [`InvalidSigningKey`].
    pub fn parse(text: &str) -> Result<Self, InvalidSigningKey> {
        let coded = text.strip_prefix(SECRET).ok_or(InvalidSigningKey::NotBase64)?;
        let bytes = STANDARD.decode(coded).map_err(|_| InvalidSigningKey::NotBase64)?;
        Self::new(&bytes)
    }

    fn digest(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }

    /// Returns the signature of a body under an id and a time in seconds since 1970: `v1,` and
    /// base64.
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let tag = self.digest(id, timestamp, body).finalize().into_bytes();
        format!("{SCHEME}{}", STANDARD.encode(tag))
    }

    fn matches(&self, signature: &str, (id, timestamp, body): (&str, &str, &[u8])) -> bool {
        let tag = signature.strip_prefix(SCHEME).and_then(|coded| STANDARD.decode(coded).ok());
        // In constant time.
        tag.is_some_and(|tag| self.digest(id, timestamp, body).verify_slice(&tag).is_ok())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// Verifies webhooks where they arrive.
///
/// A request that passes was made by somebody with one of the keys, not long ago, with this body.
/// It may still be a repeat, by the sender or by whoever recorded it: remember the ids for longer
/// than the tolerance and act once for each. In binary mode the attributes of the event are in
/// headers, which no signature covers.
///
/// # Examples
///
/// ```
/// use headwater_core::Timestamp;
/// use headwater_projections::webhook::{SigningKey, WebhookVerifier};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let verifier = WebhookVerifier::new([key.clone()]);
/// // The headers webhook-id, webhook-timestamp and webhook-signature, and the body as it came.
/// let (id, timestamp, body) = ("g1/0190a0a0", "1614265330", b"{}");
/// let signature = key.sign(id, timestamp, body);
/// let now = Timestamp::from_millis(1_614_265_331_000);
/// verifier.verify(id, timestamp, &signature, body, now)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct WebhookVerifier {
    keys: Vec<SigningKey>,
    tolerance: Duration,
}

/// Why a webhook is not believed. Answer it with 401.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The time is not a number of seconds.
    #[error("webhook-timestamp {0:?} is not a number of seconds since 1970")]
    Timestamp(String),
    /// It was signed too long ago, or ahead of our clock. It may be a replay.
    #[error(
        "the webhook was signed at {signed} and it is {now}, which is more than {tolerance:?} apart"
    )]
    OutsideTolerance {
        /// When it was signed.
        signed: Timestamp,
        /// The time given.
        now: Timestamp,
        /// How far they may be apart.
        tolerance: Duration,
    },
    /// No signature is of any of the keys: another sender, another key, or another body.
    #[error("none of the signatures is of a key that is known here")]
    NoMatch,
}

impl WebhookVerifier {
    /// Accepts the signatures of any of these keys, five minutes old at most. While a key is
    /// replaced, give the old and the new one.
    pub fn new(keys: impl IntoIterator<Item = SigningKey>) -> Self {
        Self { keys: keys.into_iter().collect(), tolerance: Duration::from_secs(300) }
    }

    /// Accepts signatures that are this much apart from now.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Verifies a request by its headers `webhook-id`, `webhook-timestamp` and
    /// `webhook-signature`, and its body, byte for byte.
    ///
    /// # Errors
    ///
    /// [`VerifyError`].
    pub fn verify(
        &self,
        id: &str,
        timestamp: &str,
        signatures: &str,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        let seconds = timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = seconds.then(|| timestamp.parse::<i64>().ok()).flatten();
        let seconds = seconds.and_then(|seconds| seconds.checked_mul(1_000));
        let Some(millis) = seconds else {
            return Err(VerifyError::Timestamp(timestamp.chars().take(100).collect()));
        };
        let (signed, tolerance) = (Timestamp::from_millis(millis), self.tolerance);
        if now.saturating_since(signed).max(signed.saturating_since(now)) > tolerance {
            return Err(VerifyError::OutsideTolerance { signed, now, tolerance });
        }
        let signed = (id, timestamp, body);
        let known = |signature| self.keys.iter().any(|key| key.matches(signature, signed));
        if signatures.split(' ').any(known) { Ok(()) } else { Err(VerifyError::NoMatch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: &str = "1614265330";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    /// Computed with OpenSSL.
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn key() -> SigningKey {
        SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_signature_is_the_one_that_others_compute() {
        assert_eq!(key().sign(ID, TIME, BODY), SIGNATURE);
    }

    #[test]
    fn what_was_changed_in_any_part_is_not_believed() {
        let verifier = WebhookVerifier::new([key()]);
        let now = at(1_614_265_330);
        assert_eq!(verifier.verify(ID, TIME, SIGNATURE, BODY, now), Ok(()));
        let other = SigningKey::new(&[7; 32]).unwrap().sign(ID, TIME, BODY);
        let shorter = &SIGNATURE[..SIGNATURE.len() - 4];
        let v2 = SIGNATURE.replace("v1,", "v2,");
        for (id, time, signature, body) in [
            ("msg_x", TIME, SIGNATURE, BODY),
            (ID, "1614265331", SIGNATURE, BODY),
            (ID, TIME, SIGNATURE, b"{}"),
            (ID, TIME, &other, BODY),
            (ID, TIME, shorter, BODY),
            (ID, TIME, "v1,", BODY),
            (ID, TIME, &v2, BODY),
            (ID, TIME, "", BODY),
        ] {
            let outcome = verifier.verify(id, time, signature, body, now);
            assert_eq!(outcome, Err(VerifyError::NoMatch), "{id} {time} {signature}");
        }
    }

    #[test]
    fn a_replay_and_a_time_ahead_are_refused() {
        let verifier = WebhookVerifier::new([key()]);
        for (now, right) in [(-301, false), (-300, true), (300, true), (301, false)] {
            let outcome = verifier.verify(ID, TIME, SIGNATURE, BODY, at(1_614_265_330 + now));
            assert_eq!(outcome.is_ok(), right, "{now}: {outcome:?}");
        }
        let hour = verifier.tolerance(Duration::from_secs(3_600));
        assert_eq!(hour.verify(ID, TIME, SIGNATURE, BODY, at(1_614_265_330 + 3_600)), Ok(()));
        for malformed in ["", "+1614265330", "1614265330.0", "99999999999999999999"] {
            let error = hour.verify(ID, malformed, SIGNATURE, BODY, at(0)).unwrap_err();
            assert_eq!(error, VerifyError::Timestamp(malformed.to_owned()));
        }
    }

    #[test]
    fn while_a_key_is_replaced_both_sides_may_be_first() {
        let (old, new) = (key(), SigningKey::new(&[7; 32]).unwrap());
        let signed = |keys: &[&SigningKey]| -> String {
            let signatures: Vec<String> = keys.iter().map(|key| key.sign(ID, TIME, BODY)).collect();
            signatures.join(" ")
        };
        let now = at(1_614_265_330);
        for (sender, receiver) in [
            (vec![&old, &new], vec![&old]),
            (vec![&old, &new], vec![&new]),
            (vec![&old], vec![&new, &old]),
            (vec![&new], vec![&new, &old]),
        ] {
            let verifier = WebhookVerifier::new(receiver.into_iter().cloned());
            assert_eq!(verifier.verify(ID, TIME, &signed(&sender), BODY, now), Ok(()));
        }
    }

    #[test]
    fn a_key_that_is_none_is_refused_and_never_shown() {
        let parse = |text| SigningKey::parse(text).unwrap_err();
        assert_eq!(parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), InvalidSigningKey::NotBase64);
        assert_eq!(parse("whsec_?"), InvalidSigningKey::NotBase64);
        assert_eq!(parse("whsec_AAAA"), InvalidSigningKey::Length { bytes: 3 });
        assert_eq!(format!("{:?}", key()), "SigningKey(..)");
    }
}
