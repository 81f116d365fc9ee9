//! Why work in the database failed, in classes that callers can act on. The server's own text is not repeated, since it
//! may quote values.

use meridian_policy::{Epoch, TenantId};

use crate::problem::Problem;

/// Why work in the database failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one of PostgreSQL.
    #[error("the database's URL is malformed; write it like postgres://user:password@postgres/name")]
    Url,
    /// The tenant has no fence here: its home is elsewhere, or this database has not heard of it yet.
    #[error("tenant {tenant} is not known to this database; its home is elsewhere or its placement has not arrived")]
    UnknownTenant {
        /// Which.
        tenant: TenantId,
    },
    /// The caller's epoch is behind the fence.
    #[error("tenant {tenant} is at epoch {fence}, and the request was made for epoch {epoch}; it is fenced")]
    StaleEpoch {
        /// Whose.
        tenant: TenantId,
        /// The caller's.
        epoch: Epoch,
        /// The fence.
        fence: Epoch,
    },
    /// The caller's epoch is ahead of the fence, which follows within moments.
    #[error("tenant {tenant} has a newer epoch than this database; repeat the request")]
    FenceBehind {
        /// Whose.
        tenant: TenantId,
    },
    /// Row-level security refused a row: another tenant's, or an old epoch's.
    #[error("the row is outside the tenant or epoch of the transaction")]
    Fenced,
    /// A unique, foreign-key or check constraint refused a row.
    #[error("the constraint {constraint} refuses the row")]
    Conflict {
        /// Its name.
        constraint: String,
    },
    /// There is no such row.
    #[error("there is no such row")]
    NotFound,
    /// The database cannot be reached, is starting or has no connection free.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// Two transactions got in each other's way; repeating helps.
    #[error("the transaction lost against another one; repeat it")]
    Contended,
    /// A migration does not fit the database.
    #[error("migration: {0}")]
    Migration(String),
    /// Credentials for the region's databases cannot be read.
    #[error("{0}")]
    Credentials(String),
    /// Anything else, by its SQLSTATE or kind.
    #[error("the statement failed ({0})")]
    Statement(String),
}

impl Error {
    /// Whether repeating the whole transaction may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Contended | Self::FenceBehind { .. })
    }

    /// Whether a constraint of this name refused the row.
    #[must_use]
    pub fn violates(&self, name: &str) -> bool {
        matches!(self, Self::Conflict { constraint } if constraint == name)
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::RowNotFound => Self::NotFound,
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default().into_owned();
                match code.as_str() {
                    "42501" if database.message().contains("row-level security") => Self::Fenced,
                    "23505" | "23503" | "23514" | "23P01" => Self::Conflict {
                        constraint: database.constraint().unwrap_or("?").to_owned(),
                    },
                    "40001" | "40P01" | "55P03" => Self::Contended,
                    // Shutting down, starting up, too many connections, lost connection.
                    "57P01" | "57P02" | "57P03" | "53300" => Self::Unreachable(code),
                    _ if code.starts_with("08") => Self::Unreachable(code),
                    _ => Self::Statement(code),
                }
            }
            sqlx::Error::Io(error) => Self::Unreachable(error.kind().to_string()),
            sqlx::Error::Tls(error) => Self::Unreachable(error.to_string()),
            sqlx::Error::PoolTimedOut => Self::Unreachable("no connection was free in time".to_owned()),
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Unreachable("the pool is closed".to_owned()),
            sqlx::Error::Protocol(_) => Self::Unreachable("the connection broke".to_owned()),
            sqlx::Error::ColumnNotFound(column) => Self::Statement(format!("no column {column}")),
            sqlx::Error::ColumnDecode { index, .. } => Self::Statement(format!("column {index} has another type")),
            sqlx::Error::Configuration(_) => Self::Url,
            _ => Self::Statement("client".to_owned()),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match &error {
            Error::StaleEpoch { .. } => Self::unauthorized(
                "token-stale-epoch",
                "the token was made before the tenant's home changed; sign in again",
            ),
            Error::UnknownTenant { .. } | Error::FenceBehind { .. } => Self::unavailable(
                "tenant-arriving",
                "the tenant's placement is just arriving; repeat the request",
            ),
            Error::Unreachable(_) | Error::Contended => {
                tracing::warn!(%error, "a request could not be served because of the database");
                Self::unavailable(
                    "database-unavailable",
                    "the request could not be stored just now; repeat it",
                )
            }
            _ => Self::internal(&error),
        }
    }
}
