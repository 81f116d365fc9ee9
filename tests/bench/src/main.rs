//! `meridian-bench`: measures what Meridian promises to be fast at, and says whether each bound is met.
#![allow(missing_docs, reason = "a program, not a library")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table and the progress are what the program is run for"
)]

mod measure;
#[cfg(feature = "operator")]
mod operator;
mod policy;
#[cfg(any(feature = "operator", feature = "replicator", feature = "verifier"))]
mod process;
#[cfg(feature = "replicator")]
mod replicator;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use crate::report::Report;

/// The one that `meridian` has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs benchmarks on the parts that `cargo xtask bench` started.
#[derive(Parser)]
#[command(name = "meridian-bench", version)]
struct Arguments {
    /// Which: operator, policy, replicator.
    #[arg(required = true)]
    names: Vec<String>,
    /// Only these figures of it.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// So many races of each kind, however long they take; without it as many as are promised, for some minutes.
    #[cfg(feature = "replicator")]
    #[arg(long)]
    races: Option<usize>,
    /// So many rows in the region that is verified.
    #[cfg(feature = "verifier")]
    #[arg(long, default_value_t = policy::verify::ROWS)]
    rows: u64,
    #[cfg(any(feature = "operator", feature = "replicator", feature = "verifier"))]
    #[command(flatten)]
    programs: Programs,
    #[command(flatten)]
    peers: Peers,
    /// Where NAME.json goes.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

/// The programs that are measured, and those that they are measured against.
#[cfg(any(feature = "operator", feature = "replicator", feature = "verifier"))]
#[derive(clap::Args)]
pub struct Programs {
    /// The platform's binary.
    #[arg(long, default_value = "meridian")]
    pub meridian: PathBuf,
    /// The kubectl to compare with.
    #[arg(long, default_value = "kubectl")]
    pub kubectl: PathBuf,
    /// The helm to compare with.
    #[arg(long, default_value = "helm")]
    pub helm: PathBuf,
    /// The Java that MirrorMaker 2 runs on.
    #[arg(long, default_value = "java")]
    pub java: PathBuf,
    /// The folder of MirrorMaker 2's jars.
    #[arg(long, default_value = "target/bench-peers/mirror")]
    pub mirror: PathBuf,
}

/// The programs that the policy engine is measured against.
#[derive(clap::Args)]
pub struct Peers {
    /// The program of tests/bench/cedar.
    #[arg(long, default_value = "meridian-bench-cedar")]
    pub cedar: PathBuf,
    /// The program of tests/bench/opa.
    #[arg(long, default_value = "opa")]
    pub opa: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(any(feature = "operator", feature = "replicator"))]
    meridian_kit::tls::install_crypto_provider();
    match run(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("meridian-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every bound of every bench is met.
async fn run(arguments: &Arguments) -> Result<bool> {
    let mut met = true;
    for name in &arguments.names {
        let mut report = Report::new(name, &arguments.folder);
        let ended = match name.as_str() {
            #[cfg(feature = "operator")]
            "operator" => operator::run(&arguments.programs, &arguments.only, &mut report).await,
            #[cfg(not(feature = "operator"))]
            "operator" => bail!("this program was built without the feature `operator`"),
            #[cfg(feature = "replicator")]
            "replicator" => replicator::run(&arguments.programs, &arguments.only, arguments.races, &mut report).await,
            #[cfg(not(feature = "replicator"))]
            "replicator" => bail!("this program was built without the feature `replicator`"),
            "policy" => policy::run(arguments, &mut report).await,
            other => bail!("no bench is called `{other}`; there are: operator, policy, replicator"),
        };
        println!("{report}");
        if let Err(error) = ended {
            eprintln!("meridian-bench: {name}: {error:#}");
            met = false;
        }
        met &= report.met();
    }
    Ok(met)
}
