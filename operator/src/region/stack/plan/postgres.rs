//! PostgreSQL, embedded: one node with TLS 1.3, SCRAM, durable commits, and logs that quote nobody's data.

use super::super::validate::Stack;
use super::pods::{DATA_USER, Pod, config_volume, env, mount, resources, scratch, secret_volume, selector, template};
use crate::apply::digest;
use crate::manifest::{CONFIG_MAP, STATEFUL_SET};
use serde_json::{Value, json};

const NAME: &str = "postgres";
const CONFIG: &str = "postgres-config";

const CONF: &str = "\
listen_addresses = '*'
port = 5432
max_connections = 200
shared_buffers = '64MB'
dynamic_shared_memory_type = posix
max_wal_size = '512MB'
wal_level = replica

# An acknowledged write survives the loss of power.
fsync = on
synchronous_commit = on
full_page_writes = on

ssl = on
ssl_cert_file = '/var/run/meridian/tls/tls.crt'
ssl_key_file = '/var/run/meridian/tls/tls.key'
ssl_min_protocol_version = 'TLSv1.3'
password_encryption = 'scram-sha-256'

# No statement, no parameter and no row ever reaches the log.
log_destination = 'stderr'
logging_collector = off
log_statement = 'none'
log_min_duration_statement = -1
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
log_min_error_statement = panic
log_error_verbosity = terse
log_connections = off
log_disconnections = off
log_line_prefix = '%m [%p] %q%u@%d '
log_timezone = 'UTC'
timezone = 'UTC'
";

const HBA: &str = "\
# TYPE    DATABASE     USER  ADDRESS  METHOD
local     all          all            scram-sha-256
hostssl   replication  all   all      reject
hostssl   all          all   all      scram-sha-256
hostnossl all          all   all      reject
";

/// Its ConfigMap.
#[must_use]
pub fn config(stack: &Stack) -> Value {
    let mut metadata = stack.metadata(CONFIG, "data-plane");
    metadata["namespace"] = json!(stack.namespace());
    json!({
        "apiVersion": CONFIG_MAP.api_version(), "kind": CONFIG_MAP.kind, "metadata": metadata,
        "data": {"postgresql.conf": CONF, "pg_hba.conf": HBA},
    })
}

/// Its StatefulSet. PostgreSQL reads its certificate when it starts, so a renewal (every 60 days) restarts it.
#[must_use]
pub fn workload(stack: &Stack, certificate_digest: &str) -> Value {
    // A program that asks would have to be started each time, and on a busy node is not answered in time. Whoever comes while
    // it still recovers is told so by PostgreSQL itself.
    let ready = json!({"tcpSocket": {"port": NAME}, "periodSeconds": 3, "timeoutSeconds": 3, "failureThreshold": 3});
    let mut live = ready.clone();
    live["periodSeconds"] = json!(15);
    live["failureThreshold"] = json!(6);
    let mut startup = ready.clone();
    startup["periodSeconds"] = json!(2);
    startup["failureThreshold"] = json!(150);
    let container = json!({
        "name": NAME, "image": stack.images.postgres,
        "ports": [{"name": NAME, "containerPort": 5432, "protocol": "TCP"}],
        "env": [env("PGDATA", "/var/lib/postgresql/data"), env("POSTGRES_PASSWORD_FILE", "/var/run/meridian/superuser/password")],
        "resources": resources("50m", ("128Mi", "768Mi")),
        "readinessProbe": ready, "livenessProbe": live, "startupProbe": startup,
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/postgresql"}, {"name": "tmp", "mountPath": "/tmp"},
            mount("config", "/etc/meridian"), mount("tls", "/var/run/meridian/tls"), mount("superuser", "/var/run/meridian/superuser"),
        ],
    });
    let pod = Pod {
        name: NAME,
        component: NAME,
        user: DATA_USER,
        config_digest: digest(&json!([CONF, HBA, certificate_digest]))
            .chars()
            .take(16)
            .collect(),
        container,
        volumes: vec![
            config_volume("config", CONFIG),
            secret_volume("tls", "tls-postgres"),
            secret_volume("superuser", "db-superuser"),
            scratch("tmp", "16Mi"),
        ],
        grace_seconds: 60,
    };
    stateful(stack, NAME, "data-plane", "10Gi", template(stack, pod))
}

/// A StatefulSet of one replica with one volume named `data` that outlives it.
#[must_use]
pub fn stateful(stack: &Stack, name: &str, component: &str, storage: &str, template: Value) -> Value {
    let mut metadata = stack.metadata(name, component);
    metadata["namespace"] = json!(stack.namespace());
    json!({
        "apiVersion": STATEFUL_SET.api_version(), "kind": STATEFUL_SET.kind, "metadata": metadata,
        "spec": {
            "replicas": 1, "serviceName": name, "selector": {"matchLabels": selector(stack, name)},
            "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate"},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "template": template,
            "volumeClaimTemplates": [{
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}},
            }],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_never_holds_statements_or_parameters_and_commits_are_durable() {
        for line in [
            "log_statement = 'none'",
            "log_parameter_max_length = 0",
            "log_parameter_max_length_on_error = 0",
            "log_min_error_statement = panic",
            "log_error_verbosity = terse",
            "fsync = on",
            "synchronous_commit = on",
        ] {
            assert!(CONF.lines().any(|l| l == line), "{line}");
        }
    }

    #[test]
    fn nobody_comes_in_over_the_network_without_tls() {
        let plain = |l: &str| l.starts_with("host ") || (l.starts_with("hostnossl") && !l.ends_with("reject"));
        assert!(!HBA.lines().any(plain));
    }
}
