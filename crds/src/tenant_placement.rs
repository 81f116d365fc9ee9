//! TenantPlacement: a tenant in a member, only where it has its home or an edge. In the namespace `meridian-<region>`.

use kube::{CustomResource, KubeSchema};
use meridian_policy::{CompiledEdge, Epoch, OrganizationName, PolicyRevision, RegionName, TenantId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Condition;

/// The spec of a TenantPlacement.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.sh",
    version = "v1alpha1",
    kind = "TenantPlacement",
    namespaced,
    shortname = "tplace",
    category = "meridian",
    status = "TenantPlacementStatus",
    doc = "A tenant as one member knows it: its home, the epoch that writes must carry, and the edges that leave from here.",
    derive = "PartialEq",
    printcolumn(name = "HOME", type_ = "string", json_path = ".spec.home"),
    printcolumn(name = "EPOCH", type_ = "integer", json_path = ".spec.epoch"),
    printcolumn(name = "REVISION", type_ = "integer", json_path = ".spec.revision"),
    printcolumn(name = "FENCED", type_ = "integer", json_path = ".status.fencedEpoch"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("self.metadata.name == self.spec.tenant", "the resource is named after its tenant")
)]
#[serde(rename_all = "camelCase")]
// A newer hub may say what this version does not know (docs/adr/0013).
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
#[x_kube(
    validation = ("self.epoch >= oldSelf.epoch", "epoch never decreases"),
    validation = ("self.revision >= oldSelf.revision", "revision never decreases"),
    validation = ("self.tenant == oldSelf.tenant && self.organization == oldSelf.organization", "tenant and organization are immutable"),
    validation = ("self.home == oldSelf.home || self.epoch > oldSelf.epoch", "another home needs a higher epoch")
)]
pub struct TenantPlacementSpec {
    /// The tenant.
    pub tenant: TenantId,
    /// The controller.
    pub organization: OrganizationName,
    /// The one region where it writes.
    pub home: RegionName,
    /// A write with a lower one is fenced. It only grows.
    pub epoch: Epoch,
    /// The revision of the policy that this was compiled from. It only grows.
    pub revision: PolicyRevision,
    /// The edges that leave from here, as the policy compiled them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "edges")]
    pub edges: Vec<CompiledEdge>,
}

/// The status of a TenantPlacement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantPlacementStatus {
    /// Ready, Fenced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The epoch below which every database of the region refuses writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_epoch: Option<Epoch>,
    /// The revision that is obeyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_revision: Option<PolicyRevision>,
}

fn edges(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut edge = CompiledEdge::json_schema(generator);
    edge.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
    schemars::json_schema!({ "type": "array", "maxItems": 256, "items": edge })
}
