//! Which tenants have their home where: asked once for every edge, so looked up and not looked for.

use std::collections::BTreeMap;

use crate::names::{OrganizationName, RegionName, TenantId};
use crate::source::PolicySource;

/// The tenants of a source by organization and home region, each list in the order of their names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Homes(BTreeMap<OrganizationName, BTreeMap<RegionName, Vec<TenantId>>>);

impl Homes {
    pub(crate) fn of(source: &PolicySource) -> Self {
        let mut homes = Self::default();
        // One that is filed under another tenant's name has no home anywhere: see `cut`.
        let filed_rightly = source.tenants.iter().filter(|(id, facts)| facts.spec.tenant == **id);
        for (id, facts) in filed_rightly {
            let of_organization = homes.0.entry(facts.spec.organization.clone()).or_default();
            let in_region = of_organization.entry(facts.spec.home.region.clone()).or_default();
            in_region.push(id.clone());
        }
        homes
    }

    /// The tenants of an organization that have their home in a region.
    pub(crate) fn of_organization_in(&self, organization: &OrganizationName, region: &RegionName) -> &[TenantId] {
        let of_organization = self.0.get(organization);
        of_organization
            .and_then(|regions| regions.get(region))
            .map_or(&[], Vec::as_slice)
    }
}
