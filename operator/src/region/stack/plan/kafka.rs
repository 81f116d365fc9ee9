//! Kafka, embedded: one KRaft node that has each record on the disk before it acknowledges it. It takes nobody without a
//! certificate of the region's CA, and lets each do what [`super::access`] says.
//!
//! A region whose services were started by a release before speaks to it in clear until the last of them is replaced:
//! [`Stack::kafka_in_clear`].

use super::super::validate::Stack;
use super::Material;
use super::pods::{DATA_USER, Pod, TLS_DIR, config_volume, env, mount, resources, scratch, secret_volume, template};
use super::postgres::stateful;
use crate::apply::digest;
use crate::manifest::CONFIG_MAP;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Its name, whoever runs it.
pub const NAME: &str = "kafka";
const CERTIFICATE: &str = "tls-kafka";
/// Its ConfigMap.
pub const CONFIG: &str = "kafka-config";
const PROPERTIES: &str = "server.properties";
/// Name of its port for services of a release before.
pub const IN_CLEAR: &str = "in-clear";
/// That port.
pub const PORT_IN_CLEAR: u16 = 9092;
/// How a listener in clear begins, in the properties of this release and of those before.
const LISTENER_IN_CLEAR: &str = "CLIENT://:9092";

/// The identity is the common name, `tls-<component>`, that the region's CA alone can give. Any other certificate is refused.
pub(super) const PRINCIPAL: &str = "RULE:^CN=tls-([a-z-]+),O=Meridian$/$1/";
/// Who keeps the access control lists, and may do everything for that.
pub(super) const KEEPS_ACCESS: &str = "region-operator";

/// The broker's settings. It advertises the name that resolves in every namespace, since the operator reads lag too.
///
/// The broker and the operator may do everything: the one forwards to its own controller, the other keeps the lists.
pub(super) fn properties(stack: &Stack) -> String {
    let namespace = stack.namespace();
    let (listeners, advertised, protocols, nobody) = if stack.kafka_in_clear {
        (
            format!(",{LISTENER_IN_CLEAR}"),
            format!(",CLIENT://kafka.{namespace}.svc:{PORT_IN_CLEAR}"),
            ",CLIENT:PLAINTEXT",
            ";User:ANONYMOUS",
        )
    } else {
        (String::new(), String::new(), "", "")
    };
    format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@localhost:9093
listeners=SERVICES://:9094,CONTROLLER://localhost:9093{listeners}
advertised.listeners=SERVICES://kafka.{namespace}.svc:9094{advertised}
listener.security.protocol.map=SERVICES:SSL,CONTROLLER:SSL{protocols}
inter.broker.listener.name=SERVICES
controller.listener.names=CONTROLLER
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:kafka;User:{KEEPS_ACCESS}{nobody}
{tls}ssl.client.auth=required
ssl.principal.mapping.rules={PRINCIPAL}
# The controller listens on loopback, where there is no name to be wrong about.
listener.name.controller.ssl.endpoint.identification.algorithm=
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
        tls = tls_properties(),
    )
}

/// The certificate, read from its Secret's files when a process starts.
fn tls_properties() -> String {
    let file = |name: &str| format!("${{dir:{TLS_DIR}:{name}}}");
    format!(
        "\
config.providers=dir
config.providers.dir.class=org.apache.kafka.common.config.provider.DirectoryConfigProvider
ssl.enabled.protocols=TLSv1.3
ssl.protocol=TLSv1.3
ssl.keystore.type=PEM
ssl.keystore.key={key}
ssl.keystore.certificate.chain={certificate}
ssl.truststore.type=PEM
ssl.truststore.certificates={ca}
",
        key = file("tls.key"),
        certificate = file("tls.crt"),
        ca = file("ca.crt"),
    )
}

/// What Kafka's own tools are given in the broker's container (`--command-config /etc/meridian/tools.properties`): they
/// come from loopback, as the broker.
fn tools() -> String {
    let tls = tls_properties();
    format!("security.protocol=SSL\n{tls}ssl.endpoint.identification.algorithm=\n")
}

/// Whether an observed ConfigMap has the broker take whoever comes.
#[must_use]
pub fn is_in_clear(config: &Value) -> bool {
    let properties = config["data"][PROPERTIES].as_str().unwrap_or_default();
    properties.contains(LISTENER_IN_CLEAR)
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
        "data": {PROPERTIES: properties(stack), "tools.properties": tools()},
    })
}

/// Its StatefulSet. Kafka reads its certificate and what it trusts when it starts, so a renewal restarts it, and each step
/// of a rotation of the CA: it must trust the new one before anybody comes with a certificate of it.
#[must_use]
pub fn workload(stack: &Stack, material: &Material) -> Value {
    let probe = |period: u32, failures: u32| json!({"tcpSocket": {"port": NAME}, "periodSeconds": period, "timeoutSeconds": 2, "failureThreshold": failures});
    let mut ports = vec![json!({"name": NAME, "containerPort": 9094, "protocol": "TCP"})];
    if stack.kafka_in_clear {
        ports.push(json!({"name": IN_CLEAR, "containerPort": PORT_IN_CLEAR, "protocol": "TCP"}));
    }
    let read = json!([
        properties(stack),
        material.digest_of(CERTIFICATE),
        material.ca_certificate
    ]);
    let container = json!({
        "name": NAME, "image": stack.images.kafka,
        "ports": ports,
        "env": [
            env("KAFKA_CONFIG", "/etc/meridian/server.properties"), env("KAFKA_CLUSTER_ID", &cluster_id(stack)),
            env("KAFKA_HEAP_OPTS", "-Xms96m -Xmx384m"),
        ],
        "resources": resources("50m", ("384Mi", "768Mi")),
        "readinessProbe": probe(3, 3), "livenessProbe": probe(15, 6), "startupProbe": probe(2, 150),
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/kafka"}, {"name": "tmp", "mountPath": "/tmp"}, mount("config", "/etc/meridian"),
            mount("tls", TLS_DIR),
        ],
    });
    let pod = Pod {
        name: NAME,
        component: NAME,
        user: DATA_USER,
        config_digest: digest(&read).chars().take(16).collect(),
        container,
        volumes: vec![
            config_volume("config", CONFIG),
            secret_volume("tls", CERTIFICATE),
            scratch("tmp", "64Mi"),
        ],
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
    fn nobody_is_let_in_without_a_certificate_and_nobody_without_a_right_does_anything() {
        let properties = properties(&example());
        for line in [
            "listeners=SERVICES://:9094,CONTROLLER://localhost:9093\n",
            "listener.security.protocol.map=SERVICES:SSL,CONTROLLER:SSL\n",
            "ssl.client.auth=required\n",
            "allow.everyone.if.no.acl.found=false\n",
            "super.users=User:kafka;User:region-operator\n",
        ] {
            assert!(properties.contains(line), "{line}");
        }
        assert!(!properties.contains("PLAINTEXT") && !properties.contains("ANONYMOUS"));
    }

    #[test]
    fn a_broker_in_clear_is_told_from_one_that_asks_for_certificates() {
        let clear = Stack {
            kafka_in_clear: true,
            ..example()
        };
        assert!(is_in_clear(&config(&clear)) && !is_in_clear(&config(&example())));
        let before = json!({"data": {"server.properties": "listeners=CLIENT://:9092,CONTROLLER://localhost:9093\n"}});
        assert!(is_in_clear(&before) && !is_in_clear(&json!({})));
    }

    #[test]
    fn kafka_starts_anew_for_another_certificate_and_for_another_ca_to_trust() {
        let digest = |material: &Material| {
            let workload = workload(&example(), material);
            workload["spec"]["template"]["metadata"]["annotations"].to_string()
        };
        let renewed = Material {
            digests: [(CERTIFICATE.to_owned(), "other".to_owned())].into(),
            ..Material::default()
        };
        let staged = Material {
            ca_certificate: "two".to_owned(),
            ..Material::default()
        };
        let all = [digest(&Material::default()), digest(&renewed), digest(&staged)];
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
    }

    #[test]
    fn a_regions_cluster_id_never_changes() {
        assert_eq!(cluster_id(&example()), cluster_id(&example()));
        assert_eq!(URL_SAFE_NO_PAD.decode(cluster_id(&example())).unwrap().len(), 16);
    }
}
