//! Deciding: pure and synchronous.

/// Decides what a command means for an entity and folds what happened into its state.
///
/// The pattern is Jérémie Chassaing's. Both functions are pure: the same state and the same
/// command give the same events, on every machine and at every time.
pub trait Decider {
    /// What is asked for.
    type Command;
    /// What happens.
    type Event;
    /// What decisions need to know; the default is the state before the first event.
    type State: Default;
    /// Why a command is refused.
    type Error;

    /// Decides what a command leads to; no events mean that nothing needs to happen.
    ///
    /// # Errors
    ///
    /// The domain's own refusal. Nothing is appended then.
    fn decide(
        &self,
        state: &Self::State,
        command: Self::Command,
    ) -> Result<Vec<Self::Event>, Self::Error>;

    /// Folds one event into the state. Never fails: what happened, happened.
    fn evolve(&self, state: Self::State, event: &Self::Event) -> Self::State;

    /// Folds events into the default state.
    fn fold<'a>(&self, events: impl IntoIterator<Item = &'a Self::Event>) -> Self::State
    where
        Self::Event: 'a,
        Self: Sized,
    {
        events.into_iter().fold(Self::State::default(), |state, event| self.evolve(state, event))
    }
}
