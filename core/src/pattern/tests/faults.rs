//! What is refused, with its place.

use serde_json::{Value, json};

use super::*;

fn refused(text: &str) -> InvalidPattern {
    EventPattern::parse(text).expect_err("a fault")
}

fn fault(json: &Value) -> (String, PatternFault) {
    let refused = refused(&json.to_string());
    assert!(refused.place.is_some(), "{refused}");
    (refused.pointer, refused.fault)
}

fn never(json: &Value) -> (String, NeverMatches) {
    match fault(json) {
        (pointer, PatternFault::NeverMatches(why)) => (pointer, why),
        (pointer, other) => panic!("{pointer}: {other}"),
    }
}

#[test]
fn the_place_of_a_fault_is_told_as_pointer_line_and_column() {
    let error = refused(
        "{\n  \"type\": [\"a\"],\n  \"data\": {\"a/b\": {\"~\": [1, {\"prefx\": \"x\"}]}}\n}",
    );
    assert_eq!(error.pointer, "/data/a~1b/~0/1/prefx");
    assert_eq!(error.place, Some(TextPlace { line: 3, column: 39 }));
    assert_eq!(error.fault, PatternFault::UnknownOperator { name: "prefx".to_owned() });
    let text = error.to_string();
    assert!(
        text.starts_with("event pattern, at /data/a~1b/~0/1/prefx, line 3 column 39: "),
        "{text}"
    );
    assert!(text.contains("equals-ignore-case"), "{text}");
}

#[test]
fn text_that_is_not_json_is_refused_where_it_ends_to_be() {
    let error = refused("{\"type\": [\"a\"],\n}");
    assert_eq!(error.place, Some(TextPlace { line: 2, column: 1 }));
    assert!(matches!(error.fault, PatternFault::Syntax { .. }), "{error}");
    assert!(matches!(refused("{\"type\": [\"\\ud800\"]}").fault, PatternFault::Syntax { .. }));
    assert!(matches!(refused("{\"data\": [1e999]}").fault, PatternFault::Syntax { .. }));
    assert!(matches!(refused("{\"type\": [\"a\"]} x").fault, PatternFault::Syntax { .. }));
    assert!(matches!(refused("").fault, PatternFault::Syntax { .. }));
}

#[test]
fn a_key_that_stands_twice_is_refused_wherever_it_is() {
    for (text, pointer) in [
        (r#"{"type":["a"],"tags":["x"],"type":["b"]}"#, "/type"),
        (r#"{"data":{"x":[1],"\u0078":[2]}}"#, "/data/x"),
        (r#"{"data":{"x":[{"prefix":"a","prefix":"b"}]}}"#, "/data/x/0/prefix"),
        (r#"{"$or":[{"type":["a"]},{"type":["b"]}],"$or":[]}"#, "/$or"),
    ] {
        let error = refused(text);
        assert_eq!(error.pointer, pointer, "{text}");
        assert!(matches!(error.fault, PatternFault::DuplicateKey { .. }), "{error}");
    }
    // The second is the one that is too much.
    let error = refused(r#"{"type":["a"],"type":["b"]}"#);
    assert_eq!(error.place, Some(TextPlace { line: 1, column: 22 }));
}

#[test]
fn what_is_no_pattern_is_refused_by_what_it_is() {
    use PatternFault::*;
    let takes_texts = |operator, found| Argument { operator, takes: "a text", found };
    for (json, pointer, expected) in [
        (json!([1]), "", NotAnObject { found: "a list" }),
        (json!(null), "", NotAnObject { found: "null" }),
        (json!({"type": "a"}), "/type", NotAList { found: "a text" }),
        (json!({"data": 5}), "/data", NotAList { found: "a number" }),
        (json!({"data": {"x": null}}), "/data/x", NotAList { found: "null" }),
        (json!({"data": {"x": [["a"]]}}), "/data/x/0", ListInList),
        (json!({"data": {"x": [{}]}}), "/data/x/0", OneOperator { count: 0 }),
        (
            json!({"data": {"x": [{"prefix": "a", "suffix": "b"}]}}),
            "/data/x/0",
            OneOperator { count: 2 },
        ),
        (json!({"data": {"x": [{"y": [1]}]}}), "/data/x/0/y", UnknownOperator { name: "y".into() }),
        (json!({"data": {"$or": {"x": [1]}}}), "/data/$or", Branches { found: "an object" }),
        (json!({"$or": []}), "/$or", Branches { found: "an empty list" }),
        (json!({"$or": [{"type": ["a"]}]}), "/$or", Branches { found: "a list of one" }),
        (json!({"$or": [{"type": ["a"]}, "b"]}), "/$or/1", Branches { found: "a text" }),
        (
            json!({"data": {"x": [{"wildcard": 5}]}}),
            "/data/x/0/wildcard",
            takes_texts("wildcard", "a number"),
        ),
        (
            json!({"data": {"x": [{"equals-ignore-case": ["a"]}]}}),
            "/data/x/0/equals-ignore-case",
            takes_texts("equals-ignore-case", "a list"),
        ),
        (
            json!({"data": {"x": [{"wildcard": "a**"}]}}),
            "/data/x/0/wildcard",
            WildcardStars { wildcard: "a**".into() },
        ),
        (
            json!({"data": {"x": [{"wildcard": r"a\b"}]}}),
            "/data/x/0/wildcard",
            WildcardEscape { wildcard: r"a\b".into() },
        ),
        (
            json!({"data": {"x": [{"cidr": "10.0.0.0"}]}}),
            "/data/x/0/cidr",
            Network { network: "10.0.0.0".into() },
        ),
        (
            json!({"data": {"x": [{"cidr": "10.0.0.0/33"}]}}),
            "/data/x/0/cidr",
            Network { network: "10.0.0.0/33".into() },
        ),
        (
            json!({"data": {"x": [{"anything-but": {"numeric": ["=", 1]}}]}}),
            "/data/x/0/anything-but/numeric",
            UnknownOperator { name: "numeric".into() },
        ),
    ] {
        assert_eq!(fault(&json), (pointer.to_owned(), expected), "{json}");
    }
    for (json, pointer) in [
        (json!({"prefix": 5}), "/prefix"),
        (json!({"prefix": {"equals-ignore-case": 5}}), "/prefix"),
        (json!({"exists": "true"}), "/exists"),
        (json!({"cidr": 5}), "/cidr"),
        (json!({"anything-but": []}), "/anything-but"),
        (json!({"anything-but": [["a"]]}), "/anything-but/0"),
        (json!({"anything-but": {"prefix": ["a", 5]}}), "/anything-but/prefix/1"),
        (json!({"anything-but": {"prefix": []}}), "/anything-but/prefix"),
        (json!({"numeric": 5}), "/numeric"),
        (json!({"numeric": []}), "/numeric"),
        (json!({"numeric": [">"]}), "/numeric/0"),
        (json!({"numeric": [">", "5"]}), "/numeric/1"),
        (json!({"numeric": ["!=", 5]}), "/numeric/0"),
        (json!({"numeric": [">", 5, ">=", 6]}), "/numeric/2"),
        (json!({"numeric": ["=", 5, "<", 6]}), "/numeric/0"),
        (json!({"numeric": [">", 1, "<", 2, "<", 3]}), "/numeric/4"),
    ] {
        let (at, fault) = fault(&json!({"data": {"x": [json]}}));
        assert_eq!(at, format!("/data/x/0{pointer}"));
        assert!(matches!(fault, Argument { .. }), "{fault}");
    }
}

#[test]
fn what_no_event_can_match_is_refused_as_such() {
    use NeverMatches::*;
    let (at, why) = never(&json!({"data": {"x": []}}));
    assert_eq!((&*at, why), ("/data/x", EmptyList));
    assert_eq!(never(&json!({})), (String::new(), EmptyObject));
    assert_eq!(never(&json!({"data": {"x": {}}})), ("/data/x".to_owned(), EmptyObject));
    assert_eq!(never(&json!({"headers": {}})), ("/headers".to_owned(), EmptyObject));
    for range in [json!([">", 5, "<", 5]), json!([">=", 5, "<", 5]), json!([">", 6, "<=", 5])] {
        let (at, why) = never(&json!({"data": {"x": [{"numeric": range}]}}));
        assert_eq!((&*at, why), ("/data/x/0/numeric", EmptyRange { range: range.to_string() }));
    }
    let operator = "prefix";
    let (at, why) = never(&json!({"data": {"x": [{"anything-but": {"prefix": ""}}]}}));
    assert_eq!((&*at, why), ("/data/x/0/anything-but/prefix", ExcludesEverything { operator }));

    let (at, why) = never(&json!({"detail": {"x": [1]}}));
    assert_eq!(at, "/detail");
    assert!(
        matches!(&why, UnknownField { name, known } if name == "detail" && known.ends_with("headers, data"))
    );
    assert!(matches!(
        never(&json!({"$or": [{"type": ["a"]}, {"typ": ["a"]}]})).1,
        UnknownField { .. }
    ));
    assert_eq!(
        never(&json!({"type": {"x": [1]}})),
        ("/type".to_owned(), NoFieldsInside { field: "type" })
    );
    let inside = json!({"headers": {"a": {"b": ["c"]}}});
    assert_eq!(never(&inside), ("/headers/a".to_owned(), NoFieldsInside { field: "a header" }));
    assert_eq!(
        never(&json!({"headers": ["a"]})),
        ("/headers".to_owned(), NoValue { field: "headers" })
    );

    for (json, pointer) in [
        (json!({"type": ["a", 5]}), "/type/1"),
        (json!({"type": [null]}), "/type/0"),
        (json!({"tags": [true]}), "/tags/0"),
        (json!({"headers": {"a": [5]}}), "/headers/a/0"),
        (json!({"time": [{"numeric": [">", 5]}]}), "/time/0"),
        (json!({"schemaversion": ["1"]}), "/schemaversion/0"),
        (json!({"schemaversion": [{"prefix": "1"}]}), "/schemaversion/0"),
        (json!({"$or": [{"type": ["a"]}, {"type": [5]}]}), "/$or/1/type/0"),
    ] {
        let (at, why) = never(&json);
        assert_eq!(at, pointer);
        assert!(matches!(why, WrongType { .. }), "{why}");
    }
    for (json, pointer) in [
        (json!({"type": ["a b"]}), "/type/0"),
        (json!({"stream": ["order"]}), "/stream/0"),
        (json!({"category": ["a-b"]}), "/category/0"),
        (json!({"tags": [""]}), "/tags/0"),
        (json!({"partitionkey": ["a/b"]}), "/partitionkey/0"),
        (json!({"id": ["01890A5D-AC96-774B-BCCE-B302099A8057"]}), "/id/0"),
        (json!({"correlationid": ["42"]}), "/correlationid/0"),
        (json!({"time": ["2026-11-26"]}), "/time/0"),
        (json!({"time": ["2026-11-26T08:15:00.50Z"]}), "/time/0"),
        (json!({"time": ["2600-01-01T00:00:00Z"]}), "/time/0"),
        (json!({"schemaversion": [1.5]}), "/schemaversion/0"),
        (json!({"schemaversion": [65_536]}), "/schemaversion/0"),
        (json!({"schemaversion": [{"numeric": [">", 1, "<", 2]}]}), "/schemaversion/0"),
        (json!({"headers": {"": ["x"]}}), "/headers/"),
    ] {
        let (at, why) = never(&json);
        assert_eq!(at, pointer);
        assert!(matches!(why, ImpossibleValue { .. }), "{why}");
    }
    for field in ["id", "type", "stream", "category", "time", "schemaversion"] {
        let (at, why) = never(&json!({field: [{"exists": false}]}));
        assert_eq!((at, why), (format!("/{field}/0"), AlwaysThere { field }));
    }
}

#[test]
fn demands_that_exclude_each_other_in_every_branch_are_refused() {
    for (json, field) in [
        (json!({"type": ["a"], "$or": [{"type": ["b"]}, {"type": ["c"]}]}), "/type"),
        (
            json!({"type": ["a"], "$or": [{"type": [{"prefix": "b"}]}, {"type": [{"anything-but": "a"}]}]}),
            "/type",
        ),
        (
            json!({"schemaversion": [1], "$or": [{"schemaversion": [{"numeric": [">", 1]}]}, {"schemaversion": [0]}]}),
            "/schemaversion",
        ),
        (json!({"stream": ["order-1"], "category": ["cart"]}), "/category"),
        (json!({"tags": [{"exists": false}], "$or": [{"tags": ["a"]}, {"tags": ["b"]}]}), "/tags"),
        (
            json!({"data": {"x": {"y": [{"exists": false}]}, "$or": [{"x": {"y": [1]}}, {"x": {"y": [{"exists": true}]}}]}}),
            "/data/x/y",
        ),
    ] {
        let (at, why) = never(&json);
        assert_eq!(at, "", "{json}");
        assert_eq!(why, NeverMatches::Contradiction { field: field.to_owned() }, "{json}");
    }
    // One branch that is possible is enough.
    let possible = pattern(
        &json!({"type": ["order.placed"], "$or": [{"type": ["b"]}, {"tags": [{"exists": false}]}]}),
    );
    assert!(possible.matches(&event(&json!(1))));
    // An object is no value, so this is possible.
    pattern(&json!({"data": {"x": [{"exists": false}], "$or": [{"x": {"y": [1]}}, {"z": [1]}]}}));
    // Lists have many values.
    pattern(&json!({"data": {"x": ["a"], "$or": [{"x": ["b"]}, {"x": ["c"]}]}}));
}

#[test]
fn size_depth_and_combinations_are_bounded() {
    let long = format!(r#"{{"type":["{}"]}}"#, "a".repeat(limits::PATTERN_BYTES_MAX));
    assert_eq!(refused(&long).fault, PatternFault::TooLong { actual: long.len() });
    // As it is written out it would be too long to be read again.
    let numbers = |count| (1..=count).map(|n| format!("{n}e15")).collect::<Vec<_>>().join(",");
    assert!(EventPattern::parse(&format!(r#"{{"data":[{}]}}"#, numbers(100))).is_ok());
    let short = format!(r#"{{"data":[{}]}}"#, numbers(1_500));
    assert!(short.len() < limits::PATTERN_BYTES_MAX);
    assert!(matches!(refused(&short).fault, PatternFault::TooLong { .. }));

    let deep = |levels: usize| {
        let inside = levels - 2;
        format!(r#"{{"data":{}[1]{}}}"#, r#"{"a":"#.repeat(inside), "}".repeat(inside))
    };
    assert!(EventPattern::parse(&deep(limits::PATTERN_DEPTH_MAX)).is_ok());
    let error = refused(&deep(limits::PATTERN_DEPTH_MAX + 1));
    assert_eq!(error.fault, PatternFault::TooDeep);
    assert_eq!(error.pointer, format!("/data{}", "/a".repeat(limits::PATTERN_DEPTH_MAX - 1)));
    assert!(error.place.is_some());

    let ors = |count: usize| {
        let or = json!([{"x": [1]}, {"y": [1]}]);
        let fields = (0..count).map(|n| (format!("f{n}"), json!({"$or": or})));
        json!({"data": fields.collect::<serde_json::Map<_, _>>()})
    };
    assert!(EventPattern::parse(&ors(9).to_string()).is_ok());
    let (at, why) = fault(&ors(10));
    assert_eq!(
        (&*at, why),
        ("", PatternFault::TooManyAlternatives { alternatives: 1_024, fields: 10_240 })
    );
    let (_, why) = fault(&ors(100));
    assert!(matches!(why, PatternFault::TooManyAlternatives { .. }), "{why}");
}

#[test]
fn no_nesting_overflows_the_stack() {
    for text in ["[", "{\"data\":", "{\"$or\":[", "{\"data\":{\"x\":[{\"anything-but\":"] {
        let text = text.repeat(limits::PATTERN_BYTES_MAX / text.len());
        assert!(matches!(refused(&text).fault, PatternFault::Syntax { .. }));
        // Other formats and callers have no limit of ours in front of them.
        assert!(serde_json::from_str::<EventPattern>(&text.repeat(100)).is_err());
    }
}
