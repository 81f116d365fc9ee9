//! Clients for the replicators of other regions: mTLS both ways, the other region's CA pinned by the policy. Copies have
//! connections of their own, whose every byte is counted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use meridian_kit::Start;
use meridian_kit::client::{ClientError, ServiceClient};
use meridian_kit::counted::CountedClient;
use meridian_kit::tls::PeerId;
use meridian_policy::RegionName;
use prometheus_client::metrics::counter::Counter;

use crate::domain::admission::{ALWAYS_TAKEN, LARGEST_BATCH};

/// How long an importer that found a batch too large gets small ones: until then it may have been upgraded.
const SMALL_FOR: Duration = Duration::from_secs(600);

/// Clients by region and address; made when first needed.
pub(super) struct Peers {
    start: Start,
    egress: Counter,
    known: Mutex<HashMap<(RegionName, String), Peer>>,
    /// Regions whose replicator is of an older version, which takes no large batch, and until when that is believed.
    small: Mutex<HashMap<RegionName, Instant>>,
}

/// How another region's replicator is reached.
#[derive(Clone)]
pub(super) struct Peer {
    /// For leases and cuts.
    pub(super) control: ServiceClient,
    /// For copies.
    pub(super) copies: CountedClient,
}

impl Peers {
    pub(super) fn new(start: &Start, egress: Counter) -> Self {
        Self {
            start: start.clone(),
            egress,
            known: Mutex::default(),
            small: Mutex::default(),
        }
    }

    /// Events that a region's replicator takes in one batch.
    pub(super) fn takes(&self, region: &RegionName) -> usize {
        let small = self.small.lock().unwrap_or_else(PoisonError::into_inner);
        match small.get(region) {
            Some(until) if Instant::now() < *until => ALWAYS_TAKEN,
            _ => LARGEST_BATCH,
        }
    }

    /// A region's replicator found a batch too large.
    pub(super) fn found_too_large(&self, region: &RegionName) {
        let mut small = self.small.lock().unwrap_or_else(PoisonError::into_inner);
        small.insert(region.clone(), Instant::now() + SMALL_FOR);
    }

    /// The replicator of a region that the policy knows.
    pub(super) fn replicator(&self, region: &RegionName) -> Result<Peer, ClientError> {
        let policy = self.start.feed().current();
        let told = policy.peer(region).ok_or_else(|| ClientError::Unreachable {
            peer: region.to_string(),
            problem: "the policy has no such peer".to_owned(),
        })?;
        let key = (region.clone(), told.replicator_url.clone());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = known.get(&key) {
            return Ok(peer.clone());
        }
        let expected = PeerId::new(region.clone(), crate::REPLICATOR);
        let peer = Peer {
            control: ServiceClient::peer(self.start.tls(), &key.1, expected.clone())?,
            copies: CountedClient::new(self.start.tls(), &key.1, expected, self.egress.clone())?,
        };
        // An address that changed leaves its client behind; regions are few and addresses change rarely.
        known.insert(key, peer.clone());
        Ok(peer)
    }
}
