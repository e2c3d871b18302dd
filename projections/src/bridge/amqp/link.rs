//! One connection to a broker, made when it is needed, with a channel for each message under way.
//!
//! A channel carries one unconfirmed message at a time. On a channel with several the client gives
//! a message that came back to whichever is confirmed next, and numbers messages before it queues
//! them, so that one that no queue took could pass for confirmed. And an error of a channel closes
//! it: here it hits the message that is to blame and no other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::sync::Mutex;

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("the broker did not answer within {0:?}")]
    NoAnswer(Duration),
    #[error("the broker did not confirm within {0:?}")]
    NoConfirm(Duration),
    #[error("the connection to the broker failed")]
    Broker(#[source] lapin::Error),
}

pub(super) struct Link {
    uri: AMQPUri,
    timeout: Duration,
    /// How many connections were asked for, so that those who wait for the same one know.
    attempts: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Arc<Open>>,
    /// Why the last attempt failed, if it did.
    failed: Option<Lost>,
}

struct Open {
    connection: Connection,
    idle: StdMutex<Vec<Channel>>,
}

impl Open {
    /// Takes a channel that can be used again.
    fn idle(&self) -> Option<Channel> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|channel| channel.status().connected())
    }
}

impl Link {
    pub(super) fn new(uri: AMQPUri, timeout: Duration) -> Self {
        Self { uri, timeout, attempts: AtomicU64::new(0), state: Mutex::default() }
    }

    /// Returns a channel that nobody else uses, and connects if need be. Of those who wait for a
    /// connection that fails, all are told, and none tries once more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn channel(&self) -> Result<Lease<'_>, Lost> {
        let open = self.open().await?;
        if let Some(channel) = open.idle() {
            return Ok(Lease { link: self, open, channel });
        }
        let made = tokio::time::timeout(self.timeout, new_channel(&open.connection)).await;
        let Ok(channel) = made else {
            self.give_up(&open).await;
            return Err(Lost::NoAnswer(self.timeout));
        };
        let channel = channel.map_err(Lost::Broker)?;
        Ok(Lease { link: self, open, channel })
    }

    async fn open(&self) -> Result<Arc<Open>, Lost> {
        let seen = self.attempts.load(Ordering::Relaxed);
        let mut state = self.state.lock().await;
        if let Some(open) = state.open.as_ref().filter(|open| open.connection.status().connected())
        {
            return Ok(Arc::clone(open));
        }
        state.open = None;
        if self.attempts.load(Ordering::Relaxed) != seen
            && let Some(failed) = &state.failed
        {
            return Err(failed.clone());
        }
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let properties = ConnectionProperties::default().with_connection_name("headwater".into());
        let connecting = Connection::connect_uri(self.uri.clone(), properties);
        let connected = match tokio::time::timeout(self.timeout, connecting).await {
            Ok(connected) => connected.map_err(Lost::Broker),
            Err(_) => Err(Lost::NoAnswer(self.timeout)),
        };
        match connected {
            Ok(connection) => {
                let open = Arc::new(Open { connection, idle: StdMutex::default() });
                state.failed = None;
                state.open = Some(Arc::clone(&open));
                Ok(open)
            }
            Err(lost) => {
                state.failed = Some(lost.clone());
                Err(lost)
            }
        }
    }

    /// Uses a connection no more.
    async fn give_up(&self, lost: &Arc<Open>) {
        let mut state = self.state.lock().await;
        if state.open.as_ref().is_some_and(|open| Arc::ptr_eq(open, lost)) {
            state.open = None;
        }
    }
}

async fn new_channel(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// A channel in use. Dropping it closes the channel.
pub(super) struct Lease<'a> {
    link: &'a Link,
    open: Arc<Open>,
    channel: Channel,
}

impl Lease<'_> {
    /// Lets the channel be used again. Its last message has to be confirmed.
    pub(super) fn give_back(self) {
        self.open.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.channel);
    }

    /// Lets the next one connect anew.
    pub(super) async fn give_up_connection(self) {
        self.link.give_up(&self.open).await;
    }

    /// Returns how many bytes a frame has at most.
    pub(super) fn frame_bytes_max(&self) -> usize {
        match self.open.connection.configuration().frame_max() {
            0 => usize::MAX,
            max => usize::try_from(max).unwrap_or(usize::MAX),
        }
    }
}

impl std::ops::Deref for Lease<'_> {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}
