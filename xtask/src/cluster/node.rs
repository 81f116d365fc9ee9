//! One cluster's node: what state it is in, and how it gets from there to ready.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Action, Plan, Spec, kubeconfig};
use crate::docker::docker;
use crate::paths::Paths;
use crate::progress::{self, Log, output, succeeds};

/// Written into the node when everything about the cluster is done: a cluster without it is half-made.
const WHOLE: &str = "/kind/meridian-whole";

/// How long a cluster may take to become ready.
const LIMIT: Duration = Duration::from_secs(240);

#[derive(Debug, PartialEq, Eq)]
pub enum State {
    Absent,
    Stopped,
    Running,
}

/// The state of a cluster's container. One that the engine cannot start again counts as absent: it is made anew.
///
/// # Errors
/// When the engine cannot be asked.
pub fn state(spec: &Spec) -> Result<State> {
    let filter = format!("label=io.x-k8s.kind.cluster={}", spec.name);
    let listed = output(&mut docker([
        "ps",
        "--all",
        "--filter",
        &filter,
        "--format",
        "{{.State}}",
    ]))
    .context("the Docker Engine does not list its containers")?;
    Ok(match listed.lines().next().map(str::trim) {
        Some("running" | "restarting") => State::Running,
        Some("exited" | "created") => State::Stopped,
        _ => State::Absent,
    })
}

/// Whether a running node was finished with this key.
pub fn is_whole(spec: &Spec, key: &str) -> bool {
    output(&mut docker(["exec", &spec.node(), "cat", WHOLE])).is_ok_and(|text| text.trim() == key)
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

/// The ports of this machine that the cluster's own container, if there is one, holds now.
///
/// # Errors
/// When the engine cannot be asked.
pub fn published_by_docker(spec: &Spec) -> Result<Vec<u16>> {
    if state(spec)? != State::Running {
        return Ok(Vec::new());
    }
    let text = output(&mut docker(["port", &spec.node()])).unwrap_or_default();
    Ok(text
        .lines()
        .filter_map(|line| line.rsplit(':').next()?.trim().parse().ok())
        .collect())
}

/// Does what the plan says, and leaves the cluster ready.
///
/// # Errors
/// When the cluster cannot be made or does not become ready.
pub fn carry_out(paths: &Paths, plan: &Plan<'_>, kind: &Path, kubectl: &Path) -> Result<()> {
    let spec = plan.spec;
    let log = Log::fresh(paths, &format!("cluster-{}", spec.name))?;
    let ready = || wait_ready(spec, kubectl, &log);
    match plan.action {
        Action::Keep => {
            if !answers(spec, kubectl) {
                // The user's kubeconfig may have been removed or rewritten since.
                kubeconfig::export(spec, kind, &log)?;
            }
            ready()
        }
        Action::Start => progress::step(
            &format!("starting the stopped cluster {}", spec.name),
            Some(log.shown()),
            || {
                let started = log.run(&mut docker(["start", &spec.node()])).and_then(|()| {
                    if !is_whole(spec, &plan.key) {
                        bail!("the cluster {} is half-made or of an older kind", spec.name);
                    }
                    kubeconfig::export(spec, kind, &log)?;
                    wait_kubelet(spec, kubectl)?;
                    ready()
                });
                started.or_else(|error| {
                    progress::say(&format!("{error:#}; making it anew"));
                    make(plan, kind, kubectl, &log)
                })
            },
        ),
        Action::Make => progress::step(&format!("making the cluster {}", spec.name), Some(log.shown()), || {
            make(plan, kind, kubectl, &log)
        }),
    }
}

fn make(plan: &Plan<'_>, kind: &Path, kubectl: &Path, log: &Log) -> Result<()> {
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
    log.run(kubeconfig::aside(&mut create, log))?;
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

/// Waits until the kubelet of a restarted node is back: until then the API server repeats what it said before.
fn wait_kubelet(spec: &Spec, kubectl: &Path) -> Result<()> {
    let context = format!("--context={}", spec.context());
    let lease = [
        "--namespace=kube-node-lease",
        "get",
        "lease",
        &spec.node(),
        "--output=jsonpath={.spec.renewTime}",
    ];
    let renewed = || {
        output(
            Command::new(kubectl)
                .args([context.as_str(), "--request-timeout=5s"])
                .args(lease),
        )
        .ok()
    };
    let deadline = Instant::now() + LIMIT;
    let mut before = None;
    loop {
        let now = renewed();
        if before.is_some() && now.is_some() && now != before {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "the kubelet of the cluster {} did not come back within {} s",
                spec.name,
                LIMIT.as_secs()
            );
        }
        before = before.or(now);
        thread::sleep(Duration::from_millis(500));
    }
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
