//! Cuts the compiled policy down to what one region needs.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::compile::CompiledPolicy;
use crate::names::{PolicyRevision, RegionName};
use crate::region_policy::{DirectoryEntry, Peer, PeerTenant, RegionPolicy, TenantHome};
use crate::rule::{Denial, Rule};
use crate::source::{PolicySource, RegionFacts, TenantFacts};
use crate::spec::{JurisdictionSpec, RetentionLimits, TenantResidencySpec};
use crate::vocabulary::{DataClass, LegalFramework};

impl CompiledPolicy {
    /// The policy of one region. Edges of other regions, parties and jurisdictions are not in it.
    ///
    /// # Errors
    /// `unknown-region` or `unknown-jurisdiction`: such a region gets no policy, and serves nothing.
    pub fn for_region(&self, region: &RegionName, revision: PolicyRevision) -> Result<RegionPolicy, Denial> {
        Ok(RegionPolicy {
            directory: self.directory(),
            peers: self.peers().filter(|peer| peer.region != *region).collect(),
            ..self.own_part(region, revision)?
        })
    }

    /// The same without directory and peers, which change seldom and are most of it.
    ///
    /// # Errors
    /// See [`CompiledPolicy::for_region`].
    pub fn own_part(&self, region: &RegionName, revision: PolicyRevision) -> Result<RegionPolicy, Denial> {
        let facts = self.source.regions.get(region).ok_or_else(|| {
            Denial::new(
                Rule::UnknownRegion,
                LegalFramework::Other,
                format!("there is no FitnessRegion '{region}'"),
            )
        })?;
        let law = self.source.jurisdictions.get(&facts.jurisdiction).ok_or_else(|| {
            let reason = format!(
                "region {region} is in jurisdiction '{}', which does not exist",
                facts.jurisdiction
            );
            Denial::new(Rule::UnknownJurisdiction, LegalFramework::Other, reason)
        })?;
        let homes: Vec<TenantHome> = self
            .homed_in(region)
            .map(|tenant| TenantHome {
                tenant: tenant.spec.tenant.clone(),
                organization: tenant.spec.organization.clone(),
                epoch: tenant.epoch,
                retention: retention_of(law, &tenant.spec),
            })
            .collect();
        Ok(RegionPolicy {
            region: region.clone(),
            jurisdiction: facts.jurisdiction.clone(),
            revision,
            public_url: facts.public_url.clone(),
            issuer: facts.public_url.clone(),
            countries_served: facts.countries_served.clone(),
            age_of_digital_consent: Some(law.age_of_digital_consent.clone()),
            retention: strictest(law, &homes),
            homes,
            directory: Vec::new(),
            peers: Vec::new(),
            exports: self.exports_of(region).cloned().collect(),
            imports: self.imports_of(region).cloned().collect(),
            closing: Vec::new(),
            held: Vec::new(),
        })
    }

    /// All regions, as athletes are told of them.
    #[must_use]
    pub fn directory(&self) -> Vec<DirectoryEntry> {
        self.source.regions.values().map(directory_entry).collect()
    }

    /// All regions that the others can verify, as the others are told of them.
    pub fn peers(&self) -> impl Iterator<Item = Peer> {
        self.source.regions.values().filter_map(|region| self.peer(region))
    }

    fn homed_in(&self, region: &RegionName) -> impl Iterator<Item = &TenantFacts> {
        let tenants = self.homes.in_region(region).iter();
        tenants.filter_map(|tenant| self.source.tenants.get(tenant))
    }

    /// A region becomes a peer once it is known what to verify it by.
    fn peer(&self, other: &RegionFacts) -> Option<Peer> {
        let trust = other.trust.as_ref()?;
        let tenants = self.homed_in(&other.name).map(|tenant| PeerTenant {
            tenant: tenant.spec.tenant.clone(),
            organization: tenant.spec.organization.clone(),
        });
        Some(Peer {
            region: other.name.clone(),
            public_url: other.public_url.clone(),
            replicator_url: other.replicator_url.clone(),
            ca_pem: trust.ca_pem.clone(),
            issuer: other.public_url.clone(),
            jwks: trust.jwks.clone(),
            tenants: tenants.collect(),
        })
    }
}

fn directory_entry(region: &RegionFacts) -> DirectoryEntry {
    DirectoryEntry {
        region: region.name.clone(),
        public_url: region.public_url.clone(),
        countries: region.countries_served.clone(),
    }
}

/// Days per class for one tenant under the law of its home; nothing while that is unknown.
pub(crate) fn retention_at_home(source: &PolicySource, tenant: &TenantFacts) -> BTreeMap<DataClass, u32> {
    let home = source.regions.get(&tenant.spec.home.region);
    let law = home.and_then(|region| source.jurisdictions.get(&region.jurisdiction));
    law.map_or_else(BTreeMap::new, |law| retention_of(law, &tenant.spec))
}

/// Days per class for one tenant: what it asks for, inside what the law allows.
fn retention_of(law: &JurisdictionSpec, spec: &TenantResidencySpec) -> BTreeMap<DataClass, u32> {
    let days = |class: DataClass| {
        let limits = law.retention.get(&class).copied().unwrap_or_default();
        let asked = spec.retention.get(&class).copied().or(limits.max_days)?;
        Some((class, within(limits, asked)))
    };
    DataClass::ALL.iter().filter_map(|class| days(*class)).collect()
}

fn within(limits: RetentionLimits, days: u32) -> u32 {
    let most = limits.max_days.unwrap_or(u32::MAX);
    days.max(limits.min_days.unwrap_or(0)).min(most)
}

/// Days per class for the whole region: the law's longest, or less where a tenant wants less.
fn strictest(law: &JurisdictionSpec, homes: &[TenantHome]) -> BTreeMap<DataClass, u32> {
    let mut days: BTreeMap<DataClass, u32> = law
        .retention
        .iter()
        .filter_map(|(class, limits)| Some((*class, limits.max_days?)))
        .collect();
    for (class, asked) in homes.iter().flat_map(|home| &home.retention) {
        days.entry(*class)
            .and_modify(|least| *least = (*least).min(*asked))
            .or_insert(*asked);
    }
    days
}

impl RegionPolicy {
    /// A digest of everything but the revision: equal digests mean that nothing changed for the region.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "every map key is a text and no number is a float, so JSON can hold it"
    )]
    pub fn content_digest(&self) -> String {
        let content = Self {
            revision: PolicyRevision::default(),
            ..self.clone()
        };
        let json = serde_json::to_vec(&content).expect("a policy is JSON");
        format!("sha256:{}", hex::encode(Sha256::digest(json)))
    }
}
