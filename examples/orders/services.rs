//! The two services that follow the log, each on its own: no order waits for them.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use headwater::projections::{
    Begin, ConsumerGroup, FailurePolicy, GroupOptions, Hopeless, ProjectionHandle,
    ProjectionRunner, ReactorHandle, ReactorOptions, ReactorRunner, RunnerOptions, SqliteSink,
};
use headwater::{GroupName, Position, Query, Store};

use crate::email::{EmailService, Outbox};
use crate::home::Home;
use crate::loyalty::Loyalty;
use crate::shop::CustomerEvent;

/// How many members share the work of the email group. Each waits for its mail to be on the
/// device, and those that wait together share a sync.
const EMAIL_MEMBERS: usize = 64;
/// How many events a member takes, and then commits. The next order of a customer comes with the
/// next batch, so that larger ones are no faster.
const EMAIL_BATCH: usize = 16;
/// How often a mail is tried before the service stops.
const EMAIL_ATTEMPTS_MAX: u32 = 3;
/// How long to wait for a service that has to catch up.
const PATIENCE: Duration = Duration::from_secs(600);

/// Both services, running.
#[derive(Debug)]
pub(crate) struct Services {
    email: ReactorHandle,
    loyalty: ProjectionHandle<Loyalty>,
}

impl Services {
    /// Starts both where they stopped, or at the beginning of the log.
    pub(crate) async fn start(
        store: &Store,
        home: &Home,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let loyalty = start_loyalty(store, home, Begin::Resume).await?;
        let group = GroupOptions {
            selection: Query::types(CustomerEvent::ORDER_PLACED.types()?),
            in_flight_max: 2 * EMAIL_MEMBERS * EMAIL_BATCH,
            failure: FailurePolicy {
                attempts_max: Some(EMAIL_ATTEMPTS_MAX),
                then: Hopeless::Stop,
                ..FailurePolicy::default()
            },
            ..GroupOptions::new(GroupName::new("email")?)
        };
        let group = ConsumerGroup::open(Arc::new(store.clone()), group).await?;
        let outbox = Outbox::open(&home.outbox())?;
        let member = |_| EmailService::new(outbox.clone());
        let options = ReactorOptions { batch_events: EMAIL_BATCH };
        let email = ReactorRunner::start(&group, "email", member, EMAIL_MEMBERS, options).await?;
        Ok(Self { email, loyalty })
    }

    /// Waits until every event up to `position` has its mail and is in the read model.
    pub(crate) async fn wait_for(
        &self,
        position: Position,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.email.wait_for(position, PATIENCE).await?;
        Ok(self.loyalty.wait_for(position, PATIENCE).await?)
    }

    /// Returns how many events the email service and the loyalty service are behind.
    pub(crate) async fn lags(&self) -> Result<(u64, u64), Box<dyn Error + Send + Sync>> {
        Ok((self.email.group().lag().await?.events, self.loyalty.lag().await?.events))
    }

    /// Stops both after what they have in hand, and returns the read model.
    pub(crate) async fn stop(self) -> Result<SqliteSink, Box<dyn Error + Send + Sync>> {
        let group = self.email.group().clone();
        self.email.shutdown().await?;
        group.close().await?;
        Ok(self.loyalty.shutdown().await?)
    }
}

/// Empties the read model, applies the whole log up to `position` to it, and returns it.
pub(crate) async fn rebuild(
    store: &Store,
    home: &Home,
    position: Position,
) -> Result<SqliteSink, Box<dyn Error + Send + Sync>> {
    let loyalty = start_loyalty(store, home, Begin::Rebuild).await?;
    loyalty.wait_for(position, PATIENCE).await?;
    Ok(loyalty.shutdown().await?)
}

async fn start_loyalty(
    store: &Store,
    home: &Home,
    begin: Begin,
) -> Result<ProjectionHandle<Loyalty>, Box<dyn Error + Send + Sync>> {
    let sink = SqliteSink::open(home.read_model())?;
    let options = RunnerOptions { begin, ..RunnerOptions::default() };
    let log = Arc::new(store.clone());
    Ok(ProjectionRunner::start(log, Loyalty::new()?, sink, options).await?)
}
