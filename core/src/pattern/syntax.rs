//! From a document to what it asks for, and back to text.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::document::{At, Document, Refused};
use super::error::{NeverMatches, PatternFault};
use super::field::{self, DATA, Field, HEADERS};
use super::matcher::{AnyOf, Bound, Excluded, Matcher, Range};
use super::scalar::{Number, Scalar};
use super::text::{IGNORE_CASE, TextTest, Wildcard, WildcardFault};

/// The key that is no field.
pub(super) const OR: &str = "$or";

/// An object of a pattern: all its fields, and one of the branches of its `$or`.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) fields: BTreeMap<Box<str>, Asked>,
    /// Empty, or two or more.
    pub(super) either: Vec<Group>,
}

/// What is asked of one field.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    Values(Arc<AnyOf>),
    Inside(Group),
}

/// What the fields of an object are.
#[derive(Clone, Copy)]
enum Scope<'a> {
    Event,
    Headers,
    /// Of the payload; anything goes.
    Data,
    /// None: the values of a field that has no others inside.
    Field(&'a Field),
}

impl Group {
    /// Reads a whole pattern.
    pub(super) fn of_event(document: &Document) -> Result<Self, Refused> {
        let at = At::Top;
        document.check(at)?;
        let Document::Object(fields) = document else {
            return Err(at.refuse(PatternFault::NotAnObject { found: document.kind() }));
        };
        Self::of(fields, Scope::Event, at)
    }

    fn of(fields: &[(String, Document)], scope: Scope<'_>, at: At<'_>) -> Result<Self, Refused> {
        if fields.is_empty() {
            return Err(never(at, NeverMatches::EmptyObject));
        }
        let mut group = Self::default();
        for (key, document) in fields {
            let at = At::Key(&at, key);
            if key == OR {
                group.either = branches(document, scope, at)?;
            } else {
                let asked = scope.field(key, document, at)?;
                group.fields.insert(key.as_str().into(), asked);
            }
        }
        Ok(group)
    }
}

impl Scope<'_> {
    /// Reads what is asked of the field `key` of an object in this scope.
    fn field(self, key: &str, document: &Document, at: At<'_>) -> Result<Asked, Refused> {
        match self {
            Self::Event if key == DATA => asked(document, Self::Data, at),
            Self::Event if key == HEADERS => match document {
                Document::List(_) => Err(never(at, NeverMatches::NoValue { field: HEADERS })),
                _ => asked(document, Self::Headers, at),
            },
            Self::Event => {
                let Some(field) = Field::named(key) else {
                    return Err(never(at, Field::unknown(key)));
                };
                asked(document, Scope::Field(&field), at)
            }
            Self::Headers => {
                field::check_header(key).map_err(|why| never(at, why))?;
                asked(document, Scope::Field(&Field::Header(key.into())), at)
            }
            Self::Data | Self::Field(_) => asked(document, self, at),
        }
    }
}

/// Reads what is asked of a field whose values, and the fields inside it, are of `scope`.
fn asked(document: &Document, scope: Scope<'_>, at: At<'_>) -> Result<Asked, Refused> {
    match (document, scope) {
        (Document::List(items), _) => {
            if items.is_empty() {
                return Err(never(at, NeverMatches::EmptyList));
            }
            let items = items.iter().enumerate().map(|(index, item)| {
                let at = At::Index(&at, index);
                let matcher = matcher(item, at)?;
                match scope {
                    Scope::Field(field) => match field.never(&matcher) {
                        Some(why) => Err(never(at, why)),
                        None => Ok(matcher),
                    },
                    _ => Ok(matcher),
                }
            });
            let matchers = items.collect::<Result<Vec<_>, _>>()?;
            Ok(Asked::Values(Arc::new(AnyOf::new(matchers))))
        }
        (Document::Object(_), Scope::Field(field)) => {
            Err(never(at, NeverMatches::NoFieldsInside { field: field.name() }))
        }
        (Document::Object(fields), _) => Group::of(fields, scope, at).map(Asked::Inside),
        (other, _) => Err(at.refuse(PatternFault::NotAList { found: other.kind() })),
    }
}

fn branches(document: &Document, scope: Scope<'_>, at: At<'_>) -> Result<Vec<Group>, Refused> {
    let branches = match document {
        Document::List(branches) if branches.len() >= 2 => branches,
        Document::List(branches) if branches.len() == 1 => {
            return Err(at.refuse(PatternFault::Branches { found: "a list of one" }));
        }
        other => return Err(at.refuse(PatternFault::Branches { found: other.kind() })),
    };
    let branches = branches.iter().enumerate().map(|(index, branch)| {
        let at = At::Index(&at, index);
        match branch {
            Document::Object(fields) => Group::of(fields, scope, at),
            other => Err(at.refuse(PatternFault::Branches { found: other.kind() })),
        }
    });
    let mut branches = branches.collect::<Result<Vec<_>, _>>()?;
    branches.sort_unstable();
    Ok(branches)
}

fn never(at: At<'_>, why: NeverMatches) -> Refused {
    at.refuse(PatternFault::NeverMatches(why))
}

/// Reads one entry of a field's list.
fn matcher(document: &Document, at: At<'_>) -> Result<Matcher, Refused> {
    let fields = match document {
        Document::Scalar(value) => return Ok(Matcher::Exact(value.clone())),
        Document::Object(fields) => fields,
        Document::List(_) | Document::TooDeep => return Err(at.refuse(PatternFault::ListInList)),
    };
    let [(operator, argument)] = &**fields else {
        return Err(at.refuse(PatternFault::OneOperator { count: fields.len() }));
    };
    let at = At::Key(&at, operator);
    let refuse = |operator, takes| {
        Err(at.refuse(PatternFault::Argument { operator, takes, found: argument.kind() }))
    };
    match (&**operator, argument) {
        ("exists", Document::Scalar(Scalar::Bool(exists))) => Ok(Matcher::Exists(*exists)),
        ("exists", _) => refuse("exists", "true or false"),
        ("cidr", Document::Scalar(Scalar::Text(text))) => match text.parse::<IpNet>() {
            Ok(network) => Ok(Matcher::Cidr(network.trunc())),
            Err(_) => Err(at.refuse(PatternFault::Network { network: text.to_string() })),
        },
        ("cidr", _) => refuse("cidr", "a network as text, as in \"10.0.0.0/8\""),
        ("numeric", Document::List(items)) => range(items, at).map(Matcher::Numeric),
        ("numeric", _) => refuse("numeric", RANGE),
        ("anything-but", argument) => excluded(argument, at).map(Matcher::AnythingBut),
        _ => text_test(text_operator(operator, at)?, argument, at).map(Matcher::Text),
    }
}

/// Finds an operator that tests texts.
fn text_operator(name: &str, at: At<'_>) -> Result<&'static str, Refused> {
    let known = ["prefix", "suffix", "wildcard", IGNORE_CASE].into_iter().find(|o| *o == name);
    known.ok_or_else(|| at.refuse(PatternFault::UnknownOperator { name: name.to_owned() }))
}

/// Reads what such an operator was given.
fn text_test(operator: &'static str, argument: &Document, at: At<'_>) -> Result<TextTest, Refused> {
    let (text, cased) = match argument {
        Document::Scalar(Scalar::Text(text)) => (text, true),
        Document::Object(fields) => match &**fields {
            [(key, Document::Scalar(Scalar::Text(text)))] if key == IGNORE_CASE => (text, false),
            _ => return Err(no_text(operator, argument, at)),
        },
        _ => return Err(no_text(operator, argument, at)),
    };
    Ok(match (operator, cased) {
        ("prefix", true) => TextTest::Prefix(text.clone()),
        ("prefix", false) => TextTest::PrefixIgnoreCase(text.clone()),
        ("suffix", true) => TextTest::Suffix(text.clone()),
        ("suffix", false) => TextTest::SuffixIgnoreCase(text.clone()),
        (IGNORE_CASE, true) => TextTest::IgnoreCase(text.clone()),
        ("wildcard", true) => TextTest::Wildcard(Wildcard::parse(text).map_err(|fault| {
            let wildcard = text.to_string();
            at.refuse(match fault {
                WildcardFault::Stars => PatternFault::WildcardStars { wildcard },
                WildcardFault::Escape => PatternFault::WildcardEscape { wildcard },
            })
        })?),
        _ => return Err(no_text(operator, argument, at)),
    })
}

fn no_text(operator: &'static str, argument: &Document, at: At<'_>) -> Refused {
    let takes = match operator {
        "prefix" | "suffix" => "a text, or {\"equals-ignore-case\": a text}",
        _ => "a text",
    };
    at.refuse(PatternFault::Argument { operator, takes, found: argument.kind() })
}

/// Reads what `anything-but` was given.
fn excluded(argument: &Document, at: At<'_>) -> Result<Excluded, Refused> {
    match argument {
        Document::Scalar(value) => Ok(Excluded::Values(vec![value.clone()])),
        Document::List(items) if !items.is_empty() => {
            let values = items.iter().enumerate().map(|(index, item)| match item {
                Document::Scalar(value) => Ok(value.clone()),
                other => Err(no_exclusion(other, At::Index(&at, index))),
            });
            Ok(Excluded::Values(sorted(values.collect::<Result<_, _>>()?)))
        }
        Document::Object(fields) => {
            let [(operator, argument)] = &**fields else {
                return Err(at.refuse(PatternFault::OneOperator { count: fields.len() }));
            };
            let at = At::Key(&at, operator);
            let operator = text_operator(operator, at)?;
            let tests = match argument {
                Document::List(items) if !items.is_empty() => {
                    let items = items.iter().enumerate();
                    let tests = items.map(|(i, item)| exclusion(operator, item, At::Index(&at, i)));
                    tests.collect::<Result<_, _>>()?
                }
                argument => vec![exclusion(operator, argument, at)?],
            };
            Ok(Excluded::Texts(sorted(tests)))
        }
        other => Err(no_exclusion(other, at)),
    }
}

/// Reads one test of texts inside of `anything-but`.
fn exclusion(operator: &'static str, argument: &Document, at: At<'_>) -> Result<TextTest, Refused> {
    let test = text_test(operator, argument, at)?;
    match &test {
        TextTest::Prefix(part)
        | TextTest::Suffix(part)
        | TextTest::PrefixIgnoreCase(part)
        | TextTest::SuffixIgnoreCase(part)
            if part.is_empty() =>
        {
            Err(never(at, NeverMatches::ExcludesEverything { operator }))
        }
        _ => Ok(test),
    }
}

fn no_exclusion(found: &Document, at: At<'_>) -> Refused {
    at.refuse(PatternFault::Argument {
        operator: "anything-but",
        takes: "a value, a list of values, or an object with prefix, suffix, equals-ignore-case or wildcard",
        found: found.kind(),
    })
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort_unstable();
    items.dedup();
    items
}

const RANGE: &str = "a list of one or two comparisons, as in [\">=\", 0, \"<\", 10] or [\"=\", 5]";

fn range(items: &[Document], at: At<'_>) -> Result<Range, Refused> {
    let refuse = |at: At<'_>, found| {
        at.refuse(PatternFault::Argument { operator: "numeric", takes: RANGE, found })
    };
    let mut range = Range { low: None, high: None };
    for (index, pair) in items.chunks(2).enumerate() {
        let at_operator = At::Index(&at, 2 * index);
        let at_number = At::Index(&at, 2 * index + 1);
        let Document::Scalar(Scalar::Text(operator)) = &pair[0] else {
            return Err(refuse(at_operator, pair[0].kind()));
        };
        let value: Number = match pair.get(1) {
            Some(Document::Scalar(Scalar::Number(value))) => *value,
            Some(other) => return Err(refuse(at_number, other.kind())),
            None => return Err(refuse(at_operator, "a comparison without a number")),
        };
        let bound = |inclusive| Some(Bound { value, inclusive });
        match (&**operator, range) {
            ("=", Range { low: None, high: None }) if items.len() == 2 => {
                range = Range { low: bound(true), high: bound(true) };
            }
            (">" | ">=", Range { low: None, .. }) => range.low = bound(&**operator == ">="),
            ("<" | "<=", Range { high: None, .. }) => range.high = bound(&**operator == "<="),
            ("=" | ">" | ">=" | "<" | "<=", _) => {
                return Err(refuse(at_operator, "a second bound of the same side"));
            }
            _ => return Err(refuse(at_operator, "another operator")),
        }
    }
    if range.low.is_none() && range.high.is_none() {
        return Err(refuse(at, "an empty list"));
    }
    if range.is_empty() {
        let range = serde_json::to_string(&range).unwrap_or_default();
        return Err(never(at, NeverMatches::EmptyRange { range }));
    }
    Ok(range)
}

impl Serialize for Group {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.either.is_empty() {
            map.serialize_entry(OR, &self.either)?;
        }
        for (key, asked) in &self.fields {
            map.serialize_entry(key, asked)?;
        }
        map.end()
    }
}

impl Serialize for Asked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Values(any) => any.serialize(serializer),
            Self::Inside(group) => group.serialize(serializer),
        }
    }
}
