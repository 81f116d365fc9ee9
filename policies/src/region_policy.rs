//! The compiled policy as one region receives it: what it needs, nothing more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::edge::{CompiledEdge, EdgeId};
use crate::names::{CountryCode, Epoch, JurisdictionName, OrganizationName, PolicyRevision, RegionName, TenantId};
use crate::spec::AgeOfConsent;
use crate::vocabulary::DataClass;

/// The policy of one region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionPolicy {
    /// Whose policy.
    pub region: RegionName,
    /// Whose law holds.
    pub jurisdiction: JurisdictionName,
    /// Of the compiled policy.
    pub revision: PolicyRevision,
    /// Where athletes reach the region.
    pub public_url: String,
    /// `iss` of its tokens.
    pub issuer: String,
    /// The countries whose athletes it serves.
    pub countries_served: Vec<CountryCode>,
    /// The tenants that write here.
    pub homes: Vec<TenantHome>,
    /// All regions, for those who look for theirs.
    pub directory: Vec<DirectoryEntry>,
    /// The other regions, with what they are verified by.
    pub peers: Vec<Peer>,
    /// The edges that leave from here.
    pub exports: Vec<CompiledEdge>,
    /// The edges that arrive here.
    pub imports: Vec<CompiledEdge>,
    /// From which age a person here consents alone. None: told by a hub that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_of_digital_consent: Option<AgeOfConsent>,
    /// Days that a class is kept, the strictest of the jurisdiction and of all tenants homed here. A tenant's own are in
    /// its [`TenantHome`].
    pub retention: BTreeMap<DataClass, u32>,
}

/// A tenant that has its home in the region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantHome {
    /// The partition.
    pub tenant: TenantId,
    /// The controller.
    pub organization: OrganizationName,
    /// A write with a lower one is fenced.
    pub epoch: Epoch,
    /// Days that each class of this tenant is kept.
    #[serde(default)]
    pub retention: BTreeMap<DataClass, u32>,
}

/// A region in the public directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// Its name.
    pub region: RegionName,
    /// Where athletes reach it.
    pub public_url: String,
    /// The countries it serves.
    pub countries: Vec<CountryCode>,
}

/// Another region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub region: RegionName,
    /// Where athletes reach it.
    pub public_url: String,
    /// Where its replicator listens.
    pub replicator_url: String,
    /// Its CA, PEM: pinned.
    pub ca_pem: String,
    /// `iss` of its tokens.
    pub issuer: String,
    /// The keys that sign its tokens (RFC 7517).
    pub jwks: serde_json::Value,
    /// The tenants that have their home there.
    pub tenants: Vec<PeerTenant>,
}

/// A tenant of another region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerTenant {
    /// The partition.
    pub tenant: TenantId,
    /// The controller.
    pub organization: OrganizationName,
}

/// What an edge says that this version does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "edge {edge} says {field}, which this version does not know: the policy is not taken until this part is upgraded"
)]
pub struct UnreadField {
    /// The edge.
    pub edge: EdgeId,
    /// What it says.
    pub field: String,
}

impl RegionPolicy {
    /// The first field that `told` says of an edge and this version does not read. What a newer hub adds to an edge may
    /// narrow it, and an edge that is obeyed in part lets out too much: such a policy is not taken.
    #[must_use]
    pub fn unread(&self, told: &serde_json::Value) -> Option<UnreadField> {
        let sides = [("exports", &self.exports), ("imports", &self.imports)];
        sides.into_iter().find_map(|(side, edges)| {
            let told = told.get(side).and_then(serde_json::Value::as_array)?;
            told.iter().zip(edges).find_map(|(told, edge)| {
                let read = serde_json::to_value(edge).unwrap_or_default();
                let mut fields = told.as_object()?.iter().filter(|(_, value)| !value.is_null());
                let (field, _) = fields.find(|(field, _)| read.get(field).is_none())?;
                Some(UnreadField {
                    edge: edge.id.clone(),
                    field: field.clone(),
                })
            })
        })
    }

    /// The tenant, if its home is here.
    #[must_use]
    pub fn home(&self, tenant: &TenantId) -> Option<&TenantHome> {
        self.homes.iter().find(|home| home.tenant == *tenant)
    }

    /// The other region of that name.
    #[must_use]
    pub fn peer(&self, region: &RegionName) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.region == *region)
    }

    /// The edge of that name that leaves from here.
    #[must_use]
    pub fn export(&self, id: &EdgeId) -> Option<&CompiledEdge> {
        self.exports.iter().find(|edge| edge.id == *id)
    }

    /// The edge of that name that arrives here.
    #[must_use]
    pub fn import(&self, id: &EdgeId) -> Option<&CompiledEdge> {
        self.imports.iter().find(|edge| edge.id == *id)
    }
}
