//! Who is at home in this region, as the policy says right now.

use meridian_policy::{Epoch, TenantId};

use crate::db::Scope;
use crate::policy_feed::PolicyFeed;

/// A live view of the tenants whose home is here. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Homes {
    feed: PolicyFeed,
}

/// Where a tenant lives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Residence {
    /// Here, at this epoch.
    Here(Epoch),
    /// In another region that the policy knows; its public address.
    Elsewhere(String),
    /// The policy does not know the tenant.
    Unknown,
}

impl Homes {
    /// The view of a feed.
    #[must_use]
    pub fn new(feed: PolicyFeed) -> Self {
        Self { feed }
    }

    /// The tenant's epoch, if its home is here.
    #[must_use]
    pub fn home_epoch(&self, tenant: &TenantId) -> Option<Epoch> {
        self.feed
            .current()
            .homes
            .iter()
            .find(|home| home.tenant == *tenant)
            .map(|home| home.epoch)
    }

    /// Where the tenant lives.
    #[must_use]
    pub fn residence(&self, tenant: &TenantId) -> Residence {
        if let Some(epoch) = self.home_epoch(tenant) {
            return Residence::Here(epoch);
        }
        let policy = self.feed.current();
        let peer = policy
            .peers
            .iter()
            .find(|peer| peer.tenants.iter().any(|other| other.tenant == *tenant));
        peer.map_or(Residence::Unknown, |peer| Residence::Elsewhere(peer.public_url.clone()))
    }

    /// The scope for work on a tenant's rows, if its home is here.
    #[must_use]
    pub fn scope(&self, tenant: &TenantId) -> Option<Scope> {
        self.home_epoch(tenant).map(|epoch| Scope::new(tenant.clone(), epoch))
    }

    /// A scope for every tenant at home here: background work goes tenant by tenant.
    #[must_use]
    pub fn scopes(&self) -> Vec<Scope> {
        self.feed
            .current()
            .homes
            .iter()
            .map(|home| Scope::new(home.tenant.clone(), home.epoch))
            .collect()
    }
}
