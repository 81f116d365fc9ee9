//! The writers of a pool: one Deployment, applied without `replicas`, which belong to the scale subresource alone.

use crate::manifest::{DEPLOYMENT, Manifest, NotAManifest, OWNER_UID_LABEL};
use crate::region::stack::plan::components::COMPONENT_LABEL;
use crate::region::stack::plan::external;
use crate::region::stack::plan::pods::{
    Pod, SERVICE_USER, env, env_secret, probe_admin, resources, selector, template,
};
use crate::region::stack::plan::services::{common_env, common_volumes, kafka_env};
use crate::region::stack::validate::Stack;
use serde_json::json;

use super::validate::Pool;

/// Label with the pool that an object is of.
pub const POOL_LABEL: &str = "meridian.sh/pool";

/// Component of the writers in the network table, and their service identity.
const COMPONENT: &str = "telemetry-writer";

/// Name of a pool's Deployment.
#[must_use]
pub fn deployment_name(pool: &str) -> String {
    format!("ingest-{pool}")
}

/// The Deployment.
///
/// # Errors
/// Never for a validated pool.
pub fn writers(stack: &Stack, pool: &Pool, database_digest: &str) -> Result<Manifest, NotAManifest> {
    let name = deployment_name(&pool.name);
    let mut variables = common_env(stack);
    variables.push(kafka_env());
    variables.push(env_secret("MERIDIAN_DATABASE_URL", "db-telemetry", "url"));
    variables.push(env("MERIDIAN_INGEST_POOL", &pool.name));
    variables.extend(pool.settings.env());
    let (mut volumes, mut mounts) = common_volumes(&format!("tls-{COMPONENT}"));
    if let Some((volume, mounted)) = external::postgres_trust(stack) {
        volumes.push(volume);
        mounts.push(mounted);
    }
    let mut container = json!({
        "name": COMPONENT, "image": stack.images.meridian, "args": [COMPONENT],
        "ports": [
            {"name": "https", "containerPort": 8443, "protocol": "TCP"},
            {"name": "admin", "containerPort": 9000, "protocol": "TCP"},
        ],
        "env": variables, "volumeMounts": mounts,
        "resources": pool.resources.clone().unwrap_or_else(|| resources("25m", ("48Mi", "256Mi"))),
    });
    probe_admin(&mut container);
    let pod = Pod {
        name: &name,
        component: COMPONENT,
        user: SERVICE_USER,
        config_digest: database_digest.to_owned(),
        container,
        volumes,
        grace_seconds: 20,
    };
    let mut metadata = stack.metadata(&name, "ingest");
    metadata["namespace"] = json!(stack.namespace());
    metadata["labels"][OWNER_UID_LABEL] = json!(pool.uid);
    metadata["labels"][POOL_LABEL] = json!(pool.name);
    metadata["labels"][COMPONENT_LABEL] = json!(COMPONENT);
    Manifest::new(json!({
        "apiVersion": DEPLOYMENT.api_version(), "kind": DEPLOYMENT.kind, "metadata": metadata,
        "spec": {
            "revisionHistoryLimit": 3, "progressDeadlineSeconds": 300,
            "selector": {"matchLabels": selector(stack, &name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": template(stack, pod),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::super::validate::example as pool;
    use super::*;
    use crate::region::stack::validate::example as stack;

    #[test]
    fn replicas_are_left_to_the_scale_subresource() {
        let manifest = writers(&stack(), &pool(), "d").unwrap();
        assert!(manifest.body()["spec"].get("replicas").is_none());
        assert_eq!(manifest.key().to_string(), "Deployment meridian-eu/ingest-samples");
    }

    #[test]
    fn the_writers_belong_to_their_pool_and_not_to_the_stack_that_would_prune_them() {
        let manifest = writers(&stack(), &pool(), "d").unwrap();
        assert_eq!(manifest.label(OWNER_UID_LABEL), pool().uid);
        assert_ne!(pool().uid, stack().uid);
    }

    #[test]
    fn a_writer_has_the_resources_that_its_pool_says() {
        let wanted = json!({"limits": {"cpu": "50m"}});
        let pool = Pool {
            resources: Some(wanted.clone()),
            ..pool()
        };
        let manifest = writers(&stack(), &pool, "d").unwrap();
        assert_eq!(
            manifest.body()["spec"]["template"]["spec"]["containers"][0]["resources"],
            wanted
        );
    }

    #[test]
    fn the_deployment_renders_as_reviewed() {
        let manifest = writers(&stack(), &pool(), "digest").unwrap();
        insta::assert_snapshot!("writers", serde_yaml::to_string(manifest.body()).unwrap());
    }
}
