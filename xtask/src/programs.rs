//! The project's own programs, built by one call of cargo.
//!
//! Cargo decides a dependency's features by what one call builds. Two calls for two packages would compile much of the
//! dependencies twice, librdkafka and every service among them; so there are two calls in all, one for the demo and one
//! for the checks, and whatever is run afterwards is run from the target folder.

use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use anyhow::{Result, bail};

use crate::paths::Paths;
use crate::progress::{self, Log};

/// What to build beside the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: what the demo needs.
    Demo,
    /// Every test and example too, with the features that `cargo test --workspace` will ask for.
    Checks,
}

/// The built programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// All services and both operator roles.
    pub meridian: PathBuf,
    /// The proofs of the demo.
    pub e2e: PathBuf,
}

/// Builds them.
///
/// # Errors
/// When they do not build: with the end of cargo's log.
pub fn build(paths: &Paths, scope: Scope) -> Result<Programs> {
    let log = Log::fresh(paths, "build")?;
    let name = match scope {
        Scope::Demo => "building the platform and its proofs",
        Scope::Checks => "building the platform, its proofs and every test",
    };
    progress::step(name, Some(log.shown()), || {
        log.run(paths.patient_cargo().args(arguments(scope)))
    })?;
    built(paths)
}

/// Those that are built already.
///
/// # Errors
/// When one is missing.
pub fn built(paths: &Paths) -> Result<Programs> {
    let programs = Programs {
        meridian: paths.built("meridian"),
        e2e: paths.built("meridian-e2e"),
    };
    for program in [&programs.meridian, &programs.e2e] {
        if !program.is_file() {
            bail!("cargo has built no {}", program.display());
        }
    }
    Ok(programs)
}

/// Builds them while the caller does something else. The thread is not waited for when this program ends: cargo ends with
/// it then, so that an error elsewhere is told at once.
pub fn begin(paths: &Paths, scope: Scope) -> Building {
    let paths = paths.clone();
    Building(thread::spawn(move || build(&paths, scope)))
}

/// A build that goes on.
pub struct Building(JoinHandle<Result<Programs>>);

impl Building {
    /// Waits for its end.
    ///
    /// # Errors
    /// Those of [`build`].
    pub fn end(self) -> Result<Programs> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn arguments(scope: Scope) -> &'static [&'static str] {
    match scope {
        Scope::Demo => &["build", "--workspace", "--bin", "meridian", "--bin", "meridian-e2e"],
        Scope::Checks => &["build", "--workspace", "--all-targets"],
    }
}
