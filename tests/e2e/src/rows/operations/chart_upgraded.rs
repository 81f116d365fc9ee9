//! Row 15: the chart is upgraded to another image on the hub and in eu while athletes register. The operators are others
//! then; the stack is not started anew, and the chart is rolled back the same way.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::watch;

use super::{OPERATORS, Pods, SETTLES, pods, undisturbed};
use crate::athlete::Athlete;
use crate::node;
use crate::rows::Outcome;
use crate::world::{Cluster, World};

const CHART: &str = "charts/meridian";
/// The same image under a name that nobody had before: what a new release is to a cluster.
const NEW: &str = "meridian.sh/meridian:upgraded";

pub async fn prove(world: &World) -> Result<Outcome> {
    // In the demo the services follow the operator's image; as in production, they are to keep theirs.
    follow(world, json!(null)).await?;
    let proved = tokio::select! {
        proved = upgraded(world) => proved,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let followed = follow(world, json!({ "unnamedImage": "FollowsOperator" })).await;
    let seen = proved?;
    followed?;
    super::all_ready(world, SETTLES).await?;
    Ok(Outcome::Proved(seen))
}

async fn upgraded(world: &World) -> Result<String> {
    super::all_ready(world, SETTLES).await?;
    let (hub, eu) = (&world.hub, &world.eu.cluster);
    let image = image(eu).await?;
    for cluster in ["hub", "eu"] {
        node::read(cluster, &format!("ctr -n k8s.io images tag --force {image} {NEW}")).await?;
    }
    let before = pods(&world.eu).await?;
    let (done, running) = watch::channel(false);
    let there_and_back = async {
        let began = Instant::now();
        let there = there(world, &before).await;
        let up = began.elapsed();
        // Rolled back whatever was seen.
        let again = Instant::now();
        let back = ["rollback", "meridian", "--force-conflicts", "--wait"];
        tokio::try_join!(helm("hub", &back), helm("eu", &back))?;
        let back = again.elapsed();
        there?;
        for cluster in [hub, eu] {
            runs(cluster, &image).await?;
        }
        super::all_ready(world, SETTLES).await?;
        undisturbed(&world.eu, &before).await.context("by the rollback")?;
        anyhow::Ok((up, back))
    };
    let there_and_back = async {
        let took = there_and_back.await;
        // Nobody listens any more when a registration failed, which is told then.
        let _ = done.send(true);
        took
    };
    let (took, registered) = tokio::join!(there_and_back, register(world, running));
    let ((up, back), registered) = (took?, registered?);
    Ok(format!(
        "hub and eu upgraded and tested (helm test) in {:.0} s, rolled back in {:.0} s; none of eu's {} pods was started anew, {registered} athletes registered meanwhile, none in vain",
        up.as_secs_f32(),
        back.as_secs_f32(),
        before.len()
    ))
}

/// The upgrade, until everything is Ready under the new operators.
async fn there(world: &World, before: &Pods) -> Result<()> {
    let to = format!("image.reference={NEW}");
    let upgrade = [
        "upgrade",
        "meridian",
        CHART,
        "--reuse-values",
        "--force-conflicts",
        "--set",
        &to,
    ];
    tokio::try_join!(helm("hub", &upgrade), helm("eu", &upgrade))?;
    for cluster in [&world.hub, &world.eu.cluster] {
        runs(cluster, NEW).await?;
    }
    super::all_ready(world, SETTLES).await?;
    let test = ["test", "meridian"];
    tokio::try_join!(helm("hub", &test), helm("eu", &test))?;
    undisturbed(&world.eu, before).await.context("by the upgrade")
}

/// Athletes register one after the other until it is over; each registration must be answered.
async fn register(world: &World, mut over: watch::Receiver<bool>) -> Result<u32> {
    let mut registered = 0;
    while !*over.borrow_and_update() {
        Athlete::register(&world.eu, "Kim")
            .await
            .with_context(|| format!("after {registered} athletes had registered"))?;
        registered += 1;
        // Passwords cost the machine much; the upgrade is to have the rest of it.
        let _ = tokio::time::timeout(Duration::from_millis(500), over.changed()).await;
    }
    Ok(registered)
}

async fn follow(world: &World, rollout: Value) -> Result<()> {
    let regions: Api<meridian_crds::FitnessRegion> = Api::all(world.hub.client.clone());
    let patch = Patch::Merge(json!({ "spec": { "rollout": rollout } }));
    regions
        .patch("eu", &PatchParams::default(), &patch)
        .await
        .context("the rollout of eu")?;
    Ok(())
}

fn operator(cluster: &Cluster) -> Api<Deployment> {
    Api::namespaced(cluster.client.clone(), OPERATORS)
}

async fn image(cluster: &Cluster) -> Result<String> {
    let deployment = operator(cluster).get("meridian-operator").await?;
    let pod = deployment.spec.and_then(|spec| spec.template.spec);
    let image = pod.and_then(|pod| pod.containers.into_iter().next()?.image);
    image.context("the operator runs no image")
}

/// helm has waited for it already: this is that it waited for the right thing.
async fn runs(cluster: &Cluster, image: &str) -> Result<()> {
    let now = self::image(cluster).await?;
    ensure!(now == image, "the operator runs {now}, not {image}");
    Ok(())
}

async fn helm(cluster: &str, arguments: &[&str]) -> Result<()> {
    let done = Command::new("helm")
        .args(["--kube-context", &format!("kind-{cluster}"), "--namespace", OPERATORS])
        .args(arguments)
        .args(["--timeout", "180s"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("helm cannot be started")?;
    ensure!(
        done.status.success(),
        "helm {} in {cluster}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(())
}
