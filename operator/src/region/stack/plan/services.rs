//! Deployments, StatefulSets, Services and disruption budgets of our own services.

use super::super::data_plane::Postgres;
use super::super::secrets::Credential;
use super::super::validate::{NodePorts, Stack};
use super::components::{Component, GATEWAY, KEYRING, PUBLIC_CERTIFICATE, VERIFIER, WITH_EVIDENCE, Workload};
use super::external;
use super::foundation::POLICY;
use super::kafka::{IN_CLEAR, PORT_IN_CLEAR};
use super::pods::{
    Pod, SERVICE_USER, TLS_DIR, config_volume, env, env_secret, mount, probe_admin, resources, scratch, secret_volume,
    selector, template,
};
use super::postgres::stateful;
use super::{Material, POLICY_URL};
use crate::apply::digest;
use crate::manifest::{DEPLOYMENT, DISRUPTION_BUDGET, SERVICE};
use crate::region::ingest::validate::Settings;
use serde_json::{Value, json};

/// Folder with one folder per tenant that holds client-id and client-secret.
const MARKETING_DIR: &str = "/var/run/meridian/marketing";
const PEPPER_DIR: &str = "/var/run/meridian/pepper";
const EVIDENCE_DIR: &str = "/var/run/meridian/evidence";
const KEK_DIR: &str = "/var/run/meridian/kek";
const PUBLIC_TLS_DIR: &str = "/var/run/meridian/tls-public";
const DATA_DIR: &str = "/var/lib/meridian";

/// Variables that each of our processes has.
#[must_use]
pub fn common_env(stack: &Stack) -> Vec<Value> {
    vec![
        env("MERIDIAN_REGION", stack.region.as_str()),
        env("MERIDIAN_LISTEN", "0.0.0.0:8443"),
        env("MERIDIAN_ADMIN_LISTEN", "0.0.0.0:9000"),
        env("MERIDIAN_TLS_DIR", TLS_DIR),
        env("MERIDIAN_POLICY_URL", POLICY_URL),
        env("MERIDIAN_POLICY_FILE", "/etc/meridian/policy/policy.json"),
        env("RUST_LOG", "warn,meridian=info"),
    ]
    .into_iter()
    .chain(ALLOCATOR.map(|(name, value)| env(name, value)))
    .collect()
}

/// Where a component that the table lets reach Kafka finds it. An image that cannot come there under its certificate does
/// not know the variable, and refuses to start: a rollout of it halts, and what runs goes on.
#[must_use]
pub fn kafka_env() -> Value {
    env("MERIDIAN_KAFKA_URL", "mtls://kafka:9094")
}

/// Few arenas, and what was large goes back to the kernel when it is freed: a service is idle most of its time. Without
/// these glibc keeps the blocks of a password's hash, 19 MiB each, for the next one.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_MMAP_THRESHOLD_", "1048576"),
    ("MALLOC_TRIM_THRESHOLD_", "524288"),
];

/// Volumes and mounts that each of our processes has.
#[must_use]
pub fn common_volumes(certificate: &str) -> (Vec<Value>, Vec<Value>) {
    let volumes = vec![
        secret_volume("tls", certificate),
        config_volume("policy", POLICY),
        scratch("tmp", "64Mi"),
    ];
    let mounts = vec![
        mount("tls", TLS_DIR),
        mount("policy", "/etc/meridian/policy"),
        json!({"name": "tmp", "mountPath": "/tmp"}),
    ];
    (volumes, mounts)
}

/// The workload of one component; `None` for those that are run elsewhere.
#[must_use]
pub fn workload(stack: &Stack, component: &Component, material: &Material) -> Option<Value> {
    let template = template(stack, pod(stack, component, material));
    match component.workload {
        Workload::Elsewhere => None,
        Workload::StatefulSet => Some(stateful(stack, component.name, "service", "1Gi", template)),
        Workload::Deployment => Some(deployment(stack, component, template)),
    }
}

fn deployment(stack: &Stack, component: &Component, template: Value) -> Value {
    let replicas = stack.tuning.get(component.name).and_then(|t| t.replicas).unwrap_or(1);
    let mut metadata = stack.metadata(component.name, "service");
    metadata["namespace"] = json!(stack.namespace());
    json!({
        "apiVersion": DEPLOYMENT.api_version(), "kind": DEPLOYMENT.kind, "metadata": metadata,
        "spec": {
            "replicas": replicas, "revisionHistoryLimit": 3, "progressDeadlineSeconds": stack.deadline_seconds, "minReadySeconds": 1,
            "selector": {"matchLabels": selector(stack, component.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": template,
        },
    })
}

fn pod<'a>(stack: &Stack, component: &'a Component, material: &Material) -> Pod<'a> {
    let name = component.name;
    let mut variables = common_env(stack);
    let (mut volumes, mut mounts) = common_volumes(&format!("tls-{name}"));
    // What the process reads only when it starts; certificates and marketing clients are read again when they change.
    let mut read_once = Vec::new();
    if component.calls.contains(&"kafka") {
        variables.push(kafka_env());
    }
    if component.database {
        let secret = Credential::Runtime(name.to_owned()).secret();
        variables.push(env_secret("MERIDIAN_DATABASE_URL", &secret, "url"));
        read_once.push(secret);
    }
    if name == VERIFIER {
        let secret = Credential::Verifier.secret();
        variables.push(env_secret("MERIDIAN_DATABASE_URL", &secret, "url"));
        read_once.push(secret);
        variables.extend(run_by(stack));
    }
    if let Some((volume, mounted)) = external::postgres_trust(stack).filter(|_| component.calls.contains(&"postgres")) {
        volumes.push(volume);
        mounts.push(mounted);
    }
    if name == "identity" {
        let secret = Credential::Pepper(name.to_owned()).secret();
        volumes.push(secret_volume("pepper", &secret));
        mounts.push(mount("pepper", PEPPER_DIR));
        variables.push(env("MERIDIAN_PEPPER_FILE", &format!("{PEPPER_DIR}/pepper")));
        read_once.push(secret);
        volumes.push(marketing_volume(stack));
        mounts.push(mount("marketing", MARKETING_DIR));
        variables.push(env("MERIDIAN_MARKETING_DIR", MARKETING_DIR));
    }
    if WITH_EVIDENCE.contains(&name) {
        let secret = Credential::Evidence(name.to_owned()).secret();
        volumes.push(secret_volume("evidence", &secret));
        mounts.push(mount("evidence", EVIDENCE_DIR));
        variables.push(env("MERIDIAN_EVIDENCE_KEY_FILE", &format!("{EVIDENCE_DIR}/seed")));
        read_once.push(secret);
    }
    if name == KEYRING {
        let secret = Credential::KeyEncryption.secret();
        volumes.push(secret_volume("kek", &secret));
        mounts.push(mount("kek", KEK_DIR));
        mounts.push(json!({"name": "data", "mountPath": DATA_DIR}));
        variables.push(env("MERIDIAN_KEK_FILE", &format!("{KEK_DIR}/kek")));
        variables.push(env("MERIDIAN_DATA_DIR", DATA_DIR));
        read_once.push(secret);
    }
    if name == "telemetry" {
        variables.extend(stack.ingest.iter().flat_map(Settings::env));
    }
    if name == GATEWAY {
        volumes.push(secret_volume("tls-public", PUBLIC_CERTIFICATE));
        mounts.push(mount("tls-public", PUBLIC_TLS_DIR));
        variables.push(env("MERIDIAN_PUBLIC_TLS_DIR", PUBLIC_TLS_DIR));
    }
    let tuned = stack.tuning.get(name).cloned().unwrap_or_default();
    let mut container = json!({
        "name": name, "image": tuned.image.as_ref().unwrap_or(&stack.images.meridian), "args": [name],
        "ports": [
            {"name": "https", "containerPort": component.port, "protocol": "TCP"},
            {"name": "admin", "containerPort": 9000, "protocol": "TCP"},
        ],
        "env": variables,
        "resources": tuned.resources.unwrap_or_else(|| resources("10m", component.memory)),
        "volumeMounts": mounts,
        // Endpoints learn of the end before the process does, so that nobody is sent to a closed door.
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
    });
    probe_admin(&mut container);
    let config_digest = if read_once.is_empty() {
        String::new()
    } else {
        digest(&json!(
            read_once
                .iter()
                .map(|secret| material.digest_of(secret))
                .collect::<Vec<_>>()
        ))
        .chars()
        .take(16)
        .collect()
    };
    Pod {
        name,
        component: name,
        user: SERVICE_USER,
        config_digest,
        container,
        volumes,
        grace_seconds: 20,
    }
}

/// What tells the verifier whose servers it looks at; of our own PostgreSQL it needs to be told nothing. Kafka it looks at once
/// services of a release before do not need it in clear any more: until then there is another plan.
fn run_by(stack: &Stack) -> Vec<Value> {
    let postgres = &stack.data_plane.postgres;
    let administrator = match postgres {
        Postgres::Embedded => None,
        Postgres::CloudNativePg(_) => Some(Credential::Administrator.secret()),
        Postgres::External(external) => Some(external.secret.clone()),
    };
    let of_postgres = administrator.into_iter().flat_map(|secret| {
        [
            env("MERIDIAN_POSTGRES_MODE", postgres.mode()),
            env_secret("MERIDIAN_POSTGRES_ADMINISTRATOR", &secret, "username"),
        ]
    });
    let of_kafka = (!stack.kafka_in_clear).then(|| env("MERIDIAN_VERIFY_KAFKA", "true"));
    of_postgres.chain(of_kafka).collect()
}

/// One folder per tenant homed here. Optional: a client whose Secret is not there yet must not keep identity from starting.
fn marketing_volume(stack: &Stack) -> Value {
    let source = |tenant: &meridian_policy::TenantId| {
        let items = ["client-id", "client-secret"].map(|key| json!({"key": key, "path": format!("{tenant}/{key}")}));
        json!({"secret": {"name": Credential::Marketing(tenant.clone()).secret(), "items": items, "optional": true}})
    };
    let mut tenants: Vec<_> = stack.policy.homes.iter().map(|home| &home.tenant).collect();
    tenants.sort();
    let sources: Vec<_> = tenants.into_iter().map(source).collect();
    json!({"name": "marketing", "projected": {"defaultMode": 0o440, "sources": sources}})
}

/// Services of one component: the one inside, and a NodePort when the outside reaches it.
#[must_use]
pub fn addresses(stack: &Stack, component: &Component) -> Vec<Value> {
    let service = |name: &str, spec: Value| {
        let mut metadata = stack.metadata(name, "service");
        metadata["namespace"] = json!(stack.namespace());
        json!({"apiVersion": SERVICE.api_version(), "kind": SERVICE.kind, "metadata": metadata, "spec": spec})
    };
    let selector = selector(stack, component.name);
    let port_name = if matches!(component.name, "postgres" | "kafka") {
        component.name
    } else {
        "https"
    };
    let port = json!({"name": port_name, "port": component.port, "targetPort": port_name, "protocol": "TCP"});
    let mut ports = vec![port.clone()];
    if component.name == "kafka" && stack.kafka_in_clear {
        ports.push(json!({"name": IN_CLEAR, "port": PORT_IN_CLEAR, "targetPort": IN_CLEAR, "protocol": "TCP"}));
    }
    let inside = |kind: &str| {
        service(
            component.name,
            json!({"type": kind, "selector": selector, "ports": ports}),
        )
    };
    match (component.name, component.node_port) {
        ("migrate" | "telemetry-writer" | VERIFIER, _) => vec![],
        (_, None) => vec![inside("ClusterIP")],
        (name, Some(node_port)) => {
            let mut outside_port = port.clone();
            if stack.node_ports == NodePorts::Fixed {
                outside_port["nodePort"] = json!(node_port);
            }
            let outside = json!({"type": "NodePort", "selector": selector, "ports": [outside_port]});
            match name {
                GATEWAY => vec![service(GATEWAY, outside)],
                _ => vec![inside("ClusterIP"), service(&format!("{name}-peer"), outside)],
            }
        }
    }
}

/// At most one pod of a component is taken away at a time by somebody who can wait.
#[must_use]
pub fn disruption_budget(stack: &Stack, name: &str) -> Value {
    let mut metadata = stack.metadata(name, "service");
    metadata["namespace"] = json!(stack.namespace());
    json!({
        "apiVersion": DISRUPTION_BUDGET.api_version(), "kind": DISRUPTION_BUDGET.kind, "metadata": metadata,
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(stack, name)}},
    })
}
