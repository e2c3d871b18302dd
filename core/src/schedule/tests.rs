use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    let time: jiff::Timestamp = text.parse().unwrap();
    Timestamp::from_nanos(i64::try_from(time.as_nanosecond()).unwrap())
}

#[test]
fn one_moment_comes_once() {
    let once = Schedule::Once(at("2026-01-01T00:00:00Z"));
    assert_eq!(once.next_after(at("2025-01-01T00:00:00Z")), Some(at("2026-01-01T00:00:00Z")));
    assert_eq!(once.next_after(at("2026-01-01T00:00:00Z")), None);
    assert!(once.is_once());
}

#[test]
fn intervals_begin_at_their_start_and_end_with_time() {
    let start = at("2026-01-01T00:00:00Z");
    let every = Schedule::every(Duration::from_secs(60), start).unwrap();
    assert_eq!(every.next_after(Timestamp::from_nanos(i64::MIN)), Some(start));
    assert_eq!(every.next_after(start), Some(at("2026-01-01T00:01:00Z")));
    assert_eq!(every.next_after(at("2026-01-01T00:00:59.999Z")), Some(at("2026-01-01T00:01:00Z")));
    assert_eq!(every.next_after(Timestamp::from_nanos(i64::MAX)), None);
    let long = Schedule::every(Duration::from_nanos(i64::MAX.unsigned_abs()), Timestamp::EPOCH);
    let end = Timestamp::from_nanos(i64::MAX);
    assert_eq!(long.unwrap().next_after(Timestamp::EPOCH), Some(end));
}

#[test]
fn intervals_that_are_none_are_refused_and_told_apart() {
    let zero = Schedule::every(Duration::ZERO, Timestamp::EPOCH).unwrap_err();
    assert_eq!(zero, InvalidSchedule::ZeroInterval);
    let interval = Duration::from_secs(u64::MAX);
    let long = Schedule::every(interval, Timestamp::EPOCH).unwrap_err();
    assert_eq!(long, InvalidSchedule::IntervalTooLong { interval });
    assert!(serde_json::from_str::<Schedule>(r#"{"every":{"nanos":0,"start":0}}"#).is_err());
}

#[test]
fn the_stored_form_is_frozen() {
    let every = Schedule::every(Duration::from_secs(1), Timestamp::from_nanos(7)).unwrap();
    for (schedule, json) in [
        (Schedule::Once(Timestamp::from_nanos(5)), r#"{"once":5}"#),
        (every, r#"{"every":{"nanos":1000000000,"start":7}}"#),
        #[cfg(feature = "cron")]
        (
            Schedule::cron(" 0  6 * * *", "UTC").unwrap(),
            r#"{"cron":{"line":"0 6 * * *","zone":"UTC"}}"#,
        ),
    ] {
        assert_eq!(serde_json::to_string(&schedule).unwrap(), json);
        assert_eq!(serde_json::from_str::<Schedule>(json).unwrap(), schedule);
    }
}

proptest! {
    #[test]
    fn intervals_are_the_first_multiple_that_is_later(
        start in any::<i32>(), nanos in 1..1_000_u32, after in any::<i32>(),
    ) {
        let (start, after) = (i64::from(start), i64::from(after));
        let every = Schedule::every(Duration::from_nanos(nanos.into()), Timestamp::from_nanos(start));
        let next = every.unwrap().next_after(Timestamp::from_nanos(after)).unwrap().as_nanos();
        prop_assert!(next > after && (next - start) % i64::from(nanos) == 0 && next >= start);
        prop_assert!(next == start || next - i64::from(nanos) <= after);
    }
}

#[cfg(feature = "cron")]
mod cron {
    use super::*;

    /// The times of a line in Berlin after a moment, in UTC.
    fn times(line: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::cron(line, zone).unwrap();
        let next = |time: &Timestamp| schedule.next_after(*time);
        let times = std::iter::successors(next(&at(after)), next);
        times.take(count).map(|time| time.to_string()).collect()
    }

    #[test]
    fn a_line_goes_by_the_clocks_of_its_zone() {
        assert_eq!(
            times("30 6 * * MON-FRI", "Europe/Berlin", "2026-03-26T12:00:00Z", 3),
            // Summer time began in between.
            ["2026-03-27T05:30:00Z", "2026-03-30T04:30:00Z", "2026-03-31T04:30:00Z"]
        );
        assert_eq!(
            times("0 12 L * *", "UTC", "2028-02-01T00:00:00Z", 2),
            ["2028-02-29T12:00:00Z", "2028-03-31T12:00:00Z"]
        );
        assert_eq!(
            times("*/20 * * * * *", "UTC", "2026-01-01T00:00:00.5Z", 2),
            ["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]
        );
        assert_eq!(
            times("0 0 1 1 *", "Asia/Kathmandu", "2026-01-01T00:00:00Z", 1),
            ["2026-12-31T18:15:00Z"]
        );
        // Before 1970, and to the nanosecond.
        assert_eq!(
            times("* * * * * *", "UTC", "1969-12-31T23:59:58.000000001Z", 2),
            ["1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"]
        );
    }

    #[test]
    fn in_the_gap_a_daily_line_happens_right_after_it() {
        // At 02:00 clocks go to 03:00, which is 01:00 in UTC.
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            times("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:15:00Z", 3),
            ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]
        );
    }

    #[test]
    fn in_the_fold_a_daily_line_happens_once_and_an_hourly_one_twice() {
        // At 03:00 clocks go to 02:00, which is 01:00 in UTC.
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            times("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]
        );
    }

    #[test]
    fn lines_and_zones_that_are_none_are_refused_and_told_apart() {
        let refused = |line: &str, zone: &str| Schedule::cron(line, zone).unwrap_err();
        for line in ["", "* * * *", "61 * * * *", "* * * * * * * *", "a b c d e", &"*".repeat(300)]
        {
            assert!(matches!(refused(line, "UTC"), InvalidSchedule::Line { .. }), "{line}");
        }
        let error = refused("0 0 30 2 *", "UTC");
        assert_eq!(error, InvalidSchedule::NeverDue { line: "0 0 30 2 *".to_owned() });
        for zone in ["", "Berlin", "Europe/Bärlin", "../etc/passwd"] {
            let error = refused("* * * * *", zone);
            assert!(
                matches!(&error, InvalidSchedule::UnknownZone { zone: z, .. } if z == zone),
                "{error}"
            );
        }
        // It was due, and never will be again.
        let past = Schedule::cron("0 0 0 1 1 ? 2020", "UTC").unwrap();
        assert_eq!(past.next_after(at("2019-01-01T00:00:00Z")), Some(at("2020-01-01T00:00:00Z")));
        assert_eq!(past.next_after(at("2020-01-01T00:00:00Z")), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn times_of_a_line_grow_and_none_is_left_out(
            minute in prop::sample::select(&["*", "*/7", "30", "0,59"][..]),
            hour in prop::sample::select(&["*", "*/3", "1-3"][..]),
            day in prop::sample::select(&["*", "28-31"][..]),
            zone in prop::sample::select(&["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"][..]),
            month in prop::sample::select(&[3_i64, 4, 10, 11][..]),
            offset in 0..2_000_000_000_000_i64,
        ) {
            let line = format!("{minute} {hour} {day} * *");
            let schedule = Schedule::cron(&line, zone).unwrap();
            let begin = at("2026-01-01T00:00:00Z").as_nanos() + month * 2_629_800_000_000_000 - 2_000_000_000_000_000;
            let mut time = Timestamp::from_nanos(begin + offset);
            let tz = TimeZone::get(zone).unwrap();
            for _ in 0..20 {
                let next = schedule.next_after(time).unwrap();
                prop_assert!(next > time);
                // From any moment between, the same one is next.
                let between = i64::midpoint(time.as_nanos(), next.as_nanos() - 1);
                prop_assert_eq!(schedule.next_after(Timestamp::from_nanos(between)), Some(next));
                let shown = jiff::Timestamp::from_nanosecond(next.as_nanos().into()).unwrap().to_zoned(tz.clone());
                prop_assert_eq!(shown.second(), 0);
                prop_assert!(day == "*" || shown.day() >= 28 || shown.day() == 1, "{}", shown);
                time = next;
            }
        }

        #[test]
        fn no_line_makes_it_panic(line in "[-*/,0-9A-Z#L?+@ ]{0,20}", text in ".{0,20}") {
            let _ = Schedule::cron(&line, "UTC");
            let _ = Schedule::cron(&text, &text);
            let _ = Schedule::cron(&format!("0 0 {line} * *"), "Europe/Berlin");
        }
    }

    use jiff::tz::TimeZone;
}
