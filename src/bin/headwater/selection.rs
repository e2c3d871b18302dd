//! The arguments that select events.

use clap::Args;
use headwater::{Category, CorrelationId, EventType, Query, QueryItem, StreamId, Tag};

/// Which events. Each option narrows the selection.
#[derive(Args, Debug)]
pub(crate) struct Selection {
    /// Only events of this stream, such as order-17
    #[arg(long, value_name = "STREAM")]
    stream: Option<StreamId>,
    /// Only events of streams of this category, such as order
    #[arg(long, value_name = "CATEGORY")]
    category: Option<Category>,
    /// Only events of this type; may be repeated, and then any of them will do
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<EventType>,
    /// Only events with this tag; may be repeated, and then all of them are needed
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<Tag>,
    /// Only events of the flow with this correlation id; may be repeated, and then any of them will do
    #[arg(long = "flow", value_name = "ID")]
    flows: Vec<CorrelationId>,
}

impl Selection {
    /// Returns the query that the arguments stand for.
    pub(crate) fn query(&self) -> Query {
        Query::item(QueryItem {
            streams: self.stream.iter().cloned().collect(),
            categories: self.category.iter().cloned().collect(),
            types: self.types.clone(),
            tags: self.tags.clone(),
            flows: self.flows.clone(),
        })
    }
}

/// Writes a query as people would say it.
pub(crate) fn describe(query: &Query) -> String {
    if query.is_all() {
        return "everything".to_owned();
    }
    let items: Vec<String> = query.items().iter().map(describe_item).collect();
    items.join(" or ")
}

fn describe_item(item: &QueryItem) -> String {
    fn part<N: AsRef<str>>(word: &str, names: &[N], between: &str) -> Option<String> {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        (!names.is_empty()).then(|| format!("{word} {}", names.join(between)))
    }
    let flows: Vec<String> = item.flows.iter().map(ToString::to_string).collect();
    let parts = [
        part("stream", &item.streams, "|"),
        part("category", &item.categories, "|"),
        part("type", &item.types, "|"),
        part("tag", &item.tags, "+"),
        part("flow", &flows, "|"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(", ")
}
