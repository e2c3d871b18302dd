//! What a decision needs to know, one question at a time or several at once.

use crate::event::RecordedEvent;
use crate::kind::{DecodeError, Event, decode_event};
use crate::name::InvalidName;
use crate::query::Query;

/// One thing that a decision needs to know: the events that tell it, and their fold.
///
/// The value is the view itself: it is made with what it asks about, and takes in the events one by
/// one. It is pure, and deterministic.
pub trait View: Send {
    /// The events that it understands.
    type Event: Event;

    /// Selects the events that it folds. Where this names no types, it is those of
    /// [`Event`](Self::Event): other events of the same streams and tags are neither read nor in the
    /// way.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if what is asked about cannot be in a tag or a stream.
    fn query(&self) -> Result<Query, InvalidName>;

    /// Takes in an event. Never fails: what happened, happened.
    fn apply(&mut self, event: &Self::Event);

    /// Selects the events that must not have happened since for the decision to stand; by default
    /// those of [`query`](Self::query), which is always right.
    ///
    /// Give less where you know that later events of some kinds cannot change what is decided, such
    /// as leaving where only joining is limited: there are fewer conflicts then.
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query).
    fn boundary(&self) -> Result<Query, InvalidName> {
        self.query()
    }
}

/// A view, or a tuple of up to eight. Each has its own query, and they are read together, in the
/// order of the log. It is implemented here only.
pub trait Views: Send + sealed::Sealed {
    /// Says what each view reads and depends on.
    #[doc(hidden)]
    fn selections(&self) -> Result<Vec<Selection>, InvalidName>;

    /// Gives an event to a view that has selected it.
    #[doc(hidden)]
    fn apply_to(&mut self, view: usize, event: &RecordedEvent) -> Result<(), DecodeError>;
}

/// What one view reads, and what of it must not have happened since.
#[derive(Clone, Debug)]
#[doc(hidden)]
pub struct Selection {
    pub(crate) query: Query,
    pub(crate) boundary: Query,
}

mod sealed {
    pub trait Sealed {}
}

impl<V: View> sealed::Sealed for V {}

impl<V: View> Views for V {
    fn selections(&self) -> Result<Vec<Selection>, InvalidName> {
        Ok(vec![selection(self)?])
    }

    fn apply_to(&mut self, _: usize, event: &RecordedEvent) -> Result<(), DecodeError> {
        View::apply(self, &decode_event(event)?);
        Ok(())
    }
}

fn selection<V: View>(view: &V) -> Result<Selection, InvalidName> {
    let known = V::Event::types()?;
    let narrowed = |query: Query| query.with_types_known(&known);
    Ok(Selection { query: narrowed(view.query()?), boundary: narrowed(view.boundary()?) })
}

macro_rules! tuple {
    ($($view:ident $index:tt),+) => {
        impl<$($view: View),+> sealed::Sealed for ($($view,)+) {}

        impl<$($view: View),+> Views for ($($view,)+) {
            fn selections(&self) -> Result<Vec<Selection>, InvalidName> {
                Ok(vec![$(selection(&self.$index)?),+])
            }

            fn apply_to(&mut self, view: usize, event: &RecordedEvent) -> Result<(), DecodeError> {
                match view {
                    $($index => View::apply(&mut self.$index, &decode_event(event)?),)+
                    _ => {}
                }
                Ok(())
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
