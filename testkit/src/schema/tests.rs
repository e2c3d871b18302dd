use headwater_core::shape::Shape;
use headwater_core::{Bincode, Event};
use serde::{Deserialize, Serialize};

use super::*;

/// One state of a program: its events, in a module of their own.
macro_rules! program {
    ($name:ident: $($item:item)*) => {
        mod $name {
            #![allow(dead_code, reason = "only their shapes are looked at")]

            use super::*;

            $($item)*

            pub(super) fn registry() -> Registry {
                Registry::new().with::<Order>().unwrap()
            }
        }
    };
}

program! { first:
    #[derive(Event, Serialize, Deserialize)]
    #[event(crate = headwater_core)]
    #[serde(rename_all_fields = "camelCase")]
    pub(super) enum Order {
        #[event(name = "placed")]
        Placed { order: u64, cents: Vec<Cents>, #[serde(default)] note: Option<String> },
        #[event(name = "line.added", formerly = "line")]
        Added(Line),
        #[event(name = "moved")]
        Moved(u8, u8),
        #[event(name = "shut")]
        Shut,
    }

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    pub(super) struct Cents(u64);

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    pub(super) struct Line { #[serde(rename = "article")] sku: Sku, count: NotDescribed, parts: Vec<Line> }

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    #[serde(rename_all = "lowercase")]
    pub(super) enum Sku { Shoe { size: u8 }, #[serde(rename = "other")] Else }

    #[derive(Serialize, Deserialize)]
    pub(super) struct NotDescribed(u8);
}

const FIRST: &str = "\
# How events are stored, for a test to notice when that changes without a new version.
# Written by headwater-testkit and kept under version control; HEADWATER_SCHEMA=update adds what is new.

line.added
  formerly line
  version 1, json
    article: one of (serde: rename_all = \"lowercase\")
      Shoe: struct
        size: u8
      other: nothing
    count: NotDescribed (not described)
    parts: Vec<Line>
      Line: as above

moved
  version 1, json
    0: u8
    1: u8

placed
  version 1, json
    (serde: rename_all = \"camelCase\")
    cents: Vec<Cents>
      Cents: u64
    note: Option<String> (serde: default)
    order: u64

shut
  version 1, json
    nothing
";

// The same shapes, written in another way.
program! { rewritten:
    #[derive(Event, Serialize, Deserialize)]
    #[event(crate = headwater_core)]
    pub(super) enum Order {
        #[event(name = "moved")]
        Shifted(u8, u8),
        #[event(name = "placed")]
        Placed(Box<WhatWasOrdered>),
        #[event(name = "shut")]
        Shut {},
        #[event(name = "line.added", formerly = "line")]
        Added { parts: Vec<Line>, count: NotDescribed, #[serde(rename = "article")] what: Article },
    }

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct WhatWasOrdered { #[serde(skip)] known: bool, cents: Vec<Cents>, order: u64, #[serde(default)] note: Option<String> }

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    pub(super) struct Cents { cents: u64 }

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    pub(super) struct Line(u8);

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    #[serde(rename_all = "lowercase")]
    pub(super) enum Article { #[serde(rename = "other")] Other, Shoe { size: u8 } }

    #[derive(Serialize, Deserialize)]
    pub(super) struct NotDescribed(u8);
}

/// A file that holds what a program stores, checked against another program.
struct Locked(tempfile::TempDir);

impl Locked {
    fn by(registry: &Registry) -> Self {
        let locked = Self(tempfile::tempdir().unwrap());
        assert_eq!(locked.run(SchemaMode::Update, registry).unwrap(), SchemaOutcome::Written);
        locked
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("schema.lock")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn run(&self, mode: SchemaMode, registry: &Registry) -> Result<SchemaOutcome, SchemaError> {
        SchemaLock::at(self.path()).mode(mode).check(registry)
    }

    /// What a check says, which an update must say too and leave the file alone.
    fn broken(&self, registry: &Registry) -> Vec<Difference> {
        let before = self.text();
        let of = |mode| match self.run(mode, registry) {
            Err(SchemaError::Broken { differences, .. }) => differences,
            other => panic!("{other:?}"),
        };
        let differences = of(SchemaMode::Check);
        assert_eq!(of(SchemaMode::Update), differences);
        assert_eq!(self.text(), before);
        assert_eq!(self.run(SchemaMode::Force, registry).unwrap(), SchemaOutcome::Written);
        assert_eq!(self.run(SchemaMode::Check, registry).unwrap(), SchemaOutcome::Same);
        fs::write(self.path(), before).unwrap();
        differences
    }

    /// What a check says, which an update writes down.
    fn outdated(&self, registry: &Registry) -> Vec<String> {
        let error = self.run(SchemaMode::Check, registry).unwrap_err();
        let SchemaError::Outdated { differences, .. } = error else { panic!("{error}") };
        assert_eq!(self.run(SchemaMode::Update, registry).unwrap(), SchemaOutcome::Written);
        assert_eq!(self.run(SchemaMode::Check, registry).unwrap(), SchemaOutcome::Same);
        differences.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn the_file_says_what_is_stored_for_people_to_read() {
    let locked = Locked::by(&first::registry());
    assert_eq!(locked.text(), FIRST);
    assert_eq!(locked.run(SchemaMode::Check, &first::registry()).unwrap(), SchemaOutcome::Same);
}

#[test]
fn without_a_file_a_check_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let lock = SchemaLock::at(dir.path().join("schema.lock")).mode(SchemaMode::Check);
    let error = lock.check(&Registry::new()).unwrap_err();
    assert!(matches!(error, SchemaError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("HEADWATER_SCHEMA=update"), "{error}");

    let updated = lock.clone().mode(SchemaMode::Update).check(&Registry::new());
    assert_eq!(updated.unwrap(), SchemaOutcome::Written);
    assert_eq!(lock.check(&Registry::new()).unwrap(), SchemaOutcome::Same);
}

#[test]
fn rust_names_and_the_order_of_named_fields_say_nothing_about_json() {
    let locked = Locked::by(&first::registry());
    let differences = locked.broken(&rewritten::registry());
    // What differs is what was changed within: a newtype became a struct, a struct a newtype.
    let changed: Vec<_> = differences
        .iter()
        .map(|difference| match difference {
            Difference::Changed { name, diff, .. } => (name.as_str(), diff.as_str()),
            other => panic!("{other}"),
        })
        .collect();
    let [("line.added", line), ("placed", placed)] = changed[..] else { panic!("{changed:?}") };
    assert!(line.contains("  -   Line: as above\n  +   Line: u8\n"), "{line}");
    assert!(
        placed.contains("  -   Cents: u64\n  +   Cents: struct\n  +     cents: u64\n"),
        "{placed}"
    );
    assert_eq!(placed.matches("\n  +").count(), 2, "{placed}");
}

#[test]
#[should_panic(expected = "Give it version 2 and keep this shape as a struct that derives Shape")]
fn a_test_fails_with_what_to_do() {
    let locked = Locked::by(&first::registry());
    SchemaLock::at(locked.path()).mode(SchemaMode::Check).assert(&rewritten::registry());
}

program! { priced:
    #[derive(Event, Serialize, Deserialize)]
    #[event(crate = headwater_core)]
    pub(super) enum Order {
        #[event(name = "priced")]
        Priced { order: u64, cents: u64 },
    }
}

program! { priced_twice:
    #[derive(Event, Serialize, Deserialize)]
    #[event(crate = headwater_core)]
    pub(super) enum Order {
        #[event(name = "order.priced", formerly = "priced", version = 2, from(1 = PricedV1))]
        Priced { order: u64, cents: u64, currency: String },
        #[event(name = "order.shut")]
        Shut,
    }

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    pub(super) struct PricedV1 { order: u64, cents: u64 }

    impl From<PricedV1> for Order {
        fn from(_: PricedV1) -> Self {
            Self::Shut
        }
    }
}

program! { priced_without_the_old:
    #[derive(Event, Serialize, Deserialize)]
    #[event(crate = headwater_core)]
    pub(super) enum Order {
        #[event(name = "priced", version = 2, from(1 = PricedV1))]
        Priced { order: u64 },
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct PricedV1 { order: u64, cents: u64 }

    impl From<PricedV1> for Order {
        fn from(old: PricedV1) -> Self {
            Self::Priced { order: old.order }
        }
    }
}

program! { priced_from_two_on:
    #[derive(Event, Serialize, Deserialize)]
    #[event(crate = headwater_core, name = "order.priced", version = 2, oldest = 2)]
    pub(super) struct Order { #[serde(rename = "order")] number: u64, cents: u64, currency: String }
}

program! { hot:
    #[derive(Event, Serialize, Deserialize)]
    #[event(crate = headwater_core, codec = Bincode, name = "priced")]
    pub(super) struct Order { number: u64, cents: u64 }
}

program! { hot_reordered:
    #[derive(Event, Serialize, Deserialize)]
    #[event(crate = headwater_core, codec = Bincode, name = "priced")]
    pub(super) struct Order { cents: u64, number: u64 }
}

#[test]
fn a_new_version_that_keeps_the_old_shape_is_written_down_also_under_another_name() {
    let locked = Locked::by(&priced::registry());
    let said = locked.outdated(&priced_twice::registry());
    assert_eq!(
        said,
        [
            "priced is called order.priced now",
            "order.priced was called priced",
            "order.priced has a version 2",
            "order.shut is new",
        ]
    );
    let text = locked.text();
    let expected = "order.priced\n  formerly priced\n  version 1, json\n    cents: u64\n    order: u64\n  version 2, json\n";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn an_old_shape_that_does_not_describe_itself_is_a_changed_one() {
    let locked = Locked::by(&priced::registry());
    let differences = locked.broken(&priced_without_the_old::registry());
    let Difference::Changed { version: 1, diff, .. } = &differences[0] else { panic!() };
    assert!(diff.contains("+ PricedV1 (not described)"), "{diff}");
}

#[test]
fn what_is_gone_is_named() {
    let locked = Locked::by(&priced_twice::registry());
    let differences = locked.broken(&priced_from_two_on::registry());
    let name = |name: &str| Difference::GoneName { name: name.to_owned() };
    let version = Difference::GoneVersion { name: "order.priced".into(), version: 1 };
    assert_eq!(differences, [name("priced"), version, name("order.shut")]);
}

#[test]
fn where_fields_have_no_names_in_what_is_stored_their_order_counts() {
    let locked = Locked::by(&hot::registry());
    let differences = locked.broken(&hot_reordered::registry());
    let [Difference::Changed { diff, .. }] = &differences[..] else { panic!("{differences:?}") };
    assert_eq!(diff, "  + cents: u64\n    number: u64\n  - cents: u64\n");
}

#[test]
fn another_codec_is_another_shape() {
    let locked = Locked::by(&priced::registry());
    let differences = locked.broken(&hot::registry());
    let [Difference::Changed { diff, .. }] = &differences[..] else { panic!("{differences:?}") };
    assert!(diff.contains("  - encoded as json\n  + encoded as bincode\n"), "{diff}");
}

program! { instead:
    #[derive(Event, Serialize, Deserialize)]
    #[event(crate = headwater_core, name = "measured")]
    pub(super) struct Order { day: Day, unit: Unit, whole: Whole }

    #[derive(Clone, Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    #[serde(into = "String", from = "String")]
    pub(super) struct Day { year: u16, day: u16 }

    impl From<String> for Day {
        fn from(_: String) -> Self {
            Self { year: 0, day: 0 }
        }
    }

    impl From<Day> for String {
        fn from(_: Day) -> Self {
            Self::new()
        }
    }

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    #[serde(try_from = "u8", into = "u8")]
    #[derive(Clone)]
    pub(super) enum Unit { Metre }

    impl TryFrom<u8> for Unit {
        type Error = std::fmt::Error;

        fn try_from(_: u8) -> Result<Self, std::fmt::Error> {
            Ok(Self::Metre)
        }
    }

    impl From<Unit> for u8 {
        fn from(_: Unit) -> Self {
            0
        }
    }

    #[derive(Serialize, Deserialize, Shape)]
    #[event(crate = headwater_core)]
    #[serde(transparent)]
    pub(super) struct Whole { number: i64 }
}

#[test]
fn what_serde_stores_instead_of_a_type_is_what_counts() {
    let locked = Locked::by(&instead::registry());
    let text = locked.text();
    let expected = "version 1, json\n    day: String\n    unit: u8\n    whole: i64\n";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn a_file_that_nobody_wrote_so_is_refused_with_the_line() {
    let locked = Locked::by(&priced::registry());
    let cases = [
        ("    cents: u64\n", 1),
        ("  version 1\n", 1),
        ("a\n    cents: u64\n", 2),
        ("a\n  version x\n", 2),
        ("a\n  version 1\n  version 1\n", 3),
        ("a\n\n# b\na\n", 4),
        ("a\n  verson 1\n", 2),
    ];
    for (text, expected) in cases {
        fs::write(locked.path(), text).unwrap();
        match locked.run(SchemaMode::Update, &priced::registry()) {
            Err(SchemaError::Malformed { line, .. }) => assert_eq!(line, expected, "{text:?}"),
            other => panic!("{text:?}: {other:?}"),
        }
        assert_eq!(locked.text(), text);
    }
}

#[test]
fn the_variable_has_three_values() {
    assert_eq!(asked_for("").unwrap(), SchemaMode::Check);
    assert_eq!(asked_for("update").unwrap(), SchemaMode::Update);
    assert_eq!(asked_for("force").unwrap(), SchemaMode::Force);
    let error = asked_for("yes").unwrap_err().to_string();
    assert!(error.contains("\"yes\"; it can be check, update or force"), "{error}");
}
