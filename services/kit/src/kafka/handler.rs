//! What a service does with events, and how it says that it could not.

use std::future::Future;
use std::sync::Arc;

use crate::client::ClientError;
use crate::db::{self, TenantTx};
use crate::event::Event;
use crate::subject_keys;

/// What became of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handled {
    /// It had its effect.
    Done,
    /// It is nothing to this consumer.
    Ignored,
}

/// Why an event was not handled.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something it needs is away (database, keyring, another service). It is tried until it works: putting it aside
    /// would lose its place, and the next would fail likewise.
    #[error("{0}")]
    Unavailable(String),
    /// It failed and may work later. After eight attempts it goes to the dead letters.
    #[error("{0}")]
    Retry(String),
    /// It can never work. It goes to the dead letters at once.
    #[error("{0}")]
    Dead(String),
}

impl From<db::Error> for Failure {
    fn from(error: db::Error) -> Self {
        if error.is_transient() {
            Self::Unavailable(error.to_string())
        } else {
            Self::Retry(error.to_string())
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        db::Error::from(error).into()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        if error.is_transient() {
            Self::Unavailable(error.to_string())
        } else {
            Self::Retry(error.to_string())
        }
    }
}

impl From<subject_keys::Error> for Failure {
    fn from(error: subject_keys::Error) -> Self {
        if error.is_transient() {
            Self::Unavailable(error.to_string())
        } else {
            Self::Dead(error.to_string())
        }
    }
}

/// What a service does with an event.
///
/// The transaction is open in the event's tenant, and the event is marked as handled in it: what the handler writes and
/// the mark commit together, so a repeated delivery does nothing. An erased subject's event cannot be opened
/// ([`subject_keys::Error::KeyDestroyed`]): handlers usually return [`Handled::Ignored`] for it.
pub trait Handler: Send + Sync + 'static {
    /// Handles one event.
    fn handle(&self, event: &Event, tx: &mut TenantTx) -> impl Future<Output = Result<Handled, Failure>> + Send;
}

/// An event, and the bytes that it came as: nothing but attributes that are an event's.
#[derive(Clone, Copy, Debug)]
pub struct Consumed<'a> {
    /// What is needed of it beyond the round is kept without a copy.
    pub event: &'a Arc<Event>,
    /// At most [`crate::event::EVENT_LIMIT_BYTES`].
    pub bytes: &'a [u8],
}

/// For events that are stored in bulk by a store that recognizes a repetition itself (telemetry): no inbox, no transaction.
pub trait BatchHandler: Send + Sync + 'static {
    /// Events of one round at most. What is at hand is handled; no round waits to be full.
    const ROUND: usize = 64;

    /// Handles the events of a round, all or none. A failure repeats the round.
    fn handle(&self, events: &[Consumed<'_>]) -> impl Future<Output = Result<(), Failure>> + Send;
}
