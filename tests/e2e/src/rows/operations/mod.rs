//! What operators do to a running platform, and what happens to them: each goes by without a stack noticing.

pub mod chart_upgraded;
pub mod hub_rebuilt;
pub mod kubeconfig_lost;
pub mod leader_killed;
pub mod plugin_asked;
pub mod webhook_rotated;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::rows::condition;
use crate::world::{Site, World, until};

/// The namespace of the operator, in every cluster.
const OPERATORS: &str = "meridian-system";

/// The platform at work again after something was done to it, on a machine that is busy with much else.
const SETTLES: Duration = Duration::from_secs(180);

/// By name: who each is, and how often its container was started anew.
type Pods = BTreeMap<String, (String, i32)>;

/// The stack's pods, without the ingest pool's writers, which come and go with the load.
async fn pods(site: &Site) -> Result<Pods> {
    let pods: Api<Pod> = Api::namespaced(site.cluster.client.clone(), &site.namespace());
    let lasting = ListParams::default().labels("meridian.sh/component!=telemetry-writer");
    let listed = pods.list(&lasting).await.context("the stack's pods")?;
    let running = listed.items.into_iter().filter_map(|pod| {
        let status = pod.status.as_ref()?;
        let container = status.container_statuses.as_ref()?.first()?;
        let lasts = status.phase.as_deref() == Some("Running");
        lasts.then(|| (pod.name_any(), (pod.uid().unwrap_or_default(), container.restart_count)))
    });
    let pods: Pods = running.collect();
    ensure!(!pods.is_empty(), "the stack of {} has no pods", site.region);
    Ok(pods)
}

/// Says which pods are others than before.
async fn undisturbed(site: &Site, before: &Pods) -> Result<()> {
    let now = pods(site).await?;
    let other: Vec<&String> = before
        .keys()
        .chain(now.keys())
        .filter(|name| before.get(*name) != now.get(*name))
        .collect();
    ensure!(
        other.is_empty(),
        "pods of {} that were started anew: {other:?}",
        site.region
    );
    Ok(())
}

/// Waits until every FitnessRegion, tenant and pool on the hub is Ready.
async fn all_ready(world: &World, limit: Duration) -> Result<()> {
    until(limit, "everything on the hub Ready", || async {
        let told = ["get", "fitnessregions,tenantdataresidencies,ingestpools", "-o", "json"];
        let told: Value = serde_json::from_str(&world.hub.kubectl.run(&told).await?)?;
        let objects = told["items"].as_array().context("a list")?;
        let waiting = objects.iter().find(|object| condition(object, "Ready") != "True");
        if let Some(object) = waiting {
            anyhow::bail!("{} {} is not Ready", object["kind"], object["metadata"]["name"]);
        }
        Ok((!objects.is_empty()).then_some(()))
    })
    .await
}
