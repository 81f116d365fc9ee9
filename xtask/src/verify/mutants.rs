//! `cargo xtask test mutants`: changes the policy engine and the replicator's rules one place at a time, and looks whether a
//! test notices. cargo-mutants makes the changes and runs the tests; this says of what, and whether enough was noticed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Tally;
use crate::cache::{Cache, Inputs};
use crate::paths::Paths;
use crate::progress::{self, Log};

const VERSION: &str = "27.1.0";
/// Of a hundred mutants that compile, so many have to be noticed.
const SHARE: usize = 90;
/// Of a change, CI tries about so many: each is a build and a run of the tests.
const AT_MOST: usize = 8;
/// Generated cases by which the engine is compared with its reference, for each mutant.
const CASES: &str = "2000";
/// Where the clone was made from, as git calls it.
const UPSTREAM: &str = "origin/main";

/// Code whose every decision a test has to hold.
#[derive(Debug)]
struct Subject {
    package: &'static str,
    /// Its files, as cargo-mutants selects them.
    files: &'static str,
    /// Which of its tests are to notice: those that need nothing beside them.
    tests: &'static [&'static str],
}

const SUBJECTS: &[Subject] = &[
    Subject {
        package: "meridian-policy",
        files: "policies/src/**",
        tests: &[],
    },
    Subject {
        package: "meridian-replicator",
        files: "services/replicator/src/domain/**",
        tests: &["--cargo-test-arg=--lib"],
    },
];

/// What came of the mutants.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Outcomes {
    /// Noticed: a test failed, or did not end.
    caught: usize,
    /// Not noticed.
    missed: usize,
    /// Do not compile, so there was nothing to notice.
    unviable: usize,
}

impl Outcomes {
    fn read(text: &str) -> Result<Self> {
        let outcomes: Value = serde_json::from_str(text).context("cargo-mutants' outcomes are no JSON")?;
        let count = |name: &str| {
            let number = outcomes[name].as_u64().with_context(|| format!("no count `{name}`"))?;
            Ok::<_, anyhow::Error>(usize::try_from(number)?)
        };
        Ok(Self {
            caught: count("caught")? + count("timeout")?,
            missed: count("missed")?,
            unviable: count("unviable")?,
        })
    }

    fn add(&mut self, other: Self) {
        self.caught += other.caught;
        self.missed += other.missed;
        self.unviable += other.unviable;
    }

    fn enough(self) -> bool {
        self.caught * 100 >= (self.caught + self.missed) * SHARE
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let viable = self.caught + self.missed;
        let share = (self.caught * 100).checked_div(viable).unwrap_or(100);
        write!(
            f,
            "{} of {viable} caught ({share} %, at least {SHARE} % have to be), {} do not compile",
            self.caught, self.unviable
        )
    }
}

/// Tries all of them, or the part `K/N` of them that `shard` names.
///
/// # Errors
/// When cargo-mutants cannot be built or does not run.
pub fn run(paths: &Paths, cache: &Cache, shard: Option<&str>) -> Result<Tally> {
    let program = program(paths, cache)?;
    let mut total = Outcomes::default();
    for subject in SUBJECTS {
        let mut arguments = Vec::new();
        if let Some(shard) = shard {
            arguments.extend(["--sharding=round-robin".to_owned(), format!("--shard={shard}")]);
        }
        total.add(attempt(paths, &program, subject, &arguments)?);
    }
    progress::say(&format!("mutants: {total}"));
    Ok(Tally::one(total.enough()))
}

/// Tries those that lie in what the newest commits changed.
///
/// # Errors
/// When git cannot tell what changed, or cargo-mutants cannot be built or does not run.
pub fn of_the_change(paths: &Paths, cache: &Cache) -> Result<Tally> {
    let Some(base) = base(paths) else {
        return Ok(Tally::skip("mutants: there is no commit to compare with"));
    };
    let change = paths.target.join("xtask/mutants.diff");
    let mut total = Outcomes::default();
    let mut said = Vec::new();
    for subject in SUBJECTS {
        let folder = subject.files.trim_end_matches("/**");
        let mut diff = git(
            paths,
            &[
                "diff",
                "--no-color",
                "--no-ext-diff",
                "--src-prefix=a/",
                "--dst-prefix=b/",
            ],
        );
        let text = progress::output(diff.args([&base, "HEAD", "--", folder]))?;
        if text.is_empty() {
            continue;
        }
        fs::write(&change, text).with_context(|| format!("cannot write {}", change.display()))?;
        let program = program(paths, cache)?;
        let within = format!("--in-diff={}", change.display());
        let there = list(paths, &program, subject, &within)?;
        if there == 0 {
            continue;
        }
        let shards = there.div_ceil(AT_MOST);
        let shard = format!("--shard=0/{shards}");
        said.push(format!("{} of {there} in {}", there.div_ceil(shards), subject.package));
        let arguments = [within, "--sharding=round-robin".to_owned(), shard];
        total.add(attempt(paths, &program, subject, &arguments)?);
    }
    if said.is_empty() {
        progress::say("mutants: what changed has none");
    } else {
        progress::say(&format!("mutants: tried {}: {total}", said.join(", ")));
    }
    Ok(Tally::one(total.enough()))
}

/// The commit to compare with: where this branch left its upstream, or the one before the newest.
fn base(paths: &Paths) -> Option<String> {
    let commit = |arguments: &[&str]| progress::output(&mut git(paths, arguments)).ok();
    let head = commit(&["rev-parse", "HEAD"])?;
    commit(&["merge-base", "HEAD", UPSTREAM])
        .filter(|base| *base != head)
        .or_else(|| commit(&["rev-parse", "--verify", "--quiet", "HEAD~1"]))
        .map(|base| base.trim().to_owned())
}

fn git(paths: &Paths, arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.current_dir(&paths.project).args(arguments);
    git
}

fn program(paths: &Paths, cache: &Cache) -> Result<PathBuf> {
    let key = Inputs::new().text("version", VERSION).key();
    let made = cache.entry("cargo-mutants", &key, |dir| {
        let log = Log::fresh(paths, "cargo-mutants")?;
        progress::step("building cargo-mutants", Some(log.shown()), || {
            let mut install = Command::new("cargo");
            install
                .args(["install", "cargo-mutants", "--locked", "--version", VERSION, "--root"])
                .arg(dir);
            log.run(&mut install)
        })
    })?;
    Ok(made.join("bin/cargo-mutants"))
}

fn mutants(paths: &Paths, program: &Path, subject: &Subject) -> Command {
    // Low priority, as everything that builds: what has limits of time goes first.
    let mut command = Command::new("nice");
    command
        .args(["-n", "10"])
        .arg(program)
        .current_dir(&paths.project)
        .args(["mutants", "--colors=never", "--cap-lints=true"])
        .args(["--package", subject.package, "--file", subject.files])
        // Its copies of the project are other folders each time; the crates of others are built once.
        .env("CARGO_TARGET_DIR", paths.target.join("mutants"))
        // A mutant that differs from the reference does so in the first of the cases that reach it.
        .env("MERIDIAN_CASES", CASES)
        .env("CARGO_INCREMENTAL", "0");
    command
}

/// How many there are.
fn list(paths: &Paths, program: &Path, subject: &Subject, within: &str) -> Result<usize> {
    let listed = progress::output(mutants(paths, program, subject).args(["--list", within]))?;
    Ok(listed.lines().filter(|line| !line.is_empty()).count())
}

fn attempt(paths: &Paths, program: &Path, subject: &Subject, arguments: &[String]) -> Result<Outcomes> {
    let log = Log::fresh(paths, &format!("mutants-{}", subject.package))?;
    let into = paths.target.join("xtask/mutants").join(subject.package);
    fs::create_dir_all(&into).with_context(|| format!("cannot make {}", into.display()))?;
    let mut command = mutants(paths, program, subject);
    command
        .args(["--minimum-test-timeout=60", "--output"])
        .arg(&into)
        .args(subject.tests)
        .args(arguments);
    let ended = progress::step(&format!("mutants of {}", subject.package), Some(log.shown()), || {
        log.run(&mut command)
    });
    let outcomes = into.join("mutants.out/outcomes.json");
    let text = match fs::read_to_string(&outcomes) {
        Ok(text) => text,
        Err(_) => {
            ended?;
            bail!("cargo-mutants ended without outcomes; its log is {}", log.shown());
        }
    };
    let missed = fs::read_to_string(into.join("mutants.out/missed.txt")).unwrap_or_default();
    missed
        .lines()
        .for_each(|line| progress::say(&format!("  not noticed: {line}")));
    let outcomes = Outcomes::read(&text)?;
    if outcomes == Outcomes::default() {
        // Not even the code as it is passed: that is no mutant's doing.
        ended?;
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_do_not_compile_count_for_nothing_and_those_that_never_end_as_caught() {
        let text = r#"{"outcomes": [], "total_mutants": 13, "caught": 8, "timeout": 1, "missed": 1, "unviable": 3}"#;
        let outcomes = Outcomes::read(text).unwrap();
        assert_eq!((outcomes.caught, outcomes.missed, outcomes.unviable), (9, 1, 3));
        assert!(outcomes.enough());
        let one_less = Outcomes { caught: 8, ..outcomes };
        assert!(!one_less.enough());
        assert!(Outcomes::read(r#"{"caught": 1}"#).is_err());
    }

    #[test]
    fn the_share_is_told_with_what_it_is_of() {
        let outcomes = Outcomes {
            caught: 45,
            missed: 5,
            unviable: 7,
        };
        assert_eq!(
            outcomes.to_string(),
            "45 of 50 caught (90 %, at least 90 % have to be), 7 do not compile"
        );
    }
}
