//! One cluster's node: what state it is in, and how it gets from there to ready.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::found::{self, Action, State};
use super::{Plan, Spec, kubeconfig};
use crate::cache::Cache;
use crate::docker::docker;
use crate::paths::Paths;
use crate::progress::{self, Log, output, succeeds};

/// Written into the node when everything about the cluster is done: a cluster without it is half-made.
const WHOLE: &str = "/kind/meridian-whole";

/// How long a cluster may take to become ready.
const LIMIT: Duration = Duration::from_secs(240);

/// Whether a running node was finished with this key.
///
/// # Errors
/// When nothing can be started in it: that says nothing about what it is.
pub fn is_whole(spec: &Spec, key: &str) -> Result<bool> {
    let read = format!("cat {WHOLE} 2>/dev/null || true");
    let text = output(&mut docker(["exec", &spec.node(), "sh", "-c", &read])).with_context(|| {
        format!(
            "the node of the cluster {} runs but cannot be asked what it is; `cargo xtask down` removes it",
            spec.name
        )
    })?;
    Ok(text.trim() == key)
}

/// Whether a node's containerd holds an image.
pub fn holds(spec: &Spec, tag: &str) -> bool {
    let filter = format!("name=={tag}");
    output(&mut docker([
        "exec",
        &spec.node(),
        "ctr",
        "--namespace",
        "k8s.io",
        "images",
        "list",
        "--quiet",
        &filter,
    ]))
    .is_ok_and(|text| !text.trim().is_empty())
}

/// Does what the plan says, and leaves the cluster ready.
///
/// # Errors
/// When the cluster cannot be made or does not become ready.
pub fn carry_out(paths: &Paths, cache: &Cache, plan: &Plan<'_>, kind: &Path, kubectl: &Path) -> Result<()> {
    let spec = plan.spec;
    let log = Log::fresh(paths, &format!("cluster-{}", spec.name))?;
    match plan.action {
        Action::Keep => {
            if !answers(spec, kubectl) {
                // The user's kubeconfig may have been removed or rewritten since.
                kubeconfig::export(spec, kind, &log)?;
            }
            wait_kubelet(spec, kubectl)?;
            wait_ready(spec, kubectl, &log)
        }
        Action::Start | Action::Resume => {
            let name = format!("starting the stopped cluster {}", spec.name);
            progress::step(&name, Some(log.shown()), || match revive(plan, kind, kubectl, &log)? {
                Revived::Ready => Ok(()),
                Revived::Lost(why) => {
                    progress::say(&format!("the cluster {} {why}; making it anew", spec.name));
                    make(cache, plan, kind, kubectl, &log)
                }
            })
        }
        Action::Make => progress::step(&format!("making the cluster {}", spec.name), Some(log.shown()), || {
            make(cache, plan, kind, kubectl, &log)
        }),
    }
}

enum Revived {
    Ready,
    /// It will never be, and why.
    Lost(String),
}

/// Starts a cluster that is there. What would stop a new cluster too, such as a kubeconfig that cannot be written, is an
/// error: the data of this one are not thrown away for it.
fn revive(plan: &Plan<'_>, kind: &Path, kubectl: &Path, log: &Log) -> Result<Revived> {
    let spec = plan.spec;
    let verb = if plan.action == Action::Resume {
        "unpause"
    } else {
        "start"
    };
    if let Err(error) = log.run(&mut docker([verb, &spec.node()])) {
        return Ok(Revived::Lost(format!("does not start ({error:#})")));
    }
    match is_whole(spec, &plan.key) {
        Ok(true) => {}
        Ok(false) => return Ok(Revived::Lost("is half-made or of an older kind".to_owned())),
        Err(error) => {
            let runs = found::find(spec)?.is_some_and(|found| found.state == State::Running);
            if runs {
                return Err(error);
            }
            return Ok(Revived::Lost("ends as soon as it is started".to_owned()));
        }
    }
    kubeconfig::export(spec, kind, log)?;
    let came_back = wait_kubelet(spec, kubectl).and_then(|()| wait_ready(spec, kubectl, log));
    Ok(match came_back {
        Ok(()) => Revived::Ready,
        Err(error) => Revived::Lost(format!("does not come back ({error:#})")),
    })
}

fn make(cache: &Cache, plan: &Plan<'_>, kind: &Path, kubectl: &Path, log: &Log) -> Result<()> {
    let spec = plan.spec;
    log.run(kubeconfig::aside(
        Command::new(kind).args(["delete", "cluster", "--name", spec.name]),
        log,
    ))?;
    let config = log.path().with_extension("json");
    let text = spec.config(plan.image.as_deref()).to_string();
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let mut create = Command::new(kind);
    create
        .args(["create", "cluster", "--name", spec.name, "--config"])
        .arg(&config);
    if let Some(image) = &plan.image {
        create.args(["--image", image]);
    }
    found::write_note(cache, spec, found::MAKING)?;
    log.run(kubeconfig::aside(&mut create, log))?;
    if let Some(made) = found::find(spec)? {
        found::write_note(cache, spec, &made.id)?;
    }
    kubeconfig::export(spec, kind, log)?;
    wait_ready(spec, kubectl, log)?;
    output(&mut docker([
        "exec",
        &spec.node(),
        "sh",
        "-c",
        &format!("echo {} > {WHOLE}", plan.key),
    ]))
    .with_context(|| format!("the cluster {} cannot be marked as finished", spec.name))?;
    Ok(())
}

/// Whether the API server answers to what the user's kubeconfig says of it.
fn answers(spec: &Spec, kubectl: &Path) -> bool {
    let context = format!("--context={}", spec.context());
    succeeds(Command::new(kubectl).args([&context, "--request-timeout=5s", "get", "--raw", "/readyz"]))
}

/// Waits until the kubelet has spoken since its node was last started: until then the API server repeats what was true
/// before.
fn wait_kubelet(spec: &Spec, kubectl: &Path) -> Result<()> {
    let started = found::find(spec)?.map(|found| found.started).unwrap_or_default();
    let context = format!("--context={}", spec.context());
    let lease = [
        "--namespace=kube-node-lease",
        "get",
        "lease",
        &spec.node(),
        "--output=jsonpath={.spec.renewTime}",
    ];
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut ask = Command::new(kubectl);
        ask.args([context.as_str(), "--request-timeout=5s"]).args(lease);
        if output(&mut ask).is_ok_and(|renewed| is_later(&renewed, &started)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "the kubelet of the cluster {} did not speak within {} s; `cargo xtask down` and `up` make it anew",
                spec.name,
                LIMIT.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Whether one time in RFC 3339, in UTC, is later than another. Their digits compare as text; they may differ in how
/// many decimals a second has.
fn is_later(one: &str, other: &str) -> bool {
    let digits = |text: &str| text.trim().trim_end_matches('Z').to_owned();
    digits(one) > digits(other)
}

/// Waits until the node is ready, and DNS and storage work.
fn wait_ready(spec: &Spec, kubectl: &Path, log: &Log) -> Result<()> {
    let context = format!("--context={}", spec.context());
    let deadline = Instant::now() + LIMIT;
    let says = |arguments: &[&str]| {
        let mut command = Command::new(kubectl);
        succeeds(
            command
                .args([context.as_str(), "--request-timeout=10s", "wait", "--timeout=10s"])
                .args(arguments),
        )
    };
    let node = || says(&["--for=condition=Ready", "nodes", "--all"]);
    let dns = || {
        says(&[
            "--namespace=kube-system",
            "--for=condition=Available",
            "deployment/coredns",
        ]) && resolves(spec)
    };
    let storage = || {
        says(&[
            "--namespace=local-path-storage",
            "--for=condition=Available",
            "deployments",
            "--all",
        ])
    };
    let conditions: [(&str, &dyn Fn() -> bool); 3] = [
        ("its node is ready", &node),
        ("DNS works", &dns),
        ("storage works", &storage),
    ];
    for (what, holds) in conditions {
        while !holds() {
            if Instant::now() > deadline {
                bail!(
                    "the cluster {} is not ready ({what}: not within {} s); look with `kubectl {context} get pods -A` \
                     and in {}",
                    spec.name,
                    LIMIT.as_secs(),
                    log.shown()
                );
            }
            thread::sleep(Duration::from_millis(300));
        }
    }
    Ok(())
}

/// Whether the cluster's DNS answers through its service address. A node image without the tool to ask counts as yes.
fn resolves(spec: &Spec) -> bool {
    let ask =
        "! command -v busybox >/dev/null || busybox nslookup -type=a kubernetes.default.svc.cluster.local 10.96.0.10";
    succeeds(&mut docker(["exec", &spec.node(), "sh", "-c", ask]))
}

#[cfg(test)]
mod tests {
    use super::is_later;

    #[test]
    fn times_with_different_decimals_are_compared() {
        assert!(is_later("2026-01-02T03:04:05.000001Z", "2026-01-02T03:04:05Z"));
        assert!(is_later("2026-01-02T03:04:05.2Z\n", "2026-01-02T03:04:05.123456789Z"));
        assert!(!is_later("2026-01-02T03:04:04.999999Z", "2026-01-02T03:04:05.1Z"));
        assert!(!is_later("", "2026-01-02T03:04:05Z"));
    }
}
