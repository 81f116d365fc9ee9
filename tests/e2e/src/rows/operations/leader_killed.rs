//! Row 12: the hub's leading replica is killed, then the one that leads is asked to end. The hub is led again in time.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::SETTLES;
use crate::node::{self, docker};
use crate::rows::{OPERATORS, Outcome};
use crate::world::{World, until};

/// From the signal to the sign of life that the next leader writes down.
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
        "led again {:.1} s after kill -9 of the leader, and by another replica {:.2} s after the leader was asked to end",
        killed.as_secs_f64(),
        ended.as_secs_f64()
    )))
}

async fn takeovers(world: &World) -> Result<(SignedDuration, SignedDuration)> {
    scale(world, 2).await?;
    let leader = next(world, |_| true).await?;
    let Signal { began, ended } = signal(world, &leader, "SIGKILL").await?;
    // By the other replica, or by the same pod, whose container is started anew: what counts is that somebody leads. What
    // the killed one renewed while the signal was on its way to it does not.
    let killed = next(world, |now| now.renewed > ended)
        .await?
        .renewed
        .duration_since(began);
    ensure!(killed <= AFTER_KILL, "nobody led for {killed:#} after kill -9");

    scale(world, 2).await?;
    let leader = next(world, |_| true).await?;
    let Signal { began, .. } = signal(world, &leader, "SIGTERM").await?;
    let other = next(world, |now| now.name != leader.name).await?;
    let ended = other.acquired.duration_since(began);
    ensure!(ended <= AFTER_SIGTERM, "nobody led for {ended:#} after SIGTERM");
    Ok((killed, ended))
}

/// By the clock of the demo's machine, which is ours.
struct Leader {
    name: String,
    acquired: Timestamp,
    renewed: Timestamp,
}

/// Waits for a leader that is as wanted.
async fn next(world: &World, wanted: impl Fn(&Leader) -> bool) -> Result<Leader> {
    let leases: Api<Lease> = Api::namespaced(world.hub.client.clone(), OPERATORS);
    let leases = &leases;
    until(TAKES_OVER, "a leader on the hub", || async {
        let spec = leases.get("meridian-hub").await?.spec.context("an empty lease")?;
        let holder = spec.holder_identity.filter(|name| !name.is_empty());
        let times = spec.acquire_time.zip(spec.renew_time);
        let leader = holder.zip(times).map(|(name, (acquired, renewed))| Leader {
            name,
            acquired: acquired.0,
            renewed: renewed.0,
        });
        Ok(leader.filter(&wanted))
    })
    .await
}

/// When a signal was given to docker to send, and when it had been sent.
struct Signal {
    began: Timestamp,
    ended: Timestamp,
}

/// To the first process of the leader's container; nothing is told to the kubelet or the API server. A pod whose
/// container was just started anew still names the one that ended.
async fn signal(world: &World, leader: &Leader, signal: &str) -> Result<Signal> {
    let pods: Api<Pod> = Api::namespaced(world.hub.client.clone(), OPERATORS);
    let pods = &pods;
    until(TAKES_OVER, "the leader's container", || async {
        let pod = pods.get(&leader.name).await?;
        let id = node::container(&pod).with_context(|| format!("{} runs in no container", leader.name))?;
        let began = Timestamp::now();
        docker(&node::task(&node::name("hub"), &["kill", "--signal", signal, id])).await?;
        let ended = Timestamp::now();
        Ok(Some(Signal { began, ended }))
    })
    .await
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
