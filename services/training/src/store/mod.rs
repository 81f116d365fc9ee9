//! The event store and the read models, written together: what is read is never ahead of nor behind the events.
//!
//! One transaction appends the events, updates summary and details and puts the integration events into the outbox.
//! Optimistic concurrency rests on the primary key (tenant, stream, version): of two writers that both saw version n,
//! one commits n + 1 and the other is told so.

mod read;
mod write;

use meridian_kit::auth::Athlete;
use meridian_kit::db::{self, Pool, TenantTx};
use meridian_kit::event::EventSource;
use meridian_kit::problem::Problem;
use meridian_kit::subject_keys::{self, Create, KeyScope, Keyring, SubjectKey};

pub use read::{MOST_LISTED, Position};

use crate::domain::{Refusal, Version, WorkoutId};

/// Where other services hear of workouts.
pub const TOPIC: &str = "training.events";

/// Why a workout was not read or written. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such workout of this athlete.
    #[error("there is no such workout")]
    NotFound,
    /// Another writer was first.
    #[error(
        "the workout is at version {current}, not {expected}: read it again and repeat the command if it still makes sense"
    )]
    VersionConflict {
        /// What the command was decided on.
        expected: Version,
        /// What it is now.
        current: Version,
    },
    /// The workout cannot become that.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The athlete's key.
    #[error(transparent)]
    Key(#[from] subject_keys::Error),
    /// An event could not be written down.
    #[error("an event could not be written as JSON")]
    Shape(#[from] serde_json::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NotFound => Self::not_found("no-such-workout", message),
            StoreError::VersionConflict { current, .. } => Self::conflict("version-conflict", message.clone())
                .detail_allowed("expected_version", [current.to_string()], message),
            StoreError::Refused(refusal) if refusal.is_malformed() => Self::bad_request(refusal.code(), message),
            StoreError::Refused(refusal) => Self::conflict(refusal.code(), message),
            StoreError::Database(error) => error.into(),
            StoreError::Key(error) => error.into(),
            error @ StoreError::Shape(_) => Self::internal(&error),
        }
    }
}

/// The workouts of this region. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: Pool,
    keyring: Keyring,
    source: EventSource,
}

/// A transaction on one athlete's workouts, with the key to them.
#[derive(Debug)]
pub struct AthleteTx {
    tx: TenantTx,
    key: SubjectKey,
}

impl Store {
    /// The store in this database, under these keys, whose events come from `source`.
    pub fn new(pool: Pool, keyring: Keyring, source: EventSource) -> Self {
        Self { pool, keyring, source }
    }

    /// Opens a transaction. The key is asked for first, so that no connection is held while the keyring is waited for.
    ///
    /// # Errors
    /// The keyring or the database cannot be reached, or the tenant's epoch is stale.
    pub async fn begin(&self, athlete: &Athlete) -> Result<AthleteTx, StoreError> {
        let key = self
            .keyring
            .key(&athlete.tenant, &athlete.subject, &KeyScope::Personal, Create::Yes)
            .await?;
        let tx = TenantTx::begin(&self.pool, &athlete.scope()).await?;
        Ok(AthleteTx { tx, key })
    }
}

impl AthleteTx {
    /// The transaction itself, for what else belongs into it.
    pub fn tenant_tx(&mut self) -> &mut TenantTx {
        &mut self.tx
    }

    /// The athlete's key.
    pub fn key(&self) -> &SubjectKey {
        &self.key
    }

    /// Makes it permanent.
    ///
    /// # Errors
    /// The database does not confirm; whether it was stored is unknown, and repeating the request tells.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.tx.commit().await?)
    }
}

// What each sealed value is bound to: it opens in its own row only.
fn event_place(id: WorkoutId, version: Version) -> String {
    format!("training.event:{id}:{version}")
}

fn summary_place(id: WorkoutId) -> String {
    format!("training.summary:{id}")
}

fn details_place(id: WorkoutId) -> String {
    format!("training.details:{id}")
}
