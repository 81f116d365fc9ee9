//! `meridian-e2e`: proves on the running demo what Meridian promises, row by row, against the parts themselves.
#![allow(missing_docs, reason = "a program, not a library")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table and the progress are what the program is run for"
)]

mod athlete;
mod kubectl;
mod rows;
mod table;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::table::Table;
use crate::world::World;

/// Proves the rows on the demo that `cargo xtask up` brought up.
#[derive(Parser)]
#[command(name = "meridian-e2e", version)]
struct Arguments {
    /// The rows to prove, for example `--rows 2,8`. All, if none is named.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=10))]
    rows: Vec<u8>,
    /// The folder for results and for what the README's examples need (the gateways' CAs).
    #[arg(long, default_value = "target/meridian")]
    folder: PathBuf,
    /// The kubectl to use.
    #[arg(long, default_value = "kubectl")]
    kubectl: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("meridian-e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool> {
    let world = World::connect(&arguments.folder, &arguments.kubectl).await?;
    let mut table = Table::load(&arguments.folder);
    for row in rows::ALL
        .iter()
        .filter(|row| arguments.rows.is_empty() || arguments.rows.contains(&row.number))
    {
        eprintln!("row {}: {} …", row.number, row.promise);
        table.record(row, rows::prove(row.number, &world).await);
        table.save(&arguments.folder)?;
    }
    println!("{table}");
    println!("{}", table.closing_line());
    Ok(table.failed() == 0)
}
