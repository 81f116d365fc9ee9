//! What this region has exported, imported and recorded about it. Everything runs in the caller's tenant transaction.

pub mod exports;
pub mod imports;

use meridian_kit::{db, evidence};

/// Why a row was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// A row holds what no version of this service writes.
    #[error("a row of {table} is not understood: {column}")]
    Row {
        /// Of which table.
        table: &'static str,
        /// Which column.
        column: &'static str,
    },
    /// No random numbers can be had for a commitment's salt.
    #[error("no random numbers can be had")]
    Random,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<evidence::NoRandomness> for StoreError {
    fn from(_: evidence::NoRandomness) -> Self {
        Self::Random
    }
}

impl From<StoreError> for meridian_kit::problem::Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(error) => error.into(),
            error => Self::internal(&error),
        }
    }
}

impl From<StoreError> for meridian_kit::kafka::Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(error) => error.into(),
            error => Self::Retry(error.to_string()),
        }
    }
}
