//! `cargo xtask`: builds and caches what the project runs on, brings the demo up and down, starts real parts for tests.

mod bench;
mod cache;
mod cluster;
mod deploy;
mod docker;
mod generated;
mod host;
mod images;
mod jars;
mod local;
mod on_path;
mod paths;
mod preflight;
mod programs;
mod progress;
mod registry;
mod rootfs;
mod runbook;
mod tools;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::cache::Cache;
use crate::local::Part;
use crate::paths::Paths;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring up the demo: clusters, images, the platform, and the proof that it works.
    Up,
    /// Remove what `up` made: clusters, containers, and the engine if it was started here.
    Down {
        /// Remove the caches too: the next `up` builds everything anew.
        #[arg(long)]
        cache: bool,
    },
    /// Run everything that CI runs: format, lints, generated files, unit and integration tests, the demo's proofs.
    Test {
        /// Instead of that, the long runs: `chaos` plays simulations with thousands of seeds and walks at random over the demo, `mutants` breaks the policy
        /// engine and the replicator's rules one place at a time and looks whether a test notices.
        #[arg(value_enum)]
        long: Option<Long>,
        /// Of the mutants, one part of several: `0/20` tries each twentieth.
        #[arg(long, requires = "long")]
        shard: Option<String>,
        /// Leave out the proofs on kind.
        #[arg(long, conflicts_with = "long")]
        fast: bool,
    },
    /// Measure what the product promises to be fast at; fails where a bound is not met.
    Bench {
        /// Benchmarks: operator, policy, replicator.
        #[arg(required = true)]
        names: Vec<String>,
        /// Only these figures of them, for example `--only lay-down,no-op`.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// So many races of each kind, however long they take; without it as many as are promised, for some minutes.
        #[arg(long)]
        races: Option<usize>,
        /// So many rows in the region that is verified; without it as many as are promised.
        #[arg(long)]
        rows: Option<u64>,
        /// A folder with both programs, built already; without it they are built as a release is.
        #[arg(long)]
        programs: Option<PathBuf>,
    },
    /// Prove rows on the running demo.
    Prove {
        /// The rows, for example `--rows 2,8`. All of `up`, if none is named.
        #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=18))]
        rows: Vec<u8>,
    },
    /// Run pages of docs/runbooks as they are written, on the running demo.
    Runbook {
        /// The pages, for example `upgrade`.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make the demo's clusters whole again, with programs that are built and a lock that the caller holds.
    #[command(hide = true)]
    MakeClustersWhole,
    /// Write the custom resources' YAML and the chart's copy of it.
    Crds,
    /// Write the chart's renderings, which `test` compares with what it renders then.
    Chart,
    /// Bring up the clusters hub, eu and us, without the platform.
    Cluster {
        /// One more beside them: north.
        spare: Option<String>,
    },
    /// Build the platform's image and load it into the clusters.
    Images,
    /// Build tools into the cache: all, or those named.
    Tools {
        /// Names such as kubectl, kind, helm, etcd.
        names: Vec<String>,
    },
    /// Start real parts as processes, run a command with their addresses in its environment, stop them.
    Parts {
        /// The parts to start.
        #[arg(required = true, value_enum)]
        parts: Vec<Part>,
        /// The command, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// Tests that take too long for CI.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Long {
    Chaos,
    Mutants,
}

fn main() -> ExitCode {
    if docker::front::is_called() {
        progress::say(&format!("{:#}", docker::front::run()));
        return ExitCode::FAILURE;
    }
    let arguments = Arguments::parse();
    progress::start_clock();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            progress::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    let paths = Paths::find()?;
    let cache = Cache::at(&paths.cache);
    match verb {
        Verb::Up => {
            let _alone = cache.lock("demo")?;
            preflight::demo(&paths, &cache)?;
            let building = programs::begin(&paths, programs::Scope::Demo);
            let clusters = cluster::up(&paths, &cache)?;
            let programs = building.end()?;
            let deployed = deploy::deploy(&paths, &cache, &clusters, &programs)?;
            let proved = deploy::prove_all(&paths, &cache, &programs, &deployed, false)?;
            deploy::say_where(&paths, &cache)?;
            return Ok(verify::close(&proved));
        }
        Verb::Test {
            long: Some(Long::Chaos),
            ..
        } => return Ok(verify::close(&verify::chaos::run(&paths, &cache)?)),
        Verb::Test {
            long: Some(Long::Mutants),
            shard,
            ..
        } => return Ok(verify::close(&verify::mutants::run(&paths, &cache, shard.as_deref())?)),
        Verb::Test { long: None, fast, .. } => {
            return Ok(verify::close(&verify::run(&paths, &cache, verify::Scope { fast })?));
        }
        Verb::Bench {
            names,
            only,
            races,
            rows,
            programs,
        } => return bench::run(&paths, &cache, &names, &bench::Wanted { only, races, rows }, programs),
        Verb::Prove { rows } => {
            let _alone = cache.lock("demo")?;
            let programs = programs::build(&paths, programs::Scope::Demo)?;
            let wanted = deploy::Wanted {
                rows: &rows,
                ..deploy::Wanted::default()
            };
            return Ok(verify::close(&deploy::prove(&paths, &cache, &programs, &wanted)?));
        }
        Verb::Runbook { names } => {
            let programs = programs::build(&paths, programs::Scope::Demo)?;
            return Ok(verify::close(&runbook::run(&paths, &cache, &programs, &names)?));
        }
        Verb::MakeClustersWhole => {
            let clusters = cluster::up(&paths, &cache)?;
            deploy::deploy(&paths, &cache, &clusters, &programs::built(&paths)?)?;
        }
        Verb::Crds => generated::write(&paths)?,
        Verb::Chart => verify::chart::write(&paths, &cache)?,
        Verb::Down { cache: wipe } => down(&paths, &cache, wipe)?,
        Verb::Cluster { spare } => {
            let _alone = cache.lock("demo")?;
            match &spare {
                Some(name) => cluster::up_with(&paths, &cache, name)?,
                None => cluster::up(&paths, &cache)?,
            };
            let names = cluster::CLUSTERS.iter().map(|spec| spec.name).chain(spare.as_deref());
            let names: Vec<String> = names.map(|name| format!("kind-{name}")).collect();
            progress::say(&format!("clusters are up; contexts: {}", names.join(", ")));
        }
        Verb::Images => {
            let _alone = cache.lock("demo")?;
            cluster::up(&paths, &cache)?;
            let programs = programs::build(&paths, programs::Scope::Demo)?;
            let image = deploy::image(&paths, &cache, &programs)?;
            progress::say(&format!("every cluster holds {}", image.tag));
        }
        Verb::Tools { names } => {
            let all = tools::TOOLS.iter().map(|tool| tool.name.to_owned()).collect();
            let names: Vec<String> = if names.is_empty() { all } else { names };
            for name in &names {
                tools::find(name)?;
            }
            for name in &names {
                let path = tools::path(&paths, &cache, name)?;
                progress::say(&format!("{name}: {}", path.display()));
            }
        }
        Verb::Parts { parts, command } => {
            let status = local::run_with(&paths, &cache, &parts, &command)?;
            let Some(code) = status.code() else {
                bail!("`{}` ended with {status}", command.join(" "))
            };
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn down(paths: &Paths, cache: &Cache, wipe: bool) -> Result<()> {
    let _alone = cache.lock("demo")?;
    cluster::down(paths, cache, wipe)?;
    if wipe {
        cluster::remove_images()?;
    }
    docker::engine::stop(cache)?;
    local::remove_left_over(paths)?;
    if wipe {
        host::refuse_mounts_below(&paths.cache)?;
        cache.wipe()?;
    }
    progress::say("nothing of ours is left running");
    Ok(())
}
