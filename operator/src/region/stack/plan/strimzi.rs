//! Kafka by the Strimzi operator: nodes on different machines, each broker and controller. What services find is as when it
//! is embedded: Service `kafka`, a certificate of the region's CA, and the same promises about records.
//!
//! Topics are made by the services, identities are the region's certificates, and the region's operator keeps the access
//! control lists: there is nothing for Strimzi's Topic and User Operators to do, and they are not asked for.

use super::super::data_plane::Strimzi;
use super::super::validate::Stack;
use super::components::{COMPONENT_LABEL, COMPONENTS};
use super::foundation::TRUST;
use super::pods::{CONFIG_ANNOTATION, mount};
use super::{kafka, network};
use crate::apply::digest;
use crate::manifest::{KAFKA_CLUSTER, KAFKA_NODE_POOL, NETWORK_POLICY, SERVICE};
use serde_json::{Map, Value, json};

const NAME: &str = "kafka";
const POOL: &str = "node";
/// Secret with the certificate that clients see.
const CERTIFICATE: &str = "tls-kafka";
/// Where clients come in.
const PORT: u16 = 9094;
/// Controllers among themselves, brokers among themselves, and the agent that tells the operator how a node is.
const INNER_PORTS: [u16; 3] = [9090, 9091, 8443];
const TRUST_DIR: &str = "/mnt/region-trust";

/// Settings of the embedded broker that are about its one node, or that Strimzi makes itself and lets nobody set.
const NOT_SHARED: &[&str] = &[
    "process.roles",
    "node.id",
    "controller.",
    "listeners",
    "listener.",
    "advertised.",
    "inter.broker.",
    "log.dir",
    "config.providers",
    "ssl.",
    "sasl.",
    "security.",
    "authorizer.",
    "super.user",
    "principal.",
    "allow.everyone.",
    "log.cleaner.dedupe.buffer.size",
];

/// The names of its nodes, as they advertise themselves.
#[must_use]
pub fn node_names(stack: &Stack, wanted: &Strimzi) -> Vec<String> {
    let of = |node: u32| format!("{NAME}-{POOL}-{node}.{NAME}-kafka-brokers.{}.svc", stack.namespace());
    (0..wanted.replicas).map(of).collect()
}

fn metadata(stack: &Stack, name: &str) -> Value {
    let mut metadata = stack.metadata(name, "data-plane");
    metadata["namespace"] = json!(stack.namespace());
    metadata
}

/// The Kafka resource. A broker reads whom it trusts when it starts, so it starts anew when that changes.
#[must_use]
pub fn cluster(stack: &Stack, wanted: &Strimzi, trusted: &str) -> Value {
    let mut kafka = json!({
        "listeners": [listener()],
        // Strimzi's own components are added by itself, under the names that its own CA gives them.
        "authorization": {"type": "simple", "superUsers": [kafka::KEEPS_ACCESS]},
        "config": config(stack, wanted.replicas),
        "template": {
            "pod": {
                "metadata": {
                    "labels": {COMPONENT_LABEL: NAME},
                    "annotations": {CONFIG_ANNOTATION: short(&json!(trusted))},
                },
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "affinity": apart(),
                "volumes": [{"name": "region-trust", "configMap": {"name": TRUST}}],
            },
            "kafkaContainer": {
                "securityContext": {
                    "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "volumeMounts": [mount("region-trust", TRUST_DIR)],
            },
        },
    });
    if let Some(image) = &wanted.image {
        kafka["image"] = json!(image);
    }
    json!({
        "apiVersion": KAFKA_CLUSTER.api_version(), "kind": KAFKA_CLUSTER.kind, "metadata": metadata(stack, NAME),
        "spec": {"kafka": kafka},
    })
}

fn short(of: &Value) -> String {
    digest(of).chars().take(16).collect()
}

/// Clients show a certificate of the region's CA, and see one. Strimzi makes a NetworkPolicy of its own for a listener, which
/// lets everybody in where it is told of nobody.
fn listener() -> Value {
    let callers = COMPONENTS.iter().filter(|c| c.calls.contains(&NAME)).map(|c| c.name);
    let mut peers = network::pods_of(callers);
    peers.push(network::operator());
    json!({
        "name": "client", "port": PORT, "type": "internal", "tls": true,
        "authentication": {"type": "custom", "sasl": false, "listenerConfig": {
            "ssl.client.auth": "required", "ssl.truststore.type": "PEM",
            "ssl.truststore.location": format!("{TRUST_DIR}/ca.crt"), "ssl.principal.mapping.rules": kafka::PRINCIPAL,
        }},
        "configuration": {
            "brokerCertChainAndKey": {"secretName": CERTIFICATE, "certificate": "tls.crt", "key": "tls.key"},
        },
        "networkPolicyPeers": peers,
    })
}

/// What the embedded broker promises, and on top of it that an acknowledged record is on two nodes, where there are two.
fn config(stack: &Stack, replicas: u32) -> Map<String, Value> {
    let (copies, acknowledged) = (replicas.min(3), replicas.min(2));
    let properties = kafka::properties(stack);
    let shared = properties
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| !key.starts_with('#') && !NOT_SHARED.iter().any(|not| key.starts_with(not)))
        .map(|(key, value)| (key.to_owned(), json!(value)));
    let replicated = [
        ("default.replication.factor", copies),
        ("min.insync.replicas", acknowledged),
        ("offsets.topic.replication.factor", copies),
        ("transaction.state.log.replication.factor", copies),
        ("transaction.state.log.min.isr", acknowledged),
    ];
    let replicated = replicated.map(|(key, count)| (key.to_owned(), json!(count.to_string())));
    let mut config: Map<String, Value> = shared.chain(replicated).collect();
    config.insert("ssl.enabled.protocols".to_owned(), json!("TLSv1.3"));
    config.insert("ssl.protocol".to_owned(), json!("TLSv1.3"));
    config
}

/// No two nodes on one machine: what is on two nodes is on two disks.
fn apart() -> Value {
    json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{
        "labelSelector": {"matchLabels": {COMPONENT_LABEL: NAME}}, "topologyKey": "kubernetes.io/hostname",
    }]}})
}

/// The nodes. Their volumes outlive them.
#[must_use]
pub fn nodes(stack: &Stack, wanted: &Strimzi) -> Value {
    let mut metadata = metadata(stack, POOL);
    metadata["labels"]["strimzi.io/cluster"] = json!(NAME);
    metadata["annotations"] = json!({"strimzi.io/next-node-ids": "[0-99]"});
    json!({
        "apiVersion": KAFKA_NODE_POOL.api_version(), "kind": KAFKA_NODE_POOL.kind, "metadata": metadata,
        "spec": {
            "replicas": wanted.replicas, "roles": ["controller", "broker"], "resources": wanted.resources,
            "storage": {"type": "jbod", "volumes": [{
                "id": 0, "type": "persistent-claim", "size": wanted.storage, "deleteClaim": false, "kraftMetadata": "shared",
            }]},
        },
    })
}

/// The name under which services find it.
#[must_use]
pub fn address(stack: &Stack) -> Value {
    json!({
        "apiVersion": SERVICE.api_version(), "kind": SERVICE.kind, "metadata": metadata(stack, NAME),
        "spec": {
            "type": "ClusterIP", "selector": {"strimzi.io/cluster": NAME, "strimzi.io/broker-role": "true"},
            "ports": [{"name": NAME, "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
        },
    })
}

/// What its nodes need beyond what their clients do: each other, and their operator.
#[must_use]
pub fn network(stack: &Stack) -> Value {
    let mut metadata = stack.metadata("kafka-nodes", "network");
    metadata["namespace"] = json!(stack.namespace());
    let ports: Vec<Value> = INNER_PORTS
        .map(|port| json!({"protocol": "TCP", "port": port}))
        .to_vec();
    let nodes = json!({"podSelector": {"matchLabels": {COMPONENT_LABEL: NAME}}});
    let operator = json!({
        "namespaceSelector": {}, "podSelector": {"matchLabels": {"strimzi.io/kind": "cluster-operator"}},
    });
    json!({
        "apiVersion": NETWORK_POLICY.api_version(), "kind": NETWORK_POLICY.kind, "metadata": metadata,
        "spec": {
            "podSelector": {"matchLabels": {COMPONENT_LABEL: NAME}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [nodes, operator], "ports": ports}],
            "egress": [{"to": [nodes], "ports": ports}, network::dns()],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::validate::example;
    use super::*;

    fn wanted(replicas: u32) -> Strimzi {
        Strimzi {
            replicas,
            storage: "100Gi".to_owned(),
            image: None,
            resources: json!({}),
        }
    }

    fn setting(replicas: u32, key: &str) -> String {
        let cluster = cluster(&example(), &wanted(replicas), "");
        let value = cluster["spec"]["kafka"]["config"][key].as_str();
        value.unwrap_or_default().to_owned()
    }

    #[test]
    fn it_promises_what_the_embedded_broker_promises() {
        let embedded = kafka::properties(&example());
        for key in [
            "auto.create.topics.enable",
            "unclean.leader.election.enable",
            "log.flush.interval.messages",
            "log.retention.hours",
            "offsets.retention.minutes",
        ] {
            let line = format!("{key}={}\n", setting(3, key));
            assert!(embedded.contains(&line), "{line}");
        }
    }

    #[test]
    fn an_acknowledged_record_is_on_two_nodes_where_there_are_two() {
        let of = |replicas| {
            (
                setting(replicas, "default.replication.factor"),
                setting(replicas, "min.insync.replicas"),
            )
        };
        assert_eq!(of(1), ("1".to_owned(), "1".to_owned()));
        assert_eq!(of(3), ("3".to_owned(), "2".to_owned()));
        assert_eq!(of(5), ("3".to_owned(), "2".to_owned()));
    }

    #[test]
    fn strimzi_is_not_told_what_it_lets_nobody_set() {
        let cluster = cluster(&example(), &wanted(3), "");
        let config = cluster["spec"]["kafka"]["config"].as_object().unwrap();
        for forbidden in [
            "listeners",
            "node.id",
            "process.roles",
            "log.dirs",
            "advertised.listeners",
            "controller.quorum.voters",
            "config.providers",
            "authorizer.class.name",
            "super.users",
        ] {
            assert!(!config.contains_key(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn nobody_comes_in_without_a_certificate_of_the_region_and_nobody_but_who_calls_it() {
        let listener = &cluster(&example(), &wanted(3), "")["spec"]["kafka"]["listeners"][0];
        assert_eq!(listener["tls"], true);
        assert_eq!(
            listener["authentication"]["listenerConfig"]["ssl.client.auth"],
            "required"
        );
        let peers = listener["networkPolicyPeers"].to_string();
        assert!(
            peers.contains("telemetry-writer") && !peers.contains("gateway"),
            "{peers}"
        );
    }

    #[test]
    fn each_is_who_its_certificate_says_and_only_who_keeps_the_lists_may_do_everything() {
        let cluster = cluster(&example(), &wanted(3), "");
        let kafka = &cluster["spec"]["kafka"];
        let embedded = kafka::properties(&example());
        let rule = kafka["listeners"][0]["authentication"]["listenerConfig"]["ssl.principal.mapping.rules"].as_str();
        let line = format!("ssl.principal.mapping.rules={}\n", rule.unwrap_or_default());
        assert!(embedded.contains(&line), "{line}");
        assert_eq!(
            kafka["authorization"],
            json!({"type": "simple", "superUsers": ["region-operator"]})
        );
    }

    #[test]
    fn a_broker_starts_anew_when_the_region_trusts_another_authority() {
        let template = |trusted: &str| cluster(&example(), &wanted(3), trusted)["spec"]["kafka"]["template"].clone();
        assert_ne!(template("one"), template("one and another"));
        assert_eq!(template("one"), template("one"));
    }

    #[test]
    fn a_node_is_called_as_it_advertises_itself() {
        let names = node_names(&example(), &wanted(2));
        assert_eq!(
            names.last().unwrap(),
            "kafka-node-1.kafka-kafka-brokers.meridian-eu.svc"
        );
    }
}
