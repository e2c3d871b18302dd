//! What the writer measures, through the facade of the crate `metrics` (feature `metrics`): once for a
//! frame and never for an event. `docs/metrics.md` is the list.

#[cfg(feature = "metrics")]
pub(super) use self::measured::WriterMeters;
#[cfg(not(feature = "metrics"))]
pub(super) use self::nothing::WriterMeters;

/// A frame that was written.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "nobody measures"))]
pub(super) struct Written {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) head: headwater_core::Position,
    /// Whether it begins a segment.
    pub(super) begins_segment: bool,
}

#[cfg(feature = "metrics")]
mod measured {
    use std::time::{Duration, Instant};

    use headwater_core::{LogId, Position};
    use metrics::{Counter, Gauge, Histogram, Unit};

    use super::Written;

    /// The metrics of a store.
    #[derive(Debug)]
    pub(in crate::writer) struct WriterMeters {
        events: Counter,
        bytes: Counter,
        frames: Counter,
        segments: Counter,
        conflicts: Counter,
        failures: Counter,
        syncs: Counter,
        sync_seconds: Histogram,
        head: Gauge,
    }

    impl WriterMeters {
        pub(in crate::writer) fn new(store: LogId) -> Self {
            let counter = |name: &'static str, unit, help: &'static str| {
                metrics::describe_counter!(name, unit, help);
                metrics::counter!(name, "store" => store.to_string())
            };
            let (seconds, head) = ("headwater_store_sync_seconds", "headwater_store_head");
            metrics::describe_histogram!(seconds, Unit::Seconds, "how long syncs take");
            metrics::describe_gauge!(head, Unit::Count, "last position of the log");
            Self {
                events: counter("headwater_store_events_total", Unit::Count, "events appended"),
                bytes: counter("headwater_store_bytes_total", Unit::Bytes, "bytes of log written"),
                frames: counter(
                    "headwater_store_frames_total",
                    Unit::Count,
                    "groups of appends written as one",
                ),
                segments: counter("headwater_store_segments_total", Unit::Count, "segments begun"),
                conflicts: counter(
                    "headwater_store_conflicts_total",
                    Unit::Count,
                    "appends refused for their condition",
                ),
                failures: counter(
                    "headwater_store_failures_total",
                    Unit::Count,
                    "appends that failed otherwise",
                ),
                syncs: counter("headwater_store_syncs_total", Unit::Count, "syncs of the log"),
                sync_seconds: metrics::histogram!(seconds, "store" => store.to_string()),
                head: metrics::gauge!(head, "store" => store.to_string()),
            }
        }

        pub(in crate::writer) fn wrote(&self, written: Written) {
            self.events.increment(written.events as u64);
            self.bytes.increment(written.bytes as u64);
            self.frames.increment(1);
            self.segments.increment(u64::from(written.begins_segment));
            self.head(written.head);
        }

        #[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact")]
        pub(in crate::writer) fn head(&self, head: Position) {
            self.head.set(head.get() as f64);
        }

        pub(in crate::writer) fn conflict(&self) {
            self.conflicts.increment(1);
        }

        pub(in crate::writer) fn failed(&self, appends: usize) {
            self.failures.increment(appends as u64);
        }

        /// Does a sync and measures how long it takes.
        pub(in crate::writer) fn sync<T>(&self, sync: impl FnOnce() -> T) -> T {
            let begun = Instant::now();
            let done = sync();
            let took: Duration = begun.elapsed();
            self.syncs.increment(1);
            self.sync_seconds.record(took);
            done
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod nothing {
    use headwater_core::{LogId, Position};

    use super::Written;

    /// Measures nothing.
    #[derive(Debug)]
    pub(in crate::writer) struct WriterMeters;

    #[expect(clippy::unused_self, reason = "it stands for one that measures")]
    impl WriterMeters {
        pub(in crate::writer) fn new(_: LogId) -> Self {
            Self
        }

        pub(in crate::writer) fn wrote(&self, _: Written) {}

        pub(in crate::writer) fn head(&self, _: Position) {}

        pub(in crate::writer) fn conflict(&self) {}

        pub(in crate::writer) fn failed(&self, _: usize) {}

        pub(in crate::writer) fn sync<T>(&self, sync: impl FnOnce() -> T) -> T {
            sync()
        }
    }
}
