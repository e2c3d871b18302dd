//! `headwater append`: acknowledgements, and input that cannot be appended.

use std::collections::HashMap;
use std::io::Write;

use serde_json::json;

use crate::support::{Live, Place, ack, assert_clean, event, events, id, run, run_unread};

#[test]
fn every_event_is_acknowledged_in_order_with_its_position() {
    let place = Place::new();
    let run = place.create(&events(1, 500));
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    let expected: Vec<_> = (1..=500).map(|number| (id(number), number)).collect();
    assert_eq!(run.acks(), expected);
    assert_eq!(place.events().len(), 500);
}

#[test]
fn events_of_a_stream_keep_the_order_of_the_input() {
    for durability in ["sync", "interval", "os"] {
        let place = Place::new();
        let args = ["append", place.text(), "--create", "--durability", durability];
        let run = run(&[&args[..], &["--segment-bytes", "1MiB"]].concat(), &events(1, 3000));
        assert_eq!(run.code, 0, "{run:?}");
        let mut last: HashMap<String, (u64, u64)> = HashMap::new();
        for event in place.events() {
            let stream = event["stream"].as_str().unwrap().to_owned();
            let (number, revision) =
                (event["data"].as_u64().unwrap(), event["revision"].as_u64().unwrap());
            let before = last.insert(stream, (number, revision)).unwrap_or((0, 0));
            assert!(number > before.0 && revision == before.1 + 1, "{durability}: {event}");
        }
    }
}

#[test]
fn an_acknowledgement_does_not_wait_for_more_input() {
    let place = Place::new();
    let args = ["append", place.text(), "--create", "--segment-bytes", "64KiB"];
    let mut live = Live::start(&args);
    let mut stdin = live.child.stdin.take().unwrap();
    for number in 1..=3 {
        stdin.write_all(event(number, "s-1").as_bytes()).unwrap();
        assert_eq!(ack(&live.line()), (id(number), number));
    }
}

#[test]
fn a_file_that_is_sent_again_gets_its_first_positions_and_adds_nothing() {
    let place = Place::new();
    let input = events(1, 50);
    let first = place.create(&input);
    let second = place.append(&input);
    assert_eq!((second.code, second.acks()), (0, first.acks()));
    let longer = place.append(&(input + &events(51, 60)));
    assert_eq!(longer.acks().last(), Some(&(id(60), 60)));
    assert_eq!(place.events().len(), 60);
}

#[test]
fn events_without_an_id_are_appended_each_time() {
    let place = Place::with("{\"stream\":\"s-1\",\"type\":\"t\",\"data\":1}\n");
    let again = place.append("{\"stream\":\"s-1\",\"type\":\"t\",\"data\":1}");
    assert_eq!(again.acks()[0].1, 2);
}

#[test]
fn acknowledgements_have_a_json_form() {
    let place = Place::with(&event(1, "s-1"));
    let run = run(&["append", place.text(), "--json"], &events(1, 2));
    let expected = [
        json!({"id": id(1), "position": 1, "repeated": true}),
        json!({"id": id(2), "position": 2, "repeated": false}),
    ];
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.json(), expected);
}

#[test]
fn a_malformed_line_ends_the_input_behind_what_came_before() {
    let place = Place::new();
    let input = format!("{}\n{{\"stream\":\n{}", events(1, 3), events(4, 9));
    let run = place.create(&input);
    run.fails(2, &["line 5:", "not JSON", "one JSON object on one line", "refused 1 line"]);
    assert_eq!(run.acks().len(), 3);
    assert_eq!(place.events().len(), 3);
}

#[test]
fn input_that_breaks_off_in_a_line_is_refused_there() {
    let place = Place::new();
    let input = events(1, 2) + "{\"stream\":\"s-1\",\"type\":\"t\",\"da";
    let run = place.create(&input);
    run.fails(2, &["line 3:", "EOF"]);
    assert_eq!(run.acks().len(), 2);
}

#[test]
fn keep_going_appends_the_rest_and_still_fails() {
    let place = Place::new();
    let bad = "nonsense\n{\"stream\":\"nohyphen\",\"type\":\"t\",\"data\":1}\n";
    let args = ["append", place.text(), "--create", "--segment-bytes", "64KiB", "--keep-going"];
    let run = run(&args, &format!("{}{bad}{}", events(1, 2), events(3, 4)));
    run.fails(2, &["line 3:", "line 4:", "acknowledged 4 events, refused 2 lines"]);
    assert_eq!(run.acks().len(), 4);
    assert_eq!(place.events().len(), 4);
}

#[test]
fn a_bad_name_is_refused_with_the_reason_and_a_remedy() {
    let place = Place::new();
    let line = json!({"stream": "order 17", "type": "t", "data": 1});
    place
        .create(&line.to_string())
        .fails(2, &["line 1:", "stream id \"order 17\"", "at byte 5", "remove"]);
    let line = json!({"stream": "order-17", "type": "t", "data": 1, "tags": ["a b"]});
    place.create(&line.to_string()).fails(2, &["line 1:", "tag \"a b\"", "remove white space"]);
    assert_eq!(place.events().len(), 0);
}

#[test]
fn an_event_over_a_limit_is_refused_with_the_limit() {
    let place = Place::with(&event(1, "s-1"));
    for bytes in [17 * 1024, 9 * 1024 * 1024] {
        let line = json!({"stream": "s-1", "type": "t", "data": "x".repeat(bytes)});
        let args = ["append", place.text(), "--segment-bytes", "64KiB"];
        run(&args, &line.to_string()).fails(2, &["line 1:", "the limit is"]);
    }
    assert_eq!(place.events().len(), 1);
}

#[test]
fn the_largest_events_pass_one_after_the_other() {
    let place = Place::new();
    let line = json!({"stream": "s-1", "type": "t", "data": "x".repeat(8 * 1024 * 1024 - 2)});
    let args = ["append", place.text(), "--create", "--segment-bytes", "64MiB"];
    let run = run(&args, &format!("{line}\n").repeat(9));
    assert_eq!((run.code, run.acks().len()), (0, 9), "{}", run.err);
}

#[test]
fn a_conflict_has_its_own_exit_code_and_nothing_behind_it_is_appended() {
    let place = Place::with(&events(1, 10));
    // Not a stream of the lines before, which may or may not be written by then.
    let conflict = json!({"stream": "s-3", "type": "t", "data": 1, "expected": "no_stream"});
    let input = format!("{}{conflict}\n{}", events(11, 12), events(13, 99));
    let run = place.append(&input);
    run.fails(3, &["line 3:", "conflict", "expected no stream of stream s-3", "revision 2"]);
    assert_eq!(run.acks().len(), 2);
    assert_eq!(place.events().len(), 12);
}

#[test]
fn keep_going_passes_conflicts_and_keeps_the_first_exit_code() {
    let place = Place::with(&event(1, "s-1"));
    let conflict = json!({"stream": "s-1", "type": "t", "data": 1, "expected": 7});
    let args = ["append", place.text(), "--keep-going"];
    let run = run(&args, &format!("{conflict}\nnonsense\n{}", event(2, "s-1")));
    run.fails(3, &["line 1:", "line 2:", "acknowledged 1 event, refused 2 lines"]);
    assert_eq!(place.events().len(), 2);
}

#[test]
fn each_expectation_is_met_where_it_holds() {
    let place = Place::new();
    let line = |expected| {
        json!({"stream": "s-1", "type": "t", "data": null, "expected": expected}).to_string() + "\n"
    };
    let input = [json!("no_stream"), json!("exists"), json!(2), json!("any"), json!(4)].map(line);
    let run = place.create(&input.concat());
    assert_eq!((run.code, run.acks().len()), (0, 5), "{run:?}");
}

#[test]
fn an_id_that_stands_for_something_else_is_a_conflict() {
    let place = Place::with(&event(1, "s-1"));
    let other = event(1, "s-2");
    place.append(&other).fails(3, &["line 1:", &id(1), "at position 1", "its own id"]);
    // The same inside one input, where both are under way together.
    let run = place.append(&format!("{}{}{}", event(2, "s-1"), event(2, "s-2"), event(3, "s-1")));
    run.fails(3, &["line 2:", &id(2)]);
    assert_eq!(run.acks(), [(id(2), 2)]);
    assert_eq!(place.events().len(), 2);
}

#[test]
fn payloads_pass_through_to_the_last_digit() {
    let data = r#"{"z":1.10,"a":[12345678901234567890123,1e2],"s":"é \" } ,"}"#;
    let place = Place::with(&format!(
        r#"{{ "stream":"s-1", "data" : {} , "type":"t" }}"#,
        data.replace(',', " ,  ").replace("}  ,", "} ,").replace("\" } ,  \"", "\" } ,\"")
    ));
    let read = place.look("read", &["--json"]);
    assert!(read.out.contains(&format!("\"data\":{data}}}")), "{}", read.out);
}

#[test]
fn what_read_prints_can_be_appended_elsewhere() {
    let rich = json!({
        "stream": "order-1", "type": "placed", "data": {"n": 1}, "id": id(7),
        "tags": ["b", "a"],
        "metadata": {
            "correlation_id": id(8), "causation_id": id(9), "key": "customer-3",
            "event_time": "2020-02-29T12:00:00.000000001Z", "schema_version": 4,
            "headers": {"traceparent": "00-1-2-3", "a": "b"},
        },
    });
    let raw = json!({
        "stream": "order-1", "type": "scanned", "data_base64": "/wD+", "codec": 200,
        "headers": [["n", "1"], ["n", "2"]],
    });
    let place = Place::with(&format!("{rich}\n{raw}\n"));
    let printed = place.look("read", &["--json"]);
    let copy = Place::with(&printed.out);
    let without_time = |place: &Place| {
        let mut events = place.events();
        for event in &mut events {
            event["commit_time"].take();
        }
        events
    };
    let events = without_time(&place);
    assert_eq!(events, without_time(&copy));
    assert_eq!(events[0]["tags"], json!(["a", "b"]));
    assert_eq!(events[0]["event_time"], "2020-02-29T12:00:00.000000001Z");
    assert_eq!(events[0]["schema_version"], 4);
    assert_eq!(events[0]["causation_id"], id(9));
    assert_eq!(events[0]["headers"], json!({"traceparent": "00-1-2-3", "a": "b"}));
    assert_eq!(events[1]["headers"], json!([["n", "1"], ["n", "2"]]));
    assert_eq!((&events[1]["codec"], &events[1]["data_base64"]), (&json!(200), &json!("/wD+")));
}

#[test]
fn a_closed_output_ends_appending_without_a_panic() {
    let place = Place::with(&event(1, "s-1"));
    let (code, err) = run_unread(&["append", place.text()], &events(2, 9));
    assert_eq!(code, 1, "{err}");
    assert!(err.starts_with("error: cannot write acknowledgements"), "{err}");
    assert!(err.contains("caused by: Broken pipe"), "{err}");
    assert_clean(&err);
}

#[test]
fn no_input_is_no_failure() {
    let place = Place::with("");
    assert_eq!(place.append("\n \n").code, 0);
    assert_eq!(place.events().len(), 0);
}
