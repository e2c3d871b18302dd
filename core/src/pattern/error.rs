//! Why a pattern is refused, and where.

use std::fmt;

use crate::limits;

/// A text or document that is not a pattern, or one that could never match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event pattern, {}: {fault}", Where(self))]
pub struct InvalidPattern {
    /// Where the fault lies, as a JSON pointer (RFC 6901); empty for the pattern as a whole.
    pub pointer: String,
    /// Where that begins in the text, if the pattern was given as text.
    pub place: Option<TextPlace>,
    /// What is wrong and what to do about it.
    pub fault: PatternFault,
}

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPlace {
    /// The line, from 1.
    pub line: usize,
    /// The byte in the line, from 1.
    pub column: usize,
}

struct Where<'a>(&'a InvalidPattern);

impl fmt::Display for Where<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&*self.0.pointer, self.0.place) {
            ("", None) => f.write_str("as a whole"),
            ("", Some(TextPlace { line, column })) => write!(f, "line {line} column {column}"),
            (pointer, None) => write!(f, "at {pointer}"),
            (pointer, Some(TextPlace { line, column })) => {
                write!(f, "at {pointer}, line {line} column {column}")
            }
        }
    }
}

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternFault {
    /// The text is not JSON.
    #[error("is not JSON: {detail}")]
    Syntax {
        /// What the parser said.
        detail: String,
    },
    /// The text is too long.
    #[error("is {actual} bytes long, and the limit is {max}; use several patterns", max = limits::PATTERN_BYTES_MAX)]
    TooLong {
        /// Its length in bytes.
        actual: usize,
    },
    /// Lists and objects lie in one another too deeply.
    #[error("lies deeper than {max} levels; match a field further up", max = limits::PATTERN_DEPTH_MAX)]
    TooDeep,
    /// Taking one branch of each `$or` gives too many combinations, or too many fields in all of them.
    #[error(
        "every `$or` multiplied with the others gives {alternatives} combinations with {fields} fields, and the limits are {max} and {fields_max}; put alternatives of one field into its list, or use several patterns",
        max = limits::PATTERN_ALTERNATIVES_MAX, fields_max = limits::PATTERN_FIELDS_MAX
    )]
    TooManyAlternatives {
        /// How many combinations there are.
        alternatives: u64,
        /// How many fields they have together.
        fields: u64,
    },
    /// A key stands more than once in one object.
    #[error("the key {key:?} stands twice here; join the two, or use \"$or\"")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The whole is not an object.
    #[error("a pattern is an object of fields, and this is {found}")]
    NotAnObject {
        /// What stands there.
        found: &'static str,
    },
    /// A field has neither a list nor an object.
    #[error(
        "a field takes a list of values, or an object of fields inside it, and this is {found}; put it into a list"
    )]
    NotAList {
        /// What stands there.
        found: &'static str,
    },
    /// A list holds a list.
    #[error("a list of values holds no list; move the values into the outer one")]
    ListInList,
    /// `$or` is not a list of at least two objects.
    #[error(
        "\"$or\" takes a list of two or more objects of fields, and this is {found}; a single one needs no \"$or\""
    )]
    Branches {
        /// What stands there.
        found: &'static str,
    },
    /// A test is not an object with one operator.
    #[error(
        "a test is an object with one operator, and this has {count}; put each into an object of its own"
    )]
    OneOperator {
        /// How many keys it has.
        count: usize,
    },
    /// There is no such operator.
    #[error(
        "there is no operator {name:?}; there are prefix, suffix, equals-ignore-case, wildcard, anything-but, numeric, cidr and exists, and fields inside this one stand in an object, not in a list"
    )]
    UnknownOperator {
        /// The name as given.
        name: String,
    },
    /// An operator does not take what it was given.
    #[error("{operator} takes {takes}, and this is {found}")]
    Argument {
        /// The operator.
        operator: &'static str,
        /// What it takes.
        takes: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// Two stars of a wildcard follow each other.
    #[error(
        "the wildcard {wildcard:?} has two stars in a row; one stands for any number of characters"
    )]
    WildcardStars {
        /// The wildcard as given.
        wildcard: String,
    },
    /// A backslash in a wildcard escapes nothing.
    #[error(r"the wildcard {wildcard:?} has a backslash that escapes neither a star nor a backslash; write \\ for a backslash, and in JSON each of them twice")]
    WildcardEscape {
        /// The wildcard as given.
        wildcard: String,
    },
    /// A network is not one.
    #[error(
        "{network:?} is no network; write an address, a slash and the length of the prefix, as in 10.0.0.0/8 or 2001:db8::/32"
    )]
    Network {
        /// The text as given.
        network: String,
    },
    /// The pattern is well formed, but no event could match it.
    #[error("no event can match this: {0}")]
    NeverMatches(NeverMatches),
}

/// Why no event can match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NeverMatches {
    /// A list has no values.
    #[error("the list is empty; give it a value, or leave the field out to accept any")]
    EmptyList,
    /// An object has no fields.
    #[error("the object is empty; give it a field, or write [{{\"exists\": true}}] for any value")]
    EmptyObject,
    /// A numeric range has its bounds the wrong way around.
    #[error("no number lies in the range {range}; exchange the bounds or include them")]
    EmptyRange {
        /// The range.
        range: String,
    },
    /// Everything is excluded.
    #[error("every text has an empty {operator}; name what is to be excluded")]
    ExcludesEverything {
        /// The operator inside of `anything-but`.
        operator: &'static str,
    },
    /// Events have no such field.
    #[error("events have no field {name:?}; they have {known}")]
    UnknownField {
        /// The name as given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The field has no fields inside.
    #[error("{field} has no fields inside it; give it a list of values")]
    NoFieldsInside {
        /// The field.
        field: &'static str,
    },
    /// The field has no value of its own.
    #[error(
        "{field} has no value of its own; name a field inside it, as in {{\"{field}\": {{\"NAME\": [...]}}}}"
    )]
    NoValue {
        /// The field.
        field: &'static str,
    },
    /// The field never has a value of this kind.
    #[error("{field} is always {holds}, and {test} is for {wants}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// What its values are.
        holds: &'static str,
        /// The value or test.
        test: String,
        /// What that is for.
        wants: &'static str,
    },
    /// The field can never have this value.
    #[error("{field} can never be {test}: {why}")]
    ImpossibleValue {
        /// The field.
        field: &'static str,
        /// The value or test.
        test: String,
        /// Why not.
        why: String,
    },
    /// The field is never absent.
    #[error("every event has the field {field}; leave it out")]
    AlwaysThere {
        /// The field.
        field: &'static str,
    },
    /// What is asked of a field in one place excludes what is asked of it in another, whichever
    /// branches of `$or` are taken.
    #[error(
        "what is asked of {field} here and inside \"$or\" excludes each other; ask for one of them"
    )]
    Contradiction {
        /// The field, as a JSON pointer.
        field: String,
    },
}
