//! `cargo xtask test chaos`: the long runs of what `test` runs in short.

use anyhow::Result;

use super::Tally;
use crate::paths::Paths;
use crate::progress::{self, Log};

/// Seeds of each simulation, unless the environment says how many or which one.
const SEEDS: &str = "3000";

/// Plays the simulations of the operator with thousands of seeds, and kills it at every request of each operation.
///
/// # Errors
/// When no log can be written.
pub fn run(paths: &Paths) -> Result<Tally> {
    let log = Log::fresh(paths, "chaos")?;
    let mut simulation = paths.patient_cargo();
    simulation.args([
        "test",
        "--workspace",
        "--no-fail-fast",
        "--test",
        "simulation",
        "--",
        "--show-output",
    ]);
    if std::env::var_os("MERIDIAN_SEEDS").is_none() {
        simulation.env("MERIDIAN_SEEDS", SEEDS);
    }
    simulation.env("MERIDIAN_CRASHES", "all");
    let ended = progress::step("simulations", Some(log.shown()), || log.run(&mut simulation));
    let text = std::fs::read_to_string(log.path())?;
    // What they say of themselves: how many seeds, and how a failed one is played again.
    for line in text
        .lines()
        .filter(|line| line.contains("seeds in") || line.starts_with("MERIDIAN_SEED="))
    {
        progress::say(line);
    }
    let mut tally = Tally::of_cargo_test(&text);
    if let Err(error) = ended {
        progress::say(&format!("simulations: FAILED: {error:#}"));
        tally.failed = tally.failed.max(1);
    }
    Ok(tally)
}
