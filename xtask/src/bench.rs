//! `cargo xtask bench`: builds at full speed what is measured and what it is measured against, starts a fleet of API servers
//! for the operator's bench, and runs `meridian-bench`. What is measured, and how, is that program's to know (tests/bench).

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::local::Running;
use crate::paths::Paths;
use crate::progress::{self, Log};
use crate::tools;

/// The profile that is measured: optimised as a release is, without its slow link.
const PROFILE: &str = "fast";
/// API servers beside the hub's: the members share them.
const MEMBERS: usize = 4;

/// Builds, starts and runs; the answer is the bench's own.
///
/// # Errors
/// When something does not build or start.
pub fn run(
    paths: &Paths,
    cache: &Cache,
    names: &[String],
    only: &[String],
    programs: Option<PathBuf>,
) -> Result<ExitCode> {
    let (operator, policy) = (wanted(names, "operator"), wanted(names, "policy"));
    let programs = match programs {
        Some(built) => built,
        None => build(paths, operator)?,
    };
    let mut bench = Command::new(programs.join("meridian-bench"));
    bench
        .args(names)
        .args(only.iter().map(|figure| format!("--only={figure}")))
        .arg("--folder")
        .arg(paths.target.join("bench"));
    if policy {
        let (cedar, opa) = peers(paths)?;
        bench.arg("--cedar").arg(cedar).arg("--opa").arg(opa);
    }
    let mut fleet = None;
    if operator {
        let tool = |name| tools::path(paths, cache, name);
        bench
            .arg("--meridian")
            .arg(programs.join("meridian"))
            .arg("--kubectl")
            .arg(tool("kubectl")?)
            .arg("--helm")
            .arg(tool("helm")?);
        let started = progress::step("starting API servers", None, || {
            Running::start_fleet(paths, cache, MEMBERS)
        })?;
        bench.envs(started.env().iter().map(|(name, value)| (*name, value.as_str())));
        fleet = Some(started);
    }
    let status = progress::mortal(&bench)
        .status()
        .context("meridian-bench cannot be started")?;
    drop(fleet);
    let Some(code) = status.code() else {
        bail!("meridian-bench ended with {status}")
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn wanted(names: &[String], name: &str) -> bool {
    names.iter().any(|one| one == name)
}

/// The folder that holds the programs. The policy's bench needs nothing of the platform but the engine.
fn build(paths: &Paths, operator: bool) -> Result<PathBuf> {
    let log = Log::fresh(paths, "build-bench")?;
    progress::step("building what is measured", Some(log.shown()), || {
        let mut build = cargo(paths);
        build.args(["build", "--profile", PROFILE, "--package", "meridian-bench"]);
        if operator {
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
