//! The compiled policy as one region receives it: what it needs, nothing more.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_ignored::Path;
use serde_json::Value;

use crate::edge::{CompiledEdge, EdgeId};
use crate::names::{CountryCode, Epoch, JurisdictionName, OrganizationName, PolicyRevision, RegionName, TenantId};
use crate::spec::AgeOfConsent;
use crate::vocabulary::DataClass;

/// The fields of a policy that hold edges.
const SIDES: [&str; 2] = ["exports", "imports"];
/// Where a policy is in what tells of it.
const TOLD: &str = "policy";

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
    /// The edges that left from here or arrived here and were taken out, until this region has acknowledged each: whether
    /// or not its replicator ever had it. An older hub tells none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closing: Vec<CutEdge>,
    /// Edges that are in force by what was told, and that whoever read it could not obey.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldEdge>,
    /// Days that a class is kept, the strictest of the jurisdiction and of all tenants homed here. A tenant's own are in
    /// its [`TenantHome`].
    pub retention: BTreeMap<DataClass, u32>,
}

/// An edge that was taken out of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutEdge {
    /// Its name.
    pub id: EdgeId,
    /// Whose data it carried.
    pub tenant: TenantId,
    /// The tenant that received it.
    pub importer_tenant: TenantId,
    /// The exporting region.
    pub from: RegionName,
    /// The importing region.
    pub to: RegionName,
    /// The last revision of this region's policy that may have had it: what is acknowledged under a newer one is closed.
    pub revision: PolicyRevision,
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
    pub jwks: Value,
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

/// An edge that this version cannot obey as it is told: nothing passes along it, and its copies stay where they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldEdge {
    /// The edge.
    pub id: EdgeId,
    /// What of it is not understood.
    pub because: String,
}

/// Reads JSON in which everything that is said of edges is known to this version; none otherwise. That is so for nearly every
/// policy, and costs a fraction of looking at each edge by itself. `T` has to be read straight from its fields: what is
/// buffered on the way (untagged, flattened) would not be seen here.
fn understood<'a, T: Deserialize<'a>, D: Deserializer<'a>>(told: D) -> Option<T> {
    let mut all = true;
    let unknown = |place: Path<'_>| all &= is_beside_the_lists(&place);
    let read = serde_ignored::deserialize(told, unknown).ok()?;
    all.then_some(read)
}

fn understood_text<T: DeserializeOwned>(told: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(told).ok()?;
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = understood(&mut reader)?;
    reader.end().ok().map(|()| read)
}

/// Whether a field is the policy's own: what a newer version says there is beside what it says of edges.
fn is_beside_the_lists(place: &Path<'_>) -> bool {
    match place {
        Path::Map { parent: Path::Root, .. } => true,
        Path::Map {
            parent: Path::Map { parent, key },
            ..
        } => matches!(parent, Path::Root) && key == TOLD,
        _ => false,
    }
}

impl RegionPolicy {
    /// Reads a policy as it is told, perhaps by a newer version. What that says of an edge may narrow it, and an edge that
    /// is obeyed in part lets out too much: one with anything in it that this version does not know is held, alone.
    ///
    /// # Errors
    /// It is not understood even without its edges.
    pub fn read(told: Value) -> Result<Self, serde_json::Error> {
        match understood(&told) {
            Some(policy) => Ok(policy),
            None => Self::read_by_edges(told),
        }
    }

    /// [`Self::read`] of a text.
    ///
    /// # Errors
    /// It is no JSON, or not understood even without its edges.
    pub fn read_text(told: &[u8]) -> Result<Self, serde_json::Error> {
        match understood_text(told) {
            Some(policy) => Ok(policy),
            None => Self::read_by_edges(serde_json::from_slice(told)?),
        }
    }

    /// The policy in a JSON object that has it as its `policy`, if everything that is said of its edges is known.
    #[must_use]
    pub fn understood_in(told: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Told {
            policy: RegionPolicy,
        }
        understood_text(told).map(|Told { policy }| policy)
    }

    /// [`Self::read`], with each edge looked at by itself.
    ///
    /// # Errors
    /// As there.
    pub fn read_by_edges(mut told: Value) -> Result<Self, serde_json::Error> {
        let mut held = BTreeMap::new();
        for side in SIDES {
            if let Some(edges) = told.get_mut(side).and_then(Value::as_array_mut) {
                edges.retain(|edge| match CompiledEdge::read(edge) {
                    Ok(_) => true,
                    Err(because) => {
                        // One without a name that is known here has never been open here.
                        let id = edge.get("id").and_then(|id| EdgeId::deserialize(id).ok());
                        held.extend(id.map(|id| (id, because)));
                        false
                    }
                });
            }
        }
        if let Some(closing) = told.get_mut("closing").and_then(Value::as_array_mut) {
            closing.retain(|edge| CutEdge::deserialize(edge).is_ok());
        }
        let mut policy = Self::deserialize(told)?;
        policy.held.retain(|edge| !held.contains_key(&edge.id));
        policy
            .held
            .extend(held.into_iter().map(|(id, because)| HeldEdge { id, because }));
        Ok(policy)
    }

    /// Whether an edge is neither open nor cut, because what is told of it is not understood.
    #[must_use]
    pub fn holds(&self, id: &EdgeId) -> bool {
        self.held.iter().any(|edge| edge.id == *id)
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
