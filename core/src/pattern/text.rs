//! Tests of texts.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// What a text must be like.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TextTest {
    Prefix(Box<str>),
    PrefixIgnoreCase(Box<str>),
    Suffix(Box<str>),
    SuffixIgnoreCase(Box<str>),
    IgnoreCase(Box<str>),
    Wildcard(Wildcard),
}

impl TextTest {
    pub(super) fn holds(&self, text: &str) -> bool {
        match self {
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::PrefixIgnoreCase(prefix) => starts_with_ignoring_case(text, prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::SuffixIgnoreCase(suffix) => ends_with_ignoring_case(text, suffix),
            Self::IgnoreCase(other) => equal_ignoring_case(text, other),
            Self::Wildcard(wildcard) => wildcard.holds(text),
        }
    }

    /// Returns the name of the operator.
    pub(super) fn operator(&self) -> &'static str {
        match self {
            Self::Prefix(_) | Self::PrefixIgnoreCase(_) => "prefix",
            Self::Suffix(_) | Self::SuffixIgnoreCase(_) => "suffix",
            Self::IgnoreCase(_) => IGNORE_CASE,
            Self::Wildcard(_) => "wildcard",
        }
    }
}

pub(super) const IGNORE_CASE: &str = "equals-ignore-case";

/// Writes what follows the operator's name.
impl Serialize for TextTest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Prefix(text) | Self::Suffix(text) | Self::IgnoreCase(text) => {
                serializer.serialize_str(text)
            }
            Self::PrefixIgnoreCase(text) | Self::SuffixIgnoreCase(text) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(IGNORE_CASE, text)?;
                map.end()
            }
            Self::Wildcard(wildcard) => serializer.serialize_str(&wildcard.to_text()),
        }
    }
}

/// Returns the characters without their case: to upper case and then to lower case, as Unicode
/// maps them one by one, so that `ß` is `ss` and both forms of a small sigma are one.
fn folded(text: &str) -> impl DoubleEndedIterator<Item = char> {
    text.chars().flat_map(|c| c.to_uppercase().flat_map(char::to_lowercase))
}

fn equal_ignoring_case(a: &str, b: &str) -> bool {
    if a.is_ascii() && b.is_ascii() {
        return a.eq_ignore_ascii_case(b);
    }
    folded(a).eq(folded(b))
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    let mut text = folded(text);
    folded(prefix).all(|c| text.next() == Some(c))
}

fn ends_with_ignoring_case(text: &str, suffix: &str) -> bool {
    let mut text = folded(text).rev();
    folded(suffix).rev().all(|c| text.next() == Some(c))
}

/// Literal parts with any number of characters, or none, between two of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wildcard {
    /// One more than there are stars. The first and the last may be empty.
    parts: Vec<Box<str>>,
}

/// What is wrong with a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WildcardFault {
    Stars,
    Escape,
}

impl Wildcard {
    pub(super) fn parse(text: &str) -> Result<Self, WildcardFault> {
        let mut parts = Vec::new();
        let mut part = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '*' if part.is_empty() && !parts.is_empty() => return Err(WildcardFault::Stars),
                '*' => parts.push(std::mem::take(&mut part).into_boxed_str()),
                '\\' => match chars.next() {
                    Some(c @ ('*' | '\\')) => part.push(c),
                    _ => return Err(WildcardFault::Escape),
                },
                c => part.push(c),
            }
        }
        parts.push(part.into_boxed_str());
        Ok(Self { parts })
    }

    /// Linear in the text for each part: parts between stars are taken where they come first,
    /// which leaves the most for those that follow.
    fn holds(&self, text: &str) -> bool {
        let [first, middle @ .., last] = &*self.parts else {
            return self.parts.iter().all(|only| **only == *text);
        };
        let Some(mut rest) = text.strip_prefix(&**first) else { return false };
        for part in middle {
            let Some(at) = rest.find(&**part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(&**last)
    }

    /// Returns the literal before the first star; all of it if there is none.
    pub(super) fn head(&self) -> &str {
        self.parts.first().map_or("", |part| part)
    }

    /// Returns the longest literal, which every text that matches holds.
    pub(super) fn longest_part(&self) -> &str {
        self.parts.iter().max_by_key(|part| part.len()).map_or("", |part| part)
    }

    fn to_text(&self) -> String {
        let escaped = |part: &str| part.replace('\\', r"\\").replace('*', r"\*");
        self.parts.iter().map(|part| escaped(part)).collect::<Vec<_>>().join("*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wildcard(pattern: &str, text: &str) -> bool {
        Wildcard::parse(pattern).unwrap().holds(text)
    }

    #[test]
    fn stars_stand_for_any_number_of_characters() {
        let table = [
            ("*", ""),
            ("*", "anything"),
            ("a*", "a"),
            ("*a", "bca"),
            ("a*b*c", "abc"),
            ("a*b*c", "a--b--b--c"),
            ("dir/*.png", "dir/a/b.png"),
            (r"a\*b", "a*b"),
            (r"a\\*", r"a\b"),
            ("ä*ö", "äßö"),
            ("plain", "plain"),
        ];
        for (pattern, text) in table {
            assert!(wildcard(pattern, text), "{pattern} does not match {text}");
        }
        let table = [
            ("a*a", "a"),
            ("ab*bc", "abc"),
            ("a*b*c", "acb"),
            (r"a\*b", "a-b"),
            ("plain", "plainer"),
            ("", "x"),
            ("a*b*b", "ab"),
        ];
        for (pattern, text) in table {
            assert!(!wildcard(pattern, text), "{pattern} matches {text}");
        }
    }

    #[test]
    fn a_wildcard_that_is_not_one_is_refused_and_others_survive_their_text() {
        assert_eq!(Wildcard::parse("a**b"), Err(WildcardFault::Stars));
        assert_eq!(Wildcard::parse("**"), Err(WildcardFault::Stars));
        assert_eq!(Wildcard::parse(r"a\b"), Err(WildcardFault::Escape));
        assert_eq!(Wildcard::parse(r"a\"), Err(WildcardFault::Escape));
        for text in ["", "*", "a*b", r"\**\\", r"*\*", r"a\\\*"] {
            assert_eq!(Wildcard::parse(text).unwrap().to_text(), text);
        }
    }

    #[test]
    fn case_is_ignored_beyond_ascii() {
        for (a, b) in
            [("ÄRGER", "ärger"), ("straße", "STRASSE"), ("ΟΔΟΣ", "οδος"), ("K", "\u{212a}")]
        {
            assert!(equal_ignoring_case(a, b) && equal_ignoring_case(b, a), "{a} and {b}");
        }
        assert!(!equal_ignoring_case("a", "ä"));
        assert!(starts_with_ignoring_case("Ärgerlich", "äRG"));
        assert!(ends_with_ignoring_case("Ärgerlich", "LICH"));
        assert!(ends_with_ignoring_case("STRASSE", "aße"));
        assert!(!starts_with_ignoring_case("a", "ab"));
        assert!(!ends_with_ignoring_case("b", "ab"));
    }
}
