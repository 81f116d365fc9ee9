//! `cargo xtask bench`: builds the platform at full speed, starts a fleet of API servers, and runs `meridian-bench` on it.
//! What is measured, and how, is that program's to know (tests/bench).

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
    let programs = match programs {
        Some(built) => built,
        None => build(paths)?,
    };
    let tool = |name| tools::path(paths, cache, name);
    let (kubectl, helm) = (tool("kubectl")?, tool("helm")?);
    let fleet = progress::step("starting API servers", None, || {
        Running::start_fleet(paths, cache, MEMBERS)
    })?;
    let mut bench = Command::new(programs.join("meridian-bench"));
    bench
        .args(names)
        .args(only.iter().map(|figure| format!("--only={figure}")))
        .arg("--folder")
        .arg(paths.target.join("bench"))
        .arg("--meridian")
        .arg(programs.join("meridian"))
        .arg("--kubectl")
        .arg(kubectl)
        .arg("--helm")
        .arg(helm)
        .envs(fleet.env().iter().map(|(name, value)| (*name, value.as_str())));
    let status = progress::mortal(&bench)
        .status()
        .context("meridian-bench cannot be started")?;
    let Some(code) = status.code() else {
        bail!("meridian-bench ended with {status}")
    };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The folder that holds both programs.
fn build(paths: &Paths) -> Result<PathBuf> {
    let log = Log::fresh(paths, "build-bench")?;
    progress::step("building the platform and the bench", Some(log.shown()), || {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        log.run(
            Command::new(cargo)
                .current_dir(&paths.project)
                .args(["build", "--profile", PROFILE])
                .args(["--package", "meridian", "--package", "meridian-bench"]),
        )
    })?;
    Ok(paths.target.join(PROFILE))
}
