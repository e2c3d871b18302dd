//! What people read: tables, times, sizes, and standard output that may go away.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::Duration;

use headwater::Timestamp;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::exit::Failure;

/// Standard output, with a buffer. Whoever writes to it flushes it: see [`finish`].
pub(crate) type Out = BufWriter<StdoutLock<'static>>;

/// Opens standard output.
pub(crate) fn open() -> Out {
    BufWriter::new(io::stdout().lock())
}

/// Writes out what waits in the buffer.
pub(crate) fn finish(mut out: Out) -> Result<(), Failure> {
    Ok(out.flush()?)
}

/// Writes a value as one line of JSON.
pub(crate) fn json_line(out: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(io::Error::from)?;
    Ok(writeln!(out, "{line}")?)
}

/// Returns a time in RFC 3339 with all its digits.
pub(crate) fn time(time: Timestamp) -> String {
    moment(time).to_string()
}

/// Returns a time in RFC 3339 with milliseconds, so that a column is straight.
pub(crate) fn time_short(time: Timestamp) -> String {
    format!("{:.3}", moment(time))
}

fn moment(time: Timestamp) -> jiff::Timestamp {
    let inside = jiff::Timestamp::from_nanosecond(i128::from(time.as_nanos()));
    inside.expect("jiff's years go beyond ours, which end in 2262")
}

/// Returns how long ago a time was.
pub(crate) fn ago(time: Timestamp) -> String {
    let seconds = Timestamp::now().saturating_since(time).as_secs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{count} {unit} ago")
}

/// Returns how long something took, in the two units that say most.
pub(crate) fn span(took: Duration) -> String {
    let (seconds, nanos) = (took.as_secs(), took.subsec_nanos());
    let two = |unit: u64, name: &str, below: u64, small: &str| {
        format!("{} {name} {} {small}", seconds / unit, seconds % unit / below)
    };
    match seconds {
        0 if nanos < 1_000_000 => format!("{} µs", nanos / 1_000),
        0 if nanos < 10_000_000 => format!("{}.{} ms", nanos / 1_000_000, nanos / 100_000 % 10),
        0 => format!("{} ms", nanos / 1_000_000),
        1..60 => format!("{seconds}.{} s", nanos / 100_000_000),
        60..3_600 => two(60, "min", 1, "s"),
        3_600..86_400 => two(3_600, "h", 60, "min"),
        _ => two(86_400, "d", 3_600, "h"),
    }
}

/// Returns a size with a unit, such as `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut unit = "B";
    let mut scale = 1_u64;
    for (name, shift) in [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)] {
        if bytes >> shift > 0 {
            (unit, scale) = (name, 1 << shift);
        }
    }
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

/// Returns a count with its noun, in the plural where that is due.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = match noun {
        _ if number == 1 => noun.to_owned(),
        "pass" => "passes".to_owned(),
        "end of a removed stream" => "ends of removed streams".to_owned(),
        _ => format!("{noun}s"),
    };
    format!("{number} {plural}")
}

/// Returns how many there were in a second.
pub(crate) fn per_second(number: u64, took: Duration) -> u64 {
    let nanos = took.as_nanos().max(1);
    u64::try_from(u128::from(number) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// Returns a speed with what it counts, such as `2.5 M events/s`.
pub(crate) fn rate(number: u64, noun: &str, took: Duration) -> String {
    let speed = per_second(number, took);
    match speed {
        0..10_000 => format!("{speed} {noun}/s"),
        10_000..1_000_000 => format!("{} k {noun}/s", speed / 1_000),
        _ => format!("{}.{} M {noun}/s", speed / 1_000_000, speed / 100_000 % 10),
    }
}

/// A bar on standard error that counts events, if that is a terminal.
pub(crate) fn bar(events: u64) -> ProgressBar {
    let bar = ProgressBar::new(events);
    let template = "{bar:40} {human_pos}/{human_len} events  {per_sec}  {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Says on standard error what is being done, if that is a terminal.
pub(crate) fn spinner(doing: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(doing);
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

/// Replaces what would move the cursor or turn the text around, and cuts after `max` characters.
pub(crate) fn tame(text: &str, max: usize) -> String {
    let is_wild = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut tamed = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == max {
            tamed.push('…');
            break;
        }
        if is_wild(c) {
            tamed.extend(c.escape_unicode());
        } else {
            tamed.push(c);
        }
    }
    tamed
}

/// On which side a column is straight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows whose columns are as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table with a heading.
    pub(crate) fn new(heading: &[(&str, Align)]) -> Self {
        let columns = heading.iter().map(|&(_, align)| align).collect();
        let names = heading.iter().map(|&(name, _)| name.to_owned()).collect();
        Self { columns, rows: vec![names] }
    }

    /// Adds a row with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes the rows, each after `indent` spaces.
    pub(crate) fn write(&self, out: &mut impl Write, indent: usize) -> io::Result<()> {
        let mut widths = vec![0; self.columns.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.rows {
            let cells = row.iter().zip(&widths).zip(&self.columns);
            let padded = cells.map(|((cell, &width), align)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            let line = padded.collect::<Vec<_>>().join("  ");
            writeln!(out, "{:indent$}{}", "", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_at_most() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (128 << 20, "128 MiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16777215.9 TiB");
    }

    #[test]
    fn speeds_have_two_digits_or_more() {
        let second = Duration::from_secs(1);
        for (number, text) in [(9_999, "9999 x/s"), (10_000, "10 k x/s"), (2_570_000, "2.5 M x/s")]
        {
            assert_eq!(rate(number, "x", second), text);
        }
        assert_eq!(per_second(3, Duration::ZERO), 3_000_000_000);
    }

    #[test]
    fn a_span_has_two_units_at_most() {
        let micros = Duration::from_micros;
        for (took, text) in [
            (Duration::from_nanos(999), "0 µs"),
            (micros(350), "350 µs"),
            (micros(1_290), "1.2 ms"),
            (micros(12_900), "12 ms"),
            (micros(1_960_000), "1.9 s"),
            (Duration::from_secs(125), "2 min 5 s"),
            (Duration::from_secs(7_260), "2 h 1 min"),
            (Duration::from_secs(180_000), "2 d 2 h"),
        ] {
            assert_eq!(span(took), text);
        }
    }

    #[test]
    fn every_time_of_a_log_has_a_text() {
        assert_eq!(time(Timestamp::EPOCH), "1970-01-01T00:00:00Z");
        assert_eq!(time_short(Timestamp::from_nanos(1)), "1970-01-01T00:00:00.000Z");
        assert!(time(Timestamp::from_nanos(i64::MAX)).starts_with("2262-"));
        assert!(time(Timestamp::from_nanos(i64::MIN)).starts_with("1677-"));
    }

    #[test]
    fn a_text_cannot_move_the_cursor() {
        assert_eq!(tame("a\u{1b}[2Jb\u{202e}", 99), "a\\u{1b}[2Jb\\u{202e}");
        assert_eq!(tame("abcdef", 3), "abc…");
        assert_eq!(tame("abc", 3), "abc");
    }
}
