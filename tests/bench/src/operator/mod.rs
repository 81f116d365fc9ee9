//! `meridian-bench operator`: the operator against kubectl and helm, and against its own promises.

mod bare;
mod beat;
mod change;
mod enforcement;
mod fleet;
mod hub;
mod lay_down;
mod no_op;
mod regions;
mod scale;
mod servers;
mod stack;

use anyhow::{Result, bail};

use crate::Programs;
use crate::report::Report;
use servers::Servers;

/// The figures, in the order in which they are measured: the quick ones first.
const FIGURES: [&str; 5] = ["lay-down", "no-op", "change", "fleet", "enforcement"];

/// Measures the figures of `only`, or all. One that cannot be measured does not stop the others.
///
/// # Errors
/// Which figures could not be measured.
pub async fn run(programs: &Programs, only: &[String], report: &mut Report) -> Result<()> {
    if let Some(unknown) = only.iter().find(|figure| !FIGURES.contains(&figure.as_str())) {
        bail!("no figure is called `{unknown}`; there are: {}", FIGURES.join(", "));
    }
    let servers = Servers::from_env().await?;
    servers.install_custom_resources().await?;
    let mut failed = Vec::new();
    for figure in FIGURES {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == figure) {
            continue;
        }
        eprintln!("operator: {figure} …");
        let measured = match figure {
            "lay-down" => lay_down::measure(&servers, programs, report).await,
            "no-op" => no_op::measure(&servers, report).await,
            "change" => change::measure(&servers, programs, report).await,
            "enforcement" => enforcement::measure(&servers, programs, report).await,
            _ => scale::measure(&servers, programs, report).await,
        };
        if let Err(error) = measured {
            eprintln!("operator: {figure}: {error:#}");
            failed.push(figure);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("could not be measured: {}", failed.join(", "))
    }
}
