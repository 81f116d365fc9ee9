//! The tests in lanes that run side by side. Those against control planes wait for leases most of their time, so there is a
//! lane for each of their packages, and one for all the others.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::local::{HUB, MEMBER, OTHER, Running};
use crate::paths::Paths;
use crate::progress::{self, Log, output};

/// Tests that run one after the other, beside those of the other lanes.
struct Lane {
    log: &'static str,
    /// The package whose integration tests these are; none: those of all others.
    package: Option<&'static str>,
    /// Whether it has a cluster of its own. What lives on the whole of a cluster (webhooks, definitions, the policy of a hub)
    /// would be another lane's trouble.
    apart: bool,
}

const LANES: [Lane; 3] = [
    Lane {
        log: "test-operator",
        package: Some("meridian-operator"),
        apart: false,
    },
    Lane {
        log: "test-processes",
        package: Some("meridian"),
        apart: true,
    },
    Lane {
        log: "test-others",
        package: None,
        apart: false,
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
            .map(|((arguments, log), of)| scope.spawn(move || lane(paths, running, log, arguments, of.apart)))
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

fn lane(paths: &Paths, running: &Running, log: &Log, arguments: Vec<String>, apart: bool) -> Result<()> {
    let mut command = paths.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).args(arguments);
    command.envs(running.env().iter().map(|(name, value)| (*name, value.as_str())));
    if let (true, Some((_, other))) = (apart, running.env().iter().find(|(name, _)| *name == OTHER)) {
        command.envs([(HUB, other), (MEMBER, other)]);
    }
    log.run(&mut command)
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
        let own = LANES
            .iter()
            .position(|lane| lane.package.is_some_and(|name| package["name"] == name));
        let others = || LANES.iter().position(|lane| lane.package.is_none());
        let at = own.or_else(others).context("a lane takes all other packages")?;
        let lane = &mut lanes[at];
        for target in list(&package["targets"]) {
            if list(&target["kind"]).iter().any(|kind| kind == "test") {
                lane.insert(target["name"].as_str().context("a target has a name")?.to_owned());
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
            package("meridian-operator", &["hub"]),
            package("meridian-social", &["feed"]),
            package("meridian", &["takeover"]),
        ];
        let lanes = split(&json!({ "packages": packages })).unwrap();
        let lanes: Vec<String> = lanes.iter().map(|lane| lane.join(" ")).collect();
        assert_eq!(lanes, ["--test hub", "--test takeover", "--test feed"]);
    }

    #[test]
    fn a_name_in_two_lanes_is_refused() {
        let packages = [
            package("meridian-operator", &["hub"]),
            package("meridian-social", &["hub"]),
            package("meridian", &["takeover"]),
        ];
        assert!(split(&json!({ "packages": packages })).is_err());
    }
}
