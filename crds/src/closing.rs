//! Edges that a deletion closes.

use jiff::Timestamp;
use meridian_policy::{EdgeId, PolicyRevision, RegionName, TenantId, bounds};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An edge that was in force when its tenant or one of its regions was deleted, as the members had it then. It counts as
/// open until both ends have acknowledged newer revisions than these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClosingEdge {
    /// Which.
    pub edge: EdgeId,
    /// The tenant that receives it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importer_tenant: Option<TenantId>,
    /// The exporting region.
    pub from: RegionName,
    /// The revision with which the exporter had it.
    pub export_revision: PolicyRevision,
    /// The importing region.
    pub to: RegionName,
    /// The revision with which the importer had it.
    pub import_revision: PolicyRevision,
    /// When it ends by itself.
    #[schemars(schema_with = "bounds::timestamp")]
    pub expires: Timestamp,
}
