//! Reading the file: one order per row, money in cents, what is malformed set aside.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::str::FromStr;

use flate2::Crc;
use flate2::read::MultiGzDecoder;
use headwater::Timestamp;
use headwater::shape::Shape;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// The project's own copy of the orders; `data/README.md` says whose they are.
const CDNOW: &[u8] = include_bytes!("data/cdnow_orders.txt.gz");

/// Names an order: its line in the file, which is the same in every run.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Shape,
)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct OrderNumber(pub(crate) u32);

/// The day of an order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Shape,
)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Day(Date);

/// One order as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its number.
    pub(crate) order: OrderNumber,
    /// Who ordered.
    pub(crate) customer: String,
    /// When.
    pub(crate) day: Day,
    /// How many CDs.
    pub(crate) cds: u32,
    /// For how much, in US cents.
    pub(crate) cents: u64,
}

/// A row that is not an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetAside {
    /// Its line in the file, from 1.
    pub(crate) line: u32,
    /// What is wrong with it.
    pub(crate) fault: RowFault,
}

/// What can be wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowFault {
    /// It does not have four fields.
    Fields(usize),
    /// Its first field is not a number of up to ten digits.
    Customer(String),
    /// Its second field is no day of the calendar.
    Date(String),
    /// Its third field is not a count.
    Cds(String),
    /// Its fourth field is not dollars with two decimals.
    Dollars(String),
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields(count) => write!(f, "has not 4 fields but {count}"),
            Self::Customer(text) => write!(f, "customer {text:?} is not a number"),
            Self::Date(text) => write!(f, "date {text:?} is not a day written as yyyymmdd"),
            Self::Cds(text) => write!(f, "number of CDs {text:?} is not a count"),
            Self::Dollars(text) => write!(f, "value {text:?} is not dollars and two decimals"),
        }
    }
}

/// A whole file of orders.
#[derive(Debug)]
pub(crate) struct OrderFile {
    /// The orders in the order of their dates; those of one day as the file has them.
    pub(crate) rows: Vec<Row>,
    /// The rows that are not orders, by line.
    pub(crate) set_aside: Vec<SetAside>,
    /// The CRC-32 of the text, to know the file again.
    pub(crate) crc32: u32,
}

impl OrderFile {
    /// Reads a file, plain or compressed with gzip, or the project's own copy of the data.
    pub(crate) fn read(input: Option<&Path>) -> io::Result<Self> {
        let stored = match input {
            Some(path) => fs::read(path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?,
            None => CDNOW.to_vec(),
        };
        if !stored.starts_with(&[0x1f, 0x8b]) {
            return Ok(Self::parse(&stored));
        }
        let mut text = Vec::new();
        MultiGzDecoder::new(stored.as_slice()).read_to_end(&mut text)?;
        Ok(Self::parse(&text))
    }

    /// Parses the text of a file. Blank lines and the line of column names are no rows.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(text);
        let mut file = Self { rows: Vec::new(), set_aside: Vec::new(), crc32: crc.sum() };
        for (line, row) in (1..).zip(text.split(|&byte| byte == b'\n')) {
            let row = String::from_utf8_lossy(row);
            let fields: Vec<&str> = row.split_ascii_whitespace().collect();
            if fields.is_empty() || (line == 1 && fields[0] == "customer_id") {
                continue;
            }
            match parse_row(line, &fields) {
                Ok(row) => file.rows.push(row),
                Err(fault) => file.set_aside.push(SetAside { line, fault }),
            }
        }
        // Each customer's orders, too, are from here on in order of (day, order number).
        file.rows.sort_by_key(|row| (row.day, row.order));
        file
    }
}

fn parse_row(line: u32, fields: &[&str]) -> Result<Row, RowFault> {
    let &[customer, date, cds, dollars] = fields else {
        return Err(RowFault::Fields(fields.len()));
    };
    if customer.len() > 10 || !all_digits(customer) {
        return Err(RowFault::Customer(customer.to_owned()));
    }
    Ok(Row {
        order: OrderNumber(line),
        customer: customer.to_owned(),
        day: day(date).ok_or_else(|| RowFault::Date(date.to_owned()))?,
        cds: number(cds).ok_or_else(|| RowFault::Cds(cds.to_owned()))?,
        cents: cents(dollars).ok_or_else(|| RowFault::Dollars(dollars.to_owned()))?,
    })
}

/// Rust's own parsers take a sign; here digits are digits.
fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn number<N: FromStr>(text: &str) -> Option<N> {
    all_digits(text).then(|| text.parse().ok())?
}

fn day(text: &str) -> Option<Day> {
    if text.len() != 8 || !all_digits(text) {
        return None;
    }
    let (year, month, day) = (number(&text[..4])?, number(&text[4..6])?, number(&text[6..])?);
    Date::new(year, month, day).ok().map(Day)
}

/// Up to a billion dollars, so that no sum overflows.
fn cents(text: &str) -> Option<u64> {
    let (dollars, cents) = text.split_once('.')?;
    if dollars.len() > 9 || cents.len() != 2 {
        return None;
    }
    Some(number::<u64>(dollars)? * 100 + number::<u64>(cents)?)
}

impl Day {
    /// Returns the month, such as `1997-01`.
    pub(crate) fn month(self) -> String {
        format!("{:04}-{:02}", self.0.year(), self.0.month())
    }

    /// Returns the moment that the day begins, in UTC.
    pub(crate) fn begins(self) -> Timestamp {
        let zoned = self.0.to_zoned(TimeZone::UTC);
        zoned.map_or(Timestamp::EPOCH, |begin| {
            Timestamp::from_millis(begin.timestamp().as_millisecond())
        })
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for OrderNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "o-{:05}", self.0)
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

impl From<OrderNumber> for String {
    fn from(order: OrderNumber) -> Self {
        order.to_string()
    }
}

impl TryFrom<String> for Day {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for OrderNumber {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let line = text.strip_prefix("o-").and_then(number);
        line.map(Self).ok_or_else(|| format!("{text:?} is not an order number such as o-00042"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(row: &str) -> Result<Row, RowFault> {
        let mut file = OrderFile::parse(row.as_bytes());
        assert_eq!(file.rows.len() + file.set_aside.len(), 1);
        file.rows.pop().ok_or_else(|| file.set_aside.remove(0).fault)
    }

    #[test]
    fn a_row_is_read_to_the_cent() {
        let row = only(" 00042 19970131  2   20.76\r").unwrap();
        assert_eq!((row.customer.as_str(), row.cds, row.cents), ("00042", 2, 2_076));
        assert_eq!((row.day.to_string(), row.day.month()), ("1997-01-31".into(), "1997-01".into()));
        assert_eq!(only("1 19970101 1 0.07").unwrap().cents, 7);
    }

    #[test]
    fn what_is_malformed_is_set_aside_with_its_line_and_reason() {
        let faults = [
            ("1 19970101 1", RowFault::Fields(3)),
            ("1 19970101 1 1.00 1", RowFault::Fields(5)),
            ("x1 19970101 1 1.00", RowFault::Customer("x1".into())),
            ("1 19970229 1 1.00", RowFault::Date("19970229".into())),
            ("1 1997-1-1 1 1.00", RowFault::Date("1997-1-1".into())),
            ("1 19970101 -1 1.00", RowFault::Cds("-1".into())),
            ("1 19970101 1 -1.00", RowFault::Dollars("-1.00".into())),
            ("1 19970101 1 +1.00", RowFault::Dollars("+1.00".into())),
            ("1 19970101 1 1.005", RowFault::Dollars("1.005".into())),
            ("1 19970101 1 NaN", RowFault::Dollars("NaN".into())),
        ];
        for (row, fault) in faults {
            assert_eq!(only(row), Err(fault), "{row}");
        }
        let file = OrderFile::parse(b"customer_id date\n1 19970101 1 1.00\nx\n\n1 19970101 1 2.00");
        assert_eq!(file.set_aside, [SetAside { line: 3, fault: RowFault::Fields(1) }]);
        assert_eq!(file.rows.iter().map(|row| row.order.0).collect::<Vec<_>>(), [2, 5]);
    }

    #[test]
    fn rows_come_by_date_and_within_a_day_by_line() {
        let file = OrderFile::parse(b"1 19970103 1 1.00\n2 19970101 1 1.00\n1 19970101 1 1.00");
        assert_eq!(file.rows.iter().map(|row| row.order.0).collect::<Vec<_>>(), [2, 3, 1]);
    }

    #[test]
    fn the_projects_own_copy_is_whole() {
        let file = OrderFile::read(None).unwrap();
        assert_eq!((file.rows.len(), file.set_aside.len()), (69_659, 0));
        assert_eq!(file.rows.iter().map(|row| row.cents).sum::<u64>(), 250_031_563);
    }
}
