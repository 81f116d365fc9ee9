//! What of a resource has to be approved: of a region whose law it is under and who runs it, of all others the whole spec.

use meridian_crds::ApprovedRegion;
use meridian_policy::{JurisdictionSpec, PartySpec, PolicySource, TenantFacts, TenantResidencySpec};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::manifest::{FITNESS_REGION, JURISDICTION, Kind, ObjectKey, PARTY, TENANT_DATA_RESIDENCY};

/// The kinds whose changes can widen the policy, each before those that rest on it.
pub(crate) const KINDS: [Kind; 4] = [JURISDICTION, PARTY, FITNESS_REGION, TENANT_DATA_RESIDENCY];

/// The part of a resource that the policy is compiled from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Jurisdiction(JurisdictionSpec),
    Party(PartySpec),
    Region(ApprovedRegion),
    Tenant(TenantResidencySpec),
}

impl Part {
    /// From a spec as it is written or recorded; nothing where it cannot be read.
    pub(crate) fn read(kind: Kind, spec: &Value) -> Option<Self> {
        match kind {
            JURISDICTION => Deserialize::deserialize(spec).ok().map(Self::Jurisdiction),
            PARTY => Deserialize::deserialize(spec).ok().map(Self::Party),
            FITNESS_REGION => Deserialize::deserialize(spec).ok().map(Self::Region),
            TENANT_DATA_RESIDENCY => Deserialize::deserialize(spec).ok().map(Self::Tenant),
            _ => None,
        }
    }

    /// As it is recorded.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Self::Jurisdiction(law) => json!(law),
            Self::Party(party) => json!(party),
            Self::Region(region) => json!(region),
            Self::Tenant(residency) => json!(residency),
        }
    }

    /// What a source has of a resource.
    pub(crate) fn of(source: &PolicySource, key: &ObjectKey) -> Option<Self> {
        let name = key.name.as_str();
        match key.kind {
            JURISDICTION => source.jurisdictions.get(name).cloned().map(Self::Jurisdiction),
            PARTY => source.parties.get(name).cloned().map(Self::Party),
            FITNESS_REGION => source.regions.get(name).map(|region| {
                Self::Region(ApprovedRegion {
                    jurisdiction: region.jurisdiction.clone(),
                    operated_by: region.operated_by.clone(),
                })
            }),
            TENANT_DATA_RESIDENCY => {
                let tenant = source.tenants.get(name);
                tenant.map(|facts| Self::Tenant(TenantResidencySpec::clone(&facts.spec)))
            }
            _ => None,
        }
    }

    /// Puts it into `source`, with what `written` says beside it. What is not written is not put.
    pub(crate) fn put(&self, source: &mut PolicySource, key: &ObjectKey, written: &PolicySource) {
        let name = key.name.as_str();
        match self {
            Self::Jurisdiction(law) => {
                if let Some((name, _)) = written.jurisdictions.get_key_value(name) {
                    source.jurisdictions.insert(name.clone(), law.clone());
                }
            }
            Self::Party(party) => {
                if let Some((name, _)) = written.parties.get_key_value(name) {
                    source.parties.insert(name.clone(), party.clone());
                }
            }
            Self::Region(region) => {
                if let Some((name, facts)) = written.regions.get_key_value(name) {
                    let mut facts = facts.clone();
                    facts.jurisdiction = region.jurisdiction.clone();
                    facts.operated_by = region.operated_by.clone();
                    source.regions.insert(name.clone(), facts);
                }
            }
            Self::Tenant(residency) => {
                if let Some((name, facts)) = written.tenants.get_key_value(name) {
                    let (spec, epoch) = (residency.clone(), facts.epoch);
                    source.tenants.insert(
                        name.clone(),
                        TenantFacts {
                            spec: spec.into(),
                            epoch,
                        },
                    );
                }
            }
        }
    }
}

/// Takes a resource out of a source.
pub(crate) fn remove(source: &mut PolicySource, key: &ObjectKey) {
    let name = key.name.as_str();
    match key.kind {
        JURISDICTION => drop(source.jurisdictions.remove(name)),
        PARTY => drop(source.parties.remove(name)),
        FITNESS_REGION => drop(source.regions.remove(name)),
        TENANT_DATA_RESIDENCY => drop(source.tenants.remove(name)),
        _ => {}
    }
}
