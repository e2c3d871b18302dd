//! A JSON document as it was written: with repeated keys, and with a way to find what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use memchr::memchr_iter;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{InvalidPattern, PatternFault, TextPlace};
use super::scalar::{Number, Scalar, Value};
use crate::limits;

/// A JSON value that keeps repeated keys.
#[derive(Debug)]
pub(super) enum Document {
    Scalar(Value),
    List(Vec<Document>),
    Object(Vec<(String, Document)>),
    /// A list or object below the deepest level, whose content was skipped.
    TooDeep,
}

/// The way from the top to a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum At<'a> {
    Top,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

/// A fault and the steps to it.
#[derive(Debug)]
pub(super) struct Refused {
    steps: Vec<String>,
    fault: PatternFault,
}

impl At<'_> {
    fn steps(&self) -> Vec<String> {
        let (before, step) = match *self {
            At::Top => return Vec::new(),
            At::Key(before, key) => (before, key.to_owned()),
            At::Index(before, index) => (before, index.to_string()),
        };
        let mut steps = before.steps();
        steps.push(step);
        steps
    }

    pub(super) fn refuse(&self, fault: PatternFault) -> Refused {
        Refused { steps: self.steps(), fault }
    }
}

impl Refused {
    /// Adds where it is, and where that is in `text`.
    pub(super) fn in_text(self, text: Option<&str>) -> InvalidPattern {
        let place = text.and_then(|text| {
            let offset = locate(text, &self.steps)?;
            let before = text.as_bytes().get(..offset)?;
            let line = memchr_iter(b'\n', before).count() + 1;
            let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
            Some(TextPlace { line, column })
        });
        InvalidPattern { pointer: pointer(&self.steps), place, fault: self.fault }
    }
}

/// Writes steps as a JSON pointer.
pub(super) fn pointer<S: AsRef<str>>(steps: &[S]) -> String {
    let escaped = |step: &S| format!("/{}", step.as_ref().replace('~', "~0").replace('/', "~1"));
    steps.iter().map(escaped).collect()
}

/// Finds where the value begins that the steps lead to; of repeated keys the last one.
fn locate(text: &str, steps: &[String]) -> Option<usize> {
    let mut value: &RawValue = serde_json::from_str(text).ok()?;
    for step in steps {
        value = if value.get().starts_with('{') {
            let fields: BTreeMap<String, &RawValue> = serde_json::from_str(value.get()).ok()?;
            fields.get(step).copied()?
        } else {
            let items: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
            items.get(step.parse::<usize>().ok()?).copied()?
        };
    }
    value.get().as_ptr().addr().checked_sub(text.as_ptr().addr())
}

impl Document {
    /// Reads a text.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let document: Self = serde_json::from_str(text).map_err(|error| {
            let detail = error.to_string();
            let detail = detail.rsplit_once(" at line ").map_or(&*detail, |(detail, _)| detail);
            InvalidPattern {
                pointer: String::new(),
                place: Some(TextPlace { line: error.line(), column: error.column() }),
                fault: PatternFault::Syntax { detail: detail.to_owned() },
            }
        })?;
        Ok(document)
    }

    /// Names what it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Scalar(value) => value.kind(),
            Self::List(items) if items.is_empty() => "an empty list",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
            Self::TooDeep => "a list or an object",
        }
    }

    /// Checks what holds for all documents: no key twice, and nothing too deep.
    pub(super) fn check(&self, at: At<'_>) -> Result<(), Refused> {
        match self {
            Self::Scalar(_) => Ok(()),
            Self::TooDeep => Err(at.refuse(PatternFault::TooDeep)),
            Self::List(items) => {
                let mut items = items.iter().enumerate();
                items.try_for_each(|(index, item)| item.check(At::Index(&at, index)))
            }
            Self::Object(fields) => {
                let mut seen = BTreeSet::new();
                fields.iter().try_for_each(|(key, value)| {
                    let at = At::Key(&at, key);
                    if !seen.insert(key) {
                        return Err(at.refuse(PatternFault::DuplicateKey { key: key.clone() }));
                    }
                    value.check(at)
                })
            }
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Level(1).deserialize(deserializer)
    }
}

/// How deep the value lies, from 1.
#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn is_too_deep(self) -> bool {
        self.0 > limits::PATTERN_DEPTH_MAX
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Document, E> {
        Ok(Document::Scalar(Scalar::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Document, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Document, E> {
        Ok(Document::Scalar(Scalar::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Document, E> {
        Ok(Document::Scalar(Scalar::Number(value.into())))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Document, E> {
        Ok(Document::Scalar(Scalar::Number(value.into())))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Document, E> {
        let number = Number::from_f64(value);
        let number = number.ok_or_else(|| E::custom(format!("{value} is no number of JSON")))?;
        Ok(Document::Scalar(Scalar::Number(number)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Document, E> {
        Ok(Document::Scalar(Scalar::Text(value.into())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Document, A::Error> {
        if self.is_too_deep() {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Document::TooDeep);
        }
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Self(self.0 + 1))? {
            items.push(item);
        }
        Ok(Document::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        if self.is_too_deep() {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Document::TooDeep);
        }
        let mut fields = Vec::new();
        while let Some(key) = map.next_key()? {
            fields.push((key, map.next_value_seed(Self(self.0 + 1))?));
        }
        Ok(Document::Object(fields))
    }
}
