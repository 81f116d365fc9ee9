//! Jurisdiction: a law, where it holds, and what it lets out.

use kube::{CustomResource, KubeSchema};
use meridian_policy::JurisdictionSpec;
use serde::{Deserialize, Serialize};

use crate::structure::{keys_are_classes, list_map, list_set};
use crate::{ApprovalStatus, Condition};

/// The spec of a Jurisdiction.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.sh",
    version = "v1alpha1",
    kind = "Jurisdiction",
    shortname = "jur",
    category = "meridian",
    status = "JurisdictionStatus",
    doc = "A law, the countries where it holds, and the mechanisms under which it lets data go elsewhere. No mechanism listed, no transfer.",
    derive = "PartialEq",
    printcolumn(name = "LAW", type_ = "string", json_path = ".spec.law"),
    printcolumn(name = "FRAMEWORK", type_ = "string", json_path = ".spec.framework"),
    printcolumn(name = "TO", type_ = "string", json_path = ".spec.mechanisms[*].to", priority = 1),
    printcolumn(name = "APPROVED", type_ = "string", json_path = ".status.conditions[?(@.type==\"Approved\")].status"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = ("size(self.metadata.name) <= 40", "the name of a jurisdiction has at most 40 characters"),
    validation = ("!has(self.spec.mechanisms) || self.spec.mechanisms.all(m, m.to != self.metadata.name)", "a mechanism leads to another jurisdiction, not to this one")
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = lists)]
#[x_kube(
    validation = ("!has(self.mechanisms) || self.mechanisms.all(m, !has(m.expires) || m.effectiveFrom < m.expires)", "a mechanism expires after it takes effect"),
    validation = ("!has(self.retention) || self.retention.all(c, !has(self.retention[c].minDays) || !has(self.retention[c].maxDays) || self.retention[c].minDays <= self.retention[c].maxDays)", "a retention's minDays is at most its maxDays"),
    validation = ("!has(self.breachNotices) || self.breachNotices.all(n, !has(n.within) || [has(n.within.hours), has(n.within.days), has(n.within.businessDays)].filter(is, is).size() == 1)", "a breach notice's within has exactly one of hours, days and businessDays; leave it out where the law names no number"),
    validation = ("!has(self.breachNotices) || self.breachNotices.all(n, !has(n.effectiveFrom) || !has(n.expires) || n.effectiveFrom < n.expires)", "a breach notice expires after it takes effect"),
    validation = ("!has(self.breachNotices) || self.breachNotices.all(n, n.name != 'not-covered')", "not-covered is no name for a breach notice: it stands for a jurisdiction that lists none"),
    validation = (keys_are_classes("sensitivity").as_str(), "sensitivity names an unknown data class"),
    validation = (keys_are_classes("retention").as_str(), "retention names an unknown data class"),
    validation = ("!has(self.ageOfDigitalConsent.byCountry) || self.ageOfDigitalConsent.byCountry.all(c, c in self.countries)", "ageOfDigitalConsent.byCountry names a country where the law does not hold")
)]
pub struct JurisdictionResource {
    /// What the policy is compiled from.
    #[serde(flatten)]
    pub law: JurisdictionSpec,
}

/// The status of a Jurisdiction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JurisdictionStatus {
    /// What was observed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How far it is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalStatus<JurisdictionSpec>>,
}

fn lists(schema: &mut schemars::Schema) {
    list_set(schema, &["countries"]);
    list_set(schema, &["subdivisions"]);
    list_map(schema, &["mechanisms"], &["to", "mechanism", "instrument"]);
    list_set(schema, &["mechanisms", "[]", "classes"]);
    list_map(schema, &["breachNotices"], &["name"]);
}
