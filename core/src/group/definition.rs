//! What a group is, and what is asked for when one is opened.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::GroupError;
use crate::event::RecordedEvent;
use crate::log::{EventLog, ReadError, Visibility};
use crate::name::GroupName;
use crate::pattern::EventPattern;
use crate::position::{Position, number};
use crate::query::Query;
use crate::time::Timestamp;

/// What a group is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// A consumer group: its members read the log in order from tracked offsets.
    #[default]
    Consumer,
    /// A share group, a work queue: each event is leased, settled and counted on its own.
    Share,
}

/// In which order a group hands out its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Events of one key one after the other, keys beside each other.
    #[default]
    Key,
    /// All events one after the other. Only consumer groups have it.
    Global,
    /// Any events beside each other. Only share groups have it.
    None,
}

/// Where a new group begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the first event of the log.
    #[default]
    Beginning,
    /// With the first event after the group was created.
    End,
    /// After a position.
    After(Position),
    /// With the first event that was committed at this time or later.
    Time(Timestamp),
}

impl From<Position> for Start {
    fn from(position: Position) -> Self {
        Self::After(position)
    }
}

impl Start {
    /// Returns the position after which it lies in a log as it is now. Whether the log reaches so
    /// far is not checked.
    ///
    /// # Errors
    ///
    /// If the log cannot be read.
    pub async fn resolve<L: EventLog + ?Sized>(self, log: &L) -> Result<Position, ReadError> {
        match self {
            Self::Beginning => log.start().await,
            Self::End => log.head(Visibility::Committed).await,
            Self::After(position) => Ok(position),
            Self::Time(time) => log.position_at(time.saturating_sub(Duration::from_nanos(1))).await,
        }
    }
}

/// What a group is for, in which order, and of which events: what never changes by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupShape {
    /// What it is for.
    pub kind: GroupKind,
    /// In which order it hands out events.
    pub order: Order,
    /// Which events it receives.
    pub selection: Query,
    /// Which of these it receives, by their metadata and payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<EventPattern>,
}

impl GroupShape {
    /// Returns what to read of a log: everything that the group may receive, and little else.
    pub fn query(&self) -> &Query {
        match &self.pattern {
            Some(pattern) if self.selection.is_all() => pattern.query(),
            _ => &self.selection,
        }
    }

    /// Returns whether the group receives an event.
    pub fn selects(&self, event: &RecordedEvent) -> bool {
        self.selection.matches(event)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.matches(event))
    }

    /// Checks that the kind has the order.
    ///
    /// # Errors
    ///
    /// [`GroupError::NoSuchOrder`].
    pub fn check(&self, group: &GroupName) -> Result<(), GroupError> {
        match (self.kind, self.order) {
            (GroupKind::Consumer, Order::None) | (GroupKind::Share, Order::Global) => {
                let (group, kind, order) = (group.clone(), self.kind, self.order);
                Err(GroupError::NoSuchOrder { group, kind, order })
            }
            _ => Ok(()),
        }
    }

    /// Says in what another shape differs; `None` if it is the same.
    pub(super) fn differences(&self, asked: &Self) -> Option<String> {
        fn part(name: &str, stored: &impl Serialize, asked: &impl Serialize) -> Option<String> {
            let json = |value: Result<String, _>| value.unwrap_or_default();
            let stored = json(serde_json::to_string(stored));
            let asked = json(serde_json::to_string(asked));
            (stored != asked).then(|| format!("the {name} {stored}, not {asked}"))
        }
        let parts = [
            part("kind", &self.kind, &asked.kind),
            part("order", &self.order, &asked.order),
            part("selection", &self.selection, &asked.selection),
            part("pattern", &self.pattern, &asked.pattern),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(" and "))
    }
}

number! {
    /// Names a group for good: it stays when the group gets another name, and a group that is
    /// created under the name of one that was deleted has another.
    GroupId
}

/// What a group is: its name and identity, its shape, and where it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupDefinition {
    /// The name, unique in its log.
    pub name: GroupName,
    /// The identity.
    pub id: GroupId,
    /// What it is for, in which order, and of which events.
    pub shape: GroupShape,
    /// It receives events after this position.
    pub start: Position,
}

/// A group to open, or to create where there is none of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGroup {
    /// The name, unique in its log.
    pub name: GroupName,
    /// What it is for, in which order, and of which events.
    pub shape: GroupShape,
    /// Where it begins, if it is new.
    pub start: Start,
}

impl NewGroup {
    /// Asks for a consumer group that receives every event from the beginning, each key in order.
    pub fn consumer(name: GroupName) -> Self {
        Self { name, shape: GroupShape::default(), start: Start::Beginning }
    }

    /// Asks for a share group that receives every event from the beginning, in no order.
    pub fn share(name: GroupName) -> Self {
        let (kind, order) = (GroupKind::Share, Order::None);
        let shape = GroupShape { kind, order, ..GroupShape::default() };
        Self { shape, ..Self::consumer(name) }
    }

    /// Sets in which order it hands out events.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.shape.order = order;
        self
    }

    /// Sets which events it receives.
    #[must_use]
    pub fn select(mut self, selection: Query) -> Self {
        self.shape.selection = selection;
        self
    }

    /// Sets which of the selected events it receives, by their metadata and payload.
    #[must_use]
    pub fn matching(mut self, pattern: EventPattern) -> Self {
        self.shape.pattern = Some(pattern);
        self
    }

    /// Sets where it begins if it is new.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }
}
