//! What a group has parked: looking at it, delivering it again, giving it up.

use headwater_core::{GroupChange, GroupError, Parked, ParkedState, Position, Read, RecordedEvent};

use super::ConsumerGroup;
use super::error::ConsumerError;

/// How many events of a parked sequence are shown at most.
const EVENTS_MAX: usize = 1_000;

impl ConsumerGroup {
    /// Returns the parked sequences by the position of their first event.
    ///
    /// # Errors
    ///
    /// If the log cannot say what the group has parked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn parked(&self) -> Result<Vec<Parked>, ConsumerError> {
        let shared = self.shared();
        let durable = if shared.with(|group| group.holds_all()) {
            Vec::new()
        } else {
            let state = shared.log.group(&shared.name).await;
            let state = state.map_err(|error| ConsumerError::from_log(&shared.name, error))?;
            state.parked().cloned().collect()
        };
        let mut parked = shared.with(|group| {
            let elsewhere = durable.into_iter().filter(|parked| !group.holds(parked.slot));
            let mut all: Vec<Parked> = elsewhere.collect();
            all.extend(group.parked());
            all
        });
        parked.sort_by_key(|parked| parked.first);
        Ok(parked)
    }

    /// Returns the events of the parked sequence that began with `first`, in order, at most 1,000.
    ///
    /// # Errors
    ///
    /// [`ConsumerError::Log`] with [`GroupError::NotParked`]; [`ConsumerError::Read`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Complexity
    ///
    /// Reads what the group selects from the first event that is not settled to the last one that
    /// was set aside.
    pub async fn parked_events(
        &self,
        first: Position,
    ) -> Result<Vec<RecordedEvent>, ConsumerError> {
        let shared = self.shared();
        let parked = self.parked().await?.into_iter().find(|parked| parked.first == first);
        let parked = parked.ok_or_else(|| self.not_parked(first))?;
        let mut events = Vec::new();
        let mut after = parked.next.previous();
        while after < parked.through {
            let read =
                Read::forward(shared.shape.query().clone(), after).visible(shared.visibility);
            let page = shared.log.read(read).await;
            let page = page.map_err(|error| shared.read_failed(after, error))?;
            let own = |event: &RecordedEvent| {
                event.position <= parked.through
                    && shared.shape.selects(event)
                    && match &parked.key {
                        Some(key) => event.ordering_key() == key.as_str(),
                        None => event.position == first,
                    }
            };
            events.extend(page.events.into_iter().filter(own));
            if page.done || events.len() >= EVENTS_MAX {
                break;
            }
            after = page.scanned;
        }
        events.truncate(EVENTS_MAX);
        Ok(events)
    }

    /// Delivers the parked sequence that began with `first` again, in order. Later events of its
    /// key come behind it. If one of it becomes hopeless again, what is left of the sequence is
    /// parked once more.
    ///
    /// # Errors
    ///
    /// [`ConsumerError::Log`] with [`GroupError::NotParked`]. If the log refuses to make it
    /// durable, it is delivered again here, and after a restart it may be parked as before.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may or may not re-drive.
    pub async fn redrive(&self, first: Position) -> Result<(), ConsumerError> {
        self.set_parked(first, ParkedState::Redriving).await
    }

    /// Delivers everything again that is parked, as [`redrive`](Self::redrive), and returns how
    /// many sequences that is.
    ///
    /// # Errors
    ///
    /// As [`redrive`](Self::redrive), for the first sequence that fails.
    ///
    /// # Cancel safety
    ///
    /// A dropped future may have re-driven some.
    pub async fn redrive_all(&self) -> Result<usize, ConsumerError> {
        let parked = self.parked().await?;
        let waiting = parked.iter().filter(|parked| parked.state == ParkedState::Waiting);
        let waiting: Vec<Position> = waiting.map(|parked| parked.first).collect();
        for &first in &waiting {
            self.redrive(first).await?;
        }
        Ok(waiting.len())
    }

    /// Gives the parked sequence that began with `first` up: all of it counts as settled, and its
    /// key goes on.
    ///
    /// # Errors
    ///
    /// As [`redrive`](Self::redrive).
    ///
    /// # Cancel safety
    ///
    /// A dropped future may or may not discard.
    pub async fn discard(&self, first: Position) -> Result<(), ConsumerError> {
        self.set_parked(first, ParkedState::Done).await
    }

    async fn set_parked(&self, first: Position, state: ParkedState) -> Result<(), ConsumerError> {
        let shared = self.shared();
        let _turn = shared.log_turn.write().await;
        shared.check_open()?;
        let done = shared.with(|group| {
            let change = |group: &mut super::coordinator::Coordinator| match state {
                ParkedState::Done => group.discard(first),
                _ => group.redrive(first),
            };
            group.is_live().then(|| change(group))
        });
        match done {
            Some(true) => shared.commit(None).await,
            Some(false) if !shared.is_among_others() => Err(self.not_parked(first)),
            // Nobody owns its slot here: the log alone knows.
            _ => {
                let change = GroupChange::Parked(first, state);
                let changed = shared.log.change_group(&shared.name, change).await;
                changed.map(drop).map_err(|error| ConsumerError::from_log(&shared.name, error))
            }
        }
    }

    fn not_parked(&self, position: Position) -> ConsumerError {
        let group = self.name().clone();
        ConsumerError::from_log(self.name(), GroupError::NotParked { group, position })
    }
}
