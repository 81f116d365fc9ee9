//! Declared residence decides the tenant. Nothing else does: not geography, not the address a request came to.

use meridian_policy::{CountryCode, RegionPolicy, TenantId};

/// Where an athlete of a country registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Residence {
    /// Here.
    Home,
    /// In another region, at this public address.
    Elsewhere {
        /// Public address of the region that serves the country.
        public_url: String,
    },
    /// No region serves the country.
    Unserved,
}

/// Reads the public directory; says nothing about any account.
pub fn decide(policy: &RegionPolicy, country: &CountryCode) -> Residence {
    if policy.countries_served.contains(country) {
        return Residence::Home;
    }
    policy
        .directory
        .iter()
        .find(|entry| entry.region != policy.region && entry.countries.contains(country))
        .map_or(Residence::Unserved, |entry| Residence::Elsewhere {
            public_url: entry.public_url.clone(),
        })
}

/// Whether this region is the tenant's home, from the same policy.
pub fn is_home(policy: &RegionPolicy, tenant: &TenantId) -> bool {
    policy.home(tenant).is_some()
}
