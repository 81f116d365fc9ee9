//! PostgreSQL: pools, the tenant's transaction, the fence, migrations, and the roles of a region.
//!
//! **Every table** has `tenant text not null, epoch bigint not null` and is put under guard by `select
//! meridian_guard('table')` in its migration: row-level security, forced, so that a transaction sees and writes its own
//! tenant's rows only, and writes them at the tenant's current epoch only. Both columns fill themselves; an `insert` need
//! not name them.
//!
//! **Rows that came from another region** also have `origin text not null` (the exporting region), `edge text not null`
//! (the policy's edge id) and `expires_at timestamptz not null`; their `tenant` is the importing tenant.
//!
//! **Personal columns** are `bytea` and hold [`crate::subject_keys::Sealed`] values.

mod cluster;
mod error;
mod fence;
mod migrate;
mod tenant;

pub use cluster::{Credentials, RoleCredentials, credentials_in, migrate_cluster, migrate_verifier, verifier_in};
pub use error::Error;
pub use fence::raise_fence;
pub(crate) use fence::{keep_fences, keep_pruned};
pub use migrate::{KIT_MIGRATIONS, Migration, migrate};
pub use tenant::{Scope, TenantTx};

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions};
use sqlx::{Arguments as _, Connection as _};

/// Connections to a service's database.
pub type Pool = sqlx::PgPool;

/// Connections that one process may have. They are opened when needed and closed when idle.
const CONNECTIONS: u32 = 8;
/// A connection that was idle for longer is asked whether it is still there before it is used. Each is asked when it is given
/// back as well: asking again a moment later would cost every transaction a round trip for nothing.
const ASKED_AFTER: Duration = Duration::from_secs(1);

/// The options in a URL, with what every connection of ours has: a name, and limits so that nothing hangs for ever.
pub(crate) fn options(url: &str, application: &str) -> Result<PgConnectOptions, Error> {
    let options = PgConnectOptions::from_str(url).map_err(|_| Error::Url)?;
    Ok(options.application_name(application).statement_cache_capacity(64))
}

/// Arguments with room for one that is so many values, beside few and short others: what grows while it is filled is copied,
/// time and again.
#[must_use]
pub fn room_for(values: &[&[u8]]) -> PgArguments {
    /// What a value has beside itself, and its row in other columns.
    const BESIDE: usize = 160;
    let mut arguments = PgArguments::default();
    arguments.reserve(8, values.iter().map(|value| value.len() + BESIDE).sum());
    arguments
}

/// A pool for a URL. Nothing is connected yet.
///
/// # Errors
/// When the URL is malformed.
pub fn connect(url: &str, application: &str) -> Result<Pool, Error> {
    let options = options(url, application)?.options([
        ("statement_timeout", "15s"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "30s"),
    ]);
    Ok(PgPoolOptions::new()
        .min_connections(0)
        .max_connections(CONNECTIONS)
        .acquire_timeout(Duration::from_secs(5))
        .idle_timeout(Duration::from_secs(60))
        .max_lifetime(Duration::from_secs(30 * 60))
        .test_before_acquire(false)
        .before_acquire(|connection, told| {
            Box::pin(async move {
                if told.idle_for > ASKED_AFTER {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}
