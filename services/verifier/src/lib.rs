//! The verifier: what is in a region's databases, against the compiled policy.
//!
//! It reads `pg_catalog` and counts rows; it reads no personal value. A database that it cannot read, or may not, is an
//! error and never a clean report.

mod engine;
mod guards;
mod report;
mod rows;

use std::str::FromStr as _;

use jiff::Timestamp;
use meridian_policy::RegionPolicy;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

pub use report::{Check, Finding, Looked, Report};

/// A service's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// The service, by whose name the catalogue lists its tables.
    pub service: String,
    /// The database's name on the server.
    pub name: String,
    /// The role that the service runs as.
    pub role: String,
    /// The role that owns the tables.
    pub owner: String,
}

impl Database {
    /// As the region's stack lays it down.
    #[must_use]
    pub fn of(service: &str) -> Self {
        Self {
            service: service.to_owned(),
            name: service.to_owned(),
            role: service.to_owned(),
            owner: format!("{service}_owner"),
        }
    }
}

/// Why the verifier could not look everywhere.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The URL is malformed.
    #[error("the database's URL is malformed: postgres://user:password@host:port/database is needed")]
    Url,
    /// A role that row-level security holds back would find every table clean.
    #[error("the role does not see every row: it needs to be superuser, or to bypass row-level security")]
    Blind,
    /// The server refused, or is not there.
    #[error("{place} cannot be looked at: {source}")]
    Unseen {
        /// The database.
        place: String,
        /// What happened.
        #[source]
        source: sqlx::Error,
    },
}

/// Looks at every database of the region.
///
/// `url` is any database of the server, as a role that sees every row. `now` is what copies' expiry is held against.
///
/// # Errors
/// When a database cannot be looked at: nothing is known then, whatever else was found.
pub async fn verify(
    url: &str,
    databases: &[Database],
    policy: &RegionPolicy,
    now: Timestamp,
) -> Result<Report, VerifyError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| VerifyError::Url)?;
    let options = options.application_name("meridian-verify").disable_statement_logging();
    let mut report = Report::new(policy, now);

    let unseen = |place: &str| {
        let place = place.to_owned();
        move |source| VerifyError::Unseen { place, source }
    };
    let mut server = PgConnection::connect_with(&options)
        .await
        .map_err(unseen("the server"))?;
    if !engine::sees_every_row(&mut server)
        .await
        .map_err(unseen("the server"))?
    {
        return Err(VerifyError::Blind);
    }
    engine::look(&mut server, databases, &mut report)
        .await
        .map_err(unseen("the server"))?;
    // An error on closing says nothing about what was seen.
    let _ = server.close().await;

    for database in databases {
        let unseen = unseen(&database.name);
        let look = async {
            let mut inside = PgConnection::connect_with(&options.clone().database(&database.name)).await?;
            let tables = rows::tables(&mut inside).await?;
            rows::look(&mut inside, database, &tables, policy, now, &mut report).await?;
            guards::look(&mut inside, database, &tables, &mut report).await?;
            engine::look_inside(&mut inside, database, &mut report).await?;
            report.looked.databases += 1;
            let _ = inside.close().await;
            sqlx::Result::Ok(())
        };
        look.await.map_err(unseen)?;
    }
    report.findings.sort();
    Ok(report)
}
