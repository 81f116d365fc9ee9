//! `cargo xtask bench`: builds at full speed what is measured and what it is measured against, starts a fleet of API servers
//! for the operator's bench, PostgreSQL and two brokers for the replicator's, PostgreSQL for the region that is verified, and
//! runs `meridian-bench`. What is measured, and how, is that program's to know (tests/bench).

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::images::app;
use crate::jars;
use crate::local::{Running, kafka};
use crate::paths::Paths;
use crate::progress::{self, Log};
use crate::tools;

/// The profile that is measured: optimised as a release is, without its slow link.
const PROFILE: &str = "fast";
/// API servers beside the hub's: the members share them.
const MEMBERS: usize = 4;

/// The policy's figure that needs a region, and so the platform.
const VERIFY: &str = "verify";
/// The policy's figures that need the programs that the engine is measured against.
const AGAINST_PEERS: [&str; 2] = ["peers", "conditions"];

/// What of the benchmarks, and how much.
pub struct Wanted {
    /// These figures; all, if none is named.
    pub only: Vec<String>,
    /// So many races.
    pub races: Option<usize>,
    /// So many rows.
    pub rows: Option<u64>,
}

impl Wanted {
    /// Whether one of these figures is to be measured.
    fn has(&self, figures: &[&str]) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| figures.contains(&wanted.as_str()))
    }
}

/// Builds, starts and runs; the answer is the bench's own.
///
/// # Errors
/// When something does not build or start.
pub fn run(
    paths: &Paths,
    cache: &Cache,
    names: &[String],
    wanted: &Wanted,
    programs: Option<PathBuf>,
) -> Result<ExitCode> {
    let named = |name: &str| names.iter().any(|one| one == name);
    let (operator, policy, replicator) = (named("operator"), named("policy"), named("replicator"));
    let verifies = policy && wanted.has(&[VERIFY]);
    let platform = operator || replicator || verifies;
    let programs = match programs {
        Some(built) => built,
        None => build(paths, platform)?,
    };
    let mut bench = Command::new(programs.join("meridian-bench"));
    bench
        .envs(app::ENVIRONMENT)
        .args(names)
        .args(wanted.only.iter().map(|figure| format!("--only={figure}")))
        .args(wanted.races.map(|races| format!("--races={races}")))
        .args(wanted.rows.map(|rows| format!("--rows={rows}")))
        .arg("--folder")
        .arg(paths.target.join("bench"));
    if policy && wanted.has(&AGAINST_PEERS) {
        let (cedar, opa) = peers(paths)?;
        bench.arg("--cedar").arg(cedar).arg("--opa").arg(opa);
    }
    if platform {
        bench.arg("--meridian").arg(programs.join("meridian"));
    }
    let mut started = Vec::new();
    if verifies {
        started.push(progress::step("starting a region's PostgreSQL", None, || {
            Running::start_region(paths, cache)
        })?);
    }
    if replicator {
        let mirror = paths.target.join("bench-peers/mirror");
        jars::mirror(paths, &mirror)?;
        bench.arg("--java").arg(kafka::java(paths)?).arg("--mirror").arg(mirror);
        started.push(progress::step("starting PostgreSQL and two brokers", None, || {
            Running::start_border(paths, cache)
        })?);
    }
    if operator {
        let tool = |name| tools::path(paths, cache, name);
        bench
            .arg("--kubectl")
            .arg(tool("kubectl")?)
            .arg("--helm")
            .arg(tool("helm")?);
        started.push(progress::step("starting API servers", None, || {
            Running::start_fleet(paths, cache, MEMBERS)
        })?);
    }
    let variables = started.iter().flat_map(Running::env);
    bench.envs(variables.map(|(name, value)| (*name, value.as_str())));
    let status = progress::mortal(&bench)
        .status()
        .context("meridian-bench cannot be started")?;
    drop(started);
    let Some(code) = status.code() else {
        bail!("meridian-bench ended with {status}")
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The folder that holds the programs. What the policy's bench measures of the engine needs nothing else of the platform.
fn build(paths: &Paths, platform: bool) -> Result<PathBuf> {
    let log = Log::fresh(paths, "build-bench")?;
    progress::step("building what is measured", Some(log.shown()), || {
        let mut build = cargo(paths);
        build.args(["build", "--profile", PROFILE, "--package", "meridian-bench"]);
        if platform {
            build.args(["--package", "meridian"]);
        } else {
            build.arg("--no-default-features");
        }
        log.run(&mut build)
    })?;
    Ok(paths.target.join(PROFILE))
}

fn cargo(paths: &Paths) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&paths.project);
    command
}

/// The programs that the policy engine is measured against, each built from versions that are committed.
fn peers(paths: &Paths) -> Result<(PathBuf, PathBuf)> {
    let (log, folder) = (
        Log::fresh(paths, "build-bench-peers")?,
        paths.target.join("bench-peers"),
    );
    let bench = paths.project.join("tests/bench");
    progress::step("building cedar-policy's and OPA's programs", Some(log.shown()), || {
        let mut cedar = cargo(paths);
        cedar
            .args(["build", "--release", "--locked", "--manifest-path"])
            .arg(bench.join("cedar/Cargo.toml"))
            .arg("--target-dir")
            .arg(&folder);
        log.run(&mut cedar)?;
        let mut opa = Command::new("go");
        opa.current_dir(bench.join("opa"))
            .env("CGO_ENABLED", "0")
            .args(["build", "-trimpath", "-mod=readonly", "-o"])
            .arg(folder.join("opa"))
            .arg(".");
        log.run(&mut opa)
    })?;
    Ok((folder.join("release/meridian-bench-cedar"), folder.join("opa")))
}
