//! What each operator means, with the examples of `EventBridge`'s documentation among them.

use serde_json::{Value, json};

use super::{EventPattern, event, event_of, pattern};
use crate::codec::{Bincode, Codec, CodecId};
use crate::event::NewEvent;
use crate::id::{CorrelationId, EventId};
use crate::name::{Key, Tag};
use crate::position::SchemaVersion;
use crate::time::Timestamp;

/// Checks a list for the field `x` against values of it that match, and some that do not.
fn check(list: &Value, matching: &[Value], others: &[Value]) {
    let pattern = pattern(&json!({"data": {"x": list}}));
    for value in matching {
        assert!(pattern.matches(&event(&json!({"x": value, "y": 1}))), "{list} and {value}");
    }
    for value in others {
        assert!(!pattern.matches(&event(&json!({"x": value, "y": 1}))), "{list} or {value}");
    }
}

#[test]
fn a_value_matches_itself_and_nothing_that_only_looks_like_it() {
    check(&json!(["a"]), &[json!("a")], &[json!("A"), json!("ab"), json!(""), json!(null)]);
    check(&json!([""]), &[json!("")], &[json!(null), json!([]), json!({})]);
    check(&json!([null]), &[json!(null)], &[json!(""), json!("null"), json!(0), json!(false)]);
    check(&json!([true]), &[json!(true)], &[json!("true"), json!(1), json!(false)]);
    check(&json!([5]), &[json!(5), json!(5.0)], &[json!("5"), json!(5.5), json!(-5)]);
    check(&json!([300]), &[json!(300.0), json!(3.0e2)], &[json!("300")]);
    check(&json!(["a", 5, null]), &[json!("a"), json!(5), json!(null)], &[json!("b")]);
}

#[test]
fn whole_numbers_of_64_bits_are_exact() {
    check(&json!([u64::MAX]), &[json!(u64::MAX)], &[json!(u64::MAX - 1)]);
    check(&json!([i64::MIN]), &[json!(i64::MIN)], &[json!(i64::MIN + 1)]);
    // An f64 cannot tell these from each other.
    check(
        &json!([9_007_199_254_740_993_u64]),
        &[json!(9_007_199_254_740_993_u64)],
        &[json!(9_007_199_254_740_992_u64)],
    );
}

#[test]
fn prefix_and_suffix_look_at_texts_alone() {
    check(&json!([{"prefix": "ab"}]), &[json!("ab"), json!("abc")], &[json!("a"), json!("ABC")]);
    check(&json!([{"prefix": ""}]), &[json!(""), json!("x")], &[json!(1), json!(null)]);
    check(
        &json!([{"suffix": ".png"}]),
        &[json!("a.png")],
        &[json!("a.PNG"), json!(".pn"), json!(1)],
    );
    check(&json!([{"prefix": {"equals-ignore-case": "ab"}}]), &[json!("ABc")], &[json!("a")]);
    check(&json!([{"suffix": {"equals-ignore-case": ".PnG"}}]), &[json!("a.pNg")], &[json!("png")]);
    check(&json!([{"equals-ignore-case": "Alice"}]), &[json!("aLICE")], &[json!("alice b")]);
}

#[test]
fn wildcards_match_the_whole_text() {
    check(
        &json!([{"wildcard": "dir/*.png"}]),
        &[json!("dir/.png"), json!("dir/a/b.png")],
        &[json!("dir.png"), json!("dir/a.jpg"), json!("a/dir/b.png")],
    );
    check(&json!([{"wildcard": r"\*\\*"}]), &[json!(r"*\"), json!(r"*\x")], &[json!(r"a\x")]);
}

#[test]
fn anything_but_wants_a_value_that_is_another() {
    check(
        &json!([{"anything-but": "a"}]),
        &[json!("b"), json!(""), json!(1), json!(null), json!(true)],
        &[json!("a"), json!([]), json!({})],
    );
    check(
        &json!([{"anything-but": 123}]),
        &[json!(124), json!("123")],
        &[json!(123), json!(123.0)],
    );
    check(&json!([{"anything-but": ["a", "b"]}]), &[json!("c")], &[json!("a"), json!("b")]);
    check(&json!([{"anything-but": [100, 200]}]), &[json!(300)], &[json!(100), json!(2e2)]);
    check(
        &json!([{"anything-but": [null, true, 1, "a"]}]),
        &[json!(false)],
        &[json!(null), json!(1)],
    );
    check(
        &json!([{"anything-but": {"prefix": "in"}}]),
        &[json!("out"), json!(1)],
        &[json!("inside")],
    );
    check(&json!([{"anything-but": {"prefix": ["in", "on"]}}]), &[json!("x")], &[json!("once")]);
    check(&json!([{"anything-but": {"suffix": ".png"}}]), &[json!("a")], &[json!("a.png")]);
    check(&json!([{"anything-but": {"equals-ignore-case": "a"}}]), &[json!("b")], &[json!("A")]);
    check(
        &json!([{"anything-but": {"wildcard": ["*/lib/*", "*/bin/*"]}}]),
        &[json!("/usr/x")],
        &[json!("/usr/lib/x"), json!("/usr/bin/x")],
    );
    // It is not there, so it is not another.
    assert!(
        !pattern(&json!({"data": {"x": [{"anything-but": "a"}]}}))
            .matches(&event(&json!({"y": 1})))
    );
}

#[test]
fn ranges_are_of_numbers_and_exact_at_their_bounds() {
    check(&json!([{"numeric": ["=", 301.8]}]), &[json!(3.018e2)], &[json!("301.8"), json!(301)]);
    check(
        &json!([{"numeric": [">", 0, "<=", 5]}]),
        &[json!(0.000_001), json!(5), json!(5.0)],
        &[json!(0), json!(-0.0), json!(5.000_001), json!("1"), json!(null)],
    );
    check(&json!([{"numeric": ["<", 10]}]), &[json!(-1e300), json!(9)], &[json!(10)]);
    check(&json!([{"numeric": ["<=", 10, ">=", 10]}]), &[json!(10)], &[json!(9.5), json!(10.5)]);
    check(
        &json!([{"numeric": [">", 9_007_199_254_740_992_u64]}]),
        &[json!(9_007_199_254_740_993_u64)],
        &[json!(9_007_199_254_740_992_u64)],
    );
}

#[test]
fn networks_hold_addresses_of_their_own_kind() {
    check(
        &json!([{"cidr": "10.0.0.0/24"}]),
        &[json!("10.0.0.0"), json!("10.0.0.255")],
        &[json!("10.0.1.0"), json!("10.0.0.0/24"), json!("::ffff:10.0.0.1"), json!("x"), json!(1)],
    );
    check(&json!([{"cidr": "2001:db8::/32"}]), &[json!("2001:DB8::1")], &[json!("2001:db9::")]);
    check(&json!([{"cidr": "0.0.0.0/0"}]), &[json!("255.255.255.255")], &[json!("::")]);
    // Bits behind the prefix do not matter, and are not kept.
    assert_eq!(
        pattern(&json!({"data": {"x": [{"cidr": "10.1.2.3/8"}]}})),
        pattern(&json!({"data": {"x": [{"cidr": "10.0.0.0/8"}]}})),
    );
}

#[test]
fn exists_asks_for_a_value_and_an_object_or_an_empty_list_is_none() {
    let values = [json!(1), json!(""), json!(null), json!(false), json!([1]), json!([{}, 1])];
    let none = [json!([]), json!({}), json!({"y": 1}), json!([{"y": 1}])];
    check(&json!([{"exists": true}]), &values, &none);
    check(&json!([{"exists": false}]), &none, &values);
    let absent = pattern(&json!({"data": {"x": [{"exists": false}]}}));
    for data in [json!({}), json!({"y": 1}), json!([]), json!(5), json!(null)] {
        assert!(absent.matches(&event(&data)), "{data}");
    }
    // Absence or a value.
    let optional = pattern(&json!({"data": {"x": [{"exists": false}, "a"]}}));
    assert!(optional.matches(&event(&json!({}))));
    assert!(optional.matches(&event(&json!({"x": "a"}))));
    assert!(!optional.matches(&event(&json!({"x": "b"}))));
}

#[test]
fn of_a_list_one_element_is_enough_however_deep_it_lies() {
    check(
        &json!(["a"]),
        &[json!(["b", "a"]), json!([["b"], [["a"]]]), json!([{"a": 1}, "a"])],
        &[json!(["b"]), json!([]), json!([{"a": "a"}])],
    );
    check(&json!([{"anything-but": "a"}]), &[json!(["a", "b"])], &[json!(["a", "a"]), json!([])]);
    check(&json!([{"numeric": [">", 5]}]), &[json!([1, 9])], &[json!([1, 2])]);
}

#[test]
fn fields_of_objects_in_a_list_match_in_one_object() {
    let staff = json!({"staff": [[
        {"first": "Anna", "last": "Smith", "since": 2020},
        {"first": "John", "last": "Doe"},
    ], [{"first": "Peter", "last": "Jones", "since": null}]]});
    let matches = |json: Value| pattern(&json!({"data": {"staff": json}})).matches(&event(&staff));
    assert!(matches(json!({"first": ["Anna"]})));
    assert!(matches(json!({"first": ["Anna"], "last": ["Smith"]})));
    assert!(!matches(json!({"first": ["Anna"], "last": ["Jones"]})));
    // Absent from the object in which the others match.
    assert!(matches(json!({"first": ["John"], "since": [{"exists": false}]})));
    assert!(!matches(json!({"first": ["Anna"], "since": [{"exists": false}]})));
    // Where nothing else is asked for, from every object.
    assert!(!matches(json!({"since": [{"exists": false}]})));
    assert!(matches(json!({"until": [{"exists": false}]})));
    assert!(matches(json!({"until": {"year": [{"exists": false}]}})));
    // Branches are of the same object as what stands beside them.
    assert!(matches(json!({"first": ["Anna"], "$or": [{"last": ["Jones"]}, {"since": [2020]}]})));
    assert!(!matches(json!({"first": ["John"], "$or": [{"last": ["Jones"]}, {"since": [2020]}]})));
}

#[test]
fn what_a_branch_asks_of_an_object_joins_what_stands_beside_it() {
    let asked = pattern(&json!({
        "data": {"staff": {"first": ["Anna"]}},
        "$or": [{"data": {"staff": {"last": ["Jones"]}}}, {"tags": ["vip"]}],
    }));
    let staff = |last: &str| json!({"staff": [{"first": "Anna", "last": last}, {"last": "Jones"}]});
    assert!(asked.matches(&event(&staff("Jones"))));
    assert!(!asked.matches(&event(&staff("Smith"))));
}

#[test]
fn or_stands_beside_fields_and_nests() {
    let asked = pattern(&json!({
        "type": ["order.placed"],
        "$or": [
            {"data": {"a": [1]}},
            {"data": {"b": [2], "$or": [{"c": [3]}, {"d": [4]}]}},
        ],
    }));
    for (data, expected) in [
        (json!({"a": 1}), true),
        (json!({"b": 2}), false),
        (json!({"b": 2, "c": 3}), true),
        (json!({"b": 2, "d": 4}), true),
        (json!({"c": 3, "d": 4}), false),
    ] {
        assert_eq!(asked.matches(&event(&data)), expected, "{data}");
    }
    // A field that is asked for twice must match both times.
    let both = pattern(&json!({"tags": ["a"], "$or": [{"tags": ["b"]}, {"tags": ["c"]}]}));
    let mut event = event(&json!(null));
    event.tags = vec![Tag::new("a").unwrap()];
    assert!(!both.matches(&event));
    event.tags.push(Tag::new("c").unwrap());
    assert!(both.matches(&event));
}

#[test]
fn a_payload_that_is_a_value_is_matched_as_one() {
    let asked = pattern(&json!({"data": [{"numeric": [">", 1]}, "x"]}));
    assert!(asked.matches(&event(&json!(2))));
    assert!(asked.matches(&event(&json!(["y", "x"]))));
    assert!(!asked.matches(&event(&json!({"x": "x"}))));
    let inside = pattern(&json!({"data": {"x": [1]}}));
    assert!(inside.matches(&event(&json!([{"x": 2}, {"x": 1}]))));
    assert!(!inside.matches(&event(&json!(1))));
}

#[test]
fn a_payload_that_is_not_json_has_nothing_in_it() {
    let exact = pattern(&json!({"data": {"x": ["a"]}}));
    let other = pattern(&json!({"data": {"x": [{"anything-but": "b"}]}}));
    let absent = pattern(&json!({"data": {"x": [{"exists": false}]}}));
    let whole = pattern(&json!({"data": [{"exists": false}]}));
    let json = r#"{"x":"a"}"#;
    assert!(exact.matches(&event_of(CodecId::JSON, json)));
    let deep = format!(r#"{{"x":["a",{}1{}]}}"#, "[".repeat(500), "]".repeat(500));
    for event in [
        event_of(CodecId::RAW, json),
        event_of(CodecId::new(200), json),
        event_of(CodecId::JSON, r#"{"x":"a""#),
        event_of(CodecId::JSON, r#"{"x":"a"} more"#),
        event_of(CodecId::JSON, ""),
        event_of(CodecId::JSON, &deep),
    ] {
        assert!(!exact.matches(&event) && !other.matches(&event), "{event:?}");
        assert!(absent.matches(&event) && whole.matches(&event), "{event:?}");
    }
    // Where nothing is asked for, depth does not matter.
    let deep = format!(r#"{{"x":"a","y":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    assert!(exact.matches(&event_of(CodecId::JSON, &deep)));
}

#[test]
fn a_payload_is_matched_however_it_is_written() {
    let asked = pattern(&json!({"data": {"name": ["Käse/\"Brot\""], "n": [1]}}));
    for payload in [
        r#"{"name":"Käse/\"Brot\"","n":1}"#,
        r#" { "n" : 1.0 , "name" : "K\u00e4se\/\u0022Brot\"" } "#,
        r#"{"\u006eame":"Käse/\"Brot\"","n":1e0}"#,
        // A key that stands twice is like a list.
        r#"{"name":"x","name":"Käse/\"Brot\"","n":1,"n":2}"#,
    ] {
        assert!(asked.matches(&event_of(CodecId::JSON, payload)), "{payload}");
    }
    let plain = pattern(&json!({"data": {"name": ["plain"]}}));
    assert!(plain.matches(&event_of(CodecId::JSON, r#"{"name":"pl\u0061in"}"#)));
    assert!(!plain.matches(&event_of(CodecId::JSON, r#"{"plain":"name","other":"plain"}"#)));
}

#[test]
fn each_text_of_a_list_is_enough_and_every_field_is_needed() {
    let asked = pattern(&json!({"data": {
        "x": ["one", "two", {"prefix": "thr"}, {"suffix": "our"}],
        "y": [{"wildcard": "a*long-part*"}, "b"],
        "z": ["optional", {"exists": false}],
    }}));
    for x in ["one", "two", "three", "four"] {
        for y in ["a long-part", "b"] {
            assert!(asked.matches(&event(&json!({"x": x, "y": y}))), "{x} {y}");
            assert!(!asked.matches(&event(&json!({"x": x, "y": "c", "w": y}))), "{x} {y}");
            assert!(!asked.matches(&event(&json!({"x": x, "y": y, "z": 1}))), "{x} {y}");
        }
        assert!(!asked.matches(&event(&json!({"x": [], "w": x, "y": "b"}))), "{x}");
    }
}

#[test]
fn names_with_dots_are_one_step() {
    let one = pattern(&json!({"data": {"a.b": [1]}}));
    let two = pattern(&json!({"data": {"a": {"b": [1]}}}));
    let (flat, nested) = (event(&json!({"a.b": 1})), event(&json!({"a": {"b": 1}})));
    assert!(one.matches(&flat) && !one.matches(&nested));
    assert!(two.matches(&nested) && !two.matches(&flat));
}

fn full_event() -> NewEvent {
    let mut event = event(&json!({}));
    event.id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    event.schema_version = SchemaVersion::new(3);
    event.event_time = Timestamp::from_nanos(1_764_144_900_500_000_000);
    event.correlation_id =
        Some(CorrelationId::from_uuid("9f0c2ab1-7d5e-4c4b-8a6f-0d6c1f7f3a10".parse().unwrap()));
    event.causation_id = Some(event.id);
    event.tags = vec![Tag::new("customer:ann").unwrap(), Tag::new("vip").unwrap()];
    event.key = Some(Key::new("ann").unwrap());
    event.headers.insert("traceparent", "00-abc").unwrap();
    event.headers.insert("route", "a").unwrap();
    event.headers.insert("route", "b").unwrap();
    event
}

#[test]
fn metadata_is_matched_under_the_names_of_the_export() {
    let event = full_event();
    let matching = [
        json!({"id": ["01890a5d-ac96-774b-bcce-b302099a8057"]}),
        json!({"type": ["order.placed"], "stream": ["order-17"], "category": ["order"]}),
        json!({"stream": [{"suffix": "-17"}]}),
        json!({"schemaversion": [3], "tags": ["vip", "x"]}),
        json!({"schemaversion": [{"numeric": [">=", 2]}]}),
        json!({"time": [{"prefix": "2025-11-26"}]}),
        json!({"time": ["2025-11-26T08:15:00.5Z"]}),
        json!({"correlationid": ["9f0c2ab1-7d5e-4c4b-8a6f-0d6c1f7f3a10"]}),
        json!({"causationid": [{"exists": true}], "partitionkey": ["ann"]}),
        json!({"tags": [{"prefix": "customer:"}]}),
        json!({"tags": [{"anything-but": "vip"}]}),
        json!({"headers": {"route": ["b"], "traceparent": [{"prefix": "00-"}]}}),
        json!({"headers": {"other": [{"exists": false}], "$or": [{"x": ["y"]}, {"route": ["a"]}]}}),
    ];
    for json in matching {
        assert!(pattern(&json).matches(&event), "{json}");
    }
    let others = [
        json!({"id": [{"prefix": "02"}]}),
        json!({"type": ["order.placed"], "category": ["cart"]}),
        json!({"schemaversion": [1, 2]}),
        json!({"time": [{"prefix": "2025-11-27"}]}),
        json!({"partitionkey": [{"exists": false}]}),
        json!({"tags": ["customer"]}),
        json!({"tags": [{"exists": false}]}),
        json!({"headers": {"route": ["c"]}}),
        json!({"headers": {"traceparent": [{"exists": false}]}}),
    ];
    for json in others {
        assert!(!pattern(&json).matches(&event), "{json}");
    }
    let mut bare = event;
    bare.tags.clear();
    bare.key = None;
    bare.correlation_id = None;
    bare.causation_id = None::<EventId>;
    let absent = json!([{"exists": false}]);
    for field in ["tags", "partitionkey", "correlationid", "causationid"] {
        assert!(pattern(&json!({field: absent})).matches(&bare), "{field}");
        assert!(!pattern(&json!({field: [{"exists": true}]})).matches(&bare), "{field}");
    }
}

#[test]
fn a_long_list_is_matched_like_a_short_one() {
    let ids: Vec<_> = (0..1_000).map(|n| format!("id-{n}")).collect();
    let asked = pattern(&json!({"data": {"id": ids}}));
    assert!(asked.matches(&event(&json!({"id": "id-0"}))));
    assert!(asked.matches(&event(&json!({"id": "id-999"}))));
    assert!(!asked.matches(&event(&json!({"id": "id-1000"}))));
}

#[test]
fn patterns_are_equal_if_they_are_written_differently() {
    let a: EventPattern =
        r#"{"type":["b","a"],"data":{"x":[1.0,{"numeric":["<",9,">",1]}]}}"#.parse().unwrap();
    let b: EventPattern =
        "{\n \"data\": {\"x\": [{\"numeric\": [\">\", 1e0, \"<\", 9]}, 1]}, \"type\": [\"a\", \"b\", \"a\"]}"
            .parse()
            .unwrap();
    assert_eq!(a, b);
    assert_eq!(a.as_str(), r#"{"data":{"x":[1,{"numeric":[">",1,"<",9]}]},"type":["a","b"]}"#);
    assert_ne!(a, pattern(&json!({"type": ["a", "b"]})));
    assert_eq!(format!("{a:?}"), format!("EventPattern({a})"));
}

#[test]
fn a_pattern_is_stored_as_json_and_as_text_in_encodings_without_names() {
    let asked = pattern(&json!({"type": ["a"], "data": {"x": [{"anything-but": [1, 2]}]}}));
    let json = serde_json::to_value(&asked).unwrap();
    assert_eq!(json, json!({"type": ["a"], "data": {"x": [{"anything-but": [1, 2]}]}}));
    assert_eq!(serde_json::from_value::<EventPattern>(json).unwrap(), asked);
    let bytes = Bincode::encode(&asked).unwrap();
    assert_eq!(Bincode::decode::<EventPattern>(&bytes).unwrap(), asked);
    let error = serde_json::from_str::<EventPattern>(r#"{"type":["a"],"type":["b"]}"#).unwrap_err();
    assert!(error.to_string().contains("at /type: the key \"type\" stands twice"), "{error}");
}

#[test]
fn the_query_is_as_narrow_as_the_index_can_be() {
    let query = |json: Value| serde_json::to_value(pattern(&json).query()).unwrap();
    assert_eq!(query(json!({"data": {"x": [1]}})), json!([]));
    assert_eq!(query(json!({"type": [{"prefix": "order."}]})), json!([]));
    assert_eq!(
        query(
            json!({"type": ["b", "a"], "category": ["order"], "tags": ["vip"], "data": {"x": [1]}})
        ),
        json!([{"types": ["a", "b"], "categories": ["order"], "tags": ["vip"]}])
    );
    assert_eq!(
        query(json!({"tags": ["vip", "eu"], "type": ["a"]})),
        json!([{"types": ["a"], "tags": ["eu"]}, {"types": ["a"], "tags": ["vip"]}])
    );
    assert_eq!(
        query(json!({"type": ["a"], "$or": [{"stream": ["order-1"]}, {"tags": ["vip"]}]})),
        json!([{"streams": ["order-1"], "types": ["a"]}, {"types": ["a"], "tags": ["vip"]}])
    );
    assert_eq!(
        query(json!({"tags": ["a"], "$or": [{"tags": ["b"]}, {"tags": ["c"]}]})),
        json!([{"tags": ["a", "b"]}, {"tags": ["a", "c"]}])
    );
    let flow = "9f0c2ab1-7d5e-4c4b-8a6f-0d6c1f7f3a10";
    assert_eq!(
        query(json!({"correlationid": [flow], "type": ["a"]})),
        json!([{"types": ["a"], "flows": [flow]}])
    );
    assert_eq!(query(json!({"correlationid": [{"prefix": "9f0c"}]})), json!([]));
    // The beginning of a stream's name tells its category.
    assert_eq!(
        query(json!({"stream": [{"prefix": "order-2026"}, {"wildcard": "cart-*-x"}]})),
        json!([{"categories": ["cart", "order"]}])
    );
    assert_eq!(query(json!({"stream": [{"prefix": "order"}]})), json!([]));
    // One branch without an index leaves nothing to narrow by.
    assert_eq!(query(json!({"$or": [{"tags": ["a"]}, {"data": {"x": [1]}}]})), json!([]));
    // What several places ask of the type, and what no event can have, is out.
    assert_eq!(
        query(json!({"type": ["a", "b"], "$or": [{"type": ["b", "c"]}, {"type": ["d"]}]})),
        json!([{"types": ["b"]}])
    );
    let tags: Vec<_> = (0..200).map(|n| format!("t{n}")).collect();
    assert_eq!(query(json!({"type": ["a"], "tags": tags})), json!([{"types": ["a"]}]));
}
