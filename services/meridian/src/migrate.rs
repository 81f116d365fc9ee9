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
    /// As whom, where the URL does not say it.
    #[arg(long, env = "MERIDIAN_SUPERUSER_USERNAME", hide_env_values = true)]
    superuser_username: Option<String>,
    /// And by which password.
    #[arg(long, env = "MERIDIAN_SUPERUSER_PASSWORD", hide_env_values = true)]
    superuser_password: Option<String>,
    /// A folder with `<service>-owner`, `<service>` and `verifier`, each with `username` and `password`.
    #[arg(long, env = "MERIDIAN_DB_CREDENTIALS_DIR")]
    credentials_dir: PathBuf,
}

impl Cluster {
    /// The URL with who connects; whatever their name and password are made of.
    fn url(&self) -> Result<String, Error> {
        let mut url = reqwest::Url::parse(&self.superuser_url).map_err(|_| Error::Url)?;
        if let Some(username) = &self.superuser_username {
            url.set_username(&encoded(username)).map_err(|()| Error::Url)?;
        }
        if let Some(password) = &self.superuser_password {
            url.set_password(Some(&encoded(password))).map_err(|()| Error::Url)?;
        }
        Ok(url.into())
    }
}

/// What else a URL's name or password must not hold is encoded when it is set.
fn encoded(text: &str) -> String {
    text.replace('%', "%25")
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
            let url = cluster.url()?;
            db::migrate_cluster(&url, &all).await?;
            // An operator of before the verifier mounts no credentials for it.
            if let Some(verifier) = db::verifier_in(&cluster.credentials_dir)? {
                db::migrate_verifier(&url, &verifier, &all).await?;
            }
            return Ok(());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_taken_whatever_it_is_made_of() {
        let cluster = Cluster {
            superuser_url: "postgres://db.eu.example:6432/postgres?sslmode=verify-full".to_owned(),
            superuser_username: Some("their admin".to_owned()),
            superuser_password: Some("p@ss/w:rd?%".to_owned()),
            credentials_dir: PathBuf::new(),
        };
        assert_eq!(
            cluster.url().unwrap_or_default(),
            "postgres://their%20admin:p%40ss%2Fw%3Ard%3F%25@db.eu.example:6432/postgres?sslmode=verify-full"
        );
    }
}
