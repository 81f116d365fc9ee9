//! The one binary that holds every service and both operator roles: `meridian training`, `meridian operator hub`,
//! `meridian migrate training`, and under the name `kubectl-meridian` the plugin `kubectl meridian`. It knows how each starts,
//! and nothing of what they do.

use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use meridian_kit::{Start, StartError};

mod evidence;
mod migrate;
mod operator;
mod plugin;
mod verify;

/// A hub of a hundred regions spends two fifths of its time in the system's allocator, and much less in this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One service or role of Meridian. Services read their settings from MERIDIAN_* variables.
#[derive(Debug, Parser)]
#[command(name = "meridian", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keeps the keys of data subjects, outside every database.
    Keyring,
    /// Accounts, sessions, profiles.
    Identity,
    /// What data subjects consented to.
    Consent,
    /// Workouts.
    Training,
    /// Takes samples and reads tracks back.
    Telemetry,
    /// Stores samples.
    TelemetryWriter,
    /// Follows and feeds.
    Social,
    /// Campaigns, to those who consented.
    Promotions,
    /// Carries events across borders, where the policy allows it.
    Replicator,
    /// Looks at what is in the region's databases and topics, again and again.
    Verifier(verify::RunBy),
    /// The region's public edge.
    Gateway,
    /// The Kubernetes operator.
    #[command(subcommand)]
    Operator(Box<operator::Role>),
    /// Brings databases to the state that this version needs.
    #[command(subcommand)]
    Migrate(migrate::Target),
    /// What a region recorded about transfers: writes it to a file, and checks such a file without asking anybody.
    #[command(subcommand)]
    Evidence(evidence::Verb),
    /// Looks at a region's databases and topics and says what should not be there: exit code 0 nothing, 1 something, 2 it does not know.
    Verify(verify::Verify),
    /// What people ask a hub: the plugin `kubectl meridian`.
    #[command(subcommand)]
    Kubectl(Box<plugin::Verb>),
}

/// The command, under either name of the program.
fn command() -> Result<Command, ExitCode> {
    let mut words = std::env::args_os();
    if plugin::is_called(words.next().as_deref()) {
        return plugin::Plugin::try_parse()
            .map(|plugin| Command::Kubectl(Box::new(plugin.verb)))
            .map_err(|error| plugin::refuse(&error));
    }
    Arguments::try_parse()
        .map(|arguments| arguments.command)
        .map_err(|error| {
            if words.next().is_some_and(|word| word == "kubectl") {
                plugin::refuse(&error)
            } else {
                error.exit()
            }
        })
}

/// How long threads that work on something may go on when all is done.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let command = match command() {
        Ok(command) => command,
        Err(code) => return code,
    };
    // Two workers: a service spends its time waiting, and each thread costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(command));
            // Of what blocks a thread (a name that is looked up, and nobody answers) nothing is waited for.
            runtime.shutdown_timeout(LEFT_BEHIND);
            outcome
        }
        Err(error) => Err(format!("the runtime cannot be started: {error}")),
    };
    match outcome {
        Ok(code) => code,
        Err(sentence) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "meridian: {sentence}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode, String> {
    let ended = match command {
        Command::Kubectl(verb) => return plugin::run(*verb).await,
        Command::Evidence(verb) => evidence::run(verb).await,
        Command::Verify(asked) => return Ok(verify::run(asked).await),
        Command::Keyring => service("keyring", meridian_keyring::run).await,
        Command::Identity => service("identity", meridian_identity::run).await,
        Command::Consent => service("consent", meridian_consent::run).await,
        Command::Training => service("training", meridian_training::run).await,
        Command::Telemetry => service("telemetry", meridian_telemetry::run).await,
        Command::TelemetryWriter => service("telemetry-writer", meridian_telemetry::run_writer).await,
        Command::Social => service("social", meridian_social::run).await,
        Command::Promotions => service("promotions", meridian_promotions::run).await,
        Command::Replicator => service("replicator", meridian_replicator::run).await,
        Command::Verifier(run_by) => {
            let run = |start| meridian_verifier::run(start, run_by.region());
            service("verifier", run).await
        }
        Command::Gateway => service("gateway", meridian_gateway::run).await,
        Command::Operator(role) => operator::run(*role).await,
        Command::Migrate(target) => {
            let _ = meridian_kit::log::install("migrate", "", None);
            migrate::run(target).await.map_err(|error| error.to_string())
        }
    };
    ended.map(|()| ExitCode::SUCCESS)
}

async fn service<F, R>(name: &'static str, run: F) -> Result<(), String>
where
    F: FnOnce(Start) -> R,
    R: Future<Output = Result<(), StartError>>,
{
    let start = Start::from_env(name).map_err(|error| error.to_string())?;
    run(start).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_unknown_service_or_flag_is_refused_with_what_there_is() {
        for arguments in [
            &["meridian", "trainin"][..],
            &["meridian", "training", "--port", "1"],
            &["meridian"],
        ] {
            assert!(Arguments::try_parse_from(arguments).is_err(), "{arguments:?}");
        }
        let refusal = Arguments::try_parse_from(["meridian", "trainin"])
            .unwrap_err()
            .to_string();
        assert!(refusal.contains("training"), "{refusal}");
    }
}
