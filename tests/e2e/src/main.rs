//! `meridian-e2e`: proves on the running demo what Meridian promises, row by row, against the parts themselves.
#![allow(missing_docs, reason = "a program, not a library")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the table and the progress are what the program is run for"
)]

mod athlete;
mod kafka;
mod kubectl;
mod marketer;
mod node;
mod program;
mod psql;
mod rows;
mod table;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use futures::future::join_all;
use tokio::sync::{mpsc, watch};

use crate::rows::Outcome;
use crate::table::Table;
use crate::world::World;

/// How long an interrupted row may take to leave the demo as it was.
const PUT_BACK: Duration = Duration::from_secs(20);

/// Proves the rows on the demo that `cargo xtask up` brought up.
#[derive(Parser)]
#[command(name = "meridian-e2e", version)]
struct Arguments {
    /// The rows to prove, for example `--rows 2,8`. All, if none is named.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=18))]
    rows: Vec<u8>,
    /// Nothing changed since the last run: do not prove the long rows again that were proved on this demo, show when they were.
    #[arg(long, conflicts_with = "rows")]
    again: bool,
    /// Prove the rows too that are about operating the platform. They scale, upgrade and rebuild parts of the demo.
    #[arg(long, conflicts_with = "rows")]
    operations: bool,
    /// The folder for results and for what the README's examples need (the gateways' CAs).
    #[arg(long, default_value = "target/meridian")]
    folder: PathBuf,
    /// The kubectl to use.
    #[arg(long, default_value = "kubectl")]
    kubectl: PathBuf,
    /// `cargo xtask` itself, which makes a lost cluster anew.
    #[arg(long)]
    xtask: Option<PathBuf>,
}

impl Arguments {
    fn wants(&self, row: u8, table: &Table) -> bool {
        if !self.rows.is_empty() {
            return self.rows.contains(&row);
        }
        let asked = rows::OF_THE_DEMO.contains(&row) || (self.operations && row != rows::WALK);
        let stands = self.again && rows::LONG.contains(&row) && table.has_proved(row);
        asked && !stands
    }
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
    let world = World::connect(
        arguments.folder.clone(),
        arguments.kubectl.clone(),
        arguments.xtask.clone(),
    )
    .await?;
    let mut table = Table::load(&arguments.folder, world.identity().await?);
    let wanted: Vec<u8> = rows::ALL
        .iter()
        .map(|row| row.number)
        .filter(|row| arguments.wants(*row, &table))
        .collect();
    let (interrupt, interrupted) = watch::channel(false);
    tokio::spawn(async move {
        // Where signals cannot be had, an interruption just ends the program.
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = interrupt.send(true);
        }
    });
    for lanes in rows::STAGES {
        let (results, mut proved) = mpsc::unbounded_channel();
        let lanes = lanes.iter().map(|lane| {
            let lane = lane.iter().copied().filter(|row| wanted.contains(row)).collect();
            run_lane(lane, &world, results.clone(), interrupted.clone())
        });
        let lanes: Vec<_> = lanes.collect();
        drop(results);
        let record = async {
            while let Some(Proof { row, outcome, took }) = proved.recv().await {
                table.record(row, outcome, took);
                table.save(&arguments.folder)?;
            }
            anyhow::Ok(())
        };
        // Rows that were interrupted put the demo back as it was before they end.
        let (_, recorded) = tokio::join!(join_all(lanes), record);
        recorded?;
        ensure!(!*interrupted.borrow(), "interrupted; run `cargo xtask prove` to go on");
    }
    table.fail_unfinished(&wanted);
    table.save(&arguments.folder)?;
    println!("{table}");
    println!("{}", table.closing_line());
    Ok(table.failed() == 0)
}

/// What became of a row.
struct Proof {
    row: u8,
    outcome: Result<Outcome>,
    took: Duration,
}

async fn run_lane(
    lane: Vec<u8>,
    world: &World,
    results: mpsc::UnboundedSender<Proof>,
    mut interrupted: watch::Receiver<bool>,
) {
    for row in lane {
        eprintln!("row {row} …");
        let began = Instant::now();
        let outcome = tokio::select! {
            outcome = rows::prove(row, world) => outcome,
            Ok(_) = given_up(&mut interrupted) => Err(anyhow!("interrupted")),
        };
        let took = began.elapsed();
        if results.send(Proof { row, outcome, took }).is_err() || *interrupted.borrow() {
            return;
        }
    }
}

/// Some time after the interruption: rows that changed the demo need it to put that back.
async fn given_up(interrupted: &mut watch::Receiver<bool>) -> Result<()> {
    interrupted.wait_for(|interrupted| *interrupted).await?;
    tokio::time::sleep(PUT_BACK).await;
    Ok(())
}
