//! `cargo xtask test chaos`: the long runs of what `test` runs in short.

use anyhow::Result;

use super::Tally;
use crate::cache::Cache;
use crate::cluster;
use crate::deploy;
use crate::docker::engine;
use crate::paths::Paths;
use crate::programs;
use crate::progress::{self, Log};

/// Seeds of each simulation, unless the environment says how many or which one.
const SEEDS: &str = "3000";

/// The row that walks at random.
const WALK: u8 = 18;

/// Plays the simulations of the operator, then walks over the demo, which it brings up.
///
/// # Errors
/// When no log can be written, or the lock of the demo cannot be taken.
pub fn run(paths: &Paths, cache: &Cache) -> Result<Tally> {
    let mut total = simulations(paths)?;
    total.add(walk(paths, cache)?);
    Ok(total)
}

fn walk(paths: &Paths, cache: &Cache) -> Result<Tally> {
    if let Some(sentence) = engine::lacking() {
        return Ok(Tally::skip(format!("the random walk on kind: {sentence}")));
    }
    let _alone = cache.lock("demo")?;
    let walked = || {
        let programs = programs::build(paths, programs::Scope::Demo)?;
        let clusters = cluster::up(paths, cache)?;
        deploy::deploy(paths, cache, &clusters, &programs)?;
        let wanted = deploy::Wanted {
            rows: &[WALK],
            ..deploy::Wanted::default()
        };
        deploy::prove(paths, cache, &programs, &wanted)
    };
    Ok(walked().unwrap_or_else(|error| {
        progress::say(&format!("the random walk on kind: FAILED: {error:#}"));
        Tally::one(false)
    }))
}

/// With thousands of seeds, and with the operator killed at every request of each operation.
fn simulations(paths: &Paths) -> Result<Tally> {
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
