//! Clients for the replicators of other regions: mTLS both ways, the other region's CA pinned by the policy.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use meridian_kit::Start;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_kit::tls::PeerId;
use meridian_policy::RegionName;

/// Clients by region and address; made when first needed.
pub(super) struct Peers {
    start: Start,
    known: Mutex<HashMap<(RegionName, String), ServiceClient>>,
}

impl Peers {
    pub(super) fn new(start: &Start) -> Self {
        Self {
            start: start.clone(),
            known: Mutex::default(),
        }
    }

    /// The replicator of a region that the policy knows.
    pub(super) fn replicator(&self, region: &RegionName) -> Result<ServiceClient, ClientError> {
        let policy = self.start.feed().current();
        let peer = policy.peer(region).ok_or_else(|| ClientError::Unreachable {
            peer: region.to_string(),
            problem: "the policy has no such peer".to_owned(),
        })?;
        let key = (region.clone(), peer.replicator_url.clone());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&key) {
            return Ok(client.clone());
        }
        let client = ServiceClient::peer(self.start.tls(), &key.1, PeerId::new(region.clone(), crate::REPLICATOR))?;
        // An address that changed leaves its client behind; regions are few and addresses change rarely.
        known.insert(key, client.clone());
        Ok(client)
    }
}
