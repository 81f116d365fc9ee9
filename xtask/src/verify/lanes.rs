//! The tests in lanes that run side by side. Those against control planes wait for leases most of their time, so they are
//! dealt out to two lanes with control planes of their own, and there is one for all the others. The lanes should end
//! together: the longest one is what a run waits for. Simulations (in simulated time) and properties, which only compute, have
//! one at the lowest priority: what the others leave.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::local::{HUB, MEMBER, OTHER, OTHER_MEMBER, Running};
use crate::paths::Paths;
use crate::progress::{self, Log, output};

/// Tests that run one after the other, beside those of the other lanes.
struct Lane {
    log: &'static str,
    tests: &'static [Tests],
    /// Whether they have the second pair of clusters. What lives on the whole of a cluster (webhooks, definitions, the policy
    /// of a hub) would be another lane's trouble.
    apart: bool,
    /// Whether everything else goes first.
    behind: bool,
}

/// Integration tests of the workspace.
enum Tests {
    /// Those of a package.
    Of(&'static str),
    /// Those of a package whose names begin so.
    Named(&'static str, &'static str),
    /// All that no lane before names.
    Rest,
}

impl Tests {
    fn has(&self, package: &str, test: &str) -> bool {
        match self {
            Self::Of(name) => package == *name,
            Self::Named(name, prefix) => package == *name && test.starts_with(prefix),
            Self::Rest => true,
        }
    }
}

/// A test is in the first of them that has it.
const LANES: [Lane; 4] = [
    Lane {
        log: "test-computing",
        // Without limits of time.
        tests: &[
            Tests::Named("meridian-operator", "simulation"),
            Tests::Named("meridian-policy", "differential"),
            Tests::Named("meridian-policy", "properties"),
        ],
        apart: false,
        behind: true,
    },
    Lane {
        log: "test-hub",
        tests: &[
            Tests::Of("meridian"),
            Tests::Named("meridian-operator", "hub_"),
            Tests::Named("meridian-operator", "region_scaling"),
        ],
        apart: true,
        behind: false,
    },
    Lane {
        log: "test-region",
        tests: &[
            Tests::Named("meridian-operator", "region_"),
            Tests::Named("meridian-operator", "chart"),
            Tests::Named("meridian-operator", "etcd_"),
            Tests::Named("meridian-operator", "faults"),
            Tests::Named("meridian-operator", "kafka"),
            Tests::Named("meridian-operator", "plugin"),
            Tests::Named("meridian-operator", "spans"),
        ],
        apart: false,
        behind: false,
    },
    Lane {
        log: "test-others",
        tests: &[Tests::Rest],
        apart: false,
        behind: false,
    },
];

/// How a lane ended.
pub struct Ended {
    /// What the tests wrote.
    pub text: String,
    /// Whether every program of tests ended well.
    pub result: Result<()>,
}

/// Runs all tests with the parts' addresses in their environment. No crate has documentation tests.
///
/// # Errors
/// When cargo does not say what there is to test, or a log cannot be written or read.
pub fn run(paths: &Paths, running: &Running) -> Result<Vec<Ended>> {
    let mut lanes = arguments(paths)?;
    if let Some(others) = lanes.last_mut() {
        others.extend(["--lib", "--bins"].map(str::to_owned));
    }
    let logs = LANES
        .iter()
        .map(|lane| Log::fresh(paths, lane.log))
        .collect::<Result<Vec<_>>>()?;
    let shown: Vec<&str> = logs.iter().map(Log::shown).collect();
    progress::say(&format!("logs: {}", shown.join(", ")));
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let beside: Vec<_> = lanes
            .into_iter()
            .zip(&logs)
            .zip(LANES)
            .map(|((arguments, log), of)| scope.spawn(move || lane(paths, running, log, arguments, &of)))
            .collect();
        let ended = beside.into_iter().map(thread::ScopedJoinHandle::join);
        ended
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let ended = logs.iter().zip(results).map(|(log, result)| {
        let text = text(log.path())?;
        Ok(Ended { text, result })
    });
    ended.collect()
}

fn lane(paths: &Paths, running: &Running, log: &Log, arguments: Vec<String>, of: &Lane) -> Result<()> {
    let mut command = paths.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).args(arguments);
    command.envs(running.env().iter().map(|(name, value)| (*name, value.as_str())));
    // Cargo dies with this process, and what it started would go on without it, into the next run's log.
    command
        .arg("--config")
        .arg(format!("target.'cfg(all())'.runner = {:?}", progress::MORTAL));
    if of.apart {
        let found = |wanted: &str| running.env().iter().find(|(name, _)| *name == wanted);
        let pair = [(HUB, found(OTHER)), (MEMBER, found(OTHER_MEMBER))];
        command.envs(pair.into_iter().filter_map(|(name, found)| Some((name, &found?.1))));
    }
    if of.behind {
        log.run_behind(&command)
    } else {
        log.run(&mut command)
    }
}

fn text(log: &Path) -> Result<String> {
    fs::read_to_string(log).with_context(|| format!("cannot read the log {}", log.display()))
}

/// Of each lane: `--test NAME` for every integration test.
fn arguments(paths: &Paths) -> Result<Vec<Vec<String>>> {
    let mut metadata = paths.cargo();
    metadata.args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--locked",
        "--offline",
    ]);
    let told: Value = serde_json::from_str(&output(&mut metadata)?).context("cargo metadata")?;
    split(&told)
}

fn split(metadata: &Value) -> Result<Vec<Vec<String>>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut lanes = vec![BTreeSet::new(); LANES.len()];
    for package in list(&metadata["packages"]) {
        let name = package["name"].as_str().context("a package has a name")?;
        for target in list(&package["targets"]) {
            if list(&target["kind"]).iter().any(|kind| kind == "test") {
                let test = target["name"].as_str().context("a target has a name")?;
                let has = |lane: &Lane| lane.tests.iter().any(|tests| tests.has(name, test));
                let at = LANES.iter().position(has).context("a lane takes all others")?;
                lanes[at].insert(test.to_owned());
            }
        }
    }
    ensure!(
        lanes.iter().all(|lane| !lane.is_empty()),
        "cargo metadata names no integration tests"
    );
    // `--test` selects by name alone: all of that name in one lane, but a name in two lanes would run twice.
    let mut seen = BTreeSet::new();
    for name in lanes.iter().flatten() {
        ensure!(
            seen.insert(name),
            "integration tests in two lanes are both called {name}"
        );
    }
    let arguments = |lane: &BTreeSet<String>| {
        lane.iter()
            .flat_map(|name| ["--test".to_owned(), name.clone()])
            .collect()
    };
    let lanes = lanes.iter().map(arguments).collect();
    Ok(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, tests: &[&str]) -> Value {
        let tests = tests.iter().map(|test| json!({"name": test, "kind": ["test"]}));
        let library = json!({"name": name, "kind": ["lib"]});
        json!({"name": name, "targets": tests.chain([library]).collect::<Vec<_>>()})
    }

    #[test]
    fn every_integration_test_is_in_one_lane() {
        let packages = [
            package("meridian-operator", &["hub_rebuilt", "region_role", "simulation"]),
            package("meridian-social", &["feed"]),
            package("meridian", &["takeover"]),
        ];
        let lanes = split(&json!({ "packages": packages })).unwrap();
        let lanes: Vec<String> = lanes.iter().map(|lane| lane.join(" ")).collect();
        let expected = [
            "--test simulation",
            "--test hub_rebuilt --test takeover",
            "--test region_role",
            "--test feed",
        ];
        assert_eq!(lanes, expected);
    }

    #[test]
    fn a_name_in_two_lanes_is_refused() {
        let packages = [
            package("meridian-operator", &["hub_rebuilt", "simulation", "feed"]),
            package("meridian-social", &["feed"]),
            package("meridian", &["takeover"]),
        ];
        assert!(split(&json!({ "packages": packages })).is_err());
    }
}
