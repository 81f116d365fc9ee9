//! RegionStack: the compiled desired state of a region, as the hub writes it into the member. Cluster-scoped, named after
//! the region.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use meridian_policy::vocabulary::DataClass;
use meridian_policy::{CountryCode, EdgeId, Epoch, JurisdictionName, PolicyRevision, RegionName, RegionPolicy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;
use crate::evidence::EvidenceCheckpoint;
use crate::fitness_region::{DeletionPolicy, Endpoints};
use crate::workload::{DataPlane, Rollout, ServiceTuning, services_are_known};

/// The spec of a RegionStack.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.sh",
    version = "v1alpha1",
    kind = "RegionStack",
    shortname = "rstack",
    category = "meridian",
    status = "RegionStackStatus",
    doc = "The compiled desired state of one region. The hub writes it, the region's operator lays it down and reports public keys, opaque ids and counts back.",
    derive = "PartialEq",
    printcolumn(name = "JURISDICTION", type_ = "string", json_path = ".spec.jurisdiction"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "REVISION", type_ = "integer", json_path = ".spec.revision"),
    printcolumn(name = "APPLIED", type_ = "integer", json_path = ".status.appliedRevision"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("self.metadata.name == self.spec.region", "the resource is named after its region")
)]
#[serde(rename_all = "camelCase")]
// A newer hub may say what this version does not know: kept, and ignored outside of edges (docs/adr/0013).
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(
    validation = ("self.revision >= oldSelf.revision", "revision never decreases"),
    validation = ("self.epochFloor >= oldSelf.epochFloor", "epochFloor never decreases"),
    validation = ("self.jurisdiction == oldSelf.jurisdiction", "jurisdiction is immutable"),
    validation = (services_are_known().as_str(), "services tunes something that is not a service")
)]
pub struct RegionStackSpec {
    /// The region.
    pub region: RegionName,
    /// Whose law holds.
    pub jurisdiction: JurisdictionName,
    /// The image of all services. Left out, the one in force stays in force; see `rollout.unnamedImage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// How a change reaches what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Host name of the public certificate.
    #[schemars(length(min = 1, max = 253))]
    pub public_host: String,
    /// Where athletes reach it.
    #[schemars(length(min = 1, max = 512))]
    pub public_url: String,
    /// Where other regions' replicators reach it.
    #[schemars(length(min = 1, max = 512))]
    pub peer_url: String,
    /// The countries whose athletes it serves.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub countries_served: Vec<CountryCode>,
    /// Where data is kept and events run.
    #[serde(default)]
    pub data_plane: DataPlane,
    /// How each service runs, where the defaults do not fit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub services: BTreeMap<String, ServiceTuning>,
    /// Change nothing that runs. The policy is still obeyed.
    #[serde(default)]
    pub paused: bool,
    /// What becomes of what was laid down when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The compiled policy of the region. Its form is meridian-policy's: the API server keeps what it does not know. A
    /// region that says so in `status.policyForms` gets it packed (docs/adr/0014).
    #[schemars(schema_with = "any_object")]
    pub policy: RegionPolicy,
    /// Of the policy. It only grows.
    pub revision: PolicyRevision,
    /// The first epoch of a tenant that moves in: above those of all that have left. It only grows.
    #[serde(default)]
    pub epoch_floor: Epoch,
    /// While the region's CA is rotated: the peers that verify it by what `status.caBundle` says, each with a digest of that.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "digests_by_region")]
    pub trusted_by: BTreeMap<RegionName, String>,
}

/// The status of a RegionStack.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegionStackStatus {
    /// Ready, Reconciling, Stalled, DataPlaneReady, ServicesReady, ResidencyEnforced; AuthorityRotating while its CA is rotated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The revision of the policy that every service here obeys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_revision: Option<PolicyRevision>,
    /// The forms in which the region's operator reads the policy, beside the plain one: `packed` (docs/adr/0014).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 32)))]
    pub policy_forms: Vec<String>,
    /// Whether the region's namespace is there, so that placements can be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_ready: Option<bool>,
    /// What was rolled out last to the end: what stays in force where the spec names nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<StackImages>,
    /// The change that is being rolled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutProgress>,
    /// The region's own CA, PEM: what other regions verify it by. Two while it is rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65_536))]
    pub ca_bundle: Option<String>,
    /// The public keys that sign its athletes' tokens (RFC 7517).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_optional_object")]
    pub jwks: Option<serde_json::Value>,
    /// Where it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// What was done about edges that were cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512))]
    pub acks: Vec<Ack>,
    /// The last checkpoint of each chain of evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["chain".into()]))]
    pub evidence: Vec<EvidenceCheckpoint>,
    /// What waits to leave, as the region counted it last. None: it has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<StackBacklog>,
    /// What the verifier found last. None: it has not looked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<StackVerified>,
    /// Counts, by name. Never anything about one person.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub counts: BTreeMap<String, i64>,
}

/// The images of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StackImages {
    /// Of all services.
    #[schemars(length(max = 512))]
    pub meridian: String,
    /// Of PostgreSQL.
    #[schemars(length(max = 512))]
    pub postgres: String,
    /// Of Kafka.
    #[schemars(length(max = 512))]
    pub kafka: String,
}

/// How far a change is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutProgress {
    /// Digest of what is rolled out.
    #[schemars(length(max = 64))]
    pub change: String,
    /// The service that gets it first, alone.
    #[schemars(length(max = 63))]
    pub canary: String,
}

/// What is in the region's databases and topics, as the verifier found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StackVerified {
    /// The policy that they were held against.
    pub revision: PolicyRevision,
    /// When.
    #[schemars(length(max = 64))]
    pub at: String,
    /// Tables looked at.
    pub tables: u64,
    /// Rows counted.
    pub rows: u64,
    /// Records of topics looked at. A verifier of a release before looks at none.
    #[serde(default)]
    pub records: u64,
    /// What should not be there, in all.
    pub violations: u64,
    /// The first of it.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub found: Vec<StackViolation>,
}

/// Something in a region's databases or topics that should not be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StackViolation {
    /// What was looked for.
    #[schemars(length(max = 63))]
    pub check: String,
    /// Where: a table, a topic, a role, a setting.
    #[schemars(length(max = 256))]
    pub place: String,
    /// Of whom or by what: a tenant, an edge, a role. Opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub of: Option<String>,
    /// The classes of what is there.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub classes: Vec<DataClass>,
    /// How many rows or things.
    pub count: u64,
    /// When it was first found.
    #[schemars(length(max = 64))]
    pub since: String,
}

/// Copies that wait to leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StackBacklog {
    /// Over all edges.
    pub waiting: u64,
    /// The edges with most. One that is not listed while others are left out has at most as many as the least of these.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub edges: Vec<EdgeBacklog>,
}

/// Copies that wait to leave along one edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeBacklog {
    /// The edge.
    pub edge: EdgeId,
    /// How many.
    pub waiting: u64,
}

/// An acknowledged cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ack {
    /// The edge.
    pub edge: EdgeId,
    /// Who acknowledges.
    pub role: AckRole,
    /// The revision that was applied.
    pub revision: PolicyRevision,
    /// How many copies were purged.
    pub purged: u64,
    /// Where they were purged from.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub sinks: Vec<String>,
}

/// The side of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AckRole {
    /// No delivery starts any more.
    Exporter,
    /// The copies are gone.
    Importer,
}

fn digests_by_region(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object", "maxProperties": 256, "additionalProperties": { "type": "string", "maxLength": 64 }
    })
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn any_optional_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": ["object", "null"], "x-kubernetes-preserve-unknown-fields": true })
}
