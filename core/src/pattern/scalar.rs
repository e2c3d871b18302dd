//! Single values of JSON, compared by what they mean.

use std::cmp::Ordering;

use serde::{Serialize, Serializer};

/// 2^100: from here on a whole `f64` stays one, and `i128` holds everything below.
const WHOLE_MAX: f64 = 1_267_650_600_228_229_401_496_703_205_376.0;

/// A number of JSON. Equal ones are equal however they are written: `300`, `300.0` and `3e2`.
///
/// Whole numbers of 64 bits are exact; what has a fraction or is larger is the nearest `f64`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(i128),
    /// Has a fraction, or is too large for the other.
    Float(f64),
}

impl Number {
    /// Takes a number from an `f64`, or returns `None` for what JSON has no number for.
    pub(super) fn from_f64(value: f64) -> Option<Self> {
        if !value.is_finite() {
            return None;
        }
        if value.abs() < WHOLE_MAX && value.fract() == 0.0 {
            #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^100")]
            return Some(Self::Whole(value as i128));
        }
        Some(Self::Float(value))
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value.into())
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::Whole(value.into())
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(&b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(&b),
            (Self::Whole(whole), Self::Float(float)) => compare(whole, float),
            (Self::Float(float), Self::Whole(whole)) => compare(whole, float).reverse(),
        }
    }
}

/// Compares a whole number with one that is not, or is beyond all of them.
fn compare(whole: i128, float: f64) -> Ordering {
    if float.abs() >= WHOLE_MAX {
        return if float > 0.0 { Ordering::Less } else { Ordering::Greater };
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^100")]
    let below = float.floor() as i128;
    if whole <= below { Ordering::Less } else { Ordering::Greater }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Float(value) => serializer.serialize_f64(value),
            Self::Whole(value) => match (i64::try_from(value), u64::try_from(value)) {
                (Ok(value), _) => serializer.serialize_i64(value),
                (_, Ok(value)) => serializer.serialize_u64(value),
                #[expect(clippy::cast_precision_loss, reason = "beyond 64 bits it was an f64")]
                _ => serializer.serialize_f64(value as f64),
            },
        }
    }
}

/// A value of JSON that has no parts. Its order has no meaning and is only for sorting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scalar<T> {
    Null,
    Bool(bool),
    Number(Number),
    Text(T),
}

/// A value of a pattern.
pub(super) type Value = Scalar<Box<str>>;

impl Value {
    pub(super) fn borrowed(&self) -> Scalar<&str> {
        match self {
            Self::Null => Scalar::Null,
            Self::Bool(value) => Scalar::Bool(*value),
            Self::Number(value) => Scalar::Number(*value),
            Self::Text(value) => Scalar::Text(value),
        }
    }
}

impl<T> Scalar<T> {
    /// Names what it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
        }
    }
}

impl<T: AsRef<str>> Serialize for Scalar<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Self::Text(value) => serializer.serialize_str(value.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        let value: serde_json::Number = serde_json::from_str(text).unwrap();
        if let Some(value) = value.as_u64() {
            value.into()
        } else if let Some(value) = value.as_i64() {
            value.into()
        } else {
            Number::from_f64(value.as_f64().unwrap()).unwrap()
        }
    }

    #[test]
    fn numbers_are_ordered_by_value_and_not_by_how_they_are_written() {
        let ascending = [
            "-1e300",
            "-9223372036854775808",
            "-1.5",
            "-1",
            "-0.5",
            "0",
            "0.1",
            "9007199254740991.5",
            "9007199254740993",
            "18446744073709551614",
            "18446744073709551615",
            "18446744073709551616",
            "1e300",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                // Beyond 2^53 the fraction is lost before we see it.
                assert_eq!(number(a).cmp(&number(b)), i.cmp(&j), "{a} and {b}");
            }
        }
    }

    #[test]
    fn equal_numbers_are_equal_however_they_are_written() {
        for (a, b) in [("300", "3e2"), ("300", "300.0"), ("0", "-0.0"), ("0.3", "3e-1")] {
            assert_eq!(number(a), number(b), "{a} and {b}");
        }
    }

    #[test]
    fn a_number_survives_its_text() {
        for text in ["0", "-5", "18446744073709551615", "1e30", "0.1", "1e300", "1.5e-9"] {
            let written = serde_json::to_string(&number(text)).unwrap();
            assert_eq!(number(&written), number(text), "{text} as {written}");
        }
    }

    #[test]
    fn what_json_has_no_number_for_is_none() {
        assert!(Number::from_f64(f64::NAN).is_none());
        assert!(Number::from_f64(f64::INFINITY).is_none());
    }
}
