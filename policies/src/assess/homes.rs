//! Which tenants have their home where: asked once for every edge and every region, so looked up and not looked for. A policy
//! of ten thousand tenants is compiled on every change.

use std::collections::BTreeMap;

use crate::names::{OrganizationName, RegionName, TenantId};
use crate::source::PolicySource;

/// The tenants of a source, each list in the order of their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Homes {
    of_organizations: BTreeMap<OrganizationName, BTreeMap<RegionName, Vec<TenantId>>>,
    in_regions: BTreeMap<RegionName, Vec<TenantId>>,
}

impl Homes {
    pub(crate) fn of(source: &PolicySource) -> Self {
        let mut homes = Self::default();
        // One that is filed under another tenant's name has no home anywhere: see `cut`.
        let filed_rightly = source.tenants.iter().filter(|(id, facts)| facts.spec.tenant == **id);
        for (id, facts) in filed_rightly {
            let (organization, region) = (&facts.spec.organization, &facts.spec.home.region);
            let of_organization = homes.of_organizations.entry(organization.clone()).or_default();
            of_organization.entry(region.clone()).or_default().push(id.clone());
            homes.in_regions.entry(region.clone()).or_default().push(id.clone());
        }
        homes
    }

    /// The tenants of an organization that have their home in a region.
    pub(crate) fn of_organization_in(&self, organization: &OrganizationName, region: &RegionName) -> &[TenantId] {
        let of_organization = self.of_organizations.get(organization);
        of_organization
            .and_then(|regions| regions.get(region))
            .map_or(&[], Vec::as_slice)
    }

    /// Whether an organization has two tenants in one region.
    pub(crate) fn has_rivals(&self) -> bool {
        let mut receivers = self.of_organizations.values().flat_map(BTreeMap::values);
        receivers.any(|tenants| tenants.len() > 1)
    }

    /// The same with the first tenant alone of every organization in every region.
    pub(crate) fn without_rivals(&self) -> Self {
        let mut homes = self.clone();
        let receivers = homes.of_organizations.values_mut().flat_map(BTreeMap::values_mut);
        receivers.for_each(|tenants| tenants.truncate(1));
        homes
    }

    /// The tenants that have their home in a region.
    pub(crate) fn in_region(&self, region: &RegionName) -> &[TenantId] {
        self.in_regions.get(region).map_or(&[], Vec::as_slice)
    }
}
