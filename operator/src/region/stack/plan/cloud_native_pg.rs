//! PostgreSQL by the CloudNativePG operator: instances on different nodes, of which one writes and the others follow. What
//! services find is as when it is embedded: Service `postgres`, a certificate of the region's CA, and the same Secrets.
//!
//! Nobody is superuser over the network: roles and databases are made by a role that may do that and nothing else.

use super::super::data_plane::CloudNativePg;
use super::super::secrets::{ADMINISTRATOR, Credential};
use super::super::validate::Stack;
use super::components::COMPONENT_LABEL;
use crate::manifest::{NETWORK_POLICY, POSTGRES_CLUSTER};
use serde_json::{Value, json};

const NAME: &str = "postgres";
/// The plugin that archives the WAL and takes base backups into an ObjectStore of the region's own namespace.
const BACKUP_PLUGIN: &str = "barman-cloud.cloudnative-pg.io";
/// Where CloudNativePG's operator asks an instance how it is.
const STATUS_PORT: u16 = 8000;

/// The Cluster.
#[must_use]
pub fn cluster(stack: &Stack, wanted: &CloudNativePg) -> Value {
    let mut metadata = stack.metadata(NAME, "data-plane");
    metadata["namespace"] = json!(stack.namespace());
    let mut spec = json!({
        "instances": wanted.instances,
        "enableSuperuserAccess": false,
        "enablePDB": true,
        "storage": {"size": wanted.storage},
        "resources": wanted.resources,
        "affinity": {
            "enablePodAntiAffinity": true, "podAntiAffinityType": "required", "topologyKey": "kubernetes.io/hostname",
        },
        "inheritedMetadata": {"labels": {COMPONENT_LABEL: NAME, "app.kubernetes.io/part-of": "meridian"}},
        "certificates": {"serverTLSSecret": "tls-postgres", "serverCASecret": "tls-postgres"},
        "bootstrap": {"initdb": {
            "database": "meridian", "owner": ADMINISTRATOR, "secret": {"name": "db-superuser"},
            "encoding": "UTF8", "dataChecksums": true,
        }},
        "managed": {
            "roles": roles(),
            "services": {
                "disabledDefaultServices": ["ro", "r"],
                "additional": [{
                    "selectorType": "rw", "updateStrategy": "patch",
                    "serviceTemplate": {"metadata": {"name": NAME}, "spec": {"type": "ClusterIP"}},
                }],
            },
        },
        "postgresql": {
            "parameters": parameters(),
            "pg_hba": ["hostnossl all all all reject", "hostssl all all all scram-sha-256"],
        },
    });
    // An acknowledged write is on two nodes; where there is one only, it is on its disk.
    if wanted.instances > 1 {
        spec["postgresql"]["synchronous"] = json!({"method": "any", "number": 1, "dataDurability": "required"});
    }
    if let Some(image) = &wanted.image {
        spec["imageName"] = json!(image);
    }
    if let Some(store) = &wanted.object_store {
        spec["plugins"] = json!([{
            "name": BACKUP_PLUGIN, "isWALArchiver": true, "parameters": {"barmanObjectName": store},
        }]);
    }
    json!({
        "apiVersion": POSTGRES_CLUSTER.api_version(), "kind": POSTGRES_CLUSTER.kind, "metadata": metadata, "spec": spec,
    })
}

/// Who makes roles and databases, and who looks at all of them: that only a superuser can make.
fn roles() -> Value {
    json!([
        {
            "name": ADMINISTRATOR, "ensure": "present", "login": true, "inherit": true, "createdb": true,
            "createrole": true, "superuser": false, "replication": false, "bypassrls": false,
            "passwordSecret": {"name": "db-superuser"},
        },
        {
            "name": "verifier", "ensure": "present", "login": true, "inherit": true, "createdb": false,
            "createrole": false, "superuser": false, "replication": false, "bypassrls": true,
            "inRoles": ["pg_read_all_data", "pg_read_all_settings", "pg_read_all_stats"],
            "passwordSecret": {"name": Credential::Verifier.secret()},
        },
    ])
}

/// As embedded: durable, TLS 1.3, and no statement, parameter or row in the log.
fn parameters() -> Value {
    json!({
        "max_connections": "200", "synchronous_commit": "on", "password_encryption": "scram-sha-256",
        "ssl_min_protocol_version": "TLSv1.3", "timezone": "UTC", "log_timezone": "UTC",
        "log_statement": "none", "log_min_duration_statement": "-1", "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0", "log_min_error_statement": "panic", "log_error_verbosity": "terse",
        "log_connections": "off", "log_disconnections": "off",
    })
}

/// What its pods need beyond what services may: each other, their operator, the API server that they tell how they are,
/// and the object store, whose address only the region's own ObjectStore knows.
#[must_use]
pub fn network(stack: &Stack) -> Value {
    let mut metadata = stack.metadata("postgres-instances", "network");
    metadata["namespace"] = json!(stack.namespace());
    let tcp = |ports: &[u16]| -> Value {
        ports
            .iter()
            .map(|port| json!({"protocol": "TCP", "port": port}))
            .collect()
    };
    let instances = json!({"podSelector": {"matchLabels": {COMPONENT_LABEL: NAME}}});
    let operator = json!({
        "namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "cloudnative-pg"}},
    });
    let egress = [
        json!({"to": [instances], "ports": tcp(&[5432, STATUS_PORT])}),
        // Neither is a pod, and host names a NetworkPolicy does not know.
        json!({"ports": tcp(&[443, 6443])}),
        super::network::dns(),
    ];
    json!({
        "apiVersion": NETWORK_POLICY.api_version(), "kind": NETWORK_POLICY.kind, "metadata": metadata,
        "spec": {
            "podSelector": {"matchLabels": {COMPONENT_LABEL: NAME}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [instances], "ports": tcp(&[5432, STATUS_PORT])},
                {"from": [operator], "ports": tcp(&[5432, STATUS_PORT])},
            ],
            "egress": egress,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::validate::example;
    use super::*;

    fn wanted() -> CloudNativePg {
        CloudNativePg {
            instances: 3,
            storage: "100Gi".to_owned(),
            image: None,
            resources: json!({}),
            object_store: Some("backups".to_owned()),
        }
    }

    #[test]
    fn nobody_is_superuser_and_nobody_comes_in_without_tls() {
        let spec = cluster(&example(), &wanted())["spec"].clone();
        assert_eq!(spec["enableSuperuserAccess"], false);
        assert_eq!(spec["managed"]["roles"][0]["superuser"], false);
        assert_eq!(spec["postgresql"]["pg_hba"][0], "hostnossl all all all reject");
        assert_eq!(spec["postgresql"]["parameters"]["log_min_error_statement"], "panic");
    }

    #[test]
    fn a_write_is_on_two_nodes_where_there_are_several() {
        let synchronous = |instances| {
            let wanted = CloudNativePg { instances, ..wanted() };
            cluster(&example(), &wanted)["spec"]["postgresql"]["synchronous"]["number"].clone()
        };
        assert_eq!((synchronous(3), synchronous(1)), (json!(1), Value::Null));
    }
}
