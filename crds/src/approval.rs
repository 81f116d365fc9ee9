//! PolicyApproval: one person's word for exactly one change; and what is in force of a resource while a change waits for it.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use meridian_policy::bounds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The spec of a PolicyApproval.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.sh",
    version = "v1alpha1",
    kind = "PolicyApproval",
    plural = "policyapprovals",
    shortname = "papp",
    category = "meridian",
    doc = "One person's approval of one change that widens the policy. It counts for the digest that it names and for nothing else, until it expires. Who approves is checked against who writes it; it is never changed, only deleted.",
    derive = "PartialEq",
    printcolumn(name = "KIND", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "OF", type_ = "string", json_path = ".spec.name"),
    printcolumn(name = "APPROVER", type_ = "string", json_path = ".spec.approver"),
    printcolumn(name = "EXPIRES", type_ = "date", json_path = ".spec.expires"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("size(self.metadata.name) <= 253", "the name of an approval has at most 253 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self == oldSelf", "an approval is never changed; delete it and write another"))]
pub struct PolicyApprovalSpec {
    /// The kind of the resource that was changed.
    pub kind: ApprovedKind,
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Of the change, as the resource's status says: what is written, and everything that it opens.
    #[schemars(schema_with = "digest")]
    pub digest: String,
    /// Who approves: the user that writes this.
    #[schemars(length(min = 1, max = 253))]
    pub approver: String,
    /// It counts until then, and never for longer than 30 days.
    #[schemars(schema_with = "bounds::timestamp")]
    pub expires: Timestamp,
}

/// The kinds whose changes can widen the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApprovedKind {
    /// A law.
    Jurisdiction,
    /// A legal entity.
    Party,
    /// A region.
    FitnessRegion,
    /// A tenant.
    TenantDataResidency,
}

/// How far a resource is approved. There only where the hub requires approvals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalStatus<T> {
    /// What is in force of the spec, as far as nothing that was written since takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<T>,
    /// The generation of which that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Who approved it; nobody where nothing widened, or it was adopted from the members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub approved_by: Vec<String>,
    /// The change that waits for an approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingChange>,
}

/// A change that widens the policy and is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingChange {
    /// The generation that asks for it.
    pub generation: i64,
    /// What an approval has to name.
    #[schemars(schema_with = "digest")]
    pub digest: String,
    /// What it would open, in words: the first 50.
    #[schemars(length(max = 50), inner(length(max = 1024)))]
    pub opens: Vec<String>,
    /// How many there are.
    pub opens_count: u32,
    /// Who wrote it, as far as every change since is known; none: not known, and two people have to approve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub written_by: Vec<String>,
    /// Who has approved it so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub approved_by: Vec<String>,
}

fn digest(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "maxLength": 71, "pattern": "^sha256:[0-9a-f]{64}$"})
}
