//! Party: a legal entity. Importers and external recipients are parties.

use kube::{CustomResource, KubeSchema};
use meridian_policy::PartySpec;
use serde::{Deserialize, Serialize};

use crate::structure::list_map;
use crate::{ApprovalStatus, Condition};

/// The spec of a Party.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.sh",
    version = "v1alpha1",
    kind = "Party",
    plural = "parties",
    shortname = "party",
    category = "meridian",
    status = "PartyStatus",
    doc = "A legal entity: its role, its country, and the certifications that it holds itself.",
    derive = "PartialEq",
    printcolumn(name = "LEGAL NAME", type_ = "string", json_path = ".spec.legalName"),
    printcolumn(name = "ROLE", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "COUNTRY", type_ = "string", json_path = ".spec.country"),
    printcolumn(name = "APPROVED", type_ = "string", json_path = ".status.conditions[?(@.type==\"Approved\")].status"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("size(self.metadata.name) <= 40", "the name of a party has at most 40 characters")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = lists)]
#[x_kube(validation = ("!has(self.certifications) || self.certifications.all(c, c.effectiveFrom < c.expires)", "a certification expires after it takes effect"))]
pub struct PartyResource {
    /// What the policy is compiled from.
    #[serde(flatten)]
    pub entity: PartySpec,
}

/// The status of a Party.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartyStatus {
    /// What was observed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// How far it is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalStatus<PartySpec>>,
}

fn lists(schema: &mut schemars::Schema) {
    list_map(schema, &["certifications"], &["instrument"]);
}
