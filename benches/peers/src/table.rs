//! The table: one row per workload, one column per peer, one cell the median and the ratio.

use std::fmt::Write;

use crate::peers::PEERS;

/// How a row's numbers read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    /// From seconds.
    Microseconds,
    /// From seconds.
    Milliseconds,
    /// From bytes.
    Megabytes,
    Bytes,
}

/// One workload with what each round found for each peer.
#[derive(Clone, Debug)]
pub struct Row {
    pub title: &'static str,
    pub unit: Unit,
    /// By peer, then by round.
    pub found: Vec<Vec<Option<f64>>>,
}

impl Row {
    pub fn new(title: &'static str, unit: Unit) -> Self {
        Self { title, unit, found: vec![Vec::new(); PEERS.len()] }
    }

    /// Returns a peer's median, and how many times better Headwater was: the median of the ratios
    /// of rounds that ran side by side.
    fn cell(&self, peer: usize) -> String {
        let Some(own) = median(self.found[peer].iter().flatten().copied()) else {
            return "-".to_owned();
        };
        let absolute = self.unit.show(own);
        if peer == 0 {
            return absolute;
        }
        let pairs = self.found[0].iter().zip(&self.found[peer]);
        let ratios = pairs.filter_map(|(ours, theirs)| {
            let (ours, theirs) = ((*ours)?, (*theirs)?);
            Some(if self.unit == Unit::PerSecond { ours / theirs } else { theirs / ours })
        });
        match median(ratios) {
            Some(ratio) if ratio.is_finite() => format!("{absolute} ({}×)", significant(ratio)),
            _ => absolute,
        }
    }
}

impl Unit {
    fn show(self, number: f64) -> String {
        match self {
            Self::PerSecond if number >= 1e6 => format!("{} M/s", significant(number / 1e6)),
            Self::PerSecond if number >= 1e3 => format!("{} k/s", significant(number / 1e3)),
            Self::PerSecond => format!("{} /s", significant(number)),
            Self::Microseconds => format!("{} µs", significant(number * 1e6)),
            Self::Milliseconds => format!("{} ms", significant(number * 1e3)),
            Self::Megabytes => format!("{} MB", significant(number / 1e6)),
            Self::Bytes => format!("{number:.0} B"),
        }
    }
}

/// Renders the whole table.
pub fn render(rows: &[Row]) -> String {
    let mut out = String::from("| workload |");
    for (name, version) in PEERS {
        let _ = write!(out, " {name} ({version}) |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(PEERS.len()));
    out.push('\n');
    for row in rows {
        let cells: Vec<_> = (0..PEERS.len()).map(|peer| row.cell(peer)).collect();
        let _ = writeln!(out, "| {} | {} |", row.title, cells.join(" | "));
    }
    out
}

fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.filter(|number| !number.is_nan()).collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(numbers[middle]),
        _ => Some(f64::midpoint(numbers[middle - 1], numbers[middle])),
    }
}

/// Three digits that mean something.
fn significant(number: f64) -> String {
    let digits = match number.abs() {
        n if n >= 100.0 => 0,
        n if n >= 10.0 => 1,
        n if n >= 1.0 => 2,
        _ => 3,
    };
    format!("{number:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_means_that_headwater_is_better() {
        let mut row = Row::new("events", Unit::PerSecond);
        row.found[0] = vec![Some(200.0), Some(300.0), Some(100.0)];
        row.found[1] = vec![Some(100.0), Some(100.0), Some(100.0)];
        assert_eq!(row.cell(0), "200 /s");
        assert_eq!(row.cell(1), "100 /s (2.00×)");
        row.unit = Unit::Microseconds;
        assert!(row.cell(1).ends_with("(0.500×)"));
        assert_eq!(row.cell(2), "-");
    }
}
