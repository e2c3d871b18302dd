//! Handles that measure nothing.

#[derive(Clone, Debug)]
pub(crate) struct Counter;

#[expect(clippy::unused_self, reason = "it stands for one that measures")]
impl Counter {
    pub(crate) fn increment(&self, _: u64) {}
}

#[derive(Clone, Debug)]
pub(crate) struct Gauge;

#[expect(clippy::unused_self, reason = "it stands for one that measures")]
impl Gauge {
    pub(crate) fn set(&self, _: f64) {}
}
