//! Snapshots of the views that decisions rest on, each of its own.
//!
//! All views of a decision must say what held at one moment: each is folded from its own snapshot up to
//! one position. That is the log's head once the snapshots are known, so that none lies behind it.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fold::{Folded, Recalled, Selected, Taken};
use super::origin::Origin;
use super::record::Identity;
use super::{Snapshots, Snapshotted, identity};
use crate::codec::{Codec, CodecError};
use crate::decision::{Decided, Decision, Known, LoadViewsError, Selection, View, Views, attempt};
use crate::event::RecordedEvent;
use crate::execute::{ExecuteError, ExecuteOptions, LoadError};
use crate::id::LogId;
use crate::kind::decode_event;
use crate::log::{EventLog, Visibility};
use crate::position::Position;

/// A view that is [`Snapshotted`], or a tuple of up to eight. It is implemented here only.
///
/// A view is kept under what it was before any event, together with its query. So give it the questions
/// that it asks and nothing that changes from one command to the next: each value has a snapshot of its
/// own.
pub trait SnapshotViews: Views + Sized {
    /// Folds each view up to the head of the log.
    #[doc(hidden)]
    fn restore(
        self,
        snapshots: &Snapshots,
        log: &dyn EventLog,
        selections: &[Selection],
    ) -> impl Future<Output = Result<Restored<Self>, LoadViewsError>> + Send;
}

/// Views as they are at a position.
#[doc(hidden)]
#[derive(Debug)]
pub struct Restored<V> {
    views: V,
    seen: Position,
    origins: Vec<Origin>,
    taken: Vec<Taken>,
}

impl Snapshots {
    /// Folds all events that views select, as [`load_views`](crate::load_views) does, and says of each
    /// where it came from.
    ///
    /// # Errors
    ///
    /// [`LoadViewsError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Complexity
    ///
    /// Linear in the number of events behind the snapshots, and in the size of the views.
    pub async fn load_views<V: SnapshotViews>(
        &self,
        log: &dyn EventLog,
        views: V,
    ) -> Result<(Known<V>, Vec<Origin>), LoadViewsError> {
        let (known, origins, taken) = self.fold_views(log, views).await?;
        self.save(taken).await;
        Ok((known, origins))
    }

    /// Loads what a decision depends on, decides and appends, as [`decide`](crate::decide) does.
    ///
    /// # Errors
    ///
    /// [`ExecuteError`]; its [`effect`](ExecuteError::effect) says whether events may have been
    /// written. Nothing that goes wrong with snapshots is among them.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: a dropped future may still append, and may lose a snapshot. With an
    /// [`append_id`](ExecuteOptions::append_id) the decision can be repeated.
    pub async fn decide<D: Decision<Views: SnapshotViews>>(
        &self,
        log: &dyn EventLog,
        decision: &D,
        options: &ExecuteOptions,
    ) -> Result<Decided<D::Views, D::Event>, ExecuteError<D::Error>>
    where
        D::Error: std::error::Error + 'static,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let folded = self.fold_views(log, decision.views()).await;
            let (known, _, taken) = folded.map_err(LoadViewsError::undecided)?;
            let outcome = attempt(log, decision, known, options, attempts).await;
            self.save(taken).await;
            if let Some(done) = outcome? {
                return Ok(done);
            }
        }
    }

    async fn fold_views<V: SnapshotViews>(
        &self,
        log: &dyn EventLog,
        views: V,
    ) -> Result<(Known<V>, Vec<Origin>, Vec<Taken>), LoadViewsError> {
        let selections = views.selections().map_err(LoadViewsError::Name)?;
        let Restored { views, seen, origins, taken } =
            views.restore(self, log, &selections).await?;
        Ok((Known::new(views, selections, seen), origins, taken))
    }

    async fn fold_view<V>(
        &self,
        selected: Selected<'_>,
        recalled: Recalled<V>,
        view: V,
    ) -> Result<(V, Origin, Option<Taken>), LoadViewsError>
    where
        V: View + Snapshotted + Serialize,
    {
        let apply = |mut view: V, recorded: &RecordedEvent| {
            view.apply(&decode_event(recorded)?);
            Ok(view)
        };
        let folded = self.fold::<V::Codec, V>(&selected, recalled, view, apply).await;
        let (Folded { state, origin, .. }, taken) = folded.map_err(|error| match error {
            LoadError::Read(source) => LoadViewsError::Read(source),
            LoadError::Decode(source) => LoadViewsError::Decode(source),
        })?;
        Ok((state, origin, taken))
    }
}

/// What a snapshot of a view is of. The first byte tells it from one of a stream.
fn identity_of_view<V: Snapshotted + Serialize>(
    log: LogId,
    view: &V,
    selection: &Selection,
) -> Result<Identity, CodecError> {
    let view = V::Codec::encode(view)?;
    let subject = [b"v", &selection.query.fingerprint().to_le_bytes()[..], &view].concat();
    Ok(identity::<V>(log, subject))
}

impl<V> SnapshotViews for V
where
    V: View + Snapshotted + Serialize + DeserializeOwned,
{
    async fn restore(
        self,
        snapshots: &Snapshots,
        log: &dyn EventLog,
        selections: &[Selection],
    ) -> Result<Restored<Self>, LoadViewsError> {
        let Restored { views: (view,), seen, origins, taken } =
            (self,).restore(snapshots, log, selections).await?;
        Ok(Restored { views: view, seen, origins, taken })
    }
}

macro_rules! tuple {
    ($($view:ident $index:tt),+) => {
        impl<$($view),+> SnapshotViews for ($($view,)+)
        where
            $($view: View + Snapshotted + Serialize + DeserializeOwned),+
        {
            async fn restore(
                self,
                snapshots: &Snapshots,
                log: &dyn EventLog,
                selections: &[Selection],
            ) -> Result<Restored<Self>, LoadViewsError> {
                let recalled = ($({
                    let identity = identity_of_view(log.id(), &self.$index, &selections[$index]);
                    snapshots.recall::<$view::Codec, $view>(identity).await
                },)+);
                let seen = log.head(Visibility::Committed).await?;
                let (mut origins, mut all) = (Vec::new(), Vec::new());
                let views = ($({
                    let query = selections[$index].query.clone();
                    let selected = Selected { log, query, through: seen };
                    let (view, origin, taken) =
                        snapshots.fold_view(selected, recalled.$index, self.$index).await?;
                    origins.push(origin);
                    all.extend(taken);
                    view
                },)+);
                Ok(Restored { views, seen, origins, taken: all })
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
