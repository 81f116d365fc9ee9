//! `meridian-bench replicator`: what the replicator costs against MirrorMaker 2, and races that it must never lose.

mod border;
mod mirror;
mod policy_change;
mod races;
mod service;
mod throughput;
mod topic;
mod withdrawal;

use anyhow::{Result, bail};

use crate::Programs;
use crate::report::Report;

/// The figures, in the order in which they are measured.
const FIGURES: [&str; 3] = ["throughput", "policy-change", "withdrawal"];

/// Measures the figures of `only`, or all. One that cannot be measured does not stop the others. `races`: so many of each
/// kind, however long they take.
///
/// # Errors
/// Which figures could not be measured.
pub async fn run(programs: &Programs, only: &[String], races: Option<usize>, report: &mut Report) -> Result<()> {
    if let Some(unknown) = only.iter().find(|figure| !FIGURES.contains(&figure.as_str())) {
        bail!("no figure is called `{unknown}`; there are: {}", FIGURES.join(", "));
    }
    let mut failed = Vec::new();
    for figure in FIGURES {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == figure) {
            continue;
        }
        eprintln!("replicator: {figure} …");
        let measured = match figure {
            "throughput" => throughput::measure(programs, report).await,
            "policy-change" => policy_change::measure(programs, races, report).await,
            _ => withdrawal::measure(programs, races, report).await,
        };
        if let Err(error) = measured {
            eprintln!("replicator: {figure}: {error:#}");
            failed.push(figure);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("could not be measured: {}", failed.join(", "))
    }
}
