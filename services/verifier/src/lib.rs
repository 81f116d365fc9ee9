//! The verifier: what is in a region's databases and topics, against the compiled policy.
//!
//! It reads `pg_catalog` and counts rows, and what records of topics say in clear; it reads no personal value. A database or a
//! topic that it cannot read, or may not, is an error and never a clean report.

mod engine;
mod guards;
mod kafka;
mod passes;
mod records;
mod report;
mod rows;
mod server;
mod tally;

use std::str::FromStr as _;

use jiff::Timestamp;
use meridian_kit::kafka::AccessError;
use meridian_policy::RegionPolicy;
use rdkafka::error::KafkaError;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

pub use kafka::{Events, Planned};
pub use passes::{once, run};
pub use report::{Check, Finding, Looked, Report};
pub use server::{RunBy, Server, UnknownMode};

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

/// What a region has that is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Region {
    /// Who runs PostgreSQL.
    pub server: Server,
    /// Its databases.
    pub databases: Vec<Database>,
    /// What was planned for its Kafka. None: only databases are looked at.
    pub kafka: Option<Planned>,
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
    /// The broker refused, or is not there.
    #[error("{place} cannot be looked at: {source}")]
    KafkaUnseen {
        /// What of it.
        place: String,
        /// What happened.
        #[source]
        source: KafkaError,
    },
    /// Who may do what in Kafka cannot be seen.
    #[error(transparent)]
    Rights(#[from] AccessError),
    /// This process is about to end.
    #[error("a look was broken off: {0}")]
    Ended(tokio::task::JoinError),
}

/// Looks at every database of the region.
///
/// `url` is any database of the server, as a role that sees every row. `now` is what copies' expiry is held against.
///
/// # Errors
/// When a database cannot be looked at: nothing is known then, whatever else was found.
pub async fn verify(
    url: &str,
    server: &Server,
    databases: &[Database],
    policy: &RegionPolicy,
    now: Timestamp,
) -> Result<Report, VerifyError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| VerifyError::Url)?;
    // Whoever made the role: it writes nothing.
    let options = options
        .application_name("meridian-verify")
        .options([("default_transaction_read_only", "on")])
        .disable_statement_logging();
    let lawful = rows::Lawful::new(policy, now);
    let mut report = Report::new(policy, now);

    let unseen = |place: &str| {
        let place = place.to_owned();
        move |source| VerifyError::Unseen { place, source }
    };
    let mut connection = PgConnection::connect_with(&options)
        .await
        .map_err(unseen("the server"))?;
    if !engine::sees_every_row(&mut connection)
        .await
        .map_err(unseen("the server"))?
    {
        return Err(VerifyError::Blind);
    }
    engine::look(&mut connection, server, databases, &mut report)
        .await
        .map_err(unseen("the server"))?;
    // An error on closing says nothing about what was seen.
    let _ = connection.close().await;

    for database in databases {
        let unseen = unseen(&database.name);
        let look = async {
            // Should the role no longer see every row, PostgreSQL refuses instead of leaving rows out.
            let unfiltered = options
                .clone()
                .database(&database.name)
                .options([("row_security", "off")]);
            let mut inside = PgConnection::connect_with(&unfiltered).await?;
            let tables = rows::tables(&mut inside).await?;
            rows::look(&mut inside, database, &tables, &lawful, &mut report).await?;
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

/// Looks at the region's Kafka: what is there that nobody planned, and whose records lie in its topics.
///
/// # Errors
/// When something cannot be looked at: nothing is known then, whatever else was found.
pub async fn verify_events(events: &Events, policy: &RegionPolicy, now: Timestamp) -> Result<Report, VerifyError> {
    let lawful = rows::Lawful::new(policy, now);
    let mut report = Report::new(policy, now);
    let topics = kafka::look(events, &mut report).await?;
    records::look(events, &topics, policy, &lawful, &mut report).await?;
    report.findings.sort();
    Ok(report)
}
