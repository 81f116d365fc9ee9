//! Row 12: the hub's leading replica is killed, then another one asked to end. The other takes over, and what is changed
//! meanwhile reaches the members.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use super::{OPERATORS, SETTLES};
use crate::node::{self, docker};
use crate::rows::Outcome;
use crate::world::{World, until};

/// From the signal to the acquisition that the next leader writes down.
const AFTER_KILL: SignedDuration = SignedDuration::from_secs(15);
const AFTER_SIGTERM: SignedDuration = SignedDuration::from_secs(2);
const TAKES_OVER: Duration = Duration::from_secs(60);

pub async fn prove(world: &World) -> Result<Outcome> {
    // The demo has one replica: there is nobody to take over.
    let replicas = replicas(world).await?;
    let proved = tokio::select! {
        proved = takeovers(world) => proved,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    scale(world, replicas).await?;
    let (killed, ended) = proved?;
    super::all_ready(world, SETTLES).await?;
    Ok(Outcome::Proved(format!(
        "another replica led {:.1} s after kill -9 of the leader, and {:.2} s after the next leader was asked to end",
        killed.as_secs_f64(),
        ended.as_secs_f64()
    )))
}

async fn takeovers(world: &World) -> Result<(SignedDuration, SignedDuration)> {
    scale(world, 2).await?;
    let leader = leader(world).await?;
    let container = container(world, &leader.name).await?;
    let began = Timestamp::now();
    let node = node::name("hub");
    let kill = [
        "exec",
        &node,
        "ctr",
        "--namespace",
        "k8s.io",
        "tasks",
        "kill",
        "--signal",
        "SIGKILL",
        &container,
    ];
    docker(&kill).await.context("the leader was not killed")?;
    let killed = next(world, &leader).await?.since.duration_since(began);
    ensure!(killed <= AFTER_KILL, "nobody led for {killed:#} after kill -9");

    // The one that was killed is the other's successor once it is ready again.
    scale(world, 2).await?;
    let leader = self::leader(world).await?;
    let began = Timestamp::now();
    let pods: Api<Pod> = Api::namespaced(world.hub.client.clone(), OPERATORS);
    pods.delete(&leader.name, &DeleteParams::default()).await?;
    let ended = next(world, &leader).await?.since.duration_since(began);
    ensure!(ended <= AFTER_SIGTERM, "nobody led for {ended:#} after SIGTERM");
    Ok((killed, ended))
}

struct Leader {
    name: String,
    /// By the clock of the demo's machine, which is ours.
    since: Timestamp,
}

async fn leader(world: &World) -> Result<Leader> {
    let leases: Api<Lease> = Api::namespaced(world.hub.client.clone(), OPERATORS);
    until(TAKES_OVER, "a leader on the hub", || async {
        let spec = leases.get("meridian-hub").await?.spec.context("an empty lease")?;
        let holder = spec.holder_identity.filter(|name| !name.is_empty());
        Ok(holder
            .zip(spec.acquire_time)
            .map(|(name, since)| Leader { name, since: since.0 }))
    })
    .await
}

/// Waits for the leader after this one. A replica that was killed may be the next one itself, started anew.
async fn next(world: &World, before: &Leader) -> Result<Leader> {
    until(TAKES_OVER, "the next leader", || async {
        let leader = leader(world).await?;
        Ok((leader.since > before.since).then_some(leader))
    })
    .await
}

async fn container(world: &World, pod: &str) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(world.hub.client.clone(), OPERATORS);
    let status = pods.get(pod).await?.status;
    let container = status.and_then(|status| status.container_statuses?.into_iter().next()?.container_id);
    let id = container.as_deref().and_then(|id| id.strip_prefix("containerd://"));
    id.map(str::to_owned)
        .with_context(|| format!("{pod} runs in no container"))
}

fn deployments(world: &World) -> Api<Deployment> {
    Api::namespaced(world.hub.client.clone(), OPERATORS)
}

async fn replicas(world: &World) -> Result<i32> {
    let deployment = deployments(world).get("meridian-operator").await?;
    deployment
        .spec
        .and_then(|spec| spec.replicas)
        .context("the hub's operator names no replicas")
}

/// Scales the hub's operator and waits until so many replicas are ready, and no others are left.
async fn scale(world: &World, replicas: i32) -> Result<()> {
    let scaled = json!({ "spec": { "replicas": replicas } });
    deployments(world)
        .patch_scale("meridian-operator", &PatchParams::default(), &Patch::Merge(scaled))
        .await?;
    let pods: Api<Pod> = Api::namespaced(world.hub.client.clone(), OPERATORS);
    let operators = ListParams::default().labels("app.kubernetes.io/name=meridian-operator");
    until(SETTLES, "the hub's replicas ready", || async {
        let pods = pods.list(&operators).await?.items;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let wanted = usize::try_from(replicas)?;
        if (ready, pods.len()) != (wanted, wanted) {
            bail!("{ready} of {} are ready", pods.len());
        }
        Ok(Some(()))
    })
    .await
}

fn is_ready(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    pod.metadata.deletion_timestamp.is_none() && statuses.is_some_and(|all| all.iter().all(|status| status.ready))
}
