//! TenantDataResidency: where one tenant's data lives, and what of it may go where on which grounds.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use meridian_policy::{DataClass, Epoch, Mechanism, RegionName, TenantResidencySpec, Violation, bounds};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::closing::ClosingEdge;
use crate::structure::{keys_are_classes, list_map, list_set};
use crate::{ApprovalStatus, Condition};

/// The spec of a TenantDataResidency.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.sh",
    version = "v1alpha1",
    kind = "TenantDataResidency",
    plural = "tenantdataresidencies",
    shortname = "tdr",
    category = "meridian",
    status = "TenantDataResidencyStatus",
    doc = "The residency of one tenant (one organization's partition in one jurisdiction): its home, and per class of data the regions that it may go to, with what makes that lawful. What is not listed stays at home.",
    derive = "PartialEq",
    printcolumn(name = "TENANT", type_ = "string", json_path = ".spec.tenant"),
    printcolumn(name = "HOME", type_ = "string", json_path = ".spec.home.region"),
    printcolumn(name = "EDGES", type_ = "integer", json_path = ".status.edgesAllowed"),
    printcolumn(name = "REFUSED", type_ = "integer", json_path = ".status.edgesRefused"),
    printcolumn(name = "PHASE", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "EPOCH", type_ = "integer", json_path = ".status.epoch"),
    printcolumn(name = "APPROVED", type_ = "string", json_path = ".status.conditions[?(@.type==\"Approved\")].status", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("self.metadata.name == self.spec.tenant", "the resource is named after its tenant, so that a tenant cannot have two residencies")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = lists)]
#[x_kube(
    validation = ("self.home.region == oldSelf.home.region", "home is immutable: a home changes by migration only"),
    validation = ("self.tenant == oldSelf.tenant && self.organization == oldSelf.organization", "tenant and organization are immutable"),
    validation = ("!has(self.classes) || self.classes.all(c, !has(c.replicateTo) || c.replicateTo.all(r, r.region != self.home.region))", "home-named-as-target: replicateTo names the tenant's own home"),
    validation = (keys_are_classes("retention").as_str(), "unknown-class: retention names an unknown data class"),
    validation = ("!has(self.retention) || self.retention.all(c, self.retention[c] > 0)", "a retention is at least one day")
)]
pub struct TenantResidency {
    /// What the policy is compiled from.
    #[serde(flatten)]
    pub residency: TenantResidencySpec,
}

/// The status of a TenantDataResidency.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantDataResidencyStatus {
    /// Ready, Reconciling, Stalled, ResidencyLawful, InstrumentsCurrent; Removable once it is deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Of the home. It only grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("self >= oldSelf", "epoch never decreases"))]
    pub epoch: Option<Epoch>,
    /// In one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<TenantPhase>,
    /// Edges that the policy allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges_allowed: Option<u32>,
    /// Edges that it refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges_refused: Option<u32>,
    /// The first 50 edges, each with what allows or refuses it; `explain` gives the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub edges: Vec<EdgeVerdict>,
    /// The first 50 violations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub violations: Vec<Violation>,
    /// Once it is deleted: the edges that are closed for it. None is closed before this is written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub closing: Option<Vec<ClosingEdge>>,
    /// How far it is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalStatus<TenantResidencySpec>>,
}

/// Where a tenant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TenantPhase {
    /// Its home could not be asked for the epoch yet.
    Pending,
    /// Placed, every edge lawful.
    Active,
    /// Placed, but something that it asks for is refused.
    Violating,
    /// It cannot be read.
    Refused,
    /// Deleted; its edges are being closed, and copies purged.
    Closing,
    /// Deleted; its edges are closed, and its home lets go of it.
    Leaving,
}

/// What the policy says of one edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeVerdict {
    /// What it would carry.
    pub class: DataClass,
    /// Where to.
    pub to: RegionName,
    /// May it.
    pub decision: EdgeDecision,
    /// The rule that refuses it, or the sentence that allows it.
    #[schemars(length(max = 512))]
    pub rule: String,
    /// Why it is refused, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub reason: Option<String>,
    /// What makes it lawful.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<Mechanism>,
    /// By name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 120))]
    pub instrument: Option<String>,
    /// Lawful until.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "bounds::optional_timestamp")]
    pub expires: Option<Timestamp>,
}

/// Whether an edge may carry data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EdgeDecision {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
}

fn lists(schema: &mut schemars::Schema) {
    list_map(schema, &["classes"], &["class"]);
    list_map(schema, &["classes", "[]", "replicateTo"], &["region"]);
    list_set(schema, &["classes", "[]", "replicateTo", "[]", "purposes"]);
    list_set(schema, &["classes", "[]", "replicateTo", "[]", "fields"]);
}
