//! Tells the API server by which CA it verifies this one, and again while that CA is rotated: the chart makes the
//! APIService, and leaves that field alone. Another adapter's is left alone here.

use crate::apply::{Applier, ApplyError, Purpose, merge_by};
use crate::manifest::{Kind, ObjectKey, REGION_STACK};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::{DynamicObject, Patch};
use kube::runtime::{WatchStreamExt as _, watcher};
use meridian_policy::RegionName;
use serde_json::json;
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

const API_SERVICE: Kind = Kind {
    group: "apiregistration.k8s.io",
    version: "v1",
    kind: "APIService",
    plural: "apiservices",
    namespaced: false,
};
const NAME: &str = "v1beta1.external.metrics.k8s.io";
/// The Service that leads here.
const SERVICE: &str = "region-operator";
/// How often what is announced is compared with what the region is verified by; both are known without asking anybody.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// After a write that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// Keeps announcing.
pub(super) async fn keep(applier: Applier, region: RegionName, namespace: String) -> Infallible {
    let key = ObjectKey::cluster(API_SERVICE, NAME);
    let only_this = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut changes = pin!(watcher(applier.api(&key), only_this).default_backoff());
    let mut seen: Option<DynamicObject> = None;
    loop {
        tokio::select! {
            biased;
            Some(event) = changes.next() => match event {
                Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => seen = Some(object),
                Ok(watcher::Event::Init | watcher::Event::Delete(_)) => seen = None,
                Ok(watcher::Event::InitDone) => {}
                Err(error) => tracing::warn!(resource = NAME, error = %error, "watch failed; it is tried again"),
            },
            () = tokio::time::sleep(COMPARE_EVERY) => {}
        }
        let ca = ca(&applier, &region).map(|ca| BASE64.encode(ca));
        let (Some(object), Some(ca)) = (&seen, ca) else {
            continue;
        };
        if leads_here(object, &namespace) && object.data["spec"]["caBundle"] != ca {
            match announce(&applier, &key, object, &ca).await {
                // The watch tells it too; this is sooner.
                Ok(written) => seen = Some(written),
                Err(ApplyError::NotLeader { .. }) => {}
                Err(error) => {
                    tracing::warn!(resource = NAME, error = %error, "the CA of the metrics is announced later");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// What the region's certificates are verified by now: while its CA is rotated, the old one and the new one.
fn ca(applier: &Applier, region: &RegionName) -> Option<String> {
    let stack = applier
        .cache()
        .get(&ObjectKey::cluster(REGION_STACK, region.as_str()))?;
    stack.data["status"]["caBundle"].as_str().map(str::to_owned)
}

fn leads_here(object: &DynamicObject, namespace: &str) -> bool {
    let service = &object.data["spec"]["service"];
    service["name"] == SERVICE && service["namespace"] == namespace
}

async fn announce(
    applier: &Applier,
    key: &ObjectKey,
    seen: &DynamicObject,
    ca: &str,
) -> Result<DynamicObject, ApplyError> {
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": seen.resource_version()}, "spec": {"caBundle": ca},
    }));
    let params = merge_by(Purpose::RegionMetrics.manager());
    let api = applier.api(key);
    let written = applier.write("announce", key, api.patch(NAME, &params, &patch)).await?;
    tracing::info!(resource = NAME, "the CA of the metrics is announced");
    Ok(written)
}
