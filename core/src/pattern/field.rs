//! The fields of an event that a pattern may name, and what they can be.

use std::str::FromStr;

use uuid::Uuid;

use super::error::NeverMatches;
use super::matcher::{AnyOf, Matcher};
use super::scalar::{Number, Scalar};
use crate::codec::CodecId;
use crate::event::{NewEvent, RecordedEvent};
use crate::id::{CorrelationId, EventId};
use crate::limits;
use crate::metadata::Headers;
use crate::name::{Category, EventType, Key, StreamId, Tag, category_of};
use crate::position::SchemaVersion;
use crate::query::Selectable;
use crate::time::Timestamp;

/// What a pattern looks at in an event, beyond what a query does. Engines may implement it for
/// their own borrowed events.
pub trait Matchable: Selectable {
    /// Returns the identity of the event.
    fn id(&self) -> EventId;
    /// Returns the shape of the payload.
    fn schema_version(&self) -> SchemaVersion;
    /// Returns when it happened by the producer's clock.
    fn event_time(&self) -> Timestamp;
    /// Returns the flow it belongs to.
    fn correlation_id(&self) -> Option<CorrelationId>;
    /// Returns the event that caused it.
    fn causation_id(&self) -> Option<EventId>;
    /// Returns the ordering key, if the producer gave one.
    fn key(&self) -> Option<&str>;
    /// Calls `visit` with each tag.
    fn visit_tags(&self, visit: &mut dyn FnMut(&str));
    /// Calls `visit` with name and value of each header.
    fn visit_headers(&self, visit: &mut dyn FnMut(&str, &str));
    /// Returns how the payload is encoded.
    fn codec(&self) -> CodecId;
    /// Returns the encoded payload.
    fn payload(&self) -> &[u8];
}

macro_rules! matchable {
    ($event:ty) => {
        impl Matchable for $event {
            fn id(&self) -> EventId {
                self.id
            }

            fn schema_version(&self) -> SchemaVersion {
                self.schema_version
            }

            fn event_time(&self) -> Timestamp {
                self.event_time
            }

            fn correlation_id(&self) -> Option<CorrelationId> {
                self.correlation_id
            }

            fn causation_id(&self) -> Option<EventId> {
                self.causation_id
            }

            fn key(&self) -> Option<&str> {
                self.key.as_ref().map(Key::as_str)
            }

            fn visit_tags(&self, visit: &mut dyn FnMut(&str)) {
                self.tags.iter().for_each(|tag| visit(tag.as_str()));
            }

            fn visit_headers(&self, visit: &mut dyn FnMut(&str, &str)) {
                Headers::iter(&self.headers).for_each(|(name, value)| visit(name, value));
            }

            fn codec(&self) -> CodecId {
                self.codec
            }

            fn payload(&self) -> &[u8] {
                &self.payload
            }
        }
    };
}

matchable!(NewEvent);
matchable!(RecordedEvent);

/// The field that holds the payload.
pub(super) const DATA: &str = "data";
/// The field whose fields are the headers.
pub(super) const HEADERS: &str = "headers";

/// A field of the metadata that has values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Id,
    Type,
    Stream,
    Category,
    Time,
    SchemaVersion,
    CorrelationId,
    CausationId,
    PartitionKey,
    Tags,
    Header(Box<str>),
}

const FIELDS: [Field; 10] = [
    Field::Id,
    Field::Type,
    Field::Stream,
    Field::Category,
    Field::Time,
    Field::SchemaVersion,
    Field::CorrelationId,
    Field::CausationId,
    Field::PartitionKey,
    Field::Tags,
];

impl Field {
    /// Finds a field by its name; [`HEADERS`] and [`DATA`] are not among them.
    pub(super) fn named(name: &str) -> Option<Self> {
        FIELDS.into_iter().find(|field| field.name() == name)
    }

    /// Refuses a name that no field has.
    pub(super) fn unknown(name: &str) -> NeverMatches {
        let mut known: Vec<_> = FIELDS.iter().map(Self::name).collect();
        known.extend([HEADERS, DATA]);
        NeverMatches::UnknownField { name: name.to_owned(), known: known.join(", ") }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Type => "type",
            Self::Stream => "stream",
            Self::Category => "category",
            Self::Time => "time",
            Self::SchemaVersion => "schemaversion",
            Self::CorrelationId => "correlationid",
            Self::CausationId => "causationid",
            Self::PartitionKey => "partitionkey",
            Self::Tags => "tags",
            Self::Header(_) => "a header",
        }
    }

    /// Returns whether every event has the field.
    fn is_always_there(&self) -> bool {
        !matches!(
            self,
            Self::CorrelationId
                | Self::CausationId
                | Self::PartitionKey
                | Self::Tags
                | Self::Header(_)
        )
    }

    /// Returns whether an event has one value of it at most.
    pub(super) fn is_single(&self) -> bool {
        !matches!(self, Self::Tags | Self::Header(_))
    }

    /// Returns why no value that the field can have matches, if so.
    pub(super) fn never(&self, matcher: &Matcher) -> Option<NeverMatches> {
        let field = self.name();
        let written = || serde_json::to_string(matcher).unwrap_or_default();
        let impossible = |why| NeverMatches::ImpossibleValue { field, test: written(), why };
        let wrong = |holds, wants| NeverMatches::WrongType { field, holds, test: written(), wants };
        let is_number = matches!(self, Self::SchemaVersion);
        match matcher {
            Matcher::Exists(false) if self.is_always_there() => {
                Some(NeverMatches::AlwaysThere { field })
            }
            Matcher::Exists(_) | Matcher::AnythingBut(_) => None,
            Matcher::Exact(Scalar::Number(number)) if is_number => {
                let fits = (0..=u16::MAX).any(|v| Number::from(u64::from(v)) == *number);
                (!fits).then(|| impossible(VERSIONS.to_owned()))
            }
            Matcher::Numeric(range) if is_number => {
                let fits = (0..=u16::MAX).any(|v| range.holds(u64::from(v).into()));
                (!fits).then(|| impossible(VERSIONS.to_owned()))
            }
            Matcher::Exact(Scalar::Text(text)) if !is_number => {
                self.check(text).err().map(impossible)
            }
            Matcher::Exact(value) => {
                let holds = if is_number { "a number" } else { "a text" };
                Some(wrong(holds, value.kind()))
            }
            Matcher::Numeric(_) => Some(wrong("a text", "a number")),
            Matcher::Text(_) | Matcher::Cidr(_) => is_number.then(|| wrong("a number", "a text")),
        }
    }

    /// Says why the field can never be this text.
    fn check(&self, text: &str) -> Result<(), String> {
        let named = |checked: Result<(), crate::name::InvalidName>| {
            checked.map_err(|invalid| invalid.fault.to_string())
        };
        match self {
            Self::Type => named(EventType::check(text)),
            Self::Stream => named(StreamId::check(text)),
            Self::Category => named(Category::check(text)),
            Self::PartitionKey => named(Key::check(text)),
            Self::Tags => named(Tag::check(text)),
            Self::Id | Self::CorrelationId | Self::CausationId => {
                let same = Uuid::parse_str(text).is_ok_and(|uuid| uuid.to_string() == *text);
                same.then_some(()).ok_or_else(|| UUIDS.to_owned())
            }
            Self::Time => {
                let same = jiff::Timestamp::from_str(text).is_ok_and(|time| {
                    let nanos = i64::try_from(time.as_nanosecond()).map(Timestamp::from_nanos);
                    nanos.is_ok_and(|nanos| nanos.to_string() == *text)
                });
                same.then_some(()).ok_or_else(|| TIMES.to_owned())
            }
            Self::SchemaVersion | Self::Header(_) => Ok(()),
        }
    }

    /// Returns whether the event's field matches.
    pub(super) fn holds<E: Matchable + ?Sized>(&self, asked: &AnyOf, event: &E) -> bool {
        let optional = |uuid: Option<&Uuid>| match uuid {
            Some(uuid) => holds_uuid(asked, uuid),
            None => asked.holds_absent(),
        };
        match self {
            Self::Id => holds_uuid(asked, event.id().as_uuid()),
            Self::Type => asked.holds_text(event.event_type()),
            Self::Stream => asked.holds_text(event.stream()),
            Self::Category => asked.holds_text(category_of(event.stream())),
            Self::Time => asked.holds_text(&event.event_time().to_string()),
            Self::SchemaVersion => {
                let version = u64::from(event.schema_version().get());
                asked.holds(Scalar::Number(version.into()))
            }
            Self::CorrelationId => {
                optional(event.correlation_id().as_ref().map(CorrelationId::as_uuid))
            }
            Self::CausationId => optional(event.causation_id().as_ref().map(EventId::as_uuid)),
            Self::PartitionKey => {
                event.key().map_or(asked.holds_absent(), |key| asked.holds_text(key))
            }
            Self::Tags => {
                let (mut found, mut holds) = (false, false);
                event.visit_tags(&mut |tag| {
                    found = true;
                    holds = holds || asked.holds_text(tag);
                });
                holds || (!found && asked.holds_absent())
            }
            Self::Header(wanted) => {
                let (mut found, mut holds) = (false, false);
                event.visit_headers(&mut |name, value| {
                    if *name == **wanted {
                        found = true;
                        holds = holds || asked.holds_text(value);
                    }
                });
                holds || (!found && asked.holds_absent())
            }
        }
    }
}

const VERSIONS: &str = "schema versions are whole numbers from 0 to 65535";
const UUIDS: &str = "write the UUID as 8-4-4-4-12 hexadecimal digits in lower case";
const TIMES: &str = "write the time in UTC, as in 2026-11-26T08:15:00.5Z, with no more digits than it needs; for a day or an hour use a prefix";

fn holds_uuid(asked: &AnyOf, uuid: &Uuid) -> bool {
    asked.holds_text(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

/// Refuses a name that no header can have.
pub(super) fn check_header(name: &str) -> Result<(), NeverMatches> {
    if (1..=limits::HEADER_NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(NeverMatches::ImpossibleValue {
        field: "the name of a header",
        test: format!("{name:?}"),
        why: format!("it has 1 to {} bytes", limits::HEADER_NAME_BYTES_MAX),
    })
}
