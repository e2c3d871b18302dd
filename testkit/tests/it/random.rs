//! Random appends.

use headwater_core::{Append, AppendId, CodecId, Headers, Key, NewEvent, SchemaVersion, Timestamp};
use proptest::prelude::*;

use crate::common::*;

fn events() -> impl Strategy<Value = NewEvent> {
    let names = ("[a-c]-[0-9]{1,2}", "[a-zä][a-z.]{0,8}", proptest::option::of("[k-m]-?[0-9]"));
    let numbers = (any::<u16>(), any::<i64>(), any::<u8>(), any::<[bool; 2]>());
    let tags = proptest::collection::vec("[a-zé:]{1,5}", 0..6);
    let headers = proptest::collection::vec(("[a-z]{1,9}", ".{0,9}"), 0..4);
    let payload = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        (0..3000_usize).prop_map(|length| vec![0; length]),
    ];
    (names, numbers, tags, headers, payload).prop_map(|(names, numbers, tags, headers, payload)| {
        let ((stream, event_type, key), (schema, time, codec, [correlated, caused])) =
            (names, numbers);
        let mut new = event(&stream, &event_type, payload);
        new.schema_version = SchemaVersion::new(schema);
        new.event_time = Timestamp::from_nanos(time);
        new.codec = CodecId::new(codec);
        new.correlation_id = correlated.then(|| new.id.into());
        new.causation_id = caused.then_some(new.id);
        new.tags = tags.iter().map(|name| tag(name)).collect();
        new.key = key.map(|key| Key::new(key).unwrap());
        new.headers = Headers::new();
        for (name, value) in headers {
            new.headers.insert(name, value).unwrap();
        }
        new
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn random_appends_decode(
        appends in proptest::collection::vec(
            (proptest::collection::vec(events(), 1..6), any::<bool>(), 0..10_u8),
            1..40,
        ),
    ) {
        let dir = temp();
        let mut store = open(&dir, small());
        for (events, with_id, reopen) in appends {
            let mut append = Append::new(events);
            if with_id {
                append = append.with_id(AppendId::generate());
            }
            store.append_blocking(append).unwrap();
            if reopen == 0 {
                agree(&store);
                store.close().unwrap();
                store = open(&dir, small());
            }
        }
        agree(&store);
    }
}
