//! What is measured, as `docs/metrics.md` says, and how handles come by it.

#[cfg(not(feature = "metrics"))]
use super::nothing::{Counter, Gauge};
#[cfg(feature = "metrics")]
use metrics::{Counter, Gauge, Unit};

/// Name, unit and meaning.
#[cfg(feature = "metrics")]
const TABLE: &[(&str, Unit, &str)] = &[
    ("headwater_group_deliveries_total", Unit::Count, "events handed to members, again included"),
    (
        "headwater_group_redeliveries_total",
        Unit::Count,
        "deliveries that were not the first attempt",
    ),
    ("headwater_group_acked_total", Unit::Count, "events acknowledged"),
    ("headwater_group_failed_total", Unit::Count, "attempts that failed, expired leases included"),
    ("headwater_group_leases_expired_total", Unit::Count, "deliveries that nobody settled in time"),
    ("headwater_group_released_total", Unit::Count, "deliveries given back untouched"),
    ("headwater_group_parked_total", Unit::Count, "sequences parked"),
    ("headwater_group_dropped_total", Unit::Count, "hopeless events dropped by the group's policy"),
    ("headwater_group_commits_total", Unit::Count, "commits of progress"),
    (
        "headwater_group_commits_fenced_total",
        Unit::Count,
        "commits refused, for others own the slots",
    ),
    (
        "headwater_group_commits_failed_total",
        Unit::Count,
        "commits that the log did not take for now",
    ),
    ("headwater_group_members", Unit::Count, "members in this process"),
    ("headwater_group_slots", Unit::Count, "slots owned by members in this process"),
    ("headwater_group_in_flight", Unit::Count, "deliveries that are not settled"),
    ("headwater_group_buffered", Unit::Count, "events read and not settled"),
    ("headwater_group_parked_sequences", Unit::Count, "sequences that are parked"),
    ("headwater_group_lag_events", Unit::Count, "positions behind the head of the log"),
    ("headwater_group_lag_bytes", Unit::Bytes, "bytes of log behind the head"),
    ("headwater_group_lag_seconds", Unit::Seconds, "age of the first event not settled"),
    ("headwater_projection_events_applied_total", Unit::Count, "events applied and committed"),
    ("headwater_projection_batches_total", Unit::Count, "batches committed"),
    ("headwater_projection_retries_total", Unit::Count, "failures that were tried again"),
    ("headwater_projection_rebuilds_total", Unit::Count, "rebuilds begun in place"),
    ("headwater_projection_position", Unit::Count, "position up to which everything is applied"),
    ("headwater_projection_lag_events", Unit::Count, "positions behind the head of the log"),
    ("headwater_projection_lag_bytes", Unit::Bytes, "bytes of log behind the head"),
    ("headwater_projection_lag_seconds", Unit::Seconds, "age of the first event not applied"),
    ("headwater_reactor_events_total", Unit::Count, "events reacted to"),
    ("headwater_reactor_failures_total", Unit::Count, "reactions, or batches, that failed"),
    ("headwater_bridge_forwarded_total", Unit::Count, "events forwarded"),
    ("headwater_bridge_failures_total", Unit::Count, "attempts that failed"),
    ("headwater_bridge_refused_total", Unit::Count, "events that the target refused for good"),
    ("headwater_bridge_unavailable_total", Unit::Count, "times that the target could not be asked"),
];

#[cfg(feature = "metrics")]
fn entry(name: &'static str) -> (Unit, &'static str) {
    let entry = TABLE.iter().find(|(known, ..)| *known == name);
    let &(_, unit, help) = entry.expect("every metric is in the table");
    (unit, help)
}

#[cfg(feature = "metrics")]
pub(super) fn counter(name: &'static str, label: &'static str, value: &str) -> Counter {
    let (unit, help) = entry(name);
    metrics::describe_counter!(name, unit, help);
    metrics::counter!(name, label => value.to_owned())
}

#[cfg(feature = "metrics")]
pub(super) fn gauge(name: &'static str, label: &'static str, value: &str) -> Gauge {
    let (unit, help) = entry(name);
    metrics::describe_gauge!(name, unit, help);
    metrics::gauge!(name, label => value.to_owned())
}

#[cfg(not(feature = "metrics"))]
pub(super) fn counter(_: &'static str, _: &'static str, _: &str) -> Counter {
    Counter
}

#[cfg(not(feature = "metrics"))]
pub(super) fn gauge(_: &'static str, _: &'static str, _: &str) -> Gauge {
    Gauge
}

#[cfg(test)]
#[cfg(feature = "metrics")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_and_the_table_have_the_same_metrics() {
        let document = include_str!("../../../docs/metrics.md");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `headwater_"));
        let named = rows.filter_map(|row| row.split_once('`'));
        let documented: BTreeSet<String> = named
            .map(|(name, _)| format!("headwater_{name}"))
            .filter(|name| !name.starts_with("headwater_store_"))
            .collect();
        let known: BTreeSet<String> = TABLE.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(known.len(), TABLE.len());
        assert_eq!(documented, known);
    }
}
