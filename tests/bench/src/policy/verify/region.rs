//! A region's PostgreSQL as its operator lays it down: roles, databases and schemas by `meridian migrate`, the policy in a
//! file.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

use super::look::Look;

/// The services with a database.
pub const SERVICES: [&str; 7] = [
    "identity",
    "consent",
    "training",
    "telemetry",
    "social",
    "promotions",
    "replicator",
];
/// Tenants with their home here.
pub const TENANTS: u64 = 200;
/// Epochs in which a tenant's home was here, at most.
pub const EPOCHS: u64 = 3;
/// The variable that `cargo xtask bench` sets.
const POSTGRES: &str = "MERIDIAN_BENCH_POSTGRES";
/// The role that looks.
const VERIFIER: &str = "verifier";

/// The region. Its server is thrown away by who started it.
pub struct Region {
    meridian: PathBuf,
    server: PgConnectOptions,
    folder: TempDir,
    /// Of every role: nobody else reaches the server.
    password: String,
}

impl Region {
    /// Lays it down, without any rows.
    ///
    /// # Errors
    /// When there is no server, or a migration fails.
    pub async fn lay_down(meridian: &Path) -> Result<Self> {
        let url = std::env::var(POSTGRES)
            .with_context(|| format!("{POSTGRES} is not set; run cargo xtask bench policy --only verify"))?;
        let server = PgConnectOptions::from_str(&url).with_context(|| format!("{POSTGRES} is no URL of PostgreSQL"))?;
        let region = Self {
            meridian: meridian.to_owned(),
            server: server.disable_statement_logging(),
            folder: tempfile::tempdir().context("a temporary folder")?,
            password: Uuid::new_v4().simple().to_string(),
        };
        fs::write(region.policy_file(), policy().to_string()).context("the policy cannot be written")?;
        region.migrate(&url).await?;
        Ok(region)
    }

    /// A connection to a service's database, as the superuser.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(&self, service: &str) -> Result<PgConnection> {
        let database = self.server.clone().database(service);
        let connected = database.connect().await;
        connected.with_context(|| format!("{service}'s database cannot be reached"))
    }

    /// Looks at it.
    ///
    /// # Errors
    /// When the verifier could not look everywhere.
    pub async fn look(&self) -> Result<Look> {
        Look::run(&self.meridian, &self.url(VERIFIER, "postgres"), &self.policy_file()).await
    }

    fn policy_file(&self) -> PathBuf {
        self.folder.path().join("policy.json")
    }

    fn url(&self, role: &str, database: &str) -> String {
        let (host, port) = (self.server.get_host(), self.server.get_port());
        format!("postgres://{role}:{}@{host}:{port}/{database}", self.password)
    }

    async fn migrate(&self, superuser: &str) -> Result<()> {
        let credentials = self.folder.path().join("credentials");
        let of_services = SERVICES
            .iter()
            .flat_map(|service| [(*service).to_owned(), format!("{service}-owner")]);
        for folder in of_services.chain([VERIFIER.to_owned()]) {
            self.write_credentials(&credentials.join(&folder), &folder.replace('-', "_"))?;
        }
        let mut cluster = self.migration("cluster");
        cluster
            .env("MERIDIAN_SUPERUSER_URL", superuser)
            .env("MERIDIAN_DB_CREDENTIALS_DIR", &credentials);
        succeed("cluster", &mut cluster).await?;
        for service in SERVICES {
            let mut schema = self.migration(service);
            schema.env("MERIDIAN_DATABASE_URL", self.url(&format!("{service}_owner"), service));
            succeed(service, &mut schema).await?;
        }
        Ok(())
    }

    fn write_credentials(&self, folder: &Path, role: &str) -> Result<()> {
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::write(folder.join("username"), role))
            .and_then(|()| fs::write(folder.join("password"), &self.password));
        written.with_context(|| format!("{role}'s credentials cannot be written"))
    }

    fn migration(&self, target: &str) -> Command {
        let mut command = Command::new(&self.meridian);
        command.args(["migrate", target]).kill_on_drop(true);
        command
    }
}

async fn succeed(target: &str, migration: &mut Command) -> Result<()> {
    let output = migration.output().await.context("meridian migrate cannot be started")?;
    ensure!(
        output.status.success(),
        "meridian migrate {target} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The epoch in force of a tenant, by its number.
fn epoch(number: u64) -> u64 {
    1 + number % EPOCHS
}

/// The region's policy: its tenants, each with one edge by which workouts come from their organization's other region.
fn policy() -> Value {
    let homes = (0..TENANTS).map(|number| {
        json!({"tenant": format!("tenant-{number}"), "organization": format!("organization-{number}"), "epoch": epoch(number)})
    });
    json!({
        "region": "us", "jurisdiction": "us", "revision": 7, "public_url": "https://us.example", "issuer": "https://us.example",
        "countries_served": ["US"], "homes": homes.collect::<Vec<_>>(), "directory": [], "peers": [], "exports": [],
        "imports": (0..TENANTS).map(edge).collect::<Vec<_>>(), "retention": {},
    })
}

fn edge(number: u64) -> Value {
    json!({
        "id": format!("abroad-{number}.workout-summary.us"), "tenant": format!("abroad-{number}"),
        "organization": format!("organization-{number}"), "from": "eu", "to": "us",
        "exporter": "exporter", "importer": "importer", "importer_tenant": format!("tenant-{number}"),
        "class": "workout-summary", "purposes": ["cross-border-sharing"], "fields": ["sport_type"],
        "mechanism": "SCC", "instrument": "SCC 2021/914 module 1",
        "effective_from": "2020-01-01T00:00:00Z", "expires": "2100-01-01T00:00:00Z", "ends_with": "mechanism-expired",
        "pseudonymise": true, "onward": false, "needs_consent": true, "framework": "GDPR", "rule": "SCC", "epoch": 1,
    })
}
