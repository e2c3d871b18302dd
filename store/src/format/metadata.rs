//! The metadata of a record: entries of one byte kind, two bytes length, and a value.

use headwater_core::{AppendId, CorrelationId, EventId, Headers, Key, NewEvent, Tag};

use super::{array, u16_at, u64_at};

const CORRELATION: u8 = 1;
const CAUSATION: u8 = 2;
const APPEND: u8 = 3;
const TAG: u8 = 4;
const KEY: u8 = 5;
const HEADER: u8 = 6;

/// What the first record of an idempotent append says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppendMark {
    pub(crate) id: AppendId,
    /// Digest of the content, to tell a repeat from a reuse.
    pub(crate) digest: u64,
}

/// Why metadata cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetadataFault {
    #[error("a metadata entry ends beyond the metadata")]
    Truncated,
    #[error("metadata kind {0} is unknown")]
    Kind(u8),
    #[error("the value of metadata kind {0} is malformed")]
    Value(u8),
    #[error("metadata kind {0} stands where it must not")]
    Order(u8),
}

/// Everything in the metadata of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) correlation_id: Option<CorrelationId>,
    pub(crate) causation_id: Option<EventId>,
    pub(crate) append: Option<AppendMark>,
    pub(crate) tags: Vec<Tag>,
    pub(crate) key: Option<Key>,
    pub(crate) headers: Headers,
}

fn entry(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend(u16::try_from(len).expect("limits bound the metadata").to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends the metadata of an event; `tags` are sorted and without repeats.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    event: &NewEvent,
    tags: &[&Tag],
    append: Option<AppendMark>,
) {
    if let Some(id) = event.correlation_id {
        entry(out, CORRELATION, &[id.as_bytes()]);
    }
    if let Some(id) = event.causation_id {
        entry(out, CAUSATION, &[id.as_bytes()]);
    }
    if let Some(mark) = append {
        entry(out, APPEND, &[mark.id.as_bytes(), &mark.digest.to_le_bytes()]);
    }
    for tag in tags {
        entry(out, TAG, &[tag.as_str().as_bytes()]);
    }
    if let Some(key) = &event.key {
        entry(out, KEY, &[key.as_str().as_bytes()]);
    }
    for (name, value) in event.headers.iter() {
        let name_len = u8::try_from(name.len()).expect("headers check their names");
        entry(out, HEADER, &[&[name_len], name.as_bytes(), value.as_bytes()]);
    }
}

/// Goes through the entries of a record's metadata.
fn entries(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8]), MetadataFault>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let split = bytes.split_at_checked(3).and_then(|(head, rest)| {
            let (value, rest) = rest.split_at_checked(u16_at(head, 1).into())?;
            bytes = rest;
            Some((head[0], value))
        });
        if split.is_none() {
            bytes = &[];
        }
        Some(split.ok_or(MetadataFault::Truncated))
    })
}

/// One entry, where it lies. Names are not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    Correlation(CorrelationId),
    Causation(EventId),
    Append(AppendMark),
    Tag(&'a str),
    Key(&'a str),
    Header(&'a str, &'a str),
}

impl<'a> Entry<'a> {
    fn of(kind: u8, value: &'a [u8]) -> Result<Self, MetadataFault> {
        let fault = || MetadataFault::Value(kind);
        let uuid = || <[u8; 16]>::try_from(value).map_err(|_| fault());
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| fault());
        Ok(match kind {
            CORRELATION => Self::Correlation(CorrelationId::from_bytes(uuid()?)),
            CAUSATION => Self::Causation(EventId::from_bytes(uuid()?)),
            APPEND => Self::Append(mark(value).ok_or_else(fault)?),
            TAG => Self::Tag(text(value)?),
            KEY => Self::Key(text(value)?),
            HEADER => {
                let (&len, rest) = value.split_first().ok_or_else(fault)?;
                let (name, value) = rest.split_at_checked(len.into()).ok_or_else(fault)?;
                Self::Header(text(name)?, text(value)?)
            }
            unknown => return Err(MetadataFault::Kind(unknown)),
        })
    }
}

/// Goes through all entries of a record's metadata without copying them.
pub(crate) fn each(bytes: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, MetadataFault>> {
    entries(bytes).map(|entry| entry.and_then(|(kind, value)| Entry::of(kind, value)))
}

/// Returns whether the metadata holds a tag.
pub(crate) fn has_tag(bytes: &[u8], tag: &str) -> bool {
    entries(bytes).any(|entry| entry.is_ok_and(|(k, v)| k == TAG && v == tag.as_bytes()))
}

/// Returns the flow that the metadata says the event belongs to, skipping what is malformed. The
/// ids stand before everything else.
pub(crate) fn flow(bytes: &[u8]) -> Option<CorrelationId> {
    let ids = entries(bytes).map_while(Result::ok).take_while(|(kind, _)| *kind <= CAUSATION);
    let mut ids = ids.filter_map(|(_, value)| <[u8; 16]>::try_from(value).ok());
    ids.next().map(CorrelationId::from_bytes)
}

/// Goes through the tags, skipping what is malformed.
pub(crate) fn tags(bytes: &[u8]) -> impl Iterator<Item = &str> {
    entries(bytes).filter_map(|entry| match entry {
        Ok((TAG, value)) => std::str::from_utf8(value).ok(),
        _ => None,
    })
}

/// Returns what the metadata says of the append, skipping what is malformed.
pub(crate) fn append_mark(bytes: &[u8]) -> Option<AppendMark> {
    entries(bytes).find_map(|entry| match entry {
        Ok((APPEND, value)) => mark(value),
        _ => None,
    })
}

fn mark(value: &[u8]) -> Option<AppendMark> {
    let id = || AppendId::from_bytes(array(value, 0));
    (value.len() == 24).then(|| AppendMark { id: id(), digest: u64_at(value, 16) })
}

/// Reads all metadata of a record.
pub(crate) fn decode(bytes: &[u8]) -> Result<Metadata, MetadataFault> {
    let mut metadata = Metadata::default();
    for entry in each(bytes) {
        let fault = MetadataFault::Value;
        match entry? {
            Entry::Correlation(id) => metadata.correlation_id = Some(id),
            Entry::Causation(id) => metadata.causation_id = Some(id),
            Entry::Append(mark) => metadata.append = Some(mark),
            Entry::Tag(tag) => metadata.tags.push(Tag::new(tag).map_err(|_| fault(TAG))?),
            Entry::Key(key) => metadata.key = Some(Key::new(key).map_err(|_| fault(KEY))?),
            Entry::Header(name, value) => {
                metadata.headers.insert(name, value).map_err(|_| fault(HEADER))?;
            }
        }
    }
    Ok(metadata)
}

/// What [`check`] met on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen<'a> {
    pub(crate) key: Option<&'a str>,
    pub(crate) append: Option<AppendMark>,
}

/// Checks everything that the format says of metadata, without copying any of it.
pub(crate) fn check(bytes: &[u8]) -> Result<Seen<'_>, MetadataFault> {
    let mut seen = Seen::default();
    let mut before: (u8, &[u8]) = (0, &[]);
    for entry in entries(bytes) {
        let (kind, value) = entry?;
        let fault = || MetadataFault::Value(kind);
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| fault());
        let follows = match kind {
            TAG => kind > before.0 || kind == before.0 && value > before.1,
            HEADER => kind >= before.0,
            _ => kind > before.0,
        };
        if !follows {
            return Err(MetadataFault::Order(kind));
        }
        match kind {
            CORRELATION | CAUSATION if value.len() == 16 => {}
            CORRELATION | CAUSATION => return Err(fault()),
            APPEND => seen.append = Some(mark(value).ok_or_else(fault)?),
            TAG => Tag::check(text(value)?).map_err(|_| fault())?,
            KEY => {
                let key = text(value)?;
                Key::check(key).map_err(|_| fault())?;
                seen.key = Some(key);
            }
            HEADER => {
                let (&len, rest) = value.split_first().ok_or_else(fault)?;
                let (name, value) = rest.split_at_checked(len.into()).ok_or_else(fault)?;
                let (name, _) = (text(name)?, text(value)?);
                if name.is_empty() {
                    return Err(fault());
                }
            }
            unknown => return Err(MetadataFault::Kind(unknown)),
        }
        before = (kind, value);
    }
    Ok(seen)
}
