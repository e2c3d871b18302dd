//! From what is asked for to alternatives, each a tree of fields that must all match.
//!
//! Every way to take one branch of each `$or` is an alternative. So what several places ask of
//! one field meets in one place, and of objects in a list one and the same must have it all.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::document::{At, Refused, pointer};
use super::error::{NeverMatches, PatternFault};
use super::field::{DATA, Field, HEADERS, Matchable};
use super::matcher::AnyOf;
use super::payload::{Demands, Payload, PayloadBuilder};
use super::query;
use super::scalar::{Scalar, Value};
use super::syntax::{Asked, Group};
use crate::codec::CodecId;
use crate::limits;
use crate::name::category_of;
use crate::query::Query;

/// What an alternative asks of one field: every list of values must match, and so must the
/// fields inside.
#[derive(Clone, Debug, Default)]
pub(super) struct Want {
    pub(super) values: Vec<Arc<AnyOf>>,
    pub(super) inside: Tree,
}

/// What an alternative asks of an object, by field.
pub(super) type Tree = BTreeMap<Box<str>, Want>;

/// A pattern in the form that events are matched with.
#[derive(Debug)]
pub(super) struct Compiled {
    alternatives: Vec<Alternative>,
    /// What the alternatives ask of the metadata.
    metadata: Vec<(Field, Arc<AnyOf>)>,
    payload: Payload,
    pub(super) query: Query,
}

#[derive(Debug)]
struct Alternative {
    /// Which of the demands on the metadata, all of them.
    metadata: Vec<usize>,
    /// What is asked of the payload, if anything is.
    payload: Option<Demands>,
}

impl Compiled {
    pub(super) fn of(group: &Group) -> Result<Self, Refused> {
        let (alternatives, fields) = size(group);
        if alternatives > limits::PATTERN_ALTERNATIVES_MAX || fields > limits::PATTERN_FIELDS_MAX {
            return Err(At::Top.refuse(PatternFault::TooManyAlternatives { alternatives, fields }));
        }
        let mut contradiction = None;
        let mut trees = alternatives_of(group);
        trees.retain(|tree| match contradiction_in(tree) {
            Some(field) => {
                contradiction.get_or_insert(field);
                false
            }
            None => true,
        });
        if let (true, Some(field)) = (trees.is_empty(), contradiction) {
            let why = NeverMatches::Contradiction { field };
            return Err(At::Top.refuse(PatternFault::NeverMatches(why)));
        }
        Ok(Self::of_trees(&trees))
    }

    fn of_trees(trees: &[Tree]) -> Self {
        let mut metadata: Vec<(Field, Arc<AnyOf>)> = Vec::new();
        let mut payload = PayloadBuilder::default();
        let wanted = trees.iter().map(|tree| {
            let mut demands: Vec<_> = fields_of(tree).collect();
            // A time must be written out first.
            demands.sort_by_key(|(field, _)| *field == Field::Time);
            let demands = demands.into_iter().map(|demand| {
                let known = metadata.iter().position(|known| *known == demand);
                known.unwrap_or_else(|| {
                    metadata.push(demand);
                    metadata.len() - 1
                })
            });
            (demands.collect::<Vec<_>>(), tree.get(DATA).map(|data| payload.add(data)))
        });
        let wanted: Vec<_> = wanted.collect();
        let payload = payload.finish();
        let alternatives = wanted.into_iter().map(|(metadata, data)| Alternative {
            metadata,
            payload: data.map(|data| payload.demands(&data)),
        });
        let alternatives = alternatives.collect();
        Self { alternatives, metadata, payload, query: query::of(trees) }
    }

    pub(super) fn matches<E: Matchable + ?Sized>(&self, event: &E) -> bool {
        // Alternatives share demands; with one there is nothing to share.
        let mut known =
            vec![None; if self.alternatives.len() > 1 { self.metadata.len() } else { 0 }];
        let mut holds = |demand: &usize| {
            let (field, asked) = &self.metadata[*demand];
            match known.get_mut(*demand) {
                Some(known) => *known.get_or_insert_with(|| field.holds(asked, event)),
                None => field.holds(asked, event),
            }
        };
        let mut open = Vec::new();
        for alternative in &self.alternatives {
            if alternative.metadata.iter().all(&mut holds) {
                match &alternative.payload {
                    None => return true,
                    Some(demands) => open.push(demands),
                }
            }
        }
        if open.is_empty() {
            return false;
        }
        let payload = (event.codec() == CodecId::JSON).then(|| event.payload());
        self.payload.any_holds(&open, payload)
    }
}

/// Goes through what a tree asks of the metadata.
pub(super) fn fields_of(tree: &Tree) -> impl Iterator<Item = (Field, Arc<AnyOf>)> {
    let direct = tree.iter().filter_map(|(name, want)| Some((Field::named(name)?, want)));
    let headers = tree.get(HEADERS).into_iter().flat_map(|headers| &headers.inside);
    let headers = headers.map(|(name, want)| (Field::Header(name.clone()), want));
    let each = |(field, want)| wants(field, want);
    direct.chain(headers).flat_map(each)
}

fn wants(field: Field, want: &Want) -> impl Iterator<Item = (Field, Arc<AnyOf>)> {
    want.values.iter().map(move |values| (field.clone(), values.clone()))
}

/// Returns how many alternatives there are, and how many fields they have together.
fn size(group: &Group) -> (u64, u64) {
    let each = |(a, fields_a): (u64, u64), (b, fields_b): (u64, u64)| {
        let fields = fields_a.saturating_mul(b).saturating_add(fields_b.saturating_mul(a));
        (a.saturating_mul(b), fields)
    };
    let fields = group.fields.values().map(|asked| match asked {
        Asked::Values(_) => (1, 1),
        Asked::Inside(group) => size(group),
    });
    let all = fields.fold((1, 0), each);
    if group.either.is_empty() {
        return all;
    }
    let either = group
        .either
        .iter()
        .map(size)
        .fold((0_u64, 0_u64), |(a, f), (b, g)| (a.saturating_add(b), f.saturating_add(g)));
    each(all, either)
}

fn alternatives_of(group: &Group) -> Vec<Tree> {
    let mut all = vec![Tree::new()];
    for (key, asked) in &group.fields {
        let choices = match asked {
            Asked::Values(values) => {
                vec![Want { values: vec![values.clone()], inside: Tree::new() }]
            }
            Asked::Inside(group) => {
                let inside = alternatives_of(group).into_iter();
                inside.map(|inside| Want { values: Vec::new(), inside }).collect()
            }
        };
        let choices = choices.into_iter().map(|want| Tree::from([(key.clone(), want)]));
        all = product(&all, &choices.collect::<Vec<_>>());
    }
    if group.either.is_empty() {
        return all;
    }
    let either: Vec<Tree> = group.either.iter().flat_map(alternatives_of).collect();
    product(&all, &either)
}

fn product(left: &[Tree], right: &[Tree]) -> Vec<Tree> {
    let pairs = left.iter().flat_map(|left| right.iter().map(move |right| (left, right)));
    let merged = pairs.map(|(left, right)| {
        let mut tree = left.clone();
        merge(&mut tree, right);
        tree
    });
    merged.collect()
}

fn merge(into: &mut Tree, other: &Tree) {
    for (key, want) in other {
        let slot = into.entry(key.clone()).or_default();
        for values in &want.values {
            if !slot.values.contains(values) {
                slot.values.push(values.clone());
            }
        }
        merge(&mut slot.inside, &want.inside);
    }
}

/// Finds a field of which a tree asks what excludes itself, as a JSON pointer.
fn contradiction_in(tree: &Tree) -> Option<String> {
    if let Some(steps) = absent_and_present(tree) {
        return Some(pointer(&steps));
    }
    for (name, want) in tree {
        if Field::named(name).is_some_and(|field| field.is_single()) && candidates(want).is_none() {
            return Some(pointer(&[name]));
        }
    }
    let streams = tree.get("stream").and_then(candidates).flatten();
    if let (Some(streams), Some(categories)) = (streams, tree.get("category")) {
        let fits = |stream: &&str| {
            categories.values.iter().all(|values| values.holds_text(category_of(stream)))
        };
        if !streams.iter().any(fits) {
            return Some(pointer(&["category"]));
        }
    }
    None
}

/// Finds a field that must be absent and have a value.
fn absent_and_present(tree: &Tree) -> Option<Vec<&str>> {
    for (key, want) in tree {
        let absent = want.values.iter().any(|values| values.only_absent());
        if absent && want.values.iter().any(|values| !values.holds_absent()) {
            return Some(vec![key]);
        }
        if let Some(mut steps) = absent_and_present(&want.inside) {
            steps.insert(0, key);
            return Some(steps);
        }
    }
    None
}

/// Returns the values that a field with one value can have, `Some(None)` where they are not
/// listed, and `None` where no value matches all that is asked.
#[expect(clippy::option_option, reason = "private, and said above")]
fn candidates(want: &Want) -> Option<Option<Vec<&str>>> {
    let Some(listed) = want.values.iter().find_map(|values| values.only_exact()) else {
        return Some(None);
    };
    let fits = |value: &&Value| want.values.iter().all(|values| values.holds(value.borrowed()));
    let fitting: Vec<_> = listed.iter().filter(fits).collect();
    if fitting.is_empty() {
        return None;
    }
    let texts = fitting.into_iter().filter_map(|value| match value {
        Scalar::Text(text) => Some(&**text),
        _ => None,
    });
    Some(Some(texts.collect()))
}
