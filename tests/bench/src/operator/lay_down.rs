//! The time to lay down one region's objects: the operator's own writer against `kubectl apply --server-side` and
//! `helm install` of the same rendered objects.
//!
//! All three on one API server, each run in a namespace of its own, in turns: ours, kubectl, ours, helm, … Ours is a
//! process that runs already, as the operator does; theirs are programs that a person or a pipeline starts. The operator's
//! gates (wait for PostgreSQL before migrating) are open: what is measured is writing, not waiting for pods.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use meridian_operator::apply::{Applied, Applier, Purpose};
use meridian_operator::election::Leadership;
use meridian_operator::manifest::Manifest;
use meridian_operator::metrics::Metrics;
use meridian_operator::region::stack::plan::Plan;
use meridian_operator::watch::Cache;
use tokio::process::Command;

use super::servers::{Server, Servers};
use super::stack;
use crate::Programs;
use crate::measure::compare;
use crate::report::{Bound, Metric, Report};

/// Measured turns of each pair, after one that only warms caches.
const TURNS: usize = 9;
/// Writes of one phase that are under way at the same time, as in the region role.
const WRITES_AT_ONCE: usize = 8;
/// Longer than any of the three ever takes.
const LIMIT: Duration = Duration::from_secs(120);

/// Measures both ratios.
///
/// # Errors
/// When one of the three fails to lay a region down.
pub async fn measure(servers: &Servers, programs: &Programs, report: &mut Report) -> Result<()> {
    let server = servers.members.first().context("an API server")?;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let (mut kubectl, mut helm) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        let ours = ours(server, &format!("ours-a{turn}")).await?;
        let theirs = by_kubectl(server, &programs.kubectl, folder.path(), &format!("kubectl-{turn}")).await?;
        kubectl.push((ours, theirs));
        let ours = self::ours(server, &format!("ours-b{turn}")).await?;
        let theirs = by_helm(server, &programs.helm, folder.path(), &format!("helm-{turn}")).await?;
        helm.push((ours, theirs));
    }
    for (peer, pairs, bound) in [
        ("kubectl apply --server-side", kubectl, 1.0),
        ("helm install", helm, 0.7),
    ] {
        let measured = pairs.get(1..).unwrap_or_default();
        let compared = compare(measured).context("no turn was measured")?;
        report.add(Metric {
            name: format!("lay down one region's objects, against {peer}"),
            ours: compared.ours,
            peer: Some(compared.peer),
            ratio: Some(compared.ratio),
            unit: "s",
            bound: Bound::RatioAtMost(bound),
        })?;
    }
    Ok(())
}

async fn ours(server: &Server, region: &str) -> Result<f64> {
    let plan = stack::planned(region)?;
    let applier = Applier::new(
        server.client.clone(),
        Cache::default(),
        Leadership::alone(),
        Metrics::default(),
    );
    let began = Instant::now();
    for (number, phase) in plan.phases.iter().enumerate() {
        // The namespace is the first object of all, and must be there before the others.
        let (space, others) = phase.manifests.split_at(usize::from(number == 0));
        apply(&applier, space).await?;
        apply(&applier, others).await?;
    }
    Ok(began.elapsed().as_secs_f64())
}

async fn apply(applier: &Applier, manifests: &[Manifest]) -> Result<()> {
    let writes = manifests
        .iter()
        .map(|manifest| applier.apply(Purpose::RegionStack, manifest));
    let applied: Vec<Applied> = futures::stream::iter(writes)
        .buffer_unordered(WRITES_AT_ONCE)
        .try_collect()
        .await?;
    if applied.iter().any(|applied| *applied != Applied::Created) {
        bail!("an object was there already: the run has not had a namespace of its own");
    }
    Ok(())
}

async fn by_kubectl(server: &Server, kubectl: &Path, folder: &Path, region: &str) -> Result<f64> {
    let file = folder.join(format!("{region}.yaml"));
    fs::write(&file, rendered(&stack::planned(region)?)?)?;
    let mut command = program(kubectl, server, folder);
    command.args(["apply", "--server-side", "--filename"]).arg(&file);
    timed(command).await
}

async fn by_helm(server: &Server, helm: &Path, folder: &Path, region: &str) -> Result<f64> {
    let chart = folder.join(region);
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(
        chart.join("Chart.yaml"),
        format!("apiVersion: v2\nname: {region}\nversion: 0.1.0\n"),
    )?;
    let text = rendered(&stack::planned(region)?)?;
    if text.contains("{{") {
        bail!("a planned object looks like a template");
    }
    fs::write(chart.join("templates/region.yaml"), text)?;
    let mut command = program(helm, server, folder);
    command
        .args(["install", region])
        .arg(&chart)
        .args(["--namespace", "bench-releases", "--create-namespace"]);
    timed(command).await
}

/// The program, with everything that it keeps in a folder of ours.
fn program(path: &Path, server: &Server, folder: &Path) -> Command {
    let mut command = Command::new(path);
    command
        .env("HOME", folder)
        .env("KUBECONFIG", &server.kubeconfig)
        .env("KUBECACHEDIR", folder.join("cache"))
        .env("HELM_CACHE_HOME", folder.join("helm/cache"))
        .env("HELM_CONFIG_HOME", folder.join("helm/config"))
        .env("HELM_DATA_HOME", folder.join("helm/data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn timed(mut command: Command) -> Result<f64> {
    let shown = format!("{:?}", command.as_std());
    let began = Instant::now();
    let ended = tokio::time::timeout(LIMIT, command.output())
        .await
        .with_context(|| format!("{shown} took more than {} s", LIMIT.as_secs()))??;
    let took = began.elapsed().as_secs_f64();
    if !ended.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    Ok(took)
}

fn rendered(plan: &Plan) -> Result<String> {
    let mut text = String::new();
    for manifest in plan.manifests() {
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(manifest.body())?);
    }
    Ok(text)
}
