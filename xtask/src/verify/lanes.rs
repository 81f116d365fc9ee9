//! The tests in two lanes. Those against control planes wait for leases most of their time, so the others run beside them.

use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::local::Running;
use crate::paths::Paths;
use crate::progress::{self, Log, output};

/// The packages whose integration tests run operators against real API servers.
const CONTROL_PLANES: &[&str] = &["meridian-operator", "meridian"];

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
pub fn run(paths: &Paths, running: &Running) -> Result<[Ended; 2]> {
    let [control_planes, others] = arguments(paths)?;
    let others = ["--lib", "--bins"]
        .map(str::to_owned)
        .into_iter()
        .chain(others)
        .collect();
    let logs = [
        Log::fresh(paths, "test-control-planes")?,
        Log::fresh(paths, "test-others")?,
    ];
    let [first, second] = &logs;
    progress::say(&format!("logs: {}, {}", first.shown(), second.shown()));
    let results = thread::scope(|scope| {
        let beside = scope.spawn(|| lane(paths, running, second, others));
        let result = lane(paths, running, first, control_planes);
        let beside = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        [result, beside]
    });
    let texts = [text(first.path())?, text(second.path())?];
    let [result, beside] = results;
    let [first, second] = texts;
    Ok([
        Ended { text: first, result },
        Ended {
            text: second,
            result: beside,
        },
    ])
}

fn lane(paths: &Paths, running: &Running, log: &Log, arguments: Vec<String>) -> Result<()> {
    let mut command = paths.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).args(arguments);
    command.envs(running.env().iter().map(|(name, value)| (*name, value.as_str())));
    log.run(&mut command)
}

fn text(log: &Path) -> Result<String> {
    fs::read_to_string(log).with_context(|| format!("cannot read the log {}", log.display()))
}

/// Of each lane: `--test NAME` for every integration test.
fn arguments(paths: &Paths) -> Result<[Vec<String>; 2]> {
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

fn split(metadata: &Value) -> Result<[Vec<String>; 2]> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut lanes: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    for package in list(&metadata["packages"]) {
        let with_control_planes = CONTROL_PLANES.iter().any(|name| package["name"] == *name);
        let lane = &mut lanes[usize::from(!with_control_planes)];
        for target in list(&package["targets"]) {
            if list(&target["kind"]).iter().any(|kind| kind == "test") {
                let name = target["name"].as_str().context("a target has a name")?;
                lane.extend(["--test".to_owned(), name.to_owned()]);
            }
        }
    }
    ensure!(
        lanes.iter().all(|lane| !lane.is_empty()),
        "cargo metadata names no integration tests"
    );
    // `--test` selects by name alone: a name in both lanes would run twice.
    let twice = lanes[0]
        .iter()
        .find(|name| *name != "--test" && lanes[1].contains(name));
    ensure!(
        twice.is_none(),
        "integration tests of two packages are both called {twice:?}"
    );
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
        let metadata =
            json!({"packages": [package("meridian-operator", &["hub"]), package("meridian-social", &["feed"])]});
        let [control_planes, others] = split(&metadata).unwrap();
        assert_eq!(
            (control_planes.join(" "), others.join(" ")),
            ("--test hub".to_owned(), "--test feed".to_owned())
        );
    }

    #[test]
    fn a_name_in_both_lanes_is_refused() {
        let metadata =
            json!({"packages": [package("meridian-operator", &["hub"]), package("meridian-social", &["hub"])]});
        assert!(split(&metadata).is_err());
    }
}
