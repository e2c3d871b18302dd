//! Idempotency: what an append id stands for.

use headwater_core::{AppendError, AppendId, Appended};

/// What the first append with an id did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) appended: Appended,
    pub(crate) digest: u64,
}

impl Remembered {
    /// Answers a repeated append: with the first result, or with an error if it is another one.
    pub(crate) fn answer(&self, id: AppendId, digest: u64) -> Result<Appended, AppendError> {
        if digest != self.digest {
            return Err(AppendError::AppendIdReused { id, first: self.appended.first });
        }
        Ok(Appended { deduplicated: true, ..self.appended })
    }
}
