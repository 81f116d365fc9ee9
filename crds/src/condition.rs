//! Conditions: what was observed, in the form that kubectl and kstatus read.

use jiff::Timestamp;
use meridian_policy::bounds;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One condition, like `metav1.Condition`, bounded. In a status the list is a map keyed by `type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about, for example `Ready`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, as one word for machines.
    #[schemars(length(min = 1, max = 128))]
    pub reason: String,
    /// Why, in a sentence for people.
    #[schemars(length(max = 32_768))]
    pub message: String,
    /// When `status` changed last.
    #[schemars(schema_with = "bounds::timestamp")]
    pub last_transition_time: Timestamp,
    /// The generation that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// That could not be observed.
    Unknown,
}
