//! Event patterns: which events somebody wants, by metadata and payload, in the language of
//! `EventBridge`.
//!
//! Read in this order: `document.rs` (JSON as it was written), `syntax.rs` (what it asks for),
//! `compile.rs` (alternatives), `payload.rs` (matching while reading). `docs/patterns.md` has the
//! semantics in full.

mod compile;
mod document;
mod error;
mod field;
mod matcher;
mod payload;
mod query;
mod scalar;
mod syntax;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::compile::Compiled;
use self::document::{At, Document};
pub use self::error::{InvalidPattern, NeverMatches, PatternFault, TextPlace};
pub use self::field::Matchable;
use self::syntax::Group;
use crate::limits;
use crate::query::Query;

/// Says which events somebody wants, by their metadata and by what is in a JSON payload.
///
/// A pattern is a JSON object with the shape of the events it matches: each field has a list, of
/// which one entry must match, and every field that is named must match. Fields that are not named
/// do not matter. It is the language of `EventBridge` rules, SNS filter policies and Lambda filter
/// criteria; where ours differs from theirs, and every detail, stands in `docs/patterns.md`.
///
/// | an entry of a list | matches |
/// |---|---|
/// | `"paid"`, `5`, `true`, `null` | this value; numbers by value, so `5`, `5.0` and `5e0` are one |
/// | `{"prefix": "EU-"}`, `{"suffix": ".png"}` | a text that begins or ends so |
/// | `{"prefix": {"equals-ignore-case": "eu-"}}` | the same in upper and lower case; also `suffix` |
/// | `{"equals-ignore-case": "paid"}` | a text that is the same but for its case |
/// | `{"wildcard": "img/*.png"}` | a text; `*` is any number of characters, `\*` a star, `\\` a backslash |
/// | `{"anything-but": "paid"}`, `{"anything-but": [1, 2]}` | a value that is there and is none of these |
/// | `{"anything-but": {"prefix": "EU-"}}` | one for which that does not hold; also `suffix`, `wildcard`, `equals-ignore-case`, and lists of texts |
/// | `{"numeric": [">=", 0, "<", 10]}`, `{"numeric": ["=", 5]}` | a number in the range: `=`, or one or both of `>` `>=` and `<` `<=` |
/// | `{"cidr": "10.0.0.0/8"}` | a text that is an IP address of the network, IPv4 or IPv6 |
/// | `{"exists": true}`, `{"exists": false}` | any value; none at all |
///
/// `"$or": [{...}, {...}]` beside fields means that all the fields must match, and all of one of
/// the objects. Where the event has a list, one of its elements must match; fields inside objects
/// of a list must match in one and the same object.
///
/// An event's fields are `id`, `type`, `stream`, `category`, `time`, `schemaversion`,
/// `correlationid`, `causationid`, `partitionkey`, `tags`, `headers` and `data`, its payload if
/// that is JSON.
///
/// Two patterns are equal if they are the same but for white space and the order of keys and of
/// the entries of lists.
///
/// # Complexity
///
/// Matching is one walk over the payload if the pattern asks for something in it and the metadata
/// matches. It keeps nothing of the payload. Memory is that of the pattern.
///
/// # Examples
///
/// ```
/// use headwater_core::{EventPattern, EventType, NewEvent, StreamId};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pattern: EventPattern = r#"{
///     "type": ["order.placed", {"prefix": "order.changed."}],
///     "data": {
///         "total": [{"numeric": [">=", 100]}],
///         "items": {"sku": [{"wildcard": "shoe-*-red"}], "amount": [{"anything-but": 0}]},
///         "coupon": [{"exists": false}]
///     }
/// }"#.parse()?;
///
/// let placed = |data| {
///     NewEvent::json(StreamId::new("order-17")?, EventType::new("order.placed")?, &data)
///         .map_err(Box::<dyn std::error::Error>::from)
/// };
/// let red = serde_json::json!({"sku": "shoe-42-red", "amount": 1});
/// let blue = serde_json::json!({"sku": "shoe-42-blue", "amount": 1});
/// assert!(pattern.matches(&placed(serde_json::json!({"total": 120.5, "items": [blue, red]}))?));
/// assert!(!pattern.matches(&placed(serde_json::json!({"total": 99, "items": [red]}))?));
/// assert!(!pattern.matches(&placed(serde_json::json!({"total": 120, "items": [blue]}))?));
/// # Ok(())
/// # }
/// ```
///
/// What is wrong with a pattern is told with its place, and a pattern that can never match is
/// refused:
///
/// ```
/// use headwater_core::EventPattern;
///
/// let error = EventPattern::parse(r#"{"type": [{"prefx": "order."}]}"#).unwrap_err();
/// assert!(error.to_string().contains("at /type/0/prefx, line 1 column 21"), "{error}");
///
/// let error = EventPattern::parse(r#"{"data": {"total": [{"numeric": [">", 9, "<", 3]}]}}"#);
/// assert!(error.unwrap_err().to_string().contains("no number lies in the range"));
/// ```
#[derive(Clone)]
pub struct EventPattern(Arc<Inner>);

struct Inner {
    /// The canonical text: without white space, keys and lists in order.
    text: String,
    group: Group,
    compiled: Compiled,
}

impl EventPattern {
    /// Reads a pattern from its JSON.
    ///
    /// # Errors
    ///
    /// [`InvalidPattern`] says what is wrong, where, and what to do about it.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let whole = |fault| InvalidPattern { pointer: String::new(), place: None, fault };
        if text.len() > limits::PATTERN_BYTES_MAX {
            return Err(whole(PatternFault::TooLong { actual: text.len() }));
        }
        Self::of(&Document::parse(text)?).map_err(|refused| refused.in_text(Some(text)))
    }

    fn of(document: &Document) -> Result<Self, document::Refused> {
        let group = Group::of_event(document)?;
        let compiled = Compiled::of(&group)?;
        let text = serde_json::to_string(&group).expect("keys are texts and numbers are finite");
        if text.len() > limits::PATTERN_BYTES_MAX {
            return Err(At::Top.refuse(PatternFault::TooLong { actual: text.len() }));
        }
        Ok(Self(Arc::new(Inner { text, group, compiled })))
    }

    /// Returns whether the pattern selects `event`.
    ///
    /// A payload that is not JSON has nothing in it: of it, only `{"exists": false}` matches. So
    /// it is with other codecs, and with bytes that are not what their codec says.
    pub fn matches<E: Matchable + ?Sized>(&self, event: &E) -> bool {
        self.0.compiled.matches(event)
    }

    /// Returns a query that selects every event which the pattern does, and as few others as
    /// streams, categories, types and tags can tell: what an index can find before the pattern
    /// decides.
    pub fn query(&self) -> &Query {
        &self.0.compiled.query
    }

    /// Returns the pattern as JSON, in its canonical form.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl FromStr for EventPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        Self::parse(text)
    }
}

impl PartialEq for EventPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for EventPattern {}

impl Hash for EventPattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventPattern({})", self.0.text)
    }
}

/// Writes the pattern as the JSON object that it is; as a text where the format is not for people.
impl Serialize for EventPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.0.group.serialize(serializer)
        } else {
            serializer.serialize_str(&self.0.text)
        }
    }
}

impl<'de> Deserialize<'de> for EventPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let document = Document::deserialize(deserializer)?;
            let pattern = Self::of(&document).map_err(|refused| refused.in_text(None));
            pattern.map_err(serde::de::Error::custom)
        } else {
            let text = String::deserialize(deserializer)?;
            Self::parse(&text).map_err(serde::de::Error::custom)
        }
    }
}
