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
use crate::wire::Form;

/// How long an importer that did not take something is believed not to: after that it may have been upgraded.
const BELIEVED_FOR: Duration = Duration::from_secs(600);

/// Clients by region and address; made when first needed.
pub(super) struct Peers {
    start: Start,
    egress: Counter,
    known: Mutex<HashMap<(RegionName, String), Peer>>,
    /// What replicators of an older version do not take, and until when that is believed.
    not_taken: Mutex<HashMap<(RegionName, Newer), Instant>>,
}

/// What importers of older versions do not take.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Newer {
    /// More than [`ALWAYS_TAKEN`] copies at once.
    Large,
    /// [`Form::Carried`].
    Carried,
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
            not_taken: Mutex::default(),
        }
    }

    /// Events that a region's replicator takes in one batch.
    pub(super) fn most(&self, region: &RegionName) -> usize {
        if self.takes(region, Newer::Large) {
            LARGEST_BATCH
        } else {
            ALWAYS_TAKEN
        }
    }

    /// In which form a region's replicator takes copies.
    pub(super) fn form(&self, region: &RegionName) -> Form {
        if self.takes(region, Newer::Carried) {
            Form::Carried
        } else {
            Form::Whole
        }
    }

    fn takes(&self, region: &RegionName, newer: Newer) -> bool {
        let not_taken = self.not_taken.lock().unwrap_or_else(PoisonError::into_inner);
        let until = not_taken.get(&(region.clone(), newer));
        until.is_none_or(|until| Instant::now() >= *until)
    }

    /// A region's replicator did not take this.
    pub(super) fn found_older(&self, region: &RegionName, newer: Newer) {
        let mut not_taken = self.not_taken.lock().unwrap_or_else(PoisonError::into_inner);
        not_taken.insert((region.clone(), newer), Instant::now() + BELIEVED_FOR);
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
