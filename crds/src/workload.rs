//! What FitnessRegion and RegionStack both say about how a region runs: its data plane and its services.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The services of a region; `services` may tune these and no other.
pub const SERVICES: [&str; 9] = [
    "keyring",
    "identity",
    "consent",
    "training",
    "telemetry",
    "social",
    "promotions",
    "replicator",
    "gateway",
];

/// A CEL rule: every key of the optional map `services` names a service.
pub(crate) fn services_are_known() -> String {
    let names: Vec<String> = SERVICES.iter().map(|name| format!("'{name}'")).collect();
    format!(
        "!has(self.services) || self.services.all(key, key in [{}])",
        names.join(", ")
    )
}

/// How a change reaches what runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// When a region that names no image gets another one.
    #[serde(default)]
    pub unnamed_image: UnnamedImage,
    /// Seconds in which a changed service must become available; past them the rollout halts.
    #[serde(default = "deadline_seconds")]
    #[schemars(range(min = 10, max = 3600))]
    pub deadline_seconds: u32,
}

/// The default of [`Rollout::deadline_seconds`].
pub const DEADLINE_SECONDS: u32 = 300;

const fn deadline_seconds() -> u32 {
    DEADLINE_SECONDS
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            unnamed_image: UnnamedImage::default(),
            deadline_seconds: DEADLINE_SECONDS,
        }
    }
}

/// When a region that names no image gets another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnnamedImage {
    /// When it names one: an upgrade of the operator restarts nothing.
    #[default]
    StaysInForce,
    /// When the region's operator is upgraded.
    FollowsOperator,
}

/// Where the region's data is kept and its events run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataPlane {
    /// PostgreSQL.
    #[serde(default)]
    pub postgres: Postgres,
    /// Kafka.
    #[serde(default)]
    pub kafka: Kafka,
}

/// PostgreSQL of a region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.mode != 'External' || (has(self.address) && has(self.networks) && size(self.networks) > 0 && has(self.connectionSecret))", "an External PostgreSQL needs address, networks and connectionSecret"),
    validation = ("!has(self.networks) || self.networks.all(network, !network.endsWith('/0'))", "networks are those of the PostgreSQL alone: /0 is everything"),
    validation = ("self.mode == oldSelf.mode", "the mode of PostgreSQL is immutable: data does not move by an edit; create another region and migrate the tenants")
)]
pub struct Postgres {
    /// Who runs it.
    #[serde(default)]
    pub mode: PostgresMode,
    /// Size of its volume, for example `10Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"))]
    pub storage: Option<String>,
    /// Of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Its image, where the platform's default does not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// CloudNativePG: how many, each on a node of its own; three when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub instances: Option<u32>,
    /// CloudNativePG: the ObjectStore (barmancloud.cnpg.io) in the region's namespace that WAL and base backups go to. Somebody
    /// in the region makes it, inside the same jurisdiction: neither its address nor its credentials reach the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub object_store: Option<String>,
    /// External: its host and port, inside the same jurisdiction. TLS is required, and its certificate must name that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 260),
        regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?:[1-9][0-9]{0,4}$")
    )]
    pub address: Option<String>,
    /// External: the networks in which it is, like `10.20.0.0/28`. Nothing else can be reached on its port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 49)))]
    pub networks: Vec<String>,
    /// External: the Secret in the region's namespace, made by who runs the region, with `username` and `password` of a role
    /// that may make roles and databases, and `ca.crt`, the CA of its certificate. It stays in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub connection_secret: Option<String>,
}

/// Who runs PostgreSQL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PostgresMode {
    /// The region's operator, inside the cluster: one instance.
    #[default]
    Embedded,
    /// Somebody else, inside the same jurisdiction.
    External,
    /// The CloudNativePG operator.
    CloudNativePG,
}

/// Kafka of a region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.mode != 'External' || has(self.bootstrap)", "an External Kafka needs bootstrap"),
    validation = ("self.mode == oldSelf.mode", "the mode of Kafka is immutable: events do not move by an edit; create another region and migrate the tenants")
)]
pub struct Kafka {
    /// Who runs it.
    #[serde(default)]
    pub mode: KafkaMode,
    /// Size of its volume, for example `10Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"))]
    pub storage: Option<String>,
    /// Partitions of the topics whose partitions no IngestPool decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub partitions: Option<u32>,
    /// Of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Its image, where the platform's default does not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// Strimzi: how many nodes, each on a machine of its own; three when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: Option<u32>,
    /// External: its addresses, inside the same jurisdiction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub bootstrap: Option<String>,
}

/// Who runs Kafka.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KafkaMode {
    /// The region's operator, inside the cluster: one broker.
    #[default]
    Embedded,
    /// Somebody else, inside the same jurisdiction.
    External,
    /// The Strimzi operator.
    Strimzi,
}

/// How one service runs. What is left out has the platform's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTuning {
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 500))]
    pub replicas: Option<u32>,
    /// Of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Its image, where it is not the region's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
}

/// Requests and limits of a container, in Kubernetes' own form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What is reserved, by resource: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, String>,
    /// What is never exceeded, by resource: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, String>,
}

fn quantities(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 8,
        "additionalProperties": {
            "type": "string",
            "maxLength": 32,
            "pattern": "^[0-9]+(\\.[0-9]+)?(m|Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"
        }
    })
}
