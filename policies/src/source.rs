//! Everything a policy is compiled from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{CountryCode, Epoch, JurisdictionName, PartyName, RegionName, TenantId};
use crate::shared::Shared;
use crate::spec::{JurisdictionSpec, PartySpec, TenantResidencySpec};

/// All that the policy is compiled from, as the hub knows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicySource {
    /// By name.
    pub jurisdictions: BTreeMap<JurisdictionName, JurisdictionSpec>,
    /// By name.
    pub parties: BTreeMap<PartyName, PartySpec>,
    /// By name.
    pub regions: BTreeMap<RegionName, RegionFacts>,
    /// By tenant.
    pub tenants: BTreeMap<TenantId, TenantFacts>,
}

/// What the policy needs to know of a region.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionFacts {
    /// Its name.
    pub name: RegionName,
    /// Whose law holds there.
    pub jurisdiction: JurisdictionName,
    /// The legal entity that runs it: the importer of every edge that leads there.
    pub operated_by: PartyName,
    /// The countries whose athletes it serves.
    pub countries_served: Vec<CountryCode>,
    /// Where athletes reach it, for example `https://eu.meridian.localhost:8443`. Its tokens carry this as `iss`.
    pub public_url: String,
    /// Where other regions' replicators reach it.
    pub replicator_url: String,
    /// What others verify it by, as it was last seen in the region. Until it is known, no other region lists it as a peer.
    pub trust: Option<RegionTrust>,
}

/// What other regions verify a region by. Public keys only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionTrust {
    /// The region's own CA, PEM.
    pub ca_pem: String,
    /// The keys that sign its athletes' tokens (RFC 7517).
    pub jwks: serde_json::Value,
}

/// A tenant as it is asked for, and the epoch of its home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantFacts {
    /// The residency asked for.
    pub spec: Shared<TenantResidencySpec>,
    /// Of its home.
    pub epoch: Epoch,
}
