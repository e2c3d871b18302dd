//! What one field must be like: any of some values and tests.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::scalar::{Number, Scalar, Value};
use super::text::TextTest;

/// One entry of a field's list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Matcher {
    Exact(Value),
    Text(TextTest),
    AnythingBut(Excluded),
    Numeric(Range),
    Cidr(IpNet),
    Exists(bool),
}

/// What must not be. Not empty; all tests are of one operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Excluded {
    Values(Vec<Value>),
    Texts(Vec<TextTest>),
}

/// Where a number must lie. At least one side is bounded, and it is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) low: Option<Bound>,
    pub(super) high: Option<Bound>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bound {
    pub(super) value: Number,
    pub(super) inclusive: bool,
}

impl Range {
    pub(super) fn holds(&self, value: Number) -> bool {
        let above = |low: Bound| value > low.value || (low.inclusive && value == low.value);
        let below = |high: Bound| value < high.value || (high.inclusive && value == high.value);
        self.low.is_none_or(above) && self.high.is_none_or(below)
    }

    /// Returns whether no number lies inside.
    pub(super) fn is_empty(&self) -> bool {
        let (Some(low), Some(high)) = (self.low, self.high) else { return false };
        low.value > high.value || (low.value == high.value && !(low.inclusive && high.inclusive))
    }

    /// Returns the only number inside, where there is one.
    fn single(&self) -> Option<Number> {
        let (low, high) = (self.low?, self.high?);
        (low == high && low.inclusive).then_some(low.value)
    }
}

impl Excluded {
    fn holds(&self, value: Scalar<&str>) -> bool {
        match (self, value) {
            (Self::Values(values), value) => !values.iter().any(|v| v.borrowed() == value),
            (Self::Texts(tests), Scalar::Text(text)) => !tests.iter().any(|t| t.holds(text)),
            (Self::Texts(_), _) => true,
        }
    }
}

impl Matcher {
    /// Returns whether a value that is there matches.
    fn holds(&self, value: Scalar<&str>) -> bool {
        match (self, value) {
            (Self::Exact(exact), value) => exact.borrowed() == value,
            (Self::Text(like), Scalar::Text(text)) => like.holds(text),
            (Self::AnythingBut(excluded), value) => excluded.holds(value),
            (Self::Numeric(range), Scalar::Number(number)) => range.holds(number),
            (Self::Cidr(network), Scalar::Text(text)) => {
                text.parse::<IpAddr>().is_ok_and(|address| network.contains(&address))
            }
            (Self::Exists(exists), _) => *exists,
            _ => false,
        }
    }
}

/// The list of one field: it matches if any entry does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AnyOf {
    /// Sorted, for there may be many.
    exact: Vec<Value>,
    /// The others that look at a value.
    tests: Vec<Matcher>,
    present: bool,
    absent: bool,
}

impl AnyOf {
    pub(super) fn new(matchers: impl IntoIterator<Item = Matcher>) -> Self {
        let mut all = Self { exact: Vec::new(), tests: Vec::new(), present: false, absent: false };
        for matcher in matchers {
            match matcher {
                Matcher::Exact(value) => all.exact.push(value),
                Matcher::Exists(true) => all.present = true,
                Matcher::Exists(false) => all.absent = true,
                test => all.tests.push(test),
            }
        }
        all.exact.sort_unstable();
        all.exact.dedup();
        all.tests.sort_unstable();
        all.tests.dedup();
        all
    }

    /// Returns whether a value that is there matches.
    pub(super) fn holds(&self, value: Scalar<&str>) -> bool {
        self.present
            || self.exact.binary_search_by(|exact| exact.borrowed().cmp(&value)).is_ok()
            || self.tests.iter().any(|test| test.holds(value))
    }

    pub(super) fn holds_text(&self, text: &str) -> bool {
        self.holds(Scalar::Text(text))
    }

    /// Returns whether a field that is not there matches.
    pub(super) fn holds_absent(&self) -> bool {
        self.absent
    }

    /// Returns whether nothing but absence matches.
    pub(super) fn only_absent(&self) -> bool {
        self.absent && !self.present && self.exact.is_empty() && self.tests.is_empty()
    }

    /// Returns the values, if there is nothing else in the list.
    pub(super) fn only_exact(&self) -> Option<&[Value]> {
        (self.tests.is_empty() && !self.present && !self.absent).then_some(&*self.exact)
    }

    /// Goes through the values and tests, or returns `None` where more than these can match.
    pub(super) fn closed(&self) -> Option<(&[Value], &[Matcher])> {
        (!self.present && !self.absent).then_some((&*self.exact, &*self.tests))
    }
}

impl Serialize for AnyOf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for value in &self.exact {
            list.serialize_element(value)?;
        }
        for test in &self.tests {
            list.serialize_element(test)?;
        }
        if self.absent {
            list.serialize_element(&Matcher::Exists(false))?;
        }
        if self.present {
            list.serialize_element(&Matcher::Exists(true))?;
        }
        list.end()
    }
}

impl Serialize for Matcher {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Self::Exact(value) = self {
            return value.serialize(serializer);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Exact(_) => {}
            Self::Text(test) => map.serialize_entry(test.operator(), test)?,
            Self::AnythingBut(excluded) => map.serialize_entry("anything-but", excluded)?,
            Self::Numeric(range) => map.serialize_entry("numeric", range)?,
            Self::Cidr(network) => map.serialize_entry("cidr", &network.to_string())?,
            Self::Exists(exists) => map.serialize_entry("exists", exists)?,
        }
        map.end()
    }
}

impl Serialize for Excluded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Values(values) => one_or_list(values).serialize(serializer),
            Self::Texts(tests) => {
                let operator = tests.first().map_or("prefix", TextTest::operator);
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(operator, &one_or_list(tests))?;
                map.end()
            }
        }
    }
}

/// Writes a list of one as that one, so that no text grows deeper than it was read.
fn one_or_list<T: Serialize>(items: &[T]) -> impl Serialize {
    match items {
        [one] => OneOrList::One(one),
        list => OneOrList::List(list),
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum OneOrList<'a, T> {
    One(&'a T),
    List(&'a [T]),
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut put = |operator: &str, value: Number| {
            list.serialize_element(operator)?;
            list.serialize_element(&value)
        };
        if let Some(value) = self.single() {
            put("=", value)?;
        } else {
            if let Some(low) = self.low {
                put(if low.inclusive { ">=" } else { ">" }, low.value)?;
            }
            if let Some(high) = self.high {
                put(if high.inclusive { "<=" } else { "<" }, high.value)?;
            }
        }
        list.end()
    }
}
