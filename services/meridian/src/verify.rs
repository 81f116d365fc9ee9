//! `meridian verify`: looks at a region's databases and topics once and says what should not be there.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use meridian_kit::config::Config;
use meridian_kit::{Listeners, Start};
use meridian_operator::region::stack::plan::access;
use meridian_operator::region::stack::plan::components::with_database;
use meridian_policy::RegionPolicy;
use meridian_verifier::{Database, Planned, Region, Report, Server, verify};

/// Something was found.
const VIOLATIONS: u8 = 1;
/// It could not look everywhere, so it does not know.
const UNKNOWN: u8 = 2;

/// What to look at, and what to hold it against.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// PostgreSQL, as a role that sees every row: the superuser. Left out, this runs beside the verifier in the region, and looks
    /// as it does.
    #[arg(long, env = "MERIDIAN_SUPERUSER_URL", hide_env_values = true, requires = "policy")]
    database_url: Option<String>,
    /// The region's policy as JSON, as its ConfigMap `meridian-policy` holds it; `-` for standard input.
    #[arg(long, requires = "database_url")]
    policy: Option<PathBuf>,
    /// Who runs PostgreSQL and Kafka.
    #[command(flatten)]
    run_by: RunBy,
}

/// Who runs PostgreSQL and Kafka, as the region's stack says it.
#[derive(Args, Debug)]
pub(crate) struct RunBy {
    /// The mode of the region's PostgreSQL: `Embedded`, `CloudNativePG` or `External`.
    #[arg(long, env = "MERIDIAN_POSTGRES_MODE", default_value = "Embedded")]
    postgres_mode: meridian_verifier::RunBy,
    /// The role that makes roles and databases, where that is no superuser.
    #[arg(long, env = "MERIDIAN_POSTGRES_ADMINISTRATOR")]
    postgres_administrator: Option<String>,
    /// Whether Kafka is looked at too, under this process's certificate.
    #[arg(long, env = "MERIDIAN_VERIFY_KAFKA")]
    kafka: bool,
}

impl RunBy {
    /// What the verifier needs to know of the region.
    pub(crate) fn region(&self) -> Region {
        let server = Server {
            run_by: self.postgres_mode,
            administrator: self.postgres_administrator.clone(),
        };
        Region {
            server,
            databases: databases(),
            kafka: self.kafka.then(planned),
        }
    }
}

/// Prints the report as JSON, each finding in words to standard error, and gives the exit code.
pub(crate) async fn run(asked: Verify) -> ExitCode {
    let looked = look(&asked).await;
    let told = looked.and_then(|report| tell(&report).map(|()| report));
    match told {
        Ok(report) if report.is_clean() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(VIOLATIONS),
        Err(error) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "meridian verify: {error}");
            ExitCode::from(UNKNOWN)
        }
    }
}

async fn look(asked: &Verify) -> Result<Report, String> {
    let (Some(url), Some(file)) = (&asked.database_url, &asked.policy) else {
        // Nothing is logged: the report alone goes to standard output.
        let config = Config::from_env().map_err(|error| error.to_string())?;
        let start = Start::with_config("verifier", config, Listeners::default()).map_err(|error| error.to_string())?;
        return meridian_verifier::once(&start, asked.run_by.region()).await;
    };
    let Region { server, databases, .. } = asked.run_by.region();
    let report = verify(url, &server, &databases, &policy(file)?, Timestamp::now()).await;
    report.map_err(|error| error.to_string())
}

/// Those of a region's services.
fn databases() -> Vec<Database> {
    with_database().map(|component| Database::of(component.name)).collect()
}

/// What a region's operator lays down in Kafka, and what its services make there.
fn planned() -> Planned {
    Planned {
        topics: access::topics(),
        groups: access::groups(),
        acls: access::acls(),
    }
}

fn policy(file: &Path) -> Result<RegionPolicy, String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|content| text = content)
    };
    read.map_err(|error| format!("the policy in {} cannot be read: {error}", file.display()))?;
    let told: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| format!("the policy in {} is not JSON: {error}", file.display()))?;
    RegionPolicy::read(told).map_err(|error| format!("{} holds no region's policy: {error}", file.display()))
}

fn tell(report: &Report) -> Result<(), String> {
    let untold = |error: std::io::Error| format!("the report cannot be written: {error}");
    let json = serde_json::to_string_pretty(report).map_err(|error| untold(error.into()))?;
    writeln!(std::io::stdout(), "{json}").map_err(untold)?;
    for finding in &report.findings {
        writeln!(std::io::stderr(), "{finding}").map_err(untold)?;
    }
    Ok(())
}
