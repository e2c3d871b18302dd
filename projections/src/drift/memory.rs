//! States in memory, compared as JSON.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Audit, Differences, Extent};
use crate::checkpoint::Checkpoint;
use crate::sink::{MemorySink, MemoryView, SinkError};

/// Compares states of a [`MemorySink`]. What differs is told by its path in the JSON form of the
/// state, so that has to have one, always the same: keys of maps are texts or numbers, and there is
/// no `HashSet` in it, which comes as a list in any order.
pub struct MemoryAudit<S> {
    pub(super) model: MemoryView<S>,
    copy: Option<Value>,
}

impl<S> MemoryAudit<S> {
    /// Takes the view of the read model that is to be checked.
    pub fn new(model: MemoryView<S>) -> Self {
        Self { model, copy: None }
    }
}

impl<S> fmt::Debug for MemoryAudit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryAudit").finish_non_exhaustive()
    }
}

fn to_json(state: &impl Serialize) -> Result<Value, SinkError> {
    serde_json::to_value(state)
        .map_err(|error| SinkError::engine("writing the state as JSON", error))
}

impl<S> Audit for MemoryAudit<S>
where
    S: Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    type Sink = MemorySink<S>;

    fn copy(&mut self, _: &str) -> Result<Option<Checkpoint>, SinkError> {
        let (state, checkpoint) = self.model.get_with_checkpoint();
        self.copy = Some(to_json(&*state)?);
        Ok(checkpoint)
    }

    fn shadow(&mut self) -> Result<MemorySink<S>, SinkError> {
        Ok(MemorySink::new())
    }

    fn compare(
        &mut self,
        shadow: MemorySink<S>,
        extent: Extent,
        differences: &mut Differences,
    ) -> Result<(), SinkError> {
        let expected = to_json(&*shadow.view().get())?;
        compare("", self.copy.as_ref(), Some(&expected), extent, differences);
        Ok(())
    }
}

/// Notes where two JSON values differ.
pub(super) fn compare(
    path: &str,
    found: Option<&Value>,
    expected: Option<&Value>,
    extent: Extent,
    differences: &mut Differences,
) {
    match (found, expected) {
        (found, expected) if found == expected => {}
        (Some(_), None) if extent == Extent::OfTheShadow => {}
        (Some(Value::Object(found)), Some(Value::Object(expected))) => {
            let extra = found.keys().filter(|key| !expected.contains_key(*key));
            for key in expected.keys().chain(extra) {
                let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                compare(&path, found.get(key), expected.get(key), extent, differences);
            }
        }
        (Some(Value::Array(found)), Some(Value::Array(expected))) => {
            for index in 0..found.len().max(expected.len()) {
                let path = format!("{path}/{index}");
                compare(&path, found.get(index), expected.get(index), extent, differences);
            }
        }
        (found, expected) => {
            let text = |side: Option<&Value>| side.map(Value::to_string);
            let place = if path.is_empty() { "the state" } else { path };
            differences.note(place.to_owned(), text(found), text(expected));
        }
    }
}
