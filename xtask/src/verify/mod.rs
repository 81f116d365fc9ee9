//! `cargo xtask test`: everything that CI runs, in the order in which it fails soonest.

pub mod chaos;
pub mod chart;
mod demo;
mod lanes;
mod leaks;
pub mod mutants;
mod tally;

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result};

use leaks::Leaks;
pub use tally::Tally;
use tally::named;

use crate::cache::{Cache, Inputs};
use crate::generated;
use crate::local::{Part, Running};
use crate::paths::Paths;
use crate::preflight;
use crate::programs;
use crate::progress::{self, Log};

const DENY_VERSION: &str = "0.20.2";

/// The parts that tests need.
const PARTS: &[Part] = &[Part::Postgres, Part::Kafka, Part::Apiserver, Part::Member, Part::Other];

const LINTS: &[&str] = &[
    "clippy",
    "--workspace",
    "--all-targets",
    "--quiet",
    "--",
    "--deny",
    "warnings",
];

/// What to leave out.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Leaves out the end-to-end rows on kind.
    pub fast: bool,
}

/// Runs every check and prints the closing line. A failed check does not stop the ones after it, unless nothing can be
/// run because nothing builds.
///
/// # Errors
/// When this machine lacks what the checks need: before the first of them.
pub fn run(paths: &Paths, cache: &Cache, scope: Scope) -> Result<Tally> {
    preflight::parts(paths, cache, PARTS)?;
    let demo = demo::begin(paths, cache, scope)?;
    let mut total = Tally::default();
    total.add(cargo(paths, "format", &["fmt", "--all", "--check"])?);
    total.add(cargo(paths, "lints", LINTS)?);
    let programs = programs::build(paths, programs::Scope::Checks);
    total.add(check("build", || programs.as_ref().map(drop).map_err(told)));
    if programs.is_ok() {
        total.add(generated(paths)?);
    }
    total.add(check("chart copy of the CRDs", || generated::verify(paths)));
    total.add(deny(paths, cache)?);
    total.add(chart::verify(paths, cache)?);
    // Tests have limits of time: they do not begin while clusters come up beside them.
    let clusters = demo.end();
    let Ok(programs) = programs else {
        progress::say("tests and proofs: not run, because the project does not build");
        return Ok(total);
    };
    total.add(tests(paths, cache));
    total.add(of_the_change(paths, cache));
    total.add(clusters.map_or_else(|counted| counted, |up| up.prove(paths, cache, &programs)));
    Ok(total)
}

/// Prints why checks were skipped, then the closing line; gives the code to exit with.
pub fn close(total: &Tally) -> ExitCode {
    for reason in &total.reasons {
        progress::say(&format!("skipped: {reason}"));
    }
    #[expect(clippy::print_stdout, reason = "the closing line is this command's output")]
    {
        println!("{total}");
    }
    if total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn check(name: &str, work: impl FnOnce() -> Result<()>) -> Tally {
    match work() {
        Ok(()) => {
            progress::say(&format!("{name}: ok"));
            Tally::one(true)
        }
        Err(error) => {
            progress::say(&format!("{name}: FAILED: {error:#}"));
            Tally::one(false)
        }
    }
}

fn cargo(paths: &Paths, name: &str, arguments: &[&str]) -> Result<Tally> {
    let log = Log::fresh(paths, &format!("test-{name}"))?;
    Ok(check(name, || {
        progress::step(name, Some(log.shown()), || {
            log.run(paths.patient_cargo().args(arguments))
        })
    }))
}

/// An error once more, for a second place that tells it.
fn told(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// Compares what the generator writes with what is checked in; `build` has built the generator.
fn generated(paths: &Paths) -> Result<Tally> {
    let log = Log::fresh(paths, "test-generated")?;
    Ok(check("generated", || {
        log.run(Command::new(paths.built("examples/generate")).arg("--check"))
    }))
}

fn deny(paths: &Paths, cache: &Cache) -> Result<Tally> {
    let log = Log::fresh(paths, "test-deny")?;
    Ok(check("deny", || {
        let key = Inputs::new()
            .text("version", DENY_VERSION)
            .text("profile", "debug")
            .key();
        let made = cache.entry("cargo-deny", &key, |dir| {
            progress::step("building cargo-deny", Some(log.shown()), || {
                let mut install = Command::new("cargo");
                install
                    .args(["install", "cargo-deny", "--locked", "--version", DENY_VERSION])
                    // It runs for seconds, and is built for minutes.
                    .args(["--debug", "--root"])
                    .arg(dir);
                log.run(&mut install)
            })
        })?;
        // The advisory database is a git repository elsewhere; licences, bans and sources need nothing but the lock file.
        log.run(
            Command::new(made.join("bin/cargo-deny"))
                .current_dir(&paths.project)
                .args(["--all-features", "check", "bans", "licenses", "sources"]),
        )
    }))
}

/// Unit, property and integration tests, with the real parts beside them.
fn tests(paths: &Paths, cache: &Cache) -> Tally {
    run_tests(paths, cache).unwrap_or_else(|error| {
        progress::say(&format!("tests: FAILED: {error:#}"));
        Tally::one(false)
    })
}

fn of_the_change(paths: &Paths, cache: &Cache) -> Tally {
    mutants::of_the_change(paths, cache).unwrap_or_else(|error| {
        progress::say(&format!("mutants: FAILED: {error:#}"));
        Tally::one(false)
    })
}

fn run_tests(paths: &Paths, cache: &Cache) -> Result<Tally> {
    let began = Instant::now();
    let running = Running::start(paths, cache, PARTS).context("the parts that tests need")?;
    progress::say("tests …");
    let mut total = Tally::default();
    let mut catalogue = Tally::default();
    let mut leaks = Leaks::default();
    for lane in lanes::run(paths, &running)? {
        let mut tally = Tally::of_cargo_test(&lane.text);
        catalogue.add(named(&lane.text, "catalogue_"));
        leaks.add(&lane.text);
        if let Err(error) = lane.result {
            if tally.failed == 0 {
                // A crate that does not compile has no closing line of its own.
                tally.failed += 1;
            }
            progress::say(&format!("tests: FAILED: {error:#}"));
            for line in lane
                .text
                .lines()
                .filter(|line| line.starts_with("test ") && line.ends_with("FAILED"))
            {
                progress::say(&format!("  {line}"));
            }
        }
        total.add(tally);
    }
    // Among the others and counted with them; named here since they are a check of their own.
    progress::say(&format!("catalogue: {catalogue}"));
    progress::say(&format!("leaks: {leaks} (log: {})", leaks.write(paths)?));
    progress::say(&format!("tests: {total} in {:.0} s", began.elapsed().as_secs_f32()));
    Ok(total)
}
