//! The part of a pattern that an index can answer.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::compile::{Tree, Want, fields_of};
use super::field::Field;
use super::matcher::{AnyOf, Matcher};
use super::scalar::Scalar;
use super::text::TextTest;
use crate::id::CorrelationId;
use crate::name::{Category, Tag, category_of};
use crate::query::{Query, QueryItem};

/// Lists of tags of which one is enough are left out where they would make more items than this.
const ITEMS_MAX: usize = 128;

/// Returns a query that selects everything that any of the trees matches.
pub(super) fn of(trees: &[Tree]) -> Query {
    let mut items: Vec<QueryItem> = Vec::new();
    for tree in trees {
        let room = (ITEMS_MAX / trees.len()).max(1);
        for item in items_of(tree, room) {
            if !items.contains(&item) {
                items.push(item);
            }
        }
    }
    items.into()
}

/// Returns the items of one alternative, of which there may be `room`.
fn items_of(tree: &Tree, room: usize) -> Vec<QueryItem> {
    let mut item = QueryItem {
        streams: names(tree.get("stream")),
        types: names(tree.get("type")),
        categories: categories(tree),
        tags: Vec::new(),
        flows: flows(tree.get("correlationid")),
    };
    // The stream says it already.
    if !item.streams.is_empty() {
        item.categories.clear();
    }
    let mut tags: Vec<Vec<Tag>> = fields_of(tree)
        .filter(|(field, _)| *field == Field::Tags)
        .filter_map(|(_, values)| exact_names::<Tag>(&values))
        .collect();
    tags.sort_by_key(Vec::len);
    let mut items = vec![item];
    for any in tags {
        if items.len() * any.len() > room {
            break;
        }
        let with = |item: &QueryItem, tag: &Tag| {
            let mut item = item.clone();
            if !item.tags.contains(tag) {
                item.tags.push(tag.clone());
            }
            item
        };
        items = items.iter().flat_map(|item| any.iter().map(move |tag| with(item, tag))).collect();
    }
    items
}

/// Returns the names of which the field must have one, or none where that is not known.
fn names<N: AsRef<str> + FromStr>(want: Option<&Want>) -> Vec<N> {
    let Some(want) = want else { return Vec::new() };
    let listed = want.values.iter().find_map(|values| exact_names(values));
    let fits = |text: &N| want.values.iter().all(|values| values.holds_text(text.as_ref()));
    listed.map_or_else(Vec::new, |names| names.into_iter().filter(fits).collect())
}

fn exact_names<N: FromStr>(values: &AnyOf) -> Option<Vec<N>> {
    let names = values.only_exact()?.iter().map(|value| match value {
        Scalar::Text(text) => text.parse().ok(),
        _ => None,
    });
    names.collect()
}

/// Returns the flows of which the event must be one, or none where that is not known.
fn flows(want: Option<&Want>) -> Vec<CorrelationId> {
    let mut lists = want.into_iter().flat_map(|want| &want.values);
    lists.find_map(|values| exact_names(values)).unwrap_or_default()
}

/// Returns the categories that the streams must be of: those that are named, or those of which
/// the beginning of a stream's name tells.
fn categories(tree: &Tree) -> Vec<Category> {
    let named = names::<Category>(tree.get("category"));
    if !named.is_empty() {
        return named;
    }
    let lists = tree.get("stream").into_iter().flat_map(|want| &want.values);
    let mut told = lists.filter_map(|values| {
        let (exact, tests) = values.closed()?;
        let exact = exact.iter().map(|value| match value {
            Scalar::Text(text) => category(text),
            _ => None,
        });
        let tests = tests.iter().map(|test| match test {
            Matcher::Text(TextTest::Prefix(text)) => category(text),
            Matcher::Text(TextTest::Wildcard(wildcard)) => category(wildcard.head()),
            _ => None,
        });
        exact.chain(tests).collect::<Option<BTreeSet<Category>>>()
    });
    told.next().map_or_else(Vec::new, |told| told.into_iter().collect())
}

/// Returns the category of streams that begin like this, if it is in there whole.
fn category(beginning: &str) -> Option<Category> {
    beginning.contains('-').then(|| Category::new(category_of(beginning)).ok())?
}
