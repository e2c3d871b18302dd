//! The file: names, versions and lines, by indentation.
//!
//! ```text
//! order.placed
//!   formerly order_placed
//!   version 1, json
//!     cents: u64
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const HEAD: &str = "\
# How events are stored, for a test to notice when that changes without a new version.
# Written by headwater-testkit and kept under version control; HEADWATER_SCHEMA=update adds what is new.
";

/// All kinds of events, by their names.
pub(super) type Lock = BTreeMap<String, KindLock>;

/// One kind of event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KindLock {
    pub(super) formerly: BTreeSet<String>,
    pub(super) versions: BTreeMap<u16, VersionLock>,
}

/// One version of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VersionLock {
    /// How it was encoded when it was current; empty where nobody knows any more.
    pub(super) codec: String,
    /// What is stored.
    pub(super) lines: Vec<String>,
}

/// Writes the file.
pub(super) fn write(lock: &Lock) -> String {
    let mut out = HEAD.to_owned();
    let mut line = |text: std::fmt::Arguments<'_>| {
        writeln!(out, "{text}").expect("texts grow");
    };
    for (name, kind) in lock {
        line(format_args!("\n{name}"));
        for former in &kind.formerly {
            line(format_args!("  formerly {former}"));
        }
        for (number, version) in &kind.versions {
            let comma = if version.codec.is_empty() { "" } else { ", " };
            line(format_args!("  version {number}{comma}{}", version.codec));
            for text in &version.lines {
                line(format_args!("    {text}"));
            }
        }
    }
    out
}

/// Reads the file. On failure says which line is wrong, from 1, and why.
pub(super) fn read(text: &str) -> Result<Lock, (usize, &'static str)> {
    let mut lock = Lock::new();
    let (mut name, mut number) = (None::<String>, None::<u16>);
    for (at, line) in text.lines().enumerate() {
        let wrong = |detail| (at + 1, detail);
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(shape) = line.strip_prefix("    ") {
            let kind = name.as_ref().and_then(|name| lock.get_mut(name));
            let version = kind.zip(number).and_then(|(kind, n)| kind.versions.get_mut(&n));
            let version = version.ok_or(wrong("a shape stands outside of a version"))?;
            version.lines.push(shape.to_owned());
        } else if let Some(said) = line.strip_prefix("  ") {
            let kind = name.as_ref().and_then(|name| lock.get_mut(name));
            let kind = kind.ok_or(wrong("this stands outside of an event"))?;
            if let Some(former) = said.strip_prefix("formerly ") {
                kind.formerly.insert(former.to_owned());
            } else if let Some(version) = said.strip_prefix("version ") {
                let (digits, codec) = version.split_once(", ").unwrap_or((version, ""));
                let parsed = digits.parse().map_err(|_| wrong("a version is a number"))?;
                let codec = codec.to_owned();
                let version = VersionLock { codec, lines: Vec::new() };
                if kind.versions.insert(parsed, version).is_some() {
                    return Err(wrong("the version stands twice"));
                }
                number = Some(parsed);
            } else {
                return Err(wrong("an event has former names and versions"));
            }
        } else {
            if lock.insert(line.to_owned(), KindLock::default()).is_some() {
                return Err(wrong("the event stands twice"));
            }
            (name, number) = (Some(line.to_owned()), None);
        }
    }
    Ok(lock)
}
