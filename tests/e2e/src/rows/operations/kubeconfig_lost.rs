//! Row 14: the hub loses its kubeconfig for us. That region alone degrades, and serves on; with the Secret back it is Ready.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::Value;

use super::{OPERATORS, SETTLES, pods, undisturbed};
use crate::athlete::Athlete;
use crate::rows::{Outcome, condition};
use crate::world::{World, until};

const SECRET: &str = "member-us";
const NOTICED: Duration = Duration::from_secs(60);

pub async fn prove(world: &World) -> Result<Outcome> {
    let secrets: Api<Secret> = Api::namespaced(world.hub.client.clone(), OPERATORS);
    let kept = secrets.get(SECRET).await.context("the hub's kubeconfig for us")?;
    let before = pods(&world.us).await?;
    let began = Instant::now();
    secrets.delete(SECRET, &DeleteParams::default()).await?;
    let seen = tokio::select! {
        seen = without(world, began) => seen,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    // Whatever was seen, the demo is put back as it was.
    let mut restored = kept;
    restored.metadata.resource_version = None;
    restored.metadata.uid = None;
    restored.metadata.creation_timestamp = None;
    restored.metadata.managed_fields = None;
    let put_back = Instant::now();
    secrets
        .create(&PostParams::default(), &restored)
        .await
        .context("the kubeconfig could not be put back")?;
    let noticed = seen?;
    super::all_ready(world, SETTLES).await?;
    let ready = put_back.elapsed();
    undisturbed(&world.us, &before).await?;
    Ok(Outcome::Proved(format!(
        "us said so after {:.1} s, eu stayed Ready, us registered and answered an athlete; Ready {:.1} s after the Secret was back, no pod of us started anew",
        noticed.as_secs_f32(),
        ready.as_secs_f32()
    )))
}

async fn without(world: &World, began: Instant) -> Result<Duration> {
    until(NOTICED, "us no longer Ready", || async {
        let now = region(world, "us").await?;
        let told = ["ClustersReachable", "Ready"].map(|kind| condition(&now, kind));
        if told.contains(&"True") {
            bail!("ClustersReachable and Ready are {told:?}");
        }
        Ok(Some(()))
    })
    .await?;
    let noticed = began.elapsed();
    let eu = region(world, "eu").await?;
    ensure!(condition(&eu, "Ready") == "True", "eu is not Ready either");
    let athlete = Athlete::register(&world.us, "Max").await.context("us without a hub")?;
    athlete.get(&world.us, "/api/v1/me").await.context("us without a hub")?;
    Ok(noticed)
}

async fn region(world: &World, name: &str) -> Result<Value> {
    let told = world
        .hub
        .kubectl
        .run(&["get", "fitnessregion", name, "-o", "json"])
        .await?;
    serde_json::from_str(&told).context("a FitnessRegion")
}
