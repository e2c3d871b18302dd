//! Matching a JSON payload while it is read, without keeping it.
//!
//! What all alternatives ask of the payload is one tree of keys; everything else is skipped. Each
//! demand has a number, and reading sets two flags for it:
//!
//! - `found`: a value was there that matches;
//! - `present`: a value was there at all.
//!
//! A demand on a field's values *holds by value* if `found`, and *by absence* if absence is
//! asked for and nothing is `present`. A demand on the fields inside holds by value if one object
//! there has all of them, at least one by value; by absence if in each object all of them hold by
//! absence, and so also where there is no object. These are the semantics of event-ruler,
//! EventBridge's own matcher, with its array consistency.
//!
//! The numbers of what lies below a node are a range, which is cleared for each object of a list.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use memchr::memchr;
use memchr::memmem::Finder;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::compile::Want;
use super::matcher::{AnyOf, Matcher};
use super::scalar::{Number, Scalar};
use super::text::TextTest;

/// What alternatives ask of the payload.
#[derive(Debug)]
pub(super) struct Payload {
    root: Spot,
    /// By number: whether the demand can hold by absence.
    absent: Vec<bool>,
}

/// What one alternative asks of the payload.
#[derive(Debug)]
pub(super) struct Demands {
    /// Their numbers; all must hold.
    all: Vec<usize>,
    /// Whether all hold where there is no payload that is JSON.
    absent: bool,
    /// Bytes of which one stands in every payload that matches and has no backslash in it:
    /// looking for them first is the idea of Sparser (Palkar and others, VLDB 2018).
    needles: Vec<Finder<'static>>,
}

/// A place where values stand: the payload as a whole, or a field in it.
#[derive(Debug, Default)]
struct Spot {
    values: Vec<(usize, Arc<AnyOf>)>,
    node: Option<Node>,
}

/// The objects at a spot.
#[derive(Debug)]
struct Node {
    keys: Vec<(Box<str>, Spot)>,
    /// A number, and the numbers of all demands that one object must meet for it.
    objects: Vec<(usize, Vec<usize>)>,
    /// The numbers of everything that lies in an object.
    below: Range<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    found: bool,
    present: bool,
}

impl Payload {
    /// Finishes what [`PayloadBuilder::add`] returned.
    pub(super) fn demands(&self, added: &Added) -> Demands {
        let numbers = |place: &Place| match *place {
            Place::Values(index) => self.root.values.get(index).map(|values| values.0),
            Place::Objects(index) => {
                self.root.node.as_ref().and_then(|node| node.objects.get(index)).map(|of| of.0)
            }
        };
        let all: Vec<usize> = added.places.iter().filter_map(numbers).collect();
        let absent = all.iter().all(|&number| self.absent[number]);
        let needles = added.needles.iter().map(|text| Finder::new(text.as_bytes()).into_owned());
        Demands { needles: needles.collect(), all, absent }
    }

    /// Returns whether one of the alternatives finds all it asks for in `payload`, which is
    /// `None` where it is not JSON.
    pub(super) fn any_holds(&self, open: &[&Demands], payload: Option<&[u8]>) -> bool {
        let absent = || open.iter().any(|demands| demands.absent);
        let Some(payload) = payload else { return absent() };
        let mut escaped = None;
        let mut possible = |demands: &&Demands| {
            demands.needles.is_empty()
                || demands.needles.iter().any(|needle| needle.find(payload).is_some())
                || *escaped.get_or_insert_with(|| memchr(b'\\', payload).is_some())
        };
        if !open.iter().any(&mut possible) {
            return false;
        }
        let mut reading =
            Reading { absent: &self.absent, flags: vec![Flags::default(); self.absent.len()] };
        let mut json = serde_json::Deserializer::from_slice(payload);
        let read = At { spot: &self.root, reading: &mut reading }.deserialize(&mut json);
        if read.and_then(|()| json.end()).is_err() {
            return absent();
        }
        open.iter().any(|demands| {
            demands.all.iter().all(|&n| reading.by_value(n) || reading.by_absence(n))
        })
    }
}

/// The flags while a payload is read.
struct Reading<'a> {
    absent: &'a [bool],
    flags: Vec<Flags>,
}

impl Reading<'_> {
    fn by_value(&self, number: usize) -> bool {
        self.flags[number].found
    }

    fn by_absence(&self, number: usize) -> bool {
        self.absent[number] && !self.flags[number].present
    }

    fn value(&mut self, spot: &Spot, value: Scalar<&str>) {
        for (number, values) in &spot.values {
            let flags = &mut self.flags[*number];
            flags.present = true;
            flags.found = flags.found || values.holds(value);
        }
    }

    fn begin_object(&mut self, node: &Node) {
        self.flags[node.below.clone()].fill(Flags::default());
    }

    fn end_object(&mut self, node: &Node) {
        for (number, all) in &node.objects {
            let absent = all.iter().all(|&n| self.by_absence(n));
            let found = all.iter().all(|&n| self.by_value(n) || self.by_absence(n))
                && all.iter().any(|&n| self.by_value(n));
            let flags = &mut self.flags[*number];
            flags.found = flags.found || found;
            flags.present = flags.present || !absent;
        }
    }
}

/// Reads the value, or the values of the list, that stand at a spot.
struct At<'a, 'r, 's> {
    spot: &'s Spot,
    reading: &'a mut Reading<'r>,
}

impl<'de> DeserializeSeed<'de> for At<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl At<'_, '_, '_> {
    fn value(self, value: Scalar<&str>) {
        self.reading.value(self.spot, value);
    }
}

impl<'de> Visitor<'de> for At<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.value(Scalar::Null);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.value(Scalar::Bool(value));
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.value(Scalar::Number(value.into()));
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.value(Scalar::Number(value.into()));
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not a number"))?;
        self.value(Scalar::Number(number));
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.value(Scalar::Text(value));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { spot, reading } = self;
        while items.next_element_seed(At { spot, reading: &mut *reading })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self { spot, reading } = self;
        let Some(node) = &spot.node else {
            while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        reading.begin_object(node);
        while let Some(spot) = fields.next_key_seed(KeyOf(node))? {
            match spot {
                Some(spot) => fields.next_value_seed(At { spot, reading: &mut *reading })?,
                None => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        reading.end_object(node);
        Ok(())
    }
}

/// Reads a key and finds its spot, if anything is asked there.
struct KeyOf<'s>(&'s Node);

impl<'de, 's> DeserializeSeed<'de> for KeyOf<'s> {
    type Value = Option<&'s Spot>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for KeyOf<'s> {
    type Value = Option<&'s Spot>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        let found = self.0.keys.binary_search_by(|(known, _)| (**known).cmp(key));
        Ok(found.ok().map(|at| &self.0.keys[at].1))
    }
}

/// Joins what alternatives ask of the payload.
#[derive(Debug, Default)]
pub(super) struct PayloadBuilder {
    root: SpotBuilder,
}

/// What one alternative asks, before there are numbers.
#[derive(Debug)]
pub(super) struct Added {
    places: Vec<Place>,
    needles: Vec<String>,
}

/// A demand at a spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Values(usize),
    Objects(usize),
}

#[derive(Debug, Default)]
struct SpotBuilder {
    values: Vec<Arc<AnyOf>>,
    keys: BTreeMap<Box<str>, SpotBuilder>,
    objects: Vec<Vec<(Box<str>, Place)>>,
}

impl PayloadBuilder {
    pub(super) fn add(&mut self, want: &Want) -> Added {
        Added { places: self.root.add(want), needles: needles(want).unwrap_or_default() }
    }

    pub(super) fn finish(self) -> Payload {
        let mut absent = Vec::new();
        let root = self.root.finish(&mut absent);
        Payload { root, absent }
    }
}

impl SpotBuilder {
    fn add(&mut self, want: &Want) -> Vec<Place> {
        let values = want
            .values
            .iter()
            .map(|values| Place::Values(index_of(&mut self.values, values.clone())));
        let mut places: Vec<Place> = values.collect();
        if !want.inside.is_empty() {
            let mut all = Vec::new();
            for (key, want) in &want.inside {
                let places = self.keys.entry(key.clone()).or_default().add(want);
                all.extend(places.into_iter().map(|place| (key.clone(), place)));
            }
            places.push(Place::Objects(index_of(&mut self.objects, all)));
        }
        places
    }

    /// Gives every demand its number: first those at this spot, then those below it.
    fn finish(self, absent: &mut Vec<bool>) -> Spot {
        let values = self.values.into_iter().map(|values| {
            absent.push(values.holds_absent());
            (absent.len() - 1, values)
        });
        let values = values.collect();
        if self.keys.is_empty() {
            return Spot { values, node: None };
        }
        let first_object = absent.len();
        // Set below, when it is known of what they consist.
        absent.resize(first_object + self.objects.len(), false);
        let from = absent.len();
        let keys: Vec<_> =
            self.keys.into_iter().map(|(key, spot)| (key, spot.finish(absent))).collect();
        let number = |(key, place): (Box<str>, Place)| {
            let at = keys.binary_search_by(|(known, _)| known.cmp(&key)).ok()?;
            let spot = &keys[at].1;
            match place {
                Place::Values(index) => spot.values.get(index).map(|values| values.0),
                Place::Objects(index) => spot.node.as_ref()?.objects.get(index).map(|of| of.0),
            }
        };
        let mut objects = Vec::new();
        for (index, all) in self.objects.into_iter().enumerate() {
            let all: Vec<usize> = all.into_iter().filter_map(number).collect();
            absent[first_object + index] = all.iter().all(|&number| absent[number]);
            objects.push((first_object + index, all));
        }
        let below = from..absent.len();
        Spot { values, node: Some(Node { keys, objects, below }) }
    }
}

/// Returns the place of `item` in the list, where it is put if it is new.
fn index_of<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

/// More than this many are not looked for.
const NEEDLES_MAX: usize = 4;

/// Finds texts of which one stands in every payload that matches: those of one list, the one
/// whose shortest is longest.
fn needles(want: &Want) -> Option<Vec<String>> {
    let here = want.values.iter().filter_map(|values| needles_of(values));
    let inside = want.inside.values().filter_map(needles);
    here.chain(inside).max_by_key(|texts| texts.iter().map(String::len).min())
}

fn needles_of(values: &AnyOf) -> Option<Vec<String>> {
    let (exact, tests) = values.closed()?;
    if exact.len() + tests.len() > NEEDLES_MAX {
        return None;
    }
    let exact = exact.iter().map(|value| match value {
        Scalar::Text(text) => Some(format!("\"{text}\"")),
        _ => None,
    });
    let tests = tests.iter().map(|test| match test {
        Matcher::Text(TextTest::Prefix(text)) => Some(format!("\"{text}")),
        Matcher::Text(TextTest::Suffix(text)) => Some(format!("{text}\"")),
        Matcher::Text(TextTest::Wildcard(wildcard)) => Some(wildcard.longest_part().to_owned()),
        _ => None,
    });
    let needles: Option<Vec<_>> = exact.chain(tests).collect();
    // One byte is found anywhere.
    needles.filter(|needles| needles.iter().all(|needle| needle.len() > 2))
}
