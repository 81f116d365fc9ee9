//! `meridian-bench`: measures what Meridian promises to be fast at, and says whether each bound is met.
#![allow(missing_docs, reason = "a program, not a library")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table and the progress are what the program is run for"
)]

mod measure;
mod operator;
mod process;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use crate::report::Report;

/// Runs benchmarks on the API servers that `cargo xtask bench` started.
#[derive(Parser)]
#[command(name = "meridian-bench", version)]
struct Arguments {
    /// Which: operator.
    #[arg(required = true)]
    names: Vec<String>,
    /// Only these figures of it.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    programs: Programs,
    /// Where NAME.json goes.
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
}

/// The programs that are measured, and those that they are measured against.
#[derive(clap::Args)]
pub struct Programs {
    /// The platform's binary.
    #[arg(long)]
    pub meridian: PathBuf,
    /// The kubectl to compare with.
    #[arg(long)]
    pub kubectl: PathBuf,
    /// The helm to compare with.
    #[arg(long)]
    pub helm: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
            "operator" => operator::run(&arguments.programs, &arguments.only, &mut report).await,
            other => bail!("no bench is called `{other}`; there is: operator"),
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
