//! What everything else stands on: the namespace with its bounds, the account, the policy file, the trust anchor.

use super::super::data_plane::MODES;
use super::super::validate::Stack;
use super::pods::SERVICE_ACCOUNT_NAME;
use crate::manifest::{CONFIG_MAP, LIMIT_RANGE, NAMESPACE, RESOURCE_QUOTA, SERVICE_ACCOUNT};
use serde_json::{Value, json};

/// ConfigMap with the region's CA certificate, for jobs that verify PostgreSQL.
pub const TRUST: &str = "region-trust";
/// ConfigMap with the policy in force.
pub const POLICY: &str = "meridian-policy";
/// Its key.
pub const POLICY_KEY: &str = "policy.json";

/// The namespace: pods there must be `restricted` in the sense of the pod security standards.
#[must_use]
pub fn namespace(stack: &Stack) -> Value {
    let mut metadata = stack.metadata(&stack.namespace(), "foundation");
    for mode in ["enforce", "audit", "warn"] {
        metadata["labels"][format!("pod-security.kubernetes.io/{mode}")] = json!("restricted");
    }
    json!({"apiVersion": NAMESPACE.api_version(), "kind": NAMESPACE.kind, "metadata": metadata})
}

/// Quota, limits, account and configuration.
#[must_use]
pub fn objects(stack: &Stack, ca_certificate: &str) -> Vec<Value> {
    let metadata = |name: &str| {
        let mut metadata = stack.metadata(name, "foundation");
        metadata["namespace"] = json!(stack.namespace());
        metadata
    };
    vec![
        json!({
            "apiVersion": RESOURCE_QUOTA.api_version(), "kind": RESOURCE_QUOTA.kind, "metadata": metadata("region"),
            "spec": {"hard": {
                "pods": "300", "persistentvolumeclaims": "20", "services.nodeports": "4", "services.loadbalancers": "0",
                "limits.memory": "256Gi", "requests.cpu": "128",
            }},
        }),
        json!({
            "apiVersion": LIMIT_RANGE.api_version(), "kind": LIMIT_RANGE.kind, "metadata": metadata("region"),
            "spec": {"limits": [{
                "type": "Container", "default": {"memory": "256Mi"}, "defaultRequest": {"cpu": "10m", "memory": "64Mi"},
            }]},
        }),
        json!({
            "apiVersion": SERVICE_ACCOUNT.api_version(), "kind": SERVICE_ACCOUNT.kind, "metadata": metadata(SERVICE_ACCOUNT_NAME),
            "automountServiceAccountToken": false,
        }),
        json!({
            "apiVersion": CONFIG_MAP.api_version(), "kind": CONFIG_MAP.kind, "metadata": metadata(TRUST),
            "data": {"ca.crt": ca_certificate},
        }),
        modes(stack),
        policy(stack),
    ]
}

/// In which modes the region lives: what holds one that is to change.
fn modes(stack: &Stack) -> Value {
    let mut metadata = stack.metadata(MODES, "foundation");
    metadata["namespace"] = json!(stack.namespace());
    json!({
        "apiVersion": CONFIG_MAP.api_version(), "kind": CONFIG_MAP.kind, "metadata": metadata,
        "data": stack.data_plane.modes(),
    })
}

/// The policy in force, for processes that start and for an operator that starts anew.
#[must_use]
pub fn policy(stack: &Stack) -> Value {
    let mut metadata = stack.metadata(POLICY, "foundation");
    metadata["namespace"] = json!(stack.namespace());
    // A policy of types that serialise by derive always serialises.
    let policy = serde_json::to_string(&stack.policy).unwrap_or_default();
    json!({
        "apiVersion": CONFIG_MAP.api_version(), "kind": CONFIG_MAP.kind, "metadata": metadata,
        "data": {POLICY_KEY: policy},
    })
}
