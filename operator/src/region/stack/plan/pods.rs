//! What all pods of a stack have in common: no privileges, a read-only root, no API token, probes, memory bounds.

use super::super::validate::Stack;
use super::components::COMPONENT_LABEL;
use serde_json::{Value, json};

/// User of the services' image.
pub const SERVICE_USER: u32 = 65_532;
/// User of the images of PostgreSQL and Kafka.
pub const DATA_USER: u32 = 999;
/// Annotation with the digest of what a pod reads only when it starts.
pub const CONFIG_ANNOTATION: &str = "meridian.sh/config-digest";
/// Folder with tls.crt, tls.key and ca.crt.
pub const TLS_DIR: &str = "/var/run/meridian/tls";

/// A pod template's parts that differ.
pub struct Pod<'a> {
    /// Name: of the workload.
    pub name: &'a str,
    /// Component, for network policies.
    pub component: &'a str,
    /// User and group.
    pub user: u32,
    /// Digest for [`CONFIG_ANNOTATION`]; empty for none.
    pub config_digest: String,
    /// The one container, without its security context.
    pub container: Value,
    /// Volumes.
    pub volumes: Vec<Value>,
    /// Seconds to end in.
    pub grace_seconds: u32,
}

/// Labels that select the pods of a workload.
#[must_use]
pub fn selector(stack: &Stack, name: &str) -> Value {
    json!({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "meridian", "meridian.sh/region": stack.region})
}

/// A whole pod template.
#[must_use]
pub fn template(stack: &Stack, pod: Pod<'_>) -> Value {
    let mut labels = selector(stack, pod.name);
    labels[COMPONENT_LABEL] = json!(pod.component);
    let mut container = pod.container;
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    container["imagePullPolicy"] = json!("IfNotPresent");
    let mut metadata = json!({"labels": labels});
    if !pod.config_digest.is_empty() {
        metadata["annotations"] = json!({CONFIG_ANNOTATION: pod.config_digest});
    }
    json!({
        "metadata": metadata,
        "spec": {
            "serviceAccountName": SERVICE_ACCOUNT_NAME,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": pod.grace_seconds,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": pod.user, "runAsGroup": pod.user, "fsGroup": pod.user,
                "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": pod.volumes,
        },
    })
}

/// The one ServiceAccount of a stack's pods; it has no rights and its token is not mounted.
pub const SERVICE_ACCOUNT_NAME: &str = "meridian-workload";

/// A variable.
#[must_use]
pub fn env(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

/// A variable from a key of a Secret.
#[must_use]
pub fn env_secret(name: &str, secret: &str, key: &str) -> Value {
    json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
}

/// A read-only mount.
#[must_use]
pub fn mount(volume: &str, path: &str) -> Value {
    json!({"name": volume, "mountPath": path, "readOnly": true})
}

/// A volume of a Secret, readable by the pod's group.
#[must_use]
pub fn secret_volume(volume: &str, secret: &str) -> Value {
    json!({"name": volume, "secret": {"secretName": secret, "defaultMode": 0o440}})
}

/// A volume of a ConfigMap.
#[must_use]
pub fn config_volume(volume: &str, config_map: &str) -> Value {
    json!({"name": volume, "configMap": {"name": config_map, "defaultMode": 0o444}})
}

/// A small scratch folder.
#[must_use]
pub fn scratch(volume: &str, limit: &str) -> Value {
    json!({"name": volume, "emptyDir": {"sizeLimit": limit}})
}

/// CPU and memory; no CPU limit, since a throttled service is slow for no gain.
#[must_use]
pub fn resources(cpu: &str, memory: (&str, &str)) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory.0}, "limits": {"memory": memory.1}})
}

/// Probes on the admin port of our own processes.
pub fn probe_admin(container: &mut Value) {
    let get = |path: &str| json!({"path": path, "port": "admin", "scheme": "HTTP"});
    container["startupProbe"] =
        json!({"httpGet": get("/livez"), "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 120});
    container["livenessProbe"] =
        json!({"httpGet": get("/livez"), "periodSeconds": 10, "timeoutSeconds": 3, "failureThreshold": 3});
    container["readinessProbe"] =
        json!({"httpGet": get("/readyz"), "periodSeconds": 3, "timeoutSeconds": 2, "failureThreshold": 2});
}
