//! `meridian migrate`: run as Jobs, before the services of a new version.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use meridian_kit::db::{self, Error, Migration};

/// What to migrate.
#[derive(Debug, Subcommand)]
pub(crate) enum Target {
    /// Makes the roles and databases of every service (as the superuser).
    Cluster(Cluster),
    /// Identity's schema (as its owner).
    Identity(Owner),
    /// Consent's schema (as its owner).
    Consent(Owner),
    /// Training's schema (as its owner).
    Training(Owner),
    /// Telemetry's schema (as its owner).
    Telemetry(Owner),
    /// Social's schema (as its owner).
    Social(Owner),
    /// Promotions' schema (as its owner).
    Promotions(Owner),
    /// The replicator's schema (as its owner).
    Replicator(Owner),
}

/// The superuser's settings.
#[derive(Args, Debug)]
pub(crate) struct Cluster {
    /// Where PostgreSQL is, and as whom.
    #[arg(long, env = "MERIDIAN_SUPERUSER_URL", hide_env_values = true)]
    superuser_url: String,
    /// A folder with `<service>-owner`, `<service>` and `verifier`, each with `username` and `password`.
    #[arg(long, env = "MERIDIAN_DB_CREDENTIALS_DIR")]
    credentials_dir: PathBuf,
}

/// The owner's settings.
#[derive(Args, Debug)]
pub(crate) struct Owner {
    /// The database, as its owner.
    #[arg(long, env = "MERIDIAN_DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

pub(crate) async fn run(target: Target) -> Result<(), Error> {
    let (owner, migrations): (Owner, &[Migration]) = match target {
        Target::Cluster(cluster) => {
            let all = db::credentials_in(&cluster.credentials_dir)?;
            let verifier = db::verifier_in(&cluster.credentials_dir)?;
            db::migrate_cluster(&cluster.superuser_url, &all).await?;
            return db::migrate_verifier(&cluster.superuser_url, &verifier, &all).await;
        }
        Target::Identity(owner) => (owner, meridian_identity::MIGRATIONS),
        Target::Consent(owner) => (owner, meridian_consent::MIGRATIONS),
        Target::Training(owner) => (owner, meridian_training::MIGRATIONS),
        Target::Telemetry(owner) => (owner, meridian_telemetry::MIGRATIONS),
        Target::Social(owner) => (owner, meridian_social::MIGRATIONS),
        Target::Promotions(owner) => (owner, meridian_promotions::MIGRATIONS),
        Target::Replicator(owner) => (owner, meridian_replicator::MIGRATIONS),
    };
    db::migrate(&owner.database_url, migrations).await
}
