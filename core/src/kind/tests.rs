use super::*;
use crate::codec::{Bincode, CodecId, Json};
use crate::event::RecordedEvent;
use crate::log::{EventLog, Read};
use crate::memory::MemoryLog;
use crate::position::Position;
use crate::query::Query;
use pollster::block_on;
use serde::Deserialize;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Opened {
    seats: u32,
}

impl Event for Opened {
    type Codec = Json;
    const KINDS: &'static [EventKind] = &[EventKind::new("course.opened", 2)];

    fn kind(&self) -> EventKind {
        Self::KINDS[0]
    }

    fn tags(&self) -> Result<Vec<Tag>, InvalidName> {
        Ok(vec![Tag::new(format!("seats:{}", self.seats))?])
    }
}

/// The event as a log gives it back, changed on the way in.
fn recorded(change: impl FnOnce(&mut NewEvent)) -> RecordedEvent {
    let log = MemoryLog::new();
    let stream = StreamId::new("course-1").unwrap();
    let mut event = encode_event(stream, &Opened { seats: 30 }).unwrap();
    change(&mut event);
    block_on(log.append(crate::append::Append::new([event]))).unwrap();
    let page = block_on(log.read(Read::forward(Query::all(), Position::START))).unwrap();
    page.events.into_iter().next().unwrap()
}

#[test]
fn a_typed_event_survives_with_name_version_codec_and_tags() {
    let event = recorded(|_| {});
    assert_eq!(event.event_type.as_str(), "course.opened");
    assert_eq!((event.schema_version, event.codec), (SchemaVersion::new(2), CodecId::JSON));
    assert_eq!(event.tags, [Tag::new("seats:30").unwrap()]);
    assert_eq!(decode_event::<Opened>(&event).unwrap(), Opened { seats: 30 });
}

#[test]
fn an_event_of_another_built_in_codec_is_decoded_with_that() {
    let payload = Bincode::encode(&Opened { seats: 7 }).unwrap();
    let event = recorded(|event| {
        event.codec = Bincode::ID;
        event.payload = payload;
    });
    assert_eq!(decode_event::<Opened>(&event).unwrap(), Opened { seats: 7 });
}

#[test]
fn unknown_types_versions_and_codecs_are_told_apart_and_named() {
    let event = recorded(|event| event.event_type = EventType::new("course.shut").unwrap());
    let error = decode_event::<Opened>(&event).unwrap_err();
    assert!(matches!(error, DecodeError::UnknownType { .. }), "{error}");
    assert!(error.to_string().contains("course.opened"), "{error}");

    let event = recorded(|event| event.schema_version = SchemaVersion::new(3));
    let error = decode_event::<Opened>(&event).unwrap_err();
    assert!(
        matches!(error, DecodeError::UnknownSchemaVersion { found, kind, .. }
            if (found.get(), kind.version.get()) == (3, 2)),
        "{error}"
    );

    let event = recorded(|event| event.codec = CodecId::new(200));
    let error = decode_event::<Opened>(&event).unwrap_err();
    let DecodeError::Codec { source: CodecError::Unknown { found }, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(found, CodecId::new(200));
}
