//! FitnessRegion: one jurisdiction's clusters and what runs in them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use meridian_policy::{CountryCode, JurisdictionName, PartyName, PolicyRevision, bounds};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closing::ClosingEdge;
use crate::evidence::{EvidenceCheckpoint, EvidenceContradiction};
use crate::workload::{DataPlane, Rollout, ServiceTuning, services_are_known};
use crate::{ApprovalStatus, Condition};

/// The spec of a FitnessRegion.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.sh",
    version = "v1alpha1",
    kind = "FitnessRegion",
    shortname = "fr",
    category = "meridian",
    status = "FitnessRegionStatus",
    doc = "A region: one or more member clusters inside one jurisdiction, and the stack of services that runs in them.",
    derive = "PartialEq",
    printcolumn(name = "JURISDICTION", type_ = "string", json_path = ".spec.jurisdiction"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "CLUSTERS", type_ = "string", json_path = ".status.clustersReachable"),
    printcolumn(name = "REVISION", type_ = "integer", json_path = ".status.appliedRevision"),
    printcolumn(name = "APPROVED", type_ = "string", json_path = ".status.conditions[?(@.type==\"Approved\")].status", priority = 1),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.gateway.publicUrl", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("size(self.metadata.name) <= 40", "the name of a region has at most 40 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.jurisdiction == oldSelf.jurisdiction", "jurisdiction is immutable: data does not change its law by an edit; create another region and migrate the tenants"),
    validation = ("self.clusters.exists_one(c, c.role == 'Primary')", "exactly one cluster has the role Primary"),
    validation = ("self.clusters.filter(c, c.role == 'Primary').map(c, c.name) == oldSelf.clusters.filter(c, c.role == 'Primary').map(c, c.name)", "the primary cluster's name is immutable: the region's data is there; create another region and migrate the tenants"),
    validation = (services_are_known().as_str(), "services tunes something that is not a service")
)]
pub struct FitnessRegionSpec {
    /// Whose law holds here.
    pub jurisdiction: JurisdictionName,
    /// The legal entity that runs the region: the importer of every edge that leads here.
    pub operated_by: PartyName,
    /// The countries whose athletes it serves.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub countries_served: Vec<CountryCode>,
    /// The clusters, all inside the jurisdiction.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub clusters: Vec<ClusterMember>,
    /// Where athletes and other regions reach it.
    pub gateway: Gateway,
    /// Where data is kept and events run.
    #[serde(default)]
    pub data_plane: DataPlane,
    /// How each service runs, where the defaults do not fit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub services: BTreeMap<String, ServiceTuning>,
    /// The image of all services. Left out, the one in force stays in force; see `rollout.unnamedImage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// How a change reaches what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Change nothing in the members. Leases go on, so revocations still apply.
    #[serde(default)]
    pub paused: bool,
    /// What happens to the stack when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl FitnessRegionSpec {
    /// The cluster where writes happen: the one that the hub writes the region into.
    #[must_use]
    pub fn primary(&self) -> Option<&ClusterMember> {
        self.clusters
            .iter()
            .find(|cluster| cluster.role == ClusterRole::Primary)
    }
}

/// A cluster of the region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMember {
    /// Its name, a DNS label.
    #[schemars(length(min = 1, max = 40), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Where writes happen, or a hot standby of it.
    pub role: ClusterRole,
    /// How the hub reaches it.
    pub kubeconfig_secret: KubeconfigSecret,
    /// The country in which it stands. A cluster whose nodes say otherwise is refused.
    pub country: CountryCode,
}

/// What a cluster is to its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClusterRole {
    /// Where writes happen.
    Primary,
    /// A hot standby inside the same jurisdiction.
    Standby,
}

/// A Secret in the operator's namespace that holds a kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeconfigSecret {
    /// Of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub name: String,
    /// In the Secret.
    #[serde(default = "kubeconfig")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn kubeconfig() -> String {
    "kubeconfig".to_owned()
}

/// Where a region is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Host name of the public certificate.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub host: String,
    /// Where athletes reach it. Its tokens carry this as `iss`.
    #[schemars(
        length(min = 9, max = 512),
        regex(pattern = r"^https://[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?$")
    )]
    pub public_url: String,
    /// Where other regions' replicators reach it.
    #[schemars(
        length(min = 9, max = 512),
        regex(pattern = r"^https://[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?$")
    )]
    pub peer_url: String,
}

/// What happens to the stack when its FitnessRegion is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It goes on running, on its own.
    #[default]
    Retain,
    /// It is removed, data included.
    Delete,
}

/// The status of a FitnessRegion.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FitnessRegionStatus {
    /// Ready, Reconciling, Stalled, ClustersReachable, DataPlaneReady, ServicesReady, ResidencyEnforced, InstrumentsCurrent,
    /// EvidenceConsistent, Degraded; Removable once it is deleted, AuthorityRotating while its CA is rotated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Reachable clusters of all clusters, for example `1/1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub clusters_reachable: Option<String>,
    /// Each cluster as it was last seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub clusters: Vec<ClusterState>,
    /// Once it is deleted: the edges that are closed for it. None is closed before this is written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub closing: Option<Vec<ClosingEdge>>,
    /// The revision that was written into the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<PolicyRevision>,
    /// The revision that the primary has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_revision: Option<PolicyRevision>,
    /// Where it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// The furthest checkpoint of each chain of the region's evidence that contradicts none before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["chain".into()]))]
    pub evidence: Vec<EvidenceCheckpoint>,
    /// Of each chain that contradicts its checkpoint in `evidence`, the first that did; kept until a person has accepted it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["chain".into()]))]
    pub evidence_contradicted: Vec<EvidenceContradiction>,
    /// How far it is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalStatus<ApprovedRegion>>,
}

/// What of a region decides about edges, and so has to be approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovedRegion {
    /// Whose law holds there.
    pub jurisdiction: JurisdictionName,
    /// The legal entity that runs it.
    pub operated_by: PartyName,
}

/// A cluster as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterState {
    /// Which.
    #[schemars(length(max = 40))]
    pub name: String,
    /// Whether it answers.
    pub reachable: bool,
    /// Kubernetes' version there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version: Option<String>,
    /// What is wrong, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// When `reachable` changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::optional_timestamp")]
    pub since: Option<Timestamp>,
}

/// Where a region is reached, as it was observed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// By athletes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub public: Option<String>,
    /// By other regions' replicators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub peer: Option<String>,
}
