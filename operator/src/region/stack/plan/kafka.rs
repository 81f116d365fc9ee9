//! Kafka, embedded: one KRaft node that has each record on the disk before it acknowledges it.

use super::super::validate::Stack;
use super::pods::{DATA_USER, Pod, config_volume, env, mount, resources, scratch, template};
use super::postgres::stateful;
use crate::apply::digest;
use crate::manifest::CONFIG_MAP;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const NAME: &str = "kafka";
const CONFIG: &str = "kafka-config";

/// The broker's settings. It advertises the name that resolves in every namespace, since the operator reads lag too.
fn properties(stack: &Stack) -> String {
    format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@localhost:9093
listeners=CLIENT://:9092,CONTROLLER://localhost:9093
advertised.listeners=CLIENT://kafka.{namespace}.svc:9092
listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENT
controller.listener.names=CONTROLLER
log.dirs=/var/lib/kafka/data
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
unclean.leader.election.enable=false
# With one node there is no replica to rely on: flushed to the disk before it is acknowledged.
log.flush.interval.messages=1
log.retention.hours=2160
offsets.retention.minutes=129600
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=4194304
",
        namespace = stack.namespace()
    )
}

/// 16 bytes that stay the same for a region for ever.
fn cluster_id(stack: &Stack) -> String {
    let hash = Sha256::digest(format!("meridian kafka {}", stack.region));
    URL_SAFE_NO_PAD.encode(hash.get(..16).unwrap_or_default())
}

/// Its ConfigMap.
#[must_use]
pub fn config(stack: &Stack) -> Value {
    let mut metadata = stack.metadata(CONFIG, "data-plane");
    metadata["namespace"] = json!(stack.namespace());
    json!({
        "apiVersion": CONFIG_MAP.api_version(), "kind": CONFIG_MAP.kind, "metadata": metadata,
        "data": {"server.properties": properties(stack)},
    })
}

/// Its StatefulSet.
#[must_use]
pub fn workload(stack: &Stack) -> Value {
    let probe = |period: u32, failures: u32| json!({"tcpSocket": {"port": NAME}, "periodSeconds": period, "timeoutSeconds": 2, "failureThreshold": failures});
    let container = json!({
        "name": NAME, "image": stack.images.kafka,
        "ports": [{"name": NAME, "containerPort": 9092, "protocol": "TCP"}],
        "env": [
            env("KAFKA_CONFIG", "/etc/meridian/server.properties"), env("KAFKA_CLUSTER_ID", &cluster_id(stack)),
            env("KAFKA_HEAP_OPTS", "-Xms96m -Xmx384m"),
        ],
        "resources": resources("50m", ("384Mi", "768Mi")),
        "readinessProbe": probe(3, 3), "livenessProbe": probe(15, 6), "startupProbe": probe(2, 150),
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/kafka"}, {"name": "tmp", "mountPath": "/tmp"}, mount("config", "/etc/meridian"),
        ],
    });
    let pod = Pod {
        name: NAME,
        component: NAME,
        user: DATA_USER,
        config_digest: digest(&json!(properties(stack))).chars().take(16).collect(),
        container,
        volumes: vec![config_volume("config", CONFIG), scratch("tmp", "64Mi")],
        grace_seconds: 60,
    };
    stateful(stack, NAME, "data-plane", "10Gi", template(stack, pod))
}

#[cfg(test)]
mod tests {
    use super::super::super::validate::example;
    use super::*;

    #[test]
    fn a_record_is_on_the_disk_before_it_is_acknowledged_and_topics_are_never_made_by_accident() {
        let properties = properties(&example());
        assert!(properties.contains("log.flush.interval.messages=1\n"));
        assert!(properties.contains("auto.create.topics.enable=false\n"));
    }

    #[test]
    fn a_regions_cluster_id_never_changes() {
        assert_eq!(cluster_id(&example()), cluster_id(&example()));
        assert_eq!(URL_SAFE_NO_PAD.decode(cluster_id(&example())).unwrap().len(), 16);
    }
}
