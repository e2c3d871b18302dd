//! What follows from an event.

use headwater_core::{NewEvent, Timestamp};

/// What a process does about one event: all of it in one append, or none.
#[derive(Clone, Debug)]
#[must_use]
pub struct Reaction<E> {
    pub(super) notes: Vec<E>,
    pub(super) issued: Vec<NewEvent>,
    pub(super) timers: Vec<Timed>,
}

/// What happens to a timer, called by its name within the process.
#[derive(Clone, Debug)]
pub(super) enum Timed {
    At(String, Timestamp, NewEvent),
    Cancel(String),
}

impl<E> Reaction<E> {
    /// Does nothing: the event is handled.
    pub fn none() -> Self {
        Self { notes: Vec::new(), issued: Vec::new(), timers: Vec::new() }
    }

    /// Notes what is done. The note is all that the process remembers.
    pub fn note(note: E) -> Self {
        Self { notes: vec![note], ..Self::none() }
    }

    /// Notes something further.
    pub fn and_note(mut self, note: E) -> Self {
        self.notes.push(note);
        self
    }

    /// Issues a command, or says that something has happened: an event in a stream of somebody else.
    /// Where it names no cause and no flow, it gets those of the event that is reacted to.
    pub fn issue(mut self, event: NewEvent) -> Self {
        self.issued.push(event);
        self
    }

    /// Lets an event appear at a time, unless it is cancelled before. Names are those of this process,
    /// and have no hyphens: other instances have timers of the same name. A timer of the name that is to fire at another
    /// time is replaced.
    pub fn at(mut self, name: impl Into<String>, time: Timestamp, event: NewEvent) -> Self {
        self.timers.push(Timed::At(name.into(), time, event));
        self
    }

    /// Cancels a timer of this process. One that has fired or was never made is no error; what it has
    /// appended may still be on its way.
    pub fn cancel(mut self, name: impl Into<String>) -> Self {
        self.timers.push(Timed::Cancel(name.into()));
        self
    }

    /// Returns whether nothing is done.
    pub fn is_none(&self) -> bool {
        self.notes.is_empty() && self.issued.is_empty() && self.timers.is_empty()
    }
}
