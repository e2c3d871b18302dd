//! Queries: which events a reader, a condition or a consumer selects.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::event::{NewEvent, RecordedEvent};
use crate::id::{CorrelationId, EventId};
use crate::kind::Event;
use crate::name::{Category, EventType, InvalidName, StreamId, Tag, category_of};

/// Selects events: all of them, or those that match at least one item.
///
/// # Examples
///
/// ```
/// use headwater_core::{Category, EventType, Query, Tag};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let placed_by_ann = Query::category(Category::new("order")?)
///     .and_types([EventType::new("order.placed")?])
///     .and_tags([Tag::new("customer:ann")?]);
/// let either = placed_by_ann.or(Query::tags([Tag::new("vip")?]));
/// assert_eq!(either.items().len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<QueryItem>", into = "Vec<QueryItem>")]
pub struct Query {
    items: Vec<QueryItem>,
}

/// One alternative of a query. Each part that is not empty narrows it: the event's stream,
/// category, type and flow must be among those named, and it must carry every tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryItem {
    /// Any of these streams.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamId>,
    /// Any of these categories.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<Category>,
    /// Any of these types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<EventType>,
    /// All of these tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Any of these flows: the event's correlation id or, where it has none, the id of its cause.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<CorrelationId>,
}

/// What a query looks at in an event. Engines implement it for their own borrowed events.
pub trait Selectable {
    /// Returns the stream's name.
    fn stream(&self) -> &str;
    /// Returns the name of the event type.
    fn event_type(&self) -> &str;
    /// Returns whether the event carries the tag.
    fn has_tag(&self, tag: &str) -> bool;
    /// Returns the flow that the event says it belongs to: see [`flow_of`].
    fn flow(&self) -> Option<CorrelationId>;
}

/// Returns the flow that an event with these ids belongs to: that of its correlation id or, where
/// it has none, the one that its cause began. An event that has neither may begin a flow, which is
/// then called after it.
pub fn flow_of(
    correlation_id: Option<CorrelationId>,
    causation_id: Option<EventId>,
) -> Option<CorrelationId> {
    correlation_id.or_else(|| causation_id.map(CorrelationId::from))
}

impl Selectable for RecordedEvent {
    fn stream(&self) -> &str {
        self.stream.as_str()
    }

    fn event_type(&self) -> &str {
        self.event_type.as_str()
    }

    fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|t| t.as_str() == tag)
    }

    fn flow(&self) -> Option<CorrelationId> {
        flow_of(self.correlation_id, self.causation_id)
    }
}

impl Selectable for NewEvent {
    fn stream(&self) -> &str {
        self.stream.as_str()
    }

    fn event_type(&self) -> &str {
        self.event_type.as_str()
    }

    fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|t| t.as_str() == tag)
    }

    fn flow(&self) -> Option<CorrelationId> {
        flow_of(self.correlation_id, self.causation_id)
    }
}

/// Returns whether `wanted` is one of the names, or there are none to choose from.
fn among<N: AsRef<str>>(names: &[N], wanted: &str) -> bool {
    names.is_empty() || names.iter().any(|name| name.as_ref() == wanted)
}

impl QueryItem {
    /// Returns whether the item selects `event`.
    pub fn matches(&self, event: &impl Selectable) -> bool {
        among(&self.streams, event.stream())
            && among(&self.categories, category_of(event.stream()))
            && among(&self.types, event.event_type())
            && self.tags.iter().all(|tag| event.has_tag(tag.as_str()))
            && (self.flows.is_empty()
                || event.flow().is_some_and(|flow| self.flows.contains(&flow)))
    }

    fn is_everything(&self) -> bool {
        self.streams.is_empty()
            && self.categories.is_empty()
            && self.types.is_empty()
            && self.tags.is_empty()
            && self.flows.is_empty()
    }
}

impl From<Vec<QueryItem>> for Query {
    /// Selects what any of the items does. An item without parts selects everything, and so do no
    /// items at all.
    fn from(items: Vec<QueryItem>) -> Self {
        if items.iter().any(QueryItem::is_everything) { Self::all() } else { Self { items } }
    }
}

impl From<Query> for Vec<QueryItem> {
    fn from(query: Query) -> Self {
        query.items
    }
}

impl Query {
    /// Selects every event.
    pub const fn all() -> Self {
        Self { items: Vec::new() }
    }

    /// Selects the events of one stream.
    pub fn stream(stream: StreamId) -> Self {
        Self::item(QueryItem { streams: vec![stream], ..QueryItem::default() })
    }

    /// Selects the events of all streams of a category.
    pub fn category(category: Category) -> Self {
        Self::item(QueryItem { categories: vec![category], ..QueryItem::default() })
    }

    /// Selects the events of any of these types.
    pub fn types(types: impl IntoIterator<Item = EventType>) -> Self {
        Self::item(QueryItem { types: types.into_iter().collect(), ..QueryItem::default() })
    }

    /// Selects the events of a type of the domain, under the names they have now or had before.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if one of [`Event::KINDS`] is not the name of an event type; never for derived
    /// events.
    pub fn events<E: Event>() -> Result<Self, InvalidName> {
        E::types().map(Self::types)
    }

    /// Selects the events that carry all of these tags.
    pub fn tags(tags: impl IntoIterator<Item = Tag>) -> Self {
        Self::item(QueryItem { tags: tags.into_iter().collect(), ..QueryItem::default() })
    }

    /// Selects the events of any of these flows: those with such a correlation id, and those that
    /// have none and were caused by the event with that id. The event that began a flow, which often
    /// gave it its id, is not among them if it has no correlation id itself;
    /// [`trace_flow`](crate::trace_flow) finds that too.
    pub fn flows(flows: impl IntoIterator<Item = CorrelationId>) -> Self {
        Self::item(QueryItem { flows: flows.into_iter().collect(), ..QueryItem::default() })
    }

    /// Selects what one item selects. An item without parts selects everything.
    pub fn item(item: QueryItem) -> Self {
        vec![item].into()
    }

    /// Narrows every alternative to these types.
    #[must_use]
    pub fn and_types(self, types: impl IntoIterator<Item = EventType>) -> Self {
        let types: Vec<EventType> = types.into_iter().collect();
        self.narrowed(|item| item.types.extend(types.iter().cloned()))
    }

    /// Narrows every alternative to events that carry these tags too.
    #[must_use]
    pub fn and_tags(self, tags: impl IntoIterator<Item = Tag>) -> Self {
        let tags: Vec<Tag> = tags.into_iter().collect();
        self.narrowed(|item| item.tags.extend(tags.iter().cloned()))
    }

    /// Narrows every alternative that names no types to these.
    pub(crate) fn with_types_known(self, types: &[EventType]) -> Self {
        self.narrowed(|item| {
            if item.types.is_empty() {
                item.types.extend_from_slice(types);
            }
        })
    }

    fn narrowed(mut self, narrow: impl Fn(&mut QueryItem)) -> Self {
        if self.items.is_empty() {
            let mut item = QueryItem::default();
            narrow(&mut item);
            return Self::item(item);
        }
        self.items.iter_mut().for_each(narrow);
        self
    }

    /// Selects what either query selects.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        if self.items.is_empty() || other.items.is_empty() {
            return Self::all();
        }
        self.items.extend(other.items);
        self
    }

    /// Returns the alternatives; none means everything.
    pub fn items(&self) -> &[QueryItem] {
        &self.items
    }

    /// Returns whether the query selects every event.
    pub fn is_all(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns whether the query selects `event`.
    pub fn matches(&self, event: &impl Selectable) -> bool {
        self.items.is_empty() || self.items.iter().any(|item| item.matches(event))
    }

    /// Returns a number that differs for queries that are written differently: `xxh3_64` of the
    /// canonical JSON form. Checkpoints carry it, so that none outlives a changed selection.
    pub fn fingerprint(&self) -> u64 {
        xxh3_64(&serde_json::to_vec(self).expect("names and lists have a JSON form"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::CodecId;

    fn event(stream: &str, event_type: &str, tags: &[&str]) -> NewEvent {
        let mut event = NewEvent::new(
            StreamId::new(stream).unwrap(),
            EventType::new(event_type).unwrap(),
            CodecId::RAW,
            "",
        );
        event.tags = tags.iter().map(|t| Tag::new(t).unwrap()).collect();
        event
    }

    fn tag(text: &str) -> Tag {
        Tag::new(text).unwrap()
    }

    #[test]
    fn parts_of_an_item_narrow_and_items_widen() {
        let query = Query::category(Category::new("order").unwrap())
            .and_types([EventType::new("placed").unwrap()])
            .or(Query::tags([tag("vip"), tag("eu")]));
        assert!(query.matches(&event("order-1", "placed", &[])));
        assert!(!query.matches(&event("order-1", "shipped", &[])));
        assert!(!query.matches(&event("orders-1", "placed", &[])));
        assert!(!query.matches(&event("cart-1", "opened", &["vip"])));
        assert!(query.matches(&event("cart-1", "opened", &["eu", "vip"])));
    }

    #[test]
    fn everything_swallows_every_other_alternative() {
        assert!(Query::all().or(Query::tags([tag("x")])).is_all());
        assert!(Query::item(QueryItem::default()).is_all());
        assert!(!Query::all().and_tags([tag("x")]).is_all());
        assert!(serde_json::from_str::<Query>("[{}]").unwrap().is_all());
    }

    #[test]
    fn the_flow_is_the_correlation_id_and_else_the_cause() {
        let (flow, cause) = (CorrelationId::generate(), EventId::generate());
        let of = |correlation_id, causation_id| {
            let event = event("a-1", "t", &["x"]);
            NewEvent { correlation_id, causation_id, ..event }
        };
        let query = Query::flows([flow]);
        assert!(query.matches(&of(Some(flow), Some(cause))));
        assert!(!query.matches(&of(None, Some(cause))));
        assert!(!query.matches(&of(None, None)));
        let caused = Query::flows([CorrelationId::generate(), cause.into()]);
        assert!(caused.matches(&of(None, Some(cause))));
        assert!(!caused.matches(&of(Some(flow), Some(cause))), "it has a flow of its own");
        assert!(!query.clone().and_tags([tag("y")]).matches(&of(Some(flow), None)));
        let json = serde_json::to_string(&query).unwrap();
        assert_eq!(json, format!(r#"[{{"flows":["{flow}"]}}]"#));
        assert_eq!(serde_json::from_str::<Query>(&json).unwrap(), query);
        assert!(!query.is_all());
    }

    #[test]
    fn the_fingerprint_follows_the_selection() {
        let a = Query::tags([tag("a")]);
        assert_eq!(a.fingerprint(), a.clone().fingerprint());
        assert_ne!(a.fingerprint(), Query::tags([tag("b")]).fingerprint());
        let json = serde_json::to_string(&a).unwrap();
        assert_eq!(serde_json::from_str::<Query>(&json).unwrap(), a);
    }
}
