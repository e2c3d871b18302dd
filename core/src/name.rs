//! Names that check themselves when built and are trusted afterwards.
//!
//! One rule for all: 1 byte up to the limit of the kind, no white space, no control characters,
//! none of `/` and `\`, and not `.` or `..`. So a name can stand in a log line, a URL query or a
//! shell command, and can never be taken for a path.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;

/// A text that cannot be the name it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} {fault}")]
pub struct InvalidName {
    /// What was being named, such as "tag".
    pub kind: &'static str,
    /// The text as given, cut after 300 bytes.
    pub value: String,
    /// What is wrong and what to do about it.
    pub fault: NameFault,
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameFault {
    /// It has no characters.
    #[error("is empty; give it at least one character")]
    Empty,
    /// It is longer than its kind allows.
    #[error("is {actual} bytes long, and the limit is {max}; shorten it or hash the long part")]
    TooLong {
        /// Its length in bytes.
        actual: usize,
        /// The longest that is accepted.
        max: usize,
    },
    /// It holds white space or a control character.
    #[error("has the character {character:?} at byte {at}; remove white space and controls")]
    Character {
        /// The character.
        character: char,
        /// Where it stands, in bytes from the start.
        at: usize,
    },
    /// It could be taken for a path.
    #[error("looks like a path; names may not hold a slash or a backslash nor be . or ..")]
    PathLike,
    /// A stream id without the hyphen between category and id.
    #[error("has no hyphen; write the category, a hyphen and the id, as in order-17")]
    NoHyphen,
    /// A category that holds the hyphen which ends it.
    #[error("holds a hyphen at byte {at}, which ends a category; use an underscore or a dot")]
    Hyphen {
        /// Where it stands, in bytes from the start.
        at: usize,
    },
}

/// Checks the rule that all names share.
fn check(kind: &'static str, text: &str, max: usize) -> Result<(), InvalidName> {
    fault(text, max).map_or(Ok(()), |fault| Err(invalid(kind, text, fault)))
}

fn invalid(kind: &'static str, text: &str, fault: NameFault) -> InvalidName {
    let mut end = text.len().min(300);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    InvalidName { kind, value: text[..end].to_owned(), fault }
}

fn fault(text: &str, max: usize) -> Option<NameFault> {
    if text.is_empty() {
        return Some(NameFault::Empty);
    }
    if text.len() > max {
        return Some(NameFault::TooLong { actual: text.len(), max });
    }
    if text == "." || text == ".." {
        return Some(NameFault::PathLike);
    }
    // Most names are plain: visible ASCII without slash and backslash.
    if text.bytes().all(|byte| matches!(byte, b'!'..=b'.' | b'0'..=b'[' | b']'..=b'~')) {
        return None;
    }
    text.char_indices().find_map(|(at, character)| match character {
        '/' | '\\' => Some(NameFault::PathLike),
        c if c.is_control() || c.is_whitespace() => Some(NameFault::Character { character, at }),
        _ => None,
    })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and makes the name.
            ///
            /// # Errors
            ///
            /// [`InvalidName`] says what is wrong with it.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// Checks whether `text` is such a name, without making one.
            ///
            /// # Errors
            ///
            /// [`InvalidName`] says what is wrong with it.
            pub fn check(text: &str) -> Result<(), InvalidName> {
                $check(text)
            }

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:?})"), &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                (*name.0).to_owned()
            }
        }
    };
}

name! {
    /// The kind of entity that a stream belongs to, such as `order`. It holds no hyphen, because
    /// the first hyphen of a stream id ends the category.
    Category, check_category
}

name! {
    /// The name of a stream: a category, a hyphen and the id of one entity, such as `order-17`.
    ///
    /// The first hyphen separates the two; the id may hold more of them.
    StreamId, check_stream
}

name! {
    /// A label by which events of many streams are found together, such as `customer:00042`.
    Tag, |text| check("tag", text, limits::TAG_BYTES_MAX)
}

name! {
    /// The frozen name of an event type, such as `order.placed`.
    EventType, |text| check("event type", text, limits::EVENT_TYPE_BYTES_MAX)
}

name! {
    /// What an event is ordered by in consumer groups, where that is not its stream.
    Key, |text| check("key", text, limits::KEY_BYTES_MAX)
}

name! {
    /// The name of a consumer group.
    GroupName, |text| check("group name", text, limits::GROUP_NAME_BYTES_MAX)
}

fn check_category(text: &str) -> Result<(), InvalidName> {
    check("category", text, limits::CATEGORY_BYTES_MAX)?;
    match text.find('-') {
        Some(at) => Err(invalid("category", text, NameFault::Hyphen { at })),
        None => Ok(()),
    }
}

fn check_stream(text: &str) -> Result<(), InvalidName> {
    check("stream id", text, limits::STREAM_ID_BYTES_MAX)?;
    let Some((category, id)) = text.split_once('-') else {
        return Err(invalid("stream id", text, NameFault::NoHyphen));
    };
    check_category(category)?;
    check("id of a stream", id, limits::STREAM_ID_BYTES_MAX)
}

impl StreamId {
    /// Joins a category and the id of an entity.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the id is empty or the whole breaks the rules of names.
    pub fn of(category: &Category, id: impl fmt::Display) -> Result<Self, InvalidName> {
        Self::new(format!("{category}-{id}"))
    }

    /// Returns the category, the part before the first hyphen.
    pub fn category(&self) -> &str {
        category_of(&self.0)
    }

    /// Returns the id of the entity, the part after the first hyphen.
    pub fn id(&self) -> &str {
        self.0.split_once('-').map_or("", |(_, id)| id)
    }
}

/// Returns the category of a stream id given as text: all before the first hyphen.
pub fn category_of(stream: &str) -> &str {
    stream.split_once('-').map_or(stream, |(category, _)| category)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_fault(text: &str) -> NameFault {
        StreamId::new(text).unwrap_err().fault
    }

    #[test]
    fn a_stream_id_splits_at_its_first_hyphen() {
        let stream = StreamId::new("order-2026-11-23").unwrap();
        assert_eq!((stream.category(), stream.id()), ("order", "2026-11-23"));
        assert_eq!(StreamId::of(&Category::new("order").unwrap(), "2026-11-23").unwrap(), stream);
    }

    #[test]
    fn each_fault_of_a_name_is_told_apart() {
        assert_eq!(stream_fault(""), NameFault::Empty);
        assert_eq!(stream_fault("order"), NameFault::NoHyphen);
        assert_eq!(stream_fault("-17"), NameFault::Empty);
        assert_eq!(stream_fault("order-"), NameFault::Empty);
        assert_eq!(stream_fault("order-../../etc"), NameFault::PathLike);
        assert_eq!(stream_fault("order-a\\b"), NameFault::PathLike);
        assert_eq!(
            stream_fault("order-1\u{7}"),
            NameFault::Character { character: '\u{7}', at: 7 }
        );
        let long = format!("order-{}", "x".repeat(250));
        assert_eq!(stream_fault(&long), NameFault::TooLong { actual: 256, max: 255 });
        assert_eq!(Category::new("a-b").unwrap_err().fault, NameFault::Hyphen { at: 1 });
        assert_eq!(Tag::new("..").unwrap_err().fault, NameFault::PathLike);
    }

    #[test]
    fn the_longest_name_is_accepted() {
        assert!(Tag::new("x".repeat(limits::TAG_BYTES_MAX)).is_ok());
        assert!(Tag::new("x".repeat(limits::TAG_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn the_message_names_the_value_the_limit_and_the_remedy() {
        let message = EventType::new("x".repeat(129)).unwrap_err().to_string();
        assert!(message.contains("event type"), "{message}");
        assert!(message.contains("129 bytes") && message.contains("128"), "{message}");
        assert!(message.contains("shorten"), "{message}");
    }

    #[test]
    fn a_stored_name_is_checked_when_it_is_read_back() {
        assert!(serde_json::from_str::<Tag>("\"a b\"").is_err());
        assert_eq!(serde_json::from_str::<Tag>("\"a:b\"").unwrap().as_str(), "a:b");
    }
}
