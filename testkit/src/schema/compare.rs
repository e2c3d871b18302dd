//! What the file and the program disagree about.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use similar::{ChangeTag, TextDiff};

use super::file::{KindLock, Lock, VersionLock};
use super::render::find;

/// Something that the file and the program disagree about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// A kind of event is new.
    NewKind {
        /// Its name.
        name: String,
    },
    /// A kind has another name, and knows the old one.
    Renamed {
        /// The name in the file.
        from: String,
        /// The name in the program.
        to: String,
    },
    /// A kind has a version more.
    NewVersion {
        /// The kind.
        name: String,
        /// The version.
        version: u16,
    },
    /// A kind has a former name more.
    NewFormerName {
        /// The kind.
        name: String,
        /// The former name.
        former: String,
    },
    /// What is stored of a version changed.
    Changed {
        /// The kind.
        name: String,
        /// The version.
        version: u16,
        /// Which lines: unchanged ones begin with two spaces, those of the file with `-`, those of the
        /// program with `+`.
        diff: String,
    },
    /// A name is gone, current or former.
    GoneName {
        /// The name.
        name: String,
    },
    /// A version is gone.
    GoneVersion {
        /// The kind.
        name: String,
        /// The version.
        version: u16,
    },
}

impl Difference {
    /// Returns whether events that are stored would be read as what they are not, or not at all.
    pub fn breaks(&self) -> bool {
        matches!(self, Self::Changed { .. } | Self::GoneName { .. } | Self::GoneVersion { .. })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewKind { name } => write!(f, "{name} is new"),
            Self::Renamed { from, to } => write!(f, "{from} is called {to} now"),
            Self::NewVersion { name, version } => write!(f, "{name} has a version {version}"),
            Self::NewFormerName { name, former } => write!(f, "{name} was called {former}"),
            Self::Changed { name, version, diff } => write!(
                f,
                "{name}, version {version}, is stored in another shape:\n{diff}\
                 Give it version {} and keep this shape as a struct that derives Shape: from({version} = ...).",
                version + 1
            ),
            Self::GoneName { name } => write!(
                f,
                "{name} is gone. Bring it back, or write formerly = {name:?} where it has another name now."
            ),
            Self::GoneVersion { name, version } => write!(
                f,
                "{name}, version {version}, is gone. Bring back its shape: from({version} = ...)."
            ),
        }
    }
}

/// Compares the file with the program.
pub(super) fn differences(locked: &Lock, current: &Lock) -> Vec<Difference> {
    let (mut found, mut met) = (Vec::new(), BTreeSet::new());
    for (name, kind) in current {
        let Some((locked_name, before)) = find(locked, name, kind) else {
            found.push(Difference::NewKind { name: name.clone() });
            continue;
        };
        met.insert(locked_name);
        if locked_name != name {
            let (from, to) = (locked_name.to_owned(), name.clone());
            found.push(Difference::Renamed { from, to });
        }
        compare(name, before, kind, &mut found);
    }
    let gone = locked.keys().filter(|name| !met.contains(name.as_str()));
    found.extend(gone.map(|name| Difference::GoneName { name: name.clone() }));
    found
}

fn compare(name: &str, before: &KindLock, kind: &KindLock, found: &mut Vec<Difference>) {
    let name = || name.to_owned();
    for former in before.formerly.difference(&kind.formerly) {
        if *former != name() {
            found.push(Difference::GoneName { name: former.clone() });
        }
    }
    for former in kind.formerly.difference(&before.formerly) {
        let (name, former) = (name(), former.clone());
        found.push(Difference::NewFormerName { name, former });
    }
    for (&version, locked) in &before.versions {
        match kind.versions.get(&version) {
            None => found.push(Difference::GoneVersion { name: name(), version }),
            Some(current) if current != locked => {
                let diff = diff(locked, current);
                found.push(Difference::Changed { name: name(), version, diff });
            }
            Some(_) => {}
        }
    }
    let new = kind.versions.keys().filter(|version| !before.versions.contains_key(version));
    found.extend(new.map(|&version| Difference::NewVersion { name: name(), version }));
}

fn diff(locked: &VersionLock, current: &VersionLock) -> String {
    let codecs = [locked, current].map(|version| format!("encoded as {}", version.codec));
    let [old, new] = [(locked, &codecs[0]), (current, &codecs[1])].map(|(version, codec)| {
        let codec = Some(codec).filter(|_| locked.codec != current.codec);
        codec.into_iter().chain(&version.lines).map(String::as_str).collect::<Vec<_>>()
    });
    let mut out = String::new();
    for change in TextDiff::from_slices(&old, &new).iter_all_changes() {
        let sign = match change.tag() {
            ChangeTag::Equal => ' ',
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
        };
        writeln!(out, "  {sign} {}", change.value()).expect("texts grow");
    }
    out
}
