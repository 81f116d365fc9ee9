//! What is there: everything a pass over a RegionStack looks at, read from the cache.

use super::images::Running;
use super::plan::components::{KEYRING, Workload, run_as};
use super::plan::foundation::{POLICY, POLICY_KEY};
use super::plan::kafka;
use super::progress::Observed;
use super::validate::namespace;
use crate::apply::observed;
use crate::manifest::{
    CONFIG_MAP, DEPLOYMENT, INGEST_POOL, NAMESPACE, ObjectKey, REGION_STACK, STATEFUL_SET, TENANT_PLACEMENT,
};
use crate::region::ingest::{self, validate::Settings};
use crate::region::policy::hold::Placement;
use crate::watch::Cache;
use kube::api::DynamicObject;
use meridian_policy::{RegionName, RegionPolicy};
use serde_json::{Value, json};

/// The RegionStack of a region, with its policy in whichever form it lies.
#[must_use]
pub fn stack(cache: &Cache, region: &str) -> Option<Value> {
    let object = cache.get(&ObjectKey::cluster(REGION_STACK, region))?;
    Some(observed(&object))
}

/// The policy that a ConfigMap has written down.
#[must_use]
pub fn written_policy(config: &DynamicObject) -> Option<RegionPolicy> {
    RegionPolicy::read_text(config.data["data"][POLICY_KEY].as_str()?.as_bytes()).ok()
}

/// The policy that was in force when it was last written down.
#[must_use]
pub fn held_policy(cache: &Cache, region: &RegionName) -> Option<RegionPolicy> {
    let config = cache.get(&ObjectKey::namespaced(CONFIG_MAP, &namespace(region), POLICY))?;
    written_policy(&config)
}

/// What the workloads that are there run.
#[must_use]
pub fn running(cache: &Cache, region: &RegionName) -> Running {
    let image = |kind, name: &str| {
        let workload = cache.get(&ObjectKey::namespaced(kind, &namespace(region), name))?;
        let image = workload
            .data
            .pointer("/spec/template/spec/containers/0/image")?
            .as_str()?;
        Some(image.to_owned())
    };
    let services = run_as(Workload::Deployment)
        .map(|component| component.name)
        .collect::<Vec<_>>();
    let last = services.into_iter().rev().find_map(|name| image(DEPLOYMENT, name));
    Running {
        meridian: last.or_else(|| image(STATEFUL_SET, KEYRING)),
        postgres: image(STATEFUL_SET, "postgres"),
        kafka: image(STATEFUL_SET, "kafka"),
    }
}

/// Whether Kafka has to go on taking whoever comes: it does so now, and a pod of a release before may be there that speaks
/// to it in clear. Once it has stopped, it never begins again.
#[must_use]
pub fn kafka_in_clear(cache: &Cache, region: &RegionName) -> bool {
    let namespace = namespace(region);
    let config = cache.get(&ObjectKey::namespaced(CONFIG_MAP, &namespace, kafka::CONFIG));
    let taking = config.is_some_and(|config| kafka::is_in_clear(&config.data));
    taking
        && cache.of_kind(DEPLOYMENT).iter().any(|(key, deployment)| {
            key.namespace.as_deref() == Some(namespace.as_str()) && may_speak_in_clear(&observed(deployment))
        })
}

/// Whether a Deployment, or what is left of the one that it was, has the variable of a release before.
fn may_speak_in_clear(deployment: &Value) -> bool {
    let containers = deployment
        .pointer("/spec/template/spec/containers")
        .and_then(Value::as_array);
    let has = |variable: &str| {
        let variables = containers
            .into_iter()
            .flatten()
            .filter_map(|c| c["env"].as_array())
            .flatten();
        variables.into_iter().any(|one| one["name"] == variable)
    };
    if !has("MERIDIAN_KAFKA_URL") {
        return has("MERIDIAN_KAFKA");
    }
    let (metadata, status) = (&deployment["metadata"], &deployment["status"]);
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    let told = status["observedGeneration"].as_i64() >= metadata["generation"].as_i64();
    !told || count("replicas") > count("updatedReplicas")
}

/// The placements of a region; one that does not parse is as good as absent, and said so.
#[must_use]
pub fn placements(cache: &Cache, region: &RegionName) -> Vec<Placement> {
    let namespace = namespace(region);
    let parse = |spec: &Value| {
        Some(Placement {
            tenant: serde_json::from_value(spec["tenant"].clone()).ok()?,
            home: serde_json::from_value(spec["home"].clone()).ok()?,
            epoch: serde_json::from_value(spec["epoch"].clone()).ok()?,
        })
    };
    let mut placements = Vec::new();
    for (key, object) in cache.of_kind(TENANT_PLACEMENT) {
        if key.namespace.as_deref() != Some(namespace.as_str()) {
            continue;
        }
        match parse(&object.data["spec"]) {
            Some(placement) => placements.push(placement),
            None => tracing::error!(resource = %key, "a placement cannot be read; its tenant is not at home here"),
        }
    }
    placements
}

/// What the region's first valid IngestPool tells telemetry.
#[must_use]
pub fn ingest(cache: &Cache, region: &RegionName) -> Option<Settings> {
    let pools = cache.of_kind(INGEST_POOL).into_iter();
    let valid = pools.filter_map(|(_, pool)| ingest::validate::validate(&observed(&pool)).ok());
    valid
        .filter(|pool| pool.region == *region)
        .map(|pool| pool.settings)
        .next()
}

/// Whether the region's namespace is there.
#[must_use]
pub fn namespace_ready(cache: &Cache, region: &RegionName) -> bool {
    let key = ObjectKey::cluster(NAMESPACE, &namespace(region));
    cache
        .get(&key)
        .is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_none())
}

impl Observed for Cache {
    /// Only what progress is read from: a pass looks at every workload several times.
    fn get(&self, key: &ObjectKey) -> Option<Value> {
        let object = Self::get(self, key)?;
        Some(json!({
            "metadata": {"generation": object.metadata.generation},
            "spec": {"replicas": object.data["spec"]["replicas"]},
            "status": object.data["status"],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(variable: &str, updated: u64) -> Value {
        json!({
            "metadata": {"generation": 2},
            "spec": {"template": {"spec": {"containers": [{"env": [{"name": "RUST_LOG"}, {"name": variable}]}]}}},
            "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": updated},
        })
    }

    #[test]
    fn a_service_speaks_in_clear_until_its_last_pod_of_the_release_before_is_gone() {
        assert!(may_speak_in_clear(&deployment("MERIDIAN_KAFKA", 2)));
        assert!(may_speak_in_clear(&deployment("MERIDIAN_KAFKA_URL", 1)));
        let mut untold = deployment("MERIDIAN_KAFKA_URL", 2);
        untold["status"]["observedGeneration"] = json!(1);
        assert!(may_speak_in_clear(&untold));
        assert!(!may_speak_in_clear(&deployment("MERIDIAN_KAFKA_URL", 2)));
        assert!(!may_speak_in_clear(&deployment("SOMETHING_ELSE", 1)));
    }
}
